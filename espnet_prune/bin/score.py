#!/usr/bin/env python3
"""Score what systems said: error rate, similarity, predicted MOS, with intervals.

python -m espnet_prune.bin.score --data_dir DATA --output_dir OUT \\
    --system baseline=exp/a/decode/test/wav --system DP45=exp/b/decode/test/wav

DATA is the Kaldi folder of a zero-shot test set: ``text`` is what was to be said,
``wav.scp`` the reference, ``utt2spk`` the speaker, ``gt_wav.scp``, where there is one,
the recording of ``text``, which makes a row of its own. Run it again to go on after an
interruption, to add systems or metrics: only what is new or has changed is scored.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from espnet_prune.errors import UserError, run
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.intervals import (
    RESAMPLES,
    Difference,
    paired_difference,
    score_interval,
)
from espnet_prune.evaluation.scorers import DEFAULT, METRICS, Utterance
from espnet_prune.evaluation.scoring import (
    Results,
    System,
    read_data,
    read_wavs,
    score_systems,
)
from espnet_prune.vocoder import WEIGHTS

GROUND_TRUTH = "ground_truth"
REMEDY = "the models of the default metrics come by espnet_prune[score], see README"
METHOD = f"""\
In brackets: 95 % intervals over speakers ({RESAMPLES} bootstrap resamples). p:
two-sided permutation test over speakers, not corrected for the number of comparisons.
Error rates are pooled: all edits over all characters.
"""


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
        default=list(DEFAULT),
        choices=list(METRICS),
        metavar="METRIC",
        help="Of " + ", ".join(METRICS),
    )
    parser.add_argument(
        "--vocode_gt",
        choices=list(WEIGHTS),
        metavar="VOCODER",
        help="Also score the recordings of gt_wav.scp after their mel went through "
        "this vocoder: " + ", ".join(WEIGHTS),
    )
    parser.add_argument(
        "--nj", type=int, default=2, help="Processes, each of 1 core and 1 to 2 GB"
    )
    return parser


def read_systems(
    named: Sequence[str], data_dir: Path, vocode_gt: Optional[str]
) -> List[System]:
    """List ground truth, where there is one, and the systems in their order.

    Args:
        named: NAME=WAVS of each system.
        data_dir: Its ``gt_wav.scp`` is the ground truth.
        vocode_gt: Vocoder of one more row of ground truth.

    Raises:
        UserError: A name cannot be used, or recordings are missing.

    """
    systems = []
    if (data_dir / "gt_wav.scp").exists():
        wavs = read_wavs(data_dir / "gt_wav.scp")
        systems.append(System(GROUND_TRUTH, wavs))
        if vocode_gt is not None:
            systems.append(System(f"{GROUND_TRUTH}_{vocode_gt}", wavs, vocode_gt))
    elif vocode_gt is not None:
        raise UserError(f"--vocode_gt needs {data_dir}/gt_wav.scp; add it or leave it")
    for item in named:
        name, _, source = item.partition("=")
        if not source or not name or name.startswith(".") or set(name) & set("/|\n"):
            raise UserError(
                f"--system {item} is not NAME=WAVS with a name for a file; mend it"
            )
        if any(name == system.name for system in systems):
            raise UserError(f"--system {name} comes a second time; rename one")
        systems.append(System(name, read_wavs(Path(source))))
    if not systems:
        raise UserError("there is nothing to score; give --system NAME=WAVS")
    return systems


def check_coverage(systems: Sequence[System], data: Dict[str, Utterance]) -> None:
    """Refuse systems that said nothing of the data, warn of those that lack some.

    Raises:
        UserError: Not one recording of a system belongs to the data.

    """
    for system in systems:
        lacking = [name for name in data if name not in system.wavs]
        if len(lacking) == len(data):
            raise UserError(
                f"{system.name} has no recording of any of the {len(data)} utterances "
                f"(for instance {lacking[0]}); give the folder of this test set"
            )
        if lacking and not system.name.startswith(GROUND_TRUTH):
            logging.warning(
                f"{system.name} lacks {len(lacking)} of {len(data)} utterances (for "
                f"instance {lacking[0]}): its scores leave them out"
            )
        if system.name == GROUND_TRUTH and any(
            path.samefile(data[name].reference)
            for name, path in system.wavs.items()
            if name in data
        ):
            logging.warning(
                "gt_wav.scp names recordings that are the references themselves: "
                "choose other references, or the similarity of ground truth is 1"
            )


def summarise(
    results: Results, data: Dict[str, Utterance], baseline: str
) -> List[Dict[str, Any]]:
    """Make a row for each system and metric that has values.

    Args:
        results: Of scoring.
        data: What was scored.
        baseline: The system that differences are taken to.

    """
    rows = []
    for system, columns in results.scores.items():
        for name in columns:
            scores = measured(columns[name])
            if not scores:
                continue
            first = measured(results.scores[baseline][name])
            both = [key for key in scores if key in first] if system != baseline else []
            difference = Difference(None, None, None, None)
            if both:
                difference = paired_difference(
                    [*zip(*(METRICS[name].ratio(first[key]) for key in both))],
                    [*zip(*(METRICS[name].ratio(scores[key]) for key in both))],
                    [data[key].speaker for key in both],
                )
            speakers = [data[key].speaker for key in scores]
            ratios = map(METRICS[name].ratio, scores.values())
            rows.append(
                {
                    "system": system,
                    "metric": name,
                    "utterances": len(scores),
                    "speakers": len(set(speakers)),
                    **score_interval(*zip(*ratios), speakers)._asdict(),
                    "difference": difference.value,
                    "difference_lower": difference.lower,
                    "difference_upper": difference.upper,
                    "difference_p": difference.p,
                }
            )
    return rows


def measured(scores: Dict[str, Any]) -> Dict[str, Any]:
    """Leave out utterances in which there was nothing to be measured."""
    return {key: score for key, score in scores.items() if score["value"] is not None}


def lay_out(
    rows: List[Dict[str, Any]], metrics: Sequence[str], what: str
) -> Optional[str]:
    """Make the table of scores, or that of differences, with a line a system.

    Args:
        rows: Of ``summarise``.
        metrics: Columns.
        what: "value" or "difference".

    Returns:
        A Markdown table; None if there is nothing to be shown.

    """
    lines: Dict[str, Dict[str, Any]] = {}
    for row in rows:
        if row[what] is not None:
            line = lines.setdefault(row["system"], dict.fromkeys(metrics))
            line["system"] = row["system"]
            line[row["metric"]] = cell(row, what)
            for count in ("utterances", "speakers"):
                line[count] = max(row[count], line.get(count, 0))
    columns = [tables.Column("system", "system")]
    if what == "value":
        columns += [tables.Column(c, c) for c in ("utterances", "speakers")]
    for name in metrics:
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
    data_dir: Path,
) -> str:
    """Write the report: both tables and what they are made of."""
    lines = [f"# Scores on {data_dir}", "", lay_out(rows, metrics, "value")]
    differences = lay_out(rows, metrics, "difference")
    if differences is not None:
        lines += [f"Differences to {baseline}, on the utterances that both have:", ""]
        lines += [differences]
    for name in metrics:
        about = f"{METRICS[name].measures}; {results.versions.get(name)}"
        if name in results.faults:
            about = f"empty, {results.faults[name]}; {REMEDY}"
        lines.append(f"- {name}: {about}.")
    for system, columns in results.scores.items():
        for name, scores in columns.items():
            left_out = len(scores) - len(measured(scores))
            if left_out:
                lines.append(
                    f"- {name} of {system} leaves out {left_out} of {len(scores)} "
                    "utterances, which are silent or leave nothing to compare."
                )
    lines += ["", METHOD]
    return "\n".join(lines)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Score, write and print the tables."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.nj < 1:
        raise UserError(f"--nj is {args.nj}; choose 1 or more")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: one core each
    data = read_data(args.data_dir)
    systems = read_systems(args.system, args.data_dir, args.vocode_gt)
    check_coverage(systems, data)
    metrics = list(dict.fromkeys(args.metrics))
    output_dir = tables.make_output_dir(args.output_dir)
    results = score_systems(systems, data, metrics, output_dir, args.nj)
    baseline = next(
        (s.name for s in systems if not s.name.startswith(GROUND_TRUTH)),
        GROUND_TRUTH,
    )
    rows = summarise(results, data, baseline)
    if not rows:
        faults = "; ".join(f"{name}: {why}" for name, why in results.faults.items())
        raise UserError(f"no metric has a value ({faults or 'silence'}); {REMEDY}")
    text = page(rows, results, metrics, baseline, args.data_dir)
    tables.write_text(output_dir / "scores.md", text)
    tables.write_csv(output_dir / "scores.csv", rows)
    print(text)
    print(f"Written: {output_dir}/scores.md, scores.csv and a .jsonl of each system")


if __name__ == "__main__":
    run(main)
