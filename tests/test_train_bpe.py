"""Sentencepiece models that ESPnet's training can use."""

import pytest
from espnet2.train.preprocessor import CommonPreprocessor

from espnet_prune.cli.bpe import main
from espnet_prune.errors import UserError

SENTENCES = (
    "The cat sat on the mat.",
    "That cat is the fat cat.",
    "A rat sat at the other mat.",
)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text"
    lines = [f"utt{i} {sentence}\n" for i, sentence in enumerate(SENTENCES)]
    file.write_text("".join(lines))
    return file


def test_espnet_reads_model_and_tokens(text, tmp_path):
    main([str(text), "--nbpe", "20", "--output_dir", str(tmp_path / "bpe")])
    tokens = (tmp_path / "bpe" / "tokens.txt").read_text().splitlines()
    assert tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    assert len(tokens) == len(set(tokens)) == 20 - 1 + 3  # <unk> is one of the 20
    preprocess = CommonPreprocessor(
        train=False,
        token_type="bpe",
        token_list=tokens,
        bpemodel=str(tmp_path / "bpe" / "bpe.model"),
    )
    ids = preprocess("utt", {"text": SENTENCES[0]})["text"]
    assert 1 not in ids  # no <unk> in a sentence of the training text
    pieces = "".join(tokens[i] for i in ids).replace("\u2581", " ").strip()
    assert pieces == SENTENCES[0]


@pytest.mark.parametrize("nbpe", [3, 3000])
def test_impossible_vocabulary_leaves_nothing(text, tmp_path, nbpe):
    with pytest.raises(UserError, match="choose another --nbpe"):
        main([str(text), "--nbpe", str(nbpe), "--output_dir", str(tmp_path / "bpe")])
    assert not (tmp_path / "bpe").exists()


def test_missing_text(tmp_path):
    with pytest.raises(UserError, match="there is no no: run the stage that writes it"):
        main([str(tmp_path / "no"), "--nbpe", "9", "--output_dir", str(tmp_path)])
