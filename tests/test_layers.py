"""The fast dropout and convolution against those of torch: values, gradients, draws."""

import pytest
import torch

from espnet_prune import layers

CHANNELS = [(3, 5), (layers.LEAST_CHANNELS, 7)]  # one product, products by phases


def plain(conv, x):
    return conv(x.transpose(1, 2)).transpose(1, 2)


def gradients(function, conv, x, weights):
    x = x.clone().requires_grad_()
    conv.zero_grad()
    y = function(conv, x)
    (y * weights).sum().backward()
    return [y, x.grad, conv.weight.grad, conv.bias.grad]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("taps", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 11, 30])
@pytest.mark.parametrize("batch", [1, 3])
def test_convolution_has_values_and_gradients_of_conv1d(channels, taps, length, batch):
    torch.manual_seed(0)
    conv = layers.same_conv(*channels, taps).double()
    x = torch.randn(batch, length, channels[0], dtype=torch.float64)
    weights = torch.randn(batch, length, channels[1], dtype=torch.float64)
    for mine, theirs in zip(
        gradients(layers.convolve, conv, x, weights),
        gradients(plain, conv, x, weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_rounding_error_of_float32_stays_that_of_conv1d():
    torch.manual_seed(0)
    conv = layers.same_conv(256, 64, 9)
    x, weights = torch.randn(2, 200, 256), torch.randn(2, 200, 64)
    mine = gradients(layers.convolve, conv, x, weights)
    theirs = gradients(plain, conv, x, weights)
    exact = gradients(plain, conv.double(), x.double(), weights.double())
    for fast, slow, truth in zip(mine, theirs, exact, strict=True):
        allowed = max(5 * (slow - truth).norm(), 1e-6 * truth.norm())
        assert (fast - truth).norm() < allowed


@pytest.mark.parametrize("channels", CHANNELS)
def test_half_precision_is_left_to_torch(channels):
    torch.manual_seed(0)
    x = torch.randn(2, 7, channels[0])
    conv = layers.same_conv(*channels, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = layers.convolve(conv, x), plain(conv, x)
    assert mine.dtype == torch.bfloat16 and torch.equal(mine, theirs)
    conv, x = conv.to(torch.bfloat16), x.to(torch.bfloat16)
    assert torch.equal(layers.convolve(conv, x), plain(conv, x))


def test_non_finite_input_reaches_only_its_neighbours():
    conv = layers.same_conv(layers.LEAST_CHANNELS, 4, 3)
    x = torch.zeros(2, 30, layers.LEAST_CHANNELS)
    x[0, 29] = float("nan")
    y = layers.convolve(conv, x)
    assert y[1].isfinite().all() and y[0, :21].isfinite().all()
    assert y[0, 28:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_rate_the_mean_and_the_gradient(dtype, rate):
    torch.manual_seed(0)
    x = torch.ones(7, 11, 997, dtype=dtype, requires_grad=True)  # an odd number
    y = layers.Dropout(rate)(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - rate) < 0.006
    kept = y[y != 0]
    assert torch.equal(kept, kept[0].expand_as(kept))
    assert abs(y.detach().double().mean().item() - 1) < 0.02
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_draws_anew_and_repeats_with_the_seed():
    dropout, x = layers.Dropout(0.3), torch.ones(1000)
    torch.manual_seed(0)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), first) and not torch.equal(first, second)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (layers.Dropout(0.5)(torch.ones(1000, 512)) == 0).double()
    for step in (1, 2, 8, 64, 256):
        both = (dropped[:, step:] * dropped[:, :-step]).mean().item()
        assert abs(both - 0.25) < 0.01


@pytest.mark.parametrize("rate, share", [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_of_nothing_and_of_all(rate, share):
    x = torch.ones(5, requires_grad=True)
    y = layers.Dropout(rate)(x)
    y.sum().backward()
    assert torch.equal(y, share * x) and torch.equal(x.grad, share * torch.ones(5))


def test_dropout_does_nothing_outside_training():
    x = torch.randn(3, 4)
    assert torch.equal(layers.Dropout(0.5).eval()(x), x)


def test_mish_is_that_of_torch():
    x = torch.cat([torch.linspace(-60, 60, 2001), torch.tensor([1e4, -1e4])]).double()
    results = []
    for function in (layers.mish, torch.nn.functional.mish):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.sum().backward()
        results.append((y, leaf.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)
    x = x.float()
    torch.testing.assert_close(layers.mish(x), torch.nn.functional.mish(x))


def test_convolution_trains_after_it_has_synthesised():
    layers._matrices.cache_clear()
    conv = layers.same_conv(layers.LEAST_CHANNELS, 4, 3)
    x = torch.randn(1, 5, layers.LEAST_CHANNELS)
    with torch.inference_mode():
        layers.convolve(conv, x)
    layers.convolve(conv, x).sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_synthesis_follows_the_weights():
    torch.manual_seed(0)
    conv = layers.same_conv(layers.LEAST_CHANNELS, 4, 3).double()
    x = torch.randn(1, 5, layers.LEAST_CHANNELS, dtype=torch.float64)
    other = layers.same_conv(layers.LEAST_CHANNELS, 4, 3).double().state_dict()

    def synthesises():
        with torch.inference_mode():
            torch.testing.assert_close(layers.convolve(conv, x), plain(conv, x))

    synthesises()
    conv.load_state_dict(other)
    synthesises()
    layers.convolve(conv, x).sum().backward()
    torch.optim.SGD(conv.parameters(), lr=0.1).step()
    synthesises()
    conv.weight = torch.nn.Parameter(conv.weight.detach() + 1)
    synthesises()
