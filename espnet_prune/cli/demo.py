"""Serve a web page that speaks with a model.

espnet-prune demo
espnet-prune demo --model EXP --port 8000
"""

import argparse
import importlib.util
from collections.abc import Sequence

from espnet_prune.cli.options import add_model, make_parser
from espnet_prune.errors import UserError
from espnet_prune.speech.vocoder import CHOICES


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument(
        "--vocoder",
        help=f"The vocoder that is chosen at first: {CHOICES} (default: hifigan for a "
        "model of the package, if it is installed; otherwise griffin_lim)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--host",
        help="Address to serve at; 0.0.0.0 lets other machines in (default: this "
        "machine alone)",
    )
    parser.add_argument(
        "--port", type=int, help="Port to serve at (default: a free one from 7860 on)"
    )
    parser.add_argument(
        "--open", action="store_true", help="Open the page in a browser"
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = get_parser().parse_args(cmd)
    if importlib.util.find_spec("gradio") is None:
        raise UserError('the page needs Gradio: pip install "gradio>=6,<7"')
    from espnet_prune.speech.demo import serve

    serve(
        args.model,
        args.model_file,
        args.vocoder,
        args.device,
        server_name=args.host,
        server_port=args.port,
        inbrowser=args.open,
    )
