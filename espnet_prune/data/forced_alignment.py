"""Find the ends of tokens in speech, with PocketSphinx's acoustic model of English.

Its package contains the weights, so no aligner has to be installed or trained. Tokens
may come from any g2p of ESPnet with English phonemes. Each token is spelled in the 39
phones of the acoustic model, which decides the durations of the phones of a word.
Stress and length marks take no time. Spaces and punctuation between words take the
pause.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from espnet_prune.data.labels import PAUSE_LABELS
from espnet_prune.errors import UserError
from espnet_prune.text.arpabet import CONSONANTS, MARKS, VOWELS, spell

RATE = 16000  # Hz, of the acoustic model
FRAMES_A_SECOND = 100

PHONES = frozenset(VOWELS + CONSONANTS)


class AlignmentError(ValueError):
    """An utterance cannot be aligned.

    Attributes:
        reason: Short, the same for all faults of a kind.
        detail: The fault of this utterance.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Spoken(NamedTuple):
    """A word in the acoustic model's spelling: its tokens and the phones of each."""

    tokens: tuple[int, ...]
    phones: tuple[tuple[str, ...], ...]


def phones_of(token: str) -> tuple[str, ...] | None:
    """Spell a token in the acoustic model's phones.

    Args:
        token: ARPAbet with or without stress ("AH0"), or IPA ("ɜ", "oʊ", "ˈ").

    Returns:
        Its phones, which are empty for a mark, or None for a token between words.
    """
    if token.rstrip("012") in PHONES:
        return (token.rstrip("012"),)
    if token == "<space>" or token in PAUSE_LABELS:
        return None
    if not any(c in MARKS or c.isalpha() for c in token):
        return None
    try:
        return spell(token)
    except ValueError as error:
        raise AlignmentError(
            "a symbol of its tokens is not an English phoneme",
            f"{str(error)!r} of {token!r}",
        ) from error


def words_of(tokens: Sequence[str]) -> list[Spoken]:
    """Split tokens into words at spaces and punctuation."""
    words: list[Spoken] = []
    word: list[tuple[int, tuple[str, ...]]] = []
    for i, phones in enumerate([*map(phones_of, tokens), None]):
        if phones:
            word.append((i, phones))
        elif phones is None and word:
            words.append(Spoken(*map(tuple, zip(*word, strict=True))))
            word = []
    return words


class ForcedAligner:
    """Find the times of tokens in recordings, with PocketSphinx."""

    def __init__(self):
        try:
            import pocketsphinx
        except ImportError as error:
            raise UserError(
                "alignment needs a package: pip install pocketsphinx==5.0.4"
            ) from error
        self._decoder = pocketsphinx.Decoder(
            hmm=pocketsphinx.get_model_path("en-us/en-us"),
            dict="/dev/null",  # words are added for each utterance
            lm=None,
            cmn="batch",
            bestpath=False,  # it makes words too short for their phones
            samprate=RATE,
            loglevel="FATAL",
        )
        self._spelled: set[str] = set()

    def token_ends(self, tokens: Sequence[str], speech: np.ndarray) -> list[float]:
        """Return where each token ends.

        Args:
            tokens: tokens of ESPnet's tokenizer, without <eos> (T_text - 1,).
            speech: mono, between -1 and 1, at ``RATE`` (samples,).

        Returns:
            Seconds, never decreasing (T_text,). The last one is the end of <eos>, which
            takes the final pause: the length of the recording.

        Raises:
            AlignmentError: No word is spoken, the text does not fit the speech, or the
                tokens are not English phonemes.
        """
        words = words_of(tokens)
        if not words:
            raise AlignmentError("no word in the text")
        starts, ends = self._align(words, speech)
        return spread(tokens, starts, ends, len(speech) / RATE)

    def _align(self, words, speech):
        """Return start and end in seconds of each token that has phones, by index."""
        names = [self._spell(word) for word in words]
        pcm = (np.clip(speech, -1, 1) * 32767).astype("<i2").tobytes()
        try:
            self._decoder.set_align_text(" ".join(names))
            self._decode(pcm)
            if self._decoder.hyp() is None:
                raise AlignmentError("the text does not fit the recording")
            self._decoder.set_alignment()  # the second pass finds the phones
            self._decode(pcm)
        except RuntimeError as error:
            raise AlignmentError("the text does not fit the recording") from error
        segments = [
            segment
            for word in self._decoder.get_alignment()
            if word.name in self._spelled
            for segment in word
        ]
        spelled = [
            i
            for word in words
            for i, phones in zip(word.tokens, word.phones, strict=True)
            for _ in phones
        ]
        if len(segments) != len(spelled):
            raise AlignmentError("the text does not fit the recording")
        starts: dict[int, float] = {}
        ends: dict[int, float] = {}
        for i, segment in zip(spelled, segments, strict=True):
            starts.setdefault(i, segment.start / FRAMES_A_SECOND)
            ends[i] = (segment.start + segment.duration) / FRAMES_A_SECOND
        return starts, ends

    def _spell(self, word: Spoken) -> str:
        """Add a word to the decoder and return its name, which is its spelling."""
        phones = [phone for spelling in word.phones for phone in spelling]
        name = "-".join(phones)
        if name not in self._spelled:
            self._decoder.add_word(name, " ".join(phones), True)
            self._spelled.add(name)
        return name

    def _decode(self, pcm: bytes) -> None:
        # otherwise the decoder keeps its noise estimate of earlier recordings
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()


def spread(tokens, starts, ends, length: float) -> list[float]:
    """Assign the whole time of a recording to tokens.

    Args:
        tokens: (T_text - 1,).
        starts, ends: seconds of the tokens that have phones, by index.
        length: length of the recording in seconds.

    Returns:
        Ends of each token and <eos> (T_text,). Marks take no time, and the first token
        between two words takes the pause.
    """
    result: list[float | None] = []  # None for a mark
    following = length
    for i in reversed(range(len(tokens))):
        following = starts.get(i, following)
        if i in ends:
            result.append(ends[i])
        elif phones_of(tokens[i]) is None or i == 0:
            result.append(following)
        else:
            result.append(None)
    ends_in_order: list[float] = []
    for end in reversed(result):  # a mark ends with the token before it
        ends_in_order.append(ends_in_order[-1] if end is None else min(end, length))
    return [*ends_in_order, length]
