"""Train a sentencepiece model and write the token list that goes with it.

ESPnet's tts.sh has no stage for this, though its training takes ``--token_type bpe``.
"""

import argparse
import io
from pathlib import Path
from typing import Iterable, List, Optional

import sentencepiece
from espnet2.text.cleaner import TextCleaner

from espnet_prune.errors import UserError
from espnet_prune.files import read_columns, replace_when_written


def train(texts: Iterable[str], nbpe: int, output_dir: Path) -> List[str]:
    """Write ``bpe.model`` and ``tokens.txt`` and return the tokens.

    Args:
        texts: sentences, cleaned.
        nbpe: size of the vocabulary, ESPnet's special symbols not counted.
        output_dir: folder of both files.

    Raises:
        UserError: sentencepiece cannot make such a vocabulary of these sentences.

    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=nbpe,
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("]")[2].strip() or "no usable sentence"
        raise UserError(
            f"no vocabulary of {nbpe} pieces can be made of these texts ({reason}); "
            "choose another --nbpe"
        ) from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    known = [piece for piece in pieces if piece != "<unk>"]
    tokens = ["<blank>", "<unk>", *known, "<sos/eos>"]
    output_dir.mkdir(parents=True, exist_ok=True)
    with replace_when_written(output_dir / "bpe.model") as partial:
        partial.write_bytes(model.getvalue())
    with replace_when_written(output_dir / "tokens.txt") as partial:
        partial.write_text("".join(f"{t}\n" for t in tokens), encoding="utf-8")
    return tokens


def read_sentences(files: Iterable[str], cleaner: Optional[str]) -> List[str]:
    """Read the sentences of Kaldi ``text`` files (ID SENTENCE) and clean them.

    Raises:
        UserError: a file is missing, or there is no sentence.

    """
    clean = TextCleaner(None if cleaner == "none" else cleaner)
    sentences = []
    for file in files:
        for sentence in read_columns(Path(file)).values():
            if sentence.strip():
                sentences.append(clean(sentence))
    if not sentences:
        raise UserError(f"no sentence in {', '.join(files)}; check data preparation")
    return sentences


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Train a sentencepiece model and write its token list."
    )
    parser.add_argument("texts", nargs="+", help="Kaldi text files (ID SENTENCE)")
    parser.add_argument("--nbpe", type=int, required=True, help="number of pieces")
    parser.add_argument("--cleaner", default="none", help="ESPnet's text cleaner")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="for bpe.model and tokens.txt"
    )
    return parser


def main(cmd=None) -> None:
    """Train."""
    args = get_parser().parse_args(cmd)
    sentences = read_sentences(args.texts, args.cleaner)
    tokens = train(sentences, args.nbpe, args.output_dir)
    print(f"{args.output_dir}: {len(tokens)} tokens of {len(sentences)} sentences")
