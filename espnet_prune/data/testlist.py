"""Lists of who says what in the voice of which recording, and the test sets they make.

A list is a table with tabs between its columns: speaker, reference and text, and where
there are such, target (the recording of the text) and spare (another reference).
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm import tqdm

from espnet_prune.data.kaldi import Finding, Row
from espnet_prune.data.testset import SHORTEST_REFERENCE, row, words_only
from espnet_prune.errors import UserError
from espnet_prune.speech.audio import AudioError, read_header

COLUMNS = ("speaker", "reference", "spare", "target", "text")
NEEDED = ("speaker", "reference", "text")
LONGEST_REFERENCE = 15.0  # seconds, of one that is drawn
CHARACTERS = (20, 200)  # of a text that is drawn; it is said in one breath
AUDIO = (".wav", ".flac")  # a name with such an ending is a file, not an utterance

Line = dict[str, str]  # column: value, "" for none


class Corpus(Protocol):
    """A corpus on disk, whose recordings are known by the names of utterances."""

    def recording(self, utterance: str) -> Path:
        """Give the file of a recording, which may be missing."""

    def text(self, utterance: str) -> str | None:
        """Give what is said in a recording, None if that is not known."""


class ListedCorpus(Corpus, Protocol):
    """A corpus that can say what it has."""

    def utterances(self, speaker: str) -> list[str]:
        """List the recordings of a speaker, in order."""


# ----------------------------------------------------------------------------- lists


def read_list(path: Path) -> list[Line]:
    """Read a list.

    Raises:
        UserError: The file cannot be read, or a line does not fit.

    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the list {path} ({error}); correct --list"
        ) from None
    lines = [line for line in content.split("\n") if line.strip()]
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
        found = dict(zip(names, values, strict=False))  # what is missing is said below
        empty = [name for name in NEEDED if not found.get(name)]
        if len(values) != len(names) or empty:
            raise UserError(
                f"line {number} of {path} has {len(values)} of {len(names)} columns"
                + (f" and no {empty[0]}" if empty else "")
                + "; correct the line"
            )
        if set("/ ") & set(found["speaker"]):
            raise UserError(
                f"line {number} of {path} has the speaker '{found['speaker']}', whose "
                "name cannot be that of a file; rename it"
            )
        rows.append({name: found.get(name, "") for name in COLUMNS})
    return rows


def list_text(lines: Iterable[Line]) -> str:
    """Write a list as text."""
    table = [dict(zip(COLUMNS, COLUMNS, strict=True)), *lines]
    return "".join("\t".join(line[c] for c in COLUMNS) + "\n" for line in table)


def draw_list(
    corpus: ListedCorpus, speakers: Sequence[str], texts_per_speaker: int, seed: int
) -> tuple[list[Line], list[Finding]]:
    """Draw a reference and targets for each speaker; no speaker depends on another.

    Args:
        corpus: On disk.
        speakers: Of whom to draw.
        texts_per_speaker: Targets of each.
        seed: Of the draw.

    Returns:
        Lines, and speakers who were left out.

    """
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


def let_all_say(lines: list[Line], sentences: Sequence[str]) -> list[Line]:
    """Let every speaker of a list say every sentence, with the reference it has."""
    voices = {line["speaker"]: line for line in reversed(lines)}
    return [
        {**voices[speaker], "target": "", "text": sentence}
        for speaker in dict.fromkeys(line["speaker"] for line in lines)
        for sentence in sentences
    ]


# ------------------------------------------------------------------------- test sets


class TestSet(NamedTuple):
    """What a list makes of a corpus.

    Attributes:
        rows: Of the Kaldi folder.
        faults: Lines that cannot be used.
        remarks: Lines that can, with something to know.

    """

    rows: list[Row]
    faults: list[Finding]
    remarks: list[Finding]


def make_test_set(corpus: Corpus, lines: Sequence[Line], base: Path) -> TestSet:
    """Look up the recordings of a list and name its utterances.

    Args:
        corpus: On disk.
        lines: Who says what.
        base: Folder of the list, for the files that it names.

    Raises:
        UserError: Two lines would have one name.

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
        if recording == reference:
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
    """Say why a recording cannot be used."""
    try:
        seconds = read_header(path).seconds
    except AudioError as error:
        return f"{path} {error.detail}"
    if seconds < shortest:
        return f"{path} lasts {seconds:.1f} s, wanted {shortest:.0f} s"
    return ""
