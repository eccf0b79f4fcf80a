"""Lists of speakers, texts and references, and the test sets that they make.

A list is a table with tabs between its columns: speaker, reference and text, and
optionally target (the recording of the text) and spare (another reference). Without a
text, the corpus must know that of the target.
"""

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm import tqdm

from espnet_prune.data.kaldi import Finding, Row
from espnet_prune.data.testset import SHORTEST_REFERENCE, row, words_only
from espnet_prune.errors import UserError
from espnet_prune.files import can_name_a_file
from espnet_prune.speech.audio import AudioError, read_header
from espnet_prune.text.normalise import normalise, read_lines

COLUMNS = ("speaker", "reference", "spare", "target", "text")
NEEDED = ("speaker", "reference")
LONGEST_REFERENCE = 15.0  # seconds; limit for references that are drawn
CHARACTERS = (20, 200)  # limits for texts that are drawn; they are spoken in one piece
AUDIO = (".wav", ".flac")  # a name with such an ending is a file, not an utterance

Line = dict[str, str]  # column: value, "" for none


class Corpus(Protocol):
    """A corpus on disk, which finds recordings by the names of utterances."""

    def recording(self, utterance: str) -> Path:
        """Return the file of a recording, which may be missing."""

    def text(self, utterance: str) -> str | None:
        """Return the text of a recording, None if it is not known."""


class ListedCorpus(Corpus, Protocol):
    """A corpus that can list its recordings."""

    def utterances(self, speaker: str) -> list[str]:
        """Return the recordings of a speaker, in order."""


# ----------------------------------------------------------------------------- lists


def read_list(path: Path) -> list[Line]:
    """Read a list."""
    lines = [line for line in read_lines(path) if line.strip()]
    names = [name.strip() for name in lines[0].split("\t")] if lines else []
    faults = [
        *(f"lacks {name}" for name in NEEDED if name not in names),
        *(["lacks text"] if not {"text", "target"} & set(names) else []),
        *(f"has the unknown {name}" for name in names if name not in COLUMNS),
        *(f"has {name} twice" for name in COLUMNS if names.count(name) > 1),
    ]
    if faults:
        raise UserError(
            f"the first line of {path} {faults[0]}; name its columns, from "
            f"{', '.join(COLUMNS)}, with tabs between them"
        )
    if len(lines) < 2:
        raise UserError(f"{path} has no utterance; write one line per utterance")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        values = [value.strip() for value in line.split("\t")]
        found = dict(zip(names, values, strict=False))  # missing ones are refused below
        normalise(line, f"line {number} of {path}")  # refuse damage in names too
        found["text"] = normalise(found.get("text", ""))
        empty = [name for name in NEEDED if not found.get(name)]
        if not (found.get("text") or found.get("target")):
            empty.append("text")
        if len(values) != len(names) or empty:
            raise UserError(
                f"line {number} of {path} has {len(values)} of {len(names)} columns"
                + (f" and no {empty[0]}" if empty else "")
                + "; correct the line"
            )
        if not can_name_a_file(found["speaker"]) or " " in found["speaker"]:
            raise UserError(
                f"line {number} of {path} has the speaker '{found['speaker']}', whose "
                "name cannot name a file; rename it"
            )
        rows.append({name: found.get(name, "") for name in COLUMNS})
    return rows


def list_text(lines: Iterable[Line]) -> str:
    """Return a list as text."""
    table = [dict(zip(COLUMNS, COLUMNS, strict=True)), *lines]
    return "".join("\t".join(line[c] for c in COLUMNS) + "\n" for line in table)


def draw_list(
    corpus: ListedCorpus, speakers: Sequence[str], texts_per_speaker: int, seed: int
) -> tuple[list[Line], list[Finding]]:
    """Draw a reference and targets for each speaker, without regard to the others."""
    lines: list[Line] = []
    left_out: list[Finding] = []
    shortest, longest = CHARACTERS
    for speaker in tqdm(speakers, "drawing", unit="speaker", ncols=79, leave=False):
        names = corpus.utterances(speaker)
        random.Random(f"{seed}-{speaker}").shuffle(names)
        reference = next((name for name in names if _fits(corpus, name)), None)
        texts = {name: corpus.text(name) or "" for name in names if name != reference}
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
        lines += [
            {
                "speaker": speaker,
                "reference": reference,
                "spare": "",
                "target": target,
                "text": texts[target],
            }
            for target in sorted(targets)
        ]
    return lines, left_out


