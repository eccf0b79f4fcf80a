#!/usr/bin/env python3
"""Write a zero-shot test set: who says what, in the voice of which recording.

``text`` is what to say, ``wav.scp`` the reference, another recording of the speaker
than the target, and ``gt_wav.scp`` the target, where the sentence was recorded. VCTK
has a pinned list, with a checksum; of the Libri corpora one is drawn with a fixed seed.
The list that was used is written beside them, with what was left out and why.
"""

import argparse
import hashlib
import random
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import soundfile
from corpora import Corpus, Libri, open_corpus
from tqdm import tqdm

from espnet_prune.errors import UserError, run
from espnet_prune.evaluation.tables import make_output_dir, write_text

HERE = Path(__file__).resolve().parent
PINNED = HERE / "vctk_108.tsv"
COLUMNS = ("speaker", "reference", "spare", "target", "text")
NEEDED = ("speaker", "reference", "text")
MIN_SECONDS = 2.0  # of a reference
MAX_SECONDS = 15.0  # of one that is drawn
CHARACTERS = (20, 200)  # of a text that is drawn; it is said in one breath
AUDIO = (".wav", ".flac")

Row = Dict[str, str]


class Finding(NamedTuple):
    """Something that a user should know."""

    utterance: str
    reason: str
    detail: str


# ----------------------------------------------------------------------------- lists


def read_list(path: Path) -> List[Row]:
    """Read a table with tabs between its columns.

    Args:
        path: Its first line names the columns: speaker, reference and text, and
            where there are such, spare (another reference) and target.

    Raises:
        UserError: The file cannot be read, or a line does not fit.

    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path} ({error}); correct --list")
    lines = [line for line in content.splitlines() if line.strip()]
    names = lines[0].split("\t") if lines else []
    faults = [
        *(f"lacks {name}" for name in NEEDED if name not in names),
        *(f"has the unknown {name}" for name in names if name not in COLUMNS),
        *(f"has {name} twice" for name in COLUMNS if names.count(name) > 1),
    ]
    if faults:
        raise UserError(
            f"the first line of {path} {faults[0]}; name its columns, of "
            f"{', '.join(COLUMNS)}, with tabs between them"
        )
    if len(lines) < 2:
        raise UserError(f"{path} lists nobody; write one line an utterance")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        values = [value.strip() for value in line.split("\t")]
        row = dict(zip(names, values))
        empty = [name for name in NEEDED if not row.get(name)]
        if len(values) != len(names) or empty:
            raise UserError(
                f"line {number} of {path} has {len(values)} of {len(names)} columns"
                + (f" and no {empty[0]}" if empty else "")
                + "; mend the line"
            )
        if set("/ ") & set(row["speaker"]):
            raise UserError(
                f"line {number} of {path} has the speaker '{row['speaker']}', whose "
                "name cannot be that of a file; rename it"
            )
        rows.append({name: row.get(name, "") for name in COLUMNS})
    return rows


def check_pinned(path: Path) -> None:
    """Refuse a pinned list that is not the one that was committed.

    Raises:
        UserError: It was changed.

    """
    try:
        wanted = path.with_name(f"{path.name}.sha256").read_text().split()[:1]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}, which comes with the recipe: restore it"
        ) from None
    if wanted != [found]:
        raise UserError(
            f"{path} is not the pinned list any more: restore it, or copy it and give "
            "the copy as --list"
        )


def draw_list(
    corpus: Libri, speakers: Sequence[str], texts_per_speaker: int, seed: int
) -> Tuple[List[Row], List[Finding]]:
    """Draw a reference and targets for each speaker; no speaker depends on another.

    Args:
        corpus: On disk.
        speakers: Of whom to draw.
        texts_per_speaker: Targets of each.
        seed: Of the draw.

    Returns:
        Rows, and speakers who were left out.

    """
    rows, left_out = [], []
    shortest, longest = CHARACTERS
    for speaker in tqdm(speakers, "drawing", unit="speaker", ncols=79, leave=False):
        names = corpus.utterances(speaker)
        random.Random(f"{seed}-{speaker}").shuffle(names)
        fits = (
            name
            for name in names
            if MIN_SECONDS <= (seconds(corpus.recording(name)) or 0) <= MAX_SECONDS
        )
        reference = next(fits, None)
        texts = {name: corpus.text(name) for name in names if name != reference}
        heard = None if reference is None else corpus.text(reference)
        targets = [
            name
            for name, text in texts.items()
            if text and shortest <= len(text) <= longest and text != heard
        ][:texts_per_speaker]
        if reference is None or len(targets) < texts_per_speaker:
            what = f"{len(names)} recordings, {len(targets)} targets"
            left_out.append(Finding(speaker, "too little to draw from", what))
            continue
        rows += [
            dict(
                speaker=speaker,
                reference=reference,
                spare="",
                target=target,
                text=texts[target],
            )
            for target in sorted(targets)
        ]
    return rows, left_out


def let_all_say(rows: List[Row], sentences: List[str]) -> List[Row]:
    """Let every speaker of a list say every sentence, with the reference it has."""
    voices = {row["speaker"]: row for row in reversed(rows)}
    return [
        {**voices[speaker], "target": "", "text": sentence}
        for speaker in dict.fromkeys(row["speaker"] for row in rows)
        for sentence in sentences
    ]


def read_sentences(path: Path) -> List[str]:
    """Read sentences, one a line.

    Raises:
        UserError: There is no such file, or nothing in it.

    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); correct --test_texts") from None
    sentences = [" ".join(line.split()) for line in lines if line.strip()]
    if not sentences:
        raise UserError(f"{path} has no sentence; write one a line")
    return sentences


