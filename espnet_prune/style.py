"""Layers that depend on the style vector.

Min et al., "Meta-StyleSpeech", ICML 2021, Sec. 3.1, and two other ways to condition the
phoneme encoder on a voice: Mix-Style layer norm (GenerSpeech) and SC-CNN. Letters: B
utterances, T padded length (tokens or frames), D model width, S width of the style
vector, C channels and K taps of SC-CNN.

Every layer zeroes padded positions before it mixes neighbours, so that an utterance has
the same result in a batch as alone.
"""

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from torch.nn.functional import glu, normalize, pad

from espnet_prune.layers import (
    Dropout,
    Mish,
    SelfAttention,
    convolve,
    mish,
    same_conv,
)


class StyleAdaptiveLayerNorm(torch.nn.Module):
    """Layer norm whose gain and bias are predicted from a style vector (SALN).

    Its linear layer starts with bias 1 for the gains and 0 for the biases.

    Args:
        size: D.
        style_dim: S.
    """

    def __init__(self, size: int, style_dim: int):
        super().__init__()
        self.norm = torch.nn.LayerNorm(size, elementwise_affine=False)
        self.affine = torch.nn.Linear(style_dim, 2 * size)
        with torch.no_grad():
            self.affine.bias[:size] = 1.0
            self.affine.bias[size:] = 0.0

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, T, D) with gain and bias predicted from style (B, S)."""
        gain, bias = self.affine(style)[:, None].chunk(2, dim=-1)
        return torch.addcmul(bias, gain, self.norm(x))


class MixStyleLayerNorm(StyleAdaptiveLayerNorm):
    """SALN that mixes the styles of a batch in training (Mix-Style layer norm).

    Huang et al., "GenerSpeech", NeurIPS 2022, Sec. 3.3: gain and bias are those of an
    utterance with the share m and those of another utterance of the batch with 1 - m,
    where m is drawn from Beta(alpha, alpha) for each utterance. The layer therefore
    cannot rely on the style of the voice. Outside training it is SALN.

    Args:
        size: D.
        style_dim: S.
        alpha: Parameter of the Beta distribution; a small one gives shares near 0 or 1.
    """

    def __init__(self, size: int, style_dim: int, alpha: float):
        super().__init__(size, style_dim)
        self.alpha = alpha

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, T, D), with the styles (B, S) mixed while training."""
        if self.training:
            order, share = draw_mix(style, self.alpha)
            # gain and bias are affine in the style, so this mixes them too
            style = share * style + (1 - share) * style[order]
        return super().forward(x, style)


