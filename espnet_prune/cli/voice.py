"""Save the voice of recordings in a file, for ``espnet-prune say --voice``.

espnet-prune voice me.wav another.wav --model EXP -o me.voice
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import HelpFormatter
from espnet_prune.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Compute the style vector of a voice and save it in a file. Only "
        "the model that computed it can use it.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "reference",
        nargs="+",
        metavar="FILE",
        help="Recordings of the voice, with any sampling rate. The style vectors of "
        "several are averaged",
    )
    parser.add_argument(
        "--model",
        help="A model of the package, an experiment folder, a packed model or a tag "
        "(default: english_small of the package)",
    )
    parser.add_argument(
        "--model_file",
        metavar="FILE",
        help="Weights in the experiment folder (default: train.loss.ave.pth)",
    )
    parser.add_argument(
        "--trim_reference",
        action="store_true",
        help="Remove silence at both ends of the recordings",
    )
    parser.add_argument(
        "--note",
        default="",
        help="Note to save in the file, for instance the name of the speaker",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="File to write, usually NAME.voice",
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Check the arguments, compute the style vector and write the file."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.output.suffix != ".voice" or args.output.is_dir():
        raise UserError(
            f"the output {args.output} is not a voice file: name one that ends in "
            ".voice"
        )
    if not args.output.parent.is_dir():
        raise UserError(f"the folder {args.output.parent} is missing: make it first")

    # after the quick checks: it takes seconds to import
    from espnet_prune.speech.synthesis import Text2Speech

    text2speech = Text2Speech.from_pretrained(
        args.model, model_file=args.model_file, device=args.device
    )
    text2speech.save_voice(
        args.output, args.reference, note=args.note, trim=args.trim_reference
    )
    print(f"{args.output}: the voice of {len(args.reference)} recording(s)")
