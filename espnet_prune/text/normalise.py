"""Bring texts to one form, and refuse damaged ones.

Data preparation and synthesis call it for every text, so training and statistics see
the same form as synthesis. ``normalise`` brings a text to this form or refuses it
(``TextError``); ``find_doubts`` warns if the g2p will say something else than is
written. A corpus in capitals is written in lower case; ESPnet keeps that with the model
as its ``cleaner``, so that synthesis does the same.
"""

import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_prune.errors import UserError
from espnet_prune.files import write_text

BOM = b"\xef\xbb\xbf"
LOST = "\ufffd"  # stands where a program could not read a character
JOINERS = "\u200c\u200d"  # invisible, but they shape Persian and Indic words

LOWER_CASE = "lower_case"  # our name among ESPnet's cleaners
CLEANER_FILE = "cleaner"  # beside the texts that were brought to lower case
# Share of the longer words that are capitals alone: a corpus in capitals has a few
# "McDONALD", any other one a few acronyms.
CAPITALS = 0.9

LATIN = frozenset({"LATIN"})
# The script of a g2p, by the start of its name; the first that fits counts.
SCRIPTS = {
    "espeak_ng_arabic": frozenset({"ARABIC"}),
    "espeak_ng_greek": frozenset({"GREEK"}),
    "espeak_ng_hindi": frozenset({"DEVANAGARI"}),
    "espeak_ng_russian": frozenset({"CYRILLIC"}),
    "espeak_ng_ukrainian": frozenset({"CYRILLIC"}),
    "espeak_ng_": LATIN,
    "g2p_en": LATIN,
    "g2p_is": LATIN,
    "arpabet": LATIN,
    "g2pk": frozenset({"HANGUL"}),
    "korean_jaso": frozenset({"HANGUL"}),
    "pyopenjtalk": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "pypinyin": frozenset({"CJK"}),
}


class TextError(UserError):
    """A text cannot be used.

    Attributes:
        reason: Short, the same for all of a kind.
        detail: What was found in this text.
    """

    def __init__(self, reason: str, detail: str, remedy: str):
        super().__init__(f"{detail}: {remedy}")
        self.reason = reason
        self.detail = detail


class Doubt(NamedTuple):
    """Why speech may say something else than its text means."""

    reason: str  # the same words for all of a kind
    detail: str


# ------------------------------------------------------------------- bytes to texts


def decode(content: bytes, where: str | Path) -> str:
    """Read UTF-8, with or without a byte order mark."""
    content = content.removeprefix(BOM)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 1].hex()
        raise TextError(
            "text that is not UTF-8",
            f"cannot read {where}: line {line} has the byte 0x{found}",
            "save it in UTF-8",
        ) from None


def read_lines(source: str | Path) -> list[str]:
    """Read a text file, or the standard input if ``source`` is ``-``.

    Returns:
        Its lines as they are; they end at line feeds only.
    """
    where = "the standard input" if source == "-" else source
    try:
        if source == "-":
            content = sys.stdin.buffer.read()
        else:
            content = Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UserError(
            f"cannot read {where} ({error}): give a text file in UTF-8"
        ) from error
    return decode(content, where).split("\n")  # splitlines() would split at others too


# ---------------------------------------------------------------- texts to one form


def normalise(text: object, where: str = "the text") -> str:
    """Bring a text to the one form that models are trained on.

    Letters and their accents are composed (NFC). All kinds of spaces, tabs and line
    ends become one space. What is invisible and has no sound is left out.

    Args:
        text: A string; anything else is refused.
        where: What the message calls it.

    Returns:
        The text, without spaces around it. It is empty if nothing visible is in it.

    Raises:
        TextError: It is not a string, or it has characters that only damage leaves.
    """
    if not isinstance(text, str):
        raise TextError(
            "text of another type",
            f"a text should be a string, found {type(text).__name__}",
            "give one text; lists of texts and of references go to batch()",
        )
    for position, character in enumerate(text):
        fault = _damage(character)
        if fault:
            detail = f"{where} {_around(text, position)} {fault[1]}"
            raise TextError(fault[0], detail, fault[2])
    text = "".join(_visible(text))
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _damage(character: str) -> tuple[str, str, str] | None:
    """Give reason, description and remedy if a character is what damage leaves."""
    code = f"U+{ord(character):04X}"
    match unicodedata.category(character):
        case "Cs":
            return (
                "text that is not UTF-8",
                "has bytes that are not UTF-8",
                "set the terminal or the file to UTF-8",
            )
        case "Cc" if not character.isspace():
            return (
                "control character in the text",
                f"has the control character {code}",
                "open it with the encoding that it was written in, and save it in "
                "UTF-8",
            )
    if character == LOST:
        return (
            "lost character in the text",
            f"has {code}, which stands for a character that was lost",
            "make the text again from its source, in UTF-8",
        )
    return None


