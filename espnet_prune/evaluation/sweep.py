"""Compare the experiments of a sweep over R, phase 1 and seeds.

A sweep is a folder of experiments. Those that differ only in the seed are one setting:
its numbers are means over seeds with their standard deviations.
"""

import csv
import dataclasses
import itertools
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from espnet_prune import keys
from espnet_prune.errors import UserError
from espnet_prune.evaluation import documents, history, plots, tables
from espnet_prune.evaluation.documents import Document
from espnet_prune.evaluation.history import Experiment, Row
from espnet_prune.evaluation.metrics import METRICS
from espnet_prune.experiment import is_finished, read_config, read_progress
from espnet_prune.loading import reading

LEGEND = """\
threshold: mean over decoder layers of the thresholds, in multiples of 1/N. kept share,
kept mass: connections, and attention probability, that the hard mask keeps, mean over
layers. R is the target of the mean soft mask, not the kept share. Losses, threshold and
kept share: of the validation set after the last epoch. Over several seeds: mean +-
standard deviation.
"""
_OF_LAYERS = (keys.THRESHOLD, keys.KEPT_SHARE, keys.KEPT_MASS)
_PHASES = ("_phase1", "_phase2")
# Files of conf/systems that sweep.sh --systems trains, as SYSTEM_sSEED.
RIVALS = ("mix_style", "sc_cnn", "less_capacity", "more_dropout")


class Setting(NamedTuple):
    """The settings of experiments that differ only in their seed."""

    pruning: str  # none, vanilla or differentiable
    sparsity_ratio: float | None  # R; None if no threshold is learned
    phase1_epochs: int | None  # length of phase 1; None for models with one phase
    # The file of ``RIVALS`` that was merged over the settings, if any.
    system: str | None = None

    @classmethod
    def of(cls, row: Row) -> "Setting":
        """Return the setting of a row of ``tabulate`` or ``summarise``."""
        return cls(*(row[name] for name in cls._fields))

    def __str__(self):
        if self.system is not None:
            return self.system
        if self.sparsity_ratio is None:
            return {"none": "dense"}.get(self.pruning, self.pruning)
        label = f"R = {self.sparsity_ratio:.2f}"
        if self.phase1_epochs is not None:
            label += f", phase 1 of {self.phase1_epochs} epochs"
        return label


COLUMNS = (*Setting._fields, "seed", "name")  # of ``tabulate``, chosen, not measured
LARGEST = 1e100  # of a number in tables and figures; larger ones are faults


@dataclasses.dataclass(frozen=True)
class Point:
    """One model of a sweep."""

    name: str  # name of its folder, without the phase
    setting: Setting  # its settings
    seed: int  # seed of training
    experiments: list[Experiment]  # its folder, or those of both phases

    @property
    def rows(self) -> list[Row]:
        """Statistics of all epochs on one time axis."""
        return history.join(self.experiments)

    @property
    def last(self) -> Row:
        """Statistics of the validation set after the last epoch."""
        return [row for row in self.rows if row["split"] == "valid"][-1]


def read_sweep(folder: str | Path) -> list[Point]:
    """Read every finished experiment of a folder.

    It contains models NAME, or NAME_phase1 and NAME_phase2. A model whose training has
    not ended is left out, with a warning. Two models of the same setting and seed are
    refused.

    Returns:
        Dense, vanilla, then by falling R, by length of phase 1 and by seed.
    """
    names: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).glob("*/config.yaml")):
        name = path.parent.name
        for phase in _PHASES:
            name = name.removesuffix(phase)
        names.setdefault(name, []).append(path.parent)
    points: list[Point] = []
    for name, folders in names.items():
        try:
            with reading(folders[-1], "an experiment of a sweep", "train it again"):
                point = _read_point(name, folders)
        except UserError as error:
            logging.warning(f"{name} is left out: {error}")
            continue
        # they differ in another setting, so that a mean over seeds is not possible
        for other in points:
            if (other.setting, other.seed) == (point.setting, point.seed):
                raise UserError(
                    f"{other.experiments[-1].folder} and "
                    f"{point.experiments[-1].folder} are both {point.setting}, of seed "
                    f"{point.seed}; give a folder with only one of them"
                )
        points.append(point)
    if not points:
        raise UserError(
            f"no finished experiment in {folder}: give the folder of a sweep "
            "(--sweep_dir of sweep.sh)"
        )

    def order(point):
        ratio, length = point.setting.sparsity_ratio, point.setting.phase1_epochs
        rival = point.setting.system or ""
        pruned = point.setting.pruning != "none"
        return pruned, rival, -(ratio or 1), length or 0, point.seed

    return sorted(points, key=order)


