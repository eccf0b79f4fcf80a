"""Compare the experiments of a sweep in tables and figures.

espnet-prune sweep SWEEP_DIR --output_dir DIR [--scores scores.csv]

SWEEP_DIR is the folder that ``sweep.sh`` fills: experiments that differ in R, in the
length of phase 1 and in the seed.
"""

from collections.abc import Sequence

from espnet_prune.cli.options import make_parser
from espnet_prune.files import lock_folder


def main(cmd: Sequence[str] | None = None) -> None:
    """Read a sweep, write and print its report."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("sweep_dir", help="Folder of the experiments")
    add(
        "--scores",
        help="scores.csv of `score`; its systems must have the names of the "
        "experiments without _phase1 and _phase2",
    )
    add("--output_dir", required=True, help="Folder to write tables and figures to")
    args = parser.parse_args(cmd)
    from espnet_prune.evaluation import sweep

    with lock_folder(args.output_dir, "sweep"):
        text, paths = sweep.write(args.sweep_dir, args.output_dir, args.scores)
    print(text)
    print("Written:")
    for path in paths:
        print(f"  {path}")
