"""ESPnet's text-to-speech task with the plugin's models, phases and vocoder.

ESPnet spawns one process per GPU, which unpickles ``main_worker`` of the task by
import. Importing this module imports the package, which registers the models, so that
such a process knows them too.
"""

import argparse
import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.tasks.tts import TTSTask, tts_choices
from espnet2.train.distributed_utils import get_node_rank, get_rank
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer
from espnet2.utils.types import str_or_none

import espnet_prune
from espnet_prune.config import VARIANCES, check_variances, choose_durations
from espnet_prune.errors import UserError, explain, sent_message
from espnet_prune.experiment import CHECKPOINT
from espnet_prune.files import lock_folder, replace_when_written
from espnet_prune.loading import load_weights, load_yaml
from espnet_prune.speech.vocoder import GRIFFIN_LIM, describe_features, open_vocoder
from espnet_prune.text.normalise import LOWER_CASE
from espnet_prune.training.host import (
    MODELS,
    allow_cleaner,
    is_ours,
    name_recordings,
    whole_checkpoints,
)
from espnet_prune.training.identity import (
    identify,
    require_initial_weights,
    require_known_tokens,
    require_rate,
    require_same_statistics,
    require_same_training,
    write_identity,
)
from espnet_prune.training.phases import prepare_phase2


class PruneTrainer(Trainer):
    """ESPnet's trainer; a kill never leaves a broken checkpoint.

    A training that diverged ends with an error, and keeps its last checkpoint.
    """

    @classmethod
    def run(cls, *args, trainer_options, distributed_option, **kwargs) -> None:
        """Train; first write the files that an interruption prevented."""
        if trainer_options.resume and distributed_option.dist_rank in (None, 0):
            mend_last_epoch(
                Path(trainer_options.output_dir), trainer_options.best_model_criterion
            )
        with whole_checkpoints():
            super().run(
                *args,
                trainer_options=trainer_options,
                distributed_option=distributed_option,
                **kwargs,
            )

    @classmethod
    def train_one_epoch(cls, *args, **kwargs) -> bool:
        """Train one epoch; end if no step of it had a finite loss and gradient."""
        all_steps_are_invalid = super().train_one_epoch(*args, **kwargs)
        losses = [each.value for each in kwargs["reporter"].stats.get("loss", ())]
        if all_steps_are_invalid and len(losses) >= kwargs["options"].accum_grad:
            epoch = kwargs["reporter"].get_epoch()
            finite = sum(map(math.isfinite, losses))
            raise UserError(
                f"the training diverged: in epoch {epoch}, {finite} of {len(losses)} "
                "steps had a finite loss and none a finite gradient; look for NaN in "
                "the recordings and durations, or train in a new folder with a lower "
                "learning rate (--optim_conf lr=...)"
            )
        return all_steps_are_invalid


def mend_last_epoch(folder: Path, best_model_criterion) -> None:
    """Write the files of the last epoch that an interruption prevented.

    ESPnet saves ``checkpoint.pth``, then ``{epoch}epoch.pth``, then the links to the
    latest and the best models, and averages the best ones at the end; a resumed run
    begins with the next epoch. ``best_model_criterion`` has (train or valid, name, min
    or max) triples.
    """
    for partial in folder.glob(".*.pth.*.partial"):  # a killed writer left it
        partial.unlink(missing_ok=True)
    if not (folder / CHECKPOINT).exists():
        return
    states = load_weights(folder / CHECKPOINT)
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    epoch = reporter.get_epoch()
    if epoch == 0:
        return
    model = folder / f"{epoch}epoch.pth"
    if not model.exists():
        logging.info(f"Writing {model}, which an interruption left out")
        with replace_when_written(model) as partial:
            torch.save(states["model"], partial)
    links = {"latest": epoch}
    for part, name, mode in best_model_criterion:
        if reporter.has(part, name):
            links[f"{part}.{name}.best"] = reporter.get_best_epoch(part, name, mode)
    for name, target in links.items():
        link = folder / f"{name}.pth"
        link.unlink(missing_ok=True)
        link.symlink_to(f"{target}epoch.pth")


