"""The two phases of training, and the start of phase 2 from phase 1.

Differentiable pruning trains in two phases (Yoon et al., Interspeech 2023, Sec. 3.2):

    phase   mask                              trained                losses
    1       soft                              everything and theta   TTS + L_sp
    2       hard, at the thresholds learned   everything but theta   TTS

Vanilla pruning and the dense model have one phase only.
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_prune.config import parse_encoder_pruning
from espnet_prune.errors import UserError
from espnet_prune.experiment import CHECKPOINT, CONFIG, is_finished, read_config
from espnet_prune.files import digest, replace_when_written, write_text
from espnet_prune.loading import load_weights, load_yaml

PHASE1_RECORD = "phase1.yaml"


def prepare_phase2(
    phase1_dir: str | Path | None, output_dir: str | Path, writes: bool = True
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
        writes: if false, only check, as all processes except the first one do.
    """
    checkpoint = Path(output_dir) / CHECKPOINT
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
    source = Path(phase1_dir) / CHECKPOINT
    if not source.exists():
        raise UserError(
            f"phase 2 found no phase-1 checkpoint in {phase1_dir} (looked for {source})"
            "; run phase 1 first or correct --phase1_dir"
        )
    if checkpoint.exists():
        began_from = load_yaml(record).get("sha256") if record.exists() else None
        if began_from != digest(source):
            raise UserError(
                f"{output_dir} contains a phase 2 of another phase 1 than {source}; "
                "remove that folder or choose another one for this phase 2"
            )
        return

    states = load_weights(source)
    if not {"model", "reporter"} <= states.keys():
        raise UserError(
            f"{source} is not a checkpoint of a training: run phase 1 again or correct "
            "--phase1_dir"
        )
    if not any(name.endswith(".theta") for name in states["model"]):
        raise UserError(
            f"{source} has no thresholds: phase 2 follows a phase 1 with "
            "`pruning: differentiable`"
        )
    settings: dict[str, Any] = {}
    if (Path(phase1_dir) / CONFIG).exists():
        config = read_config(phase1_dir)
        if not is_finished(config, states["reporter"]):
            raise UserError(
                f"phase 1 in {phase1_dir} was interrupted after epoch "
                f"{states['reporter']['epoch']} of {config['max_epoch']}; run phase 1 "
                "again, which continues it"
            )
        settings = config.get("tts_conf", {})
    if not writes:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    details = {
        "checkpoint": str(source),
        "sha256": digest(source),
        "epochs": states["reporter"]["epoch"],
        "thresholds": _read_thresholds(states["model"], settings),
    }
    states["reporter"] = {"epoch": 0, "stats": {}}
    write_text(record, yaml.safe_dump(details, sort_keys=False))
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
