"""From a text to token ids: parts that can be spoken, and the tokens of each.

``tokenize`` is the same for every front end: ESPnet's, which synthesis uses, and
``FrontEnd``, which needs neither ESPnet nor torch.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from espnet_prune.errors import UserError, first_line
from espnet_prune.text.arpabet import G2P as ARPABET
from espnet_prune.text.arpabet import to_tokens
from espnet_prune.text.espeak import open_espeak
from espnet_prune.text.normalise import (
    LOWER_CASE,
    find_doubts,
    fit_characters,
    lower,
    normalise,
)

# Texts up to this length are spoken in one piece: about 13 s of read English. ESPnet's
# recipes train on utterances up to 20 s.
MAX_CHARACTERS = 200
# Few characters may become many tokens: "1e9" is spoken as two words. A part with more
# tokens is split again, because attention needs memory proportional to the square of
# its length.
MAX_TOKENS = 2 * MAX_CHARACTERS
PAUSE_SECONDS = 0.2  # silence between the parts of a longer text
# Sentences that are together shorter than this are spoken together.
SHORT_SENTENCE = 40
SENTENCE_END = r"(?<=[.!?])\s+|(?<=[。！？])\s*"
UNKNOWN, SPACE = "<unk>", "<space>"
ESPEAK = "espeak_ng_"


class Tokenizer(Protocol):
    """What ``tokenize`` needs of a front end."""

    token_type: str  # char, phn or another type of ESPnet
    g2p: str | None  # name of the phonemizer, for phn
    known: dict[str, int]  # id of each token

    def clean(self, text: str) -> str:
        """Apply the cleaner of the model's training."""

    def to_ids(self, part: str) -> tuple[np.ndarray, dict[str, None]]:
        """Return the ids of a part of a text (T_text,), and its unknown tokens."""


