"""Saying a test set: what is kept, what is measured, what is not said again."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny_experiment import PRUNED, pack_experiment, voice, write_recipe

from espnet_prune.attention import record_attention
from espnet_prune.cli.say import main as say_main
from espnet_prune.errors import UserError
from espnet_prune.evaluation import records as made
from espnet_prune.evaluation import speaking
from espnet_prune.files import read_json_lines
from espnet_prune.model import StyleSpeech
from espnet_prune.speech.generators import GriffinLim
from espnet_prune.speech.synthesis import Text2Speech

TEXTS = {
    "ann_1": ("ann", "hello there"),
    "ann_2": ("ann", "good evening to you all"),
    "bob_1": ("bob", "well"),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A dense model, a pruned one, and one with soft masks."""
    folder = tmp_path_factory.mktemp("recipe")
    write_recipe(folder, "tts_dense")
    write_recipe(folder, "tts_hard", seed=1, tts_conf=PRUNED)
    soft = {"pruning": "differentiable", "pruning_conf": {"inference_mask": "soft"}}
    write_recipe(folder, "tts_soft", tts_conf=soft)
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, pitch in (("ann", 240.0), ("bob", 110.0)):
        soundfile.write(tmp_path / f"{name}.wav", voice(pitch=pitch), 16000)
    for file, value in (
        ("text", lambda name, speaker, text: text),
        ("utt2spk", lambda name, speaker, text: speaker),
        ("wav.scp", lambda name, speaker, text: tmp_path / f"{speaker}.wav"),
    ):
        lines = [f"{name} {value(name, *said)}\n" for name, said in TEXTS.items()]
        (folder / file).write_text("".join(lines))
    return folder


@pytest.fixture
def say(data, recipe, tmp_path, capsys):
    """Run the command; return what it printed and its records."""

    def run(model="tts_dense", *options, out=tmp_path / "out"):
        say_main(
            [
                *("--data_dir", str(data), "--model", str(recipe / "exp" / model)),
                *("-o", str(out), *options),
            ]
        )
        return capsys.readouterr().out, read_json_lines(out / made.RECORDS)

    return run


def test_every_utterance_in_the_voice_of_its_reference(say, recipe, tmp_path):
    printed, records = say()
    assert "3 utterances, of which 3 are new" in printed
    text2speech = Text2Speech.from_pretrained(recipe / "exp" / "tts_dense")
    for name, (speaker, text) in TEXTS.items():
        wave, fs = soundfile.read(tmp_path / "out" / f"{name}.wav", dtype="float32")
        alone = text2speech(text, speech=str(tmp_path / f"{speaker}.wav"))["wav"]
        assert fs == 16000 and len(wave) == len(alone)
        # 16 bit, and of a batch: Griffin-Lim magnifies the last digit of a mel
        assert np.corrcoef(wave, alone.numpy())[0, 1] > 0.99
        assert records[name]["audio_seconds"] == len(wave) / 16000
        assert records[name]["synthesis_seconds"] > 0
        assert records[name]["device"] == speaking.name_device(torch.device("cpu"))
        assert records[name]["vocoder"] == "griffin_lim"
        assert records[name]["kept_share"] == 1


def test_the_style_encoder_counts_for_every_utterance(say, monkeypatch):
    clock = [0.0]
    encode = Text2Speech.style_vector

    def slow(self, reference):
        clock[0] += 100
        return encode(self, reference)

    monkeypatch.setattr(Text2Speech, "style_vector", slow)
    monkeypatch.setattr(
        speaking, "time", SimpleNamespace(perf_counter=lambda: clock[0])
    )
    _, records = say()
    seconds = {name: record["synthesis_seconds"] for name, record in records.items()}
    assert seconds == dict.fromkeys(TEXTS, 100)


def test_kept_share_is_that_of_the_mask_of_inference(say, recipe, tmp_path):
    _, records = say("tts_hard")
    text2speech = Text2Speech.from_pretrained(recipe / "exp" / "tts_hard")
    for name, (speaker, text) in TEXTS.items():
        reference = str(tmp_path / f"{speaker}.wav")
        with record_attention(text2speech.tts.decoder) as layers:
            text2speech(text, speech=reference)
        assert len(layers) == 2
        kept = np.mean([maps.mask.float().mean().item() for maps in layers])
        assert records[name]["kept_share"] == pytest.approx(kept)
        assert 0 < kept < 1
    _, records = say("tts_soft", out=tmp_path / "soft")
    assert {record["kept_share"] for record in records.values()} == {None}


