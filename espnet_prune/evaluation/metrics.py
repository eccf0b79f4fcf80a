"""Objective scores: each metric uses a model of ``backends``; see docs/scores.md.

The name of a metric contains that of its model, because different models have different
scales: never compare values of different models.

Texts are compared after Whisper's English normaliser: lower case, no punctuation,
British spelling turned American, contractions and titles written out, numbers as
digits, hesitations dropped. A space counts as a character.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_prune.evaluation import acoustics, backends, tables
from espnet_prune.evaluation.backends import (
    RATE,
    Backend,
    is_silent,
    load_wave,
    package_version,
)

DEFAULT = (
    "cer_moonshine",
    "cer_whisper",
    "secs_resemblyzer",
    "secs_other_resemblyzer",
    "distillmos",
)
MEASURED = ("rtf", "kept_share")


class Utterance(NamedTuple):
    """The text and the voice that a system was given."""

    name: str  # its ID
    speaker: str  # the speaker to imitate
    text: str  # the text to speak
    reference: Path  # recording of the voice
    # The references of every speaker, for the comparison with wrong ones.
    voices: Mapping[str, Sequence[Path]]
    target: Path | None = None  # recording of the text, if there is one


class Metric:
    """One column of the table.

    Args:
        name: Name of the column, which contains that of the model.
        backend: The model.
    """

    measures = ""  # one line for a legend
    # What a value depends on, from ``wav``, ``text``, ``reference``, ``voices`` and
    # ``target``; if one of these changes, the value is computed again.
    uses: tuple[str, ...] = ("wav",)
    percent = False  # whether the value is a share, which is shown as a percentage
    digits = 2  # number of decimals to show
    compared = True  # whether systems are compared by it
    # Whether it depends on the speaker, so that an interval over speakers makes sense.
    of_speakers = True
    # Why an utterance may have no value.
    when_missing = "which are silent or have nothing to compare"

    def __init__(self, name: str, backend: Backend):
        self.name = name
        self.backend = backend

    def version(self) -> str:
        """Return the model and the versions of all that values depend on.

        Raises:
            importlib.metadata.PackageNotFoundError: A package is not installed.
        """
        return self.backend.version()

    def load(self) -> None:
        """Load the model; this may raise any error of its package."""
        _ = self.backend.model

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Score the speech of a system for an utterance, at 16 kHz (T_wav,).

        Returns:
            ``value``, which is None for silence or if there is nothing to measure, and
            its parts, if it has any.
        """
        return {"value": None if is_silent(wave) else self.judge(wave, utterance)}

    def judge(self, wave: np.ndarray, utterance: Utterance) -> float | None:
        """Return the value for speech that is not silent; None if there is none."""
        raise NotImplementedError

    def ratio(self, score: Mapping[str, Any]) -> tuple[float, float]:
        """Return numerator and denominator of a value that is not None."""
        return score["value"], 1.0

    def show(self, values: Sequence[float | None], sign: str = "") -> str | None:
        """Return a value and the ends of its interval as text; each may be None."""
        scale = 100 if self.percent else 1
        scaled = [None if value is None else scale * value for value in values]
        return tables.with_ends(scaled, f"{sign}.{self.digits}f")


