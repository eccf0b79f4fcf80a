"""Durations, pitch and energy: predictors, embeddings, and the length regulator.

Letters: B utterances, T_text tokens, T_feats mel frames, D model width. ``valid`` is
true off padding, (B, T, 1).
"""

import torch

from espnet_prune.layers import Dropout, convolve, mish, same_conv


class VariancePredictor(torch.nn.Module):
    """Predict one value per token: log-duration, pitch or energy.

    Two convolutions, each with ReLU, layer norm and dropout, then a linear layer.
    In ESPnet's predictor, padding affects the second convolution; here, an utterance
    has the same result in a batch as alone.

    Args:
        size: D.
        units: hidden width.
        kernel_size: odd.
        dropout_rate: after each convolution.
    """

    def __init__(
        self,
        size: int,
        units: int = 256,
        kernel_size: int = 3,
        dropout_rate: float = 0.5,
    ):
        super().__init__()
        self.convs = torch.nn.ModuleList(
            same_conv(in_size, units, kernel_size) for in_size in (size, units)
        )
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(units) for _ in range(2))
        self.dropout = Dropout(dropout_rate)
        self.output = torch.nn.Linear(units, 1)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Map x (B, T_text, D) to predictions (B, T_text, 1), zero at padding."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.dropout(norm(convolve(conv, x * valid).relu()))
        return self.output(x) * valid


class VarianceEmbedding(torch.nn.Module):
    """Embed one value per token: two convolutions with Mish between and a linear layer.

    Args:
        size: D.
        kernel_size: odd.
    """

    def __init__(self, size: int, kernel_size: int = 3):
        super().__init__()
        self.conv1 = same_conv(1, size, kernel_size)
        self.conv2 = same_conv(size, size, kernel_size)
        self.output = torch.nn.Linear(size, size)

    def forward(self, values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Map values (B, T_text, 1) to (B, T_text, D)."""
        x = mish(convolve(self.conv1, values * valid))
        x = mish(convolve(self.conv2, x * valid))
        return self.output(x)


def log_duration(durations: torch.Tensor) -> torch.Tensor:
    """Return log(d + 1) of durations in frames, the target of the predictor."""
    return torch.log1p(durations.float())


def durations_from_log(
    log_durations: torch.Tensor, valid: torch.Tensor, alpha: float = 1.0
) -> torch.Tensor:
    """Convert predicted log-durations to whole frames.

    Args:
        log_durations: (B, T_text, 1).
        valid: (B, T_text, 1).
        alpha: factor for durations; a value above 1 speaks more slowly.

    Returns:
        Frames of each token (B, T_text), long, zero at padding. A text whose durations
        are all zero gets one frame per token, so that there is speech.
    """
    frames = torch.round((torch.expm1(log_durations) * alpha).clamp(0.0, 1e6))
    frames = (frames * valid)[..., 0].long()
    silent = frames.sum(dim=1, keepdim=True) == 0
    return torch.where(silent, valid[..., 0].long(), frames)


def regulate_length(
    x: torch.Tensor, durations: torch.Tensor, frames: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat every token for its frames and add its position inside the phoneme.

    Args:
        x: (B, T_text, D).
        durations: frames of each token (B, T_text), long, zero at padding.
        frames: T_feats; if None, the largest of the batch, for which a GPU has to wait.

    Returns:
        Tensor: (B, T_feats, D), zero at padding: each frame is its token plus the
            sinusoid of the frame's position, 0, 1, ..., inside that token.
        Tensor: number of frames (B,), long.
    """
    ends = durations.cumsum(dim=1)
    lengths = ends[:, -1]
    longest = int(lengths.max()) if frames is None else frames
    times = torch.arange(longest, device=x.device)
    times = times.expand(x.size(0), -1).contiguous()
    if torch.compiler.is_exporting():  # ONNX has no binary search
        tokens = (times[..., None] >= ends[:, None]).sum(dim=-1)
    else:
        tokens = torch.searchsorted(ends, times, right=True)
    tokens = tokens.clamp(max=x.size(1) - 1)  # frames of padding
    position = times - (ends - durations).gather(1, tokens)
    repeated = x.gather(1, tokens[..., None].expand(-1, -1, x.size(2)))
    valid = (times < lengths[:, None])[..., None]
    places = sinusoid(times[0], x)  # for every possible position
    positions = torch.nn.functional.embedding(position, places)
    return (repeated + positions) * valid.to(x.dtype), lengths


def rates_of_sinusoid(size: int, device: torch.device | str) -> torch.Tensor:
    """Return the angle that each pair of features turns from one position to the next.

    For D = ``size`` features, it is 10000^(-2k/D) for the pair k. The result has D / 2
    numbers, rounded up, float32.
    """
    pairs = torch.arange(-(-size // 2), device=device)
    return 10000.0 ** (-2.0 * pairs / size)


def sinusoid(positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Encode positions (..., T) by sines and cosines, (..., T, D), for features like x.

    Vaswani et al., "Attention is all you need", Sec. 3.5. The angles are float32 under
    autocast too, because bfloat16 does not tell neighbouring frames apart.
    """
    size, kind = x.size(-1), torch.promote_types(x.dtype, torch.float32)
    rates = rates_of_sinusoid(size, x.device)
    angles = positions[..., None].to(kind) * rates.to(kind)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1)
    return waves.flatten(-2)[..., :size].to(x.dtype)
