r"""Report the thresholds after training: tables, figures and one web page.

espnet-prune report EXP_PHASE1 EXP_PHASE2 --output_dir DIR
espnet-prune report BASELINE EXP_PHASE1 EXP_PHASE2 --output_dir DIR \
    --scores SCORES --data_dir DATA

DIR/report.html contains everything, including decoded speech, and needs no other file:
you can send it. With several models, tables and figures are in DIR/MODEL.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError
from espnet_prune.files import lock_folder


def main(cmd: Sequence[str] | None = None) -> None:
    """Read the experiments, write and print the report."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "experiments",
        nargs="+",
        metavar="EXP",
        help="Experiment folders. For a model with two phases, name phase 1 and then "
        "phase 2",
    )
    add("--output_dir", required=True, help="Folder to write tables and figures to")
    add(
        "--scores",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Folders that `score` or `listen collect` wrote; their tables become "
        "part of the page",
    )
    add(
        "--data_dir",
        nargs="*",
        type=Path,
        default=[],
        metavar="DATA",
        help="Kaldi folders of the test sets: the page shows text and reference next "
        "to the speech",
    )
    add(
        "--samples",
        type=int,
        default=4,
        help="Number of utterances of each test set on the page",
    )
    args = parser.parse_args(cmd)
    if args.samples < 0:
        raise UserError(f"--samples is {args.samples}; choose 0 or more")
    from espnet_prune.evaluation import report, tables, thresholds

    models = report.read(args.experiments)
    with lock_folder(args.output_dir, "report"):
        paths = report.write(
            models, args.output_dir, args.scores, args.data_dir, args.samples
        )
    for model in models:
        for experiment in model.experiments:
            print(report.describe(experiment))
        print()
        if model.table is not None:
            print(tables.markdown(model.table, thresholds.COLUMNS))
    print(thresholds.LEGEND)
    print("Written:")
    for path in paths:
        print(f"  {path}")
