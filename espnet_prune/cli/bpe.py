"""Train a sentencepiece model and write the token list that goes with it.

ESPnet's tts.sh has no stage for this, although its training accepts ``--token_type
bpe``.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.text import bpe


def main(cmd: Sequence[str] | None = None) -> None:
    """Train."""
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
    args = parser.parse_args(cmd)
    from espnet_prune.text import front_end

    clean, _ = front_end.build_espnet("char", None, args.cleaner)
    sentences = bpe.read_sentences(args.texts, clean)
    tokens = bpe.train(sentences, args.nbpe, args.output_dir)
    print(f"{args.output_dir}: {len(tokens)} tokens of {len(sentences)} sentences")