def _around(text: str, position: int) -> str:
    """Quote what is around a position, with escapes for what cannot be seen."""
    return ascii(text[max(0, position - 15) : position + 15])


def _visible(text: str) -> Iterator[str]:
    """Yield the characters that are seen or heard; line separators become spaces."""
    before = ""
    for character in text:
        code = ord(character)
        if character in JOINERS:
            keep = _needs_joiners(before)
        elif code in (0xFE0E, 0xFE0F):  # ask for an emoji in colour or without
            keep = False
        else:
            # other such characters below 2000 are signs of Arabic and can be seen
            keep = unicodedata.category(character) != "Cf" or (
                0x00AD != code < 0x2000 and code not in (0x061C, 0x180E)
            )
        if keep:
            yield character
            before = character


def _needs_joiners(character: str) -> bool:
    """Tell whether a letter, or a vowel sign, is of a script that joins letters."""
    if not character or unicodedata.category(character)[0] not in "LM":
        return False
    script = unicodedata.name(character, "").partition(" ")[0]
    return script not in ("LATIN", "GREEK", "CYRILLIC", "COMBINING", "MODIFIER")


def lower(text: str) -> str:
    """Write a normalised text in lower case."""
    return unicodedata.normalize("NFC", text.lower())


def fit_characters(text: str, known: Collection[str]) -> str:
    """Take composed characters apart where a model only knows their parts.

    A model that was trained on decomposed characters has letters and accents as tokens.
    """
    return "".join(
        parts
        if character not in known
        and len(parts := unicodedata.normalize("NFD", character)) > 1
        and all(part in known for part in parts)
        else character
        for character in text
    )


# ------------------------------------------------------------------------- the case


def in_capitals(texts: Iterable[str]) -> bool:
    """Tell whether a corpus is written in capitals.

    Words of one letter do not count: "I" says nothing, and texts of spelled letters
    are meant as they are.
    """
    capitals = words = 0
    for text in texts:
        for word in re.findall(r"[^\W\d_]{2,}", text):
            if word.upper() != word.lower():  # the script has capitals
                words += 1
                capitals += word.isupper()
    return words > 0 and capitals > CAPITALS * words


def is_written_for_case(token_type: str, g2p: str) -> bool:
    """Return whether the tokens of a text depend on the case of its letters.

    They do not if the text consists of tokens already. The g2p ``arpabet`` ignores
    case.
    """
    return token_type != "phn" or g2p not in ("none", "arpabet")


def store_cleaner(folder: Path, lowered: bool) -> None:
    """Note beside the texts of training whether they were brought to lower case."""
    if lowered:
        write_text(folder / CLEANER_FILE, f"{LOWER_CASE}\n")
    else:
        (folder / CLEANER_FILE).unlink(missing_ok=True)


# -------------------------------------------------------------------------- doubts


def find_doubts(text: str, g2p: str | None) -> list[Doubt]:
    """Find why a g2p may say something else than a normalised and cleaned text."""
    if g2p is None:
        return []
    doubts = []
    wanted = next((s for name, s in SCRIPTS.items() if g2p.startswith(name)), None)
    letters = {c: _script(c) for c in text if _script(c)}
    if wanted and letters:
        foreign = [c for c, script in letters.items() if script not in wanted | LATIN]
        if not foreign and not wanted & set(letters.values()):
            foreign = list(letters)
        if foreign:
            some = "".join(sorted(foreign)[:10])
            names = ", ".join(sorted({letters[c] for c in foreign}))
            doubts.append(
                Doubt(
                    "text of another script",
                    f"{names} letters ({some}), which {g2p} skips or says by their "
                    "names",
                )
            )
    words = re.findall(r"[^\W\d_]+", text)
    if g2p.startswith("espeak_ng_") and len(words) > 2 and text.isupper():
        doubts.append(
            Doubt(
                "text in capitals",
                "short words may be spelled out, such as IT; write them in lower case",
            )
        )
    return doubts


def _script(character: str) -> str:
    """Name the script of a letter as Unicode does; "" if it is none."""
    if not character or unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return ""
    # also of letters in a circle, of full width, and of the Nordic and Spanish ordinals
    base = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.name(base, "").partition(" ")[0]
