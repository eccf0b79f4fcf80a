"""Objective scores: a metric is a little arithmetic around a model of ``backends``.

==========================  ===================================  ==================
metric                      what it is                           model
==========================  ===================================  ==================
``cer_moonshine``           character error rate                 Moonshine tiny-en
``cer_whisper``             character error rate                 Whisper tiny.en
``secs_resemblyzer``        cosine to the reference              Resemblyzer
``secs_other_resemblyzer``  the same to wrong speakers, a floor  Resemblyzer
``distillmos``              predicted MOS, 1 to 5                DistillMOS
``dnsmos``                  noise check, not naturalness         DNSMOS P.835 OVRL
``cer_speechbrain``         character error rate                 CRDNN, LibriSpeech
``secs_ecapa``              cosine to the reference              ECAPA, VoxCeleb
``secs_other_ecapa``        the same to wrong speakers           ECAPA, VoxCeleb
``utmos``                   predicted MOS, 1 to 5                UTMOS22 strong
``utmos_versa``             predicted MOS, 1 to 5                UTMOS22 of VERSA
``rtf``                     real-time factor of synthesis        none
``kept_share``              attention connections kept           none
==========================  ===================================  ==================

The first five are the default, and the last two wherever there are records of the
synthesis. The five between DNSMOS and those fetch their weights from the network.

The name of a metric holds that of its model, because values of different models lie
on different scales and are never to be set side by side.

Texts are compared as Whisper's English normaliser leaves them: lower case, no
punctuation, British spelling turned American, contractions and titles written out,
numbers as digits, hesitations dropped. A space counts as a character.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_prune.evaluation import backends
from espnet_prune.evaluation.backends import Backend, is_silent, package_version

DEFAULT = (
    "cer_moonshine",
    "cer_whisper",
    "secs_resemblyzer",
    "secs_other_resemblyzer",
    "distillmos",
)
MEASURED = ("rtf", "kept_share")


class Utterance(NamedTuple):
    """What a system was asked to say, and in whose voice.

    Attributes:
        name: Its ID.
        speaker: Who is imitated.
        text: What is to be said.
        reference: Recording that the voice was taken from.
        voices: The references of every speaker, for the comparison with wrong ones.

    """

    name: str
    speaker: str
    text: str
    reference: Path
    voices: Mapping[str, Sequence[Path]]


class Metric:
    """One column of the table.

    Args:
        name: Of the column, with that of the model in it.
        backend: The model.

    Attributes:
        measures: One line for a legend.
        uses: What a value depends on, of ``wav``, ``text``, ``reference`` and
            ``voices``; when one of these changes, it is computed again.
        percent: The value is a share, to be shown as a percentage.
        digits: Decimals to be shown.
        compared: Systems are compared by it.
        of_speakers: It varies with the speaker, so that an interval over speakers says
            what others might have given.
        when_missing: Why an utterance may have no value.

    """

    measures = ""
    uses: tuple[str, ...] = ("wav",)
    percent = False
    digits = 2
    compared = True
    of_speakers = True
    when_missing = "which are silent or leave nothing to compare"

    def __init__(self, name: str, backend: Backend):
        self.name = name
        self.backend = backend

    def version(self) -> str:
        """Name the model and the versions of what values depend on.

        Raises:
            importlib.metadata.PackageNotFoundError: A package is not installed.

        """
        return self.backend.version()

    def load(self) -> None:
        """Load what scoring needs; raises whatever its package raises."""
        _ = self.backend.model

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Score one utterance.

        Args:
            wave: What the system said, at 16 kHz (T_wav,).
            utterance: What it was asked for.

        Returns:
            ``value``, None where there is nothing to measure, and what it was made
            of.

        """
        raise NotImplementedError

    def ratio(self, score: Mapping[str, Any]) -> tuple[float, float]:
        """Split a value, not None, into what is summed up and what that is over."""
        return score["value"], 1.0


