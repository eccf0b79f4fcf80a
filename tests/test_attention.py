"""attention.py: pruned attention against ESPnet's dense one and against the equations.

``slow_attention`` writes one utterance out: softmax, mask, product with the values,
no renormalisation, query by query and head by head.
"""

import copy
import math

import pytest
import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    LegacyRelPositionalEncoding,
    RelPositionalEncoding,
)
from espnet2.train.reporter import SubReporter, aggregate
from espnet2.tts.transformer import Transformer

from espnet_prune import UserError, prune_self_attention
from espnet_prune.attention import (
    PrunedLegacyRelPositionMultiHeadedAttention,
    PrunedMultiHeadedAttention,
    PrunedRelPositionMultiHeadedAttention,
    Watch,
    pruned_attentions,
    pruning_terms,
    record_attention,
    synthesising,
)
from espnet_prune.config import PruningConf

LENGTHS = (6, 1, 9, 2)
HEADS, WIDTH = 2, 8


def build(pruning="differentiable", dropout=0.0, scale="head_width", **conf):
    """One small layer whose attention is far from uniform."""
    torch.manual_seed(0)
    attention = PrunedMultiHeadedAttention(
        HEADS,
        WIDTH,
        dropout,
        pruning=pruning,
        pruning_conf=PruningConf(**conf),
        attention_scale=scale,
    )
    with torch.no_grad():
        attention.linear_q.weight.mul_(3)
        attention.linear_k.weight.mul_(3)
    return attention


def padded_batch(max_length=11):
    """Frames (B, T, D) with noise in the padding, and the key mask (B, 1, T)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(LENGTHS), max_length, WIDTH, generator=generator)
    valid = torch.arange(max_length) < torch.tensor(LENGTHS)[:, None]
    return x, valid[:, None]


def slow_attention(attention, x, theta, kind, union=False, temperature=0.01):
    """Attention of one utterance (N, D) by the equations of the paper, (N, D)."""
    length, d_k = len(x), WIDTH // HEADS
    q, k, v = attention.linear_q(x), attention.linear_k(x), attention.linear_v(x)
    masks, probabilities = [], []
    for h in range(HEADS):
        cut = slice(h * d_k, (h + 1) * d_k)
        rows, mask_rows = [], []
        for i in range(length):
            scores = torch.stack([q[i, cut] @ k[j, cut] for j in range(length)])
            row = torch.softmax(scores / math.sqrt(d_k), dim=0)
            z = row - theta / length
            rows.append(row)
            mask_rows.append(
                (z >= 0).to(row.dtype)
                if kind == "hard"
                else torch.sigmoid(z / temperature)
            )
        probabilities.append(torch.stack(rows))
        masks.append(torch.stack(mask_rows))
    if union:
        masks = [torch.stack(masks).amax(dim=0)] * HEADS
    heads = [
        (probabilities[h] * masks[h]) @ v[:, h * d_k : (h + 1) * d_k]
        for h in range(HEADS)
    ]
    return attention.linear_out(torch.cat(heads, dim=-1)), torch.stack(masks)


def dense_twin(attention, cls=MultiHeadedAttention):
    """ESPnet's own class with the same weights."""
    twin = cls(HEADS, WIDTH, 0.0)
    weights = {k: v for k, v in attention.state_dict().items() if k != "theta"}
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize(
    "pruning, conf",
    [
        ("none", {}),
        ("differentiable", {"phase": 2}),  # hard mask at theta = 0
        ("differentiable", {"phase": 2, "combine_heads": "or"}),
    ],
)
def test_equals_espnet_where_nothing_is_pruned(pruning, conf):
    attention = build(pruning, **conf)
    x, mask = padded_batch()
    expected = dense_twin(attention)(x, x, x, mask)
    for m, e in ((mask, expected), (None, dense_twin(attention)(x, x, x, None))):
        torch.testing.assert_close(attention(x, x, x, m), e, atol=1e-6, rtol=1e-6)
    # not idle: the same layer differs once there is a threshold
    if pruning != "none":
        pruned = build(pruning, threshold_init=1.2, **conf)
        assert (pruned(x, x, x, mask) - expected)[mask[:, 0]].abs().max() > 1e-2


