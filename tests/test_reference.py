"""Reference recordings: what is converted, what is refused, what is warned about."""

import logging
import math

import numpy as np
import pytest
import soundfile
import torch

from espnet_prune.errors import UserError
from espnet_prune.speech.reference import load_reference


def voice(seconds=3.0, fs=16000, level=0.3):
    """Make a buzz of 150 Hz that swells and fades twice a second."""
    time = np.arange(int(seconds * fs)) / fs
    buzz = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 8))
    swell = np.abs(np.sin(2 * np.pi * time))
    return (level * swell * buzz / np.abs(buzz).max()).astype(np.float32)


def write(folder, samples, fs=16000, name="voice.wav", subtype=None):
    path = folder / name
    soundfile.write(path, samples, fs, subtype=subtype)
    return path


def refused(source, fs=16000, **options):
    with pytest.raises(UserError) as error:
        load_reference(source, fs, **options)
    return str(error.value)


def similarity(a, b):
    """Cosine of the magnitude spectra of two recordings of the same length."""
    n = min(len(a), len(b))
    a, b = (np.abs(np.fft.rfft(np.asarray(x[:n], dtype=np.float64))) for x in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_a_file_at_the_models_rate_comes_back_as_it_is(tmp_path, caplog):
    samples = voice()
    speech = load_reference(write(tmp_path, samples, subtype="FLOAT"), 16000)
    assert speech.dtype == np.float32
    assert speech.shape == (48000,)
    assert np.array_equal(speech, samples)
    assert not caplog.records


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 44099])
def test_any_rate_becomes_the_models(tmp_path, rate):
    path = write(tmp_path, voice(fs=rate), fs=rate)
    speech = load_reference(str(path), 16000)
    assert abs(len(speech) - 48000) <= 3
    assert similarity(speech, voice(fs=16000)) > 0.98


@pytest.mark.parametrize("name", ["voice.flac", "voice.ogg", "voice.aiff"])
def test_other_containers(tmp_path, name):
    speech = load_reference(write(tmp_path, voice(), name=name), 16000)
    assert similarity(speech, voice()) > 0.98


def test_channels_are_mixed(tmp_path):
    left, right = voice(level=0.4), voice(level=0.2)
    stereo = np.stack([left, right], axis=1)
    mixed = (left + right) / 2
    from_file = load_reference(write(tmp_path, stereo, subtype="FLOAT"), 16000)
    assert np.allclose(from_file, mixed)
    assert np.allclose(load_reference(stereo, 16000), mixed)
    assert np.allclose(load_reference(torch.from_numpy(stereo.T), 16000), mixed)


@pytest.mark.parametrize(
    "samples",
    [
        (voice() * 2**15).astype(np.int16),
        (voice().astype(np.float64) * 2**31).astype(np.int32),
        (voice() * 128 + 128).astype(np.uint8),
        voice().astype(np.float64),
        torch.from_numpy(voice()).half(),
        torch.from_numpy((voice() * 2**15).astype(np.int16)),
    ],
    ids=["int16", "int32", "uint8", "float64", "half tensor", "int16 tensor"],
)
def test_samples_of_any_type_are_scaled(samples):
    speech = load_reference(samples, 16000)
    assert speech.dtype == np.float32
    assert np.allclose(speech, voice(), atol=0.01)


def test_samples_have_a_rate_of_their_own():
    assert len(load_reference(voice(fs=48000), 16000, reference_fs=48000)) == 48000
    assert len(load_reference(voice(fs=16000), 16000)) == 48000
    assert "4000 Hz" in refused(voice(), reference_fs=16)


def test_samples_above_one_are_brought_back(tmp_path):
    loud = load_reference(write(tmp_path, voice(level=1.3), subtype="FLOAT"), 16000)
    assert np.allclose(loud, voice(level=1.0), atol=1e-3)
    assert "up to 9828, but samples must lie within [-1, 1]" in refused(voice() * 32768)


def test_missing_file(tmp_path):
    path = tmp_path / "nobody.wav"
    assert f"reference {path} is missing" in refused(path)
    assert f"reference {tmp_path} is not a file" in refused(tmp_path)


