#!/usr/bin/env python3
"""Make a corpus of synthetic speech in many voices with Kokoro-82M.

local/synthetic.py TEXTS FOLDER --model kokoro-v1.0.onnx --voices voices-v1.0.bin

FOLDER becomes a Kaldi folder that ``run.sh --train_data`` takes. The voices are those
of Kokoro-82M and mixtures of two or three of them. They belong to no living person. If
you publish a model that was trained on them, say that its data are synthetic. After an
interruption, make the same call again to continue.

Needs ``pip install kokoro-onnx`` and its two files, which the page of that package
links.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from espnet_prune.cli.options import make_parser
from espnet_prune.data.kaldi import Row, write_folder
from espnet_prune.errors import UserError, run
from espnet_prune.files import lock_folder
from espnet_prune.speech.audio import write_mono
from espnet_prune.text.normalise import read_lines

RATE = 24000
# A voice with a larger share than this is nearly the voice itself.
LARGEST_SHARE = 0.8
SPEEDS = 0.92, 1.1


class Voice(NamedTuple):
    """A voice: the shares of Kokoro's voices in it, which sum to 1."""

    name: str
    shares: dict[str, float]


def draw_voices(names: Sequence[str], count: int, seed: int) -> list[Voice]:
    """Return ``count`` voices: those with ``names`` first, then mixtures of them."""
    voices = [Voice(name, {name: 1.0}) for name in names[:count]]
    draw = np.random.default_rng(seed)
    while len(voices) < count:
        parts = draw.choice(names, draw.integers(2, 4), replace=False)
        shares = draw.dirichlet(np.full(len(parts), 2.0))
        if shares.max() <= LARGEST_SHARE:
            mixture = dict(zip(map(str, parts), shares.tolist(), strict=True))
            voices.append(Voice(f"mix{len(voices) - len(names):03d}", mixture))
    return voices


def plan(
    texts: Sequence[str], voices: Sequence[Voice], sentences: int, seed: int
) -> Iterator[tuple[str, Voice, float, str]]:
    """Yield (utterance, voice, speed, text), always the same for the same arguments.

    Every voice says its first sentence before the first voice says its second, and no
    text is said twice.
    """
    draw = random.Random(seed)
    texts = draw.sample(texts, len(texts))
    for number in range(sentences):
        for place, voice in enumerate(voices):
            text = texts[number * len(voices) + place]
            speed = round(draw.uniform(*SPEEDS), 2)
            yield f"{voice.name}-{number:02d}", voice, speed, text


def speak(kokoro, voice: Voice, speed: float, text: str) -> np.ndarray:
    """Return the samples of a text, at most 0.9 high, at 24 kHz."""
    style = sum(share * kokoro.voices[name] for name, share in voice.shares.items())
    wave, rate = kokoro.create(text, style.astype(np.float32), speed)
    if rate != RATE:
        raise UserError(f"the model speaks at {rate} Hz, not {RATE}: take Kokoro-82M")
    return wave * min(1.0, 0.9 / max(np.abs(wave).max(), 1e-9))


def make(kokoro, folder: Path, jobs: Sequence[tuple[str, Voice, float, str]]) -> None:
    """Write the recordings that are missing, and then the files of a Kaldi folder."""
    (folder / "audio").mkdir(exist_ok=True)
    rows: list[Row] = []
    for name, voice, speed, text in tqdm(jobs, desc="Speaking", unit="text"):
        file = folder / "audio" / f"{name}.flac"
        if not file.exists():
            write_mono(file, speak(kokoro, voice, speed, text), RATE)
        values = {"utt2spk": voice.name, "text": text, "wav.scp": f"audio/{name}.flac"}
        rows.append({"utterance": name, **values})
    write_folder(folder, rows)
    voices = {row["utt2spk"] for row in rows}
    print(f"{folder}: {len(rows)} recordings in {len(voices)} voices")


def main(cmd: Sequence[str] | None = None) -> None:
    """Check what is given, then make the corpus."""
    parser = make_parser(
        "Make a corpus of synthetic speech in many voices with Kokoro-82M"
    )
    add = parser.add_argument
    add("texts", type=Path, help="file with one English sentence per line")
    add("folder", type=Path, help="Kaldi folder to write")
    add("--model", type=Path, required=True, help="ONNX file of Kokoro-82M")
    add("--voices", type=Path, required=True, help="its voices, in one file")
    add("--num_voices", type=int, default=300, help="number of voices")
    add("--sentences", type=int, default=10, help="per voice")
    add("--seed", type=int, default=0, help="of all draws")
    args = parser.parse_args(cmd)
    try:
        from kokoro_onnx import Kokoro
    except ImportError:
        raise UserError("kokoro-onnx is missing: pip install kokoro-onnx") from None
    texts = sorted({line for line in map(str.strip, read_lines(args.texts)) if line})
    if min(args.num_voices, args.sentences) < 1:
        raise UserError("--num_voices and --sentences must be 1 or more")
    if len(texts) < args.num_voices * args.sentences:
        raise UserError(
            f"{args.texts} has {len(texts)} different sentences, but "
            f"{args.num_voices} voices with {args.sentences} each need "
            f"{args.num_voices * args.sentences}: lower --num_voices or --sentences"
        )
    for file in (args.model, args.voices):
        if not file.is_file():
            raise UserError(f"there is no {file}: see the page of kokoro-onnx for it")
    kokoro = Kokoro(str(args.model), str(args.voices))
    voices = draw_voices(sorted(kokoro.voices), args.num_voices, args.seed)
    jobs = list(plan(texts, voices, args.sentences, args.seed))
    with lock_folder(args.folder, "local/synthetic.py"):
        make(kokoro, args.folder, jobs)


if __name__ == "__main__":
    run(main)
