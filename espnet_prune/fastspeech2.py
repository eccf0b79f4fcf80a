"""ESPnet's FastSpeech2 with self-attention that can be pruned.

Encoder and decoder may be transformers or conformers; everything except pruning,
including arguments and statistics, is ESPnet's.
"""

import dataclasses
import inspect
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.fastspeech.duration_predictor import (
    DurationPredictor,
)
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.tts.fastspeech2 import FastSpeech2
from espnet2.tts.gst.style_encoder import StyleEncoder
from typeguard import TypeCheckError

from espnet_prune.attention import (
    PruningMixin,
    Watch,
    prune_self_attention,
    pruned_attentions,
    pruning_terms,
    synthesising,
)
from espnet_prune.config import parse_encoder_pruning, require_heads, require_known
from espnet_prune.errors import UserError
from espnet_prune.model import (
    UNUSABLE_DURATIONS,
    require_durations,
    require_plugin,
    require_speakable,
)


class PrunedFastSpeech2(FastSpeech2):
    """FastSpeech2, dense or pruned, ``tts: pruned_fastspeech2`` in YAML.

    Args:
        idim: number of tokens. The last one is <sos/eos>, appended to every text.
        odim: mel bins.
        pruning: self-attention of the decoder: none, vanilla or differentiable.
        pruning_conf: see ``espnet_prune.config.PruningConf``.
        encoder_pruning: the same for the encoder.
        encoder_pruning_conf: its settings; by default those of ``pruning_conf``.
        plugin_version: version of espnet_prune that trained the model; training writes
            it.
        fastspeech2_conf: the arguments of ESPnet's FastSpeech2. With ``use_gst``, the
            voice is that of a reference, as in StyleSpeech.

    Raises:
        UserError: a setting is unknown or impossible, or a newer version of this plugin
            trained the model.
    """

    durations = "given"  # with the data; the model has no aligner

    def __init__(
        self,
        idim: int,
        odim: int,
        pruning: str = "none",
        pruning_conf: dict[str, Any] | None = None,
        encoder_pruning: str = "none",
        encoder_pruning_conf: dict[str, Any] | None = None,
        plugin_version: str | None = None,
        **fastspeech2_conf,
    ):
        require_plugin(plugin_version)
        known = inspect.signature(FastSpeech2).parameters
        require_known("tts_conf of pruned_fastspeech2", fastspeech2_conf, known)
        width, heads = (
            fastspeech2_conf.get(name, known[name].default)
            for name in ("adim", "aheads")
        )
        require_heads("adim / aheads", width, heads)
        _, encoder_conf = parse_encoder_pruning(
            pruning, pruning_conf, encoder_pruning, encoder_pruning_conf
        )
        try:
            super().__init__(idim, odim, **fastspeech2_conf)
        except (AssertionError, TypeCheckError, ValueError) as error:
            raise UserError(
                f"ESPnet's FastSpeech2 refuses tts_conf ({error}): correct it"
            ) from error
        encoder_pruning_conf = dataclasses.asdict(encoder_conf)
        prune_self_attention(self.encoder, encoder_pruning, encoder_pruning_conf)
        prune_self_attention(self.decoder, pruning, pruning_conf)
        self.watch = Watch()
        self.duration_predictor.__class__ = _DurationPredictor
        if self.use_gst:
            self.gst.__class__ = _StyleEncoder

    @property
    def decoder_attentions(self) -> list[PruningMixin]:
        """Attention modules of the decoder, first layer first."""
        return pruned_attentions(self.decoder)

    def forward(
        self,
        text,
        text_lengths,
        feats,
        feats_lengths,
        durations,
        durations_lengths,
        **batch,
    ):
        """Compute the losses of a batch: FastSpeech2's, and L_sp in phase 1.

        Args:
            text, text_lengths, feats, feats_lengths, durations, durations_lengths,
                batch: as in FastSpeech2.

        Returns:
            As in FastSpeech2; the statistics also have threshold, kept share, kept mass
            and mean soft mask of each decoder layer, counted from 1.

        Raises:
            UserError: durations do not fit text or recording.
        """
        self.watch(self)
        frames = feats_lengths.div(self.reduction_factor, rounding_mode="trunc")
        lengths = text_lengths + 1
        cut = durations[:, : int(durations_lengths.max())]  # for data-parallel
        require_durations(cut, durations_lengths, lengths, frames)
        loss, stats, weight = super().forward(
            text,
            text_lengths,
            feats,
            feats_lengths,
            durations,
            durations_lengths,
            **batch,
        )
        sparsity, pruning = pruning_terms({"encoder_": self.encoder, "": self.decoder})
        loss = loss + sparsity
        stats.update(pruning, loss=loss.detach())
        return force_gatherable((loss, stats, weight), loss.device)

    def encode_style(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the style vectors (B, adim) of references; only with ``use_gst``.

        Args:
            feats: normalised mel (B, T_feats, odim).
            feats_lengths: (B,), full length if not given.
        """
        if feats_lengths is None:
            return self.gst(feats)
        # ESPnet's style encoder reads padding as speech, so encode references one by
        # one
        return torch.cat(
            [self.gst(x[None, :n]) for x, n in zip(feats, feats_lengths, strict=True)]
        )

    def inference(self, text, feats=None, style_vector=None, **given):
        """Speak one text with the masks of inference.

        Args:
            text, feats, given: as in FastSpeech2.
            style_vector: (adim,), instead of the reference ``feats`` of ``use_gst``.

        Returns:
            As in FastSpeech2.
        """
        with synthesising(self):
            feats = feats if style_vector is None else style_vector
            self.duration_predictor.alpha = given.get("alpha", 1.0)
            return super().inference(text, feats, **given)

    def batch_inference(
        self,
        text,
        text_lengths=None,
        feats=None,
        feats_lengths=None,
        style_vector=None,
        **given,
    ):
        """Speak several texts with the masks of inference.

        Args:
            text, text_lengths, feats, feats_lengths, given: as in FastSpeech2.
            style_vector: (B, adim) or (1, adim), instead of references.

        Returns:
            As in FastSpeech2.
        """
        if self.use_gst and style_vector is None and feats is not None:
            style_vector = self.encode_style(feats, feats_lengths)
        with synthesising(self):
            feats = feats if style_vector is None else style_vector
            self.duration_predictor.alpha = given.get("alpha", 1.0)
            return super().batch_inference(text, text_lengths, feats, **given)


class _DurationPredictor(DurationPredictor):
    """ESPnet's predictor; it refuses durations that speech cannot have."""

    alpha = 1.0  # factor for durations of this call

    def inference(self, xs, x_masks=None):
        """Predict frames of each token (B, T_text) from hidden states."""
        log_durations = self(xs, x_masks)
        if not torch.isfinite(log_durations.exp()).all():
            raise UserError(UNUSABLE_DURATIONS)
        durations = super().inference(xs, x_masks)
        lengths = torch.full_like(durations[:, 0], durations.size(1))
        if x_masks is not None:
            durations = durations.masked_fill(x_masks, 0)
            lengths = (~x_masks).sum(dim=1)
        require_speakable(self.alpha * durations, lengths, self.alpha)
        return durations


class _StyleEncoder(StyleEncoder):
    """ESPnet's style tokens, which also accept a style vector (B, adim)."""

    def forward(self, speech):
        return speech if speech.dim() == 2 else super().forward(speech)


# ESPnet writes the arguments of a model to config.yaml. FastSpeech2's are ours too.
_arguments = {
    **inspect.signature(FastSpeech2).parameters,
    **inspect.signature(PrunedFastSpeech2).parameters,
}
del _arguments["fastspeech2_conf"]
PrunedFastSpeech2.__signature__ = inspect.Signature(list(_arguments.values()))