def _read_point(name: str, folders: list[Path]) -> Point:
    """Read a model of a sweep; any error says why it cannot be compared."""
    experiments = history.read_experiments(folders)
    configs = [read_config(each) for each in folders]
    pruning_conf = (configs[0].get("tts_conf") or {}).get("pruning_conf") or {}
    soft = pruning_conf.get("inference_mask") == "soft"
    first = folders[0].name.endswith(_PHASES[0])
    if first and len(folders) == 1 and not soft:
        raise UserError("it has no phase 2 yet")
    last, progress = experiments[-1], read_progress(experiments[-1].folder)
    if not is_finished(configs[-1], progress):
        raise UserError(
            f"it has {progress['epoch']} of {configs[-1]['max_epoch']} epochs"
        )
    length = int(configs[0]["max_epoch"]) if len(folders) == 2 else None
    stem = name.rpartition("_s")[0]
    system = stem if stem in RIVALS else None
    setting = Setting(last.pruning, last.sparsity_ratio, length, system)
    point = Point(name, setting, int(configs[0].get("seed", 0)), experiments)
    for key, value in _compared(point.last).items():
        if not abs(value) < LARGEST:
            raise UserError(f"{key} of its last epoch is {value}")
    return point


def _compared(last: Row) -> dict[str, float]:
    """Return the losses of an epoch, then the numbers of its decoder layers."""
    names = [n for n in last if keys.is_loss(n) and n != keys.SPARSITY_LOSS]
    names.sort(key=lambda name: (name != keys.LOSS, name))
    layers = history.decoder_layers([last])
    names += [keys.of_layer(name, layer) for name in _OF_LAYERS for layer in layers]
    return {name: last[name] for name in names}


def read_scores(path: str | Path) -> dict[str, dict[str, float]]:
    """Read scores.csv of ``score``: system -> metric -> value."""
    scores: dict[str, dict[str, float]] = {}
    with (
        reading(path, "a scores.csv of `espnet-prune score`", "give another"),
        open(path, newline="", encoding="utf-8") as file,
    ):
        for row in csv.DictReader(file):
            # if groups of speakers have their own tables, all speakers come first
            system = scores.setdefault(row["system"], {})
            metric, value = row["metric"], float(row["value"])
            if not metric.isidentifier() or metric in (*COLUMNS, *_OF_LAYERS):
                raise ValueError(f"{metric!r} is not the name of a metric")
            if not abs(value) < LARGEST:
                raise ValueError(f"{metric} of {row['system']} is {value}")
            system.setdefault(metric, value)
    return scores


