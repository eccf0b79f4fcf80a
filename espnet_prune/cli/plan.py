"""Check a training configuration and plan its phases, for ``prune_tts.sh``.

The plan is printed as lines ``NAME=VALUE``. The values are whole numbers and one of
the names of pruning, whatever the configuration says.
"""

import argparse
import shlex
from pathlib import Path
from typing import Optional, Sequence

import yaml
from espnet2.tasks.tts import feats_extractor_choices

from espnet_prune.config import PRUNING_KINDS, parse_pruning, require_choice
from espnet_prune.errors import UserError
from espnet_prune.speech.pretrained import first_line
from espnet_prune.speech.vocoder import (
    GRIFFIN_LIM,
    check_features,
    describe_features,
    is_vocoder_name,
    trained_features,
)
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
    if vocoders:
        check_vocoders(vocoders.split(), args)
    pruning = args.tts_conf.get("pruning") or "none"
    # the script acts on both, also where ESPnet's own models are trained
    require_choice("tts_conf.pruning", pruning, PRUNING_KINDS)
    if type(args.max_epoch) is not int or args.max_epoch < 1:
        raise UserError(
            f"max_epoch is {args.max_epoch!r}: give a whole number of epochs, from 1"
        )
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


def check_vocoders(names: Sequence[str], args: argparse.Namespace) -> None:
    """Refuse vocoders that are missing or do not fit the features.

    Args:
        names: As ``--vocoder_file`` of decoding takes them.
        args: parsed options of training.

    Raises:
        UserError: see above.

    """
    extractor = feats_extractor_choices.get_class(args.feats_extract)
    features = describe_features(extractor(**args.feats_extract_conf))
    for name in names:
        if is_vocoder_name(name):
            check_features(name, trained_features(name), features)
        elif name not in GRIFFIN_LIM and not Path(name).is_file():
            raise UserError(f"vocoder {name} is missing: name another")


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Check a training configuration and print, in lines NAME=VALUE, "
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