class _Unsaid:
    """Default of an option that is not given; ``none`` can be given."""

    def __repr__(self) -> str:  # in --help
        return "as the model needs"


_UNSAID = _Unsaid()
# Settings that follow from the data.
_FOLLOWING = [("tts_conf", "durations")]
_FOLLOWING += [(f"{name}_extract_conf", averaged) for name, _, averaged in VARIANCES]


class PruneTTSTask(TTSTask):
    """``TTSTask`` with the two phases of training."""

    trainer = PruneTrainer
    _rate: Any = None  # Hz, of the model that was built from a file

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ``--phase1_dir`` to ESPnet's options."""
        super().add_task_arguments(parser)
        allow_cleaner(parser, LOWER_CASE)
        parser.add_argument_group("Pruning related").add_argument(
            "--phase1_dir",
            type=str_or_none,
            default=None,
            help="Phase 2 only (--tts_conf pruning_conf.phase=2): experiment folder "
            "of the phase 1 from which it starts",
        )

        for name, _, _ in VARIANCES:
            parser.set_defaults(
                **{f"{name}_extract": _UNSAID, f"{name}_normalize": _UNSAID}
            )

    @classmethod
    def get_parser(cls):
        """Return ESPnet's parser; settings that are not given are filled in."""
        parser = super().get_parser()
        parse = parser.parse_known_args

        def parse_and_fill_in(args=None, namespace=None):
            found, rest = parse(args, namespace)
            fill_in(found)
            return found, rest

        parser.parse_known_args = parse_and_fill_in
        return parser

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the settings of ``--print_config``.

        Settings that follow from the data are left out, because the printed file may be
        used with other data.
        """
        config = super().get_default_config()
        said = cls.get_parser().parse_known_args()[0]
        if said.tts in MODELS:
            for section, name in _FOLLOWING:
                if name not in getattr(said, section):
                    config[section].pop(name, None)
        return config

    @classmethod
    def main(cls, args=None, cmd=None) -> None:
        """Check the settings, prepare phase 2, and train as ESPnet does."""
        if args is None:
            args = cls.get_parser().parse_args(cmd)
        if args.print_config:
            super().main(args=args)
            return
        cls.check_required_command_args(args)
        check_settings(args)
        require_rate(args.train_data_path_and_name_and_type, _rate(args))
        with _training_folder(args):
            try:
                super().main(args=args)
            except Exception as error:
                # it may come from a process per GPU, or from one that loads data
                message = sent_message(error)
                if message is None:
                    raise
                raise UserError(message) from error

    @classmethod
    def main_worker(cls, args) -> None:
        """Train in one process; a full disk is a ``UserError``."""
        name_recordings()
        try:
            super().main_worker(args)
        except OSError as error:
            raise UserError(explain(error)) from error

    @classmethod
    def build_preprocess_fn(cls, args, train):
        """Build ESPnet's preparation of utterances, which also names unusable ones."""
        return CheckedPreprocessor(super().build_preprocess_fn(args, train), args)

    @classmethod
    def build_model(cls, args):
        """Build the model and log the version of the plugin that made it."""
        if is_ours(args.tts):
            args.tts_conf.setdefault("plugin_version", espnet_prune.__version__)
        model = super().build_model(args)
        describe_features(model.feats_extract)  # it refuses impossible settings
        for weights in getattr(args, "init_param", None) or ():
            require_initial_weights(model, weights, args.ignore_init_mismatch)
        return model

    @classmethod
    def build_model_from_file(cls, config_file=None, model_file=None, device="cpu"):
        """Build a trained model as ESPnet's commands do, but refuse broken files."""
        if config_file is None and model_file is not None:
            config_file = Path(model_file).parent / "config.yaml"
        if config_file is not None:
            settings = load_yaml(config_file, "configuration of a training")
            require_same_statistics(settings, Path(config_file).parent)
            cls._rate = _rate(argparse.Namespace(**settings))
        if model_file is not None:
            load_weights(model_file)  # otherwise broken weights would speak
        return super().build_model_from_file(config_file, model_file, device)

    @classmethod
    def build_streaming_iterator(cls, data_path_and_name_and_type, *args, **kwargs):
        """Read the data of decoding; references must have the rate of the model."""
        name_recordings()
        if kwargs.get("inference"):
            require_rate(data_path_and_name_and_type, cls._rate)
        return super().build_streaming_iterator(
            data_path_and_name_and_type, *args, **kwargs
        )

    @classmethod
    def build_vocoder_from_file(
        cls, vocoder_config_file=None, vocoder_file=None, model=None, device="cpu"
    ):
        """Build any vocoder of ``open_vocoder``; None is Griffin-Lim."""
        if vocoder_file in (None, "none"):  # as tts.sh passes it
            vocoder_file = GRIFFIN_LIM
        features = describe_features(model.feats_extract)
        return open_vocoder(vocoder_file, features, device, vocoder_config_file)