@torch.compiler.disable  # torch 2.11 fails to compile an index by randperm
def draw_mix(style: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw how to mix a batch of styles (B, S).

    Returns:
        Which utterance each one is mixed with (B,), and the share of its own style,
        from Beta(alpha, alpha) (B, 1).
    """
    number = len(style)
    order = torch.randperm(number, device=style.device)
    # half precision has no generator of this distribution
    parameter = torch.full((number, 1), alpha, device=style.device)
    beta = torch.distributions.Beta(parameter, parameter, validate_args=False)
    return order, beta.sample().to(style.dtype)


class ConvFeedForward(torch.nn.Module):
    """Position-wise feed-forward layer of two convolutions with Mish between.

    Args:
        size: D.
        units: hidden width.
        kernel_sizes: taps of the two convolutions, odd.
        dropout_rate: after each convolution.
    """

    def __init__(self, size: int, units: int, kernel_sizes, dropout_rate: float):
        super().__init__()
        self.conv1 = same_conv(size, units, kernel_sizes[0])
        self.conv2 = same_conv(units, size, kernel_sizes[1])
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Map x (B, T, D) to (B, T, D); valid (B, T, 1) is true off padding."""
        valid = valid.to(x.dtype)  # a product with a boolean takes three times as long
        x = mish(convolve(self.conv1, x * valid), self.dropout)
        if self.conv2.kernel_size[0] > 1:
            x = x * valid
        return self.dropout(convolve(self.conv2, x))


class FFTBlock(torch.nn.Module):
    """Feed-forward transformer block with style-adaptive norms, post-norm.

    Args:
        attention: self-attention with the interface of ESPnet's
            ``MultiHeadedAttention``, dense or pruned.
        feed_forward: ``ConvFeedForward``.
        size: D.
        style_dim: S.
        dropout_rate: after the attention.
        mix_style_alpha: None for SALN; otherwise ``MixStyleLayerNorm`` with this alpha.
    """

    def __init__(
        self,
        attention: MultiHeadedAttention,
        feed_forward: ConvFeedForward,
        size: int,
        style_dim: int,
        dropout_rate: float,
        mix_style_alpha: float | None = None,
    ):
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

        def make_norm():
            if mix_style_alpha is None:
                return StyleAdaptiveLayerNorm(size, style_dim)
            return MixStyleLayerNorm(size, style_dim, mix_style_alpha)

        self.norm1 = make_norm()
        self.norm2 = make_norm()
        self.dropout = Dropout(dropout_rate)

    def forward(
        self, x: torch.Tensor, style: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Apply the block.

        Args:
            x: (B, T, D).
            style: style vector (B, S).
            valid: true off padding (B, T, 1).

        Returns:
            (B, T, D), zero at padding.
        """
        x = x + self.dropout(self.attention(x, x, x, valid.transpose(1, 2)))
        valid = valid.to(x.dtype)
        x = self.norm1(x, style) * valid
        x = x + self.feed_forward(x, valid)
        return self.norm2(x, style) * valid


class StyleConvolution(torch.nn.Module):
    """Convolution over time whose kernels are predicted from a style vector (SC-CNN).

    Yoon et al., "SC-CNN", IEEE Signal Processing Letters 30, 2023: a depthwise and then
    a pointwise convolution. One linear layer predicts the direction, gain and bias of
    every kernel. Weight normalisation makes the norm of each kernel its gain. As in
    SALN, gains start at 1 and biases at 0.

    Args:
        channels: C.
        kernel_size: K, odd.
        style_dim: S.
    """

    def __init__(self, channels: int, kernel_size: int, style_dim: int):
        super().__init__()
        self.shapes = {
            "depthwise": (channels, kernel_size),
            "pointwise": (channels, channels),
            "depthwise_gain": (channels, 1),
            "pointwise_gain": (channels, 1),
            "depthwise_bias": (channels,),
            "pointwise_bias": (channels,),
        }
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        self.predictor = torch.nn.Linear(style_dim, sum(self.sizes))
        with torch.no_grad():
            parts = self.predictor.bias.split(self.sizes)
            for name, part in zip(self.shapes, parts, strict=True):
                if name.endswith("_gain"):
                    part.fill_(1.0)
                elif name.endswith("_bias"):
                    part.zero_()

    def kernels(self, style: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict the kernels of styles (B, S).

        Returns:
            depthwise: (B, C, K). pointwise: (B, C, C), output by input. depthwise_bias
            and pointwise_bias: (B, C).
        """
        parts = self.predictor(style).split(self.sizes, dim=-1)
        found = {
            name: part.unflatten(-1, shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        for name in ("depthwise", "pointwise"):
            found[name] = normalize(found[name], dim=-1) * found.pop(f"{name}_gain")
        return found

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Convolve x (B, T, C), zero at padding, with the kernels of style (B, S)."""
        kernels = self.kernels(style)
        around = kernels["depthwise"].size(-1) // 2
        windows = pad(x, (0, 0, around, around)).unfold(1, 2 * around + 1, 1)
        x = torch.einsum("btck,bck->btc", windows, kernels["depthwise"])
        x = x + kernels["depthwise_bias"][:, None]
        x = x @ kernels["pointwise"].transpose(1, 2)
        return x + kernels["pointwise_bias"][:, None]


class StyleConvBlock(torch.nn.Module):
    """Feed-forward transformer block conditioned by SC-CNN in place of SALN.

    The norms are plain layer norms. The feed-forward layer maps D to C channels,
    convolves them with kernels predicted from the style, and maps them to D again, with
    Mish and dropout between.

    Args:
        attention: as for ``FFTBlock``.
        size: D.
        channels: C.
        kernel_size: K, odd.
        style_dim: S.
        dropout_rate: after the attention, and in the feed-forward layer.
    """

    def __init__(
        self,
        attention: MultiHeadedAttention,
        size: int,
        channels: int,
        kernel_size: int,
        style_dim: int,
        dropout_rate: float,
    ):
        super().__init__()
        self.attention = attention
        self.inside = torch.nn.Linear(size, channels)
        self.convolution = StyleConvolution(channels, kernel_size, style_dim)
        self.outside = torch.nn.Linear(channels, size)
        self.norm1 = torch.nn.LayerNorm(size)
        self.norm2 = torch.nn.LayerNorm(size)
        self.dropout = Dropout(dropout_rate)

    def forward(
        self, x: torch.Tensor, style: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Apply the block, see ``FFTBlock.forward``."""
        x = x + self.dropout(self.attention(x, x, x, valid.transpose(1, 2)))
        valid = valid.to(x.dtype)
        x = self.norm1(x) * valid
        inner = mish(self.inside(x), self.dropout) * valid
        inner = mish(self.convolution(inner, style), self.dropout)
        x = x + self.dropout(self.outside(inner))
        return self.norm2(x) * valid


class MelStyleEncoder(torch.nn.Module):
    """Convert a mel spectrogram of any length to one style vector w.

    Spectral (two linear layers), temporal (two gated convolutions), self-attention,
    and the mean over the valid frames.

    Args:
        odim: mel bins.
        units: hidden width.
        style_dim: S.
        heads: attention heads.
        kernel_size: taps of the gated convolutions, odd.
        dropout_rate: dropout in all parts.
    """

    def __init__(
        self,
        odim: int,
        units: int = 128,
        style_dim: int = 128,
        heads: int = 2,
        kernel_size: int = 5,
        dropout_rate: float = 0.1,
    ):
        super().__init__()
        self.spectral = torch.nn.Sequential(
            torch.nn.Linear(odim, units),
            Mish(),
            Dropout(dropout_rate),
            torch.nn.Linear(units, units),
            Mish(),
            Dropout(dropout_rate),
        )
        self.temporal = torch.nn.ModuleList(
            same_conv(units, 2 * units, kernel_size) for _ in range(2)
        )
        self.attention = SelfAttention(heads, units, dropout_rate)
        self.output = torch.nn.Linear(units, style_dim)
        self.attention.dropout = Dropout(dropout_rate)
        self.dropout = Dropout(dropout_rate)

    def forward(self, feats: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Encode feats (B, T, odim), valid (B, T, 1), to style vectors (B, S)."""
        keys, valid = valid.transpose(1, 2), valid.to(feats.dtype)
        x = self.spectral(feats) * valid
        for conv in self.temporal:
            x = (x + self.dropout(glu(convolve(conv, x), dim=-1))) * valid
        x = x + self.dropout(self.attention(x, x, x, keys))
        x = self.output(x) * valid
        return x.sum(dim=1) / valid.sum(dim=1)
