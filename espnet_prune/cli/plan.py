"""Check a training configuration and plan its phases, for ``prune_tts.sh``.

The plan is printed as lines ``NAME=VALUE``. The values are whole numbers and one of
the names of pruning, for every configuration. Settings are read here without ESPnet's
task, whose import takes longer than all the rest; training itself checks each of them.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from espnet_prune import config
from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError, first_line
from espnet_prune.loading import load_yaml
from espnet_prune.training.host import MODELS

PHASE1_SHARE = 40 / 300  # share of all steps, as in the paper
# Options of training that the plan depends on, and ESPnet's defaults.
VALUES = {
    "max_epoch": 40,
    "tts": "tacotron2",
    "feats_extract": "fbank",
    "pitch_extract": None,
    "energy_extract": None,
}
SECTIONS = ("tts", "feats_extract", "pitch_extract", "energy_extract")


def plan(
    train_config: str | Path | None,
    train_args: str = "",
    phase1_epochs: int | None = None,
    teacher_dumpdir: str = "",
    vocoders: str = "",
) -> dict[str, str | int]:
    """Return the kind of pruning and the epochs of each phase.

    The arguments are the options of the verb. Models with one phase ignore
    ``phase1_epochs``: dense and vanilla ones, and soft masks to the end. A vocoder that
    would refuse the features after all the training is refused here.
    """
    settings = read_options(train_config, train_args)
    max_epoch = settings["max_epoch"]
    if type(max_epoch) is not int or max_epoch < 1:
        raise UserError(
            f"max_epoch is {max_epoch!r}: give a whole number of epochs, from 1"
        )
    conf = settings["tts_conf"]
    pruning = conf.get("pruning") or "none"
    # the script acts on it, also where one of ESPnet's own models is trained
    config.require_choice("tts_conf.pruning", pruning, config.PRUNING_KINDS)
    if settings["tts"] in MODELS:
        pruning_conf, _ = config.parse_encoder_pruning(
            pruning,
            conf.get("pruning_conf"),
            conf.get("encoder_pruning", "none"),
            conf.get("encoder_pruning_conf"),
        )
        data_has_them = bool(teacher_dumpdir)
        durations = config.choose_durations(settings["tts"], conf, data_has_them)
        config.check_variances(settings, durations, data_has_them)
    if vocoders:
        from espnet_prune.speech.vocoder import read_features, require_vocoder

        for vocoder in vocoders.split():
            require_vocoder(vocoder, read_features(settings))
    if settings["tts"] not in MODELS or pruning != "differentiable":
        return {"pruning": pruning, "epochs": max_epoch}
    if pruning_conf.inference_mask == "soft":
        return {"pruning": pruning, "phase1_epochs": max_epoch, "phase2_epochs": 0}
    if phase1_epochs is None:
        phase1_epochs = max(1, round(PHASE1_SHARE * max_epoch))
    if not 1 <= phase1_epochs < max_epoch:
        raise UserError(
            f"{phase1_epochs} epochs of phase 1 out of max_epoch {max_epoch} "
            "leave none for one of the phases: choose --phase1_epochs between 1 and "
            "max_epoch - 1 (a single soft phase is pruning_conf.inference_mask: soft)"
        )
    return {
        "pruning": pruning,
        "phase1_epochs": phase1_epochs,
        "phase2_epochs": max_epoch - phase1_epochs,
    }


def read_options(train_config: str | Path | None, train_args: str) -> dict[str, Any]:
    """Read what the plan depends on, as ESPnet's parser would.

    Returns:
        ``VALUES``, and a dictionary for each of ``SECTIONS`` with ``_conf`` behind its
        name. A setting whose absence has a meaning is left out.
    """
    try:
        words = shlex.split(train_args)
    except ValueError as error:
        raise UserError(
            f"--train_args cannot be split ({error}): close the quote"
        ) from error
    from espnet2.utils.nested_dict_action import NestedDictAction

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config", default=train_config)
    for name in VALUES:
        parser.add_argument(f"--{name}", type=_value, default=argparse.SUPPRESS)
    try:
        path = parser.parse_known_args(words)[0].config
        settings = load_yaml(path, "YAML file of settings") if path else {}
        for name in (f"{name}_conf" for name in SECTIONS):
            section = settings.get(name, {})
            if not isinstance(section, dict):
                raise UserError(
                    f"{name} is {section!r}: write its settings as lines of NAME: VALUE"
                )
            parser.add_argument(f"--{name}", action=NestedDictAction, default=section)
        given = vars(parser.parse_known_args(words)[0])
    except argparse.ArgumentError as error:
        raise UserError(
            f"--train_args cannot be used ({first_line(error)}): correct it"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"--train_args is not YAML ({error}): correct it") from error
    given.pop("config")
    settings.update(given)
    for name in ("max_epoch", "tts", "feats_extract"):
        settings.setdefault(name, VALUES[name])
    return settings


def _value(text: str) -> Any:
    """Read the value of an option: a number, a name in small letters, or None."""
    if text.isdecimal():
        return int(text)
    return None if text.lower() in ("none", "null", "nil") else text.lower()


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--train_config", help="YAML file with options of training")
    add("--train_args", default="", help="options that override --train_config")
    add(
        "--teacher_dumpdir",
        default="",
        help="folder with the durations of the data, if any",
    )
    add(
        "--phase1_epochs",
        type=int,
        help="epochs of phase 1 (default: 40/300 of all, as in the paper)",
    )
    add(
        "--vocoders",
        default="",
        help="vocoders of decoding, separated by spaces; checked against "
        "--feats_extract_conf",
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Print the plan."""
    args = get_parser().parse_args(cmd)
    for name, value in plan(**vars(args)).items():
        print(f"{name}={value}")
