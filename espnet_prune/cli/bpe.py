"""Train a sentencepiece model and write the token list that goes with it.

ESPnet's tts.sh has no stage for this, although its training accepts ``--token_type
bpe``.
"""

import argparse
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.text import bpe


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("texts", nargs="+", help="Kaldi text files (ID SENTENCE)")
    add("--nbpe", type=int, required=True, help="number of BPE tokens")
    add("--cleaner", default="none", help="ESPnet's text cleaner")
    add(
        "--output_dir",
        type=Path,
        required=True,
        help="folder for bpe.model and tokens.txt",
    )
    return parser


def main(cmd=None) -> None:
    """Train."""
    args = get_parser().parse_args(cmd)
    from espnet_prune.text import front_end

    clean, _ = front_end.build_espnet("char", None, args.cleaner)
    sentences = bpe.read_sentences(args.texts, clean)
    tokens = bpe.train(sentences, args.nbpe, args.output_dir)
    print(f"{args.output_dir}: {len(tokens)} tokens of {len(sentences)} sentences")
