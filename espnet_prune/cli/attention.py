"""Draw what the decoder attends to in the synthesis of one utterance.

espnet-prune attention EXP [EXP ...] --data_dir DATA --output_dir DIR

DATA is a Kaldi folder of a zero-shot test set: ``text`` has the text and ``wav.scp``
the recording of the voice. Several experiments are drawn below each other.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import add_spembs, make_parser
from espnet_prune.files import lock_folder


def main(cmd: Sequence[str] | None = None) -> None:
    """Synthesise with every model, then draw and write the figure."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "experiments",
        nargs="+",
        type=Path,
        metavar="EXP",
        help="Experiment folder of a model",
    )
    add(
        "--inference_model",
        default="train.loss.ave.pth",
        help="File of the model in each experiment folder",
    )
    add(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text and wav.scp",
    )
    add("--key", help="Utterance of the data folder (default: the first one)")
    add_spembs(parser)
    add("--output_dir", required=True, help="Folder to write attention_KEY.png to")
    args = parser.parse_args(cmd)
    from espnet_prune.evaluation import maps

    with lock_folder(args.output_dir, "attention"):
        path, panels = maps.draw(**vars(args))
    for panel in panels:
        print(maps.describe(panel))
    rows = maps.count_tiles(panels)
    if rows:
        print(maps.tabulate_tiles(rows), end="")
    print(f"Written: {path}")
