"""Make a listening test as one web page, and turn its ratings into MOS and SMOS.

python -m espnet_prune.cli.listen make --data_dir DATA --output_dir OUT \\
    --system baseline=exp/a/decode/test/wav --system DP45=exp/b/decode/test/wav
python -m espnet_prune.cli.listen collect --key OUT/listening_test.key.json \\
    --output_dir RESULT ratings_*.csv

``make`` writes OUT/listening_test.html, which is sent to the raters: it needs no other
file and no network, keeps what was rated when it is closed, and saves a CSV, which they
send back. The key says which sample is by which system; keep it. DATA and WAVS are
those of ``espnet_prune.cli.score``.
"""

import argparse
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from espnet_prune.errors import UserError
from espnet_prune.evaluation import listening, tables
from espnet_prune.evaluation.scoring import (
    GROUND_TRUTH,
    check_coverage,
    read_data,
    read_systems,
)

PAGE = "listening_test.html"
KEY = "listening_test.key.json"
METHOD = """\
In brackets: 95 % intervals over raters and utterances (variance clustered both ways).
+-: the 95 % interval of most papers, which takes all ratings to be independent and is
too short. 1 to 5: how often each rating was given.
"""


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description="Make a listening test, or read what its raters sent back",
        formatter_class=form,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser(
        "make", help="Write the page of a test and its key", formatter_class=form
    )
    make.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=WAVS",
        help="A name and a folder of UTTERANCE.wav, or a wav.scp; give it once a "
        "system. The names are not on the page",
    )
    make.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text, wav.scp (references), utt2spk and, where there "
        "are recordings of the texts, gt_wav.scp, which is one more system",
    )
    make.add_argument(
        "--output_dir", required=True, help=f"Folder for {PAGE} and {KEY}"
    )
    make.add_argument(
        "--utterances",
        type=int,
        default=15,
        help="Number of utterances, each rated of every system in every part",
    )
    make.add_argument(
        "--parts",
        nargs="+",
        default=list(listening.PARTS),
        choices=list(listening.PARTS),
        help="MOS: naturalness. SMOS: similarity to the voice of the reference",
    )
    make.add_argument("--seed", type=int, default=0, help="Of the draw of utterances")
    make.add_argument("--title", default="Listening test", help="Of the page")
    make.add_argument(
        "--send_to", default="whoever gave you this page", help="Who gets the ratings"
    )
    collect = commands.add_parser(
        "collect", help="Read the CSV files of the raters", formatter_class=form
    )
    collect.add_argument(
        "files", nargs="+", type=Path, metavar="CSV", help="Files, or folders of them"
    )
    collect.add_argument(
        "--key", type=Path, required=True, help=f"{KEY}, written with the page"
    )
    collect.add_argument(
        "--output_dir", required=True, help="Folder for listening.md and listening.csv"
    )
    collect.add_argument(
        "--keep_unfinished",
        action="store_true",
        help="Take what there is of raters who did not rate everything",
    )
    return parser


def make(args: argparse.Namespace) -> None:
    """Write the page and the key."""
    data = read_data(args.data_dir)
    systems = read_systems(args.system, args.data_dir)
    check_coverage(systems, data)
    parts = list(dict.fromkeys(args.parts))
    test = listening.make_test(
        data,
        systems,
        args.utterances,
        parts,
        args.seed,
        args.title,
        f"send the file to {args.send_to}",
    )
    output_dir = tables.make_output_dir(args.output_dir)
    tables.write_text(output_dir / PAGE, test.page)
    tables.write_json(output_dir / KEY, test.key)
    number = sum(map(len, test.key["parts"].values()))
    size = (output_dir / PAGE).stat().st_size / 1e6
    print(
        f"{number} ratings of {args.utterances} utterances by {len(systems)} systems "
        f"({', '.join(parts)}); {test.seconds / 60:.1f} minutes of sound"
    )
    print(f"{output_dir / PAGE} ({size:.1f} MB): for the raters")
    print(f"{output_dir / KEY}: keep it, `collect` needs it")


def collect(args: argparse.Namespace) -> None:
    """Read the ratings, write and print the tables."""
    key = listening.read_key(args.key)
    files = listening.find_files(args.files)
    ratings, unfinished = listening.read_ratings(files, key, args.keep_unfinished)
    if not ratings:
        raise UserError("nothing is rated in these files; give those of other raters")
    baseline = next(
        (name for name in key["systems"] if not name.startswith(GROUND_TRUTH)),
        GROUND_TRUTH,
    )
    rows = listening.summarise(ratings, key, baseline)
    text = report(rows, key, baseline, len(files))
    for rater, left in unfinished.items():
        text += f"- {rater} left {left} samples blank.\n"
    for rater, part, rating in listening.unvaried(ratings):
        text += f"- {rater} gave every sample of {part} a {rating}: see whether to"
        text += " leave the file out.\n"
    output_dir = tables.make_output_dir(args.output_dir)
    tables.write_text(output_dir / "listening.md", text)
    tables.write_csv(output_dir / listening.RESULT, rows)
    print(text)
    print(f"Written: {output_dir}/listening.md and listening.csv")


def report(
    rows: List[Dict[str, Any]], key: Dict[str, Any], baseline: str, raters: int
) -> str:
    """Lay out a table for each part, in Markdown."""
    lines = [f"# {key['title']}, {raters} raters, test {key['test']}", ""]
    for part in key["parts"]:
        own = [line_of(row, part) for row in rows if row["part"] == part]
        if own:
            columns = [
                tables.Column(name, name)
                for name in own[0]
                if any(line[name] is not None for line in own)
            ]
            lines += [tables.markdown(own, columns)]
    lines += [f"Difference: to {baseline}, by the same raters and utterances.", METHOD]
    return "\n".join(lines)


def line_of(row: Dict[str, Any], part: str) -> Dict[str, Any]:
    """Print one row with the headings of its part."""

    def interval(name: str, prefix: str, form: str) -> Optional[str]:
        value, lower, upper = (
            row[end] for end in (name, f"{prefix}lower", f"{prefix}upper")
        )
        if value is None or lower is None:
            return None if value is None else f"{value:{form}}"
        return f"{value:{form}} [{lower:{form}}, {upper:{form}}]"

    half = row["plus_minus"]
    return {
        "system": row["system"],
        part: interval("value", "", ".2f"),
        "+-": None if half is None else f"{half:.2f}",
        "difference": interval("difference", "difference_", "+.2f"),
        "ratings": row["ratings"],
        "raters": row["raters"],
        "utterances": row["utterances"],
        **{str(i): row[f"rated_{i}"] for i in range(1, 6)},
    }


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Make a test or collect its ratings."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    {"make": make, "collect": collect}[args.command](args)
