#!/usr/bin/env python3
"""Write AN4 as Kaldi folders: train, dev and a zero-shot test set.

Text is written in lower case, without the marks of the transcriptions, so that it
suits characters and phonemes alike. Utterances are called SPEAKER-TEXT, where TEXT is
AN4's name of the text, so that sorting by utterance sorts by speaker.

``test`` is a zero-shot set: ``text`` has the text to speak, ``wav.scp`` the reference,
which is another utterance of that speaker and never the target. The two test speakers
have one recording each; it is their reference, and they speak the texts of all others.
No recording of these targets exists, so there is no ``gt_wav.scp``.

``dev`` has one utterance, which is not in training. It is "start", because its speaker
has a longer recording in training, and others speak each of its phonemes there.
"""

import re
from pathlib import Path
from typing import NamedTuple

from espnet_prune.cli.options import make_parser
from espnet_prune.data.kaldi import Row, write_sets
from espnet_prune.data.testset import row
from espnet_prune.errors import UserError, run
from espnet_prune.files import lock_folder
from espnet_prune.speech.audio import read_header
from espnet_prune.text.normalise import normalise, read_lines
from espnet_prune.training.identity import require_fresh_models, write_identity

HELD_OUT = "an152-mwhw-b"


class Recording(NamedTuple):
    """One file of AN4."""

    name: str  # AN4's, e.g. "cen8-fcaw-b": what is said, the speaker, the microphone
    speaker: str
    words: str
    path: Path


def read_transcription(path: Path) -> dict[str, str]:
    """Read the words of ``<s> ELEVEN FIFTY </s> (cen8-mwhw-b)`` by recording."""
    if not path.is_file():
        raise UserError(f"there is no {path}; unpack the AN4 archive again")
    words = {}
    for line in map(str.strip, read_lines(path)):
        if not line:
            continue
        match = re.fullmatch(r"(?:<s>)?([^<>()]*\w[^<>()]*)(?:</s>)?\s*\((\S+)\)", line)
        if match is None:
            raise UserError(f"{path}: not 'WORDS (NAME)': '{line}'; correct the line")
        words[match[2]] = normalise(match[1].lower())
    return words


def read_recordings(an4_dir: Path, part: str, folder: str) -> list[Recording]:
    """Find the recordings of a part ("train" or "test") that have a transcription."""
    words = read_transcription(an4_dir / "etc" / f"an4_{part}.transcription")
    found = []
    for path in sorted((an4_dir / "wav" / folder).glob("*/*.sph")):
        if path.stem in words:
            read_header(path)  # refuse a broken recording
            speaker = path.parent.name
            found.append(Recording(path.stem, speaker, words[path.stem], path))
        else:
            print(f"  left out: {path.stem}, which has no transcription")
    if not found:
        raise UserError(
            f"no recordings in {an4_dir / 'wav' / folder}; unpack AN4 again"
        )
    return found


def say(speaker: str, said: Recording, heard: Recording) -> Row:
    """Describe ``speaker`` saying the words of ``said``, with the audio ``heard``."""
    return row(f"{speaker}-{said.name}", speaker, said.words, heard.path)


def prepare(an4_dir: Path, data_dir: Path, exp_dir: Path = Path("exp")) -> None:
    """Write the three folders and print a line about each."""
    print(f"AN4 in {an4_dir}:")
    known = read_recordings(an4_dir, "train", "an4_clstk")
    unseen = read_recordings(an4_dir, "test", "an4test_clstk")
    dev = [one for one in known if one.name == HELD_OUT]
    train = [one for one in known if one.name != HELD_OUT]
    if not dev or not train:
        raise UserError(f"{an4_dir} lacks {HELD_OUT} or all others; unpack AN4 again")
    targets = [
        say(reference.speaker, said, reference)
        for reference in unseen
        for said in known + unseen
        if said.words != reference.words
    ]
    sets = {
        "train": [say(one.speaker, one, one) for one in train],
        "dev": [say(one.speaker, one, one) for one in dev],
        "test": targets,
    }
    with lock_folder(data_dir, "data preparation"):
        identity = require_fresh_models(data_dir / "train", exp_dir, sets["train"])
        write_sets(data_dir, sets)
        write_identity(data_dir / "train", identity)


def main(cmd=None) -> None:
    """Run as a command."""
    parser = make_parser(__doc__)
    parser.add_argument("--an4_dir", type=Path, required=True, help="unpacked AN4")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder to write to"
    )
    args = parser.parse_args(cmd)
    prepare(args.an4_dir, args.data_dir)


if __name__ == "__main__":
    run(main)
