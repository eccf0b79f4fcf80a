"""Made-up experiment folders, written as ESPnet's trainer writes them."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from espnet2.train.reporter import Reporter

KEPT_SHARE, KEPT_MASS, SOFT_MEAN = 0.25, 0.75, 0.5  # of layer 1; others are smaller


def layer_stats(thresholds: Sequence[float], soft: bool = True) -> dict[str, float]:
    """Statistics of decoder layers in one step or validation, by their thresholds."""
    stats = {}
    for layer, theta in enumerate(thresholds, 1):
        stats[f"threshold_{layer}"] = theta
        stats[f"kept_share_{layer}"] = KEPT_SHARE / layer
        stats[f"kept_mass_{layer}"] = KEPT_MASS / layer
        if soft:
            stats[f"soft_mean_{layer}"] = SOFT_MEAN / layer
    return stats


def write_experiment(
    folder: Path,
    epochs: Sequence[Sequence[float]],
    pruning: str = "differentiable",
    batches: int = 3,
    accum_grad: int = 1,
    **pruning_conf,
) -> Path:
    """Write config.yaml and checkpoint.pth.

    Args:
        folder: Where to.
        epochs: Thresholds of all layers at the end of each epoch. During the epoch
            they were smaller by 1, 2, ..: the mean over training steps is another.
        pruning: Kind of pruning.
        batches: Training batches in an epoch.
        accum_grad: Batches in one optimiser step.
        pruning_conf: Settings other than the defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tts": "stylespeech",
        "accum_grad": accum_grad,
        "tts_conf": {"pruning": pruning, "pruning_conf": pruning_conf},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    soft = pruning == "differentiable" and pruning_conf.get("phase", 1) == 1
    reporter = Reporter()
    for epoch, thresholds in enumerate(epochs, 1):
        reporter.set_epoch(epoch)
        with reporter.observe("train") as sub_reporter:
            for batch in range(batches):
                register(sub_reporter, [t - batch - 1 for t in thresholds], soft, 4.0)
        with reporter.observe("valid") as sub_reporter:
            register(sub_reporter, thresholds, soft, 5.0 / epoch)
    write_checkpoint(folder, reporter)
    return folder


def register(sub_reporter, thresholds: list[float], soft: bool, loss: float) -> None:
    """Hand the statistics of one batch to ESPnet's reporter."""
    stats = dict(loss=loss, mel_loss=loss / 2, **layer_stats(thresholds, soft))
    if soft:
        stats["sparsity_loss"] = loss / 100
    tensors = {name: torch.tensor(value) for name, value in stats.items()}
    sub_reporter.register(tensors, weight=torch.tensor(2.0))
    sub_reporter.next()


def write_checkpoint(folder: Path, reporter: Reporter) -> None:
    """Write checkpoint.pth with the keys that ESPnet's trainer gives it."""
    states = {
        "model": {"tts.weight": torch.zeros(3)},
        "reporter": reporter.state_dict(),
        "optimizers": [],
        "schedulers": [None],
        "scaler": None,
    }
    torch.save(states, folder / "checkpoint.pth")