class CharacterErrorRate(Metric):
    """Edits over characters of the text, between what was to be said and was heard.

    The rate of a system is pooled: all its edits over all characters.
    """

    backend: backends.Recogniser
    measures = "characters that a recogniser hears wrong, lower is better"
    uses = ("wav", "text")
    percent = True

    def version(self) -> str:
        """Name the recogniser and what compares the texts."""
        tools = ("whisper-normalizer", "rapidfuzz")
        return ", ".join((super().version(), *map(package_version, tools)))

    def load(self) -> None:
        """Load the recogniser and what compares the texts."""
        import rapidfuzz  # noqa: F401

        _normaliser()
        super().load()

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Recognise and compare; in silence nothing is heard, so all of it is wrong."""
        from rapidfuzz.distance import Levenshtein

        heard = "" if is_silent(wave) else self.backend.transcribe(wave)
        text = normalise(utterance.text)
        edits = Levenshtein.distance(text, normalise(heard))
        return {
            "value": edits / len(text) if text else None,
            "edits": edits,
            "characters": len(text),
            "heard": heard,
        }

    def ratio(self, score: Mapping[str, Any]) -> tuple[float, float]:
        """Give edits and characters."""
        return score["edits"], score["characters"]


def normalise(text: str) -> str:
    """Write a text as character error rates compare it, see the text of this module."""
    return _normaliser()(text)


@functools.cache
def _normaliser():
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


class Similarity(Metric):
    """Cosine of the speaker embeddings of what was said and of the reference (SECS)."""

    backend: backends.SpeakerEncoder
    measures = "similarity (cosine) to the reference, higher is better"
    uses = ("wav", "reference")
    digits = 3

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Compare with the reference; None for silence."""
        said = None if is_silent(wave) else self.backend.embed(wave)
        voice = self.backend.voice(utterance.reference)
        if said is None or voice is None:
            return {"value": None}
        return {"value": float(said @ voice)}


class OtherSimilarity(Metric):
    """Mean cosine to the references of all other speakers, each of equal weight.

    A similarity to the reference is worth what it is above this one: a voice that is
    everybody's is similar to the reference as well.
    """

    backend: backends.SpeakerEncoder
    measures = "the same to the references of all other speakers, the floor"
    uses = ("wav", "voices")
    digits = 3

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Compare with the wrong speakers; None for silence or if there are none."""
        said = None if is_silent(wave) else self.backend.embed(wave)
        if said is None:
            return {"value": None}
        speakers = []
        for speaker, paths in utterance.voices.items():
            if speaker != utterance.speaker:
                voices = [self.backend.voice(path) for path in paths]
                cosines = [said @ voice for voice in voices if voice is not None]
                speakers += [np.mean(cosines)] if cosines else []
        return {"value": float(np.mean(speakers)) if speakers else None}


class Naturalness(Metric):
    """A predicted mean opinion score."""

    backend: backends.Predictor
    measures = "predicted opinion of listeners, 1 to 5, higher is better"

    def score(self, wave: np.ndarray, utterance: Utterance) -> dict[str, Any]:
        """Predict; None for silence."""
        return {"value": None if is_silent(wave) else self.backend.predict(wave)}


class Measured(Metric):
    """Something that was measured in synthesis, and is read from its record."""

    compared = False  # not a quality of the speech

    def take(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read a value from a line of ``synthesis.jsonl``, {} if it has none."""
        raise NotImplementedError


class RealTimeFactor(Measured):
    """Seconds of computing over seconds of speech, pooled over utterances."""

    measures = "seconds of synthesis for a second of speech, with vocoder, in one run"
    digits = 4
    of_speakers = False  # but with what else the machine had to do

    def take(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Divide the seconds of synthesis by those of speech."""
        if "synthesis_seconds" not in record:
            return {}
        taken, said = record["synthesis_seconds"], record["audio_seconds"]
        value = taken / said if said else None
        return {"value": value, "synthesis_seconds": taken, "audio_seconds": said}

    def ratio(self, score: Mapping[str, Any]) -> tuple[float, float]:
        """Give the seconds of synthesis and of speech."""
        return score["synthesis_seconds"], score["audio_seconds"]


class KeptShare(Measured):
    """Share of the decoder's attention connections that the mask of inference keeps."""

    measures = "connections that the decoder's self-attention keeps in inference"
    percent = True
    digits = 1
    when_missing = "for soft masks keep a part of every connection"

    def take(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read the share."""
        if "kept_share" not in record:
            return {}
        return {"value": record["kept_share"]}


_resemblyzer, _ecapa = backends.Resemblyzer(), backends.Ecapa()
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
        Naturalness("utmos_versa", backends.Versa()),
        RealTimeFactor("rtf", backends.Synthesis()),
        KeptShare("kept_share", backends.Synthesis()),
    )
}