def test_file_that_is_no_audio(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("hello")
    message = refused(path)
    assert f"{path} cannot be read as audio" in message
    assert "convert it to wav" in message


def test_empty_and_short_references(tmp_path):
    path = write(tmp_path, np.zeros(0, dtype=np.float32))
    assert f"{path} is empty" in refused(path)
    path = write(tmp_path, voice(0.3))
    assert f"{path} lasts 0.30 s, wanted at least 0.5 s" in refused(path)


def test_shorter_than_advised_is_warned_about(tmp_path, caplog):
    load_reference(write(tmp_path, voice(1.0)), 16000)
    assert "lasts 1.0 s" in caplog.text
    caplog.clear()
    load_reference(write(tmp_path, voice(2.0)), 16000)
    assert not caplog.records


def test_silence_is_refused(tmp_path):
    path = write(tmp_path, np.zeros(32000, dtype=np.float32))
    assert f"{path} is silent" in refused(path)
    assert "is silent" in refused(voice(level=0.002))
    click = np.zeros(32000, dtype=np.float32)
    click[16000:16100] = 0.9
    assert "is silent" in refused(click)
    # a constant offset is not a sound
    assert "is silent" in refused(click * 0 + 0.1)
    stereo = np.stack([voice(), -voice()], axis=1)
    assert "silent after mixing its 2 channels" in refused(stereo)


def test_quiet_speech_is_accepted():
    assert len(load_reference(voice(level=0.02), 16000)) == 48000


def test_long_pauses_are_warned_about_and_trimmed_on_demand(caplog):
    pause = np.zeros(32000, dtype=np.float32)
    padded = np.concatenate([pause, voice(2.5), pause])
    assert len(load_reference(padded, 16000)) == len(padded)
    assert "silent for 6" in caplog.text and "trim=True" in caplog.text
    trimmed = load_reference(padded, 16000, trim=True)
    assert 2.4 * 16000 < len(trimmed) < 2.7 * 16000
    short = np.concatenate([pause, voice(0.3), pause])
    assert "without silence lasts 0.4" in refused(short, trim=True)


def test_clipping(caplog):
    assert "is clipped: " in refused(np.sign(voice()) * 0.5)
    assert not caplog.records
    load_reference(np.clip(voice(level=0.9), -0.6, 0.6), 16000)
    assert "is clipped: " in caplog.text
    caplog.clear()
    load_reference(voice(level=0.99), 16000)
    assert not caplog.records


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = voice()
    samples[100] = value
    assert "1 samples that are NaN or infinite" in refused(samples)
    path = write(tmp_path, samples, subtype="FLOAT")
    assert f"{path} has 1 samples" in refused(path)


def test_only_the_beginning_of_a_long_recording_is_used(tmp_path, caplog):
    path = write(tmp_path, voice(33.0, fs=8000), fs=8000)
    caplog.set_level(logging.WARNING)
    assert len(load_reference(path, 8000)) == 30 * 8000
    assert "lasts 33.0 s: only its first 30 s are used" in caplog.text
    assert len(load_reference(voice(31.0), 16000)) == 30 * 16000


def test_a_telephone_recording_is_warned_about(caplog):
    load_reference(voice(fs=8000), 16000, reference_fs=8000)
    assert "sampled at 8000 Hz and the model speaks at 16000 Hz" in caplog.text


@pytest.mark.parametrize(
    "source, message",
    [
        (np.zeros((1, 1, 16000), np.float32), "should have the shape"),
        (np.zeros(16000, np.int64), "type int64, whose full scale is unknown"),
        (np.zeros(16000, np.complex64), "type complex64"),
        ([0.0, 0.1], "found list"),
        (None, "found NoneType"),
    ],
)
def test_what_is_no_recording(source, message):
    assert message in refused(source)


def test_the_callers_samples_are_left_alone():
    samples = torch.from_numpy(voice(level=1.3))
    kept = samples.clone()
    load_reference(samples, 16000)
    assert torch.equal(samples, kept)