def tabulate(
    points: Sequence[Point], scores: dict[str, dict[str, float]] | None = None
) -> list[Row]:
    """Make a row of numbers for every point, with the scores of the same name.

    Returns:
        pruning, sparsity_ratio, phase1_epochs, seed, name; scores; losses of the
        validation set; threshold, kept_share and kept_mass of every decoder layer and
        their means over layers, without a number. None if there is no such number.
    """
    rows = []
    for point in points:
        last = point.last
        row = {**point.setting._asdict(), "seed": point.seed, "name": point.name}
        row.update((scores or {}).get(point.name, {}))
        compared = _compared(last)
        row.update((name, compared[name]) for name in compared if keys.is_loss(name))
        layers = history.decoder_layers([last])
        for name in _OF_LAYERS if layers else ():
            names = [keys.of_layer(name, layer) for layer in layers]
            row[name] = statistics.mean(compared[each] for each in names)
            row.update((each, compared[each]) for each in names)
        rows.append(row)
    every = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in every} for row in rows]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Average the rows of ``tabulate`` over the seeds of each setting.

    Returns:
        The columns of ``Setting``, ``seeds`` (how many), then NAME and NAME_sd of
        every number: mean, and standard deviation of a sample, None for a single seed.
    """
    settings: dict[Setting, list[Row]] = {}
    for row in rows:
        settings.setdefault(Setting.of(row), []).append(row)
    table = []
    for setting, members in settings.items():
        mean = {**setting._asdict(), "seeds": len(members)}
        for name in numbers(rows):
            values = [row[name] for row in members if row[name] is not None]
            mean[name] = statistics.mean(values) if values else None
            mean[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        table.append(mean)
    return table


def numbers(rows: Sequence[Row]) -> list[str]:
    """Return the columns of ``tabulate`` that are measured, not chosen."""
    return [name for name in rows[0] if name not in COLUMNS]


def with_spread(value: float | None, spread: float | None, percent: bool) -> str | None:
    """Return a mean and its standard deviation, to the second digit of the latter."""
    if value is None:
        return None
    if not spread:
        return tables.percent(value) if percent else tables.number(value)
    value, spread = (100 * number if percent else number for number in (value, spread))
    digits = max(0, 1 - math.floor(math.log10(spread)))
    return f"{value:.{digits}f} +- {spread:.{digits}f}" + (" %" if percent else "")


def lay_out(table: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    """Return the columns of ``names`` as a table with one line per setting."""
    columns = [
        tables.Column("pruning", "pruning"),
        tables.Column("sparsity_ratio", "R", "{:.2f}".format),
        tables.Column("phase1_epochs", "phase 1 (epochs)"),
        *(tables.named("system") if any(row["system"] for row in table) else ()),
        *tables.named("seeds", *names),
    ]
    lines = [dict(row) for row in table]
    for name in names:
        percent = name in (keys.KEPT_SHARE, keys.KEPT_MASS)
        percent = percent or (name in METRICS and METRICS[name].percent)
        for line in lines:
            line[name] = with_spread(line[name], line[f"{name}_sd"], percent)
    return tables.grid(lines, columns)


def write(
    folder: str | Path, output_dir: str | Path, scores_file: str | Path | None = None
) -> tuple[str, list[Path]]:
    """Write tables and figures of a sweep; return the page in Markdown, and the files.

    Nothing is written if a file cannot be read, or if the scores are those of other
    systems.
    """
    points = read_sweep(folder)
    scores = read_scores(scores_file) if scores_file else {}
    if scores_file and not any(point.name in scores for point in points):
        raise UserError(
            f"{scores_file} has none of the experiments (for instance "
            f"{points[0].name}) among its systems: give systems the names of the "
            "experiments"
        )
    rows = tabulate(points, scores)
    table = summarise(rows)
    measured = numbers(rows)
    losses = [name for name in measured if keys.is_loss(name)]
    scored = [n for n in measured if any(n in system for system in scores.values())]
    kept = [name for name in _OF_LAYERS if name in measured]
    main_losses = [n for n in losses if n in (keys.LOSS, keys.MEL_LOSS, "l1_loss")]
    blocks: list[documents.Block] = [
        {"text": f"{len(points)} models."},
        {"table": lay_out(table, (scored or main_losses) + kept)},
        {"text": LEGEND},
    ]
    text = documents.to_markdown(Document(f"Sweep in {folder}", blocks))
    figures = {"metrics": plot_sweep_metrics(table, scored or losses)}
    if any(point.setting.pruning == "differentiable" for point in points):
        figures["thresholds"] = plot_sweep_thresholds(points)
    if kept:
        figures["kept"] = plot_sweep_kept(points, table)
    output_dir = Path(output_dir)
    paths = [output_dir / name for name in ("sweep.md", "sweep.csv", "points.csv")]
    tables.write_text(paths[0], text)
    tables.write_csv(paths[1], table)
    tables.write_csv(paths[2], rows)
    for name, figure in figures.items():
        paths.append(output_dir / f"{name}.png")
        plots.save(figure, paths[-1])
    return text, paths


def plot_sweep_thresholds(points: Sequence[Point]) -> Figure:
    """Draw thresholds against training steps: a panel per layer, a line per point.

    Points of a setting share a colour and a kind of line.
    """
    learned = [p for p in points if p.setting.pruning == "differentiable"]
    settings = _styles(learned)
    layers = history.decoder_layers([point.last for point in learned])
    shared = {"sharex": True, "sharey": True}
    with plots.panels(len(layers), 4, 2.5, 2.3, **shared) as (figure, grid, panel):
        for ax, layer in zip(panel, layers, strict=True):
            drawn = set()
            for point in learned:
                rows = [r for r in point.rows if r["split"] == "valid"]
                ax.plot(
                    [row["step"] for row in rows],
                    [
                        row.get(keys.of_layer(keys.THRESHOLD, layer), math.nan)
                        for row in rows
                    ],
                    linewidth=1.0,
                    label=None if point.setting in drawn else str(point.setting),
                    **settings[point.setting],
                )
                drawn.add(point.setting)
            ax.set_title(f"decoder layer {layer}")
            ax.set_xlabel("training step")
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for ax in grid[:, 0]:
            ax.set_ylabel("threshold (x 1/N)")
        shown = panel[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=3)
    return figure


def plot_sweep_kept(points: Sequence[Point], table: Sequence[Row]) -> Figure:
    """Draw the final kept share of each decoder layer.

    Bars are standard deviations over seeds.
    """
    pruned = [point for point in points if point.setting.pruning != "none"]
    settings = _styles(pruned)
    layers = history.decoder_layers([point.last for point in pruned])
    names = [keys.of_layer(keys.KEPT_SHARE, layer) for layer in layers]
    with plots.styled_figure(6.0, 3.8) as figure:
        ax = figure.subplots()
        for row in table:
            setting = Setting.of(row)
            if setting in settings:
                ax.errorbar(
                    layers,
                    # models may have different numbers of layers
                    [math.nan if row[name] is None else row[name] for name in names],
                    yerr=[row[f"{name}_sd"] or 0 for name in names],
                    marker="o",
                    capsize=3,
                    label=str(setting),
                    **settings[setting],
                )
        ax.set(xlabel="decoder layer", ylabel=plots.LAYER_LABELS[keys.KEPT_SHARE])
        plots.show_shares(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside right upper")
    return figure


def plot_sweep_metrics(table: Sequence[Row], names: Sequence[str]) -> Figure:
    """Draw metrics against R: a panel for each, a line for each length of phase 1.

    Bars are standard deviations over seeds. Models without R are level lines.
    """
    learned = [row for row in table if row["sparsity_ratio"] is not None]
    lengths = sorted({row["phase1_epochs"] for row in learned}, key=lambda n: n or 0)
    ratios = sorted({row["sparsity_ratio"] for row in learned})
    # bars at the same R are next to each other
    steps = (b - a for a, b in itertools.pairwise(ratios))
    aside = 0.06 * min(steps, default=0.05)
    with plots.panels(len(names), 3, 3.0, 2.4) as (figure, _, panel):
        for ax, name in zip(panel, names, strict=True):
            for number, length in enumerate(lengths):
                line = [
                    row
                    for row in learned
                    if row["phase1_epochs"] == length and row[name] is not None
                ]
                ax.errorbar(
                    [
                        row["sparsity_ratio"]
                        + aside * (number - (len(lengths) - 1) / 2)
                        for row in line
                    ],
                    [row[name] for row in line],
                    yerr=[row[f"{name}_sd"] or 0 for row in line],
                    capsize=3,
                    label="differentiable"
                    + (f", phase 1 of {length} epochs" if length else ""),
                    **plots.style_of(number),
                )
            for row in table:
                if row["sparsity_ratio"] is None and row[name] is not None:
                    setting = Setting.of(row)
                    colour = "0.3" if row["pruning"] == "none" else "0.6"
                    if setting.system is not None:
                        colour = plots.COLOURS[-1 - RIVALS.index(setting.system)]
                    ax.axhline(
                        row[name], label=str(setting), color=colour, linestyle="--"
                    )
            ax.set(xlabel="R", xticks=ratios, title=name.replace("_", " "))
        shown = panel[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=2)
    return figure


def _styles(points: Sequence[Point]) -> dict[Setting, dict[str, Any]]:
    """Return a colour for each setting by its R and a kind of line by its phase 1."""
    settings = list(dict.fromkeys(point.setting for point in points))
    ratios = dict.fromkeys(s.sparsity_ratio for s in settings)
    lengths = dict.fromkeys(s.phase1_epochs for s in settings)
    ratios.pop(None, None)  # vanilla pruning has none
    lengths.pop(None, None)
    colours = dict(zip(ratios, itertools.cycle(plots.COLOURS), strict=False))
    dashes = dict(zip(lengths, itertools.cycle(plots.DASHES), strict=False))
    return {
        setting: {
            "color": colours.get(setting.sparsity_ratio, "0.5"),
            "linestyle": dashes.get(setting.phase1_epochs, plots.DASHES[0]),
        }
        for setting in settings
    }
