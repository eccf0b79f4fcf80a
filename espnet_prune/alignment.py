"""Durations learned inside the model, by ESPnet's JETS alignment module.

Badlani et al., "One TTS Alignment To Rule Them All", ICASSP 2022; Lim et al., "JETS",
Interspeech 2022.
"""

from typing import NamedTuple

import torch
from espnet2.gan_tts.jets.alignments import (
    AlignmentModule,
    average_by_duration,
    viterbi_decode,
)
from espnet2.gan_tts.jets.loss import ForwardSumLoss

from espnet_prune.errors import UserError

# ESPnet keeps the prior of every pair of lengths, about half a megabyte each.
MOST_PRIORS = 1000


class Alignment(NamedTuple):
    """What a text and its mel-spectrogram say of each other.

    Attributes:
        durations: frames of each token (B, T_text), long; at least one a token, their
            sum is the number of frames.
        forward_sum: loss over all monotonic alignments, a scalar.
        binarization: loss that sharpens the best alignment, a scalar.

    """

    durations: torch.Tensor
    forward_sum: torch.Tensor
    binarization: torch.Tensor


class DurationAligner(AlignmentModule):
    """ESPnet's alignment module, utterance by utterance.

    Its convolutions would let padding leak into the last frames of a shorter
    utterance.
    """

    def forward(self, text, feats, text_lengths, feats_lengths, x_masks=None):
        """Align text (B, T_text, D) and feats (B, T_feats, odim).

        Returns:
            Tensor: log-probabilities of tokens given frames (B, T_feats, T_text), minus
                infinity at padding.

        """
        log_p = text.new_full(
            (text.size(0), feats.size(1), text.size(1)), float("-inf")
        )
        for i, (n, t) in enumerate(zip(text_lengths.tolist(), feats_lengths.tolist())):
            log_p[i, :t, :n] = super().forward(
                text[i : i + 1, :n],
                feats[i : i + 1, :t],
                text_lengths[i : i + 1],
                feats_lengths[i : i + 1],
            )[0]
        return log_p

    def align(self, text, feats, text_lengths, feats_lengths) -> Alignment:
        """Find the durations of the tokens, in float32 even under autocast.

        Args:
            text: encoded tokens (B, T_text, D).
            feats: mel-spectrogram (B, T_feats, odim).
            text_lengths: (B,).
            feats_lengths: (B,).

        Raises:
            UserError: an utterance has fewer frames than tokens.

        """
        short = (feats_lengths < text_lengths).nonzero()
        if len(short) > 0:
            i = int(short[0])
            raise UserError(
                f"an utterance has {int(text_lengths[i])} tokens but only "
                f"{int(feats_lengths[i])} mel frames, so no alignment exists; remove "
                "recordings that are too short for their text, or use a smaller n_shift"
            )
        if len(self._cache) > MOST_PRIORS:
            self._cache.clear()
        with torch.autocast(text.device.type, enabled=False):
            log_p = self(text.float(), feats.float(), text_lengths, feats_lengths)
            durations, binarization = viterbi_decode(log_p, text_lengths, feats_lengths)
            forward_sum = ForwardSumLoss()(log_p, text_lengths, feats_lengths)
        return Alignment(durations.long(), forward_sum, binarization)


def average_over_tokens(values, durations, text_lengths, feats_lengths):
    """Average frame-level values (B, T_feats, 1) over each token, (B, T_text, 1)."""
    averages = average_by_duration(
        durations.float(), values[..., 0].float(), text_lengths, feats_lengths
    )
    return averages[..., None]
