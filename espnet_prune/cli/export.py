"""Write a model in the ONNX format, to speak without torch and ESPnet.

espnet-prune export MODEL -o FOLDER
espnet-prune export MODEL -o FOLDER --check
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import add_model, make_parser
from espnet_prune.speech.vocoder import WEIGHTS

NONE = "none"
HEADS = (
    "",
    "frames",
    "largest difference",
    "values above 1e-4",
    "CPU s per s, torch",
    "ONNX",
)


def main(cmd: Sequence[str] | None = None) -> None:
    """Export, and compare if wanted."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_model(parser, "model")
    add(
        "--vocoder",
        default="hifigan",
        help=f"{', '.join(WEIGHTS)}, the folder or generator of a HiFi-GAN, or {NONE}: "
        "only mels are generated",
    )
    add(
        "--check",
        action="store_true",
        help="Compare the result with torch: 20 texts at three speeds, and CPU time",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="New folder to write",
    )
    args = parser.parse_args(cmd)

    # after the quick checks: it takes seconds to import
    from tabulate import tabulate

    from espnet_prune.speech import onnx_export
    from espnet_prune.speech.synthesis import Text2Speech

    onnx_export.require_packages()
    onnx_export.require_new(args.output)
    text2speech = Text2Speech.from_pretrained(
        args.model,
        model_file=args.model_file,
        **({} if args.vocoder == NONE else {"vocoder": args.vocoder}),
    )
    if args.vocoder == NONE:
        text2speech.vocoder = None
    folder = onnx_export.export(text2speech, args.output)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB")
    if args.check:
        rows = onnx_export.check(text2speech, folder)
        print(tabulate(rows, HEADS, disable_numparse=True))
