"""Reference speech: load a recording of a voice, check it and resample it.

In training, the reference is the target utterance: the whole recording with its pauses,
at its own level. So references are not trimmed by default, and never levelled.
Recordings unlike any in training (silence, a tenth of a second, samples out of range)
are refused. Other problems give a warning.
"""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_prune.config import is_number
from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError, first_line
from espnet_prune.speech import audio

if TYPE_CHECKING:
    import torch

type Source = str | Path | np.ndarray | torch.Tensor

# Half a second is about two syllables; it is 31 frames at 16 kHz and hop 256, where
# the style encoder's two convolutions of width 5 see 9. VCTK-style references have
# at least 2 s; with shorter ones, the voice depends on the words that are spoken.
MIN_SECONDS = 0.5
ADVISED_SECONDS = 2.0
# Training utterances end at 20 s in ESPnet's recipes, and the style encoder's
# self-attention needs memory proportional to the square of the length.
MAX_SECONDS = 30.0
MIN_RATE = 4000

INTEGER_SCALE = {
    np.dtype(np.uint8): (128, 128),
    np.dtype(np.int16): (0, 2**15),
    np.dtype(np.int32): (0, 2**31),
}


def list_sources(reference: Source | Sequence[Source]) -> Sequence[Source]:
    """Return one or several references as a list, which must not be empty."""
    if not isinstance(reference, (list, tuple)):
        return [reference]  # type: ignore[list-item]  # a str is a sequence too
    if not reference:
        raise UserError("the list of references is empty: give one or more")
    return reference


def load_reference(
    source: Source,
    fs: int,
    reference_fs: int | None = None,
    trim: bool = False,
    resampler: str = "sinc",
) -> np.ndarray:
    """Load, check and convert one reference recording.

    Args:
        source: An audio file that libsndfile reads, at any rate, with any number of
            channels; or samples (T,), (T, channels) or (channels, T) as floats within
            [-1, 1] or 8 bit unsigned, 16 bit or 32 bit integers.
        fs: Sampling rate of the model in Hz.
        reference_fs: Sampling rate of the samples in Hz, by default ``fs``. A file has
            its own rate.
        trim: Remove silence at both ends. Off by default, because training references
            are whole utterances.
        resampler: As of ``audio.resample``; "soxr" does not need torch.

    Returns:
        Mono speech at ``fs``, float32, within [-1, 1] (T,).

    Raises:
        UserError: The reference is missing, unreadable, empty, too short, silent,
            mostly clipped, or its samples are not audio.
    """
    name, samples, rate = _read(source, fs, _whole(reference_fs))
    audio.require_numbers(samples, f"reference {name}")
    _check_length(name, len(samples) / rate)
    peak = np.abs(samples).max()
    if peak > audio.LARGEST_FLOAT:
        raise UserError(
            f"reference {name} has values up to {peak:.0f}, but samples must lie "
            "within [-1, 1]: divide 16-bit samples by 32768"
        )
    clipped = audio.clipped_share(samples)
    channels = samples.shape[1]
    samples = samples.mean(axis=1)
    if trim:
        import librosa

        samples, _ = librosa.effects.trim(samples, top_db=audio.PAUSE_DB)
        _check_length(f"{name} without silence", len(samples) / rate)
    _check_loudness(name, samples, rate, channels)
    _check_clipping(name, clipped)
    if len(samples) / rate < ADVISED_SECONDS:
        logging.warning(
            f"reference {name} lasts {len(samples) / rate:.1f} s: use a recording of "
            f"{ADVISED_SECONDS:.0f} s or more"
        )
    if rate < 0.7 * fs:
        logging.warning(
            f"reference {name} was sampled at {rate} Hz and the model speaks at {fs} "
            "Hz: its upper band is empty, use a recording with a higher rate"
        )
    speech = audio.resample(samples, rate, fs, resampler)
    return speech / np.float32(max(1.0, np.abs(speech).max()))


def read_speaker(
    text2speech: Any, data_dir: Path, name: str, spembs: Path | None = None
) -> dict[str, np.ndarray]:
    """Read the inputs about a speaker that a model uses besides or without a reference.

    Args:
        text2speech: ESPnet's ``Text2Speech`` with the model.
        data_dir: Kaldi folder with ``utt2sid`` and ``utt2lid`` as ESPnet makes them.
        name: Utterance.
        spembs: scp file of speaker embeddings.

    Returns:
        The inputs that the model uses, from ``sids``, ``lids`` and ``spembs``.
    """
    found = {}
    for key, file in (("sids", "utt2sid"), ("lids", "utt2lid")):
        if getattr(text2speech, f"use_{key}"):
            numbers = data_dir / file
            if not numbers.is_file():
                raise UserError(
                    f"{data_dir} contains no {file}, which this model needs: give the "
                    "decoded folder of dump/raw"
                )
            table = read_columns(numbers)
            if not table.get(name, "").isdigit():
                raise UserError(f"{numbers} has no number for {name}: add it")
            found[key] = np.array([int(table[name])])
    if spembs is not None and not text2speech.use_spembs:
        logging.warning("this model uses no speaker embeddings: --spembs is ignored")
    if text2speech.use_spembs:
        if spembs is None or not Path(spembs).is_file():
            raise UserError(
                f"there is no {spembs or 'speaker embedding'}, which this model "
                "needs: give the scp file of embeddings with --spembs"
            )
        from omniio import kaldi

        embeddings = kaldi.load_scp(str(spembs))
        if name not in embeddings:
            raise UserError(f"{spembs} has no embedding of {name}: add it")
        found["spembs"] = np.array(embeddings[name])
    return found


