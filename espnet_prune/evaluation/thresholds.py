"""The table of thresholds for the report and the model card."""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.evaluation import tables
from espnet_prune.evaluation.documents import Block
from espnet_prune.evaluation.history import Row
from espnet_prune.loading import load_json, reading

NAME = "thresholds"  # name of its files, without their endings
COLUMNS = (
    *tables.named("phase", "epoch", "layer"),
    tables.Column("threshold", "threshold", tables.number),
    tables.Column("mean_soft_mask", "mean soft mask", tables.number),
    tables.Column("kept_share", "kept share", tables.percent),
    tables.Column("kept_mass", "kept mass", tables.percent),
)
LEGEND = """\
threshold: in multiples of the uniform attention weight 1/N.
mean soft mask: the value that L_sp moves towards R; it is not the kept share. kept
share, kept mass: connections, and attention probability, that the hard mask keeps;
after phase 1, what it would keep. Measured on the validation set after the last epoch
of each phase.
"""


def threshold_blocks(table: Sequence[Row]) -> list[Block]:
    """Return the table of thresholds and its legend."""
    return [{"table": tables.grid(table, COLUMNS)}, {"text": LEGEND}]


def read_thresholds(folder: Path) -> list[Block]:
    """Return the table of thresholds of a report; [] if it has none."""
    file = folder / f"{NAME}.json"
    if not file.is_file():
        return []
    what, remedy = "a table of thresholds", "make the report again"
    with reading(file, what, remedy):
        return threshold_blocks(load_json(file, what, remedy)["layers"])
