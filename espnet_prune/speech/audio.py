"""Read and resample recordings, and measure their levels.

Reading refuses files that are not usable recordings: a file that is shorter than its
header declares, samples that are not finite, an impossible sampling rate. Callers check
other requirements (length, loudness, clipping).
"""

import io
import math
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written

HIGHEST_RATE = 768_000  # Hz
# Programs that write to a pipe do not know the size and write 0, or a size near the
# largest one, which differs between them.
UNKNOWN_SIZE = 0x7F000000
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile finds in the flac of a pipe
BLOCK = 2**20  # frames
# Formats whose header has no length, or a length that libsndfile does not check.
NEVER_WHOLE = ("AVR", "IRCAM", "MAT5", "MPC2K", "PAF", "PVF", "SD2", "WVE", "XI")
LARGEST_LACK = 0.05  # seconds that may be missing: some headers count themselves

# Quiet read speech lies near -40 dBFS, a muted microphone below -60 dBFS. A tenth of a
# second must be louder than this, so that a click is not enough.
SILENCE_DBFS = -50.0
MIN_LOUD_SECONDS = 0.1
# Pauses in speech lie at least this far below its loudest frame.
PAUSE_DB = 40.0
# Share of samples at the peak. Speech has a few in a million.
CLIPPED_WARNING = 0.001
CLIPPED_ERROR = 0.1
# A decoded mp3 may exceed 1, but not this much: larger samples are integers.
LARGEST_FLOAT = 10.0


class AudioError(UserError):
    """A file is not a usable recording.

    Attributes:
        reason: Short, the same for all faults of a kind.
        detail: The fault of this file.
    """

    def __init__(self, subject: str, reason: str, detail: str, remedy: str):
        super().__init__(f"{subject} {detail}: {remedy}")
        self.reason = reason
        self.detail = detail


class Header(NamedTuple):
    """Rate and length of a recording, from its header."""

    rate: int  # Hz
    frames: int
    channels: int
    # Other programs treat a recording whose header has the size 0 as empty.
    says_size: bool = True

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.frames / self.rate


class Recording(NamedTuple):
    """Samples (T, channels), float32, which may be only the beginning of the file."""

    samples: np.ndarray
    header: Header


def read_header(path: str | Path) -> Header:
    """Read rate and length of a recording without its samples."""
    return _read(path, "recording", 0.0).header


def read(
    path: str | Path, what: str = "recording", max_seconds: float | None = None
) -> Recording:
    """Read a recording of a format that libsndfile knows, except ``NEVER_WHOLE``.

    Args:
        path: The file.
        what: Description of the file for messages.
        max_seconds: Only the beginning of longer recordings is read.

    Raises:
        AudioError: The file is missing, not audio, or cut off, or its samples are NaN
            or infinite.
    """
    recording = _read(path, what, max_seconds)
    require_numbers(recording.samples, f"{what} {path}")
    return recording


def read_mono(path: str | Path, rate: int, resampler: str = "sinc") -> np.ndarray:
    """Read the mean of a recording's channels at ``rate`` Hz, float32 (T,)."""
    samples, header = read(path)
    return resample(samples.mean(axis=1), header.rate, rate, resampler)


def require_numbers(samples: np.ndarray, subject: str) -> None:
    """Refuse samples that are NaN or infinite."""
    bad = samples.size - int(np.isfinite(samples).sum())
    if bad:
        raise AudioError(
            subject,
            "samples that are not finite",
            f"has {bad} samples that are NaN or infinite",
            "make or export the recording again",
        )