class CharacterErrorRate(Metric):
    """Edits between the text and the recognised text, over characters of the text.

    The rate of a system is pooled: all its edits over all characters.
    """

    backend: backends.Recogniser
    measures = "share of characters that the recogniser gets wrong, lower is better"
    uses = ("wav", "text")
    percent = True
    unit = "characters"

    def units(self, text: str) -> Sequence[str]:
        """Return what is counted in a normalised text."""
        return text

    def version(self) -> str:
        """Return the recogniser and the packages that compare the texts."""
        tools = ("whisper-normalizer", "rapidfuzz")
        return ", ".join((super().version(), *map(package_version, tools)))

    def load(self) -> None:
        """Load the recogniser and the packages that compare the texts."""
        import rapidfuzz  # noqa: F401

        _normaliser()
        super().load()

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Recognise and compare; all characters of a silent recording are wrong."""
        from rapidfuzz.distance import Levenshtein

        heard = "" if is_silent(wave) else self.backend.transcribe(wave)
        text = self.units(normalise(utterance.text))
        edits = Levenshtein.distance(text, self.units(normalise(heard)))
        return {
            "value": edits / len(text) if text else None,
            "edits": edits,
            self.unit: len(text),
            "heard": heard,
        }

    def ratio(self, score: Mapping[str, Any]) -> tuple[float, float]:
        """Return edits and characters, or words."""
        return score["edits"], score[self.unit]


class WordErrorRate(CharacterErrorRate):
    """The same with words."""

    measures = "share of words that the recogniser gets wrong, lower is better"
    unit = "words"

    def units(self, text: str) -> Sequence[str]:
        """Return the words of a normalised text."""
        return text.split()


def normalise(text: str) -> str:
    """Return a text in the form that is compared, see the text of this module."""
    return _normaliser()(text)


@functools.cache
def _normaliser():
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


class Similarity(Metric):
    """Cosine of the speaker embeddings of the speech and of the reference (SECS)."""

    backend: backends.SpeakerEncoder
    measures = "similarity (cosine) to the reference, higher is better"
    uses = ("wav", "reference")
    digits = 3

    def judge(self, wave: np.ndarray, utterance: Utterance) -> float | None:
        """Compare with the reference."""
        said = self.backend.embed(wave)
        voice = self.backend.voice(utterance.reference)
        return None if said is None or voice is None else float(said @ voice)


class OtherSimilarity(Metric):
    """Mean cosine to the references of all other speakers, with equal weights.

    Only a similarity above this floor says something about the voice, because an
    average voice is similar to every reference.
    """

    backend: backends.SpeakerEncoder
    measures = "similarity to the references of all other speakers (the floor)"
    uses = ("wav", "voices")
    digits = 3

    def judge(self, wave: np.ndarray, utterance: Utterance) -> float | None:
        """Compare with other speakers, if there are any."""
        said = self.backend.embed(wave)
        if said is None:
            return None
        speakers = []
        for speaker, paths in utterance.voices.items():
            if speaker != utterance.speaker:
                voices = [self.backend.voice(path) for path in paths]
                cosines = [said @ voice for voice in voices if voice is not None]
                speakers += [np.mean(cosines)] if cosines else []
        return float(np.mean(speakers)) if speakers else None


class Naturalness(Metric):
    """A predicted mean opinion score."""

    backend: backends.Predictor
    measures = "predicted opinion of listeners, 1 to 5, higher is better"

    def judge(self, wave: np.ndarray, utterance: Utterance) -> float | None:
        """Predict."""
        return self.backend.predict(wave)


class RecordingDistance(Metric):
    """Distance to the recording of the text, if there is one."""

    distance: Callable[[acoustics.Analysis, acoustics.Analysis], float | None]
    uses = ("wav", "target")
    when_missing = "which are silent, have no recording of the text, or no common voice"

    def judge(self, wave: np.ndarray, utterance: Utterance) -> float | None:
        """Compare with the recording, if there is one."""
        if utterance.target is None:
            return None
        target = _analyse_file(utterance.target)
        said = acoustics.analyse(wave, RATE)
        return None if target is None else self.distance(said, target)


@functools.lru_cache(maxsize=1000)
def _analyse_file(path: Path) -> acoustics.Analysis | None:
    wave = load_wave(path)
    return None if is_silent(wave) else acoustics.analyse(wave, RATE)


class CepstralDistortion(RecordingDistance):
    """Mel-cepstral distortion."""

    distance = staticmethod(acoustics.cepstral_distortion)
    measures = "mel-cepstral distortion to the recording in dB, lower is better"


class PitchError(RecordingDistance):
    """Root mean square error of the logarithmic F0, over frames that are voiced."""

    distance = staticmethod(acoustics.f0_error)
    measures = "RMSE of the natural log of F0 to the recording, lower is better"
    digits = 3


class Measured(Metric):
    """A value that was measured in synthesis, and is read from its record."""

    compared = False  # not a quality of the speech

    def take(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read a value from a line of ``synthesis.jsonl``; {} if there is none."""
        raise NotImplementedError


class RealTimeFactor(Measured):
    """Seconds of computing over seconds of speech, pooled over utterances."""

    measures = "seconds of computing per second of speech, with vocoder, in one run"
    digits = 4
    of_speakers = False  # it depends on other work of the machine instead

    def take(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Divide the seconds of synthesis by those of speech."""
        if "synthesis_seconds" not in record:
            return {}
        taken, said = record["synthesis_seconds"], record["audio_seconds"]
        value = taken / said if said else None
        return {"value": value, "synthesis_seconds": taken, "audio_seconds": said}

    def ratio(self, score: Mapping[str, Any]) -> tuple[float, float]:
        """Return the seconds of synthesis and of speech."""
        return score["synthesis_seconds"], score["audio_seconds"]


class KeptShare(Measured):
    """Share of the decoder's attention connections that the mask of inference keeps."""

    measures = "connections that the decoder's self-attention keeps in inference"
    percent = True
    digits = 1
    when_missing = "because soft masks keep a part of every connection"

    def take(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read the share."""
        if "kept_share" not in record:
            return {}
        return {"value": record["kept_share"]}


_resemblyzer, _ecapa = backends.Resemblyzer(), backends.Ecapa()
_wavlm, _world = backends.WavLM(), backends.World()
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        CharacterErrorRate("cer_moonshine", backends.Moonshine()),
        CharacterErrorRate("cer_whisper", backends.Whisper()),
        CharacterErrorRate("cer_speechbrain", backends.SpeechBrainRecogniser()),
        Similarity("secs_resemblyzer", _resemblyzer),
        OtherSimilarity("secs_other_resemblyzer", _resemblyzer),
        Similarity("secs_ecapa", _ecapa),
        OtherSimilarity("secs_other_ecapa", _ecapa),
        Naturalness("distillmos", backends.DistillMOS()),
        Naturalness("dnsmos", backends.DNSMOS()),
        Naturalness("utmos", backends.UTMOS()),
        WordErrorRate("wer_whisper_large_v3", backends.WhisperCheckpoint()),
        Similarity("secs_wavlm_sv", _wavlm),
        OtherSimilarity("secs_other_wavlm_sv", _wavlm),
        CepstralDistortion("mcd", _world),
        PitchError("f0_rmse", _world),
        RealTimeFactor("rtf", backends.Synthesis()),
        KeptShare("kept_share", backends.Synthesis()),
    )
}
