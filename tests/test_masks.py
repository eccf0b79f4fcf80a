"""masks.py against a slow reference written from the equations of the paper.

The reference (``slow_*``) works on one utterance, one head, one query and one key at
a time, in Python floats (float64), and never sees padding: an utterance is cut to its
N valid frames before it is handed over.
"""

import math

import pytest
import torch

from espnet_prune import masks

LENGTHS = (7, 1, 2, 12, 5)


def random_attention(lengths=LENGTHS, heads=2, max_length=None, sharpness=2.0, seed=0):
    """Rows that sum to one over the valid keys; zero on padded keys, (B, H, T, T).

    Rows of padded queries are softmax rows too, as ESPnet's attention leaves them.
    """
    generator = torch.Generator().manual_seed(seed)
    max_length = max(lengths) if max_length is None else max_length
    scores = sharpness * torch.randn(
        len(lengths), heads, max_length, max_length, generator=generator
    )
    for b, length in enumerate(lengths):
        scores[b, :, :, length:] = float("-inf")
    return torch.softmax(scores, dim=-1), torch.tensor(lengths)


def valid_pairs(lengths, max_length=None):
    """Mark the query-key pairs of which neither side is padding, (B, 1, T, T)."""
    valid = torch.arange(max_length or int(lengths.max())) < lengths[:, None]
    return (valid[:, :, None] & valid[:, None, :])[:, None]


def one_utterance(values, lengths, b):
    """Cut utterance b of (B, H, T, T) to its valid pairs, (H, N, N)."""
    return values[b, :, : lengths[b], : lengths[b]]


def slow_hard(attn, theta):
    """SM_hard^h(i, j) = 1 where A^h(i, j) >= theta / N, else 0; (H, N, N)."""
    heads, length, _ = attn.shape
    mask = torch.zeros(heads, length, length)
    for h in range(heads):
        for i in range(length):
            for j in range(length):
                if float(attn[h, i, j]) >= theta / length:
                    mask[h, i, j] = 1
    return mask


def slow_soft(attn, theta, temperature):
    """SM_soft^h(i, j) = sigmoid((A^h(i, j) - theta / N) / T); (H, N, N)."""
    heads, length, _ = attn.shape
    mask = torch.zeros(heads, length, length, dtype=torch.float64)
    for h in range(heads):
        for i in range(length):
            for j in range(length):
                z = (float(attn[h, i, j]) - float(theta) / length) / temperature
                # the two forms are equal; each overflows on the other's side
                if z >= 0:
                    mask[h, i, j] = 1 / (1 + math.exp(-z))
                else:
                    mask[h, i, j] = math.exp(z) / (1 + math.exp(z))
    return mask


def slow_vanilla(attn):
    """mu_i = mean over keys of A^h(i, .); keep A >= mu_i; OR over heads; (1, N, N)."""
    heads, length, _ = attn.shape
    mask = torch.zeros(1, length, length)
    for i in range(length):
        for j in range(length):
            for h in range(heads):
                row_mean = sum(float(attn[h, i, k]) for k in range(length)) / length
                if float(attn[h, i, j]) >= row_mean:
                    mask[0, i, j] = 1
    return mask


def slow_sparsity_loss(attns, lengths, thetas, ratio, temperature):
    """L_sp of method section 3, from L layers of (B, H, T, T); a Python float.

    1/(L H) sum over l, h of (mean(SM_soft^{l,h}) - R)^2; the mean runs over the valid
    pairs of an utterance, then over the batch.
    """
    layers, heads, batch = len(attns), attns[0].size(1), attns[0].size(0)
    total = 0.0
    for attn, theta in zip(attns, thetas, strict=True):
        for h in range(heads):
            mean = 0.0
            for b in range(batch):
                soft = slow_soft(one_utterance(attn, lengths, b), theta, temperature)
                mean += float(soft[h].mean()) / batch
            total += (mean - ratio) ** 2
    return total / (layers * heads)


def fast_sparsity_loss(attns, lengths, thetas, ratio, temperature):
    """The same through masks.py."""
    means = []
    for attn, theta in zip(attns, thetas, strict=True):
        soft = masks.soft_mask(attn, theta, lengths, temperature)
        pairs = valid_pairs(lengths, attn.size(-1))
        means.append(masks.mean_soft_mask(soft, pairs))
    return masks.sparsity_loss(torch.stack(means), ratio)


