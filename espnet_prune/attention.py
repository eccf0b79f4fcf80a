"""Self-attention that prunes its connections.

ESPnet's attention classes (plain, relative position and its legacy form) all end in
``forward_attention(value, scores, mask)``. ``PruningMixin`` takes its place in any of
them: probabilities in, masked probabilities out. The arithmetic is in ``masks``.
"""

import contextlib
import io
from typing import Iterator, List, NamedTuple, Optional

import torch

from espnet_prune import masks
from espnet_prune.phases import PruningConf

# ESPnet prints that the optional flash_attn is missing, in front of every command's own
# words; it computes no probabilities, so pruned attention has no use for it.
with contextlib.redirect_stderr(io.StringIO()):
    from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
        MultiHeadedAttention,
    )

ATTENTION_SCALES = ("head_width", "model_width")


class AttentionMaps(NamedTuple):
    """What one layer attended to in one forward pass.

    Attributes:
        dense: A, probabilities before the mask (B, H, T, T).
        mask: the mask that was applied (B, H, T, T), or (B, 1, T, T) where heads share
            it; boolean if hard, float if soft, all true for a dense layer.
        pruned: their product (B, H, T, T), not renormalised.

    """

    dense: torch.Tensor
    mask: torch.Tensor
    pruned: torch.Tensor


class PruningStatistics(NamedTuple):
    """How much one layer prunes, over the valid pairs of one batch.

    Attributes:
        soft_means: mean of SM_soft per head (H,), with gradient; None under a hard
            mask.
        kept_share: share of connections under the hard mask, a scalar.
        kept_mass: share of attention probability under the hard mask, a scalar.

    """

    soft_means: Optional[torch.Tensor]
    kept_share: torch.Tensor
    kept_mass: torch.Tensor


