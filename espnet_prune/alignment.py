"""Learn durations inside the model with ESPnet's JETS alignment module.

Badlani et al., "One TTS Alignment To Rule Them All", ICASSP 2022; Lim et al., "JETS",
Interspeech 2022.

Letters: B utterances, T_text tokens, T_feats mel frames, D width of encoded tokens.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from espnet2.gan_tts.jets.alignments import (
    AlignmentModule,
    _monotonic_alignment_search,
)

from espnet_prune.errors import UserError
from espnet_prune.layers import convolve, valid_mask

BLANK = -1.0  # log-probability of no token, as in the papers


class Alignment(NamedTuple):
    """Alignment of a text and its mel spectrogram.

    Attributes:
        durations: frames of each token (B, T_text), long; at least one per token, their
            sum is the number of frames.
        forward_sum: loss over all monotonic alignments, a scalar.
        binarization: loss that sharpens the best alignment, a scalar.
    """

    durations: torch.Tensor
    forward_sum: torch.Tensor
    binarization: torch.Tensor


class DurationAligner(AlignmentModule):
    """ESPnet's alignment module with its weights, for a whole batch at once.

    In ESPnet's class, padding affects the last frames of a shorter utterance. It also
    stores the difference of every frame and token (B, T_feats, T_text, D), and computes
    priors one by one.
    """

    def forward(self, text, feats, text_lengths, feats_lengths, x_masks=None):
        """Align text (B, T_text, D) and feats (B, T_feats, odim).

        Returns:
            Tensor: log-probabilities of tokens given frames (B, T_feats, T_text), minus
                infinity at padding.
        """
        text_valid = valid_mask(text_lengths, text.size(1))
        feats_valid = valid_mask(feats_lengths, feats.size(1))
        text = convolve(self.t_conv1, text * text_valid).relu()
        text = convolve(self.t_conv2, text)
        feats = convolve(self.f_conv1, feats * feats_valid).relu()
        feats = convolve(self.f_conv2, feats * feats_valid).relu()
        feats = convolve(self.f_conv3, feats)
        log_p = (-torch.cdist(feats, text)).masked_fill(
            ~text_valid.transpose(1, 2), -math.inf
        )
        log_p = log_p.log_softmax(dim=-1) + log_prior(
            text_lengths, feats_lengths, text.size(1), feats.size(1)
        ).to(log_p.dtype)
        return log_p.masked_fill(~feats_valid, -math.inf)

    def align(self, text, feats, text_lengths, feats_lengths) -> Alignment:
        """Find the durations of the tokens, in float32 even under autocast.

        Args:
            text: encoded tokens (B, T_text, D).
            feats: mel-spectrogram (B, T_feats, odim).
            text_lengths: (B,).
            feats_lengths: (B,).
        """
        short = (feats_lengths < text_lengths).nonzero()
        if len(short) > 0:
            i = int(short[0])
            raise UserError(
                f"an utterance has {int(text_lengths[i])} tokens but only "
                f"{int(feats_lengths[i])} mel frames, so no alignment exists; remove "
                "recordings that are too short for their text, or use a smaller n_shift"
            )
        with torch.autocast(text.device.type, enabled=False):
            log_p = self(text.float(), feats.float(), text_lengths, feats_lengths)
            tokens = best_tokens(log_p, text_lengths, feats_lengths)
            valid = valid_mask(feats_lengths, feats.size(1))[..., 0]
            durations = torch.zeros_like(log_p[:, 0], dtype=torch.long)
            durations.scatter_add_(1, tokens, valid.long())
            best = log_p.gather(2, tokens[..., None])[..., 0].masked_fill(~valid, 0)
            binarization = -(best.sum(dim=1) / feats_lengths).mean()
            forward_sum = forward_sum_loss(log_p, text_lengths, feats_lengths)
        return Alignment(durations, forward_sum, binarization)


def log_prior(text_lengths, feats_lengths, tokens: int, frames: int) -> torch.Tensor:
    """Return the prior of near-diagonal alignments, a beta-binomial distribution.

    Frame t of T (from 1) expects token k of N (from 0) with the probability of k
    successes in N trials whose chance is beta-distributed with t and T - t + 1. All its
    gamma functions have whole arguments, so that one table of factorials is enough.

    Args:
        text_lengths: N of every utterance (B,).
        feats_lengths: T of every utterance (B,).
        tokens: padded number of tokens T_text.
        frames: padded number of frames T_feats.

    Returns:
        Log-probabilities (B, T_feats, T_text), float64; undefined at padding.
    """
    device = text_lengths.device
    count = torch.arange(tokens + frames + 1, device=device, dtype=torch.float64)
    table = torch.lgamma(count + 1)

    def log_factorial(number):
        return table[number.clamp(min=0)]

    n, t = text_lengths[:, None, None], feats_lengths[:, None, None]
    k = torch.arange(tokens, device=device)[None, None]
    i = torch.arange(frames, device=device)[None, :, None]  # t - 1
    by_token = log_factorial(n) - log_factorial(k) - log_factorial(n - k)
    by_frame = log_factorial(t) - log_factorial(i) - log_factorial(t - 1 - i)
    both = log_factorial(k + i) + log_factorial(n - k + t - 1 - i)
    return both + by_token + by_frame - log_factorial(n + t)


def best_tokens(log_p, text_lengths, feats_lengths) -> torch.Tensor:
    """Return the token of every frame in the most likely monotonic alignment.

    ESPnet's search runs on the host, in a millisecond per utterance. The batch is
    copied to the host as a whole.

    Args:
        log_p: (B, T_feats, T_text).
        text_lengths: (B,).
        feats_lengths: (B,).

    Returns:
        (B, T_feats), long, zero at padding.
    """
    host = log_p.detach().cpu().numpy()
    tokens = np.zeros(host.shape[:2], dtype=np.int64)
    lengths = zip(text_lengths.tolist(), feats_lengths.tolist(), strict=True)
    for scores, row, (n, t) in zip(host, tokens, lengths, strict=True):
        row[:t] = _monotonic_alignment_search(np.ascontiguousarray(scores[:t, :n]))
    return torch.from_numpy(tokens).to(log_p.device)


def forward_sum_loss(log_p, text_lengths, feats_lengths) -> torch.Tensor:
    """Sum over all monotonic alignments: the CTC loss of the tokens in order.

    Args:
        log_p: (B, T_feats, T_text).
        text_lengths: (B,).
        feats_lengths: (B,).

    Returns:
        A scalar: mean over the tokens of each utterance, then over the batch.
    """
    log_p = F.pad(log_p, (1, 0), value=BLANK).log_softmax(dim=-1).transpose(0, 1)
    log_p = log_p.masked_fill(log_p.isinf(), -1e4)  # PyTorch's gradient of -inf is NaN
    targets = torch.arange(1, log_p.size(2), device=log_p.device)
    return F.ctc_loss(
        log_p,
        targets.expand(log_p.size(1), -1),
        feats_lengths,
        text_lengths,
        zero_infinity=True,
    )


def average_over_tokens(values, durations):
    """Average frame-level values (B, T_feats, 1) over each token, (B, T_text, 1).

    A token without frames gets 0.
    """
    sums = F.pad(values[..., 0].double().cumsum(dim=1), (1, 0))
    ends = durations.cumsum(dim=1).clamp(max=values.size(1))
    totals = sums.gather(1, ends) - sums.gather(1, (ends - durations).clamp(min=0))
    return (totals / durations.clamp(min=1)).to(values.dtype)[..., None]