@pytest.mark.parametrize("theta", [0.3, 1.0, 2.5])
def test_hard_mask_is_the_equation(theta):
    attn, lengths = random_attention()
    mask = masks.hard_mask(attn, torch.tensor(theta), lengths)
    assert mask.dtype == torch.bool
    assert mask.shape == attn.shape
    kept = pruned = 0
    for b in range(len(lengths)):
        expected = slow_hard(one_utterance(attn, lengths, b), theta)
        assert torch.equal(one_utterance(mask, lengths, b).float(), expected)
        kept += int(expected.sum())
        pruned += int((1 - expected).sum())
    assert kept > 0 and pruned > 0  # not idle: something stays, something goes


@pytest.mark.parametrize("theta", [0.0, -0.7])
def test_zero_or_negative_threshold_prunes_nothing(theta):
    attn, lengths = random_attention()
    mask = masks.hard_mask(attn, torch.tensor(theta), lengths)
    pairs = valid_pairs(lengths, attn.size(-1)).expand_as(mask)
    assert pairs.any()
    assert mask[pairs].all()


@pytest.mark.parametrize("theta", [-0.5, 0.0, 1.0, 4.2])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_soft_mask_is_the_equation(theta, temperature):
    attn, lengths = random_attention()
    mask = masks.soft_mask(attn, torch.tensor(theta), lengths, temperature)
    assert mask.dtype == torch.float32
    for b in range(len(lengths)):
        expected = slow_soft(one_utterance(attn, lengths, b), theta, temperature)
        actual = one_utterance(mask, lengths, b).double()
        torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)
    assert mask.std() > 1e-3  # not a constant


def test_default_temperature_is_the_papers():
    attn, lengths = random_attention()
    theta = torch.tensor(1.0)
    default = masks.soft_mask(attn, theta, lengths)
    assert torch.equal(default, masks.soft_mask(attn, theta, lengths, 0.01))
    assert not torch.equal(default, masks.soft_mask(attn, theta, lengths, 0.02))


