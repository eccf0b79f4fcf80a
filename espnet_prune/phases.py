"""What each phase of training means, and how the second one starts from the first.

Differentiable pruning trains in two phases (Yoon et al., Interspeech 2023, Sec. 3.2):

    phase   mask                              trained                losses
    1       soft                              everything and theta   TTS + L_sp
    2       hard, at the thresholds learned   everything but theta   TTS

Vanilla pruning and the dense model have one phase only.
"""

import dataclasses
import difflib
import hashlib
import math
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import torch
import yaml
from espnet2.train.reporter import Reporter

from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written

PRUNING_KINDS = ("none", "vanilla", "differentiable")
PHASE1_RECORD = "phase1.yaml"


@dataclasses.dataclass(frozen=True)
class PruningConf:
    """Settings of pruned attention, ``pruning_conf`` in YAML.

    Args:
        sparsity_ratio: R, the mean soft mask that L_sp pulls towards, in (0, 1); lower
            prunes more. It is not the share of connections that survives.
        temperature: T of the soft mask, > 0.
        sparsity_weight: weight of L_sp in the loss; 0 is the ablation "w/o L_sp".
        combine_heads: "or" shares the union of the heads' masks, "none" keeps one mask
            a head. Default: "or" for vanilla, "none" for differentiable pruning.
        phase: 1 or 2, see the module.
        inference_mask: "hard" or "soft"; soft with a single long phase 1 is the
            ablation "w/o SM_hard".
        threshold_init: theta at the first step, in multiples of 1/N.
        threshold_scale: theta = threshold_scale * parameter. Adam moves a parameter by
            about the learning rate a step whatever its gradient, so a short run needs
            a scale to reach the thresholds of a long one. The paper has 1.
        frame_count: the N of theta / N, "valid" frames of the utterance or the "padded"
            length of its batch.
        sparsity_pairs: L_sp averages over "valid" query-key pairs or over the "padded"
            square.
        dropout_position: attention dropout "after_mask" or "before_mask".

    Raises:
        UserError: a value outside its range.

    """

    sparsity_ratio: float = 0.45
    temperature: float = 0.01
    sparsity_weight: float = 1.0
    combine_heads: Optional[str] = None
    phase: int = 1
    inference_mask: str = "hard"
    threshold_init: float = 0.0
    threshold_scale: float = 1.0
    frame_count: str = "valid"
    sparsity_pairs: str = "valid"
    dropout_position: str = "after_mask"

    def __post_init__(self):
        """Refuse values outside their range."""
        for field in dataclasses.fields(self):
            if field.type is float:
                _require_number(field.name, getattr(self, field.name))
        if not 0 < self.sparsity_ratio < 1:
            raise UserError(
                f"pruning_conf.sparsity_ratio is {self.sparsity_ratio}: it is the mean "
                "of a soft mask, choose a value between 0 and 1 (the paper: 0.45)"
            )
        if self.temperature <= 0:
            raise UserError(
                f"pruning_conf.temperature is {self.temperature}: choose a value above "
                "0 (the paper: 0.01)"
            )
        if self.sparsity_weight < 0:
            raise UserError(
                f"pruning_conf.sparsity_weight is {self.sparsity_weight}: choose 0 (no "
                "L_sp) or more (default: 1.0)"
            )
        if self.threshold_scale <= 0:
            raise UserError(
                f"pruning_conf.threshold_scale is {self.threshold_scale}: choose a "
                "value above 0 (the paper: 1.0)"
            )
        for name, choices in (
            ("phase", (1, 2)),
            ("combine_heads", (None, "none", "or")),
            ("inference_mask", ("hard", "soft")),
            ("frame_count", ("valid", "padded")),
            ("sparsity_pairs", ("valid", "padded")),
            ("dropout_position", ("after_mask", "before_mask")),
        ):
            require_choice(f"pruning_conf.{name}", getattr(self, name), choices)

    def training_mask(self, pruning: str) -> Optional[str]:
        """Kind of mask, "hard" or "soft", under which losses are computed."""
        if pruning == "none":
            return None
        return "soft" if pruning == "differentiable" and self.phase == 1 else "hard"

    def synthesis_mask(self, pruning: str) -> Optional[str]:
        """Kind of mask, "hard" or "soft", under which speech is synthesised."""
        if pruning == "none":
            return None
        return self.inference_mask if pruning == "differentiable" else "hard"

    def shares_mask(self, pruning: str) -> bool:
        """Whether the heads of a layer share the union of their masks."""
        if self.combine_heads is None:
            return pruning == "vanilla"
        return self.combine_heads == "or"

    def trains_threshold(self, pruning: str) -> bool:
        """Whether theta is updated: only in phase 1 of differentiable pruning."""
        return pruning == "differentiable" and self.phase == 1


