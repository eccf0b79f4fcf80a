"""Write the page of scores: tables of systems and differences, and their legend."""

import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_prune.errors import UserError
from espnet_prune.evaluation import documents, intervals, scoring, tables
from espnet_prune.evaluation.documents import Block, Document
from espnet_prune.evaluation.intervals import RESAMPLES, Difference, Interval
from espnet_prune.evaluation.metrics import DEFAULT, MEASURED, METRICS, Utterance
from espnet_prune.evaluation.scoring import Results, System
from espnet_prune.text.normalise import read_lines

REMEDY = "install the default scorers as docs/scores.md says"
OWN_REMEDY = "it needs another package, and the network for its weights"
METHOD = f"""\
In brackets: 95 % intervals over speakers ({RESAMPLES} bootstrap resamples). p:
two-sided permutation test over speakers, not corrected for the number of comparisons.
Error rates are pooled: all edits over all characters. Real-time factors are pooled too.
"""
DIFFERENCE = ("difference", "difference_lower", "difference_upper")
# Entries of a record of synthesis about the system, and their labels.
FACTS = {
    "model": "model",
    "vocoder": "vocoder",
    "device": "device",
    "batch_size": "batches of",
}
# Named without their folders, because the page may be published.
PATHS = {"model", "vocoder"}


class Group(NamedTuple):
    """Speakers that have their own table."""

    title: str  # title of the table
    data: dict[str, Utterance]  # their utterances
    listed: int  # number of speakers in the list; the data may have fewer

    def describe(self) -> str:
        """Return a text with the numbers of utterances and speakers."""
        found = len({utterance.speaker for utterance in self.data.values()})
        of = "" if found == self.listed else f" of {self.listed}"
        return f"{len(self.data)} utterances, {found}{of} speakers"


def score(
    data_dir: Path,
    systems: Sequence[str],
    output_dir: Path,
    metrics: Sequence[str] | None = None,
    subsets: Sequence[str] = (),
    nj: int = 1,
) -> str:
    """Score systems on a test set, and write the page; return it in Markdown.

    The arguments are the options of ``espnet-prune score``.
    """
    data = scoring.read_data(data_dir)
    compared = scoring.read_systems(systems, data_dir)
    scoring.check_coverage(compared, data)
    groups = read_groups(subsets, data)
    columns = list(dict.fromkeys(metrics or DEFAULT))
    if not metrics and any(system.synthesis for system in compared):
        columns += MEASURED
    results = scoring.score_systems(compared, data, columns, output_dir, nj)
    baseline = scoring.choose_baseline([system.name for system in compared])
    rows = [row for group in groups for row in summarise(results, group, baseline)]
    if not rows:
        faults = "; ".join(f"{name}: {why}" for name, why in results.faults.items())
        raise UserError(f"no metric has a value ({faults or 'silence'}); {REMEDY}")
    # the name only, because model cards, which are published, contain this page
    title = f"Scores on {Path(os.path.abspath(data_dir)).name}"
    about = data_dir / "about.txt"
    blocks: list[Block] = []
    if about.is_file():
        blocks.append({"text": about.read_text(encoding="utf-8")})
    for group in groups:
        if len(groups) > 1:
            blocks.append({"heading": f"{group.title}: {group.describe()}"})
        own = [row for row in rows if row["group"] == group.title]
        blocks += lay_out(own, columns, list(results.scores), baseline)
    if len(groups) > 1:
        blocks.append({"heading": "Columns"})
    notes = [*describe_columns(results, columns), *describe_synthesis(compared, data)]
    blocks += [{"items": notes}, {"text": METHOD}]
    return documents.write(output_dir, documents.SCORES, Document(title, blocks), rows)


def read_groups(named: Sequence[str], data: dict[str, Utterance]) -> list[Group]:
    """Return a group of all speakers, then one for each TITLE=FILE."""
    everybody = len({utterance.speaker for utterance in data.values()})
    groups = [Group("all", data, everybody)]
    for item in named:
        title, _, file = item.partition("=")
        if not title or not file or title in {group.title for group in groups}:
            raise UserError(
                f"--subset {item} is not TITLE=FILE, or its title is used "
                "already; correct it"
            )
        speakers = {name for line in read_lines(file) for name in line.split()}
        chosen = {name: said for name, said in data.items() if said.speaker in speakers}
        if not chosen:
            raise UserError(
                f"none of the {len(speakers)} speakers of {file} is in the data; leave "
                f"out --subset {title}"
            )
        groups.append(Group(title, chosen, len(speakers)))
    return groups


