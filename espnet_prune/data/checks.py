"""Check each recording of a corpus.

A bad recording or text does not stop the check. Utterances that cannot be used have a
fault; usable ones that should be checked are listed in the warnings.
"""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_prune.data.kaldi import Finding
from espnet_prune.processes import in_parallel
from espnet_prune.speech import audio
from espnet_prune.text.front_end import build_espnet
from espnet_prune.text.normalise import (
    Doubt,
    TextError,
    find_doubts,
    in_capitals,
    is_written_for_case,
    lower,
    normalise,
)

SILENT_WARNING = 0.5  # share of 20 ms frames that are pauses
# A text that is spoken so many times faster or slower than the median is suspicious.
UNUSUAL_RATE = 2.5


class Utterance(NamedTuple):
    """A recording and its text, as found on disk."""

    name: str  # SPEAKER-REST: Kaldi's scripts need ids that begin with the speaker
    speaker: str
    path: Path
    text: str | None  # None if there is none


class Settings(NamedTuple):
    """Settings that the recordings have to fit."""

    fs: int = 22050  # Hz
    n_shift: int = 256  # samples per mel frame
    min_seconds: float = 0.5
    max_seconds: float = 20.0
    token_type: str = "phn"
    g2p: str = "espeak_ng_english_us_vits"
    cleaner: str = "none"
    lower: bool = False  # texts are in capitals and meant in lower case


class Checked(NamedTuple):
    """Measurements of an utterance."""

    utterance: Utterance
    fault: Finding | None = None  # why the recording cannot be used
    text_fault: Finding | None = None  # why the text cannot be used
    seconds: float = 0.0
    rate: int = 0  # Hz
    channels: int = 0
    needs_copy: bool = False  # to have one channel within [-1, 1]
    peak: float = 0.0
    clipped: float = 0.0  # share of samples at the peak
    silent: float = 0.0  # share of frames that are pauses
    digest: bytes = b""  # hash of the samples
    tokens: int = 0
    token_kinds: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()  # why a g2p may say something else

    @property
    def name(self) -> str:
        """Id of the utterance."""
        return self.utterance.name

    @property
    def text(self) -> str:
        """What is said in it, "" if that is not known."""
        return self.utterance.text or ""

    @property
    def speaker(self) -> str:
        """Speaker of the utterance."""
        return self.utterance.speaker

    def in_file(self, path: Path) -> "Checked":
        """Return a copy with the recording in another file."""
        return self._replace(utterance=self.utterance._replace(path=path))


