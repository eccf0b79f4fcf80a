"""The files of an experiment folder: config.yaml and the progress in checkpoint.pth.

Importing this module imports neither ESPnet nor torch; torch is loaded when a
checkpoint is read.
"""

import os
from pathlib import Path
from typing import Any

from espnet_prune.errors import UserError
from espnet_prune.loading import load_yaml

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint.pth"


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the settings of a training, from its folder or from a ``config.yaml``.

    Raises:
        UserError: The file is missing, or is not the configuration of a training.
    """
    path = Path(path)
    file = path / CONFIG if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{file.parent} contains no {file.name}; give the experiment folder that "
            "training wrote"
        )
    settings = load_yaml(file, "configuration of a training")
    for name, value in settings.items():
        if name.endswith("_conf") and not isinstance(value, dict | None):
            raise UserError(
                f"{name} in {file} is {value!r}: write its settings as lines of NAME: "
                "VALUE"
            )
    return settings


def find_file(config: str | Path, name: str) -> Path | None:
    """Find a file that a config.yaml names; None if it is missing.

    ESPnet writes paths relative to the recipe that trained. That is above the
    experiment folder, or above the place that a link to it leads to.
    """
    above = [*Path(os.path.abspath(config)).parents, *Path(config).resolve().parents]
    return next((one / name for one in above if os.path.isfile(one / name)), None)


def read_progress(folder: str | Path) -> dict[str, Any]:
    """Read the state of ESPnet's reporter from checkpoint.pth.

    Returns:
        ``epoch``, and ``stats``: epoch -> split -> name -> value.

    Raises:
        UserError: The file is missing, or it is not a checkpoint.
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        raise UserError(
            f"{folder} contains no {CHECKPOINT}; train at least one epoch there first"
        )
    import pickle
    from zipfile import BadZipFile

    import torch

    broken = (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError)
    try:
        # Mapped, not read, because the checkpoint contains model and optimiser too.
        states = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return {name: states["reporter"][name] for name in ("epoch", "stats")}
    except (*broken, BadZipFile, pickle.UnpicklingError):
        raise UserError(
            f"{path} is not a checkpoint of ESPnet's trainer, or is damaged; "
            "train again or restore it"
        ) from None


def is_finished(config: dict[str, Any], progress: dict[str, Any]) -> bool:
    """Return whether a training is finished, also by early stopping."""
    epoch, stats = progress["epoch"], progress["stats"]
    if epoch >= config.get("max_epoch", epoch):
        return True
    patience = config.get("patience")
    criterion = config.get("early_stopping_criterion", ("valid", "loss", "min"))
    split, name, mode = criterion
    if patience is None or name not in stats.get(epoch, {}).get(split, {}):
        return False
    best = {"min": min, "max": max}[mode]
    return epoch - best(stats, key=lambda e: stats[e][split][name]) > patience
