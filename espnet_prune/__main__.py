"""The command ``espnet-prune``, and a launcher for ESPnet's own commands.

    espnet-prune VERB ARGS        or: python3 -m espnet_prune VERB ARGS
    python3 -m espnet_prune -m espnet2.bin.tts_train ARGS
    python3 -m espnet_prune SCRIPT.py ARGS

The last two run an ESPnet module or script with the plugin registered, so that
``--python "python3 -m espnet_prune"`` makes the plugin's models known to ESPnet's
unmodified ``tts.sh``.
"""

# Functions import all other modules, so that Ctrl-C during an import is one line.
import os
import sys

from espnet_prune.errors import UserError, run


def main() -> None:
    """Run the verb, module or script of the command line."""
    import importlib
    import logging

    from espnet_prune.cli import VERBS
    from espnet_prune.config import did_you_mean

    # A notebook sets a backend for windows, which may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        if not arguments:
            raise UserError("no verb is given: name one of the above")
    elif arguments[0] == "-m" or arguments[0].endswith(".py"):
        launch(arguments)
    elif arguments[0] in VERBS:
        verb = importlib.import_module(f"espnet_prune.cli.{arguments[0]}")
        sys.argv = [f"espnet-prune {arguments[0]}", *arguments[1:]]
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        verb.main()
    else:
        raise UserError(
            f"there is no verb {arguments[0]}{did_you_mean(arguments[0], VERBS)}; "
            "see espnet-prune --help"
        )


def usage() -> str:
    """Return the verbs with a line of help each."""
    from espnet_prune.cli import VERBS

    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {about}" for verb, about in VERBS.items()]
    return "\n".join(
        [
            "usage: espnet-prune VERB [options]      (espnet-prune VERB --help)",
            "       python3 -m espnet_prune -m espnet2.bin.tts_train ...",
            "       python3 -m espnet_prune SCRIPT.py ...",
            "",
            *lines,
            "",
            "The last two forms run an ESPnet command with the plugin registered.",
        ]
    )


def launch(arguments: list[str]) -> None:
    """Run an ESPnet module (``-m NAME ...``) or script with the plugin registered."""
    import runpy
    from pathlib import Path

    as_module = arguments[0] == "-m"
    target = arguments[1:] if as_module else arguments
    if not target:
        raise UserError(
            "nothing to run: give `-m espnet2.bin.NAME ARGS` or `SCRIPT.py ARGS`"
        )
    if not (_is_module(target[0]) if as_module else Path(target[0]).is_file()):
        what = "module" if as_module else "script"
        raise UserError(f"there is no {what} {target[0]}: correct its name")
    from espnet_prune.training.host import use_task

    use_task()
    sys.argv = target
    if as_module:
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(target[0]).resolve().parent))  # as Python does
        runpy.run_path(target[0], run_name="__main__")


def _is_module(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its package does not exist either
        return False


def entry() -> None:
    """Run the command; the entry point ``espnet-prune``."""
    run(main)


if __name__ == "__main__":
    entry()
