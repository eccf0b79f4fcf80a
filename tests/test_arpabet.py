"""``g2p: arpabet``: English, or phones that stay as they are."""

import pickle

import numpy as np
import pytest
from espnet2.text.build_tokenizer import build_tokenizer
from tiny_experiment import voice, write_recipe

from espnet_prune.data.labels import PAUSE
from espnet_prune.text import arpabet

TEXTS = {
    "Hello, world!": "sp HH AH0 L OW1 sp W ER1 L D sp",
    "hello world": "sp HH AH0 L OW1 W ER1 L D sp",
    "Mr. Smith's cat": "sp M IH1 S T ER0 S M IH1 TH S K AE1 T sp",
    "It’s well-known — isn't": "sp IH1 T S W EH1 L N OW1 N sp IH1 Z AH0 N T sp",
    "21 (twenty one)": "sp T W EH1 N T IY0 W AH1 N sp T W EH1 N T IY0 W AH1 N sp",
    "$3": "sp TH R IY1 D AA1 L ER0 Z sp",
    "3%": "sp TH R IY1 P ER0 S EH1 N T sp",
}


@pytest.mark.parametrize("text", TEXTS)
def test_english(text):
    found = arpabet.to_tokens(text)
    # espeak-ng says numbers, and its stress of weak syllables is not the dictionary's
    assert [phone.rstrip("012") for phone in found] == [
        phone.rstrip("012") for phone in TEXTS[text].split()
    ]


@pytest.mark.parametrize(
    "text", ["sp HH AH0 L OW1 sp", "M AE1 TH Y UW0", "sp spn AH0 sp"]
)
def test_phones_stay_as_they_are(text):
    assert arpabet.to_tokens(text) == text.split()


@pytest.mark.parametrize("text", ["", " ", "...", "?! --"])
def test_nothing_spoken_is_no_token(text):
    assert arpabet.to_tokens(text) == []


def test_letters_are_english_not_phones():
    """B, K and M are phones as well, but no phones without a vowel."""
    assert arpabet.to_tokens("B K M") == [
        "sp",
        "B",
        "IY1",
        "K",
        "EY1",
        "EH1",
        "M",
        "sp",
    ]


def test_words_that_no_dictionary_has():
    tokens = arpabet.to_tokens("espnetting Ångström xylophonists'")
    assert set(tokens) <= set(arpabet.TOKENS)
    assert tokens[0] == tokens[-1] == PAUSE and len(tokens) > 20


def test_espeak_agrees_with_the_dictionary_on_what_it_has():
    """Of ten phones, stress aside, nine are the same: the fallback can be used."""
    from rapidfuzz.distance import Levenshtein

    words = sorted(word for word in arpabet.dictionary() if word.isalpha())
    errors = phones = 0
    for word in np.random.default_rng(0).choice(words, 500):
        known = [p.rstrip("012") for p in arpabet.dictionary()[word].split()]
        said = arpabet.from_ipa(arpabet.espeak().phonemize([word], strip=True)[0])
        errors += Levenshtein.distance(known, [p.rstrip("012") for p in said])
        phones += len(known)
    assert errors / phones < 0.15


def test_dictionary_uses_our_phones_only():
    found = {
        phone for phones in arpabet.dictionary().values() for phone in phones.split()
    }
    assert found <= set(arpabet.TOKENS)
    assert set(arpabet.CONSONANTS) <= found


def test_espnet_s_tokenizer_takes_it_and_travels():
    tokenizer = build_tokenizer("phn", g2p_type="arpabet")
    assert tokenizer.g2p_type == "arpabet"
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.text2tokens("hello") == ["sp", "HH", "AH0", "L", "OW1", "sp"]
    other = build_tokenizer("phn", g2p_type=None)
    assert other.text2tokens("hello you") == ["hello", "you"]


def test_espnet_s_options_take_it():
    from espnet2.bin.tokenize_text import get_parser

    from espnet_prune import PruneTTSTask

    required = ["--input", "-", "--output", "-", "--g2p", "arpabet"]
    assert get_parser().parse_args(required).g2p == "arpabet"
    assert PruneTTSTask.get_parser().parse_args(["--g2p", "arpabet"]).g2p == "arpabet"


def test_models_take_english_in_espnet_s_own_class(tmp_path, monkeypatch):
    from espnet2.bin.tts_inference import Text2Speech

    experiment = write_recipe(
        tmp_path,
        token_list=["<blank>", "<unk>", *arpabet.TOKENS, "<sos/eos>"],
        token_type="phn",
        g2p="arpabet",
        cleaner=None,
    )
    monkeypatch.chdir(tmp_path)
    text2speech = Text2Speech(
        experiment / "config.yaml", experiment / "train.loss.ave.pth"
    )
    english, phones = (
        text2speech(text, speech=voice(1.0))
        for text in ("Hello, world!", "sp HH AH0 L OW1 sp W ER1 L D sp")
    )
    assert len(english["duration"]) == 12  # eleven phones and <eos>
    assert (english["feat_gen"] == phones["feat_gen"]).all()