def _fits(corpus: ListedCorpus, name: str) -> bool:
    try:
        seconds = read_header(corpus.recording(name)).seconds
    except AudioError:
        return False
    return SHORTEST_REFERENCE <= seconds <= LONGEST_REFERENCE


def add_texts(corpus: Corpus, lines: Iterable[Line]) -> list[Line]:
    """Return a list whose lines without a text have that of their target."""
    filled = []
    for line in lines:
        text = line["text"] or corpus.text(line["target"])
        if not text:
            raise UserError(
                f"the list has no text for {line['target']}, and the corpus has none "
                "either: unpack the corpus again, or give a list with texts"
            )
        filled.append({**line, "text": text})
    return filled


def let_all_say(lines: list[Line], sentences: Sequence[str]) -> list[Line]:
    """Return a list in which every speaker of a list speaks every sentence."""
    voices = {line["speaker"]: line for line in reversed(lines)}
    return [
        {**voices[speaker], "target": "", "text": sentence}
        for speaker in dict.fromkeys(line["speaker"] for line in lines)
        for sentence in sentences
    ]


# ------------------------------------------------------------------------- test sets


class TestSet(NamedTuple):
    """The result of a list and a corpus."""

    rows: list[Row]  # what the Kaldi folder gets
    faults: list[Finding]  # about lines that cannot be used
    remarks: list[Finding]  # about lines that can


def make_test_set(corpus: Corpus, lines: Sequence[Line], base: Path) -> TestSet:
    """Find the recordings of a list and name its utterances.

    Files that the list names are relative to ``base``, the folder of the list.
    """
    made = TestSet([], [], [])
    numbers: dict[str, int] = {}
    names: set[str] = set()

    def find(name: str) -> Path:
        is_file = name.lower().endswith(AUDIO)
        return (base / name if is_file else corpus.recording(name)).absolute()

    for line in tqdm(lines, "looking up", unit="utt", ncols=79, leave=False):
        speaker, target = line["speaker"], line["target"]
        numbers[speaker] = numbers.get(speaker, 0) + 1
        name = Path(target).stem or f"sent{numbers[speaker]:03d}"
        if not name.startswith(speaker):
            name = f"{speaker}-{name}"
        if name in names:
            raise UserError(f"the list has the target {target} twice; keep one")
        names.add(name)
        reference = find(line["reference"])
        fault = _fault_of(reference)
        if fault and line["spare"] and not _fault_of(find(line["spare"])):
            detail = f"{line['spare']}, for {fault}"
            made.remarks.append(Finding(name, "spare reference", detail))
            reference, fault = find(line["spare"]), ""
        recording = find(target) if target else None
        if recording and os.path.realpath(recording) == os.path.realpath(reference):
            fault = f"the reference {reference} is the target itself"
        if fault:
            made.faults.append(Finding(name, "no reference", fault))
            continue
        if recording is not None and _fault_of(recording, shortest=0.0):
            detail = f"{recording}: ground truth lacks it"
            made.remarks.append(Finding(name, "no recording of the target", detail))
            recording = None
        by_name = target and not target.lower().endswith(AUDIO)
        said = corpus.text(target) if by_name else None
        if said is not None and words_only(said) != words_only(line["text"]):
            made.remarks.append(Finding(name, "another text in the corpus", said))
        made.rows.append(row(name, speaker, line["text"], reference, recording))
    return made


def _fault_of(path: Path, shortest: float = SHORTEST_REFERENCE) -> str:
    """Return why a recording cannot be used."""
    try:
        seconds = read_header(path).seconds
    except AudioError as error:
        return f"{path} {error.detail}"
    if seconds < shortest:
        return f"{path} lasts {seconds:.1f} s, wanted at least {shortest:.0f} s"
    return ""
