"""model.py: StyleSpeech as a whole, dense and pruned, method sections 3 and 4."""

import inspect
import math

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from helpers import (
    DURATIONS,
    ODIM,
    STYLE_DIM,
    TEXT_LENGTHS,
    fill_padding,
    one_utterance,
    tiny_batch,
    tiny_stylespeech,
)
from torch._dynamo.utils import counters

import espnet_prune
from espnet_prune import StyleSpeech, UserError, record_attention
from espnet_prune.variance import sinusoid

# Thresholds near one, where random attention loses some connections and keeps others.
PRUNINGS = {
    "none": {"pruning": "none"},
    "vanilla": {"pruning": "vanilla"},
    "phase1": {
        "pruning": "differentiable",
        "pruning_conf": {"phase": 1, "threshold_init": 1.0, "temperature": 0.05},
    },
    "phase2": {
        "pruning": "differentiable",
        "pruning_conf": {"phase": 2, "threshold_init": 1.0},
    },
    "encoder": {
        "pruning": "differentiable",
        "encoder_pruning": "vanilla",
        "pruning_conf": {"phase": 1, "threshold_init": 1.0},
    },
}
TTS_LOSSES = {"mel_loss", "duration_loss", "pitch_loss", "energy_loss"}


def numbers(stats):
    """Statistics as Python floats."""
    return {name: float(value) for name, value in stats.items()}


@pytest.mark.parametrize("durations", ["given", "learned"])
@pytest.mark.parametrize("name", PRUNINGS)
def test_forward_reports_every_term(name, durations):
    model = tiny_stylespeech(durations=durations, **PRUNINGS[name])
    loss, stats, weight = model(**tiny_batch(durations))
    loss.backward()
    stats = numbers(stats)
    assert torch.isfinite(loss) and loss.numel() == 1
    assert weight.item() == 3
    terms = set(TTS_LOSSES)
    if durations == "learned":
        terms |= {"forwardsum_loss", "binarization_loss"}
    if name in ("phase1", "encoder"):
        terms.add("sparsity_loss")
    assert {key for key in stats if key.endswith("_loss")} == terms
    weights = {"forwardsum_loss": 2.0, "binarization_loss": 2.0}
    expected = sum(weights.get(term, 1.0) * stats[term] for term in terms)
    assert stats["loss"] == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    for layer in (1, 2):
        expected = {"threshold", "kept_share", "kept_mass", "soft_mean"}
        if name == "none":
            expected = set()
        elif name in ("vanilla", "phase2"):
            expected.remove("soft_mean")  # there is no soft mask
        found = {key[:-2] for key in stats if key.endswith(f"_{layer}")}
        assert {key for key in found if "encoder" not in key} == expected
        if expected:
            assert stats[f"threshold_{layer}"] == pytest.approx(1.0)
            assert 0 < stats[f"kept_share_{layer}"] < stats[f"kept_mass_{layer}"] < 1
    assert ("encoder_kept_share_1" in stats) == (name == "encoder")


