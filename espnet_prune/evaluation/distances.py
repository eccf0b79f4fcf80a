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
from espnet_prune.evaluation.records import digest
from espnet_prune.evaluation.scoring import read_wavs
from espnet_prune.files import Journal

if TYPE_CHECKING:
    from espnet_prune.evaluation.backends import SpeakerEncoder


def read_voices(folders: Iterable[Path], most: int) -> dict[str, list[Path]]:
    """Return the recordings of each speaker of Kaldi folders, which may share speakers.

    Of each folder, up to ``most`` recordings of a speaker are taken. They are spread
    evenly over all that it has, in the order of their names.
    """
    voices: dict[str, list[Path]] = {}
    for folder in folders:
        wavs, speakers = read_wavs(folder / "wav.scp"), read_columns(folder / "utt2spk")
        recorded: dict[str, dict[Path, None]] = {}
        for name in sorted(wavs):
            if name not in speakers:
                raise UserError(f"{folder / 'utt2spk'} lacks {name} of wav.scp; add it")
            recorded.setdefault(speakers[name], {})[wavs[name]] = None
        for speaker, known in recorded.items():
            paths, number = list(known), min(most, len(known))
            index = np.linspace(0, len(paths) - 1, number).round().astype(int)
            voices.setdefault(speaker, []).extend(paths[each] for each in index)
    return voices


def embed(
    voices: Iterable[Mapping[str, Sequence[Path]]],
    encoder: "SpeakerEncoder",
    store: Path,
) -> list[dict[str, np.ndarray]]:
    """Embed the recordings of every speaker of several sets.

    Args:
        voices: Speaker -> recordings, of each set.
        encoder: Speaker encoder.
        store: File that keeps the embeddings, so that each is computed once.

    Returns:
        Speaker -> embeddings (recordings, D) of each set. Recordings without speech are
        left out, and so are speakers without any other.
    """
    from tqdm import tqdm

    voices = list(voices)
    paths = {path for of_set in voices for found in of_set.values() for path in found}
    vectors: dict[Path, list[float] | None] = {}
    with Journal(store, encoder.version()) as journal:
        for path in tqdm(sorted(paths), "voices"):
            key = digest(path)
            if key not in journal.known:
                voice = encoder.voice(path)
                journal.add(key, None if voice is None else voice.tolist())
            vectors[path] = journal.known[key]
    return [
        {
            speaker: np.array(known)
            for speaker, found in of_set.items()
            if (known := [v for path in found if (v := vectors[path]) is not None])
        }
        for of_set in voices
    ]


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

    heard = read_voices(train, most)
    voices = {name: read_voices(folders, most) for name, folders in sets.items()}
    encoder = Resemblyzer()
    try:
        encoder.version()
    except PackageNotFoundError as error:
        raise UserError(
            f"distances need the package {error.name}, which is not installed: see "
            "docs/scores.md"
        ) from error
    store = output_dir / "voices.jsonl"
    trained, *tested = embed([heard, *voices.values()], encoder, store)
    if not trained:
        raise UserError(f"{train[0]} has no speech: give the training data")
    known = {path.resolve() for paths in heard.values() for path in paths}
    for name, of_set in voices.items():
        used = sum(
            path.resolve() in known for paths in of_set.values() for path in paths
        )
        if used:
            logging.warning(
                f"{used} recordings of {name} are in the training data, which makes "
                "their distance too small: give other recordings of these speakers"
            )
    distances = {
        name: nearest_distances(trained, embedded)
        for name, embedded in zip(voices, tested, strict=True)
    }
    rows = [
        {"set": name, "speaker": speaker, "distance": distance}
        for name, of in distances.items()
        for speaker, distance in of.items()
    ]
    if not rows:
        raise UserError("the test sets have no speech: give other recordings")
    tables.write_csv(output_dir / "distances.csv", rows)
    return distances