# --------------------------------------------------------------------- the recordings


def seconds(path: Path) -> Optional[float]:
    """Give the length of a recording, None if it cannot be read."""
    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError):
        return None


def find_recording(corpus: Corpus, name: str, base: Path) -> Path:
    """Find an utterance of the corpus, or a file that a user's list names."""
    if name.lower().endswith(AUDIO):
        return (base / name).absolute()
    return corpus.recording(name).absolute()


def fault_of(path: Path) -> Optional[str]:
    """Say why a recording cannot be a reference, None if it can."""
    length = seconds(path)
    if length is None:
        what = "cannot be read as audio" if path.is_file() else "is missing"
        return f"{path} {what}"
    if length < MIN_SECONDS:
        return f"{path} lasts {length:.1f} s, wanted {MIN_SECONDS:.0f} s"
    return None


class TestSet(NamedTuple):
    """What is to be written.

    Attributes:
        lines: File of the Kaldi folder -> utterance -> value.
        faults: Rows that cannot be used.
        remarks: Rows that can, with something to know.

    """

    lines: Dict[str, Dict[str, str]]
    faults: List[Finding]
    remarks: List[Finding]


def resolve(corpus: Corpus, rows: List[Row], base: Path) -> TestSet:
    """Look up the recordings of a list and name its utterances.

    Args:
        corpus: On disk.
        rows: Who says what.
        base: Folder of the list, for the files that it names.

    Raises:
        UserError: Two rows would have one name.

    """
    lines: Dict[str, Dict[str, str]] = {
        name: {} for name in ("text", "wav.scp", "utt2spk", "gt_wav.scp")
    }
    faults, remarks = [], []
    numbers: Dict[str, int] = {}
    for row in tqdm(rows, "looking up", unit="utt", ncols=79, leave=False):
        speaker, target = row["speaker"], row["target"]
        numbers[speaker] = numbers.get(speaker, 0) + 1
        name = Path(target).stem or f"sent{numbers[speaker]:03d}"
        if not name.startswith(speaker):
            name = f"{speaker}-{name}"
        if name in lines["text"]:
            raise UserError(f"the list has the target {target} twice; keep one")
        reference = find_recording(corpus, row["reference"], base)
        fault = fault_of(reference)
        if fault is not None and row["spare"]:
            spare = find_recording(corpus, row["spare"], base)
            if fault_of(spare) is None:
                detail = f"{row['spare']}, for {fault}"
                remarks.append(Finding(name, "spare reference", detail))
                reference, fault = spare, None
        recording = find_recording(corpus, target, base) if target else None
        if recording is not None and recording == reference:
            fault = f"the reference {reference} is the target itself"
        if fault is not None:
            faults.append(Finding(name, "no reference", fault))
            continue
        if recording is not None:
            if seconds(recording) is None:
                detail = f"{recording}: ground truth lacks it"
                remarks.append(Finding(name, "no recording of the target", detail))
            else:
                lines["gt_wav.scp"][name] = str(recording)
            found = None if target.lower().endswith(AUDIO) else corpus.text(target)
            if found is not None and words(found) != words(row["text"]):
                remarks.append(Finding(name, "another text in the corpus", found))
        lines["text"][name] = row["text"]
        lines["wav.scp"][name] = str(reference)
        lines["utt2spk"][name] = speaker
    return TestSet(lines, faults, remarks)


