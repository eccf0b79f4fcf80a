"""Check that a packed model produces the same samples as its experiment."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.speech.vocoder import GRIFFIN_LIM


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Load a packed model by ESPnet's Text2Speech and compare its "
        "speech, bit for bit, with that of its experiment.",
    )
    parser.add_argument("packed", type=Path, help="zip file of the packing stage")
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text and wav.scp (references)",
    )
    parser.add_argument(
        "--said",
        type=Path,
        required=True,
        help="folder with the speech of the decoding stage; if that stage ran on a "
        "GPU, its weights, with which the experiment is decoded again here",
    )
    parser.add_argument("--config", type=Path, help="YAML with the options of decoding")
    parser.add_argument(
        "--inference_args",
        default="",
        help="options of decoding that override --config",
    )
    parser.add_argument(
        "--vocoder",
        default=GRIFFIN_LIM,
        help="vocoder of decoding (default: griffin_lim)",
    )
    parser.add_argument(
        "--spembs",
        type=Path,
        help="scp file of speaker embeddings, for models that use them",
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Check one utterance."""
    args = get_parser().parse_args(cmd)
    from espnet_prune.evaluation import packed

    name = packed.check(
        args.packed,
        args.data_dir,
        args.said,
        packed.decoding_settings(args.config, args.inference_args),
        args.vocoder,
        args.spembs,
    )
    print(f"{args.packed}: loads, and produces {name} bit for bit as before")