def tokenize(
    text: object,
    front_end: Tokenizer,
    max_characters: int | None = MAX_CHARACTERS,
    by_sentence: bool = False,
) -> list[np.ndarray]:
    """Return the token ids of a text, one array for each part to speak separately.

    Args:
        text: Text to speak, see ``normalise``.
        front_end: Makes the tokens.
        max_characters: Longest part, see ``split_text``. None does not split.
        by_sentence: Whether a text that is too long becomes single sentences.

    Returns:
        Token ids without <eos>, int64, one or more of (T_text,).
    """
    text = normalise(text)
    if not text:
        raise UserError("the text is empty: give a text to speak")
    if front_end.token_type == "char":
        text = fit_characters(text, front_end.known)
    unknown_id = front_end.known[UNKNOWN]
    parts: list[np.ndarray] = []
    unknown: dict[str, None] = {}
    waiting = [text]
    if by_sentence and max_characters is not None and len(text) > max_characters:
        waiting = _split_at(SENTENCE_END, text, SHORT_SENTENCE)
    waiting = [part for long in waiting for part in split_text(long, max_characters)]
    while waiting:
        part = waiting.pop(0)
        ids, new = front_end.to_ids(part)
        if max_characters is not None and len(ids) > MAX_TOKENS and len(part) > 1:
            waiting[:0] = split_text(part, len(part) // 2)
            continue
        unknown.update(new)
        if (ids != unknown_id).any():
            parts.append(ids)
    names = ", ".join(unknown)
    if not parts:
        reason = f"only tokens that the model does not know ({names})"
        raise UserError(
            f"the text '{shortened(text)}' gives {reason if names else 'no token'}"
            f": write it for a model of {front_end.token_type} tokens"
        )
    if unknown:
        logging.warning(
            f"the text '{shortened(text)}' has tokens that the model does not know, "
            f"which are spoken as <unk>: {names}"
        )
    if front_end.token_type == "phn":
        for doubt in find_doubts(front_end.clean(text), front_end.g2p):
            logging.warning(
                f"the text '{shortened(text)}': {doubt.reason}: {doubt.detail}"
            )
    return parts


def known_ids(
    tokens: Iterable[str], known: Mapping[str, int]
) -> tuple[np.ndarray, dict[str, None]]:
    """Convert tokens to ids; punctuation that the model does not know is left out.

    Returns:
        np.ndarray: Ids, int64 (T_text,); other unknown tokens are <unk>.
        dict: These unknown tokens.
    """
    tokens = list(tokens)
    new = dict.fromkeys(token for token in tokens if token not in known)
    marks = {t for t in new if all(unicodedata.category(c)[0] in "PSZ" for c in t)}
    ids, before = [], ""
    for token in tokens:
        # a mark that is left out may leave two spaces; training has seen only one
        if token not in marks and not (new and token == before == SPACE):
            ids.append(known.get(token, known[UNKNOWN]))
            before = token
    unknown = {token: None for token in new if token not in marks}
    return np.array(ids, dtype=np.int64), unknown


def shortened(text: str) -> str:
    """Quote a text in an error message."""
    text = " ".join(text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."


# ---------------------------------------------------------------- texts in parts


def split_text(text: str, max_characters: int | None = MAX_CHARACTERS) -> list[str]:
    """Split a text that is too long to be spoken in one piece.

    Sentences stay together while they fit. A sentence that is too long is split at its
    clauses, and clauses between words. A word that is too long, such as a whole text in
    Chinese or Thai, is split anywhere between characters. Together, the parts are the
    text except the spaces at the cuts. Without ``max_characters``, nothing is split.
    """
    text = text.strip()
    if max_characters is None or len(text) <= max_characters:
        return [text]
    parts = [text]
    for end in (SENTENCE_END, r"(?<=[,;:])\s+|(?<=[，；：、])\s*", r"\s+"):
        pieces = []
        for part in parts:
            pieces.extend(_split_at(end, part, max_characters))
        parts = pieces
    return [piece for part in parts for piece in _cut(part, max_characters)]


def _cut(part: str, length: int) -> Iterator[str]:
    """Cut a text without spaces, but not between a character and its accents."""
    while len(part) > length:
        end = length
        while end > 1 and unicodedata.category(part[end])[0] == "M":
            end -= 1
        end = length if end <= 1 else end
        yield part[:end]
        part = part[end:]
    yield part


def _split_at(end: str, part: str, max_characters: int) -> list[str]:
    """Split at as few matches of ``end`` as possible, and leave those out."""
    if len(part) <= max_characters:
        return [part]
    begins, ends = [0], []
    for match in re.finditer(end, part):
        ends.append(match.start())
        begins.append(match.end())
    spans: list[tuple[int, int]] = []
    for begin, stop in zip(begins, [*ends, len(part)], strict=True):
        if spans and stop - spans[-1][0] <= max_characters:
            spans[-1] = (spans[-1][0], stop)
        elif begin < stop:
            spans.append((begin, stop))
    return [part[begin:stop] for begin, stop in spans]


def check_ids(ids: Any, number: int) -> np.ndarray:
    """Return token ids as int64 (T_text,); refuse all but ids below ``number``."""
    try:
        found = np.asarray(ids)
    except (TypeError, ValueError, RuntimeError):
        found = np.empty(0)
    fault = None
    if found.ndim != 1 or not found.size or not np.issubdtype(found.dtype, np.integer):
        fault = f"{found.dtype} of shape {found.shape}"
    elif found.min() < 0 or found.max() >= number:
        fault = f"{found.min()} to {found.max()}"
    if fault is not None:
        raise UserError(
            f"token ids should be whole numbers from 0 to {number - 1} of the shape "
            f"(T_text,), found {fault}: give a text, or what tokenize() returns"
        )
    return found.astype(np.int64)


# ---------------------------------------------------- tokens of ESPnet


def build_espnet(
    token_type: str, g2p: str | None, cleaner: str
) -> tuple[Callable[[str], str], Any]:
    """Build ESPnet's cleaner and its tokenizer.

    Args:
        token_type: As in ESPnet.
        g2p: Its name; ``none`` for texts that are tokens.
        cleaner: Its name, or ``none``.
    """
    from espnet2.text.build_tokenizer import build_tokenizer
    from espnet2.text.cleaner import TextCleaner

    try:
        clean = TextCleaner(None if cleaner == "none" else cleaner)
        clean("a")  # a cleaner loads its packages when it is called
        return clean, build_tokenizer(
            token_type, g2p_type=None if g2p == "none" else g2p
        )
    except Exception as error:  # g2ps and cleaners raise many kinds of error
        raise UserError(
            f"no tokens can be made with token_type {token_type}, g2p {g2p}, cleaner "
            f"{cleaner} ({first_line(error)}); install what is missing or choose others"
        ) from error


# ---------------------------------------------------- tokens without ESPnet


class FrontEnd:
    """The tokens of a model, without ESPnet and torch.

    It knows the token types ``char`` and ``phn``, the g2p ``arpabet``, ``espeak_ng_*``
    and none, and the cleaner ``lower_case``. ``describe`` returns its settings.
    """

    def __init__(self, settings: dict[str, Any]):
        self.token_type: str = settings["token_type"]
        self.g2p: str | None = settings["g2p"]
        self.cleaner: str | None = settings["cleaner"]
        self.language: str | None = settings["language"]
        self.known = {token: n for n, token in enumerate(settings["token_list"])}

    @staticmethod
    def describe(train_args: Any, tokenizer: Any) -> dict[str, Any]:
        """Return the settings of a trained model's front end, for ``FrontEnd``.

        ``train_args`` are its settings of training. ESPnet's ``tokenizer``, None if
        there is none, knows the language of espeak-ng.
        """
        kind, cleaner = train_args.token_type, train_args.cleaner
        g2p = train_args.g2p if kind == "phn" else None
        cleaners = [cleaner] if isinstance(cleaner, str) else list(cleaner or [])
        symbols = train_args.non_linguistic_symbols
        fault = None
        if tokenizer is None or kind not in ("char", "phn"):
            fault = f"token type {kind}"
        elif g2p not in (None, ARPABET) and not g2p.startswith(ESPEAK):
            fault = f"g2p {g2p}"
        elif set(cleaners) - {LOWER_CASE}:
            fault = f"cleaner {', '.join(cleaners)}"
        elif symbols:
            fault = f"file of symbols {symbols}"
        if fault is not None:
            raise UserError(
                f"the {fault} of this model needs ESPnet: speak with espnet-prune say, "
                "or train with --token_type phn, --g2p espeak_ng_* and --cleaner none"
            )
        espeak = (g2p or "").startswith(ESPEAK)
        return {
            "token_list": list(train_args.token_list),
            "token_type": kind,
            "g2p": g2p,
            "cleaner": cleaners[0] if cleaners else None,
            "language": tokenizer.g2p.phonemizer.language if espeak else None,
        }

    def clean(self, text: str) -> str:
        """Write the text in lower case, if the model was trained so."""
        return lower(text) if self.cleaner == LOWER_CASE else text

    def to_ids(self, part: str) -> tuple[np.ndarray, dict[str, None]]:
        """Return the ids of a part of a text (T_text,), and its unknown tokens."""
        return known_ids(self._tokens(self.clean(part)), self.known)

    def _tokens(self, text: str) -> list[str]:
        if self.token_type == "char":
            return [SPACE if character == " " else character for character in text]
        if self.g2p is None:
            return text.split(" ")
        if self.g2p == ARPABET:
            return to_tokens(text)
        return self._say(text)

    @functools.cached_property
    def _say(self) -> Callable[[str], list[str]]:
        """Open espeak-ng as ESPnet does."""
        backend = open_espeak(self.language, self.g2p, preserve_punctuation=True)
        from phonemizer.separator import Separator

        if self.g2p != "espeak_ng_english_us_vits":
            spaced = Separator(phone=" ", word=None, syllable=None)
            return lambda text: backend.phonemize([text], separator=spaced)[0].split()
        joined = Separator(phone="", word=" ", syllable=None)

        def by_character(text: str) -> list[str]:
            phones = backend.phonemize([text], separator=joined, strip=True)[0]
            return [phone.replace(" ", SPACE) for phone in phones]

        return by_character
