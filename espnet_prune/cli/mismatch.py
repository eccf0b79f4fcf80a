r"""Compare systems against the distance between training and test speakers.

espnet-prune mismatch --train_data data/train --output_dir mismatch \
    --set seen=data/test_seen --set unseen=data/test_unseen \
    --scores seen=scores/seen --scores unseen=scores/unseen \
    --recordings far=data/far \
    --model dense_s0=exp/dense_s0 --model DP_s0=exp/DP_s0_phase2

The name NAME_sN means the training of NAME with seed N, both in --model and in the
folders of ``score``. Held-out losses are kept, so that the command continues after an
interruption.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.config import require_whole


def main(cmd: Sequence[str] | None = None) -> None:
    """Measure, write and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--train_data",
        dest="train",
        type=Path,
        nargs="+",
        required=True,
        metavar="DATA",
        help="Kaldi folders of the training data: wav.scp and utt2spk",
    )
    for option, name, metavar, what in (
        (
            "--set",
            "sets",
            "NAME=DATA",
            "Kaldi folder of a test set, whose wav.scp has its voices; give it once "
            "per set",
        ),
        ("--scores", "scores", "NAME=DIR", "Folder that `score` wrote for a set"),
        (
            "--recordings",
            "recordings",
            "NAME=DATA",
            "Kaldi folder of recordings of a set, with text and, from `align`, "
            "token_ends; held-out losses are measured on them",
        ),
        (
            "--model",
            "models",
            "SYSTEM_sSEED=EXP",
            "Experiment folder of a training, for held-out losses",
        ),
    ):
        add(option, dest=name, action="append", default=[], metavar=metavar, help=what)
    add("--output_dir", type=Path, required=True, help="Folder to write to")
    add(
        "--baseline",
        help="System to which others are compared; default: the first by name",
    )
    add(
        "--recordings_per_speaker",
        type=int,
        default=5,
        help="Recordings of a speaker that count for distances, at most",
    )
    add("--model_file", help="Weights in the experiment folders")
    add("--device", default="cpu", help="Device of the models, for instance cuda")
    args = parser.parse_args(cmd)
    require_whole("--recordings_per_speaker", args.recordings_per_speaker)
    from espnet_prune.evaluation import mismatch

    print(mismatch.compare(**vars(args)))
    print(f"Written: {args.output_dir}")