def parse_pruning(
    pruning: str, conf: Optional[Dict[str, Any]], option: str = "pruning"
) -> PruningConf:
    """Check a ``pruning`` name and its settings.

    Args:
        pruning: none, vanilla or differentiable.
        conf: keyword arguments of ``PruningConf``.
        option: name of the YAML key, for messages.

    Raises:
        UserError: an unknown name or setting, or a value outside its range.

    """
    if pruning is False or pruning is None:  # YAML reads `no` and an empty value so
        pruning = "none"
    require_choice(f"tts_conf.{option}", pruning, PRUNING_KINDS)
    if conf is not None and not isinstance(conf, dict):
        raise UserError(
            f"{option}_conf is {conf!r}: write its settings as lines of NAME: VALUE"
        )
    known = [field.name for field in dataclasses.fields(PruningConf)]
    for name in conf or {}:
        if name not in known:
            raise UserError(
                f"unknown setting {option}_conf.{name}{did_you_mean(name, known)}"
            )
    return PruningConf(**(conf or {}))


def parse_encoder_pruning(
    pruning: str,
    pruning_conf: Optional[Dict[str, Any]],
    encoder_pruning: str,
    encoder_pruning_conf: Optional[Dict[str, Any]],
) -> Tuple[PruningConf, PruningConf]:
    """Check the pruning of a model's decoder and encoder together.

    Args:
        pruning, pruning_conf: of the decoder, see ``parse_pruning``.
        encoder_pruning: of the encoder.
        encoder_pruning_conf: its settings; those of ``pruning_conf`` where not given.

    Returns:
        Settings of the decoder and of the encoder.

    Raises:
        UserError: see ``parse_pruning``; also if the encoder would need phases that the
            decoder does not have, for both are trained in the same ones.

    """
    conf = parse_pruning(pruning, pruning_conf)
    parse_pruning(encoder_pruning, encoder_pruning_conf, option="encoder_pruning")
    own = PruningConf(**{**(pruning_conf or {}), **(encoder_pruning_conf or {})})
    if encoder_pruning == "differentiable":
        if pruning != "differentiable":
            raise UserError(
                "encoder_pruning is differentiable, but pruning, which decides on the "
                f"phases of training, is {pruning}: set pruning: differentiable too"
            )
        for name in ("phase", "inference_mask"):
            if getattr(own, name) != getattr(conf, name):
                raise UserError(
                    f"encoder_pruning_conf.{name} is {getattr(own, name)}, but "
                    f"pruning_conf.{name} is {getattr(conf, name)}: both parts go "
                    "through the same phases, leave the former out"
                )
    return conf, own