@pytest.mark.parametrize("durations", ["given", "learned"])
@pytest.mark.parametrize("name", PRUNINGS)
def test_batch_gives_what_each_utterance_gives_alone(name, durations):
    # one head: L_sp of a batch then follows from the means of the layers
    model = tiny_stylespeech(durations=durations, aheads=1, **PRUNINGS[name]).train()
    model.watch.EVERY = 1
    batch = tiny_batch(durations)
    together = numbers(model(**batch)[1])
    alone = [numbers(model(**one_utterance(batch, b))[1]) for b in range(3)]
    assert len({round(stats["mel_loss"], 6) for stats in alone}) == 3
    assert all(stats.keys() == together.keys() for stats in alone)
    for key, value in together.items():
        if key in ("sparsity_loss", "loss"):
            continue
        expected = sum(stats[key] for stats in alone) / 3
        assert value == pytest.approx(expected, abs=1e-5, rel=1e-5), key
    if name == "phase1":
        means = [together["soft_mean_1"], together["soft_mean_2"]]
        expected = sum((mean - 0.45) ** 2 for mean in means) / 2
        assert together["sparsity_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("durations", ["given", "learned"])
@pytest.mark.parametrize("name", PRUNINGS)
def test_padding_changes_nothing(name, durations):
    model = tiny_stylespeech(durations=durations, **PRUNINGS[name])
    batch = tiny_batch(durations)
    clean = model(**batch)[0]
    clean.backward()
    gradients = {k: p.grad for k, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)

    def noise(value):
        if value.dtype == torch.long:
            return torch.full_like(value, 5)
        return 9 * torch.randn_like(value)

    disturbed = fill_padding(batch, noise)
    assert not torch.equal(disturbed["feats"], batch["feats"])
    noisy = model(**disturbed)[0]
    noisy.backward()
    torch.testing.assert_close(noisy, clean, atol=1e-5, rtol=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[key], atol=1e-4, rtol=1e-4, msg=key
        )
    # ESPnet hands longer features than the batch needs when it pads for all devices
    wider = dict(batch, feats=torch.nn.functional.pad(batch["feats"], (0, 0, 0, 4)))
    torch.testing.assert_close(model(**wider)[0], clean)


def teacher_forced(model, batch, b):
    """Mel of utterance b with its own durations, pitch, energy and reference."""
    alone = one_utterance(batch, b)
    output = model.inference(
        text=alone["text"][0],
        feats=alone["feats"][0],
        durations=alone["durations"][0],
        pitch=alone["pitch"][0],
        energy=alone["energy"][0],
        use_teacher_forcing=True,
    )
    return output["feat_gen"]


def slow_mel_loss(model, batch):
    """L1 averaged over the valid frames of an utterance, then over the batch."""
    losses = []
    for b, length in enumerate(batch["feats_lengths"].tolist()):
        mel = teacher_forced(model, batch, b).detach()
        target = batch["feats"][b, :length]
        assert mel.shape == target.shape
        total = sum(
            abs(float(mel[t, m]) - float(target[t, m]))
            for t in range(length)
            for m in range(ODIM)
        )
        losses.append(total / length / ODIM)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", PRUNINGS)
def test_mel_loss_is_l1_of_what_synthesis_says(name):
    # Training and synthesis with the same durations run under the same masks, but
    # for phase 1: it trains with soft masks and synthesises with hard ones.
    model = tiny_stylespeech(**PRUNINGS[name])
    batch = tiny_batch()
    trained = float(model(**batch)[1]["mel_loss"])
    same = math.isclose(trained, slow_mel_loss(model, batch), rel_tol=1e-5)
    assert same == (name not in ("phase1", "encoder"))


def test_without_hard_masks_synthesis_uses_the_soft_ones():
    # ablation "w/o SM_hard": soft masks to the end and in inference
    conf = {
        "phase": 1,
        "threshold_init": 1.0,
        "temperature": 0.05,
        "inference_mask": "soft",
    }
    model = tiny_stylespeech(pruning="differentiable", pruning_conf=conf)
    batch = tiny_batch()
    trained = float(model(**batch)[1]["mel_loss"])
    assert trained == pytest.approx(slow_mel_loss(model, batch), rel=1e-5)


def test_without_sparsity_loss():
    # ablation "w/o L_sp": phase 1 without the sparsity loss, which is still reported
    def run(weight):
        conf = {"phase": 1, "threshold_init": 1.0, "sparsity_weight": weight}
        model = tiny_stylespeech(pruning="differentiable", pruning_conf=conf)
        loss, stats, _ = model(**tiny_batch())
        loss.backward()
        gradient = model.decoder_attentions[0].theta.grad.item()
        return loss.item(), numbers(stats), gradient

    loss, stats, gradient = run(0.0)
    assert loss == pytest.approx(sum(stats[term] for term in TTS_LOSSES), rel=1e-5)
    assert stats["sparsity_loss"] > 0
    heavier, same_stats, other_gradient = run(3.0)
    assert same_stats["sparsity_loss"] == pytest.approx(stats["sparsity_loss"])
    assert heavier == pytest.approx(loss + 3 * stats["sparsity_loss"], rel=1e-5)
    assert gradient != other_gradient


def test_variance_losses_are_squares_averaged_over_tokens():
    # Predictors that say zero: the losses are the mean squares of the targets.
    model = tiny_stylespeech()
    for predictor in model.predictors.values():
        torch.nn.init.zeros_(predictor.output.weight)
        torch.nn.init.zeros_(predictor.output.bias)
    batch = tiny_batch()
    stats = numbers(model(**batch)[1])
    duration, pitch, energy = [], [], []
    for b, frames in enumerate(DURATIONS):
        tokens = len(frames)
        assert tokens == TEXT_LENGTHS[b] + 1
        duration.append(sum(math.log(d + 1) ** 2 for d in frames) / tokens)
        pitch.append(batch["pitch"][b, :tokens].square().mean().item())
        energy.append(batch["energy"][b, :tokens].square().mean().item())
    assert stats["duration_loss"] == pytest.approx(sum(duration) / 3, rel=1e-5)
    assert stats["pitch_loss"] == pytest.approx(sum(pitch) / 3, rel=1e-5)
    assert stats["energy_loss"] == pytest.approx(sum(energy) / 3, rel=1e-5)


@pytest.mark.parametrize("durations", ["given", "learned"])
@pytest.mark.parametrize("name", PRUNINGS)
def test_one_training_step_moves_every_trainable_parameter(name, durations):
    model = tiny_stylespeech(durations=durations, **PRUNINGS[name]).train()
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    model(**tiny_batch(durations))[0].backward()
    adam.step()
    moved = {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
    for key, parameter in model.named_parameters():
        # DistributedDataParallel waits for the gradient of each one that asks for it
        assert (parameter.grad is not None) == parameter.requires_grad, key
        # softmax does not see a bias of the keys: it is the same for all of them
        if not key.endswith("linear_k.bias"):
            assert (key in moved) == parameter.requires_grad, key
    thetas = {key for key in before if key.endswith("theta")}
    assert thetas == (
        set()
        if name in ("none", "vanilla")
        else {f"decoder.blocks.{layer}.attention.theta" for layer in (0, 1)}
    )
    assert (thetas <= moved) == (name != "phase2")


def test_l_sp_alone_makes_thresholds_grow_from_zero():
    conf = {"sparsity_ratio": 0.45, "threshold_scale": 10.0}
    model = tiny_stylespeech(
        pruning="differentiable",
        pruning_conf=conf,
        mel_weight=0.0,
        duration_weight=0.0,
        pitch_weight=0.0,
        energy_weight=0.0,
    )
    model.watch.EVERY = 1  # all statistics of every step
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss, stats, _ = model(**tiny_batch())
        assert loss.item() == pytest.approx(float(stats["sparsity_loss"]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    thresholds = [a.threshold.item() for a in model.decoder_attentions]
    assert len(thresholds) == 2 and all(theta > 0.05 for theta in thresholds)
    assert losses[-1] < losses[0]
    assert float(stats["kept_share_1"]) < 1


@pytest.mark.parametrize("durations", ["given", "learned"])
@pytest.mark.parametrize("name", PRUNINGS)
def test_constant_frames_stay_finite(name, durations):
    model = tiny_stylespeech(durations=durations, **PRUNINGS[name])
    batch = tiny_batch(durations)
    batch["feats"] = torch.full_like(batch["feats"], -11.5)
    for key in ("pitch", "energy"):
        batch[key] = torch.zeros_like(batch[key])
    loss = model(**batch)[0]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )


def test_a_decoder_that_prunes_everything_stays_finite():
    model = tiny_stylespeech(
        pruning="differentiable", pruning_conf={"phase": 2, "threshold_init": 1e3}
    )
    loss, stats, _ = model(**tiny_batch())
    loss.backward()
    assert float(stats["kept_share_1"]) == float(stats["kept_mass_2"]) == 0
    assert torch.isfinite(loss)
    assert all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )


@pytest.mark.parametrize("name", PRUNINGS)
def test_autocast_bfloat16(name):
    model = tiny_stylespeech(**PRUNINGS[name])
    model.watch.EVERY = 1
    full = numbers(model(**tiny_batch())[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats, _ = model(**tiny_batch())
    loss.backward()
    assert loss.dtype == torch.float32
    stats = numbers(stats)
    assert stats["loss"] != full["loss"]  # it did run in half precision
    for key, value in full.items():
        assert stats[key] == pytest.approx(value, abs=0.1, rel=0.1), key


# ---- other ways to condition the encoder ----

CONDITIONINGS = {
    "mix_style": {"encoder_conditioning": "mix_style"},
    "sc_cnn": {
        "encoder_conditioning": "sc_cnn",
        "sc_cnn_channels": 4,
        "sc_cnn_kernel_size": 3,
    },
}


@pytest.mark.parametrize("name", PRUNINGS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_conditioning_goes_with_every_pruning(conditioning, name):
    model = tiny_stylespeech(**CONDITIONINGS[conditioning], **PRUNINGS[name]).train()
    dense = tiny_stylespeech(**CONDITIONINGS[conditioning]).train()
    model.watch.EVERY = 1
    torch.manual_seed(0)
    loss, stats, _ = model(**tiny_batch())
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert ("kept_share_1" in stats) == (name != "none")
    torch.manual_seed(0)
    same = float(dense(**tiny_batch())[1]["mel_loss"]) == float(stats["mel_loss"])
    assert same == (name == "none")


@pytest.mark.parametrize("name", ["none", "phase2", "encoder"])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_conditioned_synthesis_does_not_depend_on_the_batch(conditioning, name):
    model = tiny_stylespeech(**CONDITIONINGS[conditioning], **PRUNINGS[name]).eval()
    batch = tiny_batch()
    texts = [batch["text"][b, :length] for b, length in enumerate(TEXT_LENGTHS)]
    lengths = batch["feats_lengths"]
    together = model.batch_inference(texts, batch["feats"], lengths)
    for b, text in enumerate(texts):
        alone = model.inference(text, batch["feats"][b, : lengths[b]])
        torch.testing.assert_close(
            together["feat_gen"][b], alone["feat_gen"], atol=1e-5, rtol=1e-5
        )


def test_mix_style_is_for_training_only():
    # the same weights, and the same speech as SALN; other losses while training
    mixed = tiny_stylespeech(encoder_conditioning="mix_style")
    plain = tiny_stylespeech()
    plain.load_state_dict(mixed.state_dict())
    batch = tiny_batch()
    losses = [float(model.eval()(**batch)[0]) for model in (mixed, plain)]
    assert losses[0] == losses[1]
    trained = [float(model.train()(**batch)[0]) for model in (mixed, plain)]
    assert trained[0] != trained[1]


def test_sc_cnn_lets_the_voice_change_the_encoder():
    model = tiny_stylespeech(**CONDITIONINGS["sc_cnn"]).eval()
    assert not any("encoder.blocks" in k and "affine" in k for k in model.state_dict())
    tokens, valid = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, 1, dtype=torch.bool)
    styles = torch.randn(2, STYLE_DIM)
    first, second = (model.encoder(tokens, style[None], valid) for style in styles)
    assert not torch.allclose(first, second, atol=1e-3)


# ---- synthesis ----


def references():
    """Three references of different lengths (B, T, odim) and their lengths."""
    batch = tiny_batch(seed=7)
    return batch["feats"], batch["feats_lengths"]


def texts():
    """Three texts of different lengths."""
    batch = tiny_batch()
    return [
        text[:n] for text, n in zip(batch["text"], batch["text_lengths"], strict=True)
    ]


def talkative(**overrides):
    """Return a model that gives its tokens a few frames, unequal ones."""
    model = tiny_stylespeech(**overrides).eval()
    torch.nn.init.constant_(model.predictors["duration"].output.bias, 1.5)
    return model


@pytest.mark.parametrize("durations", ["given", "learned"])
@pytest.mark.parametrize("name", PRUNINGS)
def test_batch_inference_equals_single_calls(name, durations):
    model = talkative(durations=durations, **PRUNINGS[name])
    feats, lengths = references()
    batch = model.batch_inference(texts(), feats=feats, feats_lengths=lengths)
    assert len(batch["feat_gen"]) == 3
    for b, text in enumerate(texts()):
        single = model.inference(text, feats=feats[b, : lengths[b]])
        frames = int(batch["feat_gen_lengths"][b])
        assert single["feat_gen"].shape == batch["feat_gen"][b].shape == (frames, ODIM)
        torch.testing.assert_close(
            batch["feat_gen"][b], single["feat_gen"], atol=1e-5, rtol=1e-5
        )
        tokens = len(text) + 1
        assert torch.equal(batch["duration"][b, :tokens], single["duration"])
        assert single["duration"].shape == (tokens,)
        assert single["duration"].sum() == frames
        assert batch["duration"][b, tokens:].sum() == 0
    if name == "phase1":
        dense = talkative(durations=durations)
        dense.load_state_dict(
            {k: v for k, v in model.state_dict().items() if not k.endswith("theta")}
        )
        other = dense.inference(texts()[0], feats=feats[0, : lengths[0]])["feat_gen"]
        assert not torch.allclose(other, batch["feat_gen"][0], atol=1e-4)


def test_voice_follows_the_reference():
    model = talkative()
    feats, lengths = references()
    text = texts()[0]
    first, second = (
        model.inference(text, feats=feats[b, : lengths[b]])["feat_gen"] for b in (0, 1)
    )
    assert first.shape != second.shape or not torch.allclose(first, second, atol=1e-4)


def test_style_vector_replaces_the_reference():
    model = talkative()
    feats, lengths = references()
    text = texts()[1]
    styles = model.encode_style(feats, lengths)
    assert styles.shape == (3, STYLE_DIM)
    for b in range(3):
        alone = model.encode_style(feats[b : b + 1, : lengths[b]])
        torch.testing.assert_close(styles[b], alone[0], atol=1e-5, rtol=1e-5)
    by_feats = model.inference(text, feats=feats[0, : lengths[0]])["feat_gen"]
    by_style = model.inference(text, style_vector=styles[0])["feat_gen"]
    torch.testing.assert_close(by_feats, by_style, atol=1e-5, rtol=1e-5)
    # one style from several references: their mean
    mean = styles.mean(dim=0)
    by_mean = model.inference(text, style_vector=mean)["feat_gen"]
    assert by_mean.shape != by_style.shape or not torch.allclose(by_mean, by_style)
    # one style for all texts, or one each
    shared = model.batch_inference(texts(), style_vector=mean[None])
    torch.testing.assert_close(shared["feat_gen"][1], by_mean, atol=1e-5, rtol=1e-5)
    each = model.batch_inference(texts(), style_vector=styles)["feat_gen"]
    own = model.inference(text, style_vector=styles[1])["feat_gen"]
    torch.testing.assert_close(each[1], own, atol=1e-5, rtol=1e-5)
    # a style vector wins over the reference that ESPnet insists on
    both = model.inference(text, feats=feats[1], style_vector=styles[0])["feat_gen"]
    torch.testing.assert_close(both, by_style)


def test_speech_without_end_is_refused():
    model = talkative()
    output = model.predictors["duration"].output
    torch.nn.init.constant_(output.bias, 1e3)  # exp() of it is infinite
    feats = torch.randn(20, ODIM)
    with pytest.raises(UserError, match="a text of 5 tokens would take 5000000 frames"):
        model.inference(texts()[0], feats=feats)
    with pytest.raises(UserError, match="at speed 1e-06: choose a speed nearer to 1"):
        talkative().inference(texts()[0], feats=feats, alpha=1e6)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_alpha_stretches_speech(alpha):
    model = talkative()
    torch.nn.init.zeros_(model.predictors["duration"].output.weight)
    torch.nn.init.constant_(model.predictors["duration"].output.bias, math.log(5))
    feats = references()[0][0]
    usual = model.inference(texts()[0], feats=feats)
    assert usual["duration"].tolist() == [4] * 5
    other = model.inference(texts()[0], feats=feats, alpha=alpha)
    assert other["duration"].tolist() == [4 * alpha] * 5
    assert len(other["feat_gen"]) == alpha * len(usual["feat_gen"])


def test_predicted_pitch_and_energy_are_used():
    model = talkative()
    feats = references()[0][0]
    usual = model.inference(texts()[0], feats=feats)["feat_gen"]
    for name in ("pitch", "energy"):
        torch.nn.init.constant_(model.predictors[name].output.bias, 3.0)
        other = model.inference(texts()[0], feats=feats)["feat_gen"]
        assert not torch.allclose(other, usual, atol=1e-4)
        usual = other


@pytest.mark.parametrize("durations", ["given", "learned"])
def test_teacher_forcing_obeys_the_durations(durations):
    model = tiny_stylespeech(durations=durations).eval()
    batch = tiny_batch(durations)
    given = torch.tensor(DURATIONS[0])
    output = model.inference(
        texts()[0],
        feats=batch["feats"][0],
        durations=given,
        pitch=batch["pitch"][0, : batch["pitch_lengths"][0]],
        energy=batch["energy"][0, : batch["energy_lengths"][0]],
        use_teacher_forcing=True,
    )
    assert torch.equal(output["duration"], given)
    assert len(output["feat_gen"]) == sum(DURATIONS[0])


def test_synthesis_leaves_training_alone():
    # ESPnet synthesises during training (attention plots): masks go back afterwards.
    model = tiny_stylespeech(**PRUNINGS["phase1"])
    model.watch.EVERY = 1
    before = numbers(model(**tiny_batch())[1])
    model.inference(texts()[0], feats=references()[0][0])
    with pytest.raises(UserError, match="no reference speech"):
        model.inference(texts()[0])
    assert numbers(model(**tiny_batch())[1]) == before


def test_recorded_maps_are_those_of_the_decoder():
    model = tiny_stylespeech(**PRUNINGS["phase2"])
    batch = tiny_batch()
    with record_attention(model.decoder) as record:
        stats = numbers(model(**batch)[1])
    frames = int(batch["feats_lengths"].max())
    assert [maps.dense.shape for maps in record] == [(3, 2, frames, frames)] * 2
    for layer, maps in enumerate(record, 1):
        shares = []
        for b, n in enumerate(batch["feats_lengths"].tolist()):
            expected = maps.dense[b, :, :n, :n] >= 1.0 / n
            assert torch.equal(maps.mask[b, :, :n, :n], expected)
            shares.append(expected.float().mean().item())
        assert stats[f"kept_share_{layer}"] == pytest.approx(sum(shares) / 3, rel=1e-5)


@pytest.mark.parametrize("name", PRUNINGS)
def test_every_attention_map_can_be_plotted_by_espnet(name):
    """ESPnet's trainer reads the map of each attention layer in a forward hook."""
    model = tiny_stylespeech(**PRUNINGS[name]).eval()
    maps = {}

    def keep(module, arguments, output):
        maps[module] = module.attn.detach()

    layers = [m for m in model.modules() if isinstance(m, MultiHeadedAttention)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    batch = tiny_batch()
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
    assert len(layers) > 2 and maps.keys() == set(layers)
    for attention in maps.values():
        assert attention.shape[:2] == (3, 2)
        assert attention.shape[2] == attention.shape[3]
    (style,) = (maps[m] for m in layers if m is model.style_encoder.attention)
    frames = int(batch["feats_lengths"].min())
    torch.testing.assert_close(style.sum(-1)[:, :, :frames], torch.ones(3, 2, frames))


def test_prenets_and_positions_are_those_of_the_paper():
    # Without blocks encoder and decoder are prenet, sinusoidal positions and a linear
    # layer; the encoder's prenet has a residual, the decoder's has none.
    model = tiny_stylespeech(elayers=0, dlayers=0)
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    valid = torch.ones(1, 5, 1, dtype=torch.bool)
    style = torch.zeros(1, STYLE_DIM)
    positions = sinusoid(torch.arange(5), torch.zeros(5, 8))
    mish = torch.nn.functional.mish

    encoder = model.encoder
    embedded = encoder.embed(tokens)
    x = embedded.transpose(1, 2)
    for conv in encoder.convs:
        assert conv.kernel_size == (3,)
        x = mish(conv(x))
    prenet = encoder.linear(x.transpose(1, 2)) + embedded
    expected = encoder.output(prenet + positions)
    torch.testing.assert_close(encoder(tokens, style, valid), expected)

    first, _, _, second = model.decoder.prenet
    x = torch.randn(1, 5, 8)
    expected = model.decoder.output(second(mish(first(x))) + positions)
    torch.testing.assert_close(model.decoder(x, style, valid), expected)


def test_attention_scale_reaches_the_layers():
    usual = tiny_stylespeech()
    other = tiny_stylespeech(attention_scale="model_width")
    other.load_state_dict(usual.state_dict())
    assert usual(**tiny_batch())[0] != other(**tiny_batch())[0]


def test_stop_gradient_from_a_predictor():
    def gradient(names):
        model = tiny_stylespeech(
            stop_gradient_from=names, mel_weight=0, pitch_weight=0, energy_weight=0
        )
        model(**tiny_batch())[0].backward()
        assert model.predictors["duration"].output.weight.grad.abs().sum() > 0
        return model.encoder.output.weight.grad

    stopped = gradient(["duration"])
    assert stopped is None or stopped.abs().sum() == 0
    assert gradient([]).abs().sum() > 0
    assert gradient(["pitch"]).abs().sum() > 0


# ---- settings ----


def test_defaults_are_those_of_the_paper():
    # method section 4, table of dimensions
    parameters = inspect.signature(StyleSpeech).parameters
    expected = {
        "pruning": "none",
        "encoder_pruning": "none",
        "adim": 256,
        "aheads": 2,
        "elayers": 4,
        "eunits": 1024,
        "dlayers": 4,
        "dunits": 1024,
        "ffn_kernel_sizes": (9, 1),
        "encoder_prenet_kernel_size": 3,
        "decoder_prenet_units": 128,
        "attention_scale": "head_width",
        "style_units": 128,
        "style_dim": 128,
        "style_heads": 2,
        "style_kernel_size": 5,
        "predictor_units": 256,
        "predictor_kernel_size": 3,
        "predictor_dropout_rate": 0.5,
        "embedding_kernel_size": 3,
    }
    assert {name: parameters[name].default for name in expected} == expected
    with torch.device("meta"):
        model = StyleSpeech(idim=80, odim=80, pruning="differentiable")
    assert len(model.decoder_attentions) == 4
    conf = model.decoder_attentions[0].pruning_conf
    assert (conf.sparsity_ratio, conf.temperature, conf.sparsity_weight) == (
        0.45,
        0.01,
        1.0,
    )
    assert (conf.phase, conf.inference_mask, conf.threshold_scale) == (1, "hard", 1.0)
    assert (conf.frame_count, conf.sparsity_pairs) == ("valid", "valid")
    assert conf.dropout_position == "after_mask"


def test_thresholds_start_at_zero():
    model = tiny_stylespeech(pruning="differentiable")
    assert [a.threshold.item() for a in model.decoder_attentions] == [0.0, 0.0]
    stats = numbers(model(**tiny_batch())[1])
    assert stats["kept_share_1"] == stats["kept_mass_1"] == 1.0


def test_vanilla_shares_its_mask_and_differentiable_does_not_by_default():
    for name, conf, heads in (
        ("vanilla", {}, 1),
        ("vanilla", {"combine_heads": "none"}, 2),
        ("differentiable", {"phase": 2}, 2),
        ("differentiable", {"phase": 2, "combine_heads": "or"}, 1),
    ):
        model = tiny_stylespeech(pruning=name, pruning_conf=conf)
        with record_attention(model.decoder) as record:
            model(**tiny_batch())
        assert {maps.mask.size(1) for maps in record} == {heads}


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"pruning": "diferentiable"}, "diferentiable.*did you mean differentiable"),
        ({"pruning": "magic"}, "none, vanilla, differentiable"),
        ({"encoder_pruning": "magic"}, "encoder_pruning.*none, vanilla"),
        ({"pruning_conf": [1]}, "pruning_conf is .1.: write its settings"),
        ({"aheads": 0}, "aheads is 0: choose a whole number from 1"),
        ({"adim": "256"}, "adim is '256': choose a whole number from 1"),
        ({"encoder_dropout_rate": 1.5}, "encoder_dropout_rate is 1.5: choose a share"),
        ({"mel_weight": "a"}, "mel_weight is 'a': choose a number"),
        ({"ffn_kernel_sizes": [9]}, "ffn_kernel_sizes is .9.: choose two odd numbers"),
        (
            {"pruning": "vanilla", "encoder_pruning": "differentiable"},
            "phases of training, is vanilla: set pruning: differentiable too",
        ),
        (
            {
                "pruning": "differentiable",
                "encoder_pruning": "differentiable",
                "encoder_pruning_conf": {"phase": 2},
            },
            "encoder_pruning_conf.phase is 2, but pruning_conf.phase is 1",
        ),
        ({"pruning_conf": {"sparsity_ratio": 0.0}}, "sparsity_ratio is 0.0"),
        ({"pruning_conf": {"sparsity_ratio": 1}}, "sparsity_ratio is 1"),
        ({"pruning_conf": {"sparsity_ratio": -0.4}}, "sparsity_ratio is -0.4"),
        ({"pruning_conf": {"sparsity_ratio": "high"}}, "sparsity_ratio.*number"),
        ({"pruning_conf": {"sparsity_ratio": float("nan")}}, "sparsity_ratio"),
        ({"pruning_conf": {"temperature": 0}}, "temperature is 0"),
        ({"pruning_conf": {"temperature": -0.01}}, "temperature is -0.01"),
        ({"pruning_conf": {"temperature": float("nan")}}, "temperature"),
        ({"pruning_conf": {"sparsity_weight": -1}}, "sparsity_weight is -1"),
        ({"pruning_conf": {"threshold_scale": 0}}, "threshold_scale is 0"),
        ({"pruning_conf": {"phase": 3}}, "phase is 3.*1, 2"),
        ({"pruning_conf": {"phase": "one"}}, "phase is 'one'"),
        ({"pruning_conf": {"combine_heads": "and"}}, "combine_heads is 'and'"),
        ({"pruning_conf": {"inference_mask": "sharp"}}, "inference_mask.*hard, soft"),
        ({"pruning_conf": {"dropout_position": "never"}}, "dropout_position"),
        ({"pruning_conf": {"frame_count": "all"}}, "frame_count.*valid, padded"),
        ({"pruning_conf": {"sparsity_pairs": "all"}}, "sparsity_pairs"),
        (
            {"pruning_conf": {"sparsity_ration": 0.4}},
            "sparsity_ration.*did you mean sparsity_ratio",
        ),
        (
            {"encoder_pruning_conf": {"temprature": 0.1}},
            "temprature.*did you mean temperature",
        ),
        ({"adims": 16}, "adims.*did you mean adim"),
        ({"xyz": 16}, "tts_conf of stylespeech has no setting xyz: leave it out"),
        ({"durations": "guessed"}, "durations.*given, learned"),
        ({"attention_scale": "none"}, "attention_scale.*head_width, model_width"),
        ({"stop_gradient_from": ["mel"]}, "stop_gradient_from.*duration"),
        ({"adim": 8, "aheads": 3}, "adim / aheads is 8 / 3"),
        ({"style_units": 7, "style_heads": 2}, "style_units / style_heads"),
        ({"ffn_kernel_sizes": (4, 1)}, "ffn_kernel_sizes.*odd"),
        (
            {"encoder_conditioning": "mixstyle"},
            "encoder_conditioning.*did you mean mix_style",
        ),
        ({"mix_style_alpha": 0}, "mix_style_alpha is 0: choose a number above 0"),
        ({"sc_cnn_kernel_size": 4}, "sc_cnn_kernel_size.*odd"),
        ({"sc_cnn_channels": 0}, "sc_cnn_channels is 0"),
        ({"plugin_version": "999.0"}, "999.0.*update the plugin"),
    ],
)
def test_bad_settings_name_the_fault_in_one_line(setting, message):
    with pytest.raises(UserError, match=message):
        tiny_stylespeech(**setting)


def test_models_of_this_and_older_plugins_are_read():
    for version in (None, espnet_prune.__version__, "0.0.1"):
        tiny_stylespeech(plugin_version=version)


@pytest.mark.parametrize(
    "choice",
    [
        {"sparsity_weight": 0.1},
        {"combine_heads": "or"},
        {"frame_count": "padded"},
        {"sparsity_pairs": "padded"},
        {"temperature": 0.1},
    ],
)
def test_choices_that_the_paper_leaves_open_are_settings(choice):
    def loss(**conf):
        conf = dict(phase=1, threshold_init=1.0, **conf)
        model = tiny_stylespeech(pruning="differentiable", pruning_conf=conf)
        value = model(**tiny_batch())[0]
        value.backward()
        assert model.decoder_attentions[0].theta.grad.abs() > 0
        return value.item()

    assert math.isfinite(loss(**choice))
    assert loss(**choice) != loss()


def test_yaml_no_means_none():
    # YAML reads a bare `no` as false and an empty value as null
    for value in (False, None):
        model = tiny_stylespeech(pruning=value, encoder_pruning=value)
        assert "threshold_1" not in model(**tiny_batch())[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"durations": None}, "durations are missing"),
        ({"pitch": None}, "pitch is missing"),
        ({"energy": None}, "energy is missing"),
    ],
)
def test_missing_data_is_named(change, message):
    with pytest.raises(UserError, match=message):
        tiny_stylespeech()(**{**tiny_batch(), **change})


