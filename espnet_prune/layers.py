"""Dropout and convolution over time as a CPU does them fast.

Both compute what ``torch.nn`` computes. On any device but a CPU, in half precision and
under ``torch.compile`` they hand over to ``torch.nn``.

Letters: B utterances, T padded length, D input and O output channels, K taps of a
kernel.
"""

import functools

import torch
import torch.nn.functional as F

LEVELS = 256  # values of a random byte: the steps of a dropout rate


class Dropout(torch.nn.Dropout):
    """Dropout from one random byte an element instead of a Bernoulli draw.

    On a CPU the draw is the dearest part of dropout, four times the arithmetic. The
    rate is rounded to 1/256 (0.1 becomes 0.1016), and the survivors are scaled by the
    exact inverse of the share that is kept.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero elements at random while training."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1 or not _is_eager_on_cpu(x):
            return F.dropout(x, self.p, self.training)
        return _Mask.apply(x, *draw_mask(x.shape, self.p))


def draw_mask(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
    """Draw what dropout keeps, on the CPU.

    Args:
        shape: of the mask.
        rate: share of elements to drop, above 0 and below 1.

    Returns:
        Tensor: true where an element is kept, of the shape.
        float: factor of the elements that are kept.

    """
    dropped = min(max(round(rate * LEVELS), 1), LEVELS - 1)
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None)  # all 64 bits are random
    keep = words.view(torch.uint8)[: shape.numel()].view(shape) >= dropped
    return keep, LEVELS / (LEVELS - dropped)


class _Mask(torch.autograd.Function):
    """Multiply by a mask and a factor; the mask, a byte an element, is all it keeps."""

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


def same_conv(in_size: int, out_size: int, kernel_size: int) -> torch.nn.Conv1d:
    """Return a convolution over time that keeps the length; the kernel is odd."""
    return torch.nn.Conv1d(
        in_size, out_size, kernel_size, padding=(kernel_size - 1) // 2
    )


def convolve(conv: torch.nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """Apply a convolution of ``same_conv`` to x (B, T, D), giving (B, T, O)."""
    taps = conv.kernel_size[0]
    if not _is_eager_on_cpu(x):
        return conv(x.transpose(1, 2)).transpose(1, 2)
    if taps == 1:
        return F.linear(x, conv.weight[..., 0], conv.bias)
    if conv.in_channels < LEAST_CHANNELS or taps < PHASES:
        return _convolve_directly(x, conv.weight, conv.bias)
    return _convolve_by_phases(x, conv.weight, conv.bias)


# With fewer channels the sums cost what the products save.
LEAST_CHANNELS = 128
PHASES = 3

# Toom and Cook: three outputs of a filter of three taps by five products, not nine.
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


def _convolve_by_phases(x, weight, bias):
    """Convolve x (B, T, D) by 5/9 of the multiplications.

    Frames and taps are dealt to three phases, t mod 3. Between phases the convolution
    is a filter of three taps, which Toom and Cook do by five products; each product is
    a convolution of a third of the taps over a third of the frames. The rounding error
    is up to three times that of ``conv1d``.
    """
    batch, length, size = x.shape
    taps = weight.size(2)
    rows, outputs = -(-taps // PHASES), -(-length // PHASES)
    of_input, of_kernel, of_products = _matrices(x.dtype, rows)

    # phases 0 to 4 of every frame: its own three and the next frame's first two
    frames = outputs + rows
    padding = frames * PHASES - length - taps // 2
    x = F.pad(x, (0, 0, taps // 2, padding)).view(batch, frames, PHASES, size)
    x = torch.cat([x[:, :-1], x[:, 1:, : PHASES - 1]], dim=2)
    x = of_input @ x.permute(2, 0, 1, 3).flatten(1)
    x = x.view(-1, batch, frames - 1, size)

    weight = F.pad(weight, (0, rows * PHASES - taps)).transpose(1, 2)
    weight = (of_kernel @ weight).unflatten(1, (-1, rows)).flatten(2)
    y = of_products @ _WindowProduct.apply(x, weight).flatten(1)
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

    The frames of a window lie one behind the other in memory, so that a view with
    overlapping rows is the left factor and nothing is copied.
    """

    @staticmethod
    def forward(ctx, x, weight):
        """Multiply.

        Args:
            x: frames (J, B, T, D), contiguous.
            weight: (O, J, K * D) for windows of K frames.

        Returns:
            (J, B, T, O): what belongs to the window that begins at a frame. The last
            K - 1 of an utterance mean nothing, for their windows reach beyond it.

        """
        y = x.new_empty(*x.shape[:3], weight.size(0))
        for frames, matrix, product in zip(x, weight.unbind(1), y):
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

    That of the kernel holds one copy for each of its ``rows`` of three taps: it takes
    (3 * rows,) taps to (5 * rows,), point by point.
    """
    of_input, of_kernel, of_products = (
        torch.tensor(matrix, dtype=dtype)
        for matrix in (_OF_INPUT, _OF_KERNEL, _OF_PRODUCTS)
    )
    copies = torch.eye(rows, dtype=dtype)
    of_kernel = torch.einsum("pc,qr->pqrc", of_kernel, copies).flatten(2).flatten(0, 1)
    return of_input, of_kernel, of_products


def _is_eager_on_cpu(x):
    """Tell whether x is for this file's arithmetic: full precision on a CPU, now."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
