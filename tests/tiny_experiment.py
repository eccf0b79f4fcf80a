"""An experiment folder of a tiny model that speaks, laid out as ESPnet's recipes do."""

import contextlib
import io
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import yaml
from espnet2.main_funcs.pack_funcs import pack

from espnet_prune import PruneTTSTask

TOKENS = ["<blank>", "<unk>", "<space>", *"abcdefghijklmnopqrstuvwxyz.,", "<sos/eos>"]
TINY = {
    "adim": 8,
    "aheads": 2,
    "elayers": 1,
    "eunits": 12,
    "dlayers": 2,
    "dunits": 12,
    "style_units": 8,
    "style_dim": 4,
    "predictor_units": 8,
}
# Hard masks that drop some connections and keep others.
PRUNED = {
    "pruning": "differentiable",
    "pruning_conf": {"phase": 2, "threshold_init": 1.0},
}
FRAMES_A_TOKEN = 5
STATS = "exp/tts_stats/train/feats_stats.npz"


def write_recipe(recipe: Path, name="tts_tiny", seed=0, mean=-2.0, **changes) -> Path:
    """Write config.yaml, weights and statistics; paths are relative to ``recipe``.

    Args:
        recipe: folder to write ``exp/NAME`` and ``exp/tts_stats`` in.
        name: of the experiment.
        seed: of the weights.
        mean: of the features, for the statistics.
        changes: settings of the configuration; ``tts_conf`` and ``feats_extract_conf``
            are added to the tiny ones.

    Returns:
        The experiment folder.
    """
    experiment = recipe / "exp" / name
    experiment.mkdir(parents=True, exist_ok=True)
    features = {"fs": 16000, "fmin": 0, "fmax": 8000}
    features.update(changes.pop("feats_extract_conf", {}))
    write_statistics(recipe, features.get("n_mels", 80), mean)
    settings = PruneTTSTask.get_default_config()
    tiny = TINY if changes.get("tts", "stylespeech") == "stylespeech" else {}
    settings.update(
        tts="stylespeech",
        tts_conf={**tiny, **changes.pop("tts_conf", {})},
        token_list=TOKENS,
        token_type="char",
        feats_extract_conf=features,
        normalize="global_mvn",
        normalize_conf={"stats_file": STATS},
    )
    settings.update(changes)
    with contextlib.chdir(recipe):
        torch.manual_seed(seed)
        model = PruneTTSTask.build_model(Namespace(**settings))
    if settings["tts"] == "stylespeech":
        output = model.tts.predictors["duration"].output
        with torch.no_grad():
            output.weight *= 0.2  # else some tokens are silent
            output.bias.fill_(np.log1p(FRAMES_A_TOKEN))
    (experiment / "config.yaml").write_text(yaml.safe_dump(settings))
    torch.save(model.state_dict(), experiment / "train.loss.ave.pth")
    return experiment


def write_statistics(recipe: Path, n_mels: int, mean: float) -> None:
    """Write statistics of features with this mean and a deviation of 0.5."""
    stats = recipe / STATS
    stats.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        stats,
        count=100,
        sum=np.full(n_mels, 100 * mean),
        sum_square=np.full(n_mels, 100 * (mean**2 + 0.25)),
    )


def pack_experiment(recipe: Path, experiment: Path) -> Path:
    """Pack an experiment as the packing stage of tts.sh does."""
    packed = recipe / f"{experiment.name}.zip"
    with contextlib.chdir(recipe), contextlib.redirect_stdout(io.StringIO()):
        relative = Path(os.path.relpath(experiment, recipe))
        pack(
            files={"model_file": relative / "train.loss.ave.pth"},
            yaml_files={"train_config": relative / "config.yaml"},
            option=[STATS],
            outpath=packed,
        )
    return packed


def voice(seconds=2.0, fs=16000, pitch=150.0, level=0.3) -> np.ndarray:
    """Make a buzz that swells and fades twice a second, and some noise, float32."""
    time = np.arange(int(seconds * fs)) / fs
    buzz = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
    swell = np.abs(np.sin(2 * np.pi * time))
    noise = np.random.default_rng(0).normal(size=len(time))
    return (level * swell * buzz / np.abs(buzz).max() + 3e-3 * noise).astype(np.float32)