def summarise(results: Results, group: Group, baseline: str) -> list[dict[str, Any]]:
    """Make a row for each system and metric that has values in a group."""
    rows, data = [], group.data
    for system, columns in results.scores.items():
        for name in columns:
            scores = measured(columns[name], data)
            if not scores:
                continue
            first = measured(results.scores[baseline][name], data)
            compared = system != baseline and METRICS[name].compared
            both = [key for key in scores if key in first] if compared else []
            difference = Difference(None, None, None, None)
            if both:
                difference = intervals.paired_difference(
                    _ratios(name, [first[key] for key in both]),
                    _ratios(name, [scores[key] for key in both]),
                    [data[key].speaker for key in both],
                )
            speakers = [data[key].speaker for key in scores]
            over, under = _ratios(name, scores.values())
            interval = intervals.score_interval(over, under, speakers)
            if not METRICS[name].of_speakers:
                interval = Interval(interval.value, None, None)
            rows.append(
                {
                    "group": group.title,
                    "system": system,
                    "metric": name,
                    "utterances": len(scores),
                    "speakers": len(set(speakers)),
                    **interval._asdict(),
                    "difference": difference.value,
                    "difference_lower": difference.lower,
                    "difference_upper": difference.upper,
                    "difference_p": difference.p,
                }
            )
    return rows


def _ratios(metric: str, scores: Iterable[dict[str, Any]]) -> list[list[float]]:
    """Split scores into numerators and denominators."""
    ratios = [METRICS[metric].ratio(score) for score in scores]
    return [[ratio[part] for ratio in ratios] for part in (0, 1)]


def measured(scores: dict[str, Any], wanted: Container[str]) -> dict[str, Any]:
    """Leave out utterances without a value, and those outside the group."""
    return {
        key: score
        for key, score in scores.items()
        if score["value"] is not None and key in wanted
    }


def lay_out(
    rows: Sequence[dict[str, Any]],
    metrics: Sequence[str],
    systems: Sequence[str],
    baseline: str,
) -> list[Block]:
    """Make the tables of scores and of differences, with one line per system.

    ``rows`` are those of ``summarise``. Every system has a line of scores, even without
    a value.
    """
    empty = dict.fromkeys([*metrics, "utterances", "speakers"])
    scores = {name: {"system": name, **empty} for name in systems}
    differences: dict[str, dict[str, Any]] = {}
    for row in rows:
        name, metric = row["system"], row["metric"]
        line = scores[name]
        ends = [row[end] for end in ("value", "lower", "upper")]
        line[metric] = METRICS[metric].show(ends)
        for count in ("utterances", "speakers"):
            line[count] = max(row[count], line[count] or 0)
        if row["difference"] is not None:
            line = differences.setdefault(name, {"system": name, **empty})
            ends = [row[end] for end in DIFFERENCE]
            p = row["difference_p"]
            line[metric] = METRICS[metric].show(ends, "+")
            line[metric] += "" if p is None else f" p={p:.2g}"
    percent = [name for name in metrics if METRICS[name].percent]
    headed = {name: f"{name} (%)" if name in percent else name for name in metrics}
    columns = [tables.Column(name, headed[name]) for name in metrics]
    system = tables.Column("system", "system")
    counts = tables.named("utterances", "speakers")
    blocks: list[Block] = [
        {"table": tables.grid([*scores.values()], [system, *counts, *columns])}
    ]
    if differences:
        columns = [column for column in columns if METRICS[column.key].compared]
        shown = tables.grid([*differences.values()], [system, *columns])
        about = f"Differences to {baseline}, on the utterances that both have:"
        blocks += [{"text": about}, {"table": shown}]
    return blocks


def describe_columns(results: Results, metrics: Sequence[str]) -> list[str]:
    """Return what each column means, or why it is empty, and what it leaves out."""
    lines = []
    for name in metrics:
        about = f"{METRICS[name].measures}; {results.versions.get(name)}"
        if name in results.faults:
            about = f"empty, {results.faults[name]}"
            if name not in MEASURED:
                about += f"; {REMEDY if name in DEFAULT else OWN_REMEDY}"
        lines.append(f"{name}: {about}.")
    for system, columns in results.scores.items():
        for name, scores in columns.items():
            left_out = len(scores) - len(measured(scores, scores))
            if left_out:
                lines.append(
                    f"{name} of {system} leaves out {left_out} of {len(scores)} "
                    f"utterances, {METRICS[name].when_missing}."
                )
    return lines


def describe_synthesis(
    systems: Sequence[System], data: dict[str, Utterance]
) -> list[str]:
    """Return a description of each system and of the device that it was timed on."""
    lines = []
    for system in systems:
        facts: dict[str, int] = {}
        for record in (r for k, r in system.synthesis.items() if k in data):
            known = {key: record[key] for key in FACTS if key in record}
            for key in PATHS & known.keys():
                path = Path(str(known[key]))
                if path.is_absolute() or path.exists():  # neither a name nor a tag
                    known[key] = path.name
            what = ", ".join(f"{FACTS[key]} {value}" for key, value in known.items())
            facts[what] = facts.get(what, 0) + 1
        for what, number in facts.items():
            of = "" if len(facts) == 1 else f" ({number} of the utterances)"
            lines.append(f"{system.name}{of}: {what}.")
    return lines
