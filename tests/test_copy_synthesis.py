"""Ground truth through a vocoder, with each of the vocoders."""

import json

import numpy as np
import pytest
import soundfile
import torch
from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank
from test_vocoder import write_checkpoint
from tiny_experiment import voice, write_recipe

from espnet_prune.cli import vocode
from espnet_prune.errors import UserError
from espnet_prune.evaluation import copy_synthesis
from espnet_prune.evaluation.backends import load_wave
from espnet_prune.evaluation.records import RECORDS, digest


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for name, pitch in (("a", 120.0), ("b", 200.0)):
        soundfile.write(tmp_path / f"{name}.flac", voice(1.0, 48000, pitch), 48000)
        lines.append(f"{name} {tmp_path}/{name}.flac\n")
    (folder / "gt_wav.scp").write_text("".join(lines))
    return folder


@pytest.fixture
def run(data, tmp_path):
    def run(vocoder, *options, out=tmp_path / "out"):
        command = ["--data_dir", str(data), "--vocoder", str(vocoder), "-o", str(out)]
        vocode.main([*command, *map(str, options)])
        return {file.stem: soundfile.read(file) for file in sorted(out.glob("*.wav"))}

    return run


def mel(wave, fs):
    settings = {"fs": fs, "fmin": 0, "fmax": 8000}
    return LogMelFbank(**settings)(torch.as_tensor(wave).float()[None])[0][0]


def test_griffin_lim_gives_the_mel_back(run, data, tmp_path):
    said = run("griffin_lim")
    assert {name: fs for name, (_, fs) in said.items()} == {"a": 22050, "b": 22050}
    original = {name: load_wave(tmp_path / f"{name}.flac", 22050) for name in "ab"}
    distances = {}
    for name in "ab":
        found = mel(said["a"][0], 22050)
        frames = slice(5, len(found) - 5)
        difference = found[frames] - mel(original[name], 22050)[frames]
        distances[name] = difference.abs().mean().item()
    assert distances["a"] < 0.1 and 2 * distances["a"] < distances["b"], distances


def test_a_model_decides_the_rate_and_which_vocoders_fit(run, tmp_path):
    experiment = write_recipe(tmp_path / "recipe")
    said = run("griffin_lim", "--model", experiment)
    assert said["a"][1] == 16000
    with pytest.raises(UserError, match="does not fit the features of this model"):
        run("hifigan", "--model", experiment, out=tmp_path / "other")


def test_the_folder_of_a_hifigan_works_at_its_own_rate(run, tmp_path):
    write_checkpoint(tmp_path)
    for options in ((), ("--model", write_recipe(tmp_path / "recipe"))):
        said = run(tmp_path, *options)
        wave, fs = said["a"]
        assert fs == 16000 and len(wave) == (16000 // 256 + 1) * 256
        assert np.abs(wave).max() > 0


def test_what_is_finished_is_not_done_again(run, data, tmp_path):
    run("griffin_lim")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.wav")}
    run("griffin_lim")
    assert before == {f: f.stat().st_mtime_ns for f in before}
    soundfile.write(tmp_path / "b.flac", voice(0.5, 48000), 48000)
    run("griffin_lim")
    changed = [f.stem for f in before if f.stat().st_mtime_ns != before[f]]
    assert changed == ["b"]
    lines = (tmp_path / "out" / RECORDS).read_text().splitlines()
    made_of = {r["utterance"]: r["recording"] for r in map(json.loads, lines)}
    # by which scoring sees that a recording was replaced
    assert made_of == {name: digest(tmp_path / f"{name}.flac") for name in "ab"}


def test_several_cores_give_the_same_waves(run, tmp_path):
    one = run("griffin_lim")
    torch.set_num_threads(2)
    try:
        two = run("griffin_lim", out=tmp_path / "two")
    finally:
        torch.set_num_threads(1)
    for name in one:
        assert np.array_equal(one[name][0], two[name][0])


def test_recordings_that_are_too_short_are_refused_before_any_is_vocoded(run, tmp_path):
    for samples in (0, 512):  # at 22050 Hz a frame is of 1024
        path = tmp_path / "b.flac"
        soundfile.write(path, np.zeros(samples), 22050, format="WAV")
        with pytest.raises(UserError, match=f"{path}, the recording of b, lasts 0.0"):
            run("griffin_lim")
        assert not list((tmp_path / "out").glob("*.wav"))
    soundfile.write(path, np.zeros(513), 22050)
    assert len(run("griffin_lim")["b"][0]) > 0


def test_what_cannot_be_done_is_said(run, data, tmp_path):
    with pytest.raises(UserError, match="is not known, and there is no such file"):
        run("nobodys")
    with pytest.raises(UserError, match="device nowhere cannot be used .*: use cpu"):
        run("griffin_lim", "--device", "nowhere")
    with pytest.raises(UserError, match="a.pkl is missing"):
        run("a.pkl", "--model", write_recipe(tmp_path / "recipe"))
    with pytest.raises(
        UserError, match="a.pkl does not describe its features: .*--mod"
    ):
        run("a.pkl")
    config = tmp_path / "config.yaml"
    config.write_text("feats_extract: linear_spectrogram\n")
    with pytest.raises(
        UserError, match="features linear_spectrogram, which cannot become"
    ):
        copy_synthesis.features_for("griffin_lim", config)
    config.write_text("feats_extract: [")
    with pytest.raises(
        UserError, match="config.yaml is not a configuration of a training"
    ):
        copy_synthesis.features_for("griffin_lim", config)
    (data / "gt_wav.scp").unlink()
    with pytest.raises(UserError, match="has no gt_wav.scp"):
        run("griffin_lim")
