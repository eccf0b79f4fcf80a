"""Names of the statistics that training reports.

The name of a statistic of one decoder layer ends with the number of the layer, counted
from 1: ``threshold_2``. ESPnet's reporter, its plots and TensorBoard show these names.
"""

import re
from collections.abc import Iterable

THRESHOLD = "threshold"  # the scaled value, in multiples of 1/N
SOFT_MEAN = "soft_mean"  # mean of the soft mask, whose target in L_sp is R
KEPT_SHARE = "kept_share"  # connections that the hard mask keeps
KEPT_MASS = "kept_mass"  # attention probability that the hard mask keeps

LOSS = "loss"  # the sum of all terms
MEL_LOSS = "mel_loss"
SPARSITY_LOSS = "sparsity_loss"


def loss_of(term: str) -> str:
    """Return the name of a term of the loss: ``mel`` is reported as ``mel_loss``."""
    return f"{term}_loss"


def is_loss(name: str) -> bool:
    """Return whether a statistic is a loss, a single term or the sum."""
    return name == LOSS or name.endswith("_loss")


def of_layer(name: str, layer: int, prefix: str = "") -> str:
    """Return the name of a statistic of a layer; only the decoder has no prefix."""
    return f"{prefix}{name}_{layer}"


def decoder_layers(names: Iterable[str]) -> list[int]:
    """Return the decoder layers that have a threshold among the names."""
    found = (re.fullmatch(rf"{THRESHOLD}_(\d+)", name) for name in names)
    return sorted({int(match[1]) for match in found if match})
