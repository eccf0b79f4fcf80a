"""It learns: five AN4 recordings, a small model, a few hundred steps, minutes.

Characters as tokens and durations learned inside the model, as in the mini_an4 recipe.
All runs start from the same weights and see the same batch. The thresholds' scale is
said where it is not the paper's 1: a run of so few steps cannot carry theta far.
"""

import os
import re
import tarfile
from pathlib import Path

import pytest
import soundfile
import torch
from espnet2.tts.feats_extract.dio import Dio
from espnet2.tts.feats_extract.energy import Energy
from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank

from espnet_prune import StyleSpeech

pytestmark = pytest.mark.slow

FRAMES = {"fs": 16000, "n_fft": 1024, "hop_length": 256}
LR = 2e-3
WARMUP = 20
SCALE = 10.0  # theta = 10 x parameter


def pad(sequences):
    """Stack tensors of unequal lengths, zero-padded, and tell their lengths."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True), lengths


def normalise(values, lengths):
    """Bring the valid frames to mean 0 and variance 1, as ESPnet's global_mvn."""
    valid = torch.arange(values.size(1)) < lengths[:, None]
    frames = values[valid]
    values = (values - frames.mean(dim=0)) / frames.std(dim=0)
    return values * valid[..., None], lengths


@pytest.fixture(scope="module")
def an4(tmp_path_factory):
    """One batch of all AN4 training utterances in ESPnet's mini_an4, and idim."""
    root = os.environ.get("ESPNET_ROOT")
    if not root:
        pytest.skip("ESPNET_ROOT is not set")
    archive = Path(root) / "egs2" / "mini_an4" / "asr1" / "downloads.tar.gz"
    if not archive.exists():
        pytest.skip(f"there is no {archive}")
    folder = tmp_path_factory.mktemp("an4")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    corpus = folder / "downloads" / "an4"
    texts, waves = [], []
    lines = (corpus / "etc" / "an4_train.transcription").read_text().splitlines()
    for line in lines:
        words, name = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups()
        (path,) = corpus.glob(f"wav/an4_clstk/*/{name}.sph")
        texts.append(words)
        waves.append(torch.tensor(soundfile.read(path, dtype="float32")[0]))
    letters = sorted(set("".join(texts)))
    text, text_lengths = pad(
        [torch.tensor([letters.index(c) + 1 for c in words]) for words in texts]
    )
    speech, speech_lengths = pad(waves)
    mel = LogMelFbank(**FRAMES, n_mels=80, fmin=0, fmax=8000)
    feats, feats_lengths = normalise(*mel(speech, speech_lengths))
    batch = {
        "text": text,
        "text_lengths": text_lengths,
        "feats": feats,
        "feats_lengths": feats_lengths,
    }
    for name, extract in (
        ("pitch", Dio(**FRAMES, use_token_averaged_f0=False)),
        ("energy", Energy(**FRAMES, use_token_averaged_energy=False)),
    ):
        values = extract(speech, speech_lengths, feats_lengths=feats_lengths)
        batch[name], batch[f"{name}_lengths"] = normalise(*values)
    assert len(waves) == 5 and int(feats_lengths.sum()) > 400
    return batch, len(letters) + 2


def build(idim, pruning="none", **conf):
    """A small model without dropout, always from the same weights."""
    torch.manual_seed(0)
    return StyleSpeech(
        idim=idim,
        odim=80,
        pruning=pruning,
        pruning_conf=conf,
        durations="learned",
        adim=64,
        elayers=2,
        eunits=128,
        dlayers=2,
        dunits=128,
        decoder_prenet_units=64,
        style_units=32,
        style_dim=32,
        predictor_units=32,
        encoder_dropout_rate=0.0,
        decoder_dropout_rate=0.0,
        attention_dropout_rate=0.0,
        style_dropout_rate=0.0,
        predictor_dropout_rate=0.0,
    )


def train(model, batch, steps, adam=None):
    """Train on one batch; return the optimiser and the statistics of every step."""
    warmup = WARMUP if adam is None else 1
    adam = adam or torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    trace = []
    for step in range(1, steps + 1):
        for group in adam.param_groups:
            group["lr"] = LR * min(1, step / warmup)
        loss, stats, _ = model(**batch)
        trace.append({name: float(value) for name, value in stats.items()})
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return adam, trace


