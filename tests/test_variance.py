"""variance.py: predictors, embeddings and the length regulator, method section 4."""

import math

import pytest
import torch

from espnet_prune.variance import (
    VarianceEmbedding,
    VariancePredictor,
    durations_from_log,
    log_duration,
    regulate_length,
    sinusoid,
)

LENGTHS = (4, 7, 1)


def padded(size, max_length=7, seed=0):
    """Return noise (B, T, size), also in the padding, and valid (B, T, 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(LENGTHS), max_length, size, generator=generator)
    valid = torch.arange(max_length) < torch.tensor(LENGTHS)[:, None]
    return x, valid[..., None]


def slow_sinusoid(position, size):
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same."""
    out = []
    for channel in range(size):
        angle = position / 10000 ** (2 * (channel // 2) / size)
        out.append(math.sin(angle) if channel % 2 == 0 else math.cos(angle))
    return torch.tensor(out)


@pytest.mark.parametrize(
    "module, size",
    [
        (VariancePredictor(6, units=5, dropout_rate=0.0), 6),
        (VarianceEmbedding(6), 1),
    ],
)
def test_batch_gives_what_each_utterance_gives_alone(module, size):
    x, valid = padded(size)
    out = module(x, valid)
    assert out.shape == (3, 7, 7 - size)  # 6 -> 1 and 1 -> 6
    noisy = module(torch.where(valid, x, 9 * torch.randn_like(x)), valid)
    for b, length in enumerate(LENGTHS):
        one = torch.ones(1, length, 1, dtype=torch.bool)
        alone = module(x[b : b + 1, :length], one)[0]
        torch.testing.assert_close(out[b, :length], alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(noisy[b, :length], alone, atol=1e-6, rtol=1e-5)
    assert out[valid[..., 0]].std() > 1e-3


def test_predictor_by_default_has_the_papers_dropout():
    predictor = VariancePredictor(8)
    x = torch.randn(1, 50, 8)
    valid = torch.ones(1, 50, 1, dtype=torch.bool)
    rates = {m.p for m in predictor.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.5}
    assert not torch.equal(predictor(x, valid), predictor(x, valid))
    predictor.eval()
    assert torch.equal(predictor(x, valid), predictor(x, valid))


def test_durations_survive_the_logarithm():
    durations = torch.tensor([[0, 1, 2, 17, 300]])
    logs = log_duration(durations)
    assert logs[0].tolist() == pytest.approx([math.log(d + 1) for d in durations[0]])
    valid = torch.ones(1, 5, 1, dtype=torch.bool)
    assert torch.equal(durations_from_log(logs[..., None], valid), durations)


def test_alpha_stretches_durations():
    durations = torch.tensor([[2, 4, 6, 0]])
    logs, valid = log_duration(durations)[..., None], torch.ones(1, 4, 1).bool()
    for alpha, expected in ((0.5, [1, 2, 3, 0]), (2.0, [4, 8, 12, 0])):
        assert durations_from_log(logs, valid, alpha)[0].tolist() == expected


def test_predicted_durations_are_never_negative_nor_of_padding():
    logs = torch.tensor([[[-3.0], [1.1], [2.0], [2.0]]])  # expm1(-3) < 0
    valid = torch.tensor([[[True], [True], [True], [False]]])
    durations = durations_from_log(logs, valid)
    assert durations.dtype == torch.long
    assert durations.tolist() == [[0, 2, 6, 0]]


def test_a_text_of_no_frames_gets_one_frame_a_token():
    logs = torch.full((2, 3, 1), -5.0)
    logs[1, 0] = math.log(6)
    valid = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()[..., None]
    durations = durations_from_log(logs, valid)
    assert durations.tolist() == [[1, 1, 0], [5, 0, 0]]


def test_sinusoid_is_the_usual_one():
    positions = torch.tensor([[0, 1, 5], [40, 2, 0]])
    out = sinusoid(positions, torch.zeros(2, 3, 8))
    assert out.shape == (2, 3, 8)
    for b in range(2):
        for t in range(3):
            expected = slow_sinusoid(int(positions[b, t]), 8)
            torch.testing.assert_close(out[b, t], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "durations",
    [
        [[2, 3, 1]],
        [[0, 2, 0, 0, 3]],  # silent tokens, also the first
        [[2, 3, 0], [1, 0, 0]],  # unequal sums, zero at padding
        [[1]],
        [[4, 0], [0, 4]],
    ],
)
def test_length_regulator_repeats_and_restarts_positions(durations):
    torch.manual_seed(0)
    durations = torch.tensor(durations)
    x = torch.randn(*durations.shape, 6)
    out, lengths = regulate_length(x, durations)
    assert lengths.tolist() == durations.sum(dim=1).tolist()
    assert out.shape == (len(x), int(lengths.max()), 6)
    for b in range(len(x)):
        frames = []
        for n, duration in enumerate(durations[b].tolist()):
            for position in range(duration):  # restarts in each phoneme
                frames.append(x[b, n] + slow_sinusoid(position, 6))
        expected = torch.stack(frames)
        torch.testing.assert_close(
            out[b, : len(frames)], expected, atol=1e-5, rtol=1e-5
        )
        assert out[b, len(frames) :].abs().sum() == 0


def test_gradient_of_the_regulator_is_the_number_of_frames():
    x = torch.zeros(1, 3, 2, requires_grad=True)
    out, _ = regulate_length(x, torch.tensor([[2, 0, 3]]))
    out.sum().backward()
    assert x.grad[0, :, 0].tolist() == [2, 0, 3]
