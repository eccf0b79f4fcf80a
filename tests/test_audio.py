"""speech/audio.py: what is a recording, and how loud it is."""

import re
import resource
import signal
import struct

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from espnet_prune.errors import UserError
from espnet_prune.speech import audio
from espnet_prune.speech.audio import AudioError

RATE = 16000


def noise(seconds=1.0, level=0.2):
    samples = np.random.default_rng(0).uniform(-level, level, int(seconds * RATE))
    return samples.astype(np.float32)


def write(path, samples=None, **options):
    soundfile.write(path, noise() if samples is None else samples, RATE, **options)
    return path


def refused(path, **options):
    with pytest.raises(AudioError) as caught:
        audio.read(path, **options)
    return caught.value


# ------------------------------------------------------------------------ the reader


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.au", "a.sph"])
def test_recordings_of_any_kind_are_read_as_they_are(tmp_path, name):
    stereo = np.stack([noise(), noise()[::-1]], axis=1)
    form = {"format": "NIST"} if name.endswith("sph") else {}
    path = write(tmp_path / name, stereo, subtype="PCM_16", **form)
    samples, header = audio.read(path)
    assert header == audio.read_header(path) == (RATE, RATE, 2, True)
    assert header.seconds == 1.0
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, stereo, atol=1e-4)
    assert len(audio.read(path, max_seconds=0.25).samples) == RATE // 4


def with_size(path, size, kept=1.0):
    """Write a wav whose header promises ``size`` bytes of samples."""
    content = bytearray(write(path, subtype="PCM_16").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content[: at + 4 + round(kept * 2 * RATE)])
    return path


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 2 * RATE, 2 * RATE + 44])
def test_headers_of_pipes_and_small_slips_are_no_fault(tmp_path, size):
    path = with_size(tmp_path / "a.wav", size)
    samples, header = audio.read(path)
    assert len(samples) == header.frames == RATE
    assert header.says_size == (size > 0)
    np.testing.assert_allclose(samples[:, 0], noise(), atol=1e-4)


@pytest.mark.parametrize("kept", [0.0, 0.6, 0.9])
def test_a_recording_that_lacks_what_its_header_promises(tmp_path, kept):
    path = with_size(tmp_path / "a.wav", 2 * RATE, kept)
    error = refused(path, what="reference")
    assert error.reason == "cut off"
    assert f"{100 * kept:.0f} % of the samples in its header" in str(error)
    assert str(error).startswith(f"reference {path} is cut off")
    with pytest.raises(AudioError, match="cut off"):  # without the samples as well
        audio.read_header(path)


def flac_of_size(path, size):
    """Write a flac whose header promises ``size`` samples; 0 is that of a pipe."""
    content = bytearray(write(path, noise(3.0)).read_bytes())
    content[21] = content[21] & 0xF0 | size >> 32
    content[22:26] = struct.pack(">I", size & 0xFFFFFFFF)
    path.write_bytes(content)
    return path


def test_a_flac_of_a_pipe_is_no_fault(tmp_path, monkeypatch):
    path = flac_of_size(tmp_path / "a.flac", 0)
    monkeypatch.setattr(audio, "BLOCK", 7000)
    samples, header = audio.read(path)
    assert header == audio.read_header(path) == (RATE, 3 * RATE, 1, False)
    np.testing.assert_allclose(samples[:, 0], noise(3.0), atol=1e-4)
    assert len(audio.read(path, max_seconds=0.5).samples) == RATE // 2
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path).reason == "unreadable audio"


@pytest.mark.parametrize("size", [2**20, 2**36 - 1])
def test_a_flac_that_promises_too_much(tmp_path, size):
    path = flac_of_size(tmp_path / "a.flac", size)
    assert refused(path).reason == "unreadable audio"


def test_an_aiff_of_a_pipe_is_no_fault(tmp_path):
    path = write(tmp_path / "a.aiff", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"SSND") + 4
    content[at : at + 4] = struct.pack(">I", 0x7F000008)
    path.write_bytes(content)
    assert len(audio.read(path).samples) == RATE


@pytest.mark.parametrize(
    "form, subtype",
    [("OGG", "VORBIS"), ("OGG", "OPUS"), ("VOC", "PCM_16"), ("MAT4", "PCM_16")],
)
def test_formats_whose_end_is_missing(tmp_path, form, subtype):
    path = write(tmp_path / "a", noise(3.0), format=form, subtype=subtype)
    assert len(audio.read(path).samples) == 3 * RATE
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    error = refused(path)
    assert error.reason == "cut off" and "its end is missing" in str(error)


def test_a_part_of_w64_that_is_larger_than_any_file(tmp_path):
    path = write(tmp_path / "a.w64")
    content = bytearray(path.read_bytes())
    content[56:64] = b"\xff" * 8
    path.write_bytes(content)
    assert refused(path).reason in ("cut off", "unreadable audio")


@pytest.mark.parametrize("form", ["AU", "W64", "NIST", "RF64", "SVX", "WAVEX"])
def test_formats_with_a_size_that_are_cut_off(tmp_path, form):
    path = tmp_path / "a"
    soundfile.write(path, noise(), RATE, format=form)
    assert len(audio.read(path).samples) == RATE
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    error = refused(path)
    assert error.reason == "cut off"
    assert re.search("(59|60) % of the samples", str(error))


