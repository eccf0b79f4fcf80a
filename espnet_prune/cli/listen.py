r"""Make a listening test as one web page, and compute MOS and SMOS from its ratings.

espnet-prune listen make --data_dir DATA --output_dir OUT \
    --system baseline=exp/a/decode/test/wav --system DP45=exp/b/decode/test/wav
espnet-prune listen collect --key OUT/listening_test.key.json \
    --output_dir RESULT ratings_*.csv

``make`` writes OUT/listening_test.html, which you send to the listeners. It needs no
other file and no network, keeps the ratings when it is closed, and saves a CSV, which
the listeners send back. The key names the system of each sample; keep it. DATA and WAVS
are those of ``espnet-prune score``.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_prune.cli.options import add_test_set, make_parser
from espnet_prune.errors import UserError
from espnet_prune.evaluation import documents, listening, ratings, tables
from espnet_prune.evaluation.listening import KEY, PAGE
from espnet_prune.evaluation.scoring import check_coverage, read_data, read_systems
from espnet_prune.files import lock_folder


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb."""
    parser = make_parser(__doc__)
    form = parser.formatter_class
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser(
        "make", help="Write the page of a test and its key", formatter_class=form
    )
    add_test_set(make)
    add = make.add_argument
    add(
        "--output_dir",
        type=Path,
        required=True,
        help=f"Folder for {PAGE} and {KEY}",
    )
    add(
        "--utterances",
        type=int,
        default=15,
        help="Number of texts; each listener rates every system on each text, in each "
        "part",
    )
    add(
        "--parts",
        nargs="+",
        default=list(listening.PARTS),
        choices=list(listening.PARTS),
        help="MOS: naturalness. SMOS: similarity to the voice of the reference",
    )
    add("--seed", type=int, default=0, help="Seed of the choice of utterances")
    add("--title", default="Listening test", help="Title of the page")
    add(
        "--send_to",
        default="the person who gave you this page",
        help="To whom listeners send their ratings",
    )
    collect = commands.add_parser(
        "collect", help="Read the CSV files of the listeners", formatter_class=form
    )
    add = collect.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="CSV files of the listeners, or folders of them",
    )
    add("--key", type=Path, required=True, help=f"{KEY}, written with the page")
    add(
        "--output_dir",
        type=Path,
        required=True,
        help="Folder for listening.md, .csv and .json",
    )
    add(
        "--keep_unfinished",
        action="store_true",
        help="Also use the ratings of listeners who did not rate everything",
    )
    return parser


def make(args: argparse.Namespace) -> None:
    """Write the page and the key."""
    data = read_data(args.data_dir)
    systems = read_systems(args.system, args.data_dir)
    check_coverage(systems, data)
    parts = list(dict.fromkeys(args.parts))
    send = f"send the file to {args.send_to}"
    test = listening.make_test(
        data, systems, args.utterances, parts, args.seed, args.title, send
    )
    page, key = args.output_dir / PAGE, args.output_dir / KEY
    require_no_other(key, test.key)
    # the key first: without it, the ratings of listeners would be worth nothing
    tables.write_json(key, test.key)
    tables.write_text(page, test.page)
    number = sum(map(len, test.key["parts"].values()))
    size = page.stat().st_size / 1e6
    print(
        f"{number} ratings of {args.utterances} utterances by {len(systems)} systems "
        f"({', '.join(parts)}); {test.seconds / 60:.1f} minutes of sound"
    )
    print(f"{page} ({size:.1f} MB): send it to the listeners")
    print(f"{key}: keep it, `collect` needs it")


def require_no_other(path: Path, key: dict[str, Any]) -> None:
    """Refuse to replace the key of another test, whose ratings would be lost."""
    if os.path.lexists(path) and ratings.read_key(path)["test"] != key["test"]:
        raise UserError(
            f"{path} is the key of another test, whose ratings nobody could read "
            "without it: choose another --output_dir, or remove it"
        )


def collect(args: argparse.Namespace) -> None:
    """Read the ratings, write and print the tables."""
    key = ratings.read_key(args.key)
    files = ratings.find_files(args.files)
    found, unfinished = ratings.read_ratings(files, key, args.keep_unfinished)
    document, rows = ratings.lay_out(found, key, len(files), unfinished)
    print(documents.write(args.output_dir, documents.LISTENING, document, rows))
    print(f"Written: {args.output_dir}/listening.md, listening.csv and listening.json")


def main(cmd: Sequence[str] | None = None) -> None:
    """Make a test or collect its ratings."""
    args = get_parser().parse_args(cmd)
    with lock_folder(args.output_dir, "listen"):
        {"make": make, "collect": collect}[args.command](args)