class Checker:
    """Checks utterances. Each process makes its own: tokenizers cannot be pickled."""

    def __init__(self, settings: Settings):
        self.settings = settings
        # The BPE tokens are not known yet; there are at most as many as characters.
        kind = "char" if settings.token_type == "bpe" else settings.token_type
        self.clean, self.tokenizer = build_espnet(kind, settings.g2p, settings.cleaner)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a normalised text, as training will."""
        return self.tokenizer.text2tokens(self.clean(text))

    def __call__(self, utterance: Utterance) -> Checked:
        """Measure an utterance; if that fails, the result has a fault."""
        try:
            return self._judge_text(self._judge_recording(utterance))
        except Exception as error:  # one bad file must not stop a long check
            detail = f"{utterance.path}: {type(error).__name__}: {error}"
            fault = Finding(utterance.name, "cannot be checked", detail)
            return Checked(utterance, fault=fault, text_fault=fault)

    def _judge_recording(self, utterance: Utterance) -> Checked:
        path = utterance.path
        wanted = self.settings

        def faulty(reason, detail=""):
            detail = f"{path}: {detail}" if detail else str(path)
            return Checked(utterance, fault=Finding(utterance.name, reason, detail))

        try:
            header = audio.read_header(path)
            if header.frames == 0:
                return faulty("no samples")
            if header.seconds < wanted.min_seconds:
                return faulty("too short", f"{header.seconds:.2f} s")
            if header.seconds > wanted.max_seconds:
                return faulty("too long", f"{header.seconds:.1f} s")
            samples = audio.read(path).samples
        except audio.AudioError as error:
            fault = Finding(utterance.name, error.reason, f"{path} {error.detail}")
            return Checked(utterance, fault=fault)
        peak = float(np.abs(samples).max())
        if peak > audio.LARGEST_FLOAT:
            return faulty("samples far above full scale", f"up to {peak:.0f}")
        clipped = audio.clipped_share(samples)
        level = audio.frame_levels(samples.mean(axis=1), header.rate)
        if audio.is_silent(level):
            return faulty("silent", f"reaches {level.max():.0f} dBFS")
        if clipped > audio.CLIPPED_ERROR:
            return faulty("clipped", f"{100 * clipped:.0f} % of samples at the peak")
        return Checked(
            utterance,
            seconds=header.seconds,
            rate=header.rate,
            channels=header.channels,
            # Stage 2 would clip samples beyond 1, and treat some headers as empty.
            needs_copy=header.channels > 1 or peak > 1 or not header.says_size,
            peak=peak,
            clipped=clipped,
            silent=float((level < level.max() - audio.PAUSE_DB).mean()),
            digest=hashlib.blake2b(samples.tobytes(), digest_size=16).digest(),
        )

    def _judge_text(self, checked: Checked) -> Checked:
        utterance = checked.utterance

        def faulty(reason, detail=""):
            fault = Finding(utterance.name, reason, detail or str(utterance.path))
            return checked._replace(text_fault=fault)

        if utterance.text is None:
            return faulty("no text")
        try:
            text = normalise(utterance.text)
        except TextError as error:
            return faulty(error.reason, str(error))
        if not text:
            return faulty("empty text")
        text = lower(text) if self.settings.lower else text
        checked = checked._replace(utterance=utterance._replace(text=text))
        try:
            tokens = self.tokenize(text)
        except Exception as error:  # from a g2p
            return faulty("text cannot be tokenised", f"{text}: {error}")
        if not has_speech(tokens):
            return faulty("text without tokens", text)
        if checked.fault is None:
            samples = int(checked.seconds * checked.rate + 0.5)
            frames = samples * self.settings.fs // checked.rate
            frames = frames // self.settings.n_shift + 1
            if frames < len(tokens) + 1:
                detail = f"{frames} frames for {len(tokens)} tokens and <eos>"
                return faulty("too short for its text", detail)
        g2p = self.settings.g2p if self.settings.token_type == "phn" else None
        return checked._replace(
            tokens=len(tokens),
            token_kinds=tuple(set(tokens)),
            doubts=tuple(find_doubts(self.clean(text), g2p)),
        )


def should_lower(texts: Iterable[str | None], settings: Settings) -> bool:
    """Tell whether a corpus is in capitals that make its tokens wrong.

    A g2p spells short words in capitals out, and a model of characters that has seen
    nothing else cannot read other texts. A cleaner that was chosen decides itself.
    """
    return (
        settings.cleaner == "none"
        and is_written_for_case(settings.token_type, settings.g2p)
        and in_capitals(text for text in texts if text)
    )


def has_speech(tokens: Iterable[str]) -> bool:
    """Return whether any token is not a space or a punctuation mark."""
    return any(
        character.isalnum()
        for token in tokens
        if token not in ("<space>", "<unk>")
        for character in token
    )


def check(
    utterances: Sequence[Utterance], settings: Settings, nj: int, label: str
) -> list[Checked]:
    """Measure all utterances; of recordings with the same samples, one is used."""
    Checker(settings)  # raises before any process starts
    checked: list[Checked] = []
    seen: dict[bytes, Utterance] = {}
    for one in in_parallel(Checker, utterances, nj, label, settings):
        if one.fault is None:
            first = seen.setdefault(one.digest, one.utterance)
            if first is not one.utterance:
                detail = f"{one.utterance.path}: the same as {first.path}"
                fault = Finding(one.utterance.name, "same recording twice", detail)
                one = one._replace(fault=fault)
        # results of other processes do not share strings yet
        kinds = tuple(map(sys.intern, one.token_kinds))
        checked.append(one._replace(token_kinds=kinds))
    return checked


def find_warnings(kept: list[Checked], fs: int) -> list[Finding]:
    """Return usable utterances that should be checked."""
    warnings = []
    spoken = [one for one in kept if one.tokens]
    usual = np.median([one.tokens / one.seconds for one in spoken]) if spoken else 0
    for one in kept:
        name = one.name
        if one.peak > 1:
            detail = f"up to {one.peak:.2f}, the copy in use is quieter"
            warnings.append(Finding(name, "above full scale", detail))
        if one.clipped > audio.CLIPPED_WARNING:
            share = f"{100 * one.clipped:.1f} % of samples at the peak"
            warnings.append(Finding(name, "somewhat clipped", share))
        if one.silent > SILENT_WARNING:
            share = f"{100 * one.silent:.0f} % of its length"
            warnings.append(Finding(name, "mostly silent", share))
        if one.rate < 0.7 * fs:
            detail = f"{one.rate} Hz, the model speaks at {fs} Hz"
            warnings.append(Finding(name, "low sampling rate", detail))
        warnings += [Finding(name, *doubt) for doubt in one.doubts]
        if one.tokens:
            ratio = one.tokens / one.seconds / usual
            if not 1 / UNUSUAL_RATE < ratio < UNUSUAL_RATE:
                detail = f"spoken {ratio:.2f} times as fast as the median text"
                warnings.append(Finding(name, "text may not fit", detail))
    return warnings
