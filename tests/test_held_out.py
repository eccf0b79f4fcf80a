"""held_out.py: losses of recordings with true durations."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_experiment import voice, write_recipe

from espnet_prune import Text2Speech
from espnet_prune.errors import UserError
from espnet_prune.evaluation import held_out
from espnet_prune.evaluation.held_out import (
    LOSSES,
    HeldOut,
    measure_all,
    read_recordings,
)

FS, HOP, SECONDS = 16000, 256, 1.5
TEXTS = {"a1": "good day", "a2": "it rains", "b1": "see you"}
PITCH = {"f0min": 80, "f0max": 400, "fs": FS, "n_fft": 1024, "hop_length": HOP}


def variances(averaged):
    return {
        "pitch_extract": "dio",
        "pitch_extract_conf": {**PITCH, "use_token_averaged_f0": averaged},
        "energy_extract": "energy",
        "energy_extract_conf": {
            "fs": FS,
            "n_fft": 1024,
            "hop_length": HOP,
            "use_token_averaged_energy": averaged,
        },
    }


@pytest.fixture
def data(tmp_path):
    """Two recordings of a speaker and one of another, with the ends of their tokens."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = {name: [] for name in ("text", "utt2spk", "wav.scp", "token_ends")}
    for number, (name, text) in enumerate(TEXTS.items()):
        path = folder / f"{name}.wav"
        soundfile.write(path, voice(SECONDS, pitch=120.0 + 40 * number), FS)
        ends = np.linspace(0, SECONDS, len(text) + 2)[1:]
        values = (text, name[0], path, " ".join(f"{end:.4f}" for end in ends))
        for file, value in zip(lines.values(), values, strict=True):
            file.append(f"{name} {value}\n")
    for name, content in lines.items():
        (folder / name).write_text("".join(content))
    return folder


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Text2Speech.from_pretrained(write_recipe(tmp_path, **variances(True)))


def test_mel_loss_is_that_of_teacher_forced_speech(data, model):
    recordings = read_recordings(data)
    for recording in recordings:
        samples, _ = soundfile.read(recording.utterance.reference, dtype="float32")
        ends = np.rint(np.array(recording.ends) * FS)
        frames = 1 + len(samples) // HOP
        edges = np.minimum(np.ceil(ends / HOP), frames).astype(int)
        edges[-1] = frames
        spoken = model(
            recording.utterance.text,
            speech=samples,
            durations=np.diff(edges, prepend=0),
            decode_conf={"use_teacher_forcing": True},
        )["feat_gen"]
        wav = torch.from_numpy(samples)[None]
        target = model.normalize(*model.feats_extract(wav))[0][0]
        found = HeldOut(model).measure(recording)
        expected = float((spoken - target).abs().mean())
        assert found["mel_loss"] == pytest.approx(expected, rel=1e-4)
        assert tuple(found) == LOSSES


def test_another_recording_of_the_speaker_is_the_reference(data, model):
    first, second, alone = read_recordings(data)
    assert first.other == second.utterance.reference
    assert second.other == first.utterance.reference
    measured = HeldOut(model).measure(first)
    assert measured["mel_loss_other"] != measured["mel_loss"]
    # with a copy of itself as the other recording, both are the same
    same = HeldOut(model).measure(first._replace(other=first.utterance.reference))
    assert same["mel_loss_other"] == pytest.approx(same["mel_loss"], rel=1e-5)
    assert HeldOut(model).measure(alone)["mel_loss_other"] is None


def test_models_that_learn_durations_need_no_alignment(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (data / "token_ends").unlink()
    conf = {"durations": "learned"}
    experiment = write_recipe(tmp_path, tts_conf=conf, **variances(False))
    model = Text2Speech.from_pretrained(experiment)
    first, *_ = read_recordings(data)
    assert all(value > 0 for value in HeldOut(model).measure(first).values())


def test_measured_losses_are_kept(data, model, tmp_path, monkeypatch):
    path = tmp_path / "losses" / "system.jsonl"
    recordings = read_recordings(data)
    assert measure_all(HeldOut(model), recordings, path) == []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["utterance"] for line in lines] == sorted(TEXTS)
    assert [line["speaker"] for line in lines] == ["a", "a", "b"]
    measured = []
    monkeypatch.setattr(
        HeldOut,
        "measure",
        lambda self, one: measured.append(one.utterance.name) or dict.fromkeys(LOSSES),
    )
    measure_all(HeldOut(model), recordings, path)
    assert measured == []
    changed = recordings[0]._replace(ends=(*recordings[0].ends[:-1], SECONDS - 0.1))
    measure_all(HeldOut(model), [changed, *recordings[1:]], path)
    assert measured == ["a1"]


def test_recordings_that_cannot_be_used_are_named(data, model, tmp_path, caplog):
    lines = (data / "token_ends").read_text().splitlines()
    lines[0] += f" {SECONDS}"
    (data / "token_ends").write_text("\n".join(lines))
    path = tmp_path / "system.jsonl"
    (fault,) = measure_all(HeldOut(model), read_recordings(data), path)
    assert fault.utterance == "a1"
    assert "10 tokens of a1, but its text has 9 with <eos>" in fault.detail
    assert "leaves out 1 of 3 recordings" in caplog.text
    assert len(path.read_text().splitlines()) == 2
    (data / "token_ends").unlink()
    with pytest.raises(UserError, match="no recording can be used.*espnet-prune align"):
        measure_all(HeldOut(model), read_recordings(data), path)


def test_other_models_are_refused():
    class Other:
        model_file = Path("weights.pth")
        train_args = type("Arguments", (), {"tts": "pruned_fastspeech2"})
        model = torch.nn.Module()

    Other.model.tts = torch.nn.Module()
    with pytest.raises(UserError, match="weights.pth is a pruned_fastspeech2"):
        HeldOut(Other())


def test_losses_have_a_meaning():
    assert set(held_out.MEASURES) == set(LOSSES)
