"""Check a training configuration and plan its phases, for ``prune_tts.sh``."""

import argparse
import shlex
from typing import Optional

import yaml

from espnet_prune.config import parse_pruning
from espnet_prune.errors import UserError
from espnet_prune.speech.pretrained import first_line
from espnet_prune.speech.vocoder import read_features, require_vocoder
from espnet_prune.training.task import PruneTTSTask, check_settings, is_ours

PHASE1_SHARE = 40 / 300  # of all steps, in the paper


def plan(
    train_config: Optional[str],
    train_args: str = "",
    phase1_epochs: Optional[int] = None,
    teacher_dumpdir: str = "",
    vocoders: str = "",
) -> dict:
    """Return the kind of pruning and the epochs of each phase.

    Args:
        train_config: file with the options of training; ``max_epoch`` counts both
            phases.
        train_args: options that override it, as one string.
        phase1_epochs: epochs of phase 1, the paper's share of all if not given. Of no
            effect on models of one phase: none, vanilla, and soft masks to the end.
        teacher_dumpdir: folder of the durations that come with the data, if any.
        vocoders: what will decode, in a row.

    Raises:
        UserError: a setting that cannot work, or a vocoder that would refuse the
            features after all the training.

    """
    options = ["--config", str(train_config)] if train_config else []
    try:
        options += shlex.split(train_args)
    except ValueError as error:
        raise UserError(
            f"--train_args cannot be split ({error}): close the quote"
        ) from error
    try:
        args = PruneTTSTask.get_parser().parse_args(options)
    except yaml.YAMLError as error:
        raise UserError(
            f"{train_config} or --train_args is no YAML ({first_line(error)}): correct "
            "it"
        ) from error
    data = ["text", "speech"] + (["durations"] if teacher_dumpdir else [])
    args.train_data_path_and_name_and_type = [("", name, "") for name in data]
    check_settings(args)
    for vocoder in vocoders.split():
        require_vocoder(vocoder, read_features(vars(args)))
    pruning = args.tts_conf.get("pruning") or "none"
    if not is_ours(args.tts) or pruning != "differentiable":
        return dict(pruning=pruning, epochs=args.max_epoch)
    conf = parse_pruning(pruning, args.tts_conf.get("pruning_conf"))
    if conf.inference_mask == "soft":
        return dict(pruning=pruning, phase1_epochs=args.max_epoch, phase2_epochs=0)
    if phase1_epochs is None:
        phase1_epochs = max(1, round(PHASE1_SHARE * args.max_epoch))
    if not 1 <= phase1_epochs < args.max_epoch:
        raise UserError(
            f"{phase1_epochs} epochs of phase 1 out of max_epoch {args.max_epoch} "
            "leave none for one of the phases: choose --phase1_epochs between 1 and "
            "max_epoch - 1 (a single soft phase is pruning_conf.inference_mask: soft)"
        )
    return dict(
        pruning=pruning,
        phase1_epochs=phase1_epochs,
        phase2_epochs=args.max_epoch - phase1_epochs,
    )


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Check a training configuration and print, as shell assignments, "
        "how many epochs each phase gets.",
    )
    parser.add_argument("--train_config", help="YAML file with options of training")
    parser.add_argument("--train_args", default="", help="options that override it")
    parser.add_argument(
        "--teacher_dumpdir", default="", help="folder of given durations, if any"
    )
    parser.add_argument(
        "--phase1_epochs",
        type=int,
        help="epochs of phase 1 (default: 40/300 of all, as in the paper)",
    )
    parser.add_argument(
        "--vocoders",
        default="",
        help="vocoders of decoding, in a row; checked against --feats_extract_conf",
    )
    return parser


def main(cmd=None) -> None:
    """Print the plan."""
    args = get_parser().parse_args(cmd)
    for name, value in plan(**vars(args)).items():
        print(f"{name}={value}")
