"""Check that a packed model produces the same samples as its experiment."""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import add_spembs, make_parser
from espnet_prune.speech.vocoder import GRIFFIN_LIM


def main(cmd: Sequence[str] | None = None) -> None:
    """Check one utterance."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("packed", type=Path, help="zip file of the packing stage")
    add(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text and wav.scp (references)",
    )
    add(
        "--said",
        type=Path,
        required=True,
        help="folder with the speech of the decoding stage; if that stage ran on a "
        "GPU, give the weights that it used, and the experiment is decoded again here",
    )
    add("--config", type=Path, help="YAML with the options of decoding")
    add(
        "--inference_args",
        default="",
        help="options of decoding that override --config",
    )
    add(
        "--vocoder",
        default=GRIFFIN_LIM,
        help="vocoder of decoding (default: griffin_lim)",
    )
    add_spembs(parser)
    args = parser.parse_args(cmd)
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
