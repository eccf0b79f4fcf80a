"""Save the voice of recordings in a file, for ``espnet-prune say --voice``.

espnet-prune voice me.wav another.wav --model EXP -o me.voice
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import add_model, make_parser
from espnet_prune.errors import UserError


def main(cmd: Sequence[str] | None = None) -> None:
    """Check the arguments, compute the style vector and write the file."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "reference",
        nargs="+",
        metavar="FILE",
        help="Recordings of the voice, with any sampling rate. The style vectors of "
        "several are averaged",
    )
    add_model(parser)
    add(
        "--trim_reference",
        action="store_true",
        help="Remove silence at both ends of the recordings",
    )
    add(
        "--note",
        default="",
        help="Note to save in the file, for instance the name of the speaker",
    )
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="File to write, usually NAME.voice",
    )
    args = parser.parse_args(cmd)
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