def is_finished(config: Dict[str, Any], progress: Dict[str, Any]) -> bool:
    """Tell whether a training came to its end; early stopping is one.

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
    phase1_dir: Optional[Union[str, Path]],
    output_dir: Union[str, Path],
    tts: Optional[str] = None,
    tts_conf: Optional[Dict[str, Any]] = None,
    writes: bool = True,
) -> None:
    """Make the checkpoint that the first epoch of phase 2 resumes from.

    It carries phase 1's weights, optimiser moments, scheduler position and gradient
    scaler. Reporter and epoch count start anew, so that no epoch of phase 1 can become
    the best model of phase 2 or enter its average. Beside it stands a record of the
    checkpoint it came from. A phase 2 that has begun is left as it is.

    Args:
        phase1_dir: experiment folder of phase 1; may be None for a phase 2 that has
            begun.
        output_dir: experiment folder of phase 2.
        tts: name of the model of phase 2, to be compared with that of phase 1.
        tts_conf: its settings, likewise.
        writes: check only if false, as all but the first of several processes do.

    Raises:
        UserError: no usable phase 1 in ``phase1_dir``, or one of another model; or
            ``output_dir`` was started from another phase 1.

    """
    checkpoint = Path(output_dir) / "checkpoint.pth"
    record = Path(output_dir) / PHASE1_RECORD
    if phase1_dir is None:
        if not checkpoint.exists():
            raise UserError(
                f"phase 2 has nothing to start from: there is no {checkpoint} and no "
                "phase-1 folder was named; pass --phase1_dir EXPERIMENT_OF_PHASE_1"
            )
        if not record.exists():
            raise UserError(
                f"{output_dir} holds a phase 1: give phase 2 a folder of its own and "
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
                f"{output_dir} holds a phase 2 of another phase 1 than {source}; "
                "remove that folder or choose another one for this phase 2"
            )
        return

    states = torch.load(source, map_location="cpu", weights_only=True)
    thresholds = {
        name: float(value)
        for name, value in states["model"].items()
        if name.endswith(".theta")
    }
    if not thresholds:
        raise UserError(
            f"{source} has no thresholds: phase 2 follows a phase 1 with "
            "`pruning: differentiable`"
        )
    config_file = Path(phase1_dir) / "config.yaml"
    if config_file.exists():
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        _require_finished(phase1_dir, config, states["reporter"])
        if tts_conf is not None:
            before = dict(config["tts_conf"], tts=config["tts"])
            _require_same_model(phase1_dir, before, dict(tts_conf, tts=tts))
    if not writes:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    details = dict(
        checkpoint=str(source),
        sha256=digest,
        epochs=states["reporter"]["epoch"],
        thresholds=thresholds,
    )
    states["reporter"] = {"epoch": 0, "stats": {}}
    with replace_when_written(record) as partial:
        partial.write_text(yaml.safe_dump(details, sort_keys=False))
    with replace_when_written(checkpoint) as partial:
        torch.save(states, partial)


def require_choice(name: str, value: Any, choices) -> None:
    """Raise a ``UserError`` unless ``value`` is among ``choices``."""
    if value not in choices:
        names = [str(choice) for choice in choices if choice is not None]
        raise UserError(
            f"{name} is {value!r}: choose one of {', '.join(names)}"
            f"{did_you_mean(str(value), names)}"
        )


def did_you_mean(name: str, known) -> str:
    """Return a hint at the known name that is closest to a misspelt one."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _require_number(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise UserError(f"pruning_conf.{name} is {value!r}: give a number")


def _require_finished(
    phase1_dir: Union[str, Path], config: Dict[str, Any], progress: Dict[str, Any]
) -> None:
    """Refuse a phase 1 that was interrupted."""
    if not is_finished(config, progress):
        raise UserError(
            f"phase 1 in {phase1_dir} was interrupted after epoch {progress['epoch']} "
            f"of {config['max_epoch']}; run phase 1 again, it resumes where it stopped"
        )


def _require_same_model(
    phase1_dir: Union[str, Path], before: Dict[str, Any], now: Dict[str, Any]
) -> None:
    """Refuse other weights, or another meaning of theta, than in phase 1.

    Rates of dropout and weights of losses may change between the phases.
    """

    def settings(conf):
        conf = {
            **conf,
            **dataclasses.asdict(PruningConf(**(conf.get("pruning_conf") or {}))),
        }
        free = ("pruning_conf", "phase", "inference_mask", "sparsity_ratio")
        free += ("temperature", "plugin_version", "stop_gradient_from")
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