def test_soft_mask_tends_to_hard_mask_as_temperature_falls():
    attn, lengths = random_attention()
    theta = torch.tensor(1.3)
    hard = masks.hard_mask(attn, theta, lengths).float()
    pairs = valid_pairs(lengths, attn.size(-1)).expand_as(attn)
    assert 0 < hard[pairs].mean() < 1
    distances = [
        float((masks.soft_mask(attn, theta, lengths, t) - hard)[pairs].abs().mean())
        for t in (1.0, 0.1, 0.01, 1e-3, 1e-6)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.3
    assert distances[-1] < 1e-3


def test_vanilla_mask_is_hard_mask_at_one_then_union():
    attn, lengths = random_attention(heads=3)
    mask = masks.union_over_heads(masks.hard_mask(attn, torch.tensor(1.0), lengths))
    assert mask.dtype == torch.bool
    assert mask.shape == (len(LENGTHS), 1, max(LENGTHS), max(LENGTHS))
    kept = pruned = 0
    for b in range(len(lengths)):
        expected = slow_vanilla(one_utterance(attn, lengths, b))
        assert torch.equal(one_utterance(mask, lengths, b).float(), expected)
        kept += int(expected.sum())
        pruned += int((1 - expected).sum())
    assert kept > 0 and pruned > 0


@pytest.mark.parametrize("length", [1, 2, 3, 7, 49, 93, 256])
def test_uniform_attention_survives_the_mean_threshold(length):
    # A(i, j) = mu_i = 1/N everywhere: >= keeps all of it, whatever N rounds to.
    attn = torch.softmax(torch.zeros(1, 2, length, length), dim=-1)
    lengths = torch.tensor([length])
    assert masks.hard_mask(attn, torch.tensor(1.0), lengths).all()
    assert not masks.hard_mask(attn, torch.tensor(1.001), lengths).any()


def test_union_is_logical_or():
    attn, lengths = random_attention(heads=3)
    mask = masks.hard_mask(attn, torch.tensor(1.2), lengths)
    union = masks.union_over_heads(mask)
    for b in range(len(lengths)):
        for i in range(mask.size(2)):
            for j in range(mask.size(3)):
                expected = any(bool(mask[b, h, i, j]) for h in range(3))
                assert bool(union[b, 0, i, j]) == expected
    # not idle: the heads disagree somewhere, and nobody wants some pairs
    assert (mask != union).any() and not union.all()


def test_union_of_soft_masks_is_their_maximum():
    soft = torch.tensor([[[[0.2, 0.9]], [[0.7, 0.1]]]])
    expected = torch.tensor([[[[0.7, 0.9]]]])
    assert torch.equal(masks.union_over_heads(soft), expected)


def test_two_by_two_worked_by_hand():
    # N = 2, theta = 1.2: the threshold is 0.6. Head 1 keeps 0.7 and 0.6 (>=), head 2
    # keeps 0.9: 3 of 8 connections, and 0.7 + 0.6 + 0.9 of a total mass of 4.
    attn = torch.tensor(
        [[[[0.7, 0.3], [0.4, 0.6]], [[0.1, 0.9], [0.5, 0.5]]]], dtype=torch.float64
    )
    lengths = torch.tensor([2])
    theta = torch.tensor(1.2, dtype=torch.float64)
    pairs = valid_pairs(lengths)
    hard = masks.hard_mask(attn, theta, lengths)
    expected = torch.tensor([[[[1, 0], [0, 1]], [[0, 1], [0, 0]]]]).bool()
    assert torch.equal(hard, expected)
    assert float(masks.kept_share(hard, pairs)) == pytest.approx(3 / 8)
    assert float(masks.kept_mass(attn, hard, pairs)) == pytest.approx(2.2 / 4)
    # shared by the heads: three of four connections; the mass counts both heads
    union = masks.union_over_heads(hard)
    assert union.tolist() == [[[[True, True], [False, True]]]]
    assert float(masks.kept_share(union, pairs)) == pytest.approx(3 / 4)
    assert float(masks.kept_mass(attn, union, pairs)) == pytest.approx(3.1 / 4)
    # T = 0.1: (0.7 - 0.6) / 0.1 = 1 and so on
    soft = masks.soft_mask(attn, theta, lengths, 0.1)
    z = [[[[1.0, -3.0], [-2.0, 0.0]], [[-5.0, 3.0], [-1.0, -1.0]]]]
    means = masks.mean_soft_mask(soft, pairs)
    first = sum(1 / (1 + math.exp(-x)) for x in (1, -3, -2, 0)) / 4
    second = sum(1 / (1 + math.exp(-x)) for x in (-5, 3, -1, -1)) / 4
    torch.testing.assert_close(soft, torch.sigmoid(torch.tensor(z)).to(soft.dtype))
    assert means.tolist() == pytest.approx([first, second], abs=1e-6)
    # L_sp of this layer and of one whose means are at R: 1/(2*2) of two squares
    both = torch.stack([means, torch.full_like(means, 0.45)])
    expected_loss = ((first - 0.45) ** 2 + (second - 0.45) ** 2) / 4
    assert float(masks.sparsity_loss(both, 0.45)) == pytest.approx(expected_loss)


def test_mass_and_share_are_means_over_utterances_not_over_pairs():
    # One utterance of 1 frame that keeps all, one of 4 frames that keeps its diagonal
    # alone: (1 + 1/4) / 2, not 5/17.
    attn = torch.zeros(2, 1, 4, 4)
    attn[0, 0, :, 0] = 1
    attn[1, 0] = 0.1 + 0.6 * torch.eye(4)
    lengths = torch.tensor([1, 4])
    pairs = valid_pairs(lengths)
    hard = masks.hard_mask(attn, torch.tensor(0.9), lengths)
    assert float(masks.kept_share(hard, pairs)) == pytest.approx((1 + 1 / 4) / 2)
    assert float(masks.kept_mass(attn, hard, pairs)) == pytest.approx((1 + 0.7) / 2)
    soft = hard.float()
    assert float(masks.mean_soft_mask(soft, pairs)) == pytest.approx((1 + 1 / 4) / 2)


def all_numbers(attn, theta, lengths):
    """Everything masks.py says of one batch, with the padded pairs cut away."""
    pairs = valid_pairs(lengths, attn.size(-1))
    hard = masks.hard_mask(attn, theta, lengths)
    soft = masks.soft_mask(attn, theta, lengths)
    means = masks.mean_soft_mask(soft, pairs)
    return {
        "hard": [one_utterance(hard, lengths, b) for b in range(len(lengths))],
        "soft": [one_utterance(soft, lengths, b) for b in range(len(lengths))],
        "means": means,
        "loss": masks.sparsity_loss(means[None], 0.45),
        "share": masks.kept_share(hard, pairs),
        "mass": masks.kept_mass(attn, hard, pairs),
    }


def test_padded_batch_gives_what_each_utterance_gives_alone():
    attn, lengths = random_attention(max_length=15)
    theta = torch.tensor(1.1)
    batch = all_numbers(attn, theta, lengths)
    singles = []
    for b, length in enumerate(lengths.tolist()):
        alone = all_numbers(
            one_utterance(attn, lengths, b)[None], theta, torch.tensor([length])
        )
        assert torch.equal(batch["hard"][b], alone["hard"][0])
        torch.testing.assert_close(batch["soft"][b], alone["soft"][0])
        singles.append(alone)
    for name in ("means", "share", "mass"):
        expected = torch.stack([single[name] for single in singles]).mean(dim=0)
        torch.testing.assert_close(batch[name], expected)
    assert 0 < batch["share"] < batch["mass"] < 1


def test_padding_changes_nothing():
    attn, lengths = random_attention(max_length=12)
    theta = torch.tensor(1.1)
    reference = all_numbers(attn, theta, lengths)
    pairs = valid_pairs(lengths, 12).expand_as(attn)
    disturbed = torch.where(pairs, attn, torch.rand_like(attn))
    assert not torch.equal(disturbed, attn)
    wider = torch.nn.functional.pad(attn, (0, 5, 0, 5), value=0.9)
    for other in (disturbed, wider):
        numbers = all_numbers(other, theta, lengths)
        for name in ("means", "loss", "share", "mass"):
            torch.testing.assert_close(numbers[name], reference[name])


@pytest.mark.parametrize("length", [1, 2])
def test_shortest_utterances(length):
    attn, lengths = random_attention((length,), heads=1)
    for theta in (0.0, 0.9, 1.0):
        hard = masks.hard_mask(attn, torch.tensor(theta), lengths)
        expected = slow_hard(attn[0], theta)
        assert torch.equal(hard[0].float(), expected)
    # of one key the weight is 1 = 1/N: nothing is pruned up to theta = 1, all above
    if length == 1:
        assert hard.all()
        assert not masks.hard_mask(attn, torch.tensor(1.01), lengths).any()
    numbers = all_numbers(attn, torch.tensor(1.0), lengths)
    assert all(torch.isfinite(numbers[name]).all() for name in ("means", "loss"))


def test_all_pruned_heads_give_zero_and_no_nan():
    attn, lengths = random_attention()
    # head 0 is nearly uniform: every connection of it falls; head 1 is one-hot
    attn = attn.clone()
    for b, length in enumerate(lengths.tolist()):
        attn[b, 0, :, :length] = 1 / length
        attn[b, 1] = 0
        attn[b, 1, :, 0] = 1
    lengths_above_one = lengths > 1
    attn, lengths = attn[lengths_above_one], lengths[lengths_above_one]
    hard = masks.hard_mask(attn, torch.tensor(1.5), lengths)
    pairs = valid_pairs(lengths, attn.size(-1))
    assert not hard[:, 0].any() and hard[:, 1, :, 0].all()
    value = torch.randn(attn.size(0), 2, attn.size(-1), 3)
    context = (attn * hard) @ value
    assert torch.equal(context[:, 0], torch.zeros_like(context[:, 0]))
    assert context[:, 1].abs().sum() > 0
    only_first = hard & torch.tensor([True, False])[None, :, None, None]
    assert float(masks.kept_share(only_first, pairs)) == 0
    assert float(masks.kept_mass(attn, only_first, pairs)) == 0
    attn.requires_grad_()
    theta = torch.tensor(1e6, requires_grad=True)
    soft = masks.soft_mask(attn, theta, lengths)
    loss = masks.sparsity_loss(masks.mean_soft_mask(soft, pairs)[None], 0.45)
    loss.backward()
    assert loss.item() == pytest.approx(0.45**2)
    assert torch.isfinite(attn.grad).all() and torch.isfinite(theta.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_attention_is_masked_in_float32(dtype):
    # N = 500: A ~ 0.002, where bfloat16 has steps of 1.5e-5 and T is 0.01.
    attn, lengths = random_attention((500, 333), heads=1, sharpness=0.3)
    theta = torch.tensor(1.003)
    low = attn.to(dtype)
    hard = masks.hard_mask(low, theta, lengths)
    soft = masks.soft_mask(low, theta, lengths)
    assert soft.dtype == torch.float32
    assert torch.equal(hard, masks.hard_mask(low.float(), theta, lengths))
    assert torch.equal(soft, masks.soft_mask(low.float(), theta, lengths))
    pairs = valid_pairs(lengths)
    assert torch.equal(
        masks.kept_mass(low, hard, pairs), masks.kept_mass(low.float(), hard, pairs)
    )
    # not idle: the same comparison in half precision disagrees somewhere
    cutoff = (theta.to(dtype) / lengths.to(dtype))[:, None, None, None]
    half = low >= cutoff
    assert (half != hard)[pairs].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_reach_the_masks(dtype):
    attn, lengths = random_attention((60, 41), sharpness=0.3)
    theta = torch.tensor(1.003)
    expected = all_numbers(attn, theta, lengths)
    with torch.autocast("cpu", dtype=dtype):
        actual = all_numbers(attn, theta, lengths)
    for name in ("means", "loss", "share", "mass"):
        assert actual[name].dtype == torch.float32
        assert torch.equal(actual[name], expected[name])
    assert all(
        torch.equal(a, e) for a, e in zip(actual["hard"], expected["hard"], strict=True)
    )


@pytest.mark.parametrize("ratio", [0.4, 0.45, 0.5])
def test_sparsity_loss_is_the_equation(ratio):
    first, lengths = random_attention(seed=1)
    second, _ = random_attention(seed=2)
    thetas = [torch.tensor(0.4), torch.tensor(2.0)]
    expected = slow_sparsity_loss([first, second], lengths, thetas, ratio, 0.01)
    actual = fast_sparsity_loss([first, second], lengths, thetas, ratio, 0.01)
    assert float(actual) == pytest.approx(expected, rel=1e-5)
    assert expected > 1e-4


def test_gradients_agree_with_finite_differences_of_the_reference():
    temperature, ratio, step = 0.05, 0.45, 1e-5
    attns, thetas = [], []
    for layer in range(2):
        attn, lengths = random_attention((4, 1, 3), seed=layer)
        attns.append(attn.double().requires_grad_())
        theta = torch.tensor([0.8, 1.7][layer], dtype=torch.float64)
        thetas.append(theta.requires_grad_())
    fast_sparsity_loss(attns, lengths, thetas, ratio, temperature).backward()

    def slow(layer, attn=None, theta=None):
        a = [x.detach() for x in attns]
        t = [x.item() for x in thetas]
        if attn is not None:
            a[layer] = attn
        if theta is not None:
            t[layer] = theta
        return slow_sparsity_loss(a, lengths, t, ratio, temperature)

    for layer in range(2):
        value = thetas[layer].item()
        numeric = (
            slow(layer, theta=value + step) - slow(layer, theta=value - step)
        ) / (2 * step)
        assert float(thetas[layer].grad) == pytest.approx(numeric, rel=1e-5, abs=1e-9)
        assert abs(numeric) > 1e-4
        for index in [(0, 0, 1, 2), (0, 1, 3, 0), (2, 1, 2, 2), (1, 0, 0, 0)]:
            nudge = torch.zeros_like(attns[layer])
            nudge[index] = step
            plus = slow(layer, attn=attns[layer].detach() + nudge)
            minus = slow(layer, attn=attns[layer].detach() - nudge)
            numeric = (plus - minus) / (2 * step)
            actual = float(attns[layer].grad[index])
            assert actual == pytest.approx(numeric, rel=1e-4, abs=1e-9)
        # padded pairs pull on nothing
        assert float(attns[layer].grad[1, :, 1:, :].abs().sum()) == 0
        assert float(attns[layer].grad[1, :, :, 1:].abs().sum()) == 0


def test_sparsity_loss_pulls_the_threshold_towards_its_target():
    # Above R the mean must fall: theta grows; below R it must rise: theta shrinks.
    attn, lengths = random_attention((30, 22), sharpness=0.5)
    for start, grows in ((0.0, True), (3.0, False)):
        theta = torch.tensor(start, requires_grad=True)
        fast_sparsity_loss([attn], lengths, [theta], 0.45, 0.01).backward()
        assert (theta.grad < 0) == grows


def test_soft_mean_starts_a_little_above_one_half():
    # Method section 3: at theta = 0 the soft mask's mean is a little above 0.5.
    attn, lengths = random_attention((500,), sharpness=1.0)
    soft = masks.soft_mask(attn, torch.tensor(0.0), lengths)
    mean = masks.mean_soft_mask(soft, valid_pairs(lengths))
    assert ((mean > 0.5) & (mean < 0.6)).all()
    # ... and with theta = 4.2 a typical connection A = 1/N weighs 0.35
    typical = masks.soft_mask(
        torch.full((1, 1, 1, 1), 0.002), torch.tensor(4.2), torch.tensor([500])
    )
    assert float(typical) == pytest.approx(0.35, abs=0.005)


def test_key_counts_per_query_replace_the_length():
    # A causal row i sees i + 1 keys: its uniform weight is 1 / (i + 1).
    length = 5
    scores = torch.randn(1, 2, length, length, generator=torch.manual_seed(3))
    future = torch.ones(length, length).triu(1).bool()
    attn = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
    counts = torch.arange(1, length + 1)[None]
    mask = masks.hard_mask(attn, torch.tensor(1.1), counts)
    for h in range(2):
        for i in range(length):
            for j in range(i + 1):
                expected = float(attn[0, h, i, j]) >= 1.1 / (i + 1)
                assert bool(mask[0, h, i, j]) == expected
    assert mask.any() and not mask[~future.expand_as(mask)].all()