def test_durations_must_fit_text_and_speech():
    batch = tiny_batch()
    longer = dict(batch, durations=torch.nn.functional.pad(batch["durations"], (0, 1)))
    with pytest.raises(UserError, match="8 numbers for a text of 7 tokens"):
        tiny_stylespeech()(**longer)
    # of a shorter utterance too, though padding makes up for what it lacks
    short = int(batch["text_lengths"].argmin())
    for more in (-1, 1):
        lengths = batch["durations_lengths"].clone()
        lengths[short] += more
        with pytest.raises(UserError, match=f"{lengths[short]} numbers for a text of"):
            tiny_stylespeech()(**dict(batch, durations_lengths=lengths))
    wrong = batch["durations"].clone()
    wrong[0, 0], wrong[0, 1] = -1, wrong[0, :2].sum() + 1
    with pytest.raises(UserError, match="a duration is negative"):
        tiny_stylespeech()(**dict(batch, durations=wrong))
    wrong = batch["durations"].clone()
    wrong[0, 0] += 1
    with pytest.raises(UserError, match="do not add up to its mel frames"):
        tiny_stylespeech()(**dict(batch, durations=wrong))


def test_pitch_of_the_wrong_kind_is_named():
    with pytest.raises(UserError, match="use_token_averaged_f0: true"):
        frames = tiny_batch("learned")
        tiny_stylespeech()(**{**tiny_batch(), "pitch": frames["pitch"]})
    with pytest.raises(UserError, match="use_token_averaged_energy: false"):
        tokens = tiny_batch()
        model = tiny_stylespeech(durations="learned")
        model(**{**tiny_batch("learned"), "energy": tokens["energy"]})


