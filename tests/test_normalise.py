"""The gate of texts: one form, what is refused, what is doubted, and what is stored."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.cleaner import TextCleaner
from tiny_experiment import voice, write_recipe

from espnet_prune import Text2Speech
from espnet_prune.data.kaldi import read_columns
from espnet_prune.data.testset import read_sentences
from espnet_prune.errors import UserError
from espnet_prune.text.espeak import use_bundled_espeak
from espnet_prune.text.normalise import (
    TextError,
    find_doubts,
    in_capitals,
    lower,
    normalise,
    read_lines,
    store_cleaner,
)
from espnet_prune.training.task import PruneTTSTask

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = "espeak_ng_english_us_vits"


# ------------------------------------------------------------------------- one form


@pytest.mark.parametrize(
    "written, wanted",
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\u1112\u1161\u11ab", "\ud55c"),  # Korean as a Mac writes it
        ("\ufeffhello", "hello"),
        ("one\u2028two\u2029three\x85four\x0cfive\r\n", "one two three four five"),
        ("5\u00a0kg\u202fis\u3000it\t!", "5 kg is it !"),
        ("zero\u200bwidth\u2060 soft\u00adhyphen", "zerowidth softhyphen"),
        ("\u202bright to left\u202c", "right to left"),
        ("a\u200db", "ab"),
        # what Persian and Hindi spelling needs stays
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("the USA, or NATO", "the USA, or NATO"),
        (" \u200b\ufeff ", ""),
    ],
)
def test_one_form(written, wanted):
    assert normalise(written) == wanted
    assert normalise(wanted) == wanted


def test_composed_letters_are_said_as_they_are_written():
    use_bundled_espeak()
    tokens = build_tokenizer("phn", g2p_type=ENGLISH).text2tokens
    apart = "cafe\u0301"
    assert tokens(normalise(apart)) == tokens("caf\u00e9") != tokens(apart)


@pytest.mark.parametrize(
    "text, reason, named",
    [
        ("we don\x92t", "control character in the text", r"'we don\\x92t' .*U\+0092"),
        ("nul\0", "control character in the text", r"U\+0000"),
        ("caf\udce9", "text that is not UTF-8", "UTF-8"),
        ("caf\ufffd", "lost character in the text", r"U\+FFFD"),
        (["yes", "no"], "text of another type", "found list"),
        (1234, "text of another type", "found int"),
        (None, "text of another type", "found NoneType"),
        (b"yes", "text of another type", "found bytes"),
    ],
)
def test_what_is_damaged_is_refused_by_name(text, reason, named):
    with pytest.raises(TextError, match=named) as raised:
        normalise(text)
    assert raised.value.reason == reason
    str(raised.value).encode("utf-8")  # can be written to a terminal


# ---------------------------------------------------------------------------- lines


def test_all_readers_see_the_same_lines(tmp_path, monkeypatch):
    content = "\ufeffa start\u2028yes\x0cgo\x85on\r\nb no\n".encode()
    file = tmp_path / "text"
    file.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "latin-1"))
    wanted = ["a start yes go on", "b no"]
    for lines in (read_lines(file), read_lines("-")):
        assert [text for text in map(normalise, lines) if text] == wanted
    assert read_sentences(file) == wanted
    columns = read_columns(file)
    assert [f"{name} {normalise(text)}" for name, text in columns.items()] == wanted


@pytest.mark.parametrize(
    "content, fault",
    [
        ("one\ngr\u00fc\u00dfe\n".encode("latin-1"), "line 2 has the byte 0xfc"),
        ("one\n".encode("utf-16"), "line 1 has the byte 0xff"),
        (b"one\nwe don\xc2\x92t\n", r"line 2 of .*U\+0092"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, content, fault):
    (tmp_path / "sentences").write_bytes(content)
    with pytest.raises(UserError, match=fault):
        read_sentences(tmp_path / "sentences")


# --------------------------------------------------------------------------- doubts


@pytest.mark.parametrize(
    "text, g2p, doubted",
    [
        ("\u043f\u0440\u0438\u0432\u0435\u0442", ENGLISH, "CYRILLIC"),
        ("\u4f60\u597d", "arpabet", "CJK"),
        ("say \u03b1 now", "g2p_en", "GREEK"),
        ("hello", "espeak_ng_russian", "LATIN"),
        ("\u043f\u0440\u0438\u0432\u0435\u0442, hello", "espeak_ng_russian", None),
        ("\u3053\u3093 \u4f60\u30fc", "pyopenjtalk", None),
        ("na\u00efve \u00df \u00aa \uff41 1,5 \u20ac!", ENGLISH, None),
        ("hello", "a_g2p_of_one_s_own", None),
        ("\u4f60\u597d", None, None),
        ("IT LED US HOME", ENGLISH, "text in capitals"),
        ("IT LED US HOME", "g2p_en", None),
        ("the USA and NATO", ENGLISH, None),
        ("USA", ENGLISH, None),
    ],
)
def test_what_a_g2p_says_otherwise_is_doubted(text, g2p, doubted):
    doubts = find_doubts(text, g2p)
    assert len(doubts) == (doubted is not None)
    assert doubted is None or doubted in " ".join(doubts[0])


def test_a_corpus_in_capitals():
    assert in_capitals(["IT LED US HOME", "OLD McDONALD HAD A FARM, AND SO ON AND ON"])
    assert not in_capitals(["The USA and NATO are here", "IT LED US"])
    assert not in_capitals(["A B C", "I"])  # spelled letters
    assert not in_capitals(["\u4f60\u597d", "123"])
    assert not in_capitals([])


# ------------------------------------------------------------- kept with the model


def test_the_cleaner_of_a_corpus_in_capitals():
    clean = TextCleaner("lower_case")
    assert clean("IT LED \u00c9VE") == lower("IT LED \u00c9VE") == "it led \u00e9ve"
    assert pickle.loads(pickle.dumps(clean))("IT") == "it"  # as in worker processes
    assert TextCleaner()("IT") == "IT"
    with pytest.raises(RuntimeError, match="type=lower"):
        TextCleaner("lower")("IT")


def test_training_keeps_the_cleaner():
    parser = PruneTTSTask.get_parser()
    required = ["--output_dir", "x", "--token_list", "y"]
    assert parser.parse_args([*required, "--cleaner", "lower_case"]).cleaner == (
        "lower_case"
    )
    assert parser.parse_args(required).cleaner is None


def test_the_pipeline_hands_the_cleaner_to_training(tmp_path):
    script = (ROOT / "egs2/TEMPLATE/prune_tts1/prune_tts.sh").read_text()
    begin = script.index("if grep -qsx lower_case")
    part = script[begin : script.index("\nfi\n", begin) + 4]

    def train_args():
        told = f'train_set=train; train_args=x\n{part}\necho "${{train_args}}"'
        run = subprocess.run(
            ["bash", "-euc", told],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.strip()

    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    assert train_args() == "x"
    store_cleaner(folder, True)
    assert train_args() == "x --cleaner lower_case"
    (folder / "cleaner").write_text("lower_case; touch F\n")
    assert train_args() == "x"
    store_cleaner(folder, False)
    assert train_args() == "x" and not list(folder.iterdir())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    write_recipe(folder)
    return folder / "exp" / "tts_tiny"


def said(experiment, text):
    model = Text2Speech.from_pretrained(experiment)
    return model(text, speech=voice(pitch=110.0))["duration"].tolist(), [
        part.tolist() for part in model.tokenize(text)
    ]


def test_a_model_of_a_corpus_in_capitals_reads_lower_case(recipe, caplog):
    file = recipe / "config.yaml"
    config = yaml.safe_load(file.read_text())
    plain = said(recipe, "hello there")
    assert said(recipe, "HELLO THERE") != plain
    try:
        file.write_text(yaml.safe_dump({**config, "cleaner": "lower_case"}))
        caplog.clear()
        assert said(recipe, "Hello\u00a0THE\u200bRE\u2028") == plain
        assert not caplog.records
    finally:
        file.write_text(yaml.safe_dump(config))


def test_a_model_of_decomposed_letters_still_knows_them(recipe):
    file = recipe / "config.yaml"
    config = yaml.safe_load(file.read_text())
    tokens = config["token_list"]
    spare = tokens.index("z")
    with_accent = [*tokens]
    with_accent[spare] = "\u0301"
    try:
        file.write_text(yaml.safe_dump({**config, "token_list": with_accent}))
        model = Text2Speech.from_pretrained(recipe)
        for text in ("caf\u00e9", "cafe\u0301"):
            (ids,) = model.tokenize(text)
            assert [with_accent[i] for i in ids] == ["c", "a", "f", "e", "\u0301"]
    finally:
        file.write_text(yaml.safe_dump(config))