def _whole(rate: Any) -> int | None:
    """Refuse a sampling rate in Hz that is not a whole number; 22050.0 is one."""
    if rate is None:
        return None
    if not is_number(rate) or rate != rate // 1:
        raise UserError(f"reference_fs is {rate}: give a whole number of Hz")
    return int(rate)


def _read(
    source: Source, fs: int, reference_fs: int | None
) -> tuple[str, np.ndarray, int]:
    """Return the reference's name, its float32 samples (T, channels) and rate."""
    if isinstance(source, (str, Path)):
        name = str(source)
        samples, header = audio.read(source, "reference", MAX_SECONDS)
        rate, total = header.rate, header.frames
    elif isinstance(source, np.ndarray) or _is_tensor(source):
        name = f"array of shape {tuple(source.shape)}"
        rate = fs if reference_fs is None else reference_fs
        samples = _as_float(name, source)
        total = len(samples)
        samples = samples[: math.ceil(MAX_SECONDS * rate)]
    else:
        raise UserError(
            f"a reference should be a file or samples, found {type(source).__name__}: "
            "give a path, a numpy array or a tensor"
        )
    if rate < MIN_RATE:
        raise UserError(
            f"reference {name} has the sampling rate {rate} Hz, wanted at least "
            f"{MIN_RATE} Hz: give the rate of the recording"
        )
    if total > len(samples) >= MAX_SECONDS * rate:
        logging.warning(
            f"reference {name} lasts {total / rate:.1f} s: only its first "
            f"{MAX_SECONDS:.0f} s are used"
        )
    return name, samples, rate


def _is_tensor(source: object) -> bool:
    """Return whether this is a tensor; there is none if torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _as_float(name: str, source: "np.ndarray | torch.Tensor") -> np.ndarray:
    """Convert samples of any layout and type to float32 (T, channels)."""
    if not isinstance(source, np.ndarray):
        try:
            source = source.detach().cpu()
            source = (source.float() if source.is_floating_point() else source).numpy()
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise UserError(
                f"reference {name} cannot be read ({first_line(error)}): give a dense "
                "tensor of samples"
            ) from error
    source = np.asarray(source)  # also of a masked array or another kind
    if source.ndim == 1:
        source = source[:, None]
    if source.ndim != 2 or (source.size == 0 and max(source.shape) > 1):
        raise UserError(
            f"reference {name} should have the shape (T,), (T, channels) or "
            "(channels, T): give the samples of one recording"
        )
    if source.shape[0] < source.shape[1]:
        source = source.T
    if source.dtype in INTEGER_SCALE:
        middle, scale = INTEGER_SCALE[source.dtype]
        return ((source.astype(np.float64) - middle) / scale).astype(np.float32)
    if not np.issubdtype(source.dtype, np.floating):
        raise UserError(
            f"reference {name} has samples of type {source.dtype}, whose full scale is "
            "unknown: give floats within [-1, 1] or int16"
        )
    return source.astype(np.float32)


def _check_length(name: str, seconds: float) -> None:
    if seconds == 0:
        raise UserError(f"reference {name} is empty: record some seconds of speech")
    if seconds < MIN_SECONDS:
        raise UserError(
            f"reference {name} lasts {seconds:.2f} s, wanted at least {MIN_SECONDS} s: "
            "use a longer recording"
        )


def _check_clipping(name: str, clipped: float) -> None:
    if clipped > audio.CLIPPED_ERROR:
        raise UserError(
            f"reference {name} is clipped: {100 * clipped:.0f} % of its samples are at "
            "the peak; record it at a lower level"
        )
    if clipped > audio.CLIPPED_WARNING:
        logging.warning(
            f"reference {name} is clipped: {100 * clipped:.1f} % of its samples are at "
            "the peak; the voice will sound distorted"
        )


def _check_loudness(name: str, samples: np.ndarray, rate: int, channels: int) -> None:
    level = audio.frame_levels(samples, rate)
    if audio.is_silent(level):
        mixed = f" after mixing its {channels} channels" if channels > 1 else ""
        raise UserError(
            f"reference {name} is silent{mixed}: its level reaches {level.max():.0f} "
            f"dBFS, wanted {audio.MIN_LOUD_SECONDS} s of speech above "
            f"{audio.SILENCE_DBFS:.0f} dBFS; record it louder"
        )
    pauses = (level < level.max() - audio.PAUSE_DB).mean()
    if pauses > 0.5:
        logging.warning(
            f"reference {name} is silent for {100 * pauses:.0f} % of its length: use "
            "a recording with fewer pauses (trim=True or --trim_reference removes "
            "those at both ends)"
        )
