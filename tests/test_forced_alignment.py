"""data/forced_alignment.py and the verb align, on real recordings."""

import numpy as np
import pytest
import soundfile
from espnet2.text.phoneme_tokenizer import PhonemeTokenizer
from real_speech import an4

from espnet_prune.cli import align
from espnet_prune.data import alignments
from espnet_prune.data.forced_alignment import (
    RATE,
    AlignmentError,
    ForcedAligner,
    phones_of,
    spread,
    words_of,
)
from espnet_prune.errors import UserError
from espnet_prune.text import arpabet

# "yes" and "eleven seventeen fifty one", as espeak-ng and as cmudict write them.
YES = list("jˈɛs")
NUMBERS = [
    "<space>" if token == " " else token for token in "ᵻlˈɛvən sˈɛvəntˌiːn fˈɪfti wˌʌn"
]
ARPABET = [
    "IH0",
    "L",
    "EH1",
    "V",
    "AH0",
    "N",
    "<space>",
    "S",
    "EH1",
    "V",
    "AH0",
    "N",
    "T",
    "IY1",
    "N",
    "<space>",
    "F",
    "IH1",
    "F",
    "T",
    "IY0",
    "<space>",
    "W",
    "AH1",
    "N",
]


@pytest.fixture(scope="module")
def aligner():
    pytest.importorskip("pocketsphinx")
    return ForcedAligner()


