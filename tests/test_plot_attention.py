"""The verb attention: maps of a synthesis by a model from its folder."""

import argparse
import csv

import numpy as np
import pytest
import soundfile
import torch
import yaml
from matplotlib.image import imread

from espnet_prune import PruneTTSTask, UserError
from espnet_prune.cli import attention
from espnet_prune.evaluation import maps, plots

FRAMES_A_TOKEN = 5
TEXT = "ABBA HEAD"


def write_model(folder, pruning, phase=1):
    """Write an untrained model that says every token in five frames."""
    frames = {"fs": 16000, "n_fft": 256, "hop_length": 128}
    settings = {
        "tts": "stylespeech",
        "tts_conf": {
            "pruning": pruning,
            "pruning_conf": {"phase": phase, "threshold_init": 1.25},
            "durations": "learned",
            "adim": 8,
            "elayers": 1,
            "eunits": 8,
            "dlayers": 3,
            "dunits": 8,
            "style_units": 8,
            "style_dim": 4,
            "predictor_units": 8,
        },
        "token_list": ["<blank>", "<unk>", "<space>", *"ABDEH", "<sos/eos>"],
        "token_type": "char",
        "feats_extract": "fbank",
        "feats_extract_conf": dict(**frames, n_mels=6, fmin=0, fmax=4000),
        "normalize": None,
        "pitch_extract": "dio",
        "pitch_extract_conf": dict(**frames, use_token_averaged_f0=False),
        "energy_extract": "energy",
        "energy_extract_conf": dict(**frames, use_token_averaged_energy=False),
    }
    defaults = PruneTTSTask.get_default_config()
    args = argparse.Namespace(**{**defaults, **settings})
    torch.manual_seed(0)
    model = PruneTTSTask.build_model(args)
    duration = model.tts.predictors["duration"].output
    torch.nn.init.zeros_(duration.weight)
    torch.nn.init.constant_(duration.bias, float(np.log(FRAMES_A_TOKEN + 1)))
    folder.mkdir()
    torch.save(model.state_dict(), folder / "train.loss.ave.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return folder


@pytest.fixture
def data_dir(tmp_path):
    """Kaldi folder of two utterances, of which the second has a reference."""
    folder = tmp_path / "data"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    soundfile.write(folder / "ref.wav", noise, 44100)  # not the model's rate, stereo
    (folder / "text").write_text(f"utt0 HEAD\nspk/utt1 {TEXT}\n")
    (folder / "wav.scp").write_text(f"spk/utt1 {folder / 'ref.wav'}\n")
    return folder


def run(experiments, data_dir, output_dir, *options):
    attention.main(
        [
            *map(str, experiments),
            *("--data_dir", str(data_dir), "--output_dir", str(output_dir)),
            *options,
        ]
    )


def test_maps_of_two_models_in_one_figure(tmp_path, data_dir, capsys, monkeypatch):
    experiments = [
        write_model(tmp_path / "exp_none", "none"),
        write_model(tmp_path / "exp_phase2", "differentiable", phase=2),
    ]
    drawn = []
    draw = plots.plot_attention

    def watched(panels, title):
        drawn.append((panels, title))
        return draw(panels, title)

    monkeypatch.setattr(plots, "plot_attention", watched)
    run(experiments, data_dir, tmp_path / "new" / "report")
    ((panels, title),) = drawn
    assert title == f"spk/utt1: {TEXT}"
    frames = FRAMES_A_TOKEN * (len(TEXT) + 1)  # and <eos>
    for panel in panels:
        assert len(panel.layers) == 3  # of the decoder, not of the encoder
        for layer in panel.layers:
            assert layer.dense.shape == layer.pruned.shape == (1, 2, frames, frames)
    dense, pruned = panels
    assert dense.thresholds == [None] * 3
    assert pruned.thresholds == [1.25] * 3
    first = pruned.layers[0]
    assert torch.equal(first.mask, first.dense >= 1.25 / frames)
    assert 0 < first.mask.float().mean() < 1

    file = tmp_path / "new" / "report" / "attention_spk_utt1.png"
    assert imread(file).std() > 0.05
    screen = capsys.readouterr().out
    assert (
        f"exp_phase2: phase 2, hard mask, N = {frames} frames, "
        "thresholds of the layers: 1.25 1.25 1.25" in screen
    )
    assert f"Written: {file}" in screen
    rows = list(csv.DictReader(file.with_suffix(".csv").open()))
    assert [row["layer"] for row in rows] == ["1", "2", "3"]  # of the pruned model
    share = first.mask.float().mean().item()
    assert float(rows[0]["kept_share"]) == pytest.approx(share)
    assert file.with_suffix(".md").read_text() in screen


def test_empty_tiles_are_counted():
    mask = torch.zeros(1, 2, 40, 40, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[0, 0, 39, 39] = mask[0, 1, 20, 10] = True
    # tiles of 16: 3 x 3 in each of two heads, of which two and one are not empty
    assert maps.empty_tiles(mask, 16) == pytest.approx(15 / 18)
    # tiles of 32: 2 x 2
    assert maps.empty_tiles(mask, 32) == pytest.approx(5 / 8)
    assert maps.empty_tiles(mask, 64) == 0
    assert maps.empty_tiles(~mask, 1) == pytest.approx(3 / 3200)
    assert maps.empty_tiles(torch.zeros_like(mask), 64) == 1


def test_what_is_missing_is_named(tmp_path, data_dir):
    experiment = write_model(tmp_path / "exp", "vanilla")
    output_dir = tmp_path / "report"

    def refused(message, experiment=experiment, data=data_dir, options=()):
        with pytest.raises(UserError, match=message):
            run([experiment], data, output_dir, *options)

    refused("there is no model .*nothing: name", experiment=tmp_path / "nothing")
    refused("has no 9epoch.pth", options=("--inference_model", "9epoch.pth"))
    refused("there is no text: run the stage", data=tmp_path)
    broken = write_model(tmp_path / "broken", "vanilla")
    states = torch.load(broken / "train.loss.ave.pth")
    del states["tts.decoder.blocks.0.attention.linear_q.weight"]
    torch.save(states, broken / "train.loss.ave.pth")
    refused("lacks 1 weights of this model", experiment=broken)
    for key in ("utt0", "utt7"):  # without reference; without anything
        refused(f"lacks text or wav.scp of {key}; choose", options=("--key", key))
    (data_dir / "ref.wav").unlink()
    refused("reference .*ref.wav is missing")
    (data_dir / "wav.scp").write_text("")
    refused("wav.scp is empty")
    (data_dir / "wav.scp").write_text("spk/utt1 ref.wav\n" * 2)
    refused("wav.scp, line 2 .duplicate id")
    assert not output_dir.exists()
