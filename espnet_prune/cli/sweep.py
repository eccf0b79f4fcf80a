"""Put the experiments of a sweep side by side: tables and figures.

python -m espnet_prune.cli.sweep SWEEP_DIR --output_dir DIR [--scores scores.csv]

SWEEP_DIR is the folder that ``sweep.sh`` fills: experiments that differ in R, in the
length of phase 1 and in the seed.
"""

import argparse
import logging
import math
from pathlib import Path
from typing import Optional, Sequence

from espnet_prune.errors import UserError
from espnet_prune.evaluation import plots, sweep, tables
from espnet_prune.evaluation.history import Row
from espnet_prune.evaluation.scorers import METRICS

LEGEND = """\
theta: mean over decoder layers of the thresholds, in multiples of 1/N. kept share, kept
mass: connections, and attention probability, that the hard mask keeps, mean over
layers. R is what the mean soft mask was pulled towards, not the share kept. Losses,
theta and kept share: of the validation set after the last epoch. Over several seeds:
mean +- standard deviation.
"""


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Tabulate and draw the experiments of a sweep over R, the length "
        "of phase 1 and seeds",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("sweep_dir", help="Folder of the experiments")
    parser.add_argument(
        "--scores",
        help="scores.csv of bin.score, whose systems have the names of the experiments "
        "without _phase1 and _phase2",
    )
    parser.add_argument(
        "--output_dir", required=True, help="Folder to write tables and figures to"
    )
    return parser


def with_spread(
    value: Optional[float], spread: Optional[float], percent: bool
) -> Optional[str]:
    """Print a mean and its standard deviation, down to the latter's second digit."""
    if value is None:
        return None
    if not spread:
        return tables.percent(value) if percent else tables.number(value)
    value, spread = (100 * number if percent else number for number in (value, spread))
    digits = max(0, 1 - math.floor(math.log10(spread)))
    return f"{value:.{digits}f} +- {spread:.{digits}f}" + (" %" if percent else "")


def lay_out(table: Sequence[Row], names: Sequence[str]) -> str:
    """Make the Markdown table with a line a setting."""
    headings = dict(threshold="theta")
    columns = [
        tables.Column("pruning", "pruning"),
        tables.Column("sparsity_ratio", "R", "{:.2f}".format),
        tables.Column("phase1_epochs", "phase 1 (epochs)"),
        tables.Column("seeds", "seeds"),
    ]
    columns += [
        tables.Column(name, headings.get(name, name.replace("_", " ")))
        for name in names
    ]
    lines = [dict(row) for row in table]
    for name in names:
        percent = name.startswith("kept_") or (
            name in METRICS and METRICS[name].percent
        )
        for line in lines:
            line[name] = with_spread(line[name], line[f"{name}_sd"], percent)
    return tables.markdown(lines, columns)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Read a sweep, write and print its report."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    points = sweep.read_sweep(args.sweep_dir)
    scores = sweep.read_scores(args.scores) if args.scores else {}
    if args.scores and not any(point.name in scores for point in points):
        raise UserError(
            f"{args.scores} has none of the experiments (for instance "
            f"{points[0].name}) among its systems: name systems as the experiments"
        )
    rows = sweep.tabulate(points, scores)
    table = sweep.summarise(rows)
    measured = sweep.numbers(rows)
    losses = [name for name in measured if name.endswith("loss")]
    scored = [n for n in measured if any(n in system for system in scores.values())]
    kept = [n for n in ("threshold", "kept_share", "kept_mass") if n in measured]

    output_dir = tables.make_output_dir(args.output_dir)
    main_losses = [n for n in losses if n in ("loss", "mel_loss", "l1_loss")]
    shown = lay_out(table, (scored or main_losses) + kept)
    page = f"# Sweep in {args.sweep_dir}\n\n{len(points)} models.\n\n{shown}\n{LEGEND}"
    tables.write_text(output_dir / "sweep.md", page)
    tables.write_csv(output_dir / "sweep.csv", table)
    tables.write_csv(output_dir / "points.csv", rows)
    figures = {"metrics": sweep.plot_sweep_metrics(table, scored or losses)}
    if any(point.setting.pruning == "differentiable" for point in points):
        figures["thresholds"] = sweep.plot_sweep_thresholds(points)
    if kept:
        figures["kept"] = sweep.plot_sweep_kept(points, table)
    for name, figure in figures.items():
        plots.save(figure, output_dir / f"{name}.png")
    print(shown)
    print(LEGEND)
    print("Written:")
    for name in ("sweep.md", "sweep.csv", "points.csv", *(f"{n}.png" for n in figures)):
        print(f"  {Path(output_dir) / name}")
