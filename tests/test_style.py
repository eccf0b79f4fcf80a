"""style.py: the parts that are bent to a voice, method section 4."""

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)

from espnet_prune.style import (
    ConvFeedForward,
    FFTBlock,
    MelStyleEncoder,
    StyleAdaptiveLayerNorm,
)

LENGTHS = (5, 9, 1)


def padded(size, max_length=9, seed=0):
    """Return noise (B, T, size), also in the padding, and valid (B, T, 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(LENGTHS), max_length, size, generator=generator)
    valid = torch.arange(max_length) < torch.tensor(LENGTHS)[:, None]
    return x, valid[..., None]


def fft_block(dropout_rate=0.0):
    """One tiny block, dense attention, style width 3."""
    torch.manual_seed(0)
    return FFTBlock(
        MultiHeadedAttention(2, 8, dropout_rate),
        ConvFeedForward(8, 16, (3, 1), dropout_rate),
        8,
        3,
        dropout_rate,
    )


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


def test_fft_block_shapes_and_zero_padding():
    block = fft_block()
    x, valid = padded(8)
    out = block(x * valid, torch.randn(3, 3), valid)
    assert out.shape == x.shape
    assert torch.equal(out * ~valid, torch.zeros_like(out))
    assert (out.abs().sum(dim=-1)[valid[..., 0]] > 0).all()


def test_fft_block_gives_each_utterance_what_it_gives_alone():
    block = fft_block()
    x, valid = padded(8)
    style = torch.randn(3, 3, generator=torch.manual_seed(2))
    out = block(x * valid, style, valid)
    noisy = block(x * valid + 5 * torch.randn_like(x) * ~valid, style, valid)
    torch.testing.assert_close(noisy, out, atol=1e-5, rtol=1e-5)
    for b, length in enumerate(LENGTHS):
        one = torch.ones(1, length, 1, dtype=torch.bool)
        alone = block(x[b : b + 1, :length], style[b : b + 1], one)
        torch.testing.assert_close(out[b, :length], alone[0], atol=1e-5, rtol=1e-5)


def test_fft_block_is_post_norm():
    # the last operation is the norm: every valid frame has the style's gain and bias
    block = fft_block()
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
