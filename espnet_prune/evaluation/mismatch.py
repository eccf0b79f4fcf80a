"""Scores of systems against the distance between training and test speakers.

The paper claims that pruning gains more, the further the test speakers are from those
of training. Test sets are therefore put on an axis. The distance of a speaker is the
cosine distance of its speaker embeddings to the nearest training speaker, and that of a
set is the mean over its speakers. On this axis, a system has a score for each set, and
the difference of two systems has a slope.

A system is a setting of training; its trainings differ in the seed. All intervals are
over trainings, speakers and texts, see ``intervals.crossed_interval``.
"""

import math
from collections.abc import Mapping, Sequence
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
from espnet_prune.evaluation.held_out import MEASURES
from espnet_prune.evaluation.intervals import CROSSED_RESAMPLES, Crossed
from espnet_prune.evaluation.scorers import METRICS
from espnet_prune.evaluation.scoring import GROUND_TRUTH, ScoreFile
from espnet_prune.files import can_name_a_file
from espnet_prune.loading import reading

NAME = "mismatch"
METHOD = f"""\
Distance: cosine distance (Resemblyzer) of a speaker to the nearest training speaker,
mean over the speakers of a set. In brackets: 95 % intervals over trainings (seeds),
speakers and texts, from a crossed bootstrap ({CROSSED_RESAMPLES} resamples). Systems
with one training have intervals without the seed, which are too short. Slope: change of
the difference per {PER} of distance, by least squares over the sets. Share of the
variance: how much of the slope's uncertainty each factor causes.
"""


# ----------------------------------------------------------------------------- scores


