"""Zero-shot test sets: draw references and sentences, and report problems.

A reference is a recording of a speaker with another text than the one that the model
speaks. All draws depend on the seed and on the speaker, never on the other speakers, so
that removing some changes nothing for the rest.
"""

import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from espnet_prune.data.kaldi import Finding, Row
from espnet_prune.errors import UserError
from espnet_prune.files import write_text
from espnet_prune.text.normalise import normalise, read_lines

# Possible and best lengths of references in seconds.
SHORTEST_REFERENCE = 2.0
GOOD_REFERENCE = (4.0, 10.0)


class Recorded(Protocol):
    """A recording that can be drawn."""

    @property
    def name(self) -> str:
        """Id of the utterance."""

    @property
    def speaker(self) -> str:
        """Speaker of the recording."""

    @property
    def seconds(self) -> float:
        """Length of the recording."""


# ------------------------------------------------------------------------- the draws


def by_speaker[R: Recorded](recordings: Iterable[R]) -> dict[str, list[R]]:
    """Group recordings by speaker, speakers in order."""
    groups: dict[str, list[R]] = {}
    for one in recordings:
        groups.setdefault(one.speaker, []).append(one)
    return dict(sorted(groups.items()))


def find_references[R: Recorded](recordings: Sequence[R]) -> list[R]:
    """Return possible references: recordings of the best length, if there are any."""
    shortest, longest = GOOD_REFERENCE
    good = [one for one in recordings if shortest <= one.seconds <= longest]
    return good or [one for one in recordings if one.seconds >= SHORTEST_REFERENCE]


def draw_references[R: Recorded](recordings: Iterable[R], seed: int) -> dict[str, R]:
    """Draw one reference for each speaker with a possible one."""
    return {
        speaker: random.Random(f"{seed}-reference-{speaker}").choice(possible)
        for speaker, group in by_speaker(recordings).items()
        if (possible := find_references(group))
    }


def draw_lasting_references[R: Recorded](
    recordings: Iterable[R], seed: int
) -> dict[str, R]:
    """Draw one reference for each speaker, which stays the same if others are missing.

    Some recordings have no labels. Models that need labels and models that do not
    therefore speak in the same voices.
    """
    return {
        speaker: min(
            possible, key=lambda one: random.Random(f"{seed} {one.name}").random()
        )
        for speaker, group in by_speaker(recordings).items()
        if (possible := find_references(group))
    }


def draw_targets[R: Recorded](
    recordings: Iterable[R],
    references: Mapping[str, R],
    number: int,
    span: tuple[float, float],
    seed: int,
) -> list[R]:
    """Draw recordings of each speaker to speak again, never the reference.

    Speakers without a reference are left out. The others have ``number`` recordings, if
    there are so many, whose seconds are within ``span``.
    """
    groups = by_speaker(recordings)
    drawn: list[R] = []
    for speaker, reference in references.items():
        possible = [
            one
            for one in groups[speaker]
            if one != reference and span[0] <= one.seconds <= span[1]
        ]
        generator = random.Random(f"{seed} {speaker} sentences")
        chosen = generator.sample(possible, min(number, len(possible)))
        drawn += sorted(chosen, key=lambda one: one.name)
    return drawn


def draw_speakers(names: Iterable[str], number: int, seed: int) -> list[str]:
    """Draw speakers; their order is kept."""
    names = list(names)
    drawn = set(random.Random(f"{seed}-speakers").sample(sorted(names), number))
    return [name for name in names if name in drawn]


# --------------------------------------------------------------------- the sentences


def read_sentences(path: Path) -> list[str]:
    """Read sentences, one per line; blank lines are skipped."""
    lines = enumerate(read_lines(path), 1)
    read = [normalise(line, f"line {number} of {path}") for number, line in lines]
    sentences = [sentence for sentence in read if sentence]
    if not sentences:
        raise UserError(f"{path} has no sentence; write one per line")
    return sentences


def one_line(text: str | None) -> str:
    """Return a text on one line, with one space between its words."""
    return " ".join((text or "").split())


def words_only(text: str) -> str:
    """Return only the words of a text, to compare it with others."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return one_line("".join(c if c.isalnum() or c == "'" else " " for c in text))


def write_like(sentence: str, characters: set[str], keeps_apostrophe: bool) -> str:
    """Return a sentence in the style of the training texts.

    A model trained on lower-case text without commas does not know capitals and commas.
    ``keeps_apostrophe`` is for a g2p, which needs it even if training texts have none.
    """
    if not any(c.isupper() for c in characters):
        sentence = sentence.lower()
    elif not any(c.islower() for c in characters):
        sentence = sentence.upper()
    written = []
    for character in sentence:
        category = unicodedata.category(character)
        is_letter = character.isalnum() or category.startswith("M")
        if character in characters or is_letter or character.isspace():
            written.append(character)
        elif character in "'\u2019":
            other = "'\u2019".replace(character, "")
            if other in characters or keeps_apostrophe:
                written.append(other if other in characters else "'")
        elif category == "Pd":  # a dash
            written.append(" ")
    return one_line("".join(written))


# ---------------------------------------------------------------------- the Kaldi rows


def row(
    utterance: str, speaker: str, text: str, wav: object, target: object = None
) -> Row:
    """Describe an utterance.

    In a zero-shot set, ``wav`` is the reference, and ``target`` the recording of the
    text, if there is one.
    """
    found = {
        "utterance": utterance,
        "text": one_line(text),
        "wav.scp": str(wav),
        "utt2spk": speaker,
    }
    return found if target is None else found | {"gt_wav.scp": str(target)}


# ------------------------------------------------------------------ findings


def write_findings(
    path: Path, findings: Mapping[str, list[Finding]] | list[Finding], group: str = ""
) -> None:
    """Write a table of findings: utterance, reason and detail, between tabs.

    Findings by part get one more column with the part, whose heading is ``group``.
    """
    table: list[tuple[str, ...]] = [Finding._fields]
    if isinstance(findings, Mapping):
        table = [(group, *Finding._fields)]
        table += [(part, *one) for part, found in findings.items() for one in found]
    else:
        table += findings
    text = "".join("\t".join(map(one_line, line)) + "\n" for line in table)
    path.parent.mkdir(parents=True, exist_ok=True)
    # names of files may be invalid text
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def count_reasons(findings: Iterable[Finding]) -> list[str]:
    """Return the number of findings for each reason, the most frequent first."""
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.reason] = counts.get(finding.reason, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [f"{number:7d}  {reason}" for reason, number in ordered]