def test_synthesis_needs_text_and_a_voice():
    model = talkative()
    feats = references()[0][0]
    with pytest.raises(UserError, match="no tokens"):
        model.inference(torch.zeros(0, dtype=torch.long), feats=feats)
    with pytest.raises(UserError, match="no reference speech"):
        model.inference(texts()[0])


# ---- devices ----


@pytest.mark.parametrize("name", PRUNINGS)
def test_a_training_step_needs_no_number_from_the_device(name):
    # Tensors of the meta device have no numbers: whoever asks for one fails. A GPU
    # would have to finish its queue first.
    model = tiny_stylespeech(**PRUNINGS[name]).to("meta").train()
    batch = {key: value.to("meta") for key, value in tiny_batch().items()}
    for _ in range(2):  # watched, and not
        loss, stats, _ = model(**batch)
        loss.backward()
        assert loss.is_meta and stats["mel_loss"].is_meta
        assert model.decoder.output.weight.grad.is_meta


def parts_of(model, length):
    """Return the parts that are compiled, with input of some length for each."""
    x, style = torch.randn(3, length, 8), torch.randn(3, STYLE_DIM)
    valid = (torch.arange(length) < torch.tensor([length, 5, 1])[:, None])[..., None]
    tokens = torch.ones(3, length, dtype=torch.long)
    return [
        (model.decoder, (x, style, valid)),
        (model.encoder, (tokens, style, valid)),
        (model.predictors["pitch"], (x, valid)),
    ]


@pytest.mark.slow  # inductor compiles C++
def test_parts_compile_to_one_graph_each_for_all_lengths():
    model = tiny_stylespeech(decoder_dropout_rate=0.1, **PRUNINGS["phase1"]).train()
    counters.clear()
    for number in range(3):
        part, _ = parts_of(model, 11)[number]
        part = torch.compile(part, fullgraph=True, dynamic=True, backend="eager")
        for length in (11, 17, 23):
            part(*parts_of(model, length)[number][1]).sum().backward()
        assert counters["stats"]["unique_graphs"] == number + 1
    assert model.decoder_attentions[0].theta.grad is not None


@pytest.mark.slow  # inductor compiles C++
def test_compiled_training_changes_no_weights_and_no_synthesis():
    plain, compiled = tiny_stylespeech(), tiny_stylespeech(compile_model=True)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    counters.clear()
    said = [
        model.eval().inference(texts()[0], feats=references()[0][0])["feat_gen"]
        for model in (plain, compiled)
    ]
    assert torch.equal(*said) and not counters["stats"]
