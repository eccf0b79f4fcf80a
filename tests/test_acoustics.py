"""acoustics.py: MCD and log-F0 RMSE, on signals whose values are known."""

import numpy as np
import pytest
import soundfile
from tiny_experiment import voice

from espnet_prune.evaluation.acoustics import (
    Analysis,
    analyse,
    cepstral_distortion,
    f0_error,
    mel_cepstrum,
)
from espnet_prune.evaluation.metrics import METRICS, Utterance


@pytest.mark.parametrize("warping", [0.0, 0.42])
def test_a_planted_mel_cepstrum_is_found(warping):
    # the log amplitude is a cosine series on the axis of the all-pass filter
    planted = np.random.default_rng(0).normal(0, 0.2, 13) / np.arange(1, 14)
    axis = np.linspace(0, np.pi, 513)
    turn = np.arctan2(warping * np.sin(axis), 1 - warping * np.cos(axis))
    log_amplitude = sum(
        c * np.cos(n * (axis + 2 * turn)) for n, c in enumerate(planted)
    )
    found = mel_cepstrum(np.exp(2 * log_amplitude)[None], 12, warping)
    assert found[0] == pytest.approx(planted, abs=1e-3)


def made_up(frames, shift=0.0, f0=200.0):
    """Return an analysis with frames that differ from each other."""
    cepstrum = np.linspace(0, 10, frames)[:, None] * np.ones(24)
    cepstrum[:, 0] += shift
    return Analysis(cepstrum, np.full(frames, f0))


def test_distortion_of_one_coefficient_by_hand():
    # a difference of 0.1 in one coefficient, everywhere
    found = cepstral_distortion(made_up(30), made_up(30, shift=0.1))
    assert found == pytest.approx(10 / np.log(10) * np.sqrt(2) * 0.1)


def test_alignment_forgives_another_tempo():
    slow, fast = made_up(61), made_up(31)
    assert cepstral_distortion(slow, fast) < 5
    assert cepstral_distortion(slow, made_up(31, shift=20.0)) > 100
    assert cepstral_distortion(slow, slow) == 0


def test_error_of_f0_counts_voiced_pairs():
    low, high = made_up(30, f0=100.0), made_up(30, f0=120.0)
    assert f0_error(low, high) == pytest.approx(np.log(1.2))
    high.f0[10:] = 0  # unvoiced
    assert f0_error(low, high) == pytest.approx(np.log(1.2))
    assert f0_error(low, Analysis(high.cepstrum, np.zeros(30))) is None


def test_pitch_of_speech_is_found():
    low, high = (analyse(voice(pitch=pitch), 16000) for pitch in (120.0, 150.0))
    assert np.median(low.f0[low.f0 > 0]) == pytest.approx(120, rel=0.02)
    assert low.cepstrum.shape == (len(low.f0), 24)
    assert f0_error(low, high) == pytest.approx(np.log(150 / 120), rel=0.2)


def test_metrics_compare_with_the_recording_of_the_text(tmp_path):
    path = tmp_path / "target.wav"
    soundfile.write(path, voice(), 16000, "FLOAT")
    asked = Utterance("u", "s", "text", path, {}, path)
    for name in ("mcd", "f0_rmse"):
        metric = METRICS[name]
        same = metric.score(voice(), asked)["value"]
        other = metric.score(voice(pitch=250.0), asked)["value"]
        assert same == pytest.approx(0, abs=0.01) and other > same + 0.1
        assert metric.score(voice(), asked._replace(target=None)) == {"value": None}
        assert metric.score(np.zeros(16000, np.float32), asked) == {"value": None}
