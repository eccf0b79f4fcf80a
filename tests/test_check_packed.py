"""A packed model has to say what its experiment said, to the last bit."""

import shutil

import pytest
import soundfile
import torch
from tiny_experiment import pack_experiment, voice, write_recipe

from espnet_prune import Text2Speech
from espnet_prune.cli.check import main
from espnet_prune.errors import UserError


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A packed model, a test set, and what the model said before it was packed."""
    recipe = tmp_path_factory.mktemp("recipe")
    experiment = write_recipe(recipe)
    for folder in ("data", "wav"):
        (recipe / folder).mkdir()
    soundfile.write(recipe / "reference.wav", voice(), 16000)
    (recipe / "data" / "text").write_text("spk-1 ab\n")
    (recipe / "data" / "wav.scp").write_text(f"spk-1 {recipe}/reference.wav\n")
    text2speech = Text2Speech.from_pretrained(experiment)
    speech, _ = soundfile.read(recipe / "reference.wav", dtype="float32")
    wav = text2speech("ab", speech=speech)["wav"].numpy()
    soundfile.write(recipe / "wav" / "spk-1.wav", wav, text2speech.fs, "PCM_16")
    return recipe, pack_experiment(recipe, experiment)


def check(recipe, packed, said, *options):
    main(
        [str(packed), "--data_dir", str(recipe / "data"), "--said", str(said), *options]
    )


def test_same_samples(job, capsys):
    recipe, packed = job
    check(recipe, packed, recipe / "wav")
    assert "produces spk-1 bit for bit as before" in capsys.readouterr().out


def test_one_other_sample_is_heard(job, tmp_path):
    recipe, packed = job
    samples, fs = soundfile.read(recipe / "wav" / "spk-1.wav", dtype="int16")
    samples[len(samples) // 2] += 1
    soundfile.write(tmp_path / "spk-1.wav", samples, fs, "PCM_16")
    with pytest.raises(UserError, match="produce different samples of spk-1"):
        check(recipe, packed, tmp_path)


def test_missing_files_are_named(job, tmp_path):
    recipe, packed = job
    with pytest.raises(UserError, match="run the decoding stage first"):
        check(recipe, packed, tmp_path)
    with pytest.raises(UserError, match="there is no .*no.zip"):
        check(recipe, tmp_path / "no.zip", tmp_path)


def test_recordings_and_options_that_cannot_be_read_are_named(job, tmp_path):
    recipe, packed = job
    (tmp_path / "spk-1.wav").write_bytes(b"junk")
    with pytest.raises(UserError, match="speech .*spk-1.wav cannot be read as audio"):
        check(recipe, packed, tmp_path)
    with pytest.raises(UserError, match="--inference_args cannot be split"):
        check(recipe, packed, recipe / "wav", "--inference_args", "'--seed 1")
    data = shutil.copytree(recipe / "data", tmp_path / "data")
    (data / "wav.scp").write_text("spk-1 gone.wav\n")
    said = str(recipe / "wav")
    with pytest.raises(UserError, match="reference gone.wav is missing"):
        main([str(packed), "--data_dir", str(data), "--said", said])


def test_what_is_damaged_is_named(job, tmp_path):
    recipe, _ = job
    packed = tmp_path / "model.zip"
    packed.write_bytes(b"no zip")
    with pytest.raises(UserError, match="model.zip cannot be unpacked as a model"):
        check(recipe, packed, recipe / "wav")


def test_speech_of_another_device_is_made_again(job, tmp_path, monkeypatch, capsys):
    """What a GPU said differs by its rounding: the weights speak here in its place."""
    recipe, packed = job
    monkeypatch.chdir(recipe)  # where stages run, and what ESPnet's paths start from
    (weights,) = recipe.glob("exp/*/train.loss.ave.pth")
    check(recipe, packed, weights)
    assert "produces spk-1 bit for bit as before" in capsys.readouterr().out
    state = torch.load(weights)
    for name in state:
        if name.endswith("decoder.output.bias"):
            state[name] += 0.1
    (tmp_path / "config.yaml").symlink_to(weights.parent / "config.yaml")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth produce different samples of spk-1"):
        check(recipe, packed, tmp_path / "other.pth")


def test_options_are_read_as_decoding_reads_them(job, tmp_path, capsys):
    recipe, packed = job
    config = tmp_path / "decode.yaml"
    config.write_text("batch_size: 1\nspeed_control_alpha: 2.0\nseed: 3\n")
    options = ["--config", str(config)]
    with pytest.raises(UserError, match="give the options of its decoding"):
        check(recipe, packed, recipe / "wav", *options)
    options += ["--inference_args", "--speed_control_alpha 1.0"]
    check(recipe, packed, recipe / "wav", *options)
    assert "bit for bit" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no .*nowhere.yaml"):
        check(recipe, packed, recipe / "wav", "--config", "nowhere.yaml")
