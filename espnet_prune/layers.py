"""Faster dropout, attention and convolution over time, with less memory.

Results are those of ``torch.nn`` and ESPnet. Dropout and convolution are for a CPU: on
any other device, in half precision and under ``torch.compile`` they call ``torch.nn``.

Letters: B utterances, T padded length, D input and O output channels, K taps of a
kernel.
"""

import contextlib
import functools
import itertools
import weakref
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)

from espnet_prune.masks import upcast

BLOCK = 2**20  # connections of a block of attention; it fits in a processor's cache
LEVELS = 256  # number of values of a random byte, and so of dropout rates


class Dropout(torch.nn.Dropout):
    """Dropout from one random byte per element instead of a Bernoulli draw.

    On a CPU, the draw takes four times as long as the arithmetic. The rate is rounded
    to 1/256 (0.1 becomes 0.1016), and kept elements are scaled by the exact inverse of
    the kept share.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero elements at random while training."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1 or not _is_eager_on_cpu(x):
            return F.dropout(x, self.p, self.training)
        return _Drop.apply(x, *draw_bytes(x.shape, self.p))


def draw_bytes(shape: torch.Size, rate: float) -> tuple[torch.Tensor, int]:
    """Draw what dropout on a CPU decides by.

    Args:
        shape: shape of the mask.
        rate: share of elements to drop, above 0 and below 1.

    Returns:
        Tensor: random bytes of the shape, int8.
        int: how many of the 256 values of a byte are dropped; they are the lowest.
    """
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None)  # all 64 bits are random
    dropped = min(max(round(rate * LEVELS), 1), LEVELS - 1)
    return words.view(torch.int8)[: shape.numel()].view(shape), dropped


def _keep(drawn, dropped, dtype):
    """Make the mask of dropout: 0, or the factor of elements that are kept.

    Products and comparisons of bytes or booleans take longer than those of floats.
    """
    mask = drawn.to(dtype).ge_(dropped - LEVELS // 2)
    return mask.mul_(LEVELS / (LEVELS - dropped))


class _Drop(torch.autograd.Function):
    """Multiply by the mask of dropout; a byte per element is kept."""

    @staticmethod
    def forward(ctx, x, drawn, dropped):
        ctx.save_for_backward(drawn)
        ctx.dropped = dropped
        return _keep(drawn, dropped, x.dtype).mul_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (drawn,) = ctx.saved_tensors
        return _keep(drawn, ctx.dropped, grad.dtype).mul_(grad), None, None


def mish(x: torch.Tensor, dropout: Dropout | None = None) -> torch.Tensor:
    """Return x * tanh(softplus(x)), with dropout if it is given.

    On a CPU, tanh(softplus(x)) is computed with a single exponential, n / (n + 2) with
    n = e^x (e^x + 2), in a third of the time.
    """
    if not _is_eager_on_cpu(x):
        x = F.mish(x)
        return x if dropout is None else dropout(x)
    rate = dropout.p if dropout is not None and dropout.training else 0
    if rate == 1:
        return F.dropout(x, 1)
    return _Mish.apply(x, *(draw_bytes(x.shape, rate) if rate > 0 else (None, 0)))


class _Mish(torch.autograd.Function):
    """Mish and dropout, which keep one number per element for the backward pass."""

    @staticmethod
    def forward(ctx, x, drawn, dropped):
        exp = x.clamp(max=20).exp_()  # above, mish is the identity
        gate = (exp + 2).mul_(exp)
        gate = gate.div_(gate + 2)
        keep = None if drawn is None else _keep(drawn, dropped, x.dtype)
        if ctx.needs_input_grad[0]:
            sigmoid = exp.div_(exp + 1)
            rise = torch.addcmul(_ONE, gate, gate, value=-1)  # 1 - gate^2
            slope = torch.addcmul(gate, sigmoid.mul_(x), rise)
            ctx.save_for_backward(slope if keep is None else slope.mul_(keep))
        y = gate.mul_(x)
        return y if keep is None else y.mul_(keep)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


_ONE = torch.ones(())


class Mish(torch.nn.Module):
    """``mish`` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x * tanh(softplus(x))."""
        return mish(x)


def full_precision(device: torch.device):
    """Return a context without autocast; the meta device does not have autocast."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def probabilities(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the valid keys in float32, zero at the others.

    Args:
        scores: (B, H, T, T).
        mask: true where a key may be attended to, (B, 1, T) or (B, T, T); None for all.

    Returns:
        (B, H, T, T), float32 (float64 for float64 scores).
    """
    scores = upcast(scores)
    if mask is not None:
        scores = scores + _bias(mask, scores.dtype)
    attn = scores.softmax(dim=-1)
    if mask is not None and mask.size(1) > 1:  # queries differ; some have no key
        attn = attn * mask.bool().any(dim=-1, keepdim=True).unsqueeze(1)
    return attn


def _bias(mask, dtype):
    """Return what hides keys when it is added to scores: the lowest number, or 0.

    Adding is cheaper than masked_fill, whose gradient needs another pass over the
    scores (B, H, T, T).
    """
    lowest = torch.finfo(dtype).min
    bias = torch.zeros_like(mask, dtype=dtype).masked_fill(mask.eq(0), lowest)
    return bias.unsqueeze(1)


class Pruning(NamedTuple):
    """How ``attend`` prunes.

    Attributes:
        cutoff: probability below which a connection is pruned (B, 1, 1, 1).
        temperature: T of a soft mask; None for a hard mask.
        weights: weight of every position in the mean of the soft mask (B, 1, T). A pair
            counts by the product of its weights, divided by the sum over all pairs.
        share: a connection stays if any head keeps it; for hard masks only.
    """

    cutoff: torch.Tensor
    temperature: float | None = None
    weights: torch.Tensor | None = None
    share: bool = False


class Attended(NamedTuple):
    """What ``attend`` returns.

    Attributes:
        context: (B, H, T, d), of the type of the values.
        soft_means: mean of the soft mask of each head (H,); None without one.
        probabilities: before the mask (B, H, T, T), without gradient; None if they were
            not asked for.
    """

    context: torch.Tensor
    soft_means: torch.Tensor | None
    probabilities: torch.Tensor | None


def attend(
    scores: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_rate: float = 0.0,
    pruning: Pruning | None = None,
    watched: bool = False,
) -> Attended:
    """Weigh values by attention that is dense, or pruned by a hard or soft mask.

    The result is that of softmax, mask, dropout and product in turn. On a CPU they are
    done block by block, because reading and writing (B, H, T, T) again and again takes
    longer than the arithmetic. Only one number per connection is kept for the backward
    pass, and none without gradients.

    Args:
        scores: (B, H, T, T), or the queries and keys (B, H, T, d) of which they are the
            products.
        value: (B, H, T, d).
        mask: true where a key may be attended to (B, 1, T); None for all.
        dropout_rate: share of the remaining connections to drop.
        pruning: None for dense attention.
        watched: whether to return the probabilities.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    bias = None if mask is None else _bias(mask, dtype)
    pair = isinstance(scores, tuple)
    product, query, key = (None, *scores) if pair else (scores, None, None)
    cutoff = None if pruning is None else pruning.cutoff
    with full_precision(value.device):
        return Attended(
            *_Attend.apply(
                product, query, key, value, cutoff, bias, dropout_rate, pruning, watched
            )
        )


