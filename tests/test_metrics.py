"""metrics.py and backends.py: worked by hand with fake models, then the real ones."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from real_speech import an4

from espnet_prune.errors import UserError
from espnet_prune.evaluation import backends, metrics
from espnet_prune.evaluation.metrics import METRICS, Utterance

TEXT = "Hello, world!"


def tone(seconds=1.0, level=0.1, rate=16000):
    time = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * 200 * time)).astype(np.float32)


SILENCE = np.zeros(16000, np.float32)


class FakeRecogniser(backends.Backend):
    """Hears what it is told to hear."""

    def __init__(self, heard):
        self.heard = heard

    def transcribe(self, wave):
        return self.heard


class FakeEncoder(backends.SpeakerEncoder):
    """Takes the first two samples for the voice."""

    def embed(self, wave):
        return wave[:2] / np.linalg.norm(wave[:2])


def utterance(text=TEXT, reference=None, voices=None):
    return Utterance("u", "me", text, reference, voices or {})


def cer(heard, text=TEXT, wave=None):
    pytest.importorskip("whisper_normalizer")
    pytest.importorskip("rapidfuzz")
    metric = metrics.CharacterErrorRate("cer_fake", FakeRecogniser(heard))
    return metric, metric.score(tone() if wave is None else wave, utterance(text))


def test_error_rate_worked_by_hand():
    metric, score = cer("hello word")
    assert score == {
        "value": pytest.approx(1 / 11),
        "edits": 1,
        "characters": 11,
        "heard": "hello word",
    }
    assert metric.ratio(score) == (1, 11)


def test_spelling_that_cannot_be_heard_is_no_error():
    for text, heard in (
        ("the colour of mister smith's 21 dogs", "The color of Mr Smiths 21 dogs."),
        ("in eighteen fifty they don't", "In 1850, they do not."),
        ("a shop-boy, well", "A SHOP BOY -- well!"),
    ):
        score = cer(heard.replace("Smiths", "Smith's"), text)[1]
        assert score["edits"] == 0, (text, heard)
    assert cer("a shop toy", "a shop boy")[1]["edits"] == 1


def test_in_silence_nothing_is_heard():
    score = cer("You", wave=SILENCE)[1]
    assert score["value"] == 1 and score["heard"] == ""


def test_a_rate_can_exceed_one_and_a_text_can_be_empty():
    assert cer("a bb ccc dddd", "a")[1]["value"] == 12
    assert cer("anything", "hmm")[1]["value"] is None


def voice_file(path, *first):
    # two samples are the voice of the fake encoder; the rest is there to be audible
    soundfile.write(path, np.append(np.float32(first), tone()), 16000, "FLOAT")
    return path


def test_similarities_worked_by_hand(tmp_path):
    mine = voice_file(tmp_path / "me.wav", 0.3, 0.4)
    a, b = (voice_file(tmp_path / f"{n}.wav", 0, 0.1 + n / 10) for n in (1, 2))
    c = voice_file(tmp_path / "c.wav", 0.1, 0)
    # a and b are one speaker with cosine 0, c another with cosine 1
    asked = utterance(reference=mine, voices={"me": [mine], "x": [a, b], "y": [c]})
    wave = np.append(np.float32([0.5, 0]), tone())
    encoder = FakeEncoder()
    similar = metrics.Similarity("secs_fake", encoder).score(wave, asked)
    other = metrics.OtherSimilarity("secs_other_fake", encoder).score(wave, asked)
    assert similar["value"] == pytest.approx(0.6)
    assert other["value"] == pytest.approx(0.5)


def test_what_cannot_be_measured_has_no_value(tmp_path):
    mine = voice_file(tmp_path / "me.wav", 0.3, 0.4)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, SILENCE, 16000)
    encoder = FakeEncoder()
    alone = utterance(reference=mine, voices={"me": [mine], "x": [silent]})
    similarity = metrics.Similarity("secs_fake", encoder)
    other = metrics.OtherSimilarity("secs_other_fake", encoder)
    assert similarity.score(tone(), alone)["value"] is not None
    assert similarity.score(SILENCE, alone) == {"value": None}
    assert other.score(tone(), alone) == {"value": None}
    assert similarity.score(tone(), alone._replace(reference=silent)) == {"value": None}
    predictor = SimpleNamespace(predict=lambda wave: 4.5)
    metric = metrics.Naturalness("mos_fake", predictor)
    assert metric.score(SILENCE, alone) == {"value": None}
    assert metric.score(tone(), alone) == {"value": 4.5}


def test_silence_is_what_nobody_hears():
    assert backends.is_silent(np.zeros(0, np.float32))
    assert backends.is_silent(tone(level=0.001))  # -63 dBFS
    assert backends.is_silent(tone(0.05))  # a click
    assert not backends.is_silent(np.concatenate([SILENCE, tone(0.2)]))


def test_any_recording_becomes_mono_at_16_khz(tmp_path):
    stereo = np.stack([tone(rate=44100), np.zeros(44100, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.flac", stereo, 44100)
    wave = backends.load_wave(tmp_path / "a.flac")
    assert wave.dtype == np.float32 and wave.shape == (16000,)
    assert np.abs(wave - tone(level=0.05))[500:-500].max() < 1e-3


def test_what_is_no_audio_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(UserError, match="a.wav cannot be read as audio"):
        backends.load_wave(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.full(99, np.nan), 16000, "FLOAT")
    with pytest.raises(UserError, match="b.wav has 99 samples that are NaN"):
        backends.load_wave(tmp_path / "b.wav")


def test_metrics_are_named_by_measure_and_model():
    page = (Path(__file__).parents[1] / "docs" / "scores.md").read_text()
    assert set(metrics.DEFAULT) <= set(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name and metric.measures and metric.backend.title
        assert f"| `{name}` |" in page


def fake_module(monkeypatch, name, **content):
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_speechbrain_is_handed_batches_of_one(monkeypatch):
    """Its weights come from the network, so only the calls can be checked here."""

    class Asr:
        @staticmethod
        def from_hparams(source):
            assert source == "speechbrain/asr-crdnn-rnnlm-librispeech"
            return SimpleNamespace(transcribe_batch=Asr.transcribe_batch)

        @staticmethod
        def transcribe_batch(waves, lengths):
            assert waves.shape == (1, 16000) and lengths.tolist() == [1.0]
            return ["HELLO"], [[1]]

    class Ecapa:
        @staticmethod
        def from_hparams(source):
            assert source == "speechbrain/spkrec-ecapa-voxceleb"
            return SimpleNamespace(
                encode_batch=lambda waves: torch.ones(waves.shape[0], 1, 4)
            )

    for parent in ("speechbrain", "speechbrain.inference"):
        fake_module(monkeypatch, parent)
    fake_module(monkeypatch, "speechbrain.inference.ASR", EncoderDecoderASR=Asr)
    fake_module(monkeypatch, "speechbrain.inference.speaker", EncoderClassifier=Ecapa)
    assert backends.SpeechBrainRecogniser().transcribe(tone()) == "HELLO"
    assert backends.Ecapa().embed(tone()) == pytest.approx([0.5] * 4)


def test_utmos_of_the_hub_is_called_as_it_wants(monkeypatch):
    """Its weights come from the network as well."""

    def hub(repository, model, trust_repo):
        assert (repository, model) == ("tarepan/SpeechMOS:v1.2.0", "utmos22_strong")
        return lambda waves, rate: torch.full((len(waves),), rate / 4000)

    monkeypatch.setattr(torch.hub, "load", hub)
    assert backends.UTMOS().predict(tone()) == 4


def test_what_was_measured_in_synthesis():
    rtf, kept = (METRICS[name] for name in metrics.MEASURED)
    record = {"synthesis_seconds": 2.0, "audio_seconds": 8.0, "kept_share": 0.3}
    assert rtf.take(record)["value"] == 0.25
    assert rtf.ratio(rtf.take(record)) == (2, 8)
    assert kept.take(record) == {"value": 0.3}
    assert rtf.take({}) == kept.take({}) == {}
    assert rtf.take(dict(record, audio_seconds=0))["value"] is None
    assert not rtf.compared and rtf.version() and rtf.load() is None


# ------------------------------------------------------------------ the real models


@pytest.fixture(scope="module")
def recordings():
    """Two AN4 recordings of one woman and one of a man, 16 kHz, with their words."""
    names = ("an251-fash-b", "an253-fash-b", "an152-mwhw-b")
    return {name: an4()[name] for name in names}


def installed(name):
    """Skip with the reason if a metric's packages are missing."""
    try:
        METRICS[name].version()
        METRICS[name].load()
    except Exception as error:
        pytest.skip(f"{name}: {error}")
    return METRICS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cer_moonshine", "cer_whisper"])
