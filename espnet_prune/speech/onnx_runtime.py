"""Speak with a model in the ONNX format, without torch and without ESPnet.

``espnet-prune export`` writes such a model. It is run by onnxruntime, numpy and
soundfile; phonemes need phonemizer and espeakng-loader, references with another
sampling rate soxr.

    speech = OnnxSpeech("exported")
    said = speech("Hello there.", reference="me.wav")
    soundfile.write("out.wav", said["wav"], speech.fs)
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_prune.config import require_positive, require_whole
from espnet_prune.errors import UserError, first_line
from espnet_prune.files import digest, write_text
from espnet_prune.loading import load_json
from espnet_prune.speech.reference import Source, list_sources, load_reference
from espnet_prune.text.front_end import PAUSE_SECONDS, FrontEnd, check_ids, tokenize

if TYPE_CHECKING:
    import onnxruntime

SETTINGS = "model.json"
STYLE_ENCODER = "style_encoder.onnx"
ACOUSTIC = "acoustic.onnx"
VOCODER = "vocoder.onnx"
VOICES = "voices.npz"
FORMAT = 1  # version of the folder's format
# Keys of the checksums of the other files, and of that of the settings.
CHECKSUMS, CHECKSUM = "files", "sha256"
INSTALL = "pip install onnxruntime"


class OnnxSpeech:
    """Text and a recording of a voice to speech.

    Args:
        folder: What ``espnet-prune export`` wrote.
        threads: Number of threads; by default that of onnxruntime, all cores.

    Attributes:
        fs: Sampling rate of the speech in Hz.
        voices: Style vector (style_dim,) of each voice of the model, by its name. If no
            voice is given, the first one speaks.

    Raises:
        UserError: A file is missing or broken, another version of the plugin wrote it,
            or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int | None = None):
        if not isinstance(folder, (str, os.PathLike)):
            raise UserError(f"the folder of a model is {folder!r}: give a path")
        if threads is not None:
            require_whole("threads", threads)
        self.folder, self.threads = Path(folder), threads
        self.settings = _read_settings(self.folder)
        self.fs: int = self.settings["features"]["fs"]
        self.front_end = FrontEnd(self.settings["text"])
        self.voices: dict[str, np.ndarray] = {}
        if VOICES in self.settings[CHECKSUMS]:
            with np.load(self.folder / VOICES) as voices:
                self.voices = dict(voices)
        self.acoustic = self._open(ACOUSTIC)
        has_vocoder = self.settings["vocoder"] is not None
        self.vocoder = self._open(VOCODER) if has_vocoder else None
        # a saved voice needs no style encoder
        self._style_encoder: onnxruntime.InferenceSession | None = None

    def _open(self, name: str) -> "onnxruntime.InferenceSession":
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"this model needs a package: {INSTALL}") from error
        options = onnxruntime.SessionOptions()
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                str(self.folder / name), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own kinds of error
            raise UserError(
                f"{self.folder / name} cannot be loaded ({first_line(error)}): export "
                "the model again"
            ) from error

    def style_vector(
        self,
        reference: Source | Sequence[Source],
        reference_fs: int | None = None,
        trim: bool = False,
    ) -> np.ndarray:
        """Compute the style vector of a voice, float32 (style_dim,).

        Args:
            reference: A file, samples, or a list of those: the style vectors of several
                recordings are averaged. See ``reference.load_reference``.
            reference_fs: Sampling rate of samples in Hz, by default the model's.
            trim: Remove silence at both ends; this needs librosa.
        """
        if self._style_encoder is None:
            self._style_encoder = self._open(STYLE_ENCODER)
        styles = []
        for source in list_sources(reference):
            samples = load_reference(source, self.fs, reference_fs, trim, "soxr")
            styles += self._style_encoder.run(None, {"samples": samples})
        return np.mean(styles, axis=0, dtype=np.float32)

    def tokenize(self, text: str) -> list[np.ndarray]:
        """Return the token ids of a text, one array for each part of a long one."""
        return tokenize(text, self.front_end)

    def __call__(
        self,
        text: str | np.ndarray,
        reference: Source | Sequence[Source] | None = None,
        style_vector: np.ndarray | None = None,
        voice: str | None = None,
        speed: float = 1.0,
    ) -> dict[str, np.ndarray]:
        """Speak one text in one voice.

        Args:
            text: A string of any length, or token ids without <eos> (T_text,).
            reference: The voice, see ``style_vector``.
            style_vector: The voice instead of a reference (style_dim,).
            voice: The voice instead of a reference, a name from ``voices``.
            speed: 2 speaks twice as fast.

        Returns:
            ``mel`` (T_feats, n_mels), denormalised; ``duration``, frames of each token
            and <eos> (T_text + 1,); and ``wav`` (T_wav,) at ``fs`` unless the model was
            exported without a vocoder. Parts of a long text are joined, with a pause in
            ``wav`` only.

        Raises:
            UserError: Text, voice or speed cannot be used.
        """
        style = self._choose_style(reference, style_vector, voice)
        require_positive("speed", speed)
        if isinstance(text, str):
            ids = self.tokenize(text)
        else:
            ids = [check_ids(text, len(self.front_end.known))]
        parts = [self._say(part, style, speed) for part in ids]
        pause = np.zeros(round(PAUSE_SECONDS * self.fs), np.float32)
        said = {}
        for name in parts[0]:
            pieces = [part[name] for part in parts]
            if name == "wav":
                pieces = [each for piece in pieces for each in (pause, piece)][1:]
            said[name] = np.concatenate(pieces)
        return said

    def _choose_style(self, reference, style_vector, voice) -> np.ndarray:
        given = [each is not None for each in (reference, style_vector, voice)]
        if sum(given) > 1:
            raise UserError("several voices were given: choose one")
        if reference is not None:
            style_vector = self.style_vector(reference)
        elif style_vector is None:
            if not self.voices:
                raise UserError(
                    "no voice was given: give reference, a recording of the voice, or "
                    "a style_vector"
                )
            name = next(iter(self.voices)) if voice is None else str(voice)
            if name not in self.voices:
                raise UserError(
                    f"there is no voice {name}: choose one of {', '.join(self.voices)}"
                )
            style_vector = self.voices[name]
        wanted, found = (self.settings["style_dim"],), type(style_vector).__name__
        with contextlib.suppress(TypeError, ValueError):
            style = np.asarray(style_vector, np.float32)
            if style.shape == wanted and np.isfinite(style).all():
                return style
            found = str(style.shape)
        raise UserError(
            f"a style vector of this model has finite values of the shape {wanted}, "
            f"found {found}: compute it with style_vector() of this model"
        )

    def _say(self, ids: np.ndarray, style: np.ndarray, speed: float) -> dict:
        inputs = {"tokens": ids, "style_vector": style}
        inputs["speed"] = np.array(speed, np.float32)
        mel, duration = self.acoustic.run(None, inputs)
        frames = int(duration.sum())
        if not np.isfinite(mel).all():
            raise UserError(
                "the model generates values that are not finite: use another "
                "reference, or export an earlier checkpoint"
            )
        if frames != len(mel):
            # the graph makes one frame of a text that would take all memory
            raise UserError(
                f"a text of {len(ids) + 1} tokens would take {frames} frames at speed "
                f"{speed:g}: choose a speed nearer to 1, or train the model longer"
            )
        said = {"mel": mel, "duration": duration}
        if self.vocoder is not None:
            (said["wav"],) = self.vocoder.run(None, {"mel": mel})
        return said


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a model, with the checksums of the files in its folder."""
    files = {file.name: digest(file) for file in sorted(folder.iterdir())}
    settings = {**settings, CHECKSUMS: files}
    settings[CHECKSUM] = _digest_settings(settings)
    text = json.dumps(settings, ensure_ascii=False, indent=1)
    write_text(folder / SETTINGS, f"{text}\n")


def _digest_settings(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings, and check that no file was changed."""
    path, remedy = folder / SETTINGS, "export the model again with espnet-prune export"
    settings = load_json(path, "an exported model", remedy, FORMAT)
    if settings.pop(CHECKSUM, None) != _digest_settings(settings):
        raise UserError(f"{path} was changed or damaged: {remedy}")
    for name, known in settings[CHECKSUMS].items():
        file = folder / name
        if not file.is_file() or digest(file) != known:
            raise UserError(f"{file} is missing or damaged: {remedy}")
    return settings
