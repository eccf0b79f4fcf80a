"""Names of the statistics that training reports, in one place.

A statistic of one decoder layer has the number of the layer behind its name, counted
from 1: ``threshold_2``. ESPnet's reporter, its plots and TensorBoard show these names.
"""

import re
from collections.abc import Iterable

THRESHOLD = "threshold"  # the scaled value, in multiples of 1/N
SOFT_MEAN = "soft_mean"  # mean of the soft mask, which L_sp pulls towards R
KEPT_SHARE = "kept_share"  # connections that the hard mask keeps
KEPT_MASS = "kept_mass"  # attention probability that the hard mask keeps
LAYER_STATISTICS = (THRESHOLD, SOFT_MEAN, KEPT_SHARE, KEPT_MASS)

LOSS = "loss"  # the sum of all terms
MEL_LOSS = "mel_loss"
SPARSITY_LOSS = "sparsity_loss"


def loss_of(term: str) -> str:
    """Name one term of the loss: ``mel`` is reported as ``mel_loss``."""
    return f"{term}_loss"


def is_loss(name: str) -> bool:
    """Tell whether a statistic is a loss, of a term or of all."""
    return name == LOSS or name.endswith("_loss")


def of_layer(name: str, layer: int, prefix: str = "") -> str:
    """Name a statistic of one layer.

    Args:
        name: One of ``LAYER_STATISTICS``.
        layer: Its number, from 1.
        prefix: For layers elsewhere than in the decoder.

    """
    return f"{prefix}{name}_{layer}"


def decoder_layers(names: Iterable[str]) -> list[int]:
    """List the decoder layers of which there is a threshold among the names."""
    found = (re.fullmatch(rf"{THRESHOLD}_(\d+)", name) for name in names)
    return sorted({int(match[1]) for match in found if match})