def test_recognisers_understand_speech(recordings, name):
    metric = installed(name)
    said = {key: utterance(text) for key, (_, text) in recordings.items()}
    once = [metric.score(recordings[key][0], said[key]) for key in said]
    edits, characters = map(sum, zip(*map(metric.ratio, once), strict=True))
    assert edits / characters < 0.35, once  # names are spelled out there
    wrong = metric.score(recordings["an251-fash-b"][0], utterance("not what was said"))
    assert wrong["value"] > 0.5
    # what is heard does not depend on what was heard before
    again = [metric.score(recordings[key][0], said[key]) for key in reversed(said)]
    assert again[::-1] == once


@pytest.mark.slow
def test_resemblyzer_tells_voices_apart(recordings, tmp_path):
    installed("secs_resemblyzer")
    paths = {key: tmp_path / f"{key}.wav" for key in recordings}
    for key, path in paths.items():
        soundfile.write(path, recordings[key][0], 16000)
    she, again, he = paths.values()
    asked = utterance(reference=again, voices={"me": [she, again], "he": [he]})
    wave = backends.load_wave(she)
    same = METRICS["secs_resemblyzer"].score(wave, asked)["value"]
    other = METRICS["secs_other_resemblyzer"].score(wave, asked)["value"]
    assert 1 > same > other + 0.1 > 0.2
    itself = METRICS["secs_resemblyzer"].score(wave, asked._replace(reference=she))
    assert itself["value"] == pytest.approx(1, abs=1e-5)


def test_speech_without_end_does_not_stop_the_scoring():
    heard = []
    backend = backends.DistillMOS()
    backend.model = lambda waves: heard.append(waves) or torch.tensor([[3.0]])
    assert backend.predict(np.zeros(40 * 16000, np.float32)) == 3
    assert heard[0].shape == (1, 30 * 16000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distillmos", "dnsmos"])
def test_predictors_prefer_speech_to_noisy_speech(recordings, name):
    metric = installed(name)
    wave, text = recordings["an251-fash-b"]
    noise = np.random.default_rng(0).normal(0, 0.03, len(wave)).astype(np.float32)
    clean = metric.score(wave, utterance(text))["value"]
    noisy = metric.score(np.clip(wave + noise, -1, 1), utterance(text))["value"]
    muffled = librosa.resample(
        librosa.resample(wave, orig_sr=16000, target_sr=2000),
        orig_sr=2000,
        target_sr=16000,
    )
    assert 1 <= noisy < clean <= 5
    if name == "distillmos":
        assert metric.score(muffled, utterance(text))["value"] < clean