@pytest.mark.parametrize(
    "pruning, conf, theta, kind, union",
    [
        ("vanilla", {}, 1.0, "hard", True),
        ("vanilla", {"combine_heads": "none"}, 1.0, "hard", False),
        ("differentiable", {"phase": 2, "threshold_init": 0.8}, 0.8, "hard", False),
        ("differentiable", {"phase": 1, "threshold_init": 0.8}, 0.8, "soft", False),
        ("differentiable", {"phase": 1}, 0.0, "soft", False),
        (
            "differentiable",
            {"phase": 2, "threshold_init": 1.5, "combine_heads": "or"},
            1.5,
            "hard",
            True,
        ),
        (
            "differentiable",
            {
                "phase": 1,
                "threshold_init": 1.5,
                "combine_heads": "or",
                "temperature": 0.1,
            },
            1.5,
            "soft",
            True,
        ),
    ],
)
def test_every_mask_is_the_equation(pruning, conf, theta, kind, union):
    attention = build(pruning, **conf)
    assert attention.threshold.item() == pytest.approx(theta)
    x, mask = padded_batch()
    with record_attention(attention) as record:
        out = attention(x, x, x, mask)
    assert len(record) == 1
    kept = []
    for b, length in enumerate(LENGTHS):
        expected, expected_mask = slow_attention(
            attention, x[b, :length], theta, kind, union, conf.get("temperature", 0.01)
        )
        torch.testing.assert_close(out[b, :length], expected, atol=1e-5, rtol=1e-5)
        actual_mask = record[0].mask[b, :, :length, :length].float()
        torch.testing.assert_close(
            actual_mask.expand(HEADS, -1, -1), expected_mask, atol=1e-5, rtol=1e-5
        )
        kept.append(expected_mask.flatten())
    kept = torch.cat(kept)
    assert kept.min() < 0.6 and kept.max() > 0.5  # something goes, something stays


def test_mask_is_not_renormalised():
    attention = build(phase=2, threshold_init=1.2)
    x, mask = padded_batch()
    with record_attention(attention) as record:
        attention(x, x, x, mask)
    maps = record[0]
    assert maps.dense.shape == maps.pruned.shape == (len(LENGTHS), HEADS, 11, 11)
    assert maps.mask.dtype == torch.bool
    torch.testing.assert_close(maps.pruned, maps.dense * maps.mask)
    valid_rows = mask[:, 0, None].expand(-1, HEADS, -1)
    dense_sums = maps.dense.sum(dim=-1)[valid_rows]
    torch.testing.assert_close(dense_sums, torch.ones_like(dense_sums))
    sums = maps.pruned.sum(dim=-1)[valid_rows]
    assert (sums < 0.99).any()  # what was pruned is missing from the row


def test_rows_that_lose_everything_give_the_output_bias():
    attention = build(phase=2, threshold_init=1000.0)
    x, mask = padded_batch()
    x.requires_grad_()
    out = attention(x, x, x, mask)
    torch.testing.assert_close(out, attention.linear_out.bias.expand_as(out))
    out.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert attention.statistics.kept_share == 0
    assert attention.statistics.kept_mass == 0


@pytest.mark.parametrize(
    "pruning, conf",
    [
        ("vanilla", {}),
        ("differentiable", {"phase": 1, "threshold_init": 1.2}),
        ("differentiable", {"phase": 2, "threshold_init": 1.2}),
    ],
)
def test_padding_changes_nothing(pruning, conf):
    attention = build(pruning, **conf)
    x, mask = padded_batch()
    out = attention(x, x, x, mask)
    numbers = attention.statistics
    disturbed = torch.where(mask.transpose(1, 2), x, 7 * torch.randn_like(x))
    wider_x, wider_mask = padded_batch(max_length=20)
    wider_x[:, :11] = x
    for other_x, other_mask in ((disturbed, mask), (wider_x, wider_mask)):
        other = attention(other_x, other_x, other_x, other_mask)
        for b, length in enumerate(LENGTHS):
            torch.testing.assert_close(
                other[b, :length], out[b, :length], atol=1e-5, rtol=1e-5
            )
        for name in ("kept_share", "kept_mass", "soft_means"):
            before, after = (
                getattr(numbers, name),
                getattr(attention.statistics, name),
            )
            if before is not None:
                torch.testing.assert_close(after, before)
    # one utterance alone: the same frames
    for b, length in enumerate(LENGTHS):
        alone = x[b : b + 1, :length]
        torch.testing.assert_close(
            attention(alone, alone, alone, None)[0],
            out[b, :length],
            atol=1e-5,
            rtol=1e-5,
        )


