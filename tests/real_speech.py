"""Short real recordings, and trees of them laid out as the public corpora are.

They are the AN4 recordings that ESPnet ships for its own debug recipes.
"""

import functools
import io
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import pytest
import soundfile

ROOT = Path(os.environ.get("ESPNET_ROOT", "no ESPNET_ROOT"))
ARCHIVE = ROOT / "egs2" / "mini_an4" / "asr1" / "downloads.tar.gz"


class Recording(NamedTuple):
    """Real speech at 16 kHz (T_wav,) and its words."""

    wave: np.ndarray
    words: str


@functools.cache
def an4() -> dict[str, Recording]:
    """Read all AN4 recordings with their words; skips the test without ESPnet."""
    if not ARCHIVE.exists():
        pytest.skip("needs ESPnet's recipes: set ESPNET_ROOT")
    found, words = {}, {}
    with tarfile.open(ARCHIVE) as tar:
        for member in tar.getmembers():
            if member.name.endswith(".transcription"):
                for line in io.TextIOWrapper(tar.extractfile(member)):
                    text, name = line.rstrip(")\n").split(" (")
                    words[name] = text.replace("<s>", "").replace("</s>", "").strip()
        for member in tar.getmembers():
            name = Path(member.name).stem
            if member.name.endswith(".sph") and name in words:
                content = io.BytesIO(tar.extractfile(member).read())
                wave, rate = soundfile.read(content, dtype="float32")
                assert rate == 16000
                found[name] = Recording(wave, words[name].lower())
    return found


# Three speakers, each with a recording that is long enough for a reference and one
# that is not: what is said in them need not be what the names stand for.
SPEAKERS = {
    "p225": ("cen8-fbbh-b", "an251-fash-b"),
    "p234": ("cen8-mwhw-b", "an152-mwhw-b"),
    "p300": ("cen8-fcaw-b", "an253-fash-b"),
}
LONG, SHORT = 12, 38  # numbers of their recordings


def write_audio(path: Path, wave: np.ndarray, rate: int = 16000) -> None:
    """Write 16 bit speech, resampled from 16 kHz, in the format of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if rate != 16000:
        wave = librosa.resample(wave, orig_sr=16000, target_sr=rate)
    soundfile.write(path, wave, rate, "PCM_16")


def write_vctk(folder: Path, release: str = "0.92") -> Path:
    """Lay three speakers out as VCTK, with p315 (no texts) and, in 0.92, s5."""
    new = release == "0.92"
    audio = folder / ("wav48_silence_trimmed" if new else "wav48")
    ending = "_mic1.flac" if new else ".wav"
    speakers = {**SPEAKERS, "p315": SPEAKERS["p225"]}
    if new:
        speakers["s5"] = SPEAKERS["p225"]
    for speaker, names in speakers.items():
        for number, name in zip((LONG, SHORT), names, strict=True):
            utterance = f"{speaker}_{number:03d}"
            write_audio(
                audio / speaker / f"{utterance}{ending}", an4()[name].wave, 48000
            )
            if speaker != "p315":
                text = folder / "txt" / speaker / f"{utterance}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text(f"{an4()[name].words.capitalize()}.\n")
    (folder / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS\n")
    return folder


LIBRI = {
    "1089": ("134686", ("cen8-fbbh-b", "cen8-mmxg-b", "cen8-fcaw-b")),
    "367": ("130732", ("cen8-mwhw-b", "cen8-mmxg-b", "an253-fash-b")),
}


def write_librispeech(folder: Path, part: str = "test-other") -> Path:
    """Lay two speakers out as LibriSpeech."""
    for speaker, (chapter, names) in LIBRI.items():
        root = folder / part / speaker / chapter
        lines = []
        for number, name in enumerate(names):
            utterance = f"{speaker}-{chapter}-{number:04d}"
            write_audio(root / f"{utterance}.flac", an4()[name].wave)
            lines.append(f"{utterance} {an4()[name].words.upper()}\n")
        (root / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


def write_libritts(folder: Path, part: str = "train-clean-100") -> Path:
    """Lay two speakers out as LibriTTS."""
    for speaker, (chapter, names) in LIBRI.items():
        root = folder / part / speaker / chapter
        for number, name in enumerate(names):
            utterance = f"{speaker}_{chapter}_{number:06d}_000000"
            write_audio(root / f"{utterance}.wav", an4()[name].wave, 24000)
            text = f"{an4()[name].words.capitalize()}."
            (root / f"{utterance}.normalized.txt").write_text(text)
            (root / f"{utterance}.original.txt").write_text(text)
    return folder
