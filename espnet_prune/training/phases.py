"""The two phases of training, and the start of phase 2 from phase 1.

Differentiable pruning trains in two phases (Yoon et al., Interspeech 2023, Sec. 3.2):

    phase   mask                              trained                losses
    1       soft                              everything and theta   TTS + L_sp
    2       hard, at the thresholds learned   everything but theta   TTS

Vanilla pruning and the dense model have one phase only.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.train.reporter import Reporter

from espnet_prune.config import PruningConf, parse_encoder_pruning
from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written

PHASE1_RECORD = "phase1.yaml"


def is_finished(config: dict[str, Any], progress: dict[str, Any]) -> bool:
    """Return whether a training is finished, also by early stopping.

    Args:
        config: settings of the training, ``config.yaml``.
        progress: state of ESPnet's reporter in ``checkpoint.pth``.

    """
    reporter = Reporter()
    reporter.load_state_dict(progress)
    epoch, patience = reporter.get_epoch(), config.get("patience")
    if epoch >= config.get("max_epoch", epoch):
        return True
    criterion = config.get("early_stopping_criterion", ("valid", "loss", "min"))
    return (
        patience is not None
        and reporter.has(*criterion[:2])
        and reporter.check_early_stopping(patience, *criterion)
    )


def prepare_phase2(
    phase1_dir: str | Path | None,
    output_dir: str | Path,
    tts: str | None = None,
    tts_conf: dict[str, Any] | None = None,
    writes: bool = True,
) -> None:
    """Make the checkpoint that the first epoch of phase 2 resumes from.

    It contains phase 1's weights, optimiser moments, scheduler position and gradient
    scaler. Reporter and epoch count start again, so that no epoch of phase 1 can become
    the best model of phase 2 or enter its average. A second file records the checkpoint
    of phase 1. If phase 2 has begun already, nothing is changed.

    Args:
        phase1_dir: experiment folder of phase 1; may be None for a phase 2 that has
            begun.
        output_dir: experiment folder of phase 2.
        tts: name of the model of phase 2, which must be that of phase 1.
        tts_conf: its settings, which must fit those of phase 1.
        writes: if false, only check, as all processes except the first one do.

    Raises:
        UserError: ``phase1_dir`` has no usable phase 1, or one of another model; or
            ``output_dir`` was started from another phase 1.

    """
    checkpoint = Path(output_dir) / "checkpoint.pth"
    record = Path(output_dir) / PHASE1_RECORD
    if phase1_dir is None:
        if not checkpoint.exists():
            raise UserError(
                f"phase 2 cannot start: {checkpoint} is missing and --phase1_dir is "
                "not given; pass --phase1_dir EXPERIMENT_OF_PHASE_1"
            )
        if not record.exists():
            raise UserError(
                f"{output_dir} contains a phase 1: give phase 2 its own folder and "
                f"pass --phase1_dir {output_dir}"
            )
        return
    source = Path(phase1_dir) / "checkpoint.pth"
    if not source.exists():
        raise UserError(
            f"phase 2 found no phase-1 checkpoint in {phase1_dir} (looked for {source})"
            "; run phase 1 first or correct --phase1_dir"
        )
    digest = _digest(source)
    if checkpoint.exists():
        started_from = (
            yaml.safe_load(record.read_text())["sha256"] if record.exists() else None
        )
        if started_from != digest:
            raise UserError(
                f"{output_dir} contains a phase 2 of another phase 1 than {source}; "
                "remove that folder or choose another one for this phase 2"
            )
        return

    states = torch.load(source, map_location="cpu", weights_only=True)
    if not any(name.endswith(".theta") for name in states["model"]):
        raise UserError(
            f"{source} has no thresholds: phase 2 follows a phase 1 with "
            "`pruning: differentiable`"
        )
    settings = tts_conf or {}
    config_file = Path(phase1_dir) / "config.yaml"
    if config_file.exists():
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        _require_finished(phase1_dir, config, states["reporter"])
        settings = tts_conf or config["tts_conf"]
        if tts_conf is not None:
            before = dict(config["tts_conf"], tts=config["tts"])
            _require_same_model(phase1_dir, before, dict(tts_conf, tts=tts))
    if not writes:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    details = {
        "checkpoint": str(source),
        "sha256": digest,
        "epochs": states["reporter"]["epoch"],
        "thresholds": _read_thresholds(states["model"], settings),
    }
    states["reporter"] = {"epoch": 0, "stats": {}}
    with replace_when_written(record) as partial:
        partial.write_text(yaml.safe_dump(details, sort_keys=False))
    with replace_when_written(checkpoint) as partial:
        torch.save(states, partial)


def _read_thresholds(
    weights: dict[str, torch.Tensor], tts_conf: dict[str, Any]
) -> dict[str, float]:
    """Return the threshold of each layer in multiples of 1/N, as in reports."""
    decoder_conf, encoder_conf = parse_encoder_pruning(
        tts_conf.get("pruning", "none"),
        tts_conf.get("pruning_conf"),
        tts_conf.get("encoder_pruning", "none"),
        tts_conf.get("encoder_pruning_conf"),
    )
    thresholds = {}
    for name, parameter in weights.items():
        if name.endswith(".theta"):
            conf = encoder_conf if ".encoder." in f".{name}" else decoder_conf
            layer = name.removesuffix(".theta")
            thresholds[layer] = conf.threshold_scale * float(parameter)
    return thresholds


def _require_finished(
    phase1_dir: str | Path, config: dict[str, Any], progress: dict[str, Any]
) -> None:
    """Refuse a phase 1 that was interrupted."""
    if not is_finished(config, progress):
        raise UserError(
            f"phase 1 in {phase1_dir} was interrupted after epoch {progress['epoch']} "
            f"of {config['max_epoch']}; run phase 1 again, which continues it"
        )


def _require_same_model(
    phase1_dir: str | Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
    """Refuse weights, or a meaning of theta, that differ from phase 1.

    Rates of dropout and weights of losses may change between the phases.
    """

    def settings(conf):
        conf = {
            **conf,
            **dataclasses.asdict(PruningConf(**(conf.get("pruning_conf") or {}))),
        }
        free = (
            "pruning_conf",
            "phase",
            "inference_mask",
            "sparsity_ratio",
            "temperature",
            "plugin_version",
            "stop_gradient_from",
        )
        return {
            name: value
            for name, value in conf.items()
            if name not in free and not name.endswith(("_rate", "_dropout", "_weight"))
        }

    before, now = settings(before), settings(now)
    for name in sorted(before.keys() | now.keys(), key=lambda n: (n != "tts", n)):
        if before.get(name) != now.get(name):
            raise UserError(
                f"phase 2 has {name} {now.get(name, 'by default')}, but phase 1 in "
                f"{phase1_dir} had {before.get(name, 'the default')}: train both "
                "phases with the same configuration"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