def test_statistics_are_means_of_single_utterances():
    attention = build(phase=1, threshold_init=1.2)
    x, mask = padded_batch()
    attention(x, x, x, mask)
    batch = attention.statistics
    singles = []
    for b, length in enumerate(LENGTHS):
        alone = x[b : b + 1, :length]
        attention(alone, alone, alone, torch.ones(1, 1, length, dtype=torch.bool))
        singles.append(attention.statistics)
    for name in ("soft_means", "kept_share", "kept_mass"):
        expected = torch.stack([getattr(s, name) for s in singles]).mean(dim=0)
        torch.testing.assert_close(getattr(batch, name), expected)
    assert batch.soft_means.shape == (HEADS,)
    assert batch.soft_means.requires_grad
    assert 0 < batch.kept_share < batch.kept_mass < 1


def test_phase_1_reports_what_the_hard_mask_would_keep():
    x, mask = padded_batch()
    soft, hard = (build(phase=p, threshold_init=1.2) for p in (1, 2))
    out_soft, out_hard = (attention(x, x, x, mask) for attention in (soft, hard))
    assert not torch.allclose(out_soft, out_hard)
    assert soft.statistics.kept_share == hard.statistics.kept_share
    assert soft.statistics.kept_mass == hard.statistics.kept_mass
    assert hard.statistics.soft_means is None


@pytest.mark.parametrize("inference_mask", ["hard", "soft"])
@pytest.mark.parametrize("phase", [1, 2])
def test_synthesis_uses_the_mask_of_inference(phase, inference_mask):
    attention = build(phase=phase, threshold_init=1.2, inference_mask=inference_mask)
    x, mask = padded_batch()
    attention.eval()
    with synthesising(attention):
        out = attention(x, x, x, mask)
    training_phase = 1 if inference_mask == "soft" else 2
    expected = build(phase=training_phase, threshold_init=1.2)(x, x, x, mask)
    torch.testing.assert_close(out, expected)
    # afterwards the phase decides again
    again = attention(x, x, x, mask)
    own = build(phase=phase, threshold_init=1.2)(x, x, x, mask)
    torch.testing.assert_close(again, own)


@pytest.mark.parametrize("position", ["after_mask", "before_mask"])
def test_dropout_leaves_the_mask_alone(position):
    attention = build(
        dropout=0.5, phase=2, threshold_init=1.2, dropout_position=position
    )
    x, mask = padded_batch()
    attention.train()
    torch.manual_seed(3)
    with record_attention(attention) as record:
        trained = attention(x, x, x, mask)
    attention.eval()
    with record_attention(attention) as calm:
        evaluated = attention(x, x, x, mask)
    assert not torch.allclose(trained, evaluated)
    # the mask is made from the probabilities before dropout, in either position
    assert torch.equal(record[0].mask, calm[0].mask)
    torch.testing.assert_close(record[0].dense, calm[0].dense)
    undropped = torch.allclose(record[0].pruned, record[0].dense * record[0].mask)
    assert undropped == (position == "after_mask")


def test_gradient_reaches_theta_in_phase_1_only():
    x, mask = padded_batch()
    soft = build(phase=1, threshold_init=1.2)
    soft(x, x, x, mask).square().sum().backward()
    assert soft.theta.grad.abs() > 0
    hard = build(phase=2, threshold_init=1.2)
    hard(x, x, x, mask).square().sum().backward()
    assert not hard.theta.requires_grad and hard.theta.grad is None
    assert hard.linear_q.weight.grad.abs().sum() > 0  # through A, which is kept