def read_scores(
    name: str, folder: Path, texts: Mapping[str, str]
) -> dict[str, list[Score]]:
    """Read the scores of a set by metric.

    ``folder`` is that of ``score``, or of held-out losses: SYSTEM.jsonl for each.
    Ground truth, and utterances that ``texts`` of the set lacks, are left out.
    """
    scores: dict[str, list[Score]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem.startswith(GROUND_TRUTH):
            continue
        training = Training.parse(path.stem)
        with reading(path, "scores of `espnet-prune score`", "score again"):
            for utterance, record in ScoreFile(path).records.items():
                for metric, score in record["scores"].items():
                    if utterance not in texts or score.get("value") is None:
                        continue
                    if metric not in METRICS and metric not in MEASURES:
                        continue
                    if metric in METRICS and not METRICS[metric].compared:
                        continue
                    ratio = (score["value"], 1.0)
                    if metric in METRICS:
                        ratio = METRICS[metric].ratio(score)
                    if not all(map(math.isfinite, ratio)):
                        raise ValueError(f"{metric} of {utterance} is not finite")
                    scores.setdefault(metric, []).append(
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


# ------------------------------------------------------------------------------- page


def _is_percent(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].percent


def _print(found: Crossed | None, metric: str, sign: str = "") -> str | None:
    if found is None:
        return None
    ends = [found.value, found.lower, found.upper]
    if metric in METRICS:
        return METRICS[metric].show(ends, sign)
    return tables.with_ends(ends, f"{sign}.4f")


def summarise(
    axes: Mapping[str, Axis], baseline: str
) -> tuple[list[Block], list[dict[str, Any]]]:
    """Make the blocks of the page, and rows of the kinds score, difference and slope.

    ``axes`` has the scores of each metric. Differences are taken to the baseline.
    """
    blocks: list[Block] = []
    rows: list[dict[str, Any]] = []

    def keep(kind, metric, system, name, axis, found):
        speakers, utterances = axis.count(name) if name else (None, None)
        rows.append(
            {
                "kind": kind,
                "metric": metric,
                "system": system,
                "set": name,
                "distance": float(axis.distance(name)[0]) if name else None,
                "seeds": len(axis.seeds(system)),
                "speakers": speakers,
                "utterances": utterances,
                "value": found.value,
                "lower": found.lower,
                "upper": found.upper,
                **{f"share_{f}": found.shares.get(f) for f in axis.factors},
            }
        )

    for metric, axis in axes.items():
        about = METRICS[metric].measures if metric in METRICS else MEASURES[metric]
        unit = " (%)" if _is_percent(metric) else ""
        blocks += [{"heading": metric + unit}, {"text": f"{about}."}]
        rivals = [system for system in axis.systems if system != baseline]
        lines, gains = [], []
        for name in axis.sets:
            speakers, utterances = axis.count(name)
            at = {"set": name, "distance": f"{axis.distance(name)[0]:.3f}"}
            line = {**at, "speakers": speakers, "utterances": utterances}
            gain: dict[str, Any] = dict(at)
            for system in axis.systems:
                found = axis.score(name, system) if axis.has(name, system) else None
                line[system] = _print(found, metric)
                if found is not None:
                    keep("score", metric, system, name, axis, found)
            for system in rivals:
                gain[system] = None
                if axis.has(name, system, baseline):
                    found = axis.difference(name, system, baseline)
                    gain[system] = _print(found, metric, "+")
                    keep("difference", metric, system, name, axis, found)
            lines.append(line)
            gains.append(gain)
        counts = tables.named("set", "distance", "speakers", "utterances")
        systems = [
            tables.Column(s, f"{s} (seeds: {len(axis.seeds(s))})") for s in axis.systems
        ]
        blocks.append({"table": tables.grid(lines, [*counts, *systems])})
        if not rivals or baseline not in axis.systems:
            continue
        columns = [*tables.named("set", "distance"), *systems]
        shown = [column for column in columns if column.key != baseline]
        slopes = []
        for system in rivals:
            found = axis.slope(system, baseline)
            if found is not None:
                keep("slope", metric, system, None, axis, found)
                shares = {
                    f"of {factor}s": tables.percent(found.shares[factor])
                    if factor in found.shares
                    else None
                    for factor in axis.factors
                }
                text = _print(found, metric, "+")
                slopes.append({"system": system, "slope": text, **shares})
        blocks += [
            {"text": f"Differences to {baseline}:"},
            {"table": tables.grid(gains, shown)},
        ]
        if slopes:
            blocks += [
                {
                    "text": f"Slope of the difference per {PER} of distance, and share "
                    "of its variance:"
                },
                {"table": tables.grid(slopes, tables.named(*slopes[0]))},
            ]
    return blocks, rows


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


def plot(axes: Mapping[str, Axis], rows: Sequence[dict], baseline: str) -> Figure:
    """Draw scores, and differences with their slope, against distance."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    with plots.styled_figure(9.0, 0.6 + 2.7 * len(axes)) as figure:
        panels = figure.subplots(len(axes), 2, squeeze=False)
        for (left, right), (metric, axis) in zip(panels, axes.items(), strict=True):
            scale = 100.0 if _is_percent(metric) else 1.0
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
                    value = scale * np.array([row["value"] for row in mine])
                    ends = [
                        [
                            abs(scale * ((row[end] or row["value"]) - row["value"]))
                            for row in mine
                        ]
                        for end in ("lower", "upper")
                    ]
                    # systems beside each other, so that intervals can be seen
                    at = np.array([row["distance"] for row in mine])
                    aside = 0.003 * (number - (len(systems) - 1) / 2)
                    colour = plots.COLOURS[number % len(plots.COLOURS)]
                    ax.errorbar(
                        at + aside,
                        value,
                        yerr=ends,
                        color=colour,
                        marker=plots.MARKERS[number % len(plots.MARKERS)],
                        linestyle="-" if kind == "score" else "none",
                        capsize=2,
                        label=system,
                    )
                    if kind == "difference" and len(mine) > 1:
                        line = np.polyfit(at, value, 1)
                        ax.plot(at, np.polyval(line, at), color=colour, linewidth=1)
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
    blocks, rows = summarise(axes, baseline)
    blocks.append({"text": METHOD})
    title = "Scores against the distance of the speakers"
    text = documents.write(output_dir, NAME, Document(title, blocks), rows)
    tables.write_csv(output_dir / "trainings.csv", rows_of_trainings(axes))
    plots.save(plot(axes, rows, baseline), output_dir / f"{NAME}.png")
    return text


# ------------------------------------------------------------------------ the command


def parse_named(named: Sequence[str], option: str) -> dict[str, list[Path]]:
    """Read NAME=PATH of an option that may be given several times."""
    found: dict[str, list[Path]] = {}
    for item in named:
        name, _, path = item.partition("=")
        if not path or not can_name_a_file(name):
            raise UserError(
                f"{option} {item} is not NAME=PATH with a name for a file; correct it"
            )
        found.setdefault(name, []).append(Path(path))
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
    output_dir = tables.make_output_dir(output_dir)
    distances = measure_distances(train, placed, output_dir, recordings_per_speaker)
    if experiments:
        measure_losses(experiments, recorded, output_dir, device, model_file)
    found: dict[str, list[Score]] = {}
    trained = {Training.parse(name) for name in experiments}
    for name in recorded:
        folder = output_dir / "losses" / name
        for metric, values in read_scores(name, folder, texts[name]).items():
            wanted = [value for value in values if value.training in trained]
            found.setdefault(metric, []).extend(wanted)
    for name, folders in scored.items():
        for folder in folders:
            for metric, values in read_scores(name, folder, texts[name]).items():
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
