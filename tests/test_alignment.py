"""alignment.py: durations that are learned, against a search through all alignments."""

import itertools

import pytest
import torch

from espnet_prune.alignment import DurationAligner, average_over_tokens
from espnet_prune.errors import UserError

TEXT_LENGTHS = torch.tensor([3, 5, 1])
FEATS_LENGTHS = torch.tensor([7, 9, 4])


def aligner():
    """Return an aligner of text width 4 and 6 mel bins."""
    torch.manual_seed(0)
    return DurationAligner(4, 6)


def padded(seed=0):
    """Return text (B, T_text, 4) and feats (B, T_feats, 6), noise in the padding."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(3, 5, 4, generator=generator)
    feats = 2 * torch.randn(3, 9, 6, generator=generator)
    return text, feats


def best_by_search(log_p):
    """Durations of the likeliest monotonic alignment of (T_feats, T_text).

    Every token has at least one frame; ties do not occur with random scores.
    """
    frames, tokens = log_p.shape
    best, best_score = None, -float("inf")
    for cuts in itertools.combinations(range(1, frames), tokens - 1):
        edges = (0, *cuts, frames)
        score = sum(
            float(log_p[edges[n] : edges[n + 1], n].sum()) for n in range(tokens)
        )
        if score > best_score:
            best, best_score = [edges[n + 1] - edges[n] for n in range(tokens)], score
    return best, best_score


def test_durations_are_the_likeliest_alignment():
    module = aligner()
    text, feats = padded()
    log_p = module(text, feats, TEXT_LENGTHS, FEATS_LENGTHS)
    alignment = module.align(text, feats, TEXT_LENGTHS, FEATS_LENGTHS)
    assert alignment.durations.dtype == torch.long
    assert alignment.durations.shape == (3, 5)
    binarization = 0.0
    for b, (n, t) in enumerate(
        zip(TEXT_LENGTHS.tolist(), FEATS_LENGTHS.tolist(), strict=True)
    ):
        durations, score = best_by_search(log_p[b, :t, :n].detach())
        assert alignment.durations[b, :n].tolist() == durations
        assert alignment.durations[b, n:].sum() == 0
        binarization -= score / t / 3
    assert (alignment.durations.sum(dim=1) == FEATS_LENGTHS).all()
    assert alignment.binarization.item() == pytest.approx(binarization, rel=1e-5)
    assert len(set(alignment.durations[1].tolist())) > 1  # it is not an even split


def test_batch_gives_what_each_utterance_gives_alone():
    module = aligner()
    text, feats = padded()
    batch = module.align(text, feats, TEXT_LENGTHS, FEATS_LENGTHS)
    noise_text, noise_feats = padded(seed=1)
    for b, (n, t) in enumerate(
        zip(TEXT_LENGTHS.tolist(), FEATS_LENGTHS.tolist(), strict=True)
    ):
        noise_text[b, :n], noise_feats[b, :t] = text[b, :n], feats[b, :t]
    noisy = module.align(noise_text, noise_feats, TEXT_LENGTHS, FEATS_LENGTHS)
    singles = []
    for b, (n, t) in enumerate(
        zip(TEXT_LENGTHS.tolist(), FEATS_LENGTHS.tolist(), strict=True)
    ):
        alone = module.align(
            text[b : b + 1, :n],
            feats[b : b + 1, :t],
            TEXT_LENGTHS[b : b + 1],
            FEATS_LENGTHS[b : b + 1],
        )
        assert torch.equal(batch.durations[b, :n], alone.durations[0])
        singles.append(alone)
    for name in ("forward_sum", "binarization"):
        expected = torch.stack([getattr(s, name) for s in singles]).mean()
        for together in (batch, noisy):
            torch.testing.assert_close(getattr(together, name), expected)
    assert torch.equal(noisy.durations, batch.durations)


def test_gradients_are_finite_and_reach_text_and_speech():
    module = aligner()
    text, feats = padded()
    text.requires_grad_()
    alignment = module.align(text, feats, TEXT_LENGTHS, FEATS_LENGTHS)
    (alignment.forward_sum + alignment.binarization).backward()
    assert torch.isfinite(text.grad).all() and text.grad.abs().sum() > 0
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    assert module.f_conv1.weight.grad.abs().sum() > 0


def test_constant_frames_stay_finite():
    module = aligner()
    text = torch.zeros(1, 3, 4, requires_grad=True)
    feats = torch.full((1, 8, 6), -11.5)
    alignment = module.align(text, feats, torch.tensor([3]), torch.tensor([8]))
    (alignment.forward_sum + alignment.binarization).backward()
    assert torch.isfinite(alignment.forward_sum)
    assert torch.isfinite(text.grad).all()
    assert alignment.durations.sum() == 8 and alignment.durations.min() >= 1


def test_autocast_does_not_change_the_durations():
    module = aligner()
    text, feats = padded()
    expected = module.align(text, feats, TEXT_LENGTHS, FEATS_LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = module.align(text, feats, TEXT_LENGTHS, FEATS_LENGTHS)
    assert torch.equal(actual.durations, expected.durations)
    torch.testing.assert_close(actual.forward_sum, expected.forward_sum)


def test_one_frame_a_token_is_the_shortest_speech():
    module = aligner()
    text, feats = padded()
    lengths = torch.tensor([5])
    alignment = module.align(text[1:2], feats[1:2, :5], lengths, lengths)
    assert alignment.durations.tolist() == [[1, 1, 1, 1, 1]]
    with pytest.raises(UserError, match="5 tokens but only 4 mel frames"):
        module.align(text[1:2], feats[1:2, :4], lengths, torch.tensor([4]))


def test_training_finds_the_boundaries():
    # Four sounds of unequal length; the convolutions blur a boundary by two frames.
    torch.manual_seed(0)
    module = DurationAligner(8, 6)
    truth = torch.tensor([7, 3, 5, 6])
    text = torch.randn(1, 4, 8)
    feats = 3 * torch.eye(6)[:4].repeat_interleave(truth, dim=0)[None]
    lengths, frames = torch.tensor([4]), truth.sum()[None]
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    losses, errors = [], []
    for _ in range(60):
        alignment = module.align(text, feats, lengths, frames)
        loss = alignment.forward_sum + alignment.binarization
        adam.zero_grad()
        loss.backward()
        adam.step()
        ends = alignment.durations[0].cumsum(dim=0)
        errors.append(int((ends - truth.cumsum(dim=0)).abs().max()))
        losses.append(loss.item())
    assert errors[0] > 2 >= errors[-1]
    assert losses[-1] < 0.7 * losses[0]


def test_average_over_tokens():
    values = torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0], [2.0, 4.0, 99.0, 99.0, 99.0]])
    durations = torch.tensor([[2, 0, 3], [1, 1, 0]])
    averages = average_over_tokens(values[..., None], durations)
    assert averages.tolist() == [[[2.0], [0.0], [7.0]], [[2.0], [4.0], [0.0]]]
