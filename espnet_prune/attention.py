"""Self-attention that prunes its connections.

ESPnet's attention classes (plain, relative position and its legacy form) all end in
``forward_attention(value, scores, mask)``. ``PruningMixin`` replaces it in any of them,
and masks the probabilities. The arithmetic is in ``masks``. ``prune_self_attention``
adds it to an existing model.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)

from espnet_prune import keys, layers, masks
from espnet_prune.config import PruningConf, parse_pruning, require_choice
from espnet_prune.errors import UserError

ATTENTION_SCALES = ("head_width", "model_width")


class AttentionMaps(NamedTuple):
    """The attention of one layer in one forward pass.

    Attributes:
        dense: A, probabilities before the mask (B, H, T, T).
        mask: the mask that was applied (B, H, T, T), or (B, 1, T, T) if heads share it;
            boolean if hard, float if soft, all true for a dense layer.
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
        kept_share: share of connections under the hard mask, a scalar; None for a pass
            that is not counted.
        kept_mass: share of attention probability under the hard mask, a scalar or None.
    """

    soft_means: torch.Tensor | None
    kept_share: torch.Tensor | None
    kept_mass: torch.Tensor | None


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
        watched: whether the map ``attn`` of the next pass is needed. A pass that is not
            watched needs less time and memory.
        counted: whether all statistics of the next pass are needed, and not only those
            of the sparsity loss.
        statistics: ``PruningStatistics`` of the last pass in training or validation,
            until ``pruning_terms`` takes them.
    """

    # what the ESPnet class has
    h: int
    d_k: int
    linear_out: torch.nn.Linear
    dropout_rate: float
    training: bool
    attn: torch.Tensor | None

    def __init__(
        self,
        *args,
        pruning: str = "none",
        pruning_conf: PruningConf = PruningConf(),
        attention_scale: str = "head_width",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._set_up(pruning, pruning_conf, attention_scale)

    def _set_up(self, pruning, pruning_conf, attention_scale):
        """Add the attributes of pruning to an attention of ESPnet, new or trained."""
        # ESPnet's fused kernels do not return probabilities to prune
        self.dropout = layers.Dropout(self.dropout_rate).train(self.training)
        self.use_sdpa = self.use_flash_attn = False
        self.pruning = pruning
        self.pruning_conf = pruning_conf
        self.attention_scale = attention_scale
        self.synthesising = False
        self.watched = self.counted = True
        self.statistics: PruningStatistics | None = None
        self.record: list[AttentionMaps] | None = None
        if pruning == "differentiable":
            initial = pruning_conf.threshold_init / pruning_conf.threshold_scale
            self.theta = torch.nn.Parameter(
                torch.tensor(float(initial), device=self.linear_out.weight.device),
                requires_grad=pruning_conf.trains_threshold(pruning),
            )

    @property
    def threshold(self) -> torch.Tensor:
        """Threshold theta in multiples of the uniform weight 1/N, a scalar.

        The fixed threshold of vanilla pruning is the mean of a row, 1/N, so theta = 1.
        """
        if self.pruning == "differentiable":
            return self.pruning_conf.threshold_scale * self.theta
        return torch.ones((), device=self.linear_out.weight.device)

    def forward_attention(
        self,
        value: torch.Tensor,
        scores: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Weigh the values by pruned attention.

        Probabilities and masks are float32 even under autocast; the product with the
        values is left to autocast.

        Args:
            value: (B, H, T, d_k).
            scores: (B, H, T, T), divided by sqrt(d_k). Decoders with a cache pass only
                the last query, (B, H, 1, T).
            mask: true where a key may be attended to, (B, 1, T) or (B, T, T); None
                for all.

        Returns:
            (B, T, H * d_k).
        """
        return self._weigh(value, self._rescale(scores), mask)

    def _rescale(self, scores):
        """Divide scores, or queries, by what ``attention_scale`` asks in addition."""
        return scores / self.h**0.5 if self.attention_scale == "model_width" else scores

    def _weigh(self, value, scores, mask):
        """Weigh values; ``scores`` may also be a pair of scaled queries and keys."""
        if mask is None:
            mask = value.new_ones((1, 1, 1), dtype=torch.bool)
        mask = mask.bool().expand(len(value), -1, value.size(2))
        if self._may_be_fast(mask):
            context = self._attend(value, scores, mask)
            return self.linear_out(context.transpose(1, 2).flatten(2))
        if isinstance(scores, tuple):
            scores = scores[0] @ scores[1].mT
        with layers.full_precision(value.device):
            dense = layers.probabilities(scores, mask)
            if self.pruning_conf.dropout_position == "before_mask":
                self.attn = self._prune(dense, mask, self.dropout)
                dropped = self.attn
            else:
                self.attn = self._prune(dense, mask)
                dropped = self.dropout(self.attn)
        context = torch.matmul(dropped.to(value.dtype), value).transpose(1, 2)
        return self.linear_out(context.flatten(2))

    def _mask_kind(self):
        """Return which mask is applied: None, "hard" or "soft"."""
        if self.synthesising:
            return self.pruning_conf.synthesis_mask(self.pruning)
        return self.pruning_conf.training_mask(self.pruning)

    def _may_be_fast(self, mask):
        """Return whether ``_attend`` can do this pass."""
        shares_soft_mask = (
            self._mask_kind() == "soft" and self.pruning_conf.shares_mask(self.pruning)
        )
        return (
            not self.watched
            and self.record is None
            and mask.size(1) == 1
            and not shares_soft_mask
            and self.dropout.p < 1
            and not torch.compiler.is_compiling()
        )

    def _attend(self, value, scores, mask):
        """Weigh the values (B, H, T, d_k) without keeping the map."""
        self.attn = None
        conf, kind = self.pruning_conf, self._mask_kind()
        rate = self.dropout.p if self.training else 0.0
        if kind is None:
            return layers.attend(scores, value, mask, rate).context
        cutoff = masks.cutoff(self.threshold, self._count_keys(mask))
        if kind == "hard":
            share = conf.shares_mask(self.pruning)
            pruning = layers.Pruning(cutoff.detach(), share=share)
        else:
            padded = conf.sparsity_pairs == "padded"
            weights = torch.ones_like(mask) if padded else mask
            pruning = layers.Pruning(cutoff, conf.temperature, weights)
        counted = self.counted and not self.synthesising
        found = layers.attend(scores, value, mask, rate, pruning, watched=counted)
        self._keep_statistics(found.soft_means, found.probabilities, mask)
        return found.context

    def _prune(self, dense, mask, dropout=lambda attn: attn):
        """Apply the mask to the probabilities ``dense`` (B, H, T, T)."""
        kind, pruned = self._mask_kind(), dropout(dense)
        keep = dense.new_ones((), dtype=torch.bool).expand_as(dense)
        if kind is not None:
            keep = self._mask(kind, dense, mask)
            pruned = pruned * keep
        if self.record is not None:
            self.record.append(AttentionMaps(dense, keep, pruned))
        return pruned

    def _mask(self, kind, dense, mask):
        """Make the mask of a kind, and keep the statistics of the pass."""
        conf = self.pruning_conf
        if kind == "hard":
            self._keep_statistics(None, dense, mask)
            return self._hard_mask(dense, mask)
        counts = self._count_keys(mask)
        soft = masks.soft_mask(dense, self.threshold, counts, conf.temperature)
        if not self.synthesising:
            pairs = _valid_pairs(dense, mask)
            if conf.sparsity_pairs == "padded":
                pairs = torch.ones_like(pairs)
            self._keep_statistics(masks.mean_soft_mask(soft, pairs), dense, mask)
        return self._combine(soft)

    def _count_keys(self, mask):
        """Return N: (B, 1), or (B, T) under a causal mask."""
        counts = mask.sum(dim=-1)
        if self.pruning_conf.frame_count == "padded":
            return torch.full_like(counts, mask.size(-1))
        return counts

    def _combine(self, mask):
        """Share the mask among the heads, if the settings say so."""
        shared = self.pruning_conf.shares_mask(self.pruning)
        return masks.union_over_heads(mask) if shared else mask

    @torch.no_grad()
    def _hard_mask(self, dense, mask):
        counts = self._count_keys(mask)
        return self._combine(masks.hard_mask(dense, self.threshold, counts))

    def _keep_statistics(self, soft_means, dense, mask):
        """Keep the statistics of a pass, unless it is one of synthesis."""
        if self.synthesising:
            return
        share = mass = None
        if self.counted:
            with torch.no_grad():
                hard, pairs = self._hard_mask(dense, mask), _valid_pairs(dense, mask)
                share = masks.kept_share(hard, pairs)
                mass = masks.kept_mass(dense, hard, pairs)
        self.statistics = PruningStatistics(soft_means, share, mass)


def _valid_pairs(dense, mask):
    """Return which pairs are valid; a valid query is also a key of some query."""
    queries = mask.any(dim=1)[:, -dense.size(-2) :]
    return (mask & queries[:, :, None])[:, None]


class PrunedMultiHeadedAttention(PruningMixin, MultiHeadedAttention):
    """ESPnet's multi-head attention with pruned connections."""

    def forward(self, query, key, value, mask, expand_kv=False):
        """Return the same as ESPnet's class."""
        q, k, v = self.forward_qkv(query, key, value, expand_kv)
        return self._weigh(v, (self._rescale(layers.scaled(q)), k), mask)


class PrunedRelPositionMultiHeadedAttention(
    PruningMixin, RelPositionMultiHeadedAttention
):
    """ESPnet's attention with relative positions, with pruned connections."""


class PrunedLegacyRelPositionMultiHeadedAttention(
    PruningMixin, LegacyRelPositionMultiHeadedAttention
):
    """ESPnet's legacy attention with relative positions, with pruned connections."""


_PRUNED = {
    MultiHeadedAttention: PrunedMultiHeadedAttention,
    RelPositionMultiHeadedAttention: PrunedRelPositionMultiHeadedAttention,
    LegacyRelPositionMultiHeadedAttention: PrunedLegacyRelPositionMultiHeadedAttention,
}


def prune_self_attention(
    module: torch.nn.Module,
    pruning: str,
    pruning_conf: dict[str, Any] | None = None,
    names: Sequence[str] = ("self_attn",),
    attention_scale: str = "head_width",
) -> list[PruningMixin]:
    """Prune the self-attention of any ESPnet model in place; weights are kept.

    Self-attention is found by the name of its attribute: ESPnet's transformer and
    conformer layers, in encoders and decoders, name it ``self_attn``. Attention to
    another sequence (``src_attn`` of decoder layers, style tokens) has other names and
    is not changed. Branchformers name their self-attention ``attn``.

    Args:
        module: a model or a part of it, for instance ``model.tts.decoder``.
        pruning: none, vanilla or differentiable.
        pruning_conf: keyword arguments of ``PruningConf``.
        names: attributes that hold self-attention.
        attention_scale: see ``PruningMixin``.

    Returns:
        The pruned attentions in the order of layers. With differentiable pruning, each
        has a new parameter, ``theta``: give it to the optimiser.

    Raises:
        UserError: a setting that cannot work, no self-attention, or self-attention of a
            kind that cannot be pruned. ``module`` is not changed in this case.
    """
    conf = parse_pruning(pruning, pruning_conf)
    require_choice("attention_scale", attention_scale, ATTENTION_SCALES)
    # The types of ESPnet's attentions are not declared. Each is listed once, because
    # layers may share one.
    found: dict[Any, str] = {}
    for path, layer in module.named_modules():
        for name in names:
            attention = getattr(layer, name, None)
            if isinstance(attention, torch.nn.Module):
                found[attention] = f"{path}.{name}".lstrip(".")
    if not found:
        raise UserError(
            f"{type(module).__name__} has no layer with {' or '.join(names)}: give a "
            "part of a model with self-attention, or the name that its layers use"
        )
    for attention, path in found.items():
        if type(attention) not in _PRUNED:
            what = type(attention).__name__
            pruned = isinstance(attention, PruningMixin)
            raise UserError(
                f"{path} is a {what}, which "
                + ("is pruned already" if pruned else "cannot be pruned")
                + ": choose layers with ESPnet's MultiHeadedAttention, plain or with "
                "relative positions"
            )
    for attention in found:
        attention.__class__ = _PRUNED[type(attention)]
        attention._set_up(pruning or "none", conf, attention_scale)
    return list(found)


def pruned_attentions(module: torch.nn.Module) -> list[PruningMixin]:
    """Return the attention modules of a model that can prune, in order of layers."""
    # Every training step asks for them; ``module.modules()`` takes longer.
    found: dict[PruningMixin, None] = {}

    def search(part):
        if isinstance(part, PruningMixin):
            found[part] = None
        for child in part.children():
            search(child)

    search(module)
    return list(found)


def pruning_terms(
    parts: dict[str, torch.nn.Module],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the sparsity loss and the statistics of the last forward pass.

    This removes the statistics from the layers. Otherwise a layer that the next pass
    skips (stochastic depth) would return values of an old graph.

    Args:
        parts: encoder, decoder or a whole model by the prefix of its statistics.

    Returns:
        weight * L_sp, summed over parts; zero under hard masks.
        L_sp of each part; threshold, kept share, kept mass and mean soft mask of each
        of its layers, counted from 1.
    """
    loss = torch.zeros(())
    stats = {}
    for prefix, part in parts.items():
        soft_means = []
        for number, layer in enumerate(pruned_attentions(part), 1):
            if layer.statistics is None:
                continue
            means, share, mass = layer.statistics
            layer.statistics = None
            found = {keys.THRESHOLD: layer.threshold.detach()}
            if share is not None and mass is not None:
                found |= {keys.KEPT_SHARE: share, keys.KEPT_MASS: mass}
            if means is not None:
                found[keys.SOFT_MEAN] = means.detach().mean()
                soft_means.append(means)
            for name, value in found.items():
                stats[keys.of_layer(name, number, prefix)] = value
        if soft_means:
            conf = layer.pruning_conf  # the same in all layers
            value = masks.sparsity_loss(torch.stack(soft_means), conf.sparsity_ratio)
            stats[prefix + keys.SPARSITY_LOSS] = value.detach()
            loss = loss + conf.sparsity_weight * value
    return loss, stats


@contextlib.contextmanager
def _all_with(module: torch.nn.Module, **values: Any) -> Iterator[None]:
    """Let all attentions of a model have these attributes within the context."""
    attentions = pruned_attentions(module)
    before = [
        {name: getattr(attention, name) for name in values} for attention in attentions
    ]
    for attention in attentions:
        for name, value in values.items():
            setattr(attention, name, value)
    try:
        yield
    finally:
        for attention, own in zip(attentions, before, strict=True):
            for name, value in own.items():
                setattr(attention, name, value)


def synthesising(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Use the masks of inference within the context; passes are not watched."""
    return _all_with(module, synthesising=True, watched=False)


def without_masks(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Let no mask be applied within the context: attention is dense."""
    return _all_with(module, pruning="none")


class Watch:
    """Count the statistics of a model's attentions in every tenth step of a training.

    Statistics for reports are averages over an epoch, so that a sample of its steps is
    enough. ESPnet's reporter averages a statistic over the steps that have it, which
    are ten or more. All steps of validation, which ends an epoch, are counted, and
    watched for ESPnet's plots. The count starts again in each epoch, as it does in a
    training that is resumed.
    """

    EVERY = 10

    def __init__(self):
        self.steps = 0

    def __call__(self, module: torch.nn.Module) -> None:
        """Prepare the attentions of a model for its next forward pass."""
        self.steps = self.steps if module.training else 0
        counted = self.steps % self.EVERY == 0
        self.steps += module.training
        for attention in pruned_attentions(module):
            attention.counted = counted
            attention.watched = not module.training


@contextlib.contextmanager
def record_attention(module: torch.nn.Module) -> Iterator[list[AttentionMaps]]:
    """Collect the ``AttentionMaps`` of every layer that runs within the context.

    They come in the order in which layers run; pass ``model.tts.decoder`` for the
    decoder's alone.
    """
    record: list[AttentionMaps] = []
    with _all_with(module, record=record):
        yield record