def test_an_au_of_a_pipe_is_no_fault(tmp_path):
    path = tmp_path / "a.au"
    soundfile.write(path, noise(), RATE)
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff" * 4
    path.write_bytes(content)
    assert len(audio.read(path).samples) == RATE


@pytest.mark.parametrize("form", sorted(soundfile.available_formats()))
def test_no_format_is_read_without_its_end(tmp_path, form):
    """It is refused when it is cut off, or always if nothing would show that."""
    path = tmp_path / "a"
    subtype = soundfile.default_subtype(form) or "PCM_16"
    soundfile.write(path, noise(3.0), RATE, format=form, subtype=subtype)
    if form in audio.NEVER_WHOLE:
        assert refused(path).reason == "unsupported format"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert refused(path).reason in ("cut off", "unreadable audio", "unsupported format")


def test_names_of_files_may_have_any_bytes(tmp_path):
    """Archives of other systems have names in Latin-1."""
    path = tmp_path / "gr\udcfc\udcdfe.flac"
    audio.write_mono(path, noise(), RATE)
    assert len(audio.read(path).samples) == audio.read_header(path).frames == RATE
    audio.write_speech(path.with_suffix(".wav"), noise(), RATE)
    assert len(audio.read_mono(path.with_suffix(".wav"), RATE)) == RATE


def test_what_is_no_recording(tmp_path):
    assert refused(tmp_path / "none.wav").reason == "missing file"
    assert "is not a file" in str(refused(tmp_path))
    (tmp_path / "notes.wav").write_text("hello")
    assert refused(tmp_path / "notes.wav").reason == "unreadable audio"
    (tmp_path / "a.raw").write_bytes(bytes(100))
    assert refused(tmp_path / "a.raw").reason == "unreadable audio"


def test_samples_that_are_no_numbers(tmp_path):
    samples = noise()
    samples[7:9] = np.nan, np.inf
    error = refused(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert error.reason == "samples that are not finite"
    assert "2 samples that are NaN or infinite" in str(error)


@pytest.mark.parametrize("rate", [1_000_000, 2_000_000_000])
def test_a_rate_that_no_recorder_has(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", noise(), rate)
    assert refused(tmp_path / "a.wav").reason == "unusable sampling rate"


def test_one_channel_at_another_rate(tmp_path):
    stereo = np.stack([noise(), noise()[::-1]], axis=1)
    path = write(tmp_path / "a.wav", stereo, subtype="FLOAT")
    mean = torch.from_numpy(stereo.mean(axis=1))
    wanted = torchaudio.functional.resample(mean, RATE, 22050).numpy()
    np.testing.assert_array_equal(audio.read_mono(path, 22050), wanted)


def test_a_copy_in_one_channel_is_never_clipped(tmp_path):
    audio.write_mono(tmp_path / "a.flac", 3 * noise(level=0.9), RATE)
    samples, header = audio.read(tmp_path / "a.flac")
    assert header.channels == 1 and 0.99 < np.abs(samples).max() <= 1
    expected = noise(level=0.9) / np.abs(noise(level=0.9)).max()
    np.testing.assert_allclose(samples[:, 0], expected, atol=1e-4)


# ---------------------------------------------------------------------- the resampler


@pytest.mark.parametrize("rate, fs", [(22050, 16000), (16000, 22050), (48000, 16000)])
def test_rates_are_changed_as_they_always_were(rate, fs):
    """Models have heard the one filter and scores the other: digit by digit."""
    sinc = torchaudio.functional.resample(torch.from_numpy(noise()), rate, fs).numpy()
    np.testing.assert_array_equal(audio.resample(noise(), rate, fs), sinc)
    soxr = librosa.resample(noise(), orig_sr=rate, target_sr=fs)
    np.testing.assert_array_equal(audio.resample(noise(), rate, fs, "soxr"), soxr)


@pytest.mark.parametrize("rate", [44099, 15999, 11027])
def test_odd_rates_take_little_memory(rate):
    """As they are, their filters would have hundreds of millions of taps."""
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    found = audio.resample(tone, rate, RATE)
    assert abs(len(found) - RATE) <= RATE * 0.002
    spectrum = np.abs(np.fft.rfft(found, 8 * RATE))
    assert abs(spectrum.argmax() / 8 - 440) < 1  # Hz


def test_nothing_stays_nothing():
    assert len(audio.resample(np.zeros(0, np.float32), 16000, 22050)) == 0


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_synthetic_speech_is_marked_and_otherwise_the_same(tmp_path, kind):
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    write(plain, format=kind, subtype="PCM_16")
    audio.write_speech(marked, noise(), RATE, kind)
    with soundfile.SoundFile(marked) as file:
        assert file.comment.startswith("Synthetic speech")
        assert (file.format, file.subtype, file.samplerate) == (kind, "PCM_16", RATE)
    expected, _ = soundfile.read(plain)
    assert np.array_equal(soundfile.read(marked)[0], expected)
    assert len(audio.read_mono(marked, RATE)) == len(expected)  # it is no cut file


def test_a_full_disk_is_named():
    with pytest.raises(OSError, match="No space left on device"):
        audio.write_speech("/dev/full", noise(), RATE)


def test_a_recording_on_a_full_disk_is_one_line(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*a.flac .*free disk space"):
            audio.write_mono(tmp_path / "a.flac", noise(), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())
