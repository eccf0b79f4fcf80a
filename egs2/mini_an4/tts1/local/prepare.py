#!/usr/bin/env python3
"""Write AN4 as Kaldi folders: train, dev and a zero-shot test set.

Text is written in lower case, without the marks of the transcriptions, so that it
suits characters and phonemes alike. Utterances are called SPEAKER-TEXT, where TEXT is
AN4's own name for what is said, so that sorting by utterance sorts by speaker.

``test`` is a zero-shot set: ``text`` is what to say, ``wav.scp`` the reference, which
is another utterance of that speaker and never the target. The two test speakers have
one recording each; it is their reference, and they say what all others said. No
recording of these targets exists, hence no ``gt_wav.scp``.

``dev`` holds one utterance out of training. It is "start" because its speaker has a
longer recording in training and each of its phonemes is said there by others.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

import soundfile

HELD_OUT = "an152-mwhw-b"


class DataError(Exception):
    """One line: what is wrong with the corpus, and what to do."""


class Recording(NamedTuple):
    """One file of AN4."""

    name: str  # AN4's, e.g. "cen8-fcaw-b": what is said, the speaker, the microphone
    speaker: str
    words: str
    path: Path
    seconds: float


def read_transcription(path: Path) -> Dict[str, str]:
    """Read lines such as ``<s> ELEVEN FIFTY </s> (cen8-mwhw-b)``.

    Returns:
        dict: Words in lower case by the name of the recording.

    Raises:
        DataError: If the file is missing or a line is not of this form.

    """
    if not path.is_file():
        raise DataError(f"no {path}; unpack the AN4 archive again")
    words = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"(?:<s>)?([^<>()]*\w[^<>()]*)(?:</s>)?\s*\((\S+)\)", line)
        if match is None:
            raise DataError(f"{path}: not 'WORDS (NAME)': '{line}'; mend the line")
        words[match[2]] = " ".join(match[1].lower().split())
    return words


def read_recordings(an4_dir: Path, part: str, folder: str) -> List[Recording]:
    """Find the recordings of a part ("train" or "test") that have a transcription.

    Raises:
        DataError: If there is none, or one cannot be read.

    """
    words = read_transcription(an4_dir / "etc" / f"an4_{part}.transcription")
    found = []
    for path in sorted((an4_dir / "wav" / folder).glob("*/*.sph")):
        if path.stem not in words:
            print(f"  left out: {path.stem}, which has no transcription")
            continue
        try:
            seconds = soundfile.info(path).duration
        except soundfile.LibsndfileError as error:
            raise DataError(f"{path}: {error}; unpack the AN4 archive again") from error
        speaker = path.parent.name
        found.append(Recording(path.stem, speaker, words[path.stem], path, seconds))
    if not found:
        raise DataError(
            f"no recordings in {an4_dir / 'wav' / folder}; unpack AN4 again"
        )
    return found


def write_kaldi(folder: Path, rows: List[Dict[str, str]]) -> None:
    """Write ``text``, ``wav.scp`` and ``utt2spk``, sorted by utterance."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(rows, key=lambda row: row["utterance"])
    for name in ("text", "wav.scp", "utt2spk"):
        lines = [f"{row['utterance']} {row[name]}\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def row(speaker: str, said: Recording, heard: Recording) -> Dict[str, str]:
    """Describe ``speaker`` saying the words of ``said``, with the audio ``heard``."""
    return {
        "utterance": f"{speaker}-{said.name}",
        "text": said.words,
        "wav.scp": str(heard.path),
        "utt2spk": speaker,
    }


def report(name: str, recordings: List[Recording], texts: int, note: str) -> None:
    """Print one line on a set."""
    speakers = len({recording.speaker for recording in recordings})
    seconds = sum(recording.seconds for recording in recordings)
    print(
        f"  {name:5s} {texts:2d} utterances, {speakers} speakers,"
        f" {len(recordings)} recordings of {seconds:.1f} s{note}"
    )


def prepare(an4_dir: Path, data_dir: Path) -> None:
    """Write the three folders and print what they hold.

    Raises:
        DataError: If the corpus is not as expected; nothing is written then.

    """
    print(f"AN4 in {an4_dir}:")
    known = read_recordings(an4_dir, "train", "an4_clstk")
    unseen = read_recordings(an4_dir, "test", "an4test_clstk")
    dev = [recording for recording in known if recording.name == HELD_OUT]
    train = [recording for recording in known if recording.name != HELD_OUT]
    if not dev or not train:
        raise DataError(f"{an4_dir} lacks {HELD_OUT} or all others; unpack AN4 again")
    targets = [
        row(reference.speaker, said, heard=reference)
        for reference in unseen
        for said in known + unseen
        if said.words != reference.words
    ]

    write_kaldi(data_dir / "train", [row(one.speaker, one, one) for one in train])
    write_kaldi(data_dir / "dev", [row(one.speaker, one, one) for one in dev])
    write_kaldi(data_dir / "test", targets)
    report("train", train, len(train), "")
    report("dev", dev, len(dev), ", held out of training")
    report("test", unseen, len(targets), ", the references of unseen speakers")


def get_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--an4_dir", type=Path, required=True, help="unpacked AN4")
    parser.add_argument("--data_dir", type=Path, required=True, help="where to write")
    return parser


def main(cmd=None) -> None:
    """Run as a command."""
    args = get_parser().parse_args(cmd)
    try:
        prepare(args.an4_dir, args.data_dir)
    except DataError as error:
        print(f"prepare.py: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
