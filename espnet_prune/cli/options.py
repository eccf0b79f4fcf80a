"""Options that several verbs have."""

import argparse
from pathlib import Path


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show the defaults of options, except those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ""):
            return action.help
        return super()._get_help_string(action)


def add_test_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--system`` and ``--data_dir``: the systems, and their texts."""
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=WAVS",
        help="A name and a folder of UTTERANCE.wav, or a wav.scp; give it once per "
        "system. The others are compared to the first one",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text, wav.scp (references), utt2spk and, if there are "
        "recordings of the texts, gt_wav.scp, which is one more system",
    )
