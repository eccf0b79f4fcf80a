"""Draw what the decoder attends to in the synthesis of one utterance.

espnet-prune attention EXP [EXP ...] --data_dir DATA --output_dir DIR

DATA is a Kaldi folder of a zero-shot test set: ``text`` has the text and ``wav.scp``
the recording of the voice. Several experiments are drawn below each other.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.files import lock_folder


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Draw attention maps before and after the mask for one utterance",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        type=Path,
        metavar="EXP",
        help="Experiment folder of a model",
    )
    parser.add_argument(
        "--inference_model",
        default="train.loss.ave.pth",
        help="File of the model in each experiment folder",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text and wav.scp",
    )
    parser.add_argument(
        "--key", help="Utterance of the data folder (default: the first one)"
    )
    parser.add_argument(
        "--spembs",
        type=Path,
        help="scp file of speaker embeddings, for models that use them",
    )
    parser.add_argument(
        "--output_dir", required=True, help="Folder to write attention_KEY.png to"
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Synthesise with every model, then draw and write the figure."""
    args = get_parser().parse_args(cmd)
    from espnet_prune.evaluation import maps

    with lock_folder(args.output_dir, "attention"):
        path, panels = maps.draw(
            args.experiments,
            args.inference_model,
            args.data_dir,
            args.output_dir,
            args.key,
            args.spembs,
        )
    for panel in panels:
        print(maps.describe(panel))
    rows = maps.count_tiles(panels)
    if rows:
        print(maps.tabulate_tiles(rows), end="")
    print(f"Written: {path}")