def silence(seconds):
    """Quiet noise: a recording is never digital zero."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (3e-4 * noise).astype(np.float32)


def wave(name):
    return an4()[name].wave


def word_ends(tokens, ends):
    """Where the last phone of each word ends."""
    return np.array([ends[word.tokens[-1]] for word in words_of(tokens)])


def test_tokens_are_spelled_in_phones_and_marks_take_none():
    assert phones_of("AH0") == ("AH",)
    assert phones_of("oʊ") == ("OW",)  # as one token; its letters are AO and UH
    assert phones_of("o") + phones_of("ʊ") == ("AO", "UH")
    assert phones_of("ç") == ("HH",) and phones_of("ɬ") == ("L",)
    assert phones_of("ˈ") == phones_of("ː") == ()
    assert phones_of("<space>") is phones_of(",") is phones_of("sp") is None
    words = words_of(["ˈ", "oʊ", ",", "<space>", "n", "ː", "."])
    assert [word.tokens for word in words] == [(1,), (4,)]


def test_a_letter_that_is_no_english_phoneme_cannot_be_aligned():
    with pytest.raises(AlignmentError, match="not an English phoneme: 'ʁ' of 'ʁa'"):
        words_of(["ʁa"])


def test_letters_sound_as_they_do_when_text_becomes_arpabet():
    """Both read one table: what a model is trained on and what it is aligned by."""
    for ipa in ("tolkˈiːn", "wˈɔːɾɚ", "hjˈuː", "ɡˌoʊ", "kˈɪʔn\u0329"):
        said = [phone.rstrip("012") for phone in arpabet.from_ipa(ipa)]
        assert list(phones_of(ipa)) == said


def test_every_moment_belongs_to_a_token():
    tokens = ["ˈ", "a", "ː", "<space>", "ˈ", "n", "."]
    ends = spread(tokens, {1: 0.2, 5: 0.9}, {1: 0.5, 5: 1.0}, 1.3)
    # the pause before the first word, then "a" and its marks, the pause between, "n"
    assert ends == [0.2, 0.5, 0.5, 0.9, 0.9, 1.0, 1.3, 1.3]


@pytest.mark.parametrize("tokens", [NUMBERS, ARPABET], ids=["ipa", "arpabet"])
def test_ends_are_in_order_and_end_with_the_recording(aligner, tokens):
    speech = wave("cen8-mwhw-b")
    ends = aligner.token_ends(tokens, speech)
    assert len(ends) == len(tokens) + 1
    assert (np.diff(ends) >= 0).all() and ends[0] >= 0
    assert ends[-1] == len(speech) / RATE


def test_words_end_at_the_same_time_however_they_are_spelled(aligner):
    speech = wave("cen8-mwhw-b")
    ipa, arpabet = (
        word_ends(tokens, aligner.token_ends(tokens, speech))
        for tokens in (NUMBERS, ARPABET)
    )
    assert np.abs(ipa - arpabet).max() <= 0.05


def test_a_pause_between_words_goes_to_the_space(aligner):
    one, other = wave("an251-fash-b"), wave("cen8-mwhw-b")
    joined = np.concatenate([one, silence(0.5), other])
    shift = (len(one) + len(silence(0.5))) / RATE
    tokens = [*YES, "<space>", *NUMBERS]
    ends = np.array(aligner.token_ends(tokens, joined))
    alone = aligner.token_ends(YES, one), aligner.token_ends(NUMBERS, other)
    assert abs(ends[len(YES) - 1] - alone[0][len(YES) - 1]) < 0.1  # end of "yes"
    later = word_ends(NUMBERS, ends[len(YES) + 1 :])
    assert np.abs(later - shift - word_ends(NUMBERS, alone[1])).max() < 0.1
    pause = ends[len(YES)] - ends[len(YES) - 1]
    assert pause > 0.5
    assert pause == pytest.approx(np.diff(ends).max())


def test_utterances_do_not_depend_on_those_before(aligner):
    first = aligner.token_ends(NUMBERS, wave("cen8-mwhw-b"))
    aligner.token_ends(YES, wave("an251-fash-b"))
    assert aligner.token_ends(NUMBERS, wave("cen8-mwhw-b")) == first


def test_a_text_that_cannot_fit_is_an_alignment_error(aligner):
    with pytest.raises(AlignmentError, match="does not fit"):
        aligner.token_ends([*NUMBERS, "<space>", *NUMBERS], wave("cen8-mwhw-b")[:8000])
    with pytest.raises(AlignmentError, match="no word"):
        aligner.token_ends([",", "."], wave("an251-fash-b"))
    # and the aligner goes on
    assert aligner.token_ends(YES, wave("an251-fash-b"))


@pytest.fixture
def data(tmp_path):
    """A Kaldi folder of three recordings, one of them too short for its text."""
    pytest.importorskip("pocketsphinx")
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    texts = {"a": "yes", "b": "eleven seventeen fifty one", "c": "eleven " * 20}
    waves = {"a": wave("an251-fash-b"), "b": wave("cen8-mwhw-b"), "c": silence(0.3)}
    for name, samples in waves.items():
        # stereo at another rate: what users have
        twice = np.repeat(samples, 3)[:, None].repeat(2, axis=1)
        soundfile.write(tmp_path / f"{name}.wav", twice, 3 * RATE)
    for file, values in (
        ("text", texts),
        ("wav.scp", {name: tmp_path / f"{name}.wav" for name in waves}),
    ):
        lines = [f"{name} {value}\n" for name, value in values.items()]
        (folder / file).write_text("".join(lines))
    return folder


def run_align(data):
    align.main(
        ["train", "--data_dir", str(data.parent), "--nj", "1"]
        + ["--g2p", "espeak_ng_english_us_vits"]
    )


def test_the_command_writes_ends_and_leaves_out_what_does_not_fit(data, capsys):
    run_align(data)
    assert "2 aligned, 1 left out" in capsys.readouterr().out
    table = dict(
        line.split(" ", 1) for line in (data / "token_ends").read_text().splitlines()
    )
    assert list(table) == ["a", "b"]
    assert len(table["a"].split()) == len(YES) + 1
    assert float(table["b"].split()[-1]) == pytest.approx(35200 / RATE, abs=1e-4)
    assert (data / "text").read_text().splitlines() == [
        "a yes",
        "b eleven seventeen fifty one",
    ]
    assert (data / "unaligned.tsv").read_text() == (
        "utterance\treason\tdetail\nc\tthe text does not fit the recording\t\n"
    )


def test_what_was_aligned_is_not_aligned_again(data, monkeypatch):
    run_align(data)
    before = (data / "token_ends").read_text()
    store = data.parent / "token_ends" / "train"
    # as after an interruption: the last line is not whole, and the set is made anew
    *lines, last = store.read_text().splitlines(keepends=True)
    store.write_text("".join(lines) + last[:-9])
    (data / "token_ends").unlink()
    done = []
    align = alignments._Aligner.__call__
    monkeypatch.setattr(
        alignments._Aligner,
        "__call__",
        lambda self, one: done.append(one.name) or align(self, one),
    )
    run_align(data)
    assert done == ["b"]
    assert (data / "token_ends").read_text() == before


def test_a_foreign_letter_leaves_out_its_utterance_alone(data, monkeypatch):
    tokenize = PhonemeTokenizer.text2tokens
    monkeypatch.setattr(
        PhonemeTokenizer,
        "text2tokens",
        lambda self, text: tokenize(self, text) + ["ʁ"] * (text == "yes"),
    )
    (data / "text").write_text("a yes\nb eleven seventeen fifty one\n")
    run_align(data)
    assert (data / "text").read_text() == "b eleven seventeen fifty one\n"
    assert (
        "a\ta symbol of its tokens is not an English phoneme"
        in (data / "unaligned.tsv").read_text()
    )


@pytest.mark.parametrize(
    "option, value", [("--g2p", "espeak_ng_martian"), ("--cleaner", "tacotrom")]
)
def test_names_that_espnet_does_not_know_are_one_line(data, option, value):
    command = [
        "train",
        "--data_dir",
        str(data.parent),
        "--g2p",
        "arpabet",
        option,
        value,
    ]
    with pytest.raises(UserError, match=f"no tokens can be made.* {value}[ ,]"):
        align.main(command)


def test_texts_of_other_recordings_are_refused_and_nothing_is_lost(data):
    text = (data / "text").read_text().replace("yes", "eleven " * 20)
    (data / "text").write_text(text)
    with pytest.raises(UserError, match="2 of 3 utterances .* for instance a"):
        run_align(data)
    assert (data / "text").read_text() == text
    assert not (data / "token_ends").exists()