def words(text: str) -> str:
    """Reduce a text to its words."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


# ------------------------------------------------------------------------ the command


def choose_speakers(names: Sequence[str], number: int, seed: int) -> List[str]:
    """Draw some of the speakers, kept in order; 0 takes all.

    Raises:
        UserError: There are not so many.

    """
    if number < 0 or number > len(names):
        raise UserError(f"--num_speakers is {number}: choose 0 (all) to {len(names)}")
    if number == 0:
        return list(names)
    drawn = set(random.Random(f"{seed}-speakers").sample(sorted(names), number))
    return [name for name in names if name in drawn]


def make_rows(
    corpus: Corpus, args: argparse.Namespace
) -> Tuple[List[Row], List[Finding], str]:
    """Give the list that the options ask for, what it lacks, and its name."""
    left_out: List[Finding] = []
    pinned = PINNED if args.corpus == "vctk" else None
    path = pinned if args.list is None else args.list
    number = args.num_speakers
    if path is None:
        if number is None:
            number = {"librispeech": 0, "libritts": 100}[args.corpus]
            number = number if number < len(corpus.speakers()) else 0
        chosen = choose_speakers(corpus.speakers(), number, args.seed)
        each = 1 if args.test_texts else args.texts_per_speaker
        rows, left_out = draw_list(corpus, chosen, each, args.seed)
        name = f"drawn with seed {args.seed}"
        if not rows:
            raise UserError(
                f"no speaker of {corpus.title} has a reference of {MIN_SECONDS:.0f} to "
                f"{MAX_SECONDS:.0f} s and {each} other texts; choose fewer by "
                "--texts_per_speaker, or another --part"
            )
    else:
        if path == pinned:
            check_pinned(path)
        rows, name = read_list(path), path.name
        speakers = list(dict.fromkeys(row["speaker"] for row in rows))
        chosen = set(choose_speakers(speakers, number or 0, args.seed))
        rows = [row for row in rows if row["speaker"] in chosen]
    if args.test_texts is not None:
        rows = let_all_say(rows, read_sentences(args.test_texts))
        name = f"references of the list {name}, texts of {args.test_texts.name}"
    else:
        name = f"list {name}"
    return rows, left_out, name


def write_folder(folder: Path, test_set: TestSet, about: str) -> None:
    """Write the Kaldi folder and what it is about."""
    tables = dict(test_set.lines)
    speakers: Dict[str, List[str]] = {}
    for name, speaker in sorted(tables["utt2spk"].items()):
        speakers.setdefault(speaker, []).append(name)
    tables["spk2utt"] = {name: " ".join(said) for name, said in speakers.items()}
    for file, values in tables.items():
        if values:
            text = "".join(f"{name} {values[name]}\n" for name in sorted(values))
            write_text(folder / file, text)
        else:
            (folder / file).unlink(missing_ok=True)
    write_text(folder / "about.txt", f"{about}\n")


def write_findings(path: Path, findings: List[Finding]) -> None:
    """Write what was found, one line each."""
    table = [Finding._fields, *findings]
    write_text(path, "".join("\t".join(row) + "\n" for row in table))


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Write a zero-shot test set as a Kaldi folder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--corpus",
        choices=["vctk", "librispeech", "libritts"],
        default="vctk",
        help="Which corpus it is",
    )
    parser.add_argument(
        "--corpus_dir", type=Path, required=True, help="Where it was unpacked"
    )
    parser.add_argument(
        "--part", help="Of librispeech (test-other) or libritts (train-clean-100)"
    )
    parser.add_argument(
        "--list", type=Path, help="Who says what, in place of the pinned or drawn list"
    )
    parser.add_argument(
        "--test_texts", type=Path, help="Sentences that every speaker says, one a line"
    )
    parser.add_argument(
        "--num_speakers",
        type=int,
        help="Speakers to draw; 0 for all, which is the default except for libritts, "
        "where it is 100",
    )
    parser.add_argument(
        "--texts_per_speaker",
        type=int,
        default=3,
        help="Sentences of each speaker of a drawn list",
    )
    parser.add_argument("--seed", type=int, default=0, help="Of what is drawn")
    parser.add_argument(
        "--skip_faulty",
        choices=["true", "false"],
        default="false",
        help="Leave out utterances without a usable reference",
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="Where to write")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Check everything, then write and say what there is."""
    args = get_parser().parse_args(cmd)
    if args.texts_per_speaker < 1:
        raise UserError(
            f"--texts_per_speaker is {args.texts_per_speaker}: choose 1 or more"
        )
    corpus = open_corpus(args.corpus, args.corpus_dir, args.part)
    rows, left_out, name = make_rows(corpus, args)
    base = Path() if args.list is None else args.list.absolute().parent
    test_set = resolve(corpus, rows, base)
    folder = make_output_dir(args.data_dir)
    listed = {row["speaker"] for row in rows}  # their texts are those of the list
    reasons = {who: why for who, why in corpus.left_out().items() if who not in listed}
    left_out = [
        Finding(who, "left out by name", why) for who, why in reasons.items()
    ] + [
        *left_out,
        *test_set.faults,
    ]
    write_findings(folder / "left_out.tsv", left_out)
    write_findings(folder / "remarks.tsv", test_set.remarks)
    if test_set.faults and (
        args.skip_faulty == "false" or len(test_set.faults) == len(rows)
    ):
        raise UserError(
            f"{len(test_set.faults)} of {len(rows)} utterances have no reference, for "
            f"instance {test_set.faults[0].detail}; all are in {folder}/left_out.tsv: "
            "unpack the corpus again, or leave them out by --skip_faulty true"
        )
    table = [dict(zip(COLUMNS, COLUMNS)), *rows]
    used = "".join("\t".join(row[c] for c in COLUMNS) + "\n" for row in table)
    write_text(folder / "list.tsv", used)
    texts, voices = test_set.lines["text"], set(test_set.lines["utt2spk"].values())
    digest = hashlib.sha256(used.encode()).hexdigest()[:16]
    about = f"{corpus.title}, {name}, sha256 {digest}: {len(texts)} utterances, "
    about += f"{len(voices)} speakers"
    if test_set.faults:
        about += f"; {len(test_set.faults)} of the list are left out"
    write_folder(folder, test_set, about)

    print(f"{folder}: {about}")
    print(f"  recordings of the texts: {len(test_set.lines['gt_wav.scp'])}")
    for who, why in reasons.items():
        print(f"  left out: {who}, {why}")
    for title, findings, file in (
        ("left out", left_out[len(reasons) :], "left_out.tsv"),
        ("worth a look", test_set.remarks, "remarks.tsv"),
    ):
        if findings:
            print(f"  {title}: {len(findings)}, listed in {folder}/{file}, first:")
            print(f"    {', '.join(findings[0])}")


if __name__ == "__main__":
    run(main)