def _read(path: str | Path, what: str, max_seconds: float | None) -> Recording:
    subject = f"{what} {path}"
    # not Path.is_file, which raises for a name that is too long
    if not os.path.isfile(path):
        detail = "is not a file" if os.path.exists(path) else "is missing"
        raise AudioError(subject, "missing file", detail, "name a recording")
    try:
        promised, present, at = _find_samples(path)
        says_size = promised != 0 or present == 0
        with _open(path, None if says_size else at) as file:
            whole = None
            if file.frames == UNKNOWN_FRAMES:
                whole, says_size = _read_to_end(path), False
            frames = file.frames if whole is None else len(whole)
            header = Header(file.samplerate, frames, file.channels, says_size)
            if file.format in NEVER_WHOLE:
                raise AudioError(
                    subject,
                    "unsupported format",
                    f"is a file of the format {file.format}, in which missing samples "
                    "would not be noticed",
                    "convert it to wav or flac",
                )
            if not 0 < header.rate <= HIGHEST_RATE:
                raise AudioError(
                    subject,
                    "unusable sampling rate",
                    f"has the sampling rate {header.rate} Hz",
                    "convert it to wav or flac with the rate of the recording",
                )
            wanted = header.frames
            if max_seconds is not None:
                wanted = min(wanted, math.ceil(max_seconds * header.rate))
            samples = whole
            if samples is None:
                samples = file.read(wanted, dtype="float32", always_2d=True)
            samples = samples[:wanted]
            lacks_end = _LACKS_END.search(file.extra_info)
    except (soundfile.LibsndfileError, OSError, MemoryError, TypeError) as error:
        # TypeError is from a .raw, MemoryError from a length that no file has
        raise AudioError(
            subject,
            "unreadable audio",
            f"cannot be read as audio ({' '.join(str(error).split())})",
            "convert it to wav or flac",
        ) from error
    if promised < UNKNOWN_SIZE and present < promised:
        lack = header.seconds * (promised / present - 1) if present else math.inf
        if lack > LARGEST_LACK:
            raise _cut_off(subject, present / promised)
    if len(samples) < wanted:
        raise _cut_off(subject, len(samples) / wanted)
    if not promised and lacks_end:
        raise _cut_off(subject)
    return Recording(samples, header)


# What libsndfile notes about a voc, a mat or an ogg. A recorder that was stopped leaves
# an ogg without an end too, but not with a part of a page.
_LACKS_END = re.compile(
    r"truncated file|File seems to be truncated"
    r"|Last page lacks an end-of-stream bit\.\s+Ogg ?: Junk after the last page"
)


def _cut_off(subject: str, share: float | None = None) -> AudioError:
    found = "its end is missing"
    if share is not None:
        found = f"{100 * share:.0f} % of the samples in its header exist"
    return AudioError(
        subject, "cut off", f"is cut off: {found}", "copy or export it again"
    )


class _Stream(soundfile.SoundFile):
    """A recording without a length, in which libsndfile can find no place."""

    def seekable(self) -> bool:
        return False


def _read_to_end(path: str | Path) -> np.ndarray:
    """Read the samples (T, channels) of a recording without a length."""
    blocks: list[np.ndarray] = []
    with _Stream(os.fsencode(path)) as file:
        while not blocks or len(blocks[-1]) == BLOCK:
            blocks.append(file.read(BLOCK, dtype="float32", always_2d=True))
    return np.concatenate(blocks)


def _find_samples(path: str | Path) -> tuple[int, int, int]:
    """Find the samples of a recording whose format declares their size.

    Returns:
        The bytes that its header declares, those that exist, and where they begin, if
        an unknown size can be replaced there; 0 for formats such as flac, because
        libsndfile notices missing parts of them.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
        total = os.fstat(file.fileno()).st_size
        if head.startswith(b".snd"):
            start, size = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
            return (size, total - start, 0) if size else (0, 0, 0)
        if head.startswith(b"NIST_1A"):
            return _find_in_sphere(head, total)
        if head.startswith(b"riff"):
            return _find_in_wave64(file, total)
        return _find_in_chunks(file, total)


def _find_in_chunks(file: BinaryIO, total: int) -> tuple[int, int, int]:
    """Find the samples of wav, RF64 and aiff."""
    file.seek(0)
    kind, long_size = file.read(12)[:4], None
    while kind in (b"RIFF", b"RF64", b"FORM") and len(chunk := file.read(8)) == 8:
        size = int.from_bytes(chunk[4:], "big" if kind == b"FORM" else "little")
        if chunk[:4] == b"ds64":  # the sizes of the file and of its samples
            body = file.read(size + size % 2)
            long_size = int.from_bytes(body[8:16], "little")
            continue
        if chunk[:4] in (b"data", b"SSND", b"BODY"):
            start = file.tell()
            if long_size is not None:
                return long_size, total - start, 0
            return size, total - start, start
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0, 0


def _find_in_sphere(head: bytes, total: int) -> tuple[int, int, int]:
    """Find the samples of NIST SPHERE, which counts them in lines of text."""
    found = dict.fromkeys((b"sample_count", b"channel_count", b"sample_n_bytes"), 0)
    for line in head.split(b"\n"):
        words = line.split()
        if len(words) == 3 and words[0] in found and words[2].isdigit():
            found[words[0]] = int(words[2])
    start = head.split(b"\n")[1].strip() if head.count(b"\n") else b""
    if not (start.isdigit() and all(found.values())):
        return 0, 0, 0
    return math.prod(found.values()), total - int(start), 0


def _find_in_wave64(file: BinaryIO, total: int) -> tuple[int, int, int]:
    """Find the samples of Sony Wave64, whose chunks are numbered by GUID."""
    file.seek(40)
    while len(chunk := file.read(24)) == 24:
        size = int.from_bytes(chunk[16:], "little") - 24
        if chunk[:4] == b"data":
            return size, total - file.tell(), 0
        file.seek(min(total, max(0, size + -size % 8)), os.SEEK_CUR)
    return 0, 0, 0


def _open(path: str | Path, samples_at: int | None) -> soundfile.SoundFile:
    """Open a recording; if given, the size before ``samples_at`` is 0.

    libsndfile would read no samples in this case.
    """
    if samples_at is None:
        return soundfile.SoundFile(os.fsencode(path))
    content = bytearray(Path(path).read_bytes())
    content[samples_at - 4 : samples_at] = b"\xff" * 4
    return soundfile.SoundFile(io.BytesIO(content))


def write_mono(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write (T,) as FLAC of 16 bits, quieter if it would exceed full scale."""
    samples = samples / max(1.0, float(np.abs(samples).max(initial=0.0)))
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="FLAC", subtype="PCM_16")
    with replace_when_written(path) as partial:
        partial.write_bytes(content.getvalue())