class PruningMixin:
    """Prune the connections of an ESPnet attention class.

    Args:
        pruning: none, vanilla or differentiable.
        pruning_conf: its settings.
        attention_scale: scores are divided by the square root of the head's width
            ("head_width", the usual definition) or of the model's ("model_width", as
            in the public StyleSpeech).
        args, kwargs: those of the ESPnet class.

    Attributes:
        theta: the parameter behind the threshold; absent unless differentiable.
        synthesising: use the mask of inference rather than that of training.
        statistics: ``PruningStatistics`` of the last pass that was no synthesis.

    """

    def __init__(
        self,
        *args,
        pruning: str = "none",
        pruning_conf: PruningConf = PruningConf(),
        attention_scale: str = "head_width",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        # ESPnet's fused kernels give no probabilities to prune
        self.use_sdpa = self.use_flash_attn = False
        self.pruning = pruning
        self.pruning_conf = pruning_conf
        self.attention_scale = attention_scale
        self.synthesising = False
        self.statistics: Optional[PruningStatistics] = None
        self.record: Optional[List[AttentionMaps]] = None
        if pruning == "differentiable":
            initial = pruning_conf.threshold_init / pruning_conf.threshold_scale
            self.theta = torch.nn.Parameter(
                torch.tensor(float(initial)),
                requires_grad=pruning_conf.trains_threshold(pruning),
            )

    @property
    def threshold(self) -> torch.Tensor:
        """Threshold theta in multiples of the uniform weight 1/N, a scalar.

        The fixed one of vanilla pruning is the mean of a row, 1/N, hence theta = 1.
        """
        if self.pruning == "differentiable":
            return self.pruning_conf.threshold_scale * self.theta
        return torch.ones((), device=self.linear_out.weight.device)

    def forward_attention(
        self,
        value: torch.Tensor,
        scores: torch.Tensor,
        mask: Optional[torch.Tensor],
    ) -> torch.Tensor:
        """Weigh the values by pruned attention.

        Probabilities and masks are float32 even under autocast; the product with the
        values is left to autocast.

        Args:
            value: (B, H, T, d_k).
            scores: (B, H, T, T), divided by sqrt(d_k).
            mask: true where a key may be attended to, (B, 1, T) or (B, T, T); None
                for all.

        Returns:
            (B, T, H * d_k).

        """
        if self.attention_scale == "model_width":
            scores = scores / self.h**0.5
        with torch.autocast(value.device.type, enabled=False):
            dense = _probabilities(scores, mask)
            if self.pruning_conf.dropout_position == "before_mask":
                self.attn = self._prune(dense, mask, self.dropout)
                dropped = self.attn
            else:
                self.attn = self._prune(dense, mask)
                dropped = self.dropout(self.attn)
        context = torch.matmul(dropped.to(value.dtype), value).transpose(1, 2)
        return self.linear_out(context.flatten(2))

    def _prune(self, dense, mask, dropout=lambda attn: attn):
        """Apply the mask to the probabilities ``dense`` (B, H, T, T)."""
        conf = self.pruning_conf
        kind = (
            conf.synthesis_mask(self.pruning)
            if self.synthesising
            else conf.training_mask(self.pruning)
        )
        if kind is None:
            keep, pruned = None, dropout(dense)
        else:
            keep = self._mask(kind, dense, mask)
            pruned = dropout(dense) * keep
        if self.record is not None:
            everything = dense.new_ones((), dtype=torch.bool).expand_as(dense)
            self.record.append(
                AttentionMaps(dense, everything if keep is None else keep, pruned)
            )
        return pruned

    def _mask(self, kind, dense, mask):
        """Make the mask and, outside synthesis, the statistics of the layer."""
        conf = self.pruning_conf
        if mask is None:
            mask = dense.new_ones((1, 1, 1), dtype=torch.bool)
        mask = mask.bool().expand(dense.size(0), -1, dense.size(-1))
        counts = mask.sum(dim=-1)  # N: (B, 1), or (B, T) under a causal mask
        if conf.frame_count == "padded":
            counts = torch.full_like(counts, dense.size(-1))

        def combine(per_head):
            share = conf.shares_mask(self.pruning)
            return masks.union_over_heads(per_head) if share else per_head

        soft = None
        if kind == "soft":
            soft = masks.soft_mask(dense, self.threshold, counts, conf.temperature)
        if kind == "hard" or not self.synthesising:
            with torch.no_grad():
                hard = combine(masks.hard_mask(dense, self.threshold, counts))
        if not self.synthesising:
            # a query is valid where its own position is a key of some query
            pairs = (mask & mask.any(dim=1)[:, :, None])[:, None]
            soft_means = None
            if soft is not None:
                padded = conf.sparsity_pairs == "padded"
                everything = pairs.new_ones(()).expand(dense[:, :1].shape)
                soft_means = masks.mean_soft_mask(soft, everything if padded else pairs)
            with torch.no_grad():
                self.statistics = PruningStatistics(
                    soft_means,
                    masks.kept_share(hard, pairs),
                    masks.kept_mass(dense, hard, pairs),
                )
        return hard if kind == "hard" else combine(soft)


class PrunedMultiHeadedAttention(PruningMixin, MultiHeadedAttention):
    """ESPnet's multi-head attention with pruned connections."""


def pruned_attentions(module: torch.nn.Module) -> List[PruningMixin]:
    """List the attention modules of a model that can prune, in order of layers."""
    return [m for m in module.modules() if isinstance(m, PruningMixin)]


@contextlib.contextmanager
def synthesising(module: torch.nn.Module) -> Iterator[None]:
    """Use the masks of inference within the context."""
    attentions = pruned_attentions(module)
    for attention in attentions:
        attention.synthesising = True
    try:
        yield
    finally:
        for attention in attentions:
            attention.synthesising = False


@contextlib.contextmanager
def record_attention(module: torch.nn.Module) -> Iterator[List[AttentionMaps]]:
    """Collect the ``AttentionMaps`` of every layer that runs within the context.

    They come in the order in which layers run; pass ``model.tts.decoder`` for the
    decoder's alone.
    """
    attentions = pruned_attentions(module)
    record: List[AttentionMaps] = []
    for attention in attentions:
        attention.record = record
    try:
        yield record
    finally:
        for attention in attentions:
            attention.record = None


def _probabilities(scores, mask):
    """Softmax over the valid keys in float32, zero at the others."""
    scores = scores.float() if scores.dtype != torch.float64 else scores
    if mask is None:
        return scores.softmax(dim=-1)
    hidden = mask.unsqueeze(1).eq(0)
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(hidden, 0.0)