def test_every_utterance_goes_through_the_model_once(say, monkeypatch):
    said, waves = [], []
    model, generator = StyleSpeech.batch_inference, GriffinLim.__call__

    def count(self, text, **options):
        said.extend(len(tokens) for tokens in text)
        return model(self, text, **options)

    def count_waves(self, feat):
        waves.append(len(feat))
        return generator(self, feat)

    monkeypatch.setattr(StyleSpeech, "batch_inference", count)
    monkeypatch.setattr(GriffinLim, "__call__", count_waves)
    say("tts_hard", "--batch_size", "2")
    lengths = [len(text) for _, text in TEXTS.values()]
    warm_up, *rest = said  # a few tokens, for what is slow the first time
    assert warm_up <= 8 and sorted(rest) == sorted(lengths)
    assert len(waves) == 1 + len(TEXTS)


def test_a_text_in_parts_counts_all_its_connections(recipe):
    text2speech = Text2Speech.from_pretrained(recipe / "exp" / "tts_hard")
    style = text2speech.style_vector(voice())
    parts = text2speech.tokenize("hello there. it goes on for longer", 15)
    assert len(parts) > 1
    kept = total = 0
    for part in parts:
        with record_attention(text2speech.tts.decoder) as layers:
            text2speech(part, style_vector=style)
        kept += sum(maps.mask.sum().item() for maps in layers)
        total += sum(maps.mask.numel() for maps in layers)
    styles = [style] * len(parts)
    outputs, shares, _ = speaking.generate(text2speech, parts, styles, 1.0, 2)
    assert speaking.mean_kept(shares) == pytest.approx(kept / total)
    for part, output in zip(parts, outputs, strict=True):
        assert len(output["duration"]) == len(part) + 1
    assert speaking.mean_kept([shares[0], None]) is None


def test_what_is_finished_is_not_said_again(say, data, tmp_path, monkeypatch):
    say()
    said = []
    keep = speaking.keep

    def note(folder, wave, fs, record):
        said.append(record["utterance"])
        if len(said) == 2:
            raise KeyboardInterrupt
        keep(folder, wave, fs, record)

    monkeypatch.setattr(speaking, "keep", note)
    assert "of which 0 are new" in say()[0] and said == []
    before = (tmp_path / "out" / "bob_1.wav").stat().st_mtime_ns
    # a text, a reference, and a recording that somebody removed
    text = (data / "text").read_text().replace("hello there", "hello here")
    (data / "text").write_text(text)
    (tmp_path / "out" / "ann_2.wav").unlink()
    with pytest.raises(KeyboardInterrupt):
        say()
    with open(tmp_path / "out" / made.RECORDS, "a") as file:
        file.write('{"utterance": "ann_')  # as killed in the middle of a line
    say()
    assert said == ["ann_1", "ann_2", "ann_2"]
    assert (tmp_path / "out" / "bob_1.wav").stat().st_mtime_ns == before
    records = (tmp_path / "out" / made.RECORDS).read_text().splitlines()
    assert sorted(json.loads(line)["utterance"] for line in records) == sorted(TEXTS)
    soundfile.write(tmp_path / "bob.wav", voice(pitch=150.0), 16000)
    say()
    assert said[3:] == ["bob_1"]


def test_another_model_speed_or_vocoder_says_it_again(
    say, recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of archives
    say()
    assert "which 3 are new" in say("tts_dense", "--speed", "2")[0]
    assert "which 3 are new" in say("tts_hard", "--speed", "2")[0]
    archive = pack_experiment(recipe, recipe / "exp" / "tts_hard")
    # the same weights, packed; its configuration names its own statistics
    said = say(f"../{archive.name}", "--speed", "2", "--batch_size", "1")
    assert said[1]["ann_1"]["batch_size"] == 1
    folder = tmp_path / "vocoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "g_1").write_text("a")
    one = speaking.identify_vocoder(str(folder))
    (folder / "do_1").write_text("a discriminator")
    assert speaking.identify_vocoder(str(folder)) == one
    (folder / "g_1").write_text("b")
    assert speaking.identify_vocoder(str(folder)) != one
    assert speaking.identify_vocoder(None) != speaking.identify_vocoder("hifigan")


def test_all_is_checked_before_anything_is_said(say, data, tmp_path):
    (data / "text").write_text((data / "text").read_text().replace("well", "ÄÖ"))
    with pytest.raises(UserError, match="ÄÖ"):
        say()
    assert not list((tmp_path / "out").glob("*.wav"))


@pytest.mark.parametrize(
    "options, fault",
    [
        (["hello"], "give a text, --text_file or --data_dir"),
        (["--reference", "a.wav"], "leave --reference out"),
        (["--data_dir", "none"], "cannot read none/text"),
    ],
)
def test_bad_command_lines(say, options, fault):
    with pytest.raises(UserError, match=fault):
        say("tts_dense", *options)