class CheckedPreprocessor:
    """Prepares utterances as ESPnet does, and refuses those that cannot be used.

    ``preprocess`` is ESPnet's preparation; None leaves utterances unchanged.
    """

    def __init__(self, preprocess: Any, args: argparse.Namespace):
        self.preprocess = preprocess
        conf = args.feats_extract_conf or {}
        self.hop = None  # frames of other features are not known here
        if args.feats_extract == "fbank" and conf.get("center", True):
            self.hop = conf.get("hop_length", 256)
        self.reduction = args.tts_conf.get("reduction_factor", 1)
        self.checks_durations = is_ours(args.tts)

    def __getattr__(self, name: str) -> Any:  # the tokenizer, for synthesis
        if name.startswith("__") or name == "preprocess":
            raise AttributeError(name)
        return getattr(self.preprocess, name)

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, Any]:
        """Prepare an utterance, and check its recording and its durations."""
        if self.preprocess is not None:
            data = self.preprocess(uid, data)
        speech, durations = data.get("speech"), data.get("durations")
        fault = None
        if speech is not None and not len(speech):
            fault = "its recording is empty: remove it from the data"
        elif speech is not None and not np.isfinite(speech).all():
            fault = "its recording has samples that are NaN or infinite: remove it"
        elif durations is not None and self.checks_durations:
            fault = self._fault_of_durations(durations, data.get("text"), speech)
        if fault is not None:
            raise UserError(f"utterance {uid} cannot be used, {fault}")
        return data

    def _fault_of_durations(self, durations, text, speech) -> str | None:
        if text is not None and len(durations) != len(text) + 1:
            return (
                f"it has {len(durations)} durations for {len(text)} tokens: give one "
                "for each token and one for <eos>"
            )
        if speech is None or self.hop is None:
            return None
        frames = len(speech) // self.hop + 1
        total = int(durations.sum()) * self.reduction
        if 0 <= frames - total < self.reduction:
            return None
        return (
            f"its durations add up to {total} frames, but its recording has {frames}: "
            "make them with the same fs, n_shift and audio as the features"
        )


@contextlib.contextmanager
def _training_folder(args: argparse.Namespace) -> Iterator[None]:
    """Check and lock the folder of a training, and prepare phase 2 there.

    Of several processes of one training, the first one locks the folder and writes.
    Collecting statistics, and a dry run, need no such folder.
    """
    if args.collect_stats or args.dry_run:
        yield
        return
    phase2 = _phase(args) == 2
    spawns = args.multiprocessing_distributed  # this is one process per node
    rank = (get_node_rank if spawns else get_rank)(args.dist_rank, args.dist_launcher)
    first = rank in (None, 0)
    identity = identify(vars(args))
    require_known_tokens(args.init_param, identity["tokens"], args.ignore_init_mismatch)

    def check(writes: bool) -> dict[str, Any]:
        """Check the training, and return its record."""
        has_begun = (Path(args.output_dir) / CHECKPOINT).exists()
        if phase2:
            prepare_phase2(args.phase1_dir, args.output_dir, writes)
            if not has_begun:
                return require_same_training(args.phase1_dir, identity, True)
        if has_begun and (phase2 or args.resume):
            return require_same_training(args.output_dir, identity)
        return identity

    check(writes=False)  # before the folder is made
    if phase2:
        args.resume = True  # training starts from the checkpoint prepared here
    if not first:
        yield
        return
    with lock_folder(args.output_dir, "training"):
        # again, because another process may have trained until now
        write_identity(args.output_dir, check(writes=True))
        yield


