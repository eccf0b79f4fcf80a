"""Serve a web page that speaks with a model.

espnet-prune demo
espnet-prune demo --model EXP --port 8000
"""

import importlib.util
from collections.abc import Sequence

from espnet_prune.cli.options import add_model, add_vocoder, make_parser
from espnet_prune.errors import UserError


def main(cmd: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_model(parser)
    add_vocoder(parser, "The vocoder that is chosen at first: ")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add(
        "--host",
        help="Address to serve at; 0.0.0.0 lets other machines in (default: this "
        "machine alone)",
    )
    add("--port", type=int, help="Port to serve at (default: a free one from 7860 on)")
    add("--open", action="store_true", help="Open the page in a browser")
    args = parser.parse_args(cmd)
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
