"""The arithmetic of pruned attention: functions of tensors, without parameters.

Letters used throughout:

    B   utterances in the batch        H   heads of one layer
    T   padded length in frames        N   valid frames of one utterance, N <= T
    A   attention probabilities (B, H, T, T): row = query, column = key; each row
        sums to one over the valid keys
    theta   the learned threshold of one layer, in multiples of the uniform
        attention weight 1/N; theta = 1 is the row mean of A, the fixed threshold of
        vanilla pruning

Everything is computed in float32 (float64 for float64 input) for any precision of A: a
typical A is 1/N ~ 0.002, and half precision would flip connections that lie near the
threshold.

Sections are those of Yoon et al., Interspeech 2023: vanilla pruning (VP) and
differentiable pruning (DP).
"""

import torch


def cutoff(threshold: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the probability below which a threshold prunes a connection.

    Args:
        threshold: theta, a scalar, in multiples of the uniform weight.
        lengths: N of every utterance (B,), or the number of keys that every query
            may attend to (B, T) if that differs, as under a causal mask.

    Returns:
        theta / N, (B, 1, 1, 1) or (B, 1, T, 1).
    """
    threshold = upcast(threshold)
    counts = lengths.to(threshold).clamp(min=1)
    if counts.dim() == 1:
        counts = counts[:, None]
    return (threshold / counts)[:, None, :, None]


def hard_mask(
    attn: torch.Tensor, threshold: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Keep the connections whose probability reaches theta / N (DP, second phase).

    The vanilla mask of one head is this mask with theta = 1, because the mean of a
    softmax row over its N keys is 1/N.

    Args:
        attn: A (B, H, T, T).
        threshold: theta, a scalar.
        lengths: N (B,) or (B, T), see ``cutoff``.

    Returns:
        SM_hard (B, H, T, T), boolean.
    """
    return upcast(attn) >= cutoff(threshold, lengths)


def soft_mask(
    attn: torch.Tensor,
    threshold: torch.Tensor,
    lengths: torch.Tensor,
    temperature: float = 0.01,
) -> torch.Tensor:
    """Weigh every connection by sigmoid((A - theta / N) / T) (DP, first phase).

    The gradient reaches both A and theta.

    Args:
        attn: A (B, H, T, T).
        threshold: theta, a scalar.
        lengths: N (B,) or (B, T), see ``cutoff``.
        temperature: T of the paper; the mask approaches the hard one when it approaches
            0.

    Returns:
        SM_soft (B, H, T, T), float, between 0 and 1.
    """
    return torch.sigmoid((upcast(attn) - cutoff(threshold, lengths)) / temperature)


def union_over_heads(mask: torch.Tensor) -> torch.Tensor:
    """Share one mask among the heads: a connection stays if any head keeps it (VP).

    For a soft mask, the largest weight replaces the logical OR.

    Args:
        mask: (B, H, T, T), boolean or float.

    Returns:
        (B, 1, T, T), of the same type.
    """
    return mask.amax(dim=1, keepdim=True)


def mean_soft_mask(soft: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Average a soft mask over the pairs of an utterance, then over the batch.

    Args:
        soft: SM_soft (B, H, T, T).
        pairs: valid pairs (B, 1, T, T), boolean.

    Returns:
        (H,), one mean per head.
    """
    total = (upcast(soft) * pairs).sum(dim=(-2, -1))
    return (total / pairs.sum(dim=(-2, -1)).clamp(min=1)).mean(dim=0)


def sparsity_loss(means: torch.Tensor, sparsity_ratio: float) -> torch.Tensor:
    """Return the paper's L_sp, which moves the mean soft mask of every head towards R.

    Args:
        means: mean of SM_soft (L, H) of L layers.
        sparsity_ratio: R. It is a target for the mean of the soft mask, not the kept
            share of connections; a lower R prunes more.

    Returns:
        1 / (L H) * sum of (mean - R)^2, a scalar.
    """
    return (means - sparsity_ratio).square().mean()


def kept_share(hard: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Return the share of the valid connections that a hard mask keeps.

    Args:
        hard: SM_hard (B, H, T, T) or the shared (B, 1, T, T), boolean.
        pairs: valid pairs (B, 1, T, T), boolean.

    Returns:
        A scalar between 0 and 1: per utterance and head, then their mean.
    """
    kept = (hard & pairs).sum(dim=(-2, -1))
    return (kept / pairs.sum(dim=(-2, -1)).clamp(min=1)).mean()


def kept_mass(
    attn: torch.Tensor, hard: torch.Tensor, pairs: torch.Tensor
) -> torch.Tensor:
    """Return the share of the attention probability that a hard mask keeps.

    Args:
        attn: A (B, H, T, T).
        hard: SM_hard (B, H, T, T) or the shared (B, 1, T, T), boolean.
        pairs: valid pairs (B, 1, T, T), boolean.

    Returns:
        A scalar between 0 and 1: per utterance and head, then their mean.
    """
    attn = upcast(attn) * pairs
    kept = (attn * hard).sum(dim=(-2, -1))
    return (
        kept / attn.sum(dim=(-2, -1)).clamp(min=torch.finfo(attn.dtype).tiny)
    ).mean()


def upcast(values: torch.Tensor) -> torch.Tensor:
    """Convert values to float32; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
