"""Run an ESPnet module or script with the plugin registered.

    python3 -m espnet_prune -m espnet2.bin.tts_train ARGS
    python3 -m espnet_prune SCRIPT.py ARGS

so that ``--python "python3 -m espnet_prune"`` teaches ESPnet's unmodified ``tts.sh``
the plugin's models.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

import espnet2.tasks.tts

from espnet_prune import PruneTTSTask, UserError
from espnet_prune.errors import run


def main() -> None:
    """Run what the command line names in the place of this module."""
    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    target = arguments[1:] if as_module else arguments
    if target in (["-h"], ["--help"]) and not as_module:
        print(__doc__.strip())
        return
    if not target:
        raise UserError(
            "nothing to run: give `-m espnet2.bin.NAME ARGS` or `SCRIPT.py ARGS`"
        )
    if not (_is_module(target[0]) if as_module else Path(target[0]).is_file()):
        what = "module" if as_module else "script"
        raise UserError(f"there is no {what} {target[0]}: correct its name")
    espnet2.tasks.tts.TTSTask = PruneTTSTask
    sys.argv = target
    if as_module:
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(target[0]).resolve().parent))  # as Python does
        runpy.run_path(target[0], run_name="__main__")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor is there its package
        return False


if __name__ == "__main__":
    run(main)
