"""Distance of test speakers to the training speakers.

The distance of a speaker is the cosine distance of its embeddings to the nearest
training speaker; that of a test set is the mean over its speakers.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.scoring import read_wavs
from espnet_prune.evaluation.speaking import digest
from espnet_prune.files import Journal

if TYPE_CHECKING:
    from espnet_prune.evaluation.backends import SpeakerEncoder


def read_voices(folder: Path, most: int) -> dict[str, list[Path]]:
    """Return up to ``most`` recordings of each speaker of a Kaldi folder.

    They are spread evenly over the speaker's recordings, in the order of their names.
    """
    wavs, speakers = read_wavs(folder / "wav.scp"), read_columns(folder / "utt2spk")
    voices: dict[str, dict[Path, None]] = {}
    for name in sorted(wavs):
        if name not in speakers:
            raise UserError(f"{folder / 'utt2spk'} lacks {name} of wav.scp; add it")
        voices.setdefault(speakers[name], {})[wavs[name]] = None
    spread = {}
    for speaker, paths in voices.items():
        number = min(most, len(paths))
        index = np.linspace(0, len(paths) - 1, number).round().astype(int)
        spread[speaker] = [list(paths)[each] for each in index]
    return spread


def embed(
    voices: Iterable[Mapping[str, Sequence[Path]]],
    encoder: "SpeakerEncoder",
    store: Path,
) -> list[dict[str, np.ndarray]]:
    """Embed the recordings of every speaker of several folders.

    Args:
        voices: Speaker -> recordings, of each folder.
        encoder: Speaker encoder.
        store: File that keeps the embeddings, so that each is computed once.

    Returns:
        Speaker -> embeddings (recordings, D) of each folder. Recordings without speech
        are left out, and so are speakers without any other.
    """
    from tqdm import tqdm

    voices = list(voices)
    number = sum(len(paths) for folder in voices for paths in folder.values())
    found: list[dict[str, np.ndarray]] = []
    with Journal(store, encoder.version()) as known, tqdm(total=number) as progress:
        progress.set_description("voices")
        for folder in voices:
            embedded = {}
            for speaker, paths in folder.items():
                vectors = []
                for path in paths:
                    progress.update()
                    key = digest(path)
                    if key not in known.known:
                        voice = encoder.voice(path)
                        known.add(key, None if voice is None else voice.tolist())
                    if known.known[key] is not None:
                        vectors.append(known.known[key])
                if vectors:
                    embedded[speaker] = np.array(vectors)
            found.append(embedded)
    return found


def nearest_distances(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the distance of each test speaker to the nearest training speaker.

    Both are given as speaker -> embeddings of length 1 (recordings, D). A training
    speaker is the mean of its embeddings, of length 1. The distance of a test speaker
    to it is the mean over the test speaker's recordings, so that a speaker with few
    recordings is not further away for this reason.
    """
    centres = np.stack([vectors.mean(axis=0) for vectors in train.values()])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return {
        speaker: float(1 - (vectors @ centres.T).mean(axis=0).max())
        for speaker, vectors in test.items()
    }


def measure_distances(
    train: Sequence[Path],
    sets: Mapping[str, Sequence[Path]],
    output_dir: Path,
    most: int,
) -> dict[str, dict[str, float]]:
    """Measure the distance of every speaker of every set, and write distances.csv.

    ``train`` and ``sets`` name Kaldi folders; up to ``most`` recordings of a speaker
    are embedded.
    """
    from espnet_prune.evaluation.backends import Resemblyzer

    named = [("", folder) for folder in train]
    named += [(name, folder) for name, folders in sets.items() for folder in folders]
    voices = [read_voices(folder, most) for _, folder in named]
    store = output_dir / "voices.jsonl"
    encoder = Resemblyzer()
    try:
        encoder.version()
    except PackageNotFoundError as error:
        raise UserError(
            f"distances need the package {error.name}, which is not installed: see "
            "docs/scores.md"
        ) from error
    found = embed(voices, encoder, store)
    trained: dict[str, np.ndarray] = {}
    tested: dict[str, dict[str, np.ndarray]] = {name: {} for name in sets}
    heard = {
        path.resolve()
        for (name, _), voice in zip(named, voices, strict=True)
        if not name
        for paths in voice.values()
        for path in paths
    }
    for (name, _), voice, embedded in zip(named, voices, found, strict=True):
        for speaker, vectors in embedded.items():
            # folders may share a speaker
            place = tested[name] if name else trained
            known = [place[speaker]] if speaker in place else []
            place[speaker] = np.concatenate([*known, vectors])
        used = sum(
            path.resolve() in heard for paths in voice.values() for path in paths
        )
        if name and used:
            logging.warning(
                f"{used} recordings of {name} are in the training data, which makes "
                "their distance too small: give other recordings of these speakers"
            )
    if not trained:
        raise UserError(f"{train[0]} has no speech: give the training data")
    distances = {name: nearest_distances(trained, t) for name, t in tested.items()}
    rows = [
        {"set": name, "speaker": speaker, "distance": distance}
        for name, of in distances.items()
        for speaker, distance in of.items()
    ]
    if not rows:
        raise UserError("the test sets have no speech: give other recordings")
    tables.write_csv(output_dir / "distances.csv", rows)
    return distances
