"""Faster dropout, attention and convolution over time, with less memory.

Results are those of ``torch.nn`` and ESPnet. Dropout and convolution are for a CPU: on
any other device, in half precision and under ``torch.compile`` they call ``torch.nn``.

Letters: B utterances, T padded length, D input and O output channels, K taps of a
kernel.
"""

import contextlib
import functools
import io
import weakref

import torch
import torch.nn.functional as F

# ESPnet prints a warning that flash_attn is missing. Pruned attention cannot use
# flash_attn, because it does not return probabilities.
with contextlib.redirect_stderr(io.StringIO()):
    from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
        MultiHeadedAttention,
    )

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
        return _Mask.apply(x, *draw_mask(x.shape, self.p))


def draw_mask(
    shape: torch.Size, rate: float, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, float]:
    """Draw the mask of dropout.

    Args:
        shape: of the mask.
        rate: share of elements to drop, above 0 and below 1.
        device: of the mask; the rate is rounded only on a CPU.

    Returns:
        Tensor: true where an element is kept, of the shape.
        float: factor of the elements that are kept.

    """
    if torch.device(device).type != "cpu":
        keep = torch.empty(shape, dtype=torch.bool, device=device)
        return keep.bernoulli_(1 - rate), 1 / (1 - rate)
    dropped = min(max(round(rate * LEVELS), 1), LEVELS - 1)
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None)  # all 64 bits are random
    keep = words.view(torch.uint8)[: shape.numel()].view(shape) >= dropped
    return keep, LEVELS / (LEVELS - dropped)


class _Mask(torch.autograd.Function):
    """Multiply by a mask and a factor; only the mask, a byte per element, is kept."""

    @staticmethod
    def forward(ctx, x, keep, factor):
        ctx.save_for_backward(keep)
        ctx.factor = factor
        return (x * keep).mul_(factor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.factor), None, None


def mish(x: torch.Tensor) -> torch.Tensor:
    """Return x * tanh(softplus(x)).

    On a CPU, tanh(softplus(x)) is computed with a single exponential, n / (n + 2) with
    n = e^x (e^x + 2), in a third of the time.
    """
    return _Mish.apply(x) if _is_eager_on_cpu(x) else F.mish(x)


class _Mish(torch.autograd.Function):
    """Mish, which keeps its derivative for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        exp = x.clamp(max=20).exp_()  # above, mish is the identity
        n = torch.addcmul(2 * exp, exp, exp)
        gate = n / (n + 2)
        if ctx.needs_input_grad[0]:
            sigmoid = exp.div_(exp + 1)
            ctx.save_for_backward(torch.addcmul(gate, x * sigmoid, 1 - gate * gate))
        return x * gate

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (derivative,) = ctx.saved_tensors
        return grad * derivative


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

    Adding the lowest number to a score hides a key. This is cheaper than masked_fill,
    whose gradient needs another pass over (B, H, T, T).

    Args:
        scores: (B, H, T, T).
        mask: true where a key may be attended to, (B, 1, T) or (B, T, T); None for all.

    Returns:
        (B, H, T, T), float32 (float64 for float64 scores).

    """
    scores = scores.float() if scores.dtype != torch.float64 else scores
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        bias = scores.new_zeros(mask.shape).masked_fill(mask.eq(0), lowest)
        scores = scores + bias.unsqueeze(1)
    attn = scores.softmax(dim=-1)
    if mask is not None and mask.size(1) > 1:  # queries differ; some have no key
        attn = attn * mask.bool().any(dim=-1, keepdim=True).unsqueeze(1)
    return attn


