"""Run an ESPnet module or script with the plugin registered.

    python3 -m espnet_prune -m espnet2.bin.tts_train ARGS
    python3 -m espnet_prune SCRIPT.py ARGS

so that ``--python "python3 -m espnet_prune"`` teaches ESPnet's unmodified ``tts.sh``
the plugin's models.
"""

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
    if not target:
        raise UserError(
            "nothing to run: give `-m espnet2.bin.NAME ARGS` or `SCRIPT.py ARGS`"
        )
    espnet2.tasks.tts.TTSTask = PruneTTSTask
    sys.argv = target
    if as_module:
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(target[0]).resolve().parent))  # as Python does
        runpy.run_path(target[0], run_name="__main__")


if __name__ == "__main__":
    run(main)