def check_settings(args: argparse.Namespace) -> None:
    """Refuse settings that would fail later or train another model than intended."""
    if not isinstance(args.tts_conf, dict):
        raise UserError(
            f"tts_conf is {args.tts_conf!r}: write its settings as lines of NAME: VALUE"
        )
    if not is_ours(args.tts):
        if args.phase1_dir is not None:
            raise UserError(
                f"--phase1_dir is for pruned models, but tts is {args.tts}: set tts: "
                "stylespeech or pruned_fastspeech2, or leave the option out"
            )
        return
    with torch.device("meta"):  # this checks every setting without much memory or time
        model = tts_choices.get_class(args.tts)(idim=3, odim=80, **args.tts_conf)
    if args.phase1_dir is not None and _phase(args) != 2:
        raise UserError(
            "--phase1_dir is given but the phase is 1: add --tts_conf "
            "pruning_conf.phase=2, or leave the option out"
        )
    names = _data_names(args)
    if hasattr(model, "durations"):
        unknown = not names  # only settings are printed
        check_variances(vars(args), model.durations, unknown or "durations" in names)
    if names and args.tts in MODELS:
        _require_statistics(args)


def fill_in(args: argparse.Namespace) -> None:
    """Fill in settings that are not given and that our models need; change ``args``.

    Durations are given if the data has them and learned otherwise. Pitch and energy are
    extracted, averaged over tokens if durations are given, and normalised, unless
    statistics are being collected. Settings of the user are kept.
    """
    names = _data_names(args)
    ours = args.tts in MODELS and isinstance(args.tts_conf, dict)
    durations = None  # not known
    if ours and (names or args.tts != "stylespeech" or "durations" in args.tts_conf):
        durations = choose_durations(args.tts, args.tts_conf, "durations" in names)
        if args.tts == "stylespeech":
            args.tts_conf = {**args.tts_conf, "durations": durations}
    for name, extractor, averaged in VARIANCES:
        if getattr(args, f"{name}_extract") is _UNSAID:
            setattr(args, f"{name}_extract", extractor if ours else None)
        if getattr(args, f"{name}_normalize") is _UNSAID:
            default = "global_mvn" if ours and not args.collect_stats else None
            setattr(args, f"{name}_normalize", default)
        conf = getattr(args, f"{name}_extract_conf")
        if durations and isinstance(conf, dict):
            filled = {averaged: durations == "given", **conf}
            setattr(args, f"{name}_extract_conf", filled)


def _data_names(args: argparse.Namespace) -> list[str]:
    """Return the names of the training data; none if only settings are printed."""
    return [entry[1] for entry in args.train_data_path_and_name_and_type]


def _require_statistics(args: argparse.Namespace) -> None:
    for name, _, _ in VARIANCES:
        if (
            getattr(args, f"{name}_normalize") == "global_mvn"
            and not args.collect_stats
            and "stats_file" not in getattr(args, f"{name}_normalize_conf")
        ):
            raise UserError(
                f"{name} has no statistics: run stage 6 with this configuration, name "
                f"them with --{name}_normalize_conf stats_file=FILE, or set "
                f"{name}_normalize: none"
            )


def _rate(args: argparse.Namespace) -> Any:
    """Return the sampling rate of the features; None if they are precomputed."""
    if not getattr(args, "feats_extract", None):
        return None
    return (args.feats_extract_conf or {}).get("fs")


def _phase(args: argparse.Namespace) -> int:
    """Return the phase in the options; 1 for a model without phases."""
    conf = args.tts_conf if is_ours(args.tts) else {}
    if conf.get("pruning") != "differentiable":
        return 1
    return (conf.get("pruning_conf") or {}).get("phase", 1)
