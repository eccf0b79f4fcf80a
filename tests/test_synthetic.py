"""local/synthetic.py of the recipe custom: a corpus of synthetic voices.

A stand-in speaks instead of Kokoro-82M, whose model is not a part of the environment.
"""

import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from recipe_scripts import load_script

from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError

SCRIPT = Path(__file__).parents[1] / "egs2/custom/tts1/local/synthetic.py"
NAMES = ("bella", "adam", "emma")
TEXTS = [f"This is sentence number {number}." for number in range(40)]


class Kokoro:
    """Voices with one number each, and speech that repeats the number of a voice."""

    said: ClassVar[list[str]] = []
    broken = ""

    def __init__(self, model, voices):
        self.voices = {
            name: np.full((510, 1, 256), place, dtype=np.float32)
            for place, name in enumerate(NAMES)
        }

    def create(self, text, voice, speed):
        if text == self.broken:
            raise KeyboardInterrupt
        self.said.append(text)
        return np.full(int(24000 / speed), voice.mean() / 10), 24000


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "kokoro_onnx", types.SimpleNamespace(Kokoro=Kokoro)
    )
    monkeypatch.setattr(Kokoro, "said", [])
    return load_script(SCRIPT, "synthetic")


@pytest.fixture
def command(tmp_path):
    """Arguments for 5 voices with 2 sentences each."""
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    for name in ("model", "voices"):
        (tmp_path / name).touch()
    return [
        *(str(tmp_path / "texts"), str(tmp_path / "out")),
        *("--model", str(tmp_path / "model"), "--voices", str(tmp_path / "voices")),
        *("--num_voices", "5", "--sentences", "2"),
    ]


def test_a_corpus_of_given_and_mixed_voices(synthetic, command, tmp_path):
    synthetic.main(command)
    out = tmp_path / "out"
    texts, speakers = read_columns(out / "text"), read_columns(out / "utt2spk")
    assert set(speakers.values()) == {*NAMES, "mix000", "mix001"}
    assert len(set(texts.values())) == len(texts) == 10
    assert set(texts.values()) <= set(TEXTS)
    for name, path in read_columns(out / "wav.scp").items():
        samples, rate = soundfile.read(out / path)
        assert rate == 24000
        number = samples.mean() * 10
        if speakers[name] in NAMES:
            assert number == pytest.approx(NAMES.index(speakers[name]), abs=1e-3)
        else:  # a mixture lies between the voices
            assert 0 < number < 2


def test_mixtures_are_no_copies_of_a_voice(synthetic):
    voices = synthetic.draw_voices(NAMES, 40, seed=0)
    assert voices == synthetic.draw_voices(NAMES, 40, seed=0)
    for voice in voices[len(NAMES) :]:
        assert len(voice.shares) in (2, 3)
        assert sum(voice.shares.values()) == pytest.approx(1)
        assert max(voice.shares.values()) <= 0.8


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_interrupted_call_continues(synthetic, command, tmp_path, monkeypatch):
    synthetic.main(command)
    whole = contents(tmp_path / "out/audio")
    order = list(Kokoro.said)
    command[1] = str(tmp_path / "again")
    monkeypatch.setattr(Kokoro, "broken", order[6])
    with pytest.raises(KeyboardInterrupt):
        synthetic.main(command)
    assert not (tmp_path / "again/text").exists()
    monkeypatch.setattr(Kokoro, "broken", "")
    Kokoro.said.clear()
    synthetic.main(command)
    assert Kokoro.said == order[6:]
    assert whole == contents(tmp_path / "again/audio")


@pytest.mark.parametrize(
    "change, words",
    [
        (("--sentences", "9"), "45: lower"),
        (("--sentences", "0"), "1 or more"),
        (("--model", "nowhere.onnx"), "there is no nowhere.onnx"),
    ],
)
def test_what_cannot_work_is_refused(synthetic, command, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        synthetic.main([*command, *change])
    assert not (tmp_path / "out").exists()