def write_speech(
    path: str | Path, samples: np.ndarray, rate: int, kind: str = "WAV"
) -> None:
    """Write synthetic speech (T,) as 16 bits; the file says that it is synthetic.

    The comment informs honest users. It does not prevent deceit, because it can be
    removed.

    Raises:
        OSError: The file cannot be written, for instance because the disk is full.
    """
    # libsndfile would not say why it cannot write a file
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", rate, 1, "PCM_16", format=kind) as file:
        file.comment = "Synthetic speech, made by espnet_prune"
        file.write(samples)
    Path(path).write_bytes(content.getvalue())


def resample(
    samples: np.ndarray, rate: int, fs: int, resampler: str = "sinc"
) -> np.ndarray:
    """Resample from one rate to another.

    Args:
        samples: Float32 (T,).
        rate: Their rate in Hz.
        fs: The wanted rate in Hz.
        resampler: "sinc" (torchaudio) for inputs of models, or "soxr", which is fast
            and does not import torch, for speech to score, to align or to train on.
            Models and scores of earlier versions used these, and their results differ
            in the fourth digit.

    Returns:
        np.ndarray: Float32 (T * fs / rate,), rounded up.
    """
    if rate == fs or not len(samples):
        return samples
    if resampler == "soxr":
        import soxr

        found = soxr.resample(samples, rate, fs, quality="HQ")
        length = math.ceil(len(samples) * fs / rate)
        return np.pad(found, (0, max(0, length - len(found))))[:length]
    import torch
    import torchaudio

    # The filter has (rate / gcd) * (fs / gcd) taps: gigabytes for a rate such as
    # 44099 Hz. Using 44100 Hz instead changes the pitch by less than 0.2 %.
    if max(rate, fs) // math.gcd(rate, fs) > 2000:
        rate = max(25, 25 * round(rate / 25))
    speech = torch.from_numpy(np.ascontiguousarray(samples))
    if rate != fs:
        speech = torchaudio.functional.resample(speech, rate, fs)
    return speech.numpy()


# ------------------------------------------------------------------------ the levels


def clipped_share(samples: np.ndarray) -> float:
    """Return the share of samples (T, channels) at the peak, for the worst channel."""
    peaks = np.abs(samples).max(axis=0)
    at_peak = (np.abs(samples) >= 0.999 * peaks).mean(axis=0)
    return float(at_peak[peaks > 0].max(initial=0.0))


def frame_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the level of 20 ms frames of (T,) in dBFS, without direct current."""
    width = max(1, rate // 50)
    frames = samples[: len(samples) // width * width].reshape(-1, width)
    offset = samples.mean() if len(samples) else 0.0
    power = np.square(frames - offset, dtype=np.float64).mean(axis=1)
    return 10 * np.log10(power + 1e-20)


def is_silent(level: np.ndarray) -> bool:
    """Return whether too few of these ``frame_levels`` are loud enough for speech."""
    return bool((level > SILENCE_DBFS).sum() * 0.02 < MIN_LOUD_SECONDS)
