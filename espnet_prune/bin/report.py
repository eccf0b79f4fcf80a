#!/usr/bin/env python3
"""Report what training did to the thresholds: a table and figures.

python -m espnet_prune.bin.report EXP_PHASE1 EXP_PHASE2 --output_dir DIR
python -m espnet_prune.bin.report EXP --output_dir DIR
"""

import argparse
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from matplotlib.figure import Figure

from espnet_prune.errors import run
from espnet_prune.evaluation import plots, tables
from espnet_prune.evaluation.history import (
    Experiment,
    Row,
    join,
    read_experiments,
    threshold_rows,
)

COLUMNS = (
    tables.Column("phase", "phase"),
    tables.Column("epoch", "epoch"),
    tables.Column("layer", "layer"),
    tables.Column("threshold", "theta", tables.number),
    tables.Column("mean_soft_mask", "mean soft mask", tables.number),
    tables.Column("kept_share", "kept share", tables.percent),
    tables.Column("kept_mass", "kept mass", tables.percent),
)
LEGEND = """\
theta: threshold in multiples of the uniform attention weight 1/N.
mean soft mask: what L_sp pulls towards R; no share of connections.
kept share, kept mass: connections, and attention probability, that the hard mask
keeps; after phase 1, what it would keep.
Measured on the validation set after the last epoch of each phase.
"""


class Exhibit(NamedTuple):
    """A figure of the report, the name of its file and what it shows."""

    name: str
    caption: str
    figure: Figure


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Report thresholds and what they keep, per decoder layer and phase",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXP",
        help="Experiment folder, or those of phase 1 and phase 2 in this order",
    )
    parser.add_argument(
        "--output_dir", required=True, help="Folder to write tables and figures to"
    )
    parser.add_argument(
        "--axis",
        default="step",
        choices=sorted(plots.AXES),
        help="What the figures show time in",
    )
    return parser


def describe(experiment: Experiment) -> str:
    """Name the settings that the numbers of an experiment depend on, in one line."""
    if experiment.pruning == "vanilla":
        return f"{experiment.folder}: vanilla pruning, theta fixed at 1, no R"
    return (
        f"{experiment.folder}: differentiable pruning, phase {experiment.phase}, "
        f"R = {experiment.sparsity_ratio:g}, T = {experiment.temperature:g}, "
        f"threshold_scale = {experiment.threshold_scale:g}"
    )


def exhibits(experiments: Sequence[Experiment], axis: str = "step") -> List[Exhibit]:
    """Draw every figure that the experiments have data for."""
    rows = join(experiments)
    found = [
        Exhibit(
            "thresholds",
            "Threshold of each decoder layer.",
            plots.plot_thresholds(rows, axis),
        ),
        Exhibit(
            "kept",
            "Connections and attention mass that the hard mask keeps.",
            plots.plot_kept(rows, axis),
        ),
        Exhibit(
            "losses",
            "Loss terms of training and validation.",
            plots.plot_losses(rows, axis),
        ),
    ]
    phase1 = next((e for e in experiments if e.phase == 1), None)
    if phase1 is not None:
        figure = plots.plot_soft_mean(phase1.rows, phase1.sparsity_ratio, axis)
        caption = "Mean soft mask of each decoder layer, which L_sp pulls towards R."
        found.append(Exhibit("soft_mean", caption, figure))
    return found


def write_thresholds(
    output_dir: Path, experiments: Sequence[Experiment], table: List[Row]
) -> List[Path]:
    """Write the table of thresholds as Markdown, CSV and JSON."""
    paths = [output_dir / f"thresholds.{kind}" for kind in ("md", "csv", "json")]
    settings: List[Dict[str, Optional[object]]] = [
        {
            "folder": str(experiment.folder),
            "pruning": experiment.pruning,
            "phase": experiment.phase,
            "sparsity_ratio": experiment.sparsity_ratio,
            "temperature": experiment.temperature,
            "threshold_scale": experiment.threshold_scale,
        }
        for experiment in experiments
    ]
    lines = "".join(f"- {describe(experiment)}\n" for experiment in experiments)
    tables.write_text(
        paths[0],
        f"# Thresholds\n\n{lines}\n{tables.markdown(table, COLUMNS)}\n{LEGEND}",
    )
    tables.write_csv(paths[1], table)
    tables.write_json(paths[2], {"experiments": settings, "layers": table})
    return paths


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Read one or two experiments, write and print the report."""
    args = get_parser().parse_args(cmd)
    experiments = read_experiments(args.experiments)
    table = threshold_rows(experiments)  # refuses what is not pruned, before writing
    output_dir = tables.make_output_dir(args.output_dir)
    paths = write_thresholds(output_dir, experiments, table)
    for name, _, figure in exhibits(experiments, args.axis):
        paths.append(output_dir / f"{name}.png")
        plots.save(figure, paths[-1])
    for experiment in experiments:
        print(describe(experiment))
    print()
    print(tables.markdown(table, COLUMNS))
    print(LEGEND)
    print("Written:")
    for path in paths:
        print(f"  {path}")


if __name__ == "__main__":
    run(main)
