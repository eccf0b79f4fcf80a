"""Find in recordings where each token of their text ends, for given durations.

Reads Kaldi folders DATA_DIR/SET and writes ``token_ends`` into each: the seconds at
which the tokens of an utterance and <eos> end. Utterances that cannot be aligned leave
``text`` and are listed in ``unaligned.tsv``; utils/fix_data_dir.sh takes them out of
the other files. Results are kept in DATA_DIR/token_ends, so that an interrupted run
continues there.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.config import require_whole
from espnet_prune.data.alignments import align_folder
from espnet_prune.data.forced_alignment import ForcedAligner
from espnet_prune.errors import UserError
from espnet_prune.files import lock_folder


def main(cmd: Sequence[str] | None = None) -> None:
    """Align each set."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("sets", nargs="+", help="names of Kaldi folders in --data_dir")
    add("--data_dir", type=Path, default=Path("data"), help="has SET/text, SET/wav.scp")
    add(
        "--g2p",
        required=True,
        help="ESPnet's g2p of the tokens; it must be one for English",
    )
    add("--cleaner", default="none", help="ESPnet's text cleaner")
    add("--nj", type=int, default=4, help="processes")
    args = parser.parse_args(cmd)
    require_whole("--nj", args.nj)
    if not args.data_dir.is_dir():
        raise UserError(f"there is no folder {args.data_dir}: correct --data_dir")
    from espnet_prune.text.front_end import build_espnet

    ForcedAligner()  # raises if something is missing, before any text is read
    clean, tokenizer = build_espnet("phn", args.g2p, args.cleaner)
    with lock_folder(args.data_dir, "alignment"):
        for name in args.sets:
            aligned, left_out = align_folder(
                args.data_dir / name,
                args.data_dir / "token_ends" / name,
                lambda text: tokenizer.text2tokens(clean(text)),
                args.nj,
            )
            print(f"{args.data_dir / name}: {aligned} aligned, {left_out} left out")
