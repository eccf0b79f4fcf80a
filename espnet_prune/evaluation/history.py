"""The records of training: an experiment folder's statistics as plain rows.

ESPnet keeps the statistics of every finished epoch in ``checkpoint.pth``. A model
that was trained in two phases has two experiment folders; here the epochs of the
second follow those of the first on one time axis.

A row is a dictionary:

    phase   1 or 2; None for a model with one phase (vanilla, dense)
    epoch   epoch on the joint axis; run_epoch is the same inside its own folder
    step    optimiser steps taken at the end of that epoch, on the joint axis
    split   "train": means over the steps of the epoch, while the model changed;
            "valid": the model at the end of the epoch
    seconds time the epoch took

and every statistic of the model under the name it was reported with, such as
``mel_loss`` or ``kept_share_2`` (decoder layer 2, layers count from 1).
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_prune import keys
from espnet_prune.config import parse_pruning
from espnet_prune.errors import UserError
from espnet_prune.experiment import read_config, read_progress
from espnet_prune.loading import reading

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment folder; settings of learned thresholds are None without them."""

    folder: Path
    pruning: str  # none, vanilla or differentiable
    phase: int | None  # 1 or 2 under differentiable pruning
    sparsity_ratio: float | None  # R, the target of the mean soft mask in phase 1
    temperature: float | None  # T of the soft mask
    threshold_scale: float | None  # threshold = scale x parameter
    rows: list[Row]  # statistics, see the text of this module; epochs count from 1


def read_experiment(folder: str | Path) -> Experiment:
    """Read the settings and the statistics of one experiment folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give the experiment folder that training wrote"
        )
    config = read_config(folder)
    remedy = "train again, or restore its files"
    with reading(folder, "the experiment of a finished epoch", remedy):
        rows = _epoch_rows(read_progress(folder)["stats"], config.get("accum_grad", 1))
    if not rows:
        raise UserError(
            f"no epoch has been finished in {folder}; train at least one epoch first"
        )
    tts_conf = config.get("tts_conf") or {}
    pruning = tts_conf.get("pruning") or "none"
    conf = parse_pruning(pruning, tts_conf.get("pruning_conf"))
    learned = pruning == "differentiable"
    names = ("phase", "sparsity_ratio", "temperature", "threshold_scale")
    settings = {name: getattr(conf, name) if learned else None for name in names}
    rows = [{"phase": settings["phase"], **row} for row in rows]
    return Experiment(folder=folder, pruning=pruning, rows=rows, **settings)


def read_models(folders: Sequence[str | Path]) -> list[list[Experiment]]:
    """Read experiment folders; phase 1 and a phase 2 after it are one model."""
    models: list[list[Experiment]] = []
    for experiment in map(read_experiment, folders):
        before = models[-1] if models else []
        if any(experiment.folder.samefile(e.folder) for m in models for e in m):
            raise UserError(f"{experiment.folder} is given twice; name it once")
        if [e.phase for e in before] == [1] and experiment.phase == 2:
            if not same_thresholds(before[0], experiment):
                raise UserError(
                    f"phase 2 in {experiment.folder} does not have the thresholds of "
                    f"phase 1 in {before[0].folder}; give the phase 1 that it was "
                    "started from"
                )
            before.append(experiment)
            continue
        reverse = [e.phase for e in before] == [2] and experiment.phase == 1
        if reverse and same_thresholds(experiment, before[0]):
            raise UserError(
                f"{before[0].folder} is the phase 2 of {experiment.folder}; give "
                "phase 1 first"
            )
        models.append([experiment])
    return models


def read_experiments(folders: Sequence[str | Path]) -> list[Experiment]:
    """Read the one experiment folder of a model, or those of its two phases."""
    models = read_models(folders)
    if len(models) > 1:
        found = " and ".join(
            f"{e.folder} (phase {e.phase})" if e.phase else f"{e.folder} ({e.pruning})"
            for model in models
            for e in model
        )
        raise UserError(
            f"the folders must be phase 1, then phase 2 of one model; given: {found}"
        )
    return models[0]


def join(experiments: Sequence[Experiment]) -> list[Row]:
    """Return the epochs of consecutive experiments on one time axis."""
    joined: list[Row] = []
    for experiment in experiments:
        epoch = max((row["epoch"] for row in joined), default=0)
        step = max((row["step"] for row in joined), default=0)
        joined += [
            {**row, "epoch": row["epoch"] + epoch, "step": row["step"] + step}
            for row in experiment.rows
        ]
    return joined


def decoder_layers(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of the decoder layers that report a threshold."""
    return keys.decoder_layers(name for row in rows for name in row)


