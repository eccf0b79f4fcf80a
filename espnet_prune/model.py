"""StyleSpeech with a mel decoder whose self-attention can be pruned.

Baseline: Min et al., "Meta-StyleSpeech", ICML 2021. Pruning: Yoon et al., "Pruning
Self-Attention for Zero-Shot Multi-Speaker Text-to-Speech", Interspeech 2023.

Letters: B utterances, T_text tokens (including the appended <eos>), T_feats mel frames,
D model width, S width of the style vector, L layers, H heads. ``valid`` is true off
padding, (B, T, 1).
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from espnet2.legacy.nets.pytorch_backend.nets_utils import pad_list
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.tts.abs_tts import AbsTTS
from packaging.version import Version

from espnet_prune import __version__, keys
from espnet_prune.alignment import DurationAligner, average_over_tokens
from espnet_prune.attention import (
    ATTENTION_SCALES,
    PrunedMultiHeadedAttention,
    PruningMixin,
    Watch,
    pruned_attentions,
    pruning_terms,
    synthesising,
)
from espnet_prune.config import (
    VARIANCES,
    parse_encoder_pruning,
    require_choice,
    require_heads,
    require_known,
    require_numbers,
)
from espnet_prune.discriminator import MelDiscriminator
from espnet_prune.errors import UserError
from espnet_prune.layers import Dropout, Mish, convolve, mish, same_conv, valid_mask
from espnet_prune.style import (
    ConvFeedForward,
    FFTBlock,
    MelStyleEncoder,
    StyleConvBlock,
)
from espnet_prune.variance import (
    VarianceEmbedding,
    VariancePredictor,
    durations_from_log,
    log_duration,
    regulate_length,
    sinusoid,
)

PREDICTED = ("duration", "pitch", "energy")
CONDITIONINGS = ("saln", "mix_style", "sc_cnn")
MAX_FRAMES_A_TOKEN = 200  # on average over a text; two seconds per token is not speech
UNUSABLE_DURATIONS = (
    "predicted durations are NaN or infinite: use another reference or style vector, "
    "or an earlier checkpoint"
)


class PhonemeEncoder(torch.nn.Module):
    """Tokens to hidden states: embedding, prenet, FFT blocks, linear layer.

    Args:
        idim: number of tokens; token 0 is padding.
        size: D.
        blocks: ``FFTBlock`` or ``StyleConvBlock`` layers.
        kernel_size: taps of the prenet's convolutions.
        dropout_rate: dropout in the prenet.
    """

    def __init__(self, idim, size, blocks, kernel_size, dropout_rate):
        super().__init__()
        self.embed = torch.nn.Embedding(idim, size, padding_idx=0)
        self.convs = torch.nn.ModuleList(
            same_conv(size, size, kernel_size) for _ in range(2)
        )
        self.linear = torch.nn.Linear(size, size)
        self.dropout = Dropout(dropout_rate)
        self.blocks = torch.nn.ModuleList(blocks)
        self.output = torch.nn.Linear(size, size)

    def forward(self, tokens, style, valid):
        """Encode tokens (B, T_text) to (B, T_text, D); style (B, S)."""
        embedded = x = self.embed(tokens) * valid
        for conv in self.convs:
            x = mish(convolve(conv, x), self.dropout) * valid
        x = self.linear(x) + embedded
        x = add_positions(x, valid)
        for block in self.blocks:
            x = block(x, style, valid)
        return self.output(x) * valid


class MelDecoder(torch.nn.Module):
    """Regulated hidden states to mel: prenet, FFT blocks, linear layer, no postnet.

    Args:
        size: D.
        odim: mel bins.
        blocks: ``FFTBlock`` layers, which are pruned.
        prenet_units: width between the two linear layers of the prenet.
        dropout_rate: dropout in the prenet.
    """

    def __init__(self, size, odim, blocks, prenet_units, dropout_rate):
        super().__init__()
        self.prenet = torch.nn.Sequential(
            torch.nn.Linear(size, prenet_units),
            Mish(),
            Dropout(dropout_rate),
            torch.nn.Linear(prenet_units, size),
        )
        self.blocks = torch.nn.ModuleList(blocks)
        self.output = torch.nn.Linear(size, odim)

    def forward(self, x, style, valid):
        """Decode x (B, T_feats, D), style (B, S), valid to mel (B, T_feats, odim)."""
        x = add_positions(self.prenet(x), valid)
        for block in self.blocks:
            x = block(x, style, valid)
        return self.output(x) * valid.to(x.dtype)


class Predicted(NamedTuple):
    """Outputs of the predictors, each (B, T_text, 1): log(d + 1), pitch, energy."""

    log_duration: torch.Tensor
    pitch: torch.Tensor
    energy: torch.Tensor


class Prosody(NamedTuple):
    """What is spoken: frames of each token (B, T_text), pitch, energy (B, T_text, 1).

    It is that of the data in training, and what is predicted in synthesis.
    """

    durations: torch.Tensor
    pitch: torch.Tensor
    energy: torch.Tensor


class StyleSpeech(AbsTTS):
    """StyleSpeech, dense or with pruned self-attention, ``tts: stylespeech`` in YAML.

    Args:
        idim: number of tokens. The last one is <sos/eos>, appended to every text.
        odim: mel bins.
        pruning, pruning_conf: how the self-attention of the mel decoder is pruned, see
            ``espnet_prune.config.PruningConf``.
        encoder_pruning, encoder_pruning_conf: the same for the phoneme encoder. The
            paper reports that pruning it makes the model worse.
        durations: "given" with the data (ESPnet's ``teacher_dumpdir`` convention: one
            number per token and one for <eos>; pitch and energy averaged over tokens)
            or "learned" inside the model (pitch and energy by frame).
        adim, aheads, style_dim: D, H and S.
        sc_cnn_channels, sc_cnn_kernel_size: C and K of ``StyleConvolution``.
        plugin_version: version of espnet_prune that trained the model; training writes
            it.

    docs/settings.md describes these settings and all others.

    Raises:
        UserError: a setting is unknown or impossible, or a newer version of this plugin
            trained the model.
    """

    # ESPnet passes the reference mel to models with this attribute
    use_gst = True
    spks = None
    langs = None
    spk_embed_dim = None

    def __init__(
        self,
        idim: int,
        odim: int,
        pruning: str = "none",
        pruning_conf: dict[str, Any] | None = None,
        encoder_pruning: str = "none",
        encoder_pruning_conf: dict[str, Any] | None = None,
        durations: str = "given",
        adim: int = 256,
        aheads: int = 2,
        elayers: int = 4,
        eunits: int = 1024,
        dlayers: int = 4,
        dunits: int = 1024,
        ffn_kernel_sizes: Sequence[int] = (9, 1),
        encoder_prenet_kernel_size: int = 3,
        decoder_prenet_units: int = 128,
        attention_scale: str = "head_width",
        encoder_dropout_rate: float = 0.1,
        decoder_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.1,
        encoder_conditioning: str = "saln",
        mix_style_alpha: float = 0.2,
        sc_cnn_channels: int = 8,
        sc_cnn_kernel_size: int = 7,
        style_units: int = 128,
        style_dim: int = 128,
        style_heads: int = 2,
        style_kernel_size: int = 5,
        style_dropout_rate: float = 0.1,
        predictor_units: int = 256,
        predictor_kernel_size: int = 3,
        predictor_dropout_rate: float = 0.5,
        embedding_kernel_size: int = 3,
        stop_gradient_from: Sequence[str] = (),
        mel_weight: float = 1.0,
        duration_weight: float = 1.0,
        pitch_weight: float = 1.0,
        energy_weight: float = 1.0,
        forwardsum_weight: float = 2.0,
        binarization_weight: float = 2.0,
        adversarial_weight: float = 0.0,
        adversarial_channels: int = 8,
        compile_model: bool = False,
        plugin_version: str | None = None,
        **unknown,
    ):
        settings = dict(locals())
        require_plugin(plugin_version)
        known = inspect.signature(StyleSpeech).parameters
        require_known("tts_conf of stylespeech", unknown, known)
        require_choice("tts_conf.durations", durations, ("given", "learned"))
        require_choice("tts_conf.attention_scale", attention_scale, ATTENTION_SCALES)
        require_choice(
            "tts_conf.encoder_conditioning", encoder_conditioning, CONDITIONINGS
        )
        require_numbers(StyleSpeech, settings)
        for name in stop_gradient_from:
            require_choice("tts_conf.stop_gradient_from", name, PREDICTED)
        require_heads("adim / aheads", adim, aheads)
        require_heads("style_units / style_heads", style_units, style_heads)
        decoder_conf, encoder_conf = parse_encoder_pruning(
            pruning, pruning_conf, encoder_pruning, encoder_pruning_conf
        )
        super().__init__()
        self.idim = idim
        self.odim = odim
        self.eos = idim - 1
        self.durations = durations
        self.stop_gradient_from = tuple(stop_gradient_from)
        self.loss_weights = {
            "mel": mel_weight,
            "duration": duration_weight,
            "pitch": pitch_weight,
            "energy": energy_weight,
            "forwardsum": forwardsum_weight,
            "binarization": binarization_weight,
        }

        def attention(pruning, conf):
            return PrunedMultiHeadedAttention(
                aheads,
                adim,
                attention_dropout_rate,
                pruning=pruning or "none",
                pruning_conf=conf,
                attention_scale=attention_scale,
            )

        def block(pruning, conf, units, dropout_rate, mix_alpha=None):
            return FFTBlock(
                attention(pruning, conf),
                ConvFeedForward(adim, units, ffn_kernel_sizes, dropout_rate),
                adim,
                style_dim,
                dropout_rate,
                mix_alpha,
            )

        def encoder_block():
            if encoder_conditioning == "sc_cnn":
                return StyleConvBlock(
                    attention(encoder_pruning, encoder_conf),
                    adim,
                    sc_cnn_channels,
                    sc_cnn_kernel_size,
                    style_dim,
                    encoder_dropout_rate,
                )
            mixes = encoder_conditioning == "mix_style"
            return block(
                encoder_pruning,
                encoder_conf,
                eunits,
                encoder_dropout_rate,
                mix_style_alpha if mixes else None,
            )

        self.style_encoder = MelStyleEncoder(
            odim,
            style_units,
            style_dim,
            style_heads,
            style_kernel_size,
            style_dropout_rate,
        )
        self.encoder = PhonemeEncoder(
            idim,
            adim,
            [encoder_block() for _ in range(elayers)],
            encoder_prenet_kernel_size,
            encoder_dropout_rate,
        )
        self.predictors = torch.nn.ModuleDict(
            {
                name: VariancePredictor(
                    adim, predictor_units, predictor_kernel_size, predictor_dropout_rate
                )
                for name in PREDICTED
            }
        )
        self.embeddings = torch.nn.ModuleDict(
            {
                name: VarianceEmbedding(adim, embedding_kernel_size)
                for name in ("pitch", "energy")
            }
        )
        self.encoded_norm = torch.nn.LayerNorm(adim)
        self.decoder = MelDecoder(
            adim,
            odim,
            [
                block(pruning, decoder_conf, dunits, decoder_dropout_rate)
                for _ in range(dlayers)
            ],
            decoder_prenet_units,
            decoder_dropout_rate,
        )
        self.compile_model = compile_model
        if compile_model:
            for part in (self.encoder, self.decoder, *self.predictors.values()):
                part.compile(dynamic=True)
        self.watch = Watch()
        self.check_durations = DurationCheck()
        self.aligner = DurationAligner(adim, odim) if durations == "learned" else None
        self.adversarial_weight = adversarial_weight
        self.discriminator = (
            MelDiscriminator(adversarial_channels) if adversarial_weight > 0 else None
        )

    @property
    def decoder_attentions(self) -> list[PruningMixin]:
        """Attention modules of the decoder, first layer first."""
        return pruned_attentions(self.decoder)

    def forward(
        self,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        feats: torch.Tensor,
        feats_lengths: torch.Tensor,
        durations: torch.Tensor | None = None,
        durations_lengths: torch.Tensor | None = None,
        pitch: torch.Tensor | None = None,
        energy: torch.Tensor | None = None,
        style_vector: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute the losses of a batch; the reference is the target utterance.

        Args:
            text: token ids without <eos> (B, T_text - 1).
            text_lengths: (B,).
            feats: target mel (B, T_feats, odim), normalised.
            feats_lengths: (B,).
            durations: frames of each token and <eos> (B, T_text); None if learned.
            durations_lengths: (B,).
            pitch: by token (B, T_text, 1), or by frame (B, T_feats, 1) if durations
                are learned.
            energy: as pitch.
            style_vector: (B, S), instead of the style of the target utterance.

        Returns:
            Tensor: loss, a scalar.
            Dict: every term of the loss; threshold, kept share, kept mass and mean soft
                mask of each decoder layer, counted from 1.
            Tensor: B, the weight of this batch in averages.

        Raises:
            UserError: durations, pitch or energy are missing or do not fit the text.
        """
        self.watch(self)
        tokens, token_lengths = self._append_eos(text, text_lengths)
        token_valid = valid_mask(token_lengths, tokens.size(1))
        frame_valid = valid_mask(feats_lengths, feats.size(1))

        style = style_vector
        if style is None:
            style = self.style_encoder(feats, frame_valid)
        encoded = self.encoder(tokens, style, token_valid)
        losses = {}
        if self.aligner is not None:
            alignment = self.aligner.align(encoded, feats, token_lengths, feats_lengths)
            durations = alignment.durations
            losses["forwardsum"] = alignment.forward_sum
            losses["binarization"] = alignment.binarization
        else:
            check = self.check_durations if self.training else require_durations
            check(durations, durations_lengths, token_lengths, feats_lengths)
        target = self._prosody(durations, pitch, energy, feats_lengths, tokens.size(1))
        predicted = self._predict_variances(encoded, token_valid)
        mel = self._decode(encoded, target, style, token_valid, frames=feats.size(1))

        losses["mel"] = _utterance_mean((mel - feats).abs(), frame_valid)
        wanted = (log_duration(target.durations)[..., None], *target[1:])
        for name, prediction, value in zip(PREDICTED, predicted, wanted, strict=True):
            squares = (prediction - value).square()
            losses[name] = _utterance_mean(squares, token_valid)
        loss = sum(self.loss_weights[name] * value for name, value in losses.items())
        if self.discriminator is not None:
            judged = self.discriminator.losses(mel, feats, frame_valid)
            losses.update(judged._asdict())
            scale = (losses["mel"] / judged.features).detach()
            deceived = judged.adversarial + scale * judged.features
            loss = loss + judged.discriminator + self.adversarial_weight * deceived
        stats = {keys.loss_of(term): value.detach() for term, value in losses.items()}

        sparsity, pruning = pruning_terms({"encoder_": self.encoder, "": self.decoder})
        loss = loss + sparsity
        stats.update(pruning, loss=loss.detach())
        return force_gatherable((loss, stats, text.size(0)), loss.device)

    def encode_style(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the style vectors (B, S) of references.

        Args:
            feats: normalised mel (B, T_feats, odim).
            feats_lengths: (B,), full length if not given.
        """
        if feats_lengths is None:
            feats_lengths = feats.new_full((len(feats),), feats.size(1)).long()
        return self.style_encoder(feats, valid_mask(feats_lengths, feats.size(1)))

    def inference(
        self,
        text: torch.Tensor,
        feats: torch.Tensor | None = None,
        durations: torch.Tensor | None = None,
        pitch: torch.Tensor | None = None,
        energy: torch.Tensor | None = None,
        style_vector: torch.Tensor | None = None,
        alpha: float = 1.0,
        use_teacher_forcing: bool = False,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        """Speak one text in the voice of a reference.

        Args:
            text: token ids without <eos> (T_text - 1,).
            feats: reference mel (T_ref, odim), normalised.
            durations: frames of each token and <eos> (T_text,), for teacher forcing.
            pitch: (T_text, 1), for teacher forcing; (T_feats, 1) if the model learned
                its durations.
            energy: as pitch.
            style_vector: (S,), instead of the reference.
            alpha: factor for durations; a value above 1 speaks more slowly.
            use_teacher_forcing: take durations, pitch and energy as given.

        Returns:
            feat_gen: mel (T_feats, odim). duration: frames of each token (T_text,).

        Raises:
            UserError: empty text, or neither reference nor style vector.
        """
        given = {"feats": feats, "style_vector": style_vector}
        if use_teacher_forcing:
            given |= {"durations": durations, "pitch": pitch, "energy": energy}
        batch = {
            name: value[None] for name, value in given.items() if value is not None
        }
        output = self.batch_inference([text], alpha=alpha, **batch)
        return {"feat_gen": output["feat_gen"][0], "duration": output["duration"][0]}

    def batch_inference(
        self,
        text: list[torch.Tensor],
        feats: torch.Tensor | None = None,
        feats_lengths: torch.Tensor | None = None,
        durations: torch.Tensor | None = None,
        pitch: torch.Tensor | None = None,
        energy: torch.Tensor | None = None,
        style_vector: torch.Tensor | None = None,
        alpha: float = 1.0,
        **kwargs,
    ) -> dict[str, Any]:
        """Speak several texts, each in the voice of its own reference.

        Args:
            text: B texts as token ids without <eos>.
            feats: references (B, T_ref, odim), normalised; a single reference is used
                for all texts.
            feats_lengths: (B,).
            durations, pitch, energy: as in ``inference``, with a leading B.
            style_vector: (B, S) or (1, S), instead of the references.
            alpha: factor for durations; a value above 1 speaks more slowly.

        Returns:
            feat_gen: B mels (T_feats, odim). feat_gen_lengths: (B,). duration: frames
            of each token (B, T_text), zero at padding.

        Raises:
            UserError: an empty text, or neither references nor style vectors.
        """
        if any(len(tokens) == 0 for tokens in text):
            raise UserError(
                "a text has no tokens: check that it is not empty and that its "
                "characters are in the model's token list"
            )
        if not alpha > 0:
            raise UserError(f"speed factor alpha is {alpha}: choose a value above 0")
        device = self.encoded_norm.weight.device
        text_lengths = torch.tensor([len(tokens) for tokens in text], device=device)
        padded = pad_list([tokens.to(device) for tokens in text], 0)
        if style_vector is None:
            if feats is None:
                raise UserError(
                    "no reference speech: pass speech=, a recording of the voice, or "
                    "a style vector"
                )
            style_vector = self.encode_style(feats, feats_lengths)
        style = style_vector.to(device).expand(len(text), -1)

        tokens, token_lengths = self._append_eos(padded, text_lengths)
        valid = valid_mask(token_lengths, tokens.size(1))
        stance = "force_eager" if self.compile_model else "default"
        with synthesising(self), torch.compiler.set_stance(stance):
            encoded = self.encoder(tokens, style, valid)
            predicted = self._predict_variances(encoded, valid)
            if durations is None:
                if not torch.isfinite(predicted.log_duration).all():
                    raise UserError(UNUSABLE_DURATIONS)
                durations = durations_from_log(predicted.log_duration, valid, alpha)
                require_speakable(durations, token_lengths, alpha)
                prosody = Prosody(durations, predicted.pitch, predicted.energy)
            else:
                lengths = durations.sum(dim=1)
                if self.aligner is None:
                    require_durations(durations, None, token_lengths, lengths)
                prosody = self._prosody(
                    durations, pitch, energy, lengths, tokens.size(1)
                )
            mel = self._decode(encoded, prosody, style, valid)
        lengths = prosody.durations.sum(dim=1)
        return {
            "feat_gen": [
                feat[:length] for feat, length in zip(mel, lengths, strict=True)
            ],
            "feat_gen_lengths": lengths,
            "duration": prosody.durations,
        }

    def _append_eos(self, text, text_lengths):
        """Return text with <eos> after each utterance (B, T_text) and its lengths."""
        tokens = F.pad(text, (0, 1))
        tokens = tokens.scatter(1, text_lengths[:, None], self.eos)
        return tokens, text_lengths + 1

    def _prosody(self, durations, pitch, energy, feats_lengths, size) -> Prosody:
        """Check pitch and energy, and average frames over tokens if necessary.

        All results have ``size`` tokens, T_text.
        """
        width = durations.size(1)
        variances = {}
        given = zip(VARIANCES, (pitch, energy), strict=True)
        for (name, extractor, averaged), value in given:
            if value is None:
                raise UserError(
                    f"{name} is missing: set {name}_extract: {extractor} and "
                    f"{name}_normalize: global_mvn in the training configuration"
                )
            setting = f"{name}_extract_conf.{averaged}"
            if self.durations == "learned":
                if value.size(1) < int(feats_lengths.max()):
                    raise UserError(
                        f"learned durations need {name} by frame: set {setting}: false"
                    )
                value = average_over_tokens(value, durations)
            elif value.size(1) != width:
                raise UserError(
                    f"{name} has {value.size(1)} values for {width} tokens:"
                    f" set {setting}: true"
                )
            variances[name] = F.pad(value, (0, 0, 0, size - value.size(1)))
        return Prosody(F.pad(durations, (0, size - width)), **variances)

    def _predict_variances(self, encoded, valid) -> Predicted:
        """Predict log-duration, pitch and energy of every token."""
        return Predicted(
            *(
                predictor(
                    encoded.detach() if name in self.stop_gradient_from else encoded,
                    valid,
                )
                for name, predictor in self.predictors.items()
            )
        )

    def _decode(self, encoded, prosody, style, valid, frames=None):
        """Convert encoded tokens (B, T_text, D) to mel (B, T_feats, odim)."""
        x = self.encoded_norm(encoded)
        x = x + self.embeddings["pitch"](prosody.pitch, valid)
        x = x + self.embeddings["energy"](prosody.energy, valid)
        x, lengths = regulate_length(x, prosody.durations, frames)
        return self.decoder(x, style, valid_mask(lengths, x.size(1)))


def add_positions(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Add sinusoidal positions to x (B, T, D), zero at padding."""
    positions = torch.arange(x.size(1), device=x.device)
    return (x + sinusoid(positions, x)) * valid.to(x.dtype)


def _utterance_mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Average values (B, T, D) over each utterance, then over the batch."""
    total = (values.float() * valid.float()).sum(dim=(1, 2))
    return (total / (valid.sum(dim=(1, 2)) * values.size(2))).mean()


def require_durations(
    durations: torch.Tensor | None,
    durations_lengths: torch.Tensor | None,
    token_lengths: torch.Tensor,
    feats_lengths: torch.Tensor,
) -> None:
    """Refuse durations (B, T_text) that belong to other texts or recordings.

    Args:
        durations: frames of each token and <eos>, zero-padded.
        durations_lengths: how many durations each utterance has (B,); None if as many
            as tokens.
        token_lengths: tokens with <eos> (B,).
        feats_lengths: mel frames (B,).
    """
    if durations is None:
        raise UserError(
            "durations are missing: give them with the data (--teacher_dumpdir), or "
            "set tts_conf.durations to learned"
        )
    longest = int(token_lengths.max())
    if durations_lengths is None or durations.size(1) != longest:
        pairs = [(durations.size(1), longest)]
    else:
        pairs = list(
            zip(durations_lengths.tolist(), token_lengths.tolist(), strict=True)
        )
    for numbers, tokens in pairs:
        if numbers != tokens:
            raise UserError(
                f"durations have {numbers} numbers for a text of {tokens} tokens: "
                "give one per token and one for <eos>"
            )
    if not torch.equal(durations.sum(dim=1), feats_lengths.to(durations.device)):
        raise UserError(
            "durations of an utterance do not add up to its mel frames "
            f"({durations.sum(dim=1).tolist()} against {feats_lengths.tolist()}): "
            "make them with the same fs, n_shift and audio as the features"
        )
    if (durations < 0).any():
        raise UserError("a duration is negative: give numbers of frames from 0")


class DurationCheck:
    """``require_durations`` of training, which does not wait for a GPU.

    On a GPU, the result for a batch is copied in the background and read when the next
    batch is checked.
    """

    def __init__(self):
        self.pending = None

    def __reduce__(self):
        return DurationCheck, ()  # a copy of a model starts without a state

    def __call__(self, durations, durations_lengths, token_lengths, feats_lengths):
        """Check a batch, see ``require_durations``."""
        batch = (durations, durations_lengths, token_lengths, feats_lengths)
        if durations is None or durations.device.type == "cpu":
            require_durations(*batch)
        if durations.device.type != "cuda":
            return
        if self.pending is not None:
            before, verdict, copied = self.pending
            copied.synchronize()
            if verdict.item():
                require_durations(*before)
        wrong = (durations.sum(dim=1) != feats_lengths).any() | (durations < 0).any()
        if durations_lengths is not None:
            wrong |= (durations_lengths != token_lengths).any()
        verdict = torch.empty((), dtype=torch.bool, pin_memory=True)
        verdict.copy_(wrong, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self.pending = batch, verdict, copied


def require_speakable(
    durations: torch.Tensor, token_lengths: torch.Tensor, alpha: float
) -> None:
    """Refuse predicted durations (B, T_text) that would take all memory."""
    frames = durations.sum(dim=1)
    if (frames > MAX_FRAMES_A_TOKEN * token_lengths).any():
        raise UserError(
            f"a text of {token_lengths.tolist()[int(frames.argmax())]} tokens would "
            f"take {int(frames.max())} frames at speed {1 / alpha:g}: choose a speed "
            "nearer to 1, or train the model longer"
        )


def require_plugin(version: str | None) -> None:
    """Refuse a model of a newer plugin, whose settings this one may not know."""
    if version is not None and Version(str(version)) > Version(__version__):
        raise UserError(
            f"this model was trained with espnet_prune {version}, but version "
            f"{__version__} is installed: update the plugin"
        )
    if version is not None and version != __version__:
        logging.info("model trained with espnet_prune %s", version)
