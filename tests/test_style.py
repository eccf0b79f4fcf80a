"""style.py: the parts that adapt to a voice, method section 4."""

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)

from espnet_prune.style import (
    ConvFeedForward,
    FFTBlock,
    MelStyleEncoder,
    MixStyleLayerNorm,
    StyleAdaptiveLayerNorm,
    StyleConvBlock,
    StyleConvolution,
    draw_mix,
)

LENGTHS = (5, 9, 1)


def padded(size, max_length=9, seed=0):
    """Return noise (B, T, size), also in the padding, and valid (B, T, 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(LENGTHS), max_length, size, generator=generator)
    valid = torch.arange(max_length) < torch.tensor(LENGTHS)[:, None]
    return x, valid[..., None]


def fft_block(mix_style_alpha=None):
    """One tiny block, dense attention, style width 3."""
    torch.manual_seed(0)
    return FFTBlock(
        MultiHeadedAttention(2, 8, 0.0),
        ConvFeedForward(8, 16, (3, 1), 0.0),
        8,
        3,
        0.0,
        mix_style_alpha,
    )


def conv_block():
    """Return the same with SC-CNN: 4 channels, kernels of 5 taps."""
    torch.manual_seed(0)
    return StyleConvBlock(MultiHeadedAttention(2, 8, 0.0), 8, 4, 5, 3, 0.0)


BLOCKS = {
    "saln": fft_block,
    "mix_style": lambda: fft_block(0.2).eval(),
    "sc_cnn": conv_block,
}


def test_saln_is_a_layer_norm_with_gain_and_bias_from_the_style():
    torch.manual_seed(0)
    norm = StyleAdaptiveLayerNorm(6, 3)
    x, style = 3 + 2 * torch.randn(2, 4, 6), torch.randn(2, 3)
    gain, bias = norm.affine(style)[:, :6], norm.affine(style)[:, 6:]
    out = norm(x, style)
    for b in range(2):
        for t in range(4):
            row = x[b, t]
            spread = (row.var(unbiased=False) + 1e-5).sqrt()
            expected = gain[b] * (row - row.mean()) / spread + bias[b]
            torch.testing.assert_close(out[b, t], expected, atol=1e-5, rtol=1e-5)
    # two voices, two results
    assert not torch.allclose(norm(x, style), norm(x, style.flip(0)), atol=1e-2)


def test_saln_is_neutral_at_the_start():
    # gain 1, shift 0: with no style there is the plain norm of the host
    norm = StyleAdaptiveLayerNorm(6, 3)
    x = 3 + 2 * torch.randn(2, 4, 6)
    expected = torch.nn.functional.layer_norm(x, (6,))
    torch.testing.assert_close(norm(x, torch.zeros(2, 3)), expected)
    assert torch.equal(norm.affine.bias[:6], torch.ones(6))
    assert torch.equal(norm.affine.bias[6:], torch.zeros(6))


def mix_style_norm():
    torch.manual_seed(0)
    return MixStyleLayerNorm(6, 3, alpha=0.2).double()


def test_mix_style_norm_is_saln_without_training():
    norm = mix_style_norm().eval()
    saln = StyleAdaptiveLayerNorm(6, 3).double()
    saln.load_state_dict(norm.state_dict())
    x, style = torch.randn(4, 5, 6).double(), torch.randn(4, 3).double()
    assert torch.equal(norm(x, style), saln(x, style))


def test_mix_style_norm_mixes_gains_and_biases_of_the_batch_in_training():
    # by one share for each utterance, with those of another utterance of the batch
    norm = mix_style_norm().train().requires_grad_(False)
    x, style = torch.randn(4, 5, 6).double(), torch.randn(4, 3).double()
    gains, biases = norm.affine(style).chunk(2, dim=-1)
    torch.manual_seed(1)
    out = norm(x, style)
    plain = torch.nn.functional.layer_norm(x, (6,))
    shares = []
    for b in range(4):
        found = None
        for other in range(4):
            own = gains[b] * plain[b] + biases[b]
            foreign = gains[other] * plain[b] + biases[other]
            step = own - foreign
            share = 1.0
            if other != b:
                share = ((out[b] - foreign) * step).sum() / step.square().sum()
            mixed = share * own + (1 - share) * foreign
            if torch.allclose(out[b], mixed, atol=1e-9, rtol=0):
                found = float(share)
        assert found is not None and -1e-9 <= found <= 1 + 1e-9
        shares.append(found)
    assert min(shares) < 0.9  # and not only with itself
    assert not torch.equal(norm(x, style), out)  # another draw


def test_shares_are_drawn_from_a_beta_distribution():
    torch.manual_seed(0)
    order, share = draw_mix(torch.zeros(20_000, 3, dtype=torch.float64), 0.2)
    assert sorted(order.tolist()) == list(range(20_000))
    assert share.shape == (20_000, 1) and share.dtype == torch.float64
    assert share.min() >= 0 and share.max() <= 1
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.005)


def test_mixing_styles_has_the_gradient_of_its_equation(monkeypatch):
    style = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    share = torch.tensor([[0.25], [0.9], [0.0]], dtype=torch.float64)
    order = torch.tensor([1, 2, 2])
    norm = mix_style_norm()
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    norm.affine = torch.nn.Linear(4, 12).double()
    mixed = torch.stack([0.25 * style[0] + 0.75 * style[1], *style[[2, 2]]])
    mixed[1] = 0.9 * style[1] + 0.1 * style[2]
    wanted = norm.eval()(x, mixed)
    monkeypatch.setattr("espnet_prune.style.draw_mix", lambda *_: (order, share))
    torch.testing.assert_close(norm.train()(x, style), wanted)
    assert torch.autograd.gradcheck(lambda value: norm(x, value), style)


def style_convolution():
    torch.manual_seed(0)
    return StyleConvolution(channels=2, kernel_size=3, style_dim=4).double()


def test_style_convolution_is_its_equation():
    # depthwise, then pointwise; the norm of every kernel is its gain
    layer = style_convolution().requires_grad_(False)
    x, style = torch.randn(2, 5, 2).double(), torch.randn(2, 4).double()
    out = layer(x, style)
    for b in range(2):
        raw = layer.predictor(style[b]).tolist()
        deep = [raw[0:3], raw[3:6]]
        points = [raw[6:8], raw[8:10]]
        gains, point_gains = raw[10:12], raw[12:14]
        biases, point_biases = raw[14:16], raw[16:18]
        for t in range(5):
            inner = []
            for c in range(2):
                norm = sum(weight**2 for weight in deep[c]) ** 0.5
                total = biases[c]
                for k in range(3):
                    if 0 <= t + k - 1 < 5:
                        weight = gains[c] * deep[c][k] / norm
                        total += weight * float(x[b, t + k - 1, c])
                inner.append(total)
            for c in range(2):
                norm = sum(weight**2 for weight in points[c]) ** 0.5
                products = [w * v for w, v in zip(points[c], inner, strict=True)]
                expected = point_gains[c] * sum(products) / norm + point_biases[c]
                assert float(out[b, t, c]) == pytest.approx(expected, abs=1e-12)


def test_kernels_start_with_norm_one_and_without_bias():
    layer = style_convolution()
    kernels = layer.kernels(torch.zeros(1, 4).double())
    for name in ("depthwise", "pointwise"):
        norms = kernels[name].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        assert not kernels[f"{name}_bias"].any()


def test_style_convolution_has_the_gradient_of_its_equation():
    layer = style_convolution()
    x = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    style = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, style))


def test_a_style_reaches_only_its_own_utterance():
    layer = style_convolution()
    x = torch.randn(1, 5, 2).double().expand(2, -1, -1)
    style = torch.randn(2, 4).double()
    out = layer(x, style)
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    torch.testing.assert_close(layer(x, style.flip(0)), out.flip(0))


def test_feed_forward_is_two_convolutions_with_mish_between():
    torch.manual_seed(0)
    layer = ConvFeedForward(4, 8, (9, 1), 0.0)
    x = torch.randn(1, 7, 4)
    out = layer(x, torch.ones(1, 7, 1, dtype=torch.bool))
    assert out.shape == x.shape
    around = torch.nn.functional.pad(x[0], (0, 0, 4, 4))
    for t in range(7):
        window = around[t : t + 9].T  # (in, kernel)
        hidden = (layer.conv1.weight * window).sum(dim=(1, 2)) + layer.conv1.bias
        hidden = hidden * torch.tanh(torch.nn.functional.softplus(hidden))
        expected = layer.conv2.weight[..., 0] @ hidden + layer.conv2.bias
        torch.testing.assert_close(out[0, t], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel_sizes", [(9, 1), (3, 5)])
def test_feed_forward_does_not_see_padding(kernel_sizes):
    torch.manual_seed(0)
    layer = ConvFeedForward(4, 8, kernel_sizes, 0.0)
    x, valid = padded(4)
    out = layer(x, valid)
    for b, length in enumerate(LENGTHS):
        one = torch.ones(1, length, 1, dtype=torch.bool)
        alone = layer(x[b : b + 1, :length], one)
        torch.testing.assert_close(out[b, :length], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_shapes_and_zero_padding(kind):
    block = BLOCKS[kind]()
    x, valid = padded(8)
    out = block(x * valid, torch.randn(3, 3), valid)
    assert out.shape == x.shape
    assert torch.equal(out * ~valid, torch.zeros_like(out))
    assert (out.abs().sum(dim=-1)[valid[..., 0]] > 0).all()


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_gives_each_utterance_what_it_gives_alone(kind):
    block = BLOCKS[kind]()
    x, valid = padded(8)
    style = torch.randn(3, 3, generator=torch.manual_seed(2))
    out = block(x * valid, style, valid)
    noisy = block(x * valid + 5 * torch.randn_like(x) * ~valid, style, valid)
    torch.testing.assert_close(noisy, out, atol=1e-5, rtol=1e-5)
    for b, length in enumerate(LENGTHS):
        one = torch.ones(1, length, 1, dtype=torch.bool)
        alone = block(x[b : b + 1, :length], style[b : b + 1], one)
        torch.testing.assert_close(out[b, :length], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_is_post_norm(kind):
    # the last operation is the norm: every valid frame has the style's gain and bias
    block = BLOCKS[kind]()
    x, valid = padded(8)
    out = block(x * valid, torch.zeros(3, 3), valid)[valid[..., 0]]
    torch.testing.assert_close(
        out.mean(dim=-1), torch.zeros(len(out)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        out.var(dim=-1, unbiased=False), torch.ones(len(out)), atol=1e-3, rtol=0
    )


def style_encoder(dropout_rate=0.0):
    """Return a tiny mel style encoder: 6 mel bins, style width 3."""
    torch.manual_seed(0)
    return MelStyleEncoder(6, units=8, style_dim=3, dropout_rate=dropout_rate)


def test_style_encoder_gives_one_vector_whatever_the_padding():
    encoder = style_encoder()
    x, valid = padded(6)
    style = encoder(x, valid)
    assert style.shape == (3, 3)
    noisy = encoder(torch.where(valid, x, 9 * torch.randn_like(x)), valid)
    torch.testing.assert_close(noisy, style, atol=1e-5, rtol=1e-5)
    for b, length in enumerate(LENGTHS):
        one = torch.ones(1, length, 1, dtype=torch.bool)
        alone = encoder(x[b : b + 1, :length], one)
        torch.testing.assert_close(style[b], alone[0], atol=1e-5, rtol=1e-5)
    assert (style[0] - style[1]).abs().max() > 1e-3  # it does listen


@pytest.mark.parametrize("value", [0.0, -11.5, 1e4])
def test_constant_frames_stay_finite(value):
    encoder, block = style_encoder(), fft_block()
    feats = torch.full((1, 4, 6), value, requires_grad=True)
    valid = torch.ones(1, 4, 1, dtype=torch.bool)
    style = encoder(feats, valid)
    frames = torch.full((1, 4, 8), value, requires_grad=True)
    out = block(frames, style, valid)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(feats.grad).all() and torch.isfinite(frames.grad).all()


def test_style_of_repeated_frames_is_independent_of_their_order_at_kernel_one():
    # The mean over time and self-attention do not know the order of frames; the gated
    # convolutions do. With kernel 1 the whole encoder does not.
    torch.manual_seed(0)
    encoder = MelStyleEncoder(6, units=8, style_dim=3, kernel_size=1, dropout_rate=0.0)
    x = torch.randn(1, 7, 6)
    valid = torch.ones(1, 7, 1, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, valid), encoder(x.flip(1), valid))
    by_default = style_encoder()
    assert not torch.allclose(
        by_default(x, valid), by_default(x.flip(1), valid), atol=1e-5
    )