def threshold_rows(experiments: Sequence[Experiment]) -> list[Row]:
    """Tabulate every decoder layer after the last epoch of each phase.

    The numbers are those of the validation set, so that they belong to the final model
    of the phase. Every row repeats R, because no other column is R. The threshold is
    scaled; a number that does not exist is None.
    """
    table: list[Row] = []
    for number, experiment in enumerate(experiments, 1):
        _valid_rows(experiment)  # refuse an experiment without statistics
        joined = join(experiments[:number])
        last = [row for row in joined if row["split"] == "valid"][-1]
        layers = decoder_layers([last])
        if experiment.pruning == "none" or not layers:
            raise UserError(
                f"{experiment.folder} has no thresholds to report: its model was "
                f"trained with pruning: {experiment.pruning}; give the folder of a "
                "model with pruning: vanilla or differentiable"
            )
        table += [
            {
                "phase": experiment.phase,
                "epoch": last["epoch"],
                "step": last["step"],
                "layer": layer,
                "sparsity_ratio": experiment.sparsity_ratio,
                "threshold_scale": experiment.threshold_scale,
                "threshold": last[keys.of_layer(keys.THRESHOLD, layer)],
                "mean_soft_mask": last.get(keys.of_layer(keys.SOFT_MEAN, layer)),
                "kept_share": last.get(keys.of_layer(keys.KEPT_SHARE, layer)),
                "kept_mass": last.get(keys.of_layer(keys.KEPT_MASS, layer)),
            }
            for layer in layers
        ]
    return table


def same_thresholds(phase1: Experiment, phase2: Experiment) -> bool:
    """Return whether phase 2 has the final thresholds of phase 1."""
    before, after = _valid_rows(phase1)[-1], _valid_rows(phase2)[-1]
    layers = decoder_layers([before])
    names = [keys.of_layer(keys.THRESHOLD, layer) for layer in layers]
    return layers == decoder_layers([after]) and all(
        math.isclose(before[name], after[name], rel_tol=1e-4, abs_tol=1e-6)
        for name in names
    )


def _valid_rows(experiment: Experiment) -> list[Row]:
    rows = [row for row in experiment.rows if row["split"] == "valid"]
    if not rows:
        raise UserError(
            f"{experiment.folder} contains no statistics of a validation set; train "
            "with one"
        )
    return rows


def _epoch_rows(
    stats: dict[int, dict[str, dict[str, Any]]], accum_grad: int
) -> list[Row]:
    rows = []
    batches_before = step = 0
    for epoch in sorted(stats):
        # ESPnet counts batches over all epochs; the remainder of an epoch that does
        # not fill an accumulation takes no optimiser step.
        batches = stats[epoch].get("train", {}).get("total_count", batches_before)
        step += (batches - batches_before) // accum_grad
        batches_before = batches
        for split in ("train", "valid"):
            if split in stats[epoch]:
                values = dict(stats[epoch][split])
                # ESPnet wraps a duration so that the checkpoint loads without pickle.
                seconds = values.pop("time")["__timedelta_seconds__"]
                values.pop("total_count", None)
                place = {"run_epoch": epoch, "epoch": epoch, "step": step}
                rows.append({**place, "split": split, **values, "seconds": seconds})
    return rows