class _Attend(torch.autograd.Function):
    """Softmax, mask, dropout and product with the values in one.

    A probability is never negative. In the tensor for the backward pass, a negative
    sign therefore marks a connection that was dropped or pruned by a hard mask.
    """

    @staticmethod
    def forward(
        ctx, scores, query, key, value, cutoff, bias, dropout_rate, pruning, watched
    ):
        queries = (scores if query is None else query).size(2)
        shape = (*value.shape[:2], queries, value.size(2))
        kind = torch.promote_types(value.dtype, torch.float32)
        soft = pruning is not None and pruning.temperature is not None
        needed = watched or any(ctx.needs_input_grad)
        signed: Any = value.new_empty(shape, dtype=kind) if needed else None
        ctx.factor, ctx.soft = 1.0, soft
        ctx.temperature = temperature = pruning.temperature if soft else None
        ctx.signs = dropout_rate > 0 or (pruning is not None and not soft)
        ctx.blocks = _blocks(value, queries, pruning is not None and pruning.share)
        weights: Any = pruning.weights.to(kind).unsqueeze(-1) if soft else None
        row_means: Any = None
        if soft:
            row_means = value.new_empty((*shape[:3], 1), dtype=kind)
        context = _like_heads(value, queries)
        for batch, head, rows in ctx.blocks:
            where = batch, head, rows
            if scores is None:
                block = (query[where] @ key[batch, head].mT).to(kind)
                block = block if bias is None else block.add_(bias[batch])
            else:
                block = scores[where].to(kind)
                block = block if bias is None else block + bias[batch]
            if signed is None:
                block = block.softmax(dim=-1)
            else:
                block = torch.softmax(block, dim=-1, out=signed[where])
            margins = []  # a negative margin removes a connection
            if soft:
                mask = _soften(block, cutoff[batch], temperature)
                row_means[where] = mask @ weights[batch]
            elif pruning is not None:
                margin = block - cutoff[batch]
                share = pruning.share
                margins.append(margin.amax(dim=1, keepdim=True) if share else margin)
            if dropout_rate > 0:
                margin, ctx.factor = _draw_margin(block, dropout_rate)
                margins.append(margin)
            if margins:
                block.copysign_(functools.reduce(torch.minimum, margins))
            kept = block.clamp(min=0) if margins else block
            kept = mask.mul_(kept) if soft else kept
            context[where] = kept.to(value.dtype) @ value[batch, head]
        if ctx.factor != 1:
            context.mul_(ctx.factor)
        ctx.save_for_backward(signed, query, key, value, cutoff, weights)
        means = probs = None
        if soft:
            means = (row_means * _shares(weights)).sum(dim=(0, 2, 3))
        if watched:
            probs = signed.abs()
            ctx.mark_non_differentiable(probs)
        return context, means, probs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_means, _):
        signed, query, key, value, cutoff, weights = ctx.saved_tensors
        grad = grad if ctx.factor == 1 else grad * ctx.factor
        grad_value = _like_heads(value)
        grad_scores: Any = None
        grad_query: Any = None
        grad_key: Any = None
        grad_cutoff: Any = None
        if query is None:
            grad_scores = torch.empty_like(signed)
        else:
            grad_query = _like_heads(query)
            grad_key = _like_heads(key)
        if ctx.soft:
            temperature = ctx.temperature
            row_grads = _shares(weights) * grad_means.view(-1, 1, 1)
            grad_cutoff = torch.zeros_like(cutoff)
        for batch, head, rows in ctx.blocks:
            where = batch, head, rows
            probs = kept = signed[where]
            if ctx.signs:
                probs, kept = probs.abs(), kept.clamp(min=0)
            part = grad[where]
            delta = (part @ value[batch, head].mT).to(signed.dtype)
            if ctx.soft:
                # gradient of the mask, then of the sigmoid's argument
                mask = _soften(probs, cutoff[batch], temperature)
                slope = row_grads[where] * weights[batch].mT
                slope = slope.addcmul_(delta, kept)
                slope = torch.ops.aten.sigmoid_backward(slope, mask)
                grad_cutoff[batch] -= slope.sum(dim=(1, 2, 3), keepdim=True)
                kept = mask.mul_(kept)
            _add(grad_value, where, kept.to(grad.dtype).mT @ part)
            delta.mul_(kept)
            if ctx.soft:
                delta.addcmul_(probs, slope, value=1 / temperature)
            # the gradient of softmax subtracts the sum of each row, by probability
            gains = delta.sum(dim=-1, keepdim=True)
            delta.addcmul_(probs, gains, value=-1)
            if grad_scores is not None:
                grad_scores[where] = delta
            else:
                delta = delta.to(grad.dtype)
                grad_query[where] = delta @ key[batch, head]
                _add(grad_key, where, delta.mT @ query[where])
        if ctx.soft:
            grad_cutoff /= temperature
        inputs = grad_scores, grad_query, grad_key, grad_value, grad_cutoff
        return *inputs, None, None, None, None


