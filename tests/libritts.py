"""A tree that looks like LibriTTS and its labels, of real short recordings."""

import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_prune.text import arpabet

ROOT = Path(__file__).resolve().parents[1]
ESPNET = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools" / "espnet"))
AN4 = ESPNET / "egs2" / "mini_an4" / "asr1" / "downloads.tar.gz"
FS = 24000  # of LibriTTS, Hz

# part: reader: number of utterances. 103 and 1034 sort differently as readers and as
# the beginnings of READER_CHAPTER.
READERS = {
    "train-clean-100": {"103": 3, "1034": 2},
    "train-clean-360": {"14": 3, "100": 2},
    "dev-clean": {"84": 2, "174": 1},
    "test-clean": {"1089": 3, "121": 3},
}
SENTENCES = (
    "Eleven, seventeen; fifty one!",
    "Mr. Quilter is the apostle of the middle classes.",
    "“Yes,” said October, “the twenty third.”",
    "Start again -- and stop.",
)

needs_recordings = pytest.mark.skipif(
    not AN4.exists(), reason="needs ESPnet's recipes: ESPNET_ROOT"
)


def copy_recipe(folder):
    """Copy the recipe, so that the checkout gets none of its products.

    Its folder is returned. Nothing is set up there: the environment of the tests is
    used.
    """
    products = ("data", "dump", "exp", "downloads", "utils", "steps", "scripts")
    ignored = shutil.ignore_patterns(*products, "pyscripts")
    for name in ("conf", "egs2/TEMPLATE", "egs2/libritts"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    setup = folder / "egs2" / "setup.sh"
    setup.write_text("#!/bin/sh\n")
    setup.chmod(0o755)
    return folder / "egs2" / "libritts" / "tts1"


def environment(**variables):
    """Variables under which a copied recipe finds this package and ESPnet's recipes."""
    return dict(
        os.environ,
        ESPNET_ROOT=str(ESPNET),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
        **{name: str(value) for name, value in variables.items()},
    )


def an4_recordings():
    """Read the recordings of ESPnet's mini_an4, at 24 kHz (T_wav,)."""
    import librosa

    found = []
    with tarfile.open(AN4) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.name.endswith(".sph"):
                content = io.BytesIO(archive.extractfile(member).read())
                samples, rate = soundfile.read(content, dtype="float32")
                found.append(librosa.resample(samples, orig_sr=rate, target_sr=FS))
    return found


def noise(seconds, seed=0):
    """Make noise that stands for a recording at 24 kHz."""
    samples = np.random.default_rng(seed).uniform(-0.2, 0.2, int(seconds * FS))
    return samples.astype(np.float32)


def label_lines(text, seconds):
    """Make the lines of a .lab file: START, END, PHONE; evenly, to two decimals."""
    phones = arpabet.to_tokens(text)
    phones = ["sil", *phones[1:-1], "sp", ""]  # an aligner's two pauses at the end
    times = np.round(np.linspace(0, seconds, len(phones) + 1), 2)
    return "".join(
        f"{start:g}\t{end:g}\t{phone}\n"
        for start, end, phone in zip(times[:-1], times[1:], phones, strict=True)
    )


def utterances(part=None):
    """Yield (part, reader, chapter, name) of every recording of the tree."""
    for name, readers in READERS.items():
        for reader, number in readers.items():
            for n in range(number):
                chapter = str(121000 + n % 2)
                stem = f"{reader}_{chapter}_{n:06d}_{7 - n:06d}"
                if part in (None, name):
                    yield name, reader, chapter, stem


def make_corpus(folder, recordings=None):
    """Write LibriTTS/PART/READER/CHAPTER/READER_CHAPTER_PARAGRAPH_SENTENCE.wav etc.

    Args:
        folder: gets LibriTTS.
        recordings: samples at 24 kHz, each used in turn; noise if None.
    """
    corpus = folder / "LibriTTS"
    for n, (part, reader, chapter, stem) in enumerate(utterances()):
        path = corpus / part / reader / chapter / f"{stem}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = noise(2.0 + 0.31 * n, n)
        if recordings is not None:  # two of them, for AN4's are short
            samples = [recordings[(n + i) % len(recordings)] for i in (0, 3)]
            samples = np.concatenate(samples)
        soundfile.write(path, samples, FS, "PCM_16")
        text = SENTENCES[n % len(SENTENCES)]
        path.with_suffix(".original.txt").write_text(text)
        path.with_suffix(".normalized.txt").write_text(text)
        trans = path.parent / f"{reader}_{chapter}.trans.tsv"
        with trans.open("a") as file:
            file.write(f"{stem}\t{text}\t{text}\n")
        (path.parent / f"{reader}_{chapter}.book.tsv").touch()
    for name in ("SPEAKERS.txt", "BOOKS.txt", "CHAPTERS.txt", "README_librispeech.txt"):
        (corpus / name).write_text("; as published\n")
    return corpus


def make_labels(folder, corpus):
    """Write lab/phone/PART/READER/CHAPTER/READER_CHAPTER_PARAGRAPH_SENTENCE.lab."""
    for part, reader, chapter, stem in utterances():
        wav = corpus / part / reader / chapter / f"{stem}.wav"
        path = folder / "lab" / "phone" / part / reader / chapter / f"{stem}.lab"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = wav.with_suffix(".normalized.txt").read_text()
        path.write_text(label_lines(text, soundfile.info(wav).duration))
    return folder
