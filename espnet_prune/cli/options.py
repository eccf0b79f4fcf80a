"""Options that several verbs have."""

import argparse
from pathlib import Path


def add_test_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--system`` and ``--data_dir``: who spoke, and what was to be said."""
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=WAVS",
        help="A name and a folder of UTTERANCE.wav, or a wav.scp; give it once a "
        "system. The first one is what others are compared to",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text, wav.scp (references), utt2spk and, where there "
        "are recordings of the texts, gt_wav.scp, which is one more system",
    )