def test_threshold_scale_multiplies_the_step_of_theta():
    thetas = []
    for scale in (1.0, 10.0):
        attention = build(phase=1, threshold_init=0.6, threshold_scale=scale)
        assert attention.threshold.item() == pytest.approx(0.6)
        x, mask = padded_batch()
        adam = torch.optim.Adam([attention.theta], lr=0.01)
        attention(x, x, x, mask)
        attention.statistics.soft_means.sum().backward()
        adam.step()
        thetas.append(attention.threshold.item() - 0.6)
    assert thetas[0] == pytest.approx(0.01, rel=1e-3)  # grows: the mean falls with it
    assert thetas[1] == pytest.approx(0.1, rel=1e-3)


def test_attention_scale():
    x, mask = padded_batch()
    usual = build("none")
    by_model = build("none", scale="model_width")
    with record_attention(by_model) as record:
        by_model(x, x, x, mask)
    q = by_model.linear_q(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2)
    k = by_model.linear_k(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2)
    scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH)
    expected = scores.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)
    torch.testing.assert_close(record[0].dense, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(usual(x, x, x, mask), by_model(x, x, x, mask))


@pytest.mark.parametrize(
    "pruned, plain, encoding",
    [
        (
            PrunedRelPositionMultiHeadedAttention,
            RelPositionMultiHeadedAttention,
            RelPositionalEncoding,
        ),
        (
            PrunedLegacyRelPositionMultiHeadedAttention,
            LegacyRelPositionMultiHeadedAttention,
            LegacyRelPositionalEncoding,
        ),
    ],
)
def test_relative_position_classes_are_pruned_the_same_way(pruned, plain, encoding):
    x, mask = padded_batch()
    _, positions = encoding(WIDTH, 0.0)(x)

    def make(**conf):
        torch.manual_seed(0)
        return pruned(
            HEADS,
            WIDTH,
            0.0,
            pruning="differentiable",
            pruning_conf=PruningConf(phase=2, **conf),
        )

    dense, attention = make(), make(threshold_init=1.0)
    expected = dense_twin(dense, plain)(x, x, x, positions, mask)
    out = dense(x, x, x, positions, mask)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    with record_attention(attention) as record:
        out = attention(x, x, x, positions, mask)
    assert not torch.allclose(out, expected, atol=1e-3)
    kept = record[0].dense[2, :, :9, :9] >= 1 / 9
    assert torch.equal(record[0].mask[2, :, :9, :9], kept)
    assert kept.any() and not kept.all()


def test_causal_rows_have_their_own_uniform_weight():
    # query i may see i + 1 keys: its uniform weight is 1 / (i + 1)
    attention = build(phase=2, threshold_init=1.0)
    x = padded_batch()[0][2:3, :6]
    causal = torch.ones(1, 6, 6, dtype=torch.bool).tril()
    with record_attention(attention) as record:
        attention(x, x, x, causal)
    dense, mask = record[0].dense[0], record[0].mask[0]
    for i in range(6):
        expected = dense[:, i, : i + 1] >= 1 / (i + 1)
        assert torch.equal(mask[:, i, : i + 1], expected)
    assert not mask[:, causal[0]].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("phase", [1, 2])
def test_autocast_keeps_probabilities_and_masks_in_float32(dtype, phase):
    attention = build(phase=phase, threshold_init=1.2)
    x, mask = padded_batch()
    with torch.autocast("cpu", dtype=dtype), record_attention(attention) as record:
        out = attention(x, x, x, mask)
    maps = record[0]
    assert out.dtype == dtype  # the rest is as autocast decides
    assert maps.dense.dtype == maps.pruned.dtype == torch.float32
    counts = torch.tensor(LENGTHS, dtype=torch.float32)[:, None, None, None]
    z = maps.dense - 1.2 / counts
    if phase == 2:
        assert torch.equal(maps.mask, z >= 0)
    else:
        torch.testing.assert_close(maps.mask, torch.sigmoid(z / 0.01))
        assert attention.statistics.soft_means.dtype == torch.float32
    full = attention(x, x, x, mask)
    error = (out.float() - full)[mask[:, 0]].abs().max()
    assert 0 < error < 0.2
    out.float().square().sum().backward()
    assert torch.isfinite(attention.linear_q.weight.grad).all()


@pytest.mark.parametrize("setting", ["frame_count", "sparsity_pairs"])
def test_padded_length_can_be_counted_as_the_public_codes_do(setting):
    conf = {"phase": 1, "threshold_init": 1.2}
    usual, padded = build(**conf), build(**conf, **{setting: "padded"})
    x, mask = padded_batch()
    for attention in (usual, padded):
        attention(x, x, x, mask)
    before, after = usual.statistics, padded.statistics
    assert not torch.allclose(before.soft_means, after.soft_means)
    # of an utterance without padding both say the same
    alone = x[2:3, :9]
    for attention in (usual, padded):
        attention(alone, alone, alone, None)
    torch.testing.assert_close(usual.statistics, padded.statistics)


def test_record_stops_with_its_context():
    attention = build(phase=2)
    x, mask = padded_batch()
    with record_attention(attention) as record:
        attention(x, x, x, mask)
        attention(x, x, x, mask)
    attention(x, x, x, mask)
    assert len(record) == 2


# ---- any ESPnet model ----

SMALL_TRANSFORMER = {
    "idim": 12,
    "odim": 4,
    "embed_dim": 8,
    "eprenet_conv_layers": 0,
    "dprenet_layers": 1,
    "dprenet_dropout_rate": 0.0,  # it drops out in synthesis too
    "dprenet_units": 8,
    "elayers": 2,
    "eunits": 8,
    "adim": WIDTH,
    "aheads": HEADS,
    "dlayers": 2,
    "dunits": 8,
    "postnet_layers": 0,
}
SMALL_ENCODER = {
    "input_size": WIDTH,
    "output_size": WIDTH,
    "attention_heads": HEADS,
    "num_blocks": 3,
    "input_layer": "linear",
}


def transformer_encoder():
    """Transformer-TTS' encoder, and its input: tokens (B, T) and their mask."""
    tokens = torch.arange(44).reshape(4, 11) % 11 + 1
    return Transformer(**SMALL_TRANSFORMER).encoder, (tokens, padded_batch()[1])


def conformer_encoder(rel_pos_type):
    """A conformer of speech recognition, and its input."""
    encoder = ConformerEncoder(**SMALL_ENCODER, rel_pos_type=rel_pos_type)
    return encoder, (padded_batch(9)[0], torch.tensor(LENGTHS).clamp(min=3))


def branchformer_encoder():
    """Its layers name their attention otherwise."""
    encoder = BranchformerEncoder(**SMALL_ENCODER, cgmlp_linear_units=16)
    return encoder, (padded_batch(9)[0], torch.tensor(LENGTHS).clamp(min=3))


MODELS = [
    (transformer_encoder, MultiHeadedAttention, ("self_attn",)),
    (
        lambda: conformer_encoder("latest"),
        RelPositionMultiHeadedAttention,
        ("self_attn",),
    ),
    (
        lambda: conformer_encoder("legacy"),
        LegacyRelPositionMultiHeadedAttention,
        ("self_attn",),
    ),
    (branchformer_encoder, RelPositionMultiHeadedAttention, ("attn",)),
]


@pytest.mark.parametrize("make, kind, names", MODELS)
@pytest.mark.parametrize("pruning", ["none", "differentiable"])
def test_a_pruned_model_at_threshold_0_is_the_one_it_was(make, kind, names, pruning):
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    expected = model(*inputs)[0]
    attentions = [m for m in model.modules() if isinstance(m, kind)]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    pruned = prune_self_attention(model, pruning, {"phase": 2}, names)
    assert pruned == attentions == pruned_attentions(model)  # the same, in their order
    assert len(pruned) > 1
    torch.testing.assert_close(model(*inputs)[0], expected, atol=1e-6, rtol=1e-6)
    after = model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert len(after) - len(weights) == len(pruned) * (pruning == "differentiable")
    assert not any(layer.training for layer in model.modules())


@pytest.mark.parametrize("make, kind, names", MODELS)
def test_a_pruned_model_prunes_every_layer_and_trains(make, kind, names):
    torch.manual_seed(0)
    model, inputs = make()
    expected = model.eval()(*inputs)[0]
    pruned = prune_self_attention(model, "differentiable", {"threshold_init": 1}, names)
    for attention in pruned:
        attention.linear_q.weight.data *= 3
    with synthesising(model), record_attention(model) as record:
        out = model(*inputs)[0]
    assert (out - expected).abs().max() > 1e-4
    assert len(record) == len(pruned)
    for maps in record:
        assert maps.mask.dtype == torch.bool
        assert maps.mask.any() and not maps.mask[maps.dense > 0].all()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model.train()(*inputs)
    sum(attention.statistics.soft_means.sum() for attention in pruned).backward()
    optimiser.step()
    for attention in pruned:
        assert attention.threshold > 1


def test_a_layer_that_stochastic_depth_skips_adds_nothing():
    encoder, inputs = conformer_encoder("latest")
    prune_self_attention(encoder.train(), "differentiable")
    encoder(*inputs)
    loss, both = pruning_terms({"": encoder})
    loss.backward()
    encoder.encoders[0].stochastic_depth_rate = 1 - 1e-9  # skipped from now on
    encoder(*inputs)
    loss, stats = pruning_terms({"": encoder})
    loss.backward()  # not through the graph of the pass before
    assert "soft_mean_1" in both and "soft_mean_1" not in stats
    assert "soft_mean_2" in stats


def test_queries_without_a_key_attend_to_nothing_as_in_espnet():
    torch.manual_seed(0)
    layer = torch.nn.Module()
    layer.self_attn = MultiHeadedAttention(HEADS, WIDTH, 0.0)
    x = torch.randn(1, 5, WIDTH)
    mask = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    mask[:, 3:] = False
    expected = layer.self_attn(x, x, x, mask)
    (attention,) = prune_self_attention(layer, "none")
    torch.testing.assert_close(attention(x, x, x, mask), expected)


def autoregressive():
    """Transformer-TTS with its pruned twin, and a batch of both sequences."""
    torch.manual_seed(0)
    dense = Transformer(**SMALL_TRANSFORMER).eval()
    model = copy.deepcopy(dense)
    memory = torch.randn(2, 5, WIDTH)
    memory_mask = torch.ones(2, 1, 5, dtype=torch.bool)
    mels = torch.randn(2, 7, 4)
    lengths = torch.tensor([7, 4])
    valid = (torch.arange(7) < lengths[:, None])[:, None]
    causal = valid & torch.ones(7, 7, dtype=torch.bool).tril()
    return dense.decoder, model.decoder, (mels, causal, memory, memory_mask)


def test_decoders_are_pruned_in_self_attention_alone():
    dense, decoder, inputs = autoregressive()
    pruned = prune_self_attention(decoder, "vanilla")
    assert pruned == [layer.self_attn for layer in decoder.decoders]
    for layer in decoder.decoders:
        assert type(layer.src_attn) is MultiHeadedAttention
    with record_attention(decoder) as record:
        out = decoder(*inputs)[0]
    assert (out - dense(*inputs)[0]).abs().max() > 1e-4
    for maps in record:  # 1/N of as many keys as the frame may attend to
        for i in range(7):
            kept = (maps.dense[0, :, i, : i + 1] >= 1 / (i + 1)).any(dim=0)
            assert torch.equal(maps.mask[0, 0, i, : i + 1], kept)
    # of the second utterance four frames count
    share, mass = pruned[0].statistics[1:]
    again = [part[1:, :4] if part.size(1) == 7 else part[1:] for part in inputs]
    again[1] = again[1][..., :4]
    decoder(*again)
    second = pruned[0].statistics
    first = [part[:1] for part in inputs]
    decoder(*first)
    first = pruned[0].statistics
    torch.testing.assert_close(share, (first[1] + second[1]) / 2)
    torch.testing.assert_close(mass, (first[2] + second[2]) / 2)


def test_step_by_step_decoding_gives_the_same_frames():
    _, decoder, (mels, _, memory, _) = autoregressive()
    prune_self_attention(decoder, "differentiable", {"phase": 2, "threshold_init": 1})
    causal = torch.ones(1, 7, 7, dtype=torch.bool).tril()
    whole = decoder(mels[:1], causal, memory[:1], None)[0]
    cache = None
    for i in range(7):
        frame, cache = decoder.forward_one_step(
            mels[:1, : i + 1], causal[:, : i + 1, : i + 1], memory[:1], cache=cache
        )
        torch.testing.assert_close(frame, whole[:, i], atol=1e-5, rtol=1e-5)
    share = decoder.decoders[0].self_attn.statistics.kept_share  # of the last frame
    assert share * 7 * HEADS == pytest.approx(round(float(share) * 7 * HEADS), abs=1e-4)


def test_layers_that_share_an_attention_share_its_threshold():
    encoder, _ = transformer_encoder()
    encoder.encoders[1].self_attn = encoder.encoders[0].self_attn
    assert len(prune_self_attention(encoder, "differentiable", {"phase": 2})) == 1
    assert [name for name in encoder.state_dict() if "theta" in name] == [
        "encoders.0.self_attn.theta",
        "encoders.1.self_attn.theta",
    ]
    assert len([n for n, _ in encoder.named_parameters() if "theta" in n]) == 1


def test_fused_kernels_are_left_and_their_dropout_kept():
    layer = torch.nn.Module()
    layer.self_attn = MultiHeadedAttention(HEADS, WIDTH, 0.5, use_flash_attn=True)
    layer.other = MultiHeadedAttention(HEADS, WIDTH, 0.5, use_sdpa=True)
    (attention,) = prune_self_attention(layer.eval(), "vanilla")
    x, mask = padded_batch()
    calm = attention(x, x, x, mask)
    torch.testing.assert_close(attention(x, x, x, mask), calm)
    layer.train()
    assert not torch.allclose(attention(x, x, x, mask), calm)
    assert layer.other.use_sdpa  # not self-attention by its name


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pruning": "dense"}, "pruning is 'dense'"),
        ({"pruning": "vanilla", "pruning_conf": {"phases": 1}}, "did you mean phase"),
        ({"pruning": "vanilla", "names": ("attn",)}, "Encoder has no layer with attn"),
        (
            {"pruning": "vanilla", "attention_scale": "none"},
            "attention_scale is 'none'",
        ),
    ],
)
def test_what_cannot_be_pruned_is_left_as_it_was(arguments, message):
    encoder, _ = transformer_encoder()
    before = str(encoder)
    with pytest.raises(UserError, match=message):
        prune_self_attention(encoder, **arguments)
    encoder.encoders[1].self_attn = torch.nn.MultiheadAttention(WIDTH, HEADS)
    with pytest.raises(UserError, match="1.self_attn is a MultiheadAttention, which"):
        prune_self_attention(encoder, "vanilla")
    encoder.encoders[1].self_attn = MultiHeadedAttention(HEADS, WIDTH, 0.1)
    assert str(encoder) == before
    prune_self_attention(encoder, "vanilla")
    with pytest.raises(UserError, match="is pruned already"):
        prune_self_attention(encoder, "vanilla")