def validate(model, batch):
    """Return the statistics of validation, which alone counts kept connections."""
    model.eval()
    with torch.no_grad():
        _, stats, _ = model(**batch)
    model.train()
    return {name: float(value) for name, value in stats.items()}


def thresholds(stats):
    """Thresholds of the two layers, in multiples of the uniform weight."""
    return [stats["threshold_1"], stats["threshold_2"]]


def mean(values):
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def dp(an4):
    """DP at R = 0.45: model, optimiser and trace of phase 1."""
    batch, idim = an4
    model = build(
        idim, "differentiable", sparsity_ratio=0.45, threshold_scale=SCALE, phase=1
    )
    return model, *train(model, batch, 250)


def test_dense_model_learns_the_recordings(an4):
    batch, idim = an4
    _, trace = train(build(idim), batch, 250)
    assert trace[0]["mel_loss"] / trace[-1]["mel_loss"] >= 5
    for name in ("pitch_loss", "energy_loss", "duration_loss", "forwardsum_loss"):
        assert trace[-1][name] < trace[0][name]


def test_both_phases_of_dp_learn_the_recordings(an4, dp):
    batch, idim = an4
    model, adam, first = dp
    start = first[0]["mel_loss"]
    assert start / first[-1]["mel_loss"] >= 5
    # it prunes: most connections would go, most of the attention stays
    valid = validate(model, batch)
    for layer in (1, 2):
        assert first[-1][f"soft_mean_{layer}"] == pytest.approx(0.45, abs=0.03)
        assert 0.02 < valid[f"kept_share_{layer}"] < 0.7
        assert valid[f"kept_mass_{layer}"] > valid[f"kept_share_{layer}"]

    second_model = build(
        idim, "differentiable", sparsity_ratio=0.45, threshold_scale=SCALE, phase=2
    )
    second_model.load_state_dict(model.state_dict())
    second_adam = torch.optim.Adam(
        second_model.parameters(), betas=(0.9, 0.98), eps=1e-9
    )
    second_adam.load_state_dict(adam.state_dict())
    _, second = train(second_model, batch, 60, second_adam)
    assert start / second[-1]["mel_loss"] >= 5
    assert second[-1]["loss"] < second[0]["loss"] + 0.1  # the switch did no harm
    assert thresholds(second[-1]) == thresholds(second[0])
    valid = validate(second_model, batch)
    assert all(0.02 < valid[f"kept_share_{layer}"] < 0.9 for layer in (1, 2))

    # and it says them under hard masks, one by one, in their own voices
    second_model.eval()
    with torch.no_grad():
        for b, frames in enumerate(batch["feats_lengths"].tolist()):
            text = batch["text"][b, : batch["text_lengths"][b]]
            mel = second_model.inference(text, feats=batch["feats"][b, :frames])
            assert 0.5 * frames < len(mel["feat_gen"]) < 2 * frames


def test_thresholds_grow_with_the_sparsity_loss_alone(an4):
    # at the paper's scale of 1
    batch, idim = an4
    ends = {}
    for weight in (0.0, 1.0):
        model = build(
            idim, "differentiable", sparsity_ratio=0.45, sparsity_weight=weight
        )
        _, trace = train(model, batch, 120)
        assert thresholds(trace[0]) == [0.0, 0.0]
        ends[weight] = thresholds(trace[-1])
    assert min(ends[1.0]) > 0.1
    assert max(abs(theta) for theta in ends[0.0]) < 0.05
    assert min(ends[1.0]) > 3 * max(abs(theta) for theta in ends[0.0])


def test_lower_ratio_ends_with_higher_thresholds(an4, dp):
    # the order of the paper's Table 3, same data, same start
    batch, idim = an4
    steps = 120
    ends = {0.45: thresholds(dp[2][steps - 1])}
    for ratio in (0.40, 0.50):
        model = build(
            idim, "differentiable", sparsity_ratio=ratio, threshold_scale=SCALE
        )
        _, trace = train(model, batch, steps)
        ends[ratio] = thresholds(trace[-1])
        for layer in (1, 2):
            soft_mean = trace[-1][f"soft_mean_{layer}"]
            assert soft_mean == pytest.approx(ratio, abs=0.03)
    assert mean(ends[0.40]) > mean(ends[0.45]) > mean(ends[0.50]) > 0
    assert all(low > high for low, high in zip(ends[0.40], ends[0.50], strict=True))
