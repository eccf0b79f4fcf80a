"""Scores of systems against the distance between training and test speakers.

The paper claims that pruning gains more, the further the test speakers are from those
of training. Test sets are therefore put on an axis. The distance of a speaker is the
cosine distance of its speaker embeddings to the nearest training speaker, and that of a
set is the mean over its speakers. On this axis, a system has a score for each set, and
the difference of two systems has a slope.

A system is a setting of training; its trainings differ in the seed. All intervals are
over trainings, speakers and texts, see ``intervals.crossed_interval``.
"""

import collections
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import documents, plots, tables
from espnet_prune.evaluation.axis import PER, Axis, Score, Training
from espnet_prune.evaluation.distances import measure_distances
from espnet_prune.evaluation.documents import Block, Document
from espnet_prune.evaluation.held_out import LOSSES, Loss
from espnet_prune.evaluation.intervals import CROSSED_RESAMPLES, Crossed
from espnet_prune.evaluation.metrics import METRICS, Metric
from espnet_prune.evaluation.scoring import GROUND_TRUTH, ScoreFile, split_named
from espnet_prune.loading import reading

NAME = "mismatch"
COLUMNS: dict[str, Metric] = {**METRICS, **{name: Loss(name) for name in LOSSES}}
INTERVAL = ("value", "lower", "upper")
COUNTS = ("speakers", "utterances")
METHOD = f"""\
Distance: cosine distance (Resemblyzer) of a speaker to the nearest training speaker,
mean over the speakers of a set. In brackets: 95 % intervals over trainings (seeds),
speakers and texts, from a crossed bootstrap ({CROSSED_RESAMPLES} resamples). Systems
with one training have intervals without the seed, which are too short. Slope: change of
the difference per {PER} of distance, by least squares over the sets. Share of the
variance: how much of the slope's uncertainty each factor causes.
"""