def attend(
    scores: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_rate: float = 0.0,
    cutoff: torch.Tensor | None = None,
    share: bool = False,
) -> torch.Tensor:
    """Weigh values by attention that is dense or pruned by a hard mask.

    The result is that of softmax, hard mask, dropout and product in turn, but only one
    number per connection is kept for the backward pass.

    Args:
        scores: (B, H, T, T).
        value: (B, H, T, d).
        mask: true where a key may be attended to (B, 1, T); None for all.
        dropout_rate: of the remaining connections.
        cutoff: probability below which a connection is pruned (B, 1, 1, 1); None for
            dense attention.
        share: a connection stays if any head keeps it.

    Returns:
        (B, H, T, d), of the type of the values.

    """
    scores = scores.float() if scores.dtype != torch.float64 else scores
    bias = None
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        bias = scores.new_zeros(mask.shape).masked_fill(mask.eq(0), lowest)
        bias = bias.unsqueeze(1)
    return _Attend.apply(scores, value, bias, dropout_rate, cutoff, share)


class _Attend(torch.autograd.Function):
    """Softmax, hard mask, dropout and product with the values in one.

    A probability is never negative. In the tensor for the backward pass, a negative
    sign therefore marks a connection that was pruned or dropped.
    """

    @staticmethod
    def forward(ctx, scores, value, bias, dropout_rate, cutoff, share):
        scores = scores if bias is None else scores + bias
        signed = scores.softmax(dim=-1)
        factor, margins = 1.0, []  # a negative margin removes a connection
        if cutoff is not None:
            margin = signed - cutoff
            margins.append(margin.amax(dim=1, keepdim=True) if share else margin)
        if dropout_rate > 0:
            keep, factor = draw_mask(signed.shape, dropout_rate, signed.device)
            margins.append(keep.to(signed.dtype).sub_(0.5))
        if margins:
            signed.copysign_(functools.reduce(torch.minimum, margins))
        ctx.dense = not margins
        del margins
        kept = signed if ctx.dense else signed.clamp(min=0)
        context = kept.to(value.dtype) @ value
        context = context if factor == 1 else context.mul_(factor)
        ctx.factor = factor
        ctx.save_for_backward(signed, value)
        return context

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        signed, value = ctx.saved_tensors
        grad = grad if ctx.factor == 1 else grad * ctx.factor
        kept = signed if ctx.dense else signed.clamp(min=0)
        grad_value = kept.to(grad.dtype).transpose(-2, -1) @ grad
        grad_scores = (grad @ value.transpose(-2, -1)).to(signed.dtype).mul_(kept)
        # the gradient of softmax subtracts the sum of each row, by probability
        gains = grad_scores.sum(dim=-1, keepdim=True)
        grad_scores.addcmul_(signed if ctx.dense else signed.abs(), gains, value=-1)
        return grad_scores, grad_value, None, None, None, None


class SelfAttention(MultiHeadedAttention):
    """ESPnet's multi-head attention, dense, with less time and memory.

    It does not keep the attention map: ``attn`` stays None.
    """

    def forward(self, query, key, value, mask, expand_kv=False):
        """Return the same as ESPnet's class."""
        q, k, v = self.forward_qkv(query, key, value, expand_kv)
        scores = scaled_scores(q, k)
        rate = self.dropout.p if self.training else 0.0
        if (0 < rate < 1 and torch.compiler.is_compiling()) or rate == 1:
            attn = self.dropout(probabilities(scores, mask))
            context = attn.to(v.dtype) @ v
        else:
            context = attend(scores, v, mask, rate)
        return self.linear_out(context.transpose(1, 2).flatten(2))


def scaled_scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the scores (B, H, T, T) of queries and keys (B, H, T, d).

    There are fewer queries than scores, so scaling the queries is faster.
    """
    return (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)


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
        return _convolve_directly(x, conv.weight, conv.bias)
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


def _convolve_directly(x, weight, bias):
    """Convolve x (B, T, D) as one matrix product."""
    length, taps = x.size(1), weight.size(2)
    x = F.pad(x, (0, 0, taps // 2, taps // 2))
    weight = weight.transpose(1, 2).flatten(1)
    return _WindowProduct.apply(x[None], weight[:, None])[0, :, :length] + bias


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
