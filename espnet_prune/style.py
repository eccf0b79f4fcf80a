"""Layers that depend on the style vector.

Min et al., "Meta-StyleSpeech", ICML 2021, Sec. 3.1. Letters: B utterances, T padded
length (tokens or frames), D model width, S width of the style vector.

Every layer zeroes padded positions before it mixes neighbours, so that an utterance has
the same result in a batch as alone.
"""

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from torch.nn.functional import glu

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


class ConvFeedForward(torch.nn.Module):
    """Position-wise feed-forward layer of two convolutions with Mish between.

    Args:
        size: D.
        units: hidden width.
        kernel_sizes: of the two convolutions, odd.
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
        x = mish(convolve(self.conv1, x * valid))
        x = self.dropout(x)
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

    """

    def __init__(
        self,
        attention: MultiHeadedAttention,
        feed_forward: ConvFeedForward,
        size: int,
        style_dim: int,
        dropout_rate: float,
    ):
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward
        self.norm1 = StyleAdaptiveLayerNorm(size, style_dim)
        self.norm2 = StyleAdaptiveLayerNorm(size, style_dim)
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


class MelStyleEncoder(torch.nn.Module):
    """Convert a mel spectrogram of any length to one style vector w.

    Spectral (two linear layers), temporal (two gated convolutions), self-attention,
    and the mean over the valid frames.

    Args:
        odim: mel bins.
        units: hidden width.
        style_dim: S.
        heads: attention heads.
        kernel_size: of the gated convolutions, odd.
        dropout_rate: of all parts.

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