def read_scores(
    name: str,
    folder: Path,
    texts: Mapping[str, str],
    trainings: Collection[Training] | None = None,
) -> dict[str, list[Score]]:
    """Read the scores of a set by metric.

    Args:
        name: Name of the set.
        folder: That of ``score``, or of held-out losses: SYSTEM.jsonl for each.
        texts: Texts of the set; scores of other utterances are left out.
        trainings: Those to read; by default all, but not ground truth.
    """
    scores: dict[str, list[Score]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        training = Training.parse(path.stem)
        wanted = trainings is None or training in trainings
        if path.stem.startswith(GROUND_TRUTH) or not wanted:
            continue
        with reading(path, "scores of `espnet-prune score`", "score again"):
            for utterance, record in ScoreFile(path).records.items():
                for column, score in record["scores"].items():
                    metric = COLUMNS.get(column)
                    if metric is None or not metric.compared:
                        continue
                    if utterance not in texts or score.get("value") is None:
                        continue
                    ratio = metric.ratio(score)
                    if not all(map(math.isfinite, ratio)):
                        raise ValueError(f"{column} of {utterance} is not finite")
                    scores.setdefault(column, []).append(
                        Score(
                            name,
                            utterance,
                            record["speaker"],
                            texts[utterance],
                            training,
                            ratio,
                        )
                    )
    if not scores:
        raise UserError(
            f"{folder} has no scores of the utterances of {name}; give the folder that "
            "`espnet-prune score` wrote for this set"
        )
    return scores


def summarise(metric: str, axis: Axis, baseline: str) -> list[dict[str, Any]]:
    """Make a row for each score, each difference to the baseline, and each slope."""
    rivals = [system for system in axis.systems if system != baseline]
    found: list[tuple[str, str, str | None, Crossed | None]] = []
    for name in axis.sets:
        for system in axis.systems:
            if axis.has(name, system):
                found.append(("score", system, name, axis.score(name, system)))
        for system in rivals:
            if axis.has(name, system, baseline):
                gain = axis.difference(name, system, baseline)
                found.append(("difference", system, name, gain))
    found += [("slope", one, None, axis.slope(one, baseline)) for one in rivals]
    rows = []
    for kind, system, place, value in found:
        if value is None:  # a slope needs two sets
            continue
        counts = axis.count(place) if place else (None, None)
        rows.append(
            {
                "kind": kind,
                "metric": metric,
                "system": system,
                "set": place,
                "distance": float(axis.distance(place)[0]) if place else None,
                "seeds": len(axis.seeds(system)),
                **dict(zip(COUNTS, counts, strict=True)),
                **{end: getattr(value, end) for end in INTERVAL},
                **{f"share_{f}": value.shares.get(f) for f in axis.factors},
            }
        )
    return rows


def rows_of_trainings(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Make a row for each metric, set and training."""
    return [
        {
            "metric": metric,
            "set": name,
            "distance": float(axis.distance(name)[0]),
            **training._asdict(),
            "value": axis.of_training(name, training),
        }
        for metric, axis in axes.items()
        for name in axis.sets
        for training in axis.trainings
        if axis.of_training(name, training) is not None
    ]


def lay_out(
    name: str, axis: Axis, rows: Sequence[dict[str, Any]], baseline: str
) -> list[Block]:
    """Make the tables of one metric from the rows of ``summarise``."""
    metric = COLUMNS[name]
    lines: dict[str, dict[str, Any]] = {}
    slopes = []
    for row in rows:
        kind, system = row["kind"], row["system"]
        ends = [row[end] for end in INTERVAL]
        text = metric.show(ends, "" if kind == "score" else "+")
        if kind == "slope":
            slopes.append({**row, "slope": text})
        else:
            line = lines.setdefault(row["set"], collections.defaultdict(lambda: None))
            line |= {**row, f"{kind} of {system}": text}

    def table(kind: str, heads: Sequence[str], systems: Sequence[str]) -> Block:
        columns = [
            *tables.named("set"),
            tables.Column("distance", "distance", "{:.3f}".format),
            *tables.named(*heads),
        ]
        for system in systems:
            heading = f"{system} (seeds: {len(axis.seeds(system))})"
            columns.append(tables.Column(f"{kind} of {system}", heading))
        return {"table": tables.grid([*lines.values()], columns)}

    rivals = [system for system in axis.systems if system != baseline]
    blocks: list[Block] = [
        {"heading": f"{name} (%)" if metric.percent else name},
        {"text": f"{metric.measures}."},
        table("score", COUNTS, axis.systems),
    ]
    if rivals and baseline in axis.systems:
        about = {"text": f"Differences to {baseline}:"}
        blocks += [about, table("difference", (), rivals)]
    if slopes:
        what = f"Slope of the difference per {PER} of distance, and share of its"
        about = {"text": f"{what} variance:"}
        columns = tables.named("system", "slope")
        for factor in axis.factors:
            heading = f"of {factor}s"
            columns.append(tables.Column(f"share_{factor}", heading, tables.percent))
        blocks += [about, {"table": tables.grid(slopes, columns)}]
    return blocks


def plot(axes: Mapping[str, Axis], rows: Sequence[dict], baseline: str) -> Figure:
    """Draw scores, and differences with their slope, against distance."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    with plots.styled_figure(9.0, 0.6 + 2.7 * len(axes)) as figure:
        panels = figure.subplots(len(axes), 2, squeeze=False)
        for (left, right), (metric, axis) in zip(panels, axes.items(), strict=True):
            scale = 100.0 if COLUMNS[metric].percent else 1.0
            for ax, kind in ((left, "score"), (right, "difference")):
                for number, system in enumerate(systems):
                    mine = [
                        row
                        for row in rows
                        if (row["metric"], row["kind"]) == (metric, kind)
                        and row["system"] == system
                    ]
                    if not mine:
                        continue
                    # an end that is not known becomes NaN, which is not drawn
                    ends = [[row[end] for end in INTERVAL] for row in mine]
                    value, lower, upper = scale * np.array(ends, dtype=float).T
                    # systems beside each other, so that intervals can be seen
                    at = np.array([row["distance"] for row in mine])
                    aside = 0.003 * (number - (len(systems) - 1) / 2)
                    style = plots.style_of(number)
                    ax.errorbar(
                        at + aside,
                        value,
                        yerr=[value - lower, upper - value],
                        linestyle="-" if kind == "score" else "none",
                        capsize=2,
                        label=system,
                        **style,
                    )
                    if kind == "difference" and len(mine) > 1:
                        fitted = np.polyval(np.polyfit(at, value, 1), at)
                        ax.plot(at, fitted, color=style["color"], linewidth=1)
            right.axhline(0, color="0.5", linewidth=0.8)
            left.set_ylabel(metric.replace("_", " ") + (" (%)" if scale > 1 else ""))
            right.set_ylabel(f"minus {baseline}")
            for ax in (left, right):
                ax.set_xlabel("distance to the nearest training speaker")
            named: dict[float, str] = {}
            for name in axis.sets:  # by distance; names of close sets would overlap
                where = float(axis.distance(name)[0])
                near = next((one for one in named if where - one < 0.01), where)
                named[near] = f"{named[near]}, {name}" if near in named else name
            top = left.secondary_xaxis("top")
            top.set_xticks(list(named))
            top.set_xticklabels(list(named.values()), rotation=20, ha="left")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def write(
    scores: Mapping[str, Sequence[Score]],
    distances: Mapping[str, Mapping[str, float]],
    output_dir: Path,
    baseline: str | None = None,
) -> str:
    """Write table and plot: mismatch.md, .csv, .json, .png, and trainings.csv.

    ``scores`` are given by metric, and ``distances`` by set and speaker. Differences
    are taken to the baseline, by default the first by name.

    Returns:
        The page in Markdown.
    """
    axes = {metric: Axis(of, distances) for metric, of in scores.items()}
    axes = {metric: axis for metric, axis in axes.items() if axis.sets}
    if not axes:
        raise UserError(
            "no score belongs to a speaker whose distance is known: give --scores and "
            "--set of the same test set"
        )
    systems = list(dict.fromkeys(s for axis in axes.values() for s in axis.systems))
    if baseline is None:
        baseline = systems[0]
    if baseline not in systems:
        raise UserError(
            f"there are no scores of the baseline {baseline}: choose one of "
            f"{', '.join(systems)}"
        )
    rows: list[dict[str, Any]] = []
    blocks: list[Block] = []
    for metric, axis in axes.items():
        found = summarise(metric, axis, baseline)
        rows += found
        blocks += lay_out(metric, axis, found, baseline)
    blocks.append({"text": METHOD})
    title = "Scores against the distance of the speakers"
    text = documents.write(output_dir, NAME, Document(title, blocks), rows)
    tables.write_csv(output_dir / "trainings.csv", rows_of_trainings(axes))
    plots.save(plot(axes, rows, baseline), output_dir / f"{NAME}.png")
    return text


def parse_named(named: Sequence[str], option: str) -> dict[str, list[Path]]:
    """Read NAME=PATH of an option that may be given several times."""
    found: dict[str, list[Path]] = {}
    for name, path in (split_named(item, option) for item in named):
        found.setdefault(name, []).append(path)
    return found


def measure_losses(
    models: Mapping[str, Sequence[Path]],
    recordings: Mapping[str, Sequence[Path]],
    output_dir: Path,
    device: str = "cpu",
    model_file: str | None = None,
) -> None:
    """Measure held-out losses of all models, and write losses/SET/NAME.jsonl.

    ``models`` has the experiment folder of each name with seed, and ``recordings`` the
    Kaldi folders of each set.
    """
    from espnet_prune.evaluation.held_out import HeldOut, measure_all, read_recordings
    from espnet_prune.speech.synthesis import Text2Speech

    read = {
        name: [one for folder in folders for one in read_recordings(folder)]
        for name, folders in recordings.items()
    }
    for name, (folder, *_) in models.items():
        held_out = HeldOut(
            Text2Speech.from_pretrained(folder, model_file=model_file, device=device)
        )
        for of, found in read.items():
            measure_all(held_out, found, output_dir / "losses" / of / f"{name}.jsonl")


def compare(
    train: Sequence[Path],
    sets: Sequence[str],
    output_dir: Path,
    scores: Sequence[str] = (),
    models: Sequence[str] = (),
    recordings: Sequence[str] = (),
    baseline: str | None = None,
    recordings_per_speaker: int = 5,
    device: str = "cpu",
    model_file: str | None = None,
) -> str:
    """Measure distances and losses, join scores, and write table and plot.

    The arguments are the options of the verb. ``recordings`` belong to the set of the
    same name, or are a set themselves.

    Returns:
        The page in Markdown, or only distances if there is nothing else.
    """
    voices = parse_named(sets, "--set")
    scored = parse_named(scores, "--scores")
    recorded = parse_named(recordings, "--recordings")
    experiments = parse_named(models, "--model")
    if bool(recorded) != bool(experiments):
        raise UserError(
            "held-out losses need --model and --recordings: give both, or neither"
        )
    for name, folders in experiments.items():
        if len(folders) > 1:
            raise UserError(f"--model {name} is given twice; name them NAME_sSEED")
    # a speaker may be in the set, in the recordings or in both
    placed = {
        name: [*voices.get(name, []), *recorded.get(name, [])]
        for name in dict.fromkeys([*voices, *recorded])
    }
    unknown = next((name for name in scored if name not in placed), None)
    if unknown is not None or not placed:
        raise UserError(
            f"there is no set{f' {unknown}' if unknown else ''}: give --set NAME=DATA "
            "for each test set"
        )
    texts: dict[str, dict[str, str]] = {name: {} for name in placed}
    for name, folders in placed.items():
        for folder in folders:
            if (folder / "text").exists():
                texts[name] |= read_columns(folder / "text")
    distances = measure_distances(train, placed, output_dir, recordings_per_speaker)
    if experiments:
        measure_losses(experiments, recorded, output_dir, device, model_file)
    trained = {Training.parse(name) for name in experiments}
    sources: list[tuple[str, Path, Collection[Training] | None]] = [
        (name, output_dir / "losses" / name, trained) for name in recorded
    ]
    sources += [(name, one, None) for name, given in scored.items() for one in given]
    found: dict[str, list[Score]] = {}
    for name, folder, wanted in sources:
        for metric, values in read_scores(name, folder, texts[name], wanted).items():
            found.setdefault(metric, []).extend(values)
    if not found:
        lines = [
            {
                "set": name,
                "speakers": len(of),
                "distance": f"{np.mean(list(of.values())):.3f}",
            }
            for name, of in distances.items()
        ]
        return tables.markdown(lines, tables.named("set", "speakers", "distance"))
    return write(found, distances, output_dir, baseline)
