"""Define and check the settings of pruning and of a model."""

import dataclasses
import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from espnet_prune.errors import UserError

PRUNING_KINDS = ("none", "vanilla", "differentiable")
# What the models predict in addition to durations: ESPnet's extractor, and the setting
# that averages its values over tokens, which needs durations from outside the model.
VARIANCES = (
    ("pitch", "dio", "use_token_averaged_f0"),
    ("energy", "energy", "use_token_averaged_energy"),
)


@dataclasses.dataclass(frozen=True)
class PruningConf:
    """Settings of pruned attention, ``pruning_conf`` in YAML.

    Args:
        sparsity_ratio: R, the target of the mean soft mask in L_sp, in (0, 1); lower
            prunes more. It is not the kept share of connections.
        temperature: T of the soft mask, > 0.
        sparsity_weight: weight of L_sp in the loss; 0 is the ablation "w/o L_sp".
        combine_heads: "or" shares the union of the heads' masks, "none" keeps one mask
            per head. Default: "or" for vanilla, "none" for differentiable pruning.
        phase: 1 (soft masks, thresholds are learned) or 2 (hard masks, thresholds are
            fixed), see ``training.phases``; for differentiable pruning only.
        inference_mask: "hard" or "soft"; soft with a single long phase 1 is the
            ablation "w/o SM_hard".
        threshold_init: theta at the first step, in multiples of 1/N.
        threshold_scale: theta = threshold_scale * parameter. Adam changes a parameter
            by about the learning rate per step for any gradient, so a short run needs a
            scale to reach the thresholds of a long one. The paper uses 1.
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
    combine_heads: str | None = None
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
            value = getattr(self, field.name)
            if field.type is float and not is_number(value):
                raise UserError(
                    f"pruning_conf.{field.name} is {value!r}: give a number"
                )
        for name, fits, wanted in (
            (
                "sparsity_ratio",
                0 < self.sparsity_ratio < 1,
                "a value between 0 and 1, as for any mean of a mask (the paper: 0.45)",
            ),
            ("temperature", self.temperature > 0, "a value above 0 (the paper: 0.01)"),
            (
                "sparsity_weight",
                self.sparsity_weight >= 0,
                "0 (no L_sp) or more (default: 1.0)",
            ),
            ("threshold_scale", self.threshold_scale > 0, "a value above 0"),
        ):
            if not fits:
                raise UserError(
                    f"pruning_conf.{name} is {getattr(self, name)}: choose {wanted}"
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

    def training_mask(self, pruning: str) -> str | None:
        """Kind of mask, "hard" or "soft", under which losses are computed."""
        if pruning == "none":
            return None
        return "soft" if pruning == "differentiable" and self.phase == 1 else "hard"

    def synthesis_mask(self, pruning: str) -> str | None:
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
    pruning: str | Literal[False] | None,
    conf: dict[str, Any] | None,
    option: str = "pruning",
) -> PruningConf:
    """Check a ``pruning`` name and its settings, keyword arguments of ``PruningConf``.

    ``option`` is the name of the YAML key, for messages.
    """
    # YAML reads `no` as False and an empty value as None
    if pruning is False or pruning is None:
        pruning = "none"
    require_choice(f"tts_conf.{option}", pruning, PRUNING_KINDS)
    if conf is not None and not isinstance(conf, dict):
        raise UserError(
            f"{option}_conf is {conf!r}: write its settings as lines of NAME: VALUE"
        )
    known = [field.name for field in dataclasses.fields(PruningConf)]
    require_known(f"{option}_conf", conf or {}, known)
    return PruningConf(**(conf or {}))


def parse_encoder_pruning(
    pruning: str,
    pruning_conf: dict[str, Any] | None,
    encoder_pruning: str,
    encoder_pruning_conf: dict[str, Any] | None,
) -> tuple[PruningConf, PruningConf]:
    """Check the pruning of a model's decoder and encoder; return the settings of both.

    The encoder has the settings of the decoder where it has none of its own. Both are
    trained in the same phases, so the encoder must not need phases that the decoder
    does not have.
    """
    conf = parse_pruning(pruning, pruning_conf)
    parse_pruning(encoder_pruning, encoder_pruning_conf, option="encoder_pruning")
    own = PruningConf(**{**(pruning_conf or {}), **(encoder_pruning_conf or {})})
    if encoder_pruning == "differentiable":
        if pruning != "differentiable":
            raise UserError(
                "encoder_pruning is differentiable, but pruning, which determines "
                f"the phases of training, is {pruning}: set pruning: differentiable "
                "too"
            )
        for name in ("phase", "inference_mask"):
            if getattr(own, name) != getattr(conf, name):
                raise UserError(
                    f"encoder_pruning_conf.{name} is {getattr(own, name)}, but "
                    f"pruning_conf.{name} is {getattr(conf, name)}: both parts have "
                    "the same phases, leave the former out"
                )
    return conf, own


def choose_durations(tts: str, conf: Mapping[str, Any], data_has_them: bool) -> str:
    """Return the source of a model's durations: "given" with the data, or "learned".

    A setting ``durations`` is kept. Otherwise they are given if the data has them.
    """
    if tts != "stylespeech":  # the other models have no aligner
        return "given"
    return conf.get("durations", "given" if data_has_them else "learned")


def check_variances(
    settings: Mapping[str, Any], durations: str, data_has_them: bool
) -> None:
    """Refuse settings of durations, pitch and energy that do not go together.

    Args:
        settings: options of training by name; missing ones follow from the rest.
        durations: "given" or "learned".
        data_has_them: whether the data has ``durations``.
    """
    tts = settings["tts"]
    require_choice("tts_conf.durations", durations, ("given", "learned"))
    if durations == "given" and not data_has_them:
        raise UserError(
            f"{tts} needs durations, but the data has none: name the folder of "
            "durations with --teacher_dumpdir, or let stylespeech learn them with "
            "tts_conf.durations: learned"
        )
    for name, extractor, averaged in VARIANCES:
        if settings.get(f"{name}_extract", extractor) is None:
            raise UserError(
                f"{name}_extract is not set, but {tts} predicts {name}: set "
                f"{name}_extract: {extractor}"
            )
        wanted = durations == "given"
        found = (settings.get(f"{name}_extract_conf") or {}).get(averaged, wanted)
        if found != wanted:
            raise UserError(
                f"{name}_extract_conf.{averaged} is {found} with {durations} "
                f"durations: set it to {wanted}, or leave it out"
            )


def require_numbers(model: Callable[..., Any], settings: dict[str, Any]) -> None:
    """Refuse values that are not numbers of the kind that a model needs.

    The annotations and names of the constructor of ``model`` define the kinds.
    """
    for name, parameter in inspect.signature(model).parameters.items():
        value = settings[name]
        number = is_number(value)
        least = 0 if name in ("elayers", "dlayers") else 1
        wanted = None
        if parameter.annotation is int and not (type(value) is int and value >= least):
            wanted = f"a whole number from {least}"
        elif name.endswith("_rate") and not (number and 0 <= value < 1):
            wanted = "a share from 0 to below 1"
        elif name.endswith("_weight") and not (number and value >= 0):
            wanted = "a number from 0"
        elif name.endswith("_alpha") and not (number and value > 0):
            wanted = "a number above 0"
        elif name.endswith("_kernel_size") and value % 2 == 0:
            wanted = "an odd number"
        elif name == "ffn_kernel_sizes" and not (
            isinstance(value, (list, tuple))
            and [type(size) for size in value] == [int, int]
            and all(size > 0 and size % 2 for size in value)
        ):
            wanted = "two odd numbers"
        if wanted is not None:
            raise UserError(f"tts_conf.{name} is {value!r}: choose {wanted}")


def require_heads(name: str, width: int, heads: int) -> None:
    """Refuse a width that cannot be divided among the heads of an attention."""
    if width % heads != 0:
        raise UserError(
            f"tts_conf.{name} is {width} / {heads}: choose a width that is a multiple "
            "of the number of heads"
        )


def require_known(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names of settings that ``owner``, a model or a class, does not know."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or ": leave it out"
            raise UserError(f"{owner} has no setting {name}{hint}")


def require_choice(name: str, value: Any, choices) -> None:
    """Raise a ``UserError`` unless ``value`` is among ``choices``."""
    if value not in choices:
        names = [str(choice) for choice in choices if choice is not None]
        raise UserError(
            f"{name} is {value!r}: choose one of {', '.join(names)}"
            f"{did_you_mean(str(value), names)}"
        )


def did_you_mean(name: str, known) -> str:
    """Return a hint with the known name that is closest to a misspelled one."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, also one of numpy."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def require_positive(name: str, value: Any) -> None:
    """Raise a ``UserError`` unless a value is a number above 0."""
    if not (is_number(value) and value > 0):
        raise UserError(f"{name} is {value}: choose a number above 0")


def require_whole(name: str, value: Any) -> None:
    """Raise a ``UserError`` unless a value is a whole number above 0."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise UserError(f"{name} is {value}: choose a whole number above 0")