def _blocks(value, queries, share):
    """Divide (B, H, T, T) into blocks, as slices of utterances, heads and queries."""
    size, heads, keys = value.shape[:3]
    steps = (size, heads, queries)
    if _is_eager_on_cpu(value):
        together = heads if share else 1
        rows = max(BLOCK // max(keys, 1), 1)
        if rows >= heads * queries:
            steps = (rows // (heads * queries), heads, queries)
        else:
            steps = (1, together, max(rows // together, 16))
    starts = itertools.product(*map(range, (0, 0, 0), (size, heads, queries), steps))
    return [
        tuple(
            slice(first, first + step) for first, step in zip(start, steps, strict=True)
        )
        for start in starts
    ]


def _add(total, where, part):
    """Add the gradient of keys that a block of queries gives; the first is written."""
    batch, head, rows = where
    if rows.start:
        total[batch, head] += part
    else:
        total[batch, head] = part


def _draw_margin(x, rate):
    """Draw dropout for x: negative where it drops, and the factor of the others."""
    if x.device.type != "cpu":
        return torch.rand_like(x).sub_(rate), 1 / (1 - rate)
    drawn, dropped = draw_bytes(x.shape, rate)
    margin = drawn.to(x.dtype).add_(LEVELS // 2 - dropped + 0.5)
    return margin, LEVELS / (LEVELS - dropped)


def _soften(probs, cutoff, temperature):
    """Return the soft mask of probabilities, see ``masks.soft_mask``."""
    mask = torch.add(-cutoff / temperature, probs, alpha=1 / temperature)
    return mask.sigmoid_()


def _shares(weights):
    """Return the weight of every query (B, 1, T, 1) in the mean of a batch."""
    total = weights.sum(dim=2, keepdim=True).square().clamp(min=1)
    return weights / (total * len(weights))


def _like_heads(x, length=None):
    """Return an empty (B, H, T, d) of which (B, T, H * d) is a view."""
    size, heads, own, width = x.shape
    return x.new_empty(size, length or own, heads, width).transpose(1, 2)


class SelfAttention(MultiHeadedAttention):
    """ESPnet's multi-head attention, dense, with less time and memory.

    It keeps the attention map ``attn`` only for a forward hook: ESPnet plots it by one.
    """

    def forward(self, query, key, value, mask, expand_kv=False):
        """Return the same as ESPnet's class."""
        q, k, v = self.forward_qkv(query, key, value, expand_kv)
        rate = self.dropout.p if self.training else 0.0
        self.attn = None
        if self._forward_hooks or torch.compiler.is_compiling() or rate == 1:
            attn = probabilities(scaled(q) @ k.mT, mask)
            self.attn = attn if self._forward_hooks else None
            context = self.dropout(attn).to(v.dtype) @ v
        else:
            context = attend((scaled(q), k), v, mask, rate).context
        return self.linear_out(context.transpose(1, 2).flatten(2))


def scaled(q: torch.Tensor) -> torch.Tensor:
    """Divide queries (B, H, T, d), of which there are fewer than scores, by sqrt(d)."""
    return q * q.size(-1) ** -0.5


def valid_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Return a mask that is true off padding (B, size, 1), for lengths (B,)."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[..., None]


def same_conv(in_size: int, out_size: int, kernel_size: int) -> torch.nn.Conv1d:
    """Return a convolution over time that keeps the length; the kernel is odd."""
    return torch.nn.Conv1d(
        in_size, out_size, kernel_size, padding=(kernel_size - 1) // 2
    )


def convolve(conv: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a convolution of ``same_conv`` to x (B, T, D), giving (B, T, O)."""
    # lists of modules hand their members out without their class
    assert isinstance(conv, torch.nn.Conv1d)
    taps = conv.kernel_size[0]
    if not _is_eager_on_cpu(x):
        return conv(x.transpose(1, 2)).transpose(1, 2)
    if taps == 1:
        return F.linear(x, conv.weight[..., 0], conv.bias)
    if conv.in_channels < LEAST_CHANNELS or taps < PHASES:
        return _Convolve.apply(x, conv.weight.transpose(1, 2).flatten(1), conv.bias)
    return _convolve_by_phases(x, _kernel_by_phases(conv), conv.bias, taps // 2)


# With fewer channels, the sums take the time that the products save.
LEAST_CHANNELS = 128
PHASES = 3

# Toom and Cook: three outputs of a filter of three taps from five products, not nine.
# Evaluate input and kernel at 0, 1, -1, 2 and infinity, multiply, and interpolate.
_OF_INPUT = (
    (2, -1, -2, 1, 0),
    (0, -2, -1, 1, 0),
    (0, 2, -3, 1, 0),
    (0, -1, 0, 1, 0),
    (0, 2, -1, -2, 1),
)
_OF_KERNEL = (
    (1 / 2, 0, 0),
    (-1 / 2, -1 / 2, -1 / 2),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 6, 1 / 3, 2 / 3),
    (0, 0, 1),
)
_OF_PRODUCTS = ((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1))


_kernels: weakref.WeakKeyDictionary[torch.nn.Module, tuple] = (
    weakref.WeakKeyDictionary()
)


def _kernel_by_phases(conv):
    """Evaluate the kernel of a convolution for ``_convolve_by_phases``.

    This takes as long as the convolution of a short sentence. Without gradients it is
    therefore done once, until the weights change.

    Returns:
        (O, 5, rows * D): for each product the taps of its convolution.
    """
    weight = conv.weight
    if torch.is_grad_enabled() or weight.is_inference():
        _kernels.pop(conv, None)
        return _evaluate_kernel(weight)
    state = (weight.data_ptr(), weight._version, weight.dtype)
    if _kernels.get(conv, (None,))[0] != state:
        _kernels[conv] = (state, _evaluate_kernel(weight))
    return _kernels[conv][1]


def _evaluate_kernel(weight):
    taps = weight.size(2)
    rows = -(-taps // PHASES)
    _, of_kernel, _ = _matrices(weight.dtype, rows)
    weight = F.pad(weight, (0, rows * PHASES - taps)).transpose(1, 2)
    return (of_kernel @ weight).unflatten(1, (-1, rows)).flatten(2)


def _convolve_by_phases(x, kernel, bias, before):
    """Convolve x (B, T, D) with 5/9 of the multiplications.

    Frames and taps are divided into three phases, t mod 3. Between phases, the
    convolution is a filter of three taps, for which Toom and Cook need five products;
    each product is a convolution of a third of the taps over a third of the frames. The
    rounding error is up to three times that of ``conv1d``. ``before`` is the number of
    zeros before the first frame.
    """
    batch, length, size = x.shape
    rows, outputs = kernel.size(2) // size, -(-length // PHASES)
    of_input, _, of_products = _matrices(x.dtype, rows)

    # phases 0 to 4 of every frame: its own three and the next frame's first two
    frames = outputs + rows
    padding = frames * PHASES - length - before
    x = F.pad(x, (0, 0, before, padding)).view(batch, frames, PHASES, size)
    x = torch.cat([x[:, :-1], x[:, 1:, : PHASES - 1]], dim=2)
    x = of_input @ x.permute(2, 0, 1, 3).flatten(1)
    x = x.view(-1, batch, frames - 1, size)

    y = of_products @ _WindowProduct.apply(x, kernel).flatten(1)
    y = y.view(PHASES, batch, frames - 1, -1)[:, :, :outputs]
    return y.permute(1, 2, 0, 3).flatten(1, 2)[:, :length] + bias


class _Convolve(torch.autograd.Function):
    """Convolve x (B, T, D) with a weight (O, K * D): one product forward, two backward.

    The windows of successive frames are a view of the padded input, see ``_windows``.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        length, around = x.size(1), weight.size(1) // x.size(2) // 2
        x = F.pad(x, (0, 0, around, around))
        y = x.new_empty(*x.shape[:2], len(weight))
        windows = _windows(x, weight)
        torch.addmm(bias, windows, weight.t(), out=y.flatten(0, 1)[: len(windows)])
        ctx.save_for_backward(x, weight)
        return y[:, :length]  # the windows of the others extend beyond the utterance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        size, padded, _ = x.shape
        length, outputs = grad.shape[1:]
        taps = 1 + padded - length
        grads = grad.new_zeros(size * padded + taps - 1, outputs)
        inner = grads[taps - 1 :]
        inner.view(size, padded, outputs)[:, :length] = grad
        windows = _windows(x, weight)
        grad_weight = inner[: len(windows)].t() @ windows
        grad_x = None
        if ctx.needs_input_grad[0]:
            # a convolution with the taps in reverse order
            reverse = weight.view(outputs, taps, -1).flip(1).transpose(0, 1)
            reverse = reverse.flatten(0, 1)
            grad_x = _windows(grads[None], reverse.t()) @ reverse
            around = taps // 2
            grad_x = grad_x.view(size, padded, -1)[:, around : around + length]
        return grad_x, grad_weight, grad.sum(dim=(0, 1))


class _WindowProduct(torch.autograd.Function):
    """Multiply every window of successive frames by a matrix, for J pairs at once.

    The frames of a window are contiguous in memory, so that a view with overlapping
    rows is the left factor and nothing is copied.
    """

    @staticmethod
    def forward(ctx, x, weight):
        """Multiply.

        Args:
            x: frames (J, B, T, D), contiguous.
            weight: (O, J, K * D) for windows of K frames.

        Returns:
            (J, B, T, O): the product for the window that begins at each frame. The last
            K - 1 of an utterance are undefined, because their windows extend beyond it.
        """
        y = x.new_empty(*x.shape[:3], weight.size(0))
        for frames, matrix, product in zip(x, weight.unbind(1), y, strict=True):
            windows = _windows(frames, matrix)
            product = product.flatten(0, 1)
            torch.mm(windows, matrix.t(), out=product[: len(windows)])
            product[len(windows) :] = 0
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.zeros_like(x), torch.empty_like(weight)
        for j, matrix in enumerate(weight.unbind(1)):
            windows = _windows(x[j], matrix)
            product = grad[j].flatten(0, 1)[: len(windows)]
            torch.mm(product.t(), windows, out=grad_weight[:, j])
            frames = grad_x[j].flatten(0, 1)
            for k, part in enumerate((product @ matrix).split(x.size(3), dim=1)):
                frames[k : k + len(part)] += part
        return grad_x, grad_weight


def _windows(frames, matrix):
    """View frames (B, T, D) as overlapping rows of the width of matrix (O, K * D)."""
    size, width = frames.size(2), matrix.size(1)
    rows = frames.size(0) * frames.size(1) - width // size + 1
    return frames.as_strided((rows, width), (size, 1))


@functools.lru_cache
def _matrices(dtype, rows):
    """Return the matrices of Toom and Cook for input, kernel and products.

    The matrix of the kernel has one copy for each of its ``rows`` of three taps: it
    maps (3 * rows,) taps to (5 * rows,), point by point.
    """
    with torch.inference_mode(False):  # those of a synthesis must serve a training too
        of_input, of_kernel, of_products = (
            torch.tensor(matrix, dtype=dtype)
            for matrix in (_OF_INPUT, _OF_KERNEL, _OF_PRODUCTS)
        )
        copies = torch.eye(rows, dtype=dtype)
        of_kernel = torch.einsum("pc,qr->pqrc", of_kernel, copies)
        of_kernel = of_kernel.flatten(2).flatten(0, 1)
    return of_input, of_kernel, of_products


def _is_eager_on_cpu(x):
    """Return whether this file's code computes x: eager mode, full precision, CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
