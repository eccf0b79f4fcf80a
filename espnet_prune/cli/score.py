r"""Score what systems said: error rate, similarity, predicted MOS, with intervals.

espnet-prune score --data_dir DATA --output_dir OUT \
    --system baseline=exp/a/decode/test/wav --system DP45=exp/b/decode/test/wav

DATA is the Kaldi folder of a zero-shot test set: ``text`` is what was to be said,
``wav.scp`` the reference, ``utt2spk`` the speaker, ``gt_wav.scp``, where there is one,
the recording of ``text``, which makes a row of its own. Run it again to go on after an
interruption, to add systems or metrics: only what is new or has changed is scored.
Systems that ``say --data_dir`` made have columns for their real-time factor and the
share of connections that they keep. The recordings after mel and vocoder are what
``vocode`` writes; give its folder as one more system.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import add_test_set
from espnet_prune.errors import UserError
from espnet_prune.evaluation.scorers import DEFAULT, MEASURED, METRICS


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Score what systems said, with intervals and paired differences",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_test_set(parser)
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help="Folder for scores.md, scores.csv, scores.json and SYSTEM.jsonl",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=list(METRICS),
        metavar="METRIC",
        help=f"Of {', '.join(METRICS)}; default: {', '.join(DEFAULT)}, and of systems "
        f"that `say --data_dir` made {' and '.join(MEASURED)}",
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


def main(cmd: Sequence[str] | None = None) -> None:
    """Score, write and print the tables."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.nj < 1:
        raise UserError(f"--nj is {args.nj}; choose 1 or more")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: one core each
    from espnet_prune.evaluation import scores

    print(
        scores.score(
            args.data_dir,
            args.system,
            args.output_dir,
            args.metrics,
            args.subset,
            args.nj,
        )
    )
    names = "scores.md, scores.csv, scores.json and a .jsonl of each system"
    print(f"Written: {args.output_dir}/{names}")
