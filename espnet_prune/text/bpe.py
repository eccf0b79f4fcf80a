"""Train sentencepiece models and write their token lists."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written, write_text


def train(texts: Iterable[str], nbpe: int, output_dir: Path) -> list[str]:
    """Write ``bpe.model`` and ``tokens.txt`` and return the tokens.

    The vocabulary has ``nbpe`` pieces and ESPnet's special symbols.
    """
    import sentencepiece

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
            f"{nbpe} BPE tokens cannot be made from these texts ({reason}); choose "
            "another --nbpe"
        ) from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    known = [piece for piece in pieces if piece != "<unk>"]
    tokens = ["<blank>", "<unk>", *known, "<sos/eos>"]
    output_dir.mkdir(parents=True, exist_ok=True)
    with replace_when_written(output_dir / "bpe.model") as partial:
        partial.write_bytes(model.getvalue())
    write_text(output_dir / "tokens.txt", "".join(f"{token}\n" for token in tokens))
    return tokens


def read_sentences(files: Sequence[str], clean: Callable[[str], str]) -> list[str]:
    """Read the sentences of Kaldi ``text`` files (ID SENTENCE) and clean them."""
    sentences = [
        clean(sentence)
        for file in files
        for sentence in read_columns(Path(file)).values()
        if sentence
    ]
    if not sentences:
        raise UserError(f"no sentence in {', '.join(files)}; check data preparation")
    return sentences
