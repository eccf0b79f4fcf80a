r"""Score the speech of systems: error rate, similarity, predicted MOS, with intervals.

espnet-prune score --data_dir DATA --output_dir OUT \
    --system baseline=exp/a/decode/test/wav --system DP45=exp/b/decode/test/wav

DATA is the Kaldi folder of a zero-shot test set: ``text`` has the texts, ``wav.scp``
the references, ``utt2spk`` the speakers and, if there is one, ``gt_wav.scp`` the
recordings of the texts, which get their own row. Run it again to continue after an
interruption, or to add systems or metrics: it scores only what is new or has changed.
Speech of ``say --data_dir`` gets columns with its real-time factor and kept share. To
score recordings after mel and vocoder, give the folder of ``vocode`` as one more
system.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import add_test_set, make_parser
from espnet_prune.config import require_whole
from espnet_prune.errors import UserError
from espnet_prune.evaluation.backends import WavLM, WhisperCheckpoint
from espnet_prune.evaluation.metrics import DEFAULT, MEASURED, METRICS
from espnet_prune.files import lock_folder

CHECKPOINTS = (
    ("--whisper", WhisperCheckpoint.variable, "wer_whisper_large_v3"),
    ("--wavlm_sv", WavLM.variable, "secs_wavlm_sv and secs_other_wavlm_sv"),
)


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_test_set(parser)
    add(
        "--output_dir",
        type=Path,
        required=True,
        help="Folder for scores.md, scores.csv, scores.json and SYSTEM.jsonl",
    )
    add(
        "--metrics",
        nargs="+",
        choices=list(METRICS),
        metavar="METRIC",
        help=f"Metrics, from {', '.join(METRICS)}; default: {', '.join(DEFAULT)}, and "
        f"{' and '.join(MEASURED)} for speech of `espnet-prune say --data_dir`",
    )
    add(
        "--subset",
        action="append",
        default=[],
        metavar="TITLE=FILE",
        help="Make tables of these speakers too; FILE has one speaker per line",
    )
    for option, variable, what in CHECKPOINTS:
        add(
            option,
            metavar="FOLDER",
            help=f"Local folder of weights for {what}, as save_pretrained of "
            f"transformers writes it; default: {variable} of the environment, or from "
            "the network",
        )
    add(
        "--nj",
        type=int,
        default=2,
        help="Number of processes; each needs one core and 1 to 2 GB of memory",
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Score, write and print the tables."""
    args = get_parser().parse_args(cmd)
    require_whole("--nj", args.nj)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that each process uses one core
    for option, variable, _ in CHECKPOINTS:
        folder = getattr(args, option.removeprefix("--"))
        if folder is None:
            continue
        if not (Path(folder) / "config.json").is_file():
            raise UserError(
                f"{option} {folder} has no config.json; give a folder of weights that "
                "transformers can load"
            )
        os.environ[variable] = os.path.abspath(folder)  # other processes inherit it
    from espnet_prune.evaluation import score_page

    with lock_folder(args.output_dir, "score"):
        page = score_page.score(
            args.data_dir,
            args.system,
            args.output_dir,
            args.metrics,
            args.subset,
            args.nj,
        )
    print(page)
    names = "scores.md, scores.csv, scores.json and a .jsonl per system"
    print(f"Written: {args.output_dir}/{names}")
