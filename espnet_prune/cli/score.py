"""Score what systems said: error rate, similarity, predicted MOS, with intervals.

python -m espnet_prune.cli.score --data_dir DATA --output_dir OUT \\
    --system baseline=exp/a/decode/test/wav --system DP45=exp/b/decode/test/wav

DATA is the Kaldi folder of a zero-shot test set: ``text`` is what was to be said,
``wav.scp`` the reference, ``utt2spk`` the speaker, ``gt_wav.scp``, where there is one,
the recording of ``text``, which makes a row of its own. Run it again to go on after an
interruption, to add systems or metrics: only what is new or has changed is scored.
Systems that ``bin.synthesize --data_dir`` made have columns for their real-time factor
and the share of connections that they keep.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import Any, Container, Dict, List, NamedTuple, Optional, Sequence

from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.copy_synthesis import copy_synthesis
from espnet_prune.evaluation.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    paired_difference,
    score_interval,
)
from espnet_prune.evaluation.scorers import DEFAULT, MEASURED, METRICS, Utterance
from espnet_prune.evaluation.scoring import (
    GROUND_TRUTH,
    Results,
    System,
    check_coverage,
    read_data,
    read_system,
    read_systems,
    score_systems,
)
from espnet_prune.speech.pretrained import find_model

REMEDY = "the models of the default metrics come by espnet_prune[score], see README"
OWN_REMEDY = "it needs its own package and, when first used, the network"
METHOD = f"""\
In brackets: 95 % intervals over speakers ({RESAMPLES} bootstrap resamples). p:
two-sided permutation test over speakers, not corrected for the number of comparisons.
Error rates are pooled: all edits over all characters; so are real-time factors.
"""
# What a record of synthesis says of a system, and how it is printed.
FACTS = {
    "model": "model",
    "vocoder": "vocoder",
    "device": "device",
    "batch_size": "batches of",
}
PATHS = {"model", "vocoder"}  # named without their folders: the page may be published


class Group(NamedTuple):
    """Speakers who have a table of their own.

    Attributes:
        title: Of the table.
        data: Utterances of theirs.
        listed: How many speakers the group would have; those in the data may be fewer.

    """

    title: str
    data: Dict[str, Utterance]
    listed: int

    def describe(self) -> str:
        """Say how many utterances and speakers there are."""
        found = len({utterance.speaker for utterance in self.data.values()})
        of = "" if found == self.listed else f" of {self.listed}"
        return f"{len(self.data)} utterances, {found}{of} speakers"


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Score what systems said, with intervals and paired differences",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=WAVS",
        help="A name and a folder of UTTERANCE.wav, or a wav.scp; give it once a "
        "system. Differences are to the first one",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text, wav.scp (references), utt2spk and, where there "
        "are recordings of the texts, gt_wav.scp",
    )
    parser.add_argument(
        "--output_dir",
        required=True,
        help="Folder for scores.md, scores.csv and SYSTEM.jsonl",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=list(METRICS),
        metavar="METRIC",
        help=f"Of {', '.join(METRICS)}; default: {', '.join(DEFAULT)}, and of systems "
        f"that bin.synthesize --data_dir made {' and '.join(MEASURED)}",
    )
    parser.add_argument(
        "--vocode_gt",
        metavar="VOCODER",
        help="Also score the recordings of gt_wav.scp after their mel went through "
        "this vocoder: griffin_lim, hifigan, hifigan_ljspeech or the folder of a "
        "HiFi-GAN",
    )
    parser.add_argument(
        "--vocode_gt_model",
        metavar="MODEL",
        help="Whose mel that is: an experiment folder, a packed model or a tag; by "
        "default the mel that the vocoder was trained on",
    )
    parser.add_argument(
        "--subset",
        action="append",
        default=[],
        metavar="TITLE=FILE",
        help="Make tables of these speakers too; FILE has one a line",
    )
    parser.add_argument(
        "--nj", type=int, default=2, help="Processes, each of 1 core and 1 to 2 GB"
    )
    return parser


def vocode_ground_truth(
    systems: List[System], vocoder: str, model: Optional[str], output_dir: Path
) -> None:
    """Add ground truth through a vocoder to the systems, behind ground truth.

    Args:
        systems: The first one is ground truth.
        vocoder: What ``copy_synthesis`` takes.
        model: Whose mel is used, None for that of the vocoder.
        output_dir: The recordings go to a folder in it, which is made.

    Raises:
        UserError: A system has that name, or see ``find_model`` and
            ``copy_synthesis``.

    """
    name = f"{GROUND_TRUTH}_mel_{Path(vocoder).name}"
    if any(name == system.name for system in systems):
        raise UserError(
            f"--system {name} has the name of what --vocode_gt {vocoder} makes; rename "
            "it, or leave one of the two out"
        )
    config = None if model is None else find_model(model)["train_config"]
    folder = tables.make_output_dir(output_dir / name)
    copy_synthesis(systems[0].wavs, vocoder, folder, config)
    systems.insert(1, read_system(name, folder))


def read_groups(named: Sequence[str], data: Dict[str, Utterance]) -> List[Group]:
    """List all speakers, then those of each subset.

    Args:
        named: TITLE=FILE of each subset.
        data: What is scored.

    Raises:
        UserError: A file cannot be read, or none of its speakers is in the data.

    """
    everybody = len({utterance.speaker for utterance in data.values()})
    groups = [Group("all", data, everybody)]
    for item in named:
        title, _, file = item.partition("=")
        if not title or not file or title in {group.title for group in groups}:
            raise UserError(f"--subset {item} is not TITLE=FILE, or is there; mend it")
        try:
            speakers = set(Path(file).read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read {file} ({error}); give a file of speakers, one a line"
            ) from error
        chosen = {name: said for name, said in data.items() if said.speaker in speakers}
        if not chosen:
            raise UserError(
                f"none of the {len(speakers)} speakers of {file} is in the data; leave "
                f"out --subset {title}"
            )
        groups.append(Group(title, chosen, len(speakers)))
    return groups


def summarise(results: Results, group: Group, baseline: str) -> List[Dict[str, Any]]:
    """Make a row for each system and metric that has values.

    Args:
        results: Of scoring.
        group: Whose utterances count.
        baseline: The system that differences are taken to.

    """
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
                difference = paired_difference(
                    [*zip(*(METRICS[name].ratio(first[key]) for key in both))],
                    [*zip(*(METRICS[name].ratio(scores[key]) for key in both))],
                    [data[key].speaker for key in both],
                )
            speakers = [data[key].speaker for key in scores]
            ratios = map(METRICS[name].ratio, scores.values())
            interval = score_interval(*zip(*ratios), speakers)
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


def measured(scores: Dict[str, Any], wanted: Container[str]) -> Dict[str, Any]:
    """Leave out utterances in which there was nothing to be measured, and others."""
    return {
        key: score
        for key, score in scores.items()
        if score["value"] is not None and key in wanted
    }


def lay_out(
    rows: List[Dict[str, Any]],
    metrics: Sequence[str],
    what: str,
    systems: Sequence[str] = (),
) -> Optional[str]:
    """Make the table of scores, or that of differences, with a line a system.

    Args:
        rows: Of ``summarise``.
        metrics: Columns.
        what: "value" or "difference".
        systems: Who has a line even without a value.

    Returns:
        A Markdown table; None if there is nothing to be shown.

    """
    empty = dict.fromkeys([*metrics, "utterances", "speakers"])
    lines: Dict[str, Dict[str, Any]] = {
        name: {"system": name, **empty} for name in systems
    }
    for row in rows:
        if row[what] is not None:
            line = lines.setdefault(row["system"], {"system": row["system"], **empty})
            line[row["metric"]] = cell(row, what)
            for count in ("utterances", "speakers"):
                line[count] = max(row[count], line[count] or 0)
    columns = [tables.Column("system", "system")]
    if what == "value":
        columns += [tables.Column(c, c) for c in ("utterances", "speakers")]
    for name in metrics:
        if what == "difference" and not METRICS[name].compared:
            continue
        heading = f"{name} (%)" if METRICS[name].percent else name
        columns.append(tables.Column(name, heading))
    return tables.markdown(list(lines.values()), columns) if lines else None


def cell(row: Dict[str, Any], what: str) -> str:
    """Print a value, its interval and its p value, in the unit of its metric."""
    metric = METRICS[row["metric"]]
    scale = 100 if metric.percent else 1
    keys = ("value", "lower", "upper")
    form = f".{metric.digits}f"
    if what == "difference":
        keys = ("difference", "difference_lower", "difference_upper")
        form = f"+{form}"
    value, *ends = (
        None if row[k] is None else f"{scale * row[k]:{form}}" for k in keys
    )
    text = value if None in ends else f"{value} [{', '.join(ends)}]"
    if what == "difference" and row["difference_p"] is not None:
        text += f" p={row['difference_p']:.2g}"
    return text


def page(
    rows: List[Dict[str, Any]],
    results: Results,
    metrics: Sequence[str],
    baseline: str,
    groups: Sequence[Group],
    notes: Sequence[str],
) -> str:
    """Write the report: the tables of each group and what they are made of."""
    lines = []
    for group in groups:
        own = [row for row in rows if row["group"] == group.title]
        if len(groups) > 1:
            lines += [f"## {group.title}: {group.describe()}", ""]
        lines.append(lay_out(own, metrics, "value", list(results.scores)))
        differences = lay_out(own, metrics, "difference")
        if differences is not None:
            lines += [f"Differences to {baseline}, on the utterances that both have:"]
            lines += ["", differences]
    if len(groups) > 1:
        lines += ["## What the columns are", ""]
    for name in metrics:
        about = f"{METRICS[name].measures}; {results.versions.get(name)}"
        if name in results.faults:
            about = f"empty, {results.faults[name]}"
            if name not in MEASURED:
                about += f"; {REMEDY if name in DEFAULT else OWN_REMEDY}"
        lines.append(f"- {name}: {about}.")
    for system, columns in results.scores.items():
        for name, scores in columns.items():
            left_out = len(scores) - len(measured(scores, scores))
            if left_out:
                lines.append(
                    f"- {name} of {system} leaves out {left_out} of {len(scores)} "
                    f"utterances, {METRICS[name].when_missing}."
                )
    return "\n".join([*lines, *notes, "", METHOD])


def describe_synthesis(
    systems: Sequence[System], data: Dict[str, Utterance]
) -> List[str]:
    """Say of each system what it is and what it was timed on."""
    lines = []
    for system in systems:
        facts = {}
        for record in (r for k, r in system.synthesis.items() if k in data):
            known = {key: record[key] for key in FACTS if key in record}
            for key in PATHS & known.keys():
                path = Path(str(known[key]))
                if path.is_absolute() or path.exists():  # not a name, nor a tag
                    known[key] = path.name
            what = ", ".join(f"{FACTS[key]} {value}" for key, value in known.items())
            facts[what] = facts.get(what, 0) + 1
        for what, number in facts.items():
            of = "" if len(facts) == 1 else f" ({number} of the utterances)"
            lines.append(f"- {system.name}{of}: {what}.")
    return lines


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Score, write and print the tables."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.nj < 1:
        raise UserError(f"--nj is {args.nj}; choose 1 or more")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: one core each
    data = read_data(args.data_dir)
    systems = read_systems(args.system, args.data_dir)
    if args.vocode_gt is not None and systems[0].name != GROUND_TRUTH:
        raise UserError(
            f"--vocode_gt needs {args.data_dir}/gt_wav.scp; add it or leave it"
        )
    check_coverage(systems, data)
    groups = read_groups(args.subset, data)
    metrics = list(dict.fromkeys(args.metrics or DEFAULT))
    if args.metrics is None and any(system.synthesis for system in systems):
        metrics += MEASURED
    output_dir = Path(args.output_dir)
    if args.vocode_gt is not None:
        vocode_ground_truth(systems, args.vocode_gt, args.vocode_gt_model, output_dir)
    tables.make_output_dir(output_dir)
    results = score_systems(systems, data, metrics, output_dir, args.nj)
    baseline = next(
        (s.name for s in systems if not s.name.startswith(GROUND_TRUTH)),
        GROUND_TRUTH,
    )
    rows = [row for group in groups for row in summarise(results, group, baseline)]
    if not rows:
        faults = "; ".join(f"{name}: {why}" for name, why in results.faults.items())
        raise UserError(f"no metric has a value ({faults or 'silence'}); {REMEDY}")
    about = args.data_dir / "about.txt"
    # the name only: model cards, which are published, hold this page
    title = [f"# Scores on {Path(os.path.abspath(args.data_dir)).name}", ""]
    title += [about.read_text(encoding="utf-8")] if about.is_file() else []
    notes = describe_synthesis(systems, data)
    text = "\n".join([*title, ""]) + page(
        rows, results, metrics, baseline, groups, notes
    )
    tables.write_text(output_dir / "scores.md", text)
    tables.write_csv(output_dir / "scores.csv", rows)
    print(text)
    print(f"Written: {output_dir}/scores.md, scores.csv and a .jsonl of each system")
