"""A discriminator that keeps generated mels from becoming too smooth.

The L1 loss of the mel is lowest at the median of all mels that fit a text, which is
smoother than each of them. A discriminator of patches learns to tell natural mels from
generated ones, by least squares (Mao et al., ICCV 2017), and the model learns to
deceive it. The distance between the hidden layers for both mels is a loss too, scaled
to the L1 loss as in GANSpeech (Yang et al., Interspeech 2021). This is not a part of
the paper, and it is off by default.
"""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm


class AdversarialLosses(NamedTuple):
    """Losses of a batch, each a scalar.

    Attributes:
        discriminator: trains the discriminator only.
        adversarial: trains the model to deceive it.
        features: trains the model to resemble natural mels in the hidden layers.
    """

    discriminator: torch.Tensor
    adversarial: torch.Tensor
    features: torch.Tensor


class _Judged(NamedTuple):
    values: torch.Tensor  # (B, C, T', M')
    valid: torch.Tensor  # (B, 1, T', 1)


class PatchDiscriminator(torch.nn.Module):
    """Gives each patch of a mel a score: 0 for a generated one, 1 for a natural one.

    Args:
        channels: channels of the first convolution; each of the others has twice as
            many as the one before. Their kernel is 3 and their stride 2 in time and
            frequency.
    """

    def __init__(self, channels: int):
        super().__init__()
        sizes = [1, channels, 2 * channels, 4 * channels]
        self.convs = torch.nn.ModuleList(
            spectral_norm(torch.nn.Conv2d(before, after, 3, stride=2, padding=1))
            for before, after in itertools.pairwise(sizes)
        )
        self.output = spectral_norm(torch.nn.Conv2d(sizes[-1], 1, 3, padding=1))

    def forward(self, mel: torch.Tensor, valid: torch.Tensor) -> list[_Judged]:
        """Return the hidden layers and, last, the scores of mel (B, T, M).

        Args:
            mel: (B, T, M). valid: (B, T, 1).
        """
        x, valid = (mel * valid)[:, None], valid[:, None].to(mel.dtype)
        judged = []
        for conv in self.convs:
            valid = valid[:, :, ::2]
            x = F.leaky_relu(conv(x), 0.2) * valid
            judged.append(_Judged(x, valid))
        return [*judged, _Judged(self.output(x), valid)]


class MelDiscriminator(torch.nn.Module):
    """Discriminators of patches at T, T / 2 and T / 4 frames.

    Args:
        channels: channels of the first convolution in each.
        scales: number of discriminators.
    """

    def __init__(self, channels: int = 8, scales: int = 3):
        super().__init__()
        self.scales = torch.nn.ModuleList(
            PatchDiscriminator(channels) for _ in range(scales)
        )

    def forward(self, mel: torch.Tensor, valid: torch.Tensor) -> list[list[_Judged]]:
        """Judge mel (B, T, M), valid (B, T, 1), at each scale."""
        judged = []
        for scale in self.scales:
            judged.append(scale(mel, valid))
            mel = F.avg_pool1d((mel * valid).transpose(1, 2), 2, ceil_mode=True)
            mel, valid = mel.transpose(1, 2), valid[:, ::2]
        return judged

    def losses(
        self, generated: torch.Tensor, natural: torch.Tensor, valid: torch.Tensor
    ) -> AdversarialLosses:
        """Compare mels. The sum of the losses trains both sides in one backward pass.

        Args:
            generated: (B, T, M). natural: (B, T, M). valid: (B, T, 1).
        """
        real = self(natural, valid)
        fake = self(generated.detach(), valid)
        discriminator = [
            _mean((r[-1].values - 1).square(), r[-1].valid)
            + _mean(f[-1].values.square(), f[-1].valid)
            for r, f in zip(real, fake, strict=True)
        ]
        # the losses of the model must not train the discriminator
        self.requires_grad_(False)
        judged = self(generated, valid)
        self.requires_grad_(True)
        adversarial = [
            _mean((scores.values - 1).square(), scores.valid) for *_, scores in judged
        ]
        features = [
            _mean((layer.values - natural_layer.values.detach()).abs(), layer.valid)
            for scale, natural_scale in zip(judged, real, strict=True)
            for layer, natural_layer in zip(scale[:-1], natural_scale[:-1], strict=True)
        ]
        totals = (discriminator, adversarial, features)
        return AdversarialLosses(*(torch.stack(losses).sum() for losses in totals))


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Average values (B, C, T, M) where valid (B, 1, T, 1) is 1."""
    _, channels, _, bins = values.shape
    return (values * valid).sum() / (valid.sum() * channels * bins)