# ---- passes that nobody watches ----

FAST = [
    ("none", {}),
    ("vanilla", {}),
    ("vanilla", {"combine_heads": "none"}),
    ("differentiable", {"phase": 1}),
    ("differentiable", {"phase": 1, "sparsity_pairs": "padded"}),
    ("differentiable", {"phase": 1, "frame_count": "padded"}),
    ("differentiable", {"phase": 1, "combine_heads": "or"}),
    ("differentiable", {"phase": 2}),
    (
        "differentiable",
        {"phase": 2, "combine_heads": "or", "dropout_position": "before_mask"},
    ),
]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("lengths", [(1,), (11, 6, 1), (0, 3)])
@pytest.mark.parametrize("pruning, conf", FAST)
def test_unwatched_pass_has_the_same_values_and_gradients(
    pruning, conf, lengths, dropout
):
    start = {"threshold_init": 1.1} if pruning == "differentiable" else {}
    attention = build(pruning, dropout, **start, **conf).double().train()
    lengths = torch.tensor(lengths)
    size = max(int(lengths.max()), 5)
    mask = torch.arange(size) < lengths[:, None, None]
    frames = torch.randn(len(lengths), size, WIDTH, dtype=torch.float64)
    results, statistics = [], []
    for watched in (True, False):
        attention.watched = watched
        attention.zero_grad()
        torch.manual_seed(1)  # dropout draws the same
        x = frames.clone().requires_grad_()
        y = attention(x, x, x, mask)
        loss, stats = pruning_terms({"": attention})
        (y.square().sum() + loss).backward()
        statistics.append(stats)
        gradients = {n: p.grad for n, p in attention.named_parameters()}
        results.append({**gradients, "x": x.grad, "y": y, "loss": loss})
    plain, fast = statistics
    assert plain.keys() == fast.keys() and ("kept_share_1" in plain) == (
        pruning != "none"
    )
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value)
    plain, fast = results
    for name, value in plain.items():
        if value is None:
            assert fast[name] is None, name
        else:
            torch.testing.assert_close(fast[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pruning, conf", FAST)
def test_unwatched_pass_in_bfloat16(pruning, conf):
    attention = build(pruning, **conf)
    frames, mask = padded_batch()
    results = []
    for watched in (True, False):
        attention.watched = watched
        attention.zero_grad()
        x = frames.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = attention(x, x, x, mask)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        results.append((y.float(), x.grad, attention.linear_q.weight.grad))
    for plain, fast in zip(*results, strict=True):
        assert (plain - fast).norm() < 0.02 * plain.norm()


def test_synthesis_keeps_no_map_and_leaves_watching_as_it_was():
    attention = build(phase=2)
    frames, mask = padded_batch()
    with synthesising(attention):
        attention(frames, frames, frames, mask)
        assert attention.attn is None and attention.statistics is None
    attention(frames, frames, frames, mask)
    assert attention.attn is not None and attention.statistics is not None


def test_training_is_counted_every_tenth_step_and_validation_always():
    attention, watch = build(), Watch()
    for _ in range(2):  # epochs
        counted = []
        for _ in range(25):
            watch(attention.train())
            assert not attention.watched
            counted.append(attention.counted)
        assert [step for step, seen in enumerate(counted) if seen] == [0, 10, 20]
        for _ in range(3):
            watch(attention.eval())
            assert attention.counted and attention.watched


def test_only_what_the_loss_needs_is_computed_in_a_pass_that_is_not_counted():
    frames, mask = padded_batch()
    for watched in (True, False):
        attention = build()
        attention.watched, attention.counted = watched, False
        attention(frames, frames, frames, mask)
        loss, stats = pruning_terms({"": attention})
        assert loss.requires_grad
        assert set(stats) == {"threshold_1", "soft_mean_1", "sparsity_loss"}


def test_reporter_averages_the_steps_that_were_counted():
    reporter = SubReporter("train", 1, 0)
    attention, watch = build(), Watch()
    frames, mask = padded_batch()
    for step in range(20):
        watch(attention)
        attention(frames, frames, frames, mask)
        stats = pruning_terms({"": attention})[1]
        reporter.register({k: v.detach() for k, v in stats.items()}, weight=4)
        reporter.next()
        if step % 10 == 0:
            expected = stats["kept_share_1"].item()
    assert f"kept_share_1={expected:.3f}" in reporter.log_message(-10)
    values = reporter.stats["kept_share_1"]
    assert len(values) == 20 and aggregate(values) == pytest.approx(expected)
