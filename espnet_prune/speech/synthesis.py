"""Text and a recording of a voice to speech, as one call.

ESPnet's ``Text2Speech``, extended by: reference files with any sampling rate, several
references, saved voices, batches with a reference for each text, long texts, speed,
HiFi-GAN, and models that are named by a name of the package, an experiment folder, a
packed archive or a tag.
"""

import functools
import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import espnet2.bin.tts_inference
import numpy as np
import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from typeguard import TypeCheckError

import espnet_prune  # noqa: F401  (registers the models with ESPnet)
from espnet_prune.config import require_known, require_positive, require_whole
from espnet_prune.errors import UserError, explain, first_line
from espnet_prune.files import digest
from espnet_prune.loading import fault_of_weights, load_weights
from espnet_prune.speech.generators import on_every_core
from espnet_prune.speech.pretrained import (
    VOICE_SUFFIX,
    default_vocoder,
    find_model,
    find_voices,
    paths_made_absolute,
    require_device,
)
from espnet_prune.speech.reference import Source, list_sources, load_reference
from espnet_prune.speech.vocoder import GRIFFIN_LIM, describe_features, open_vocoder
from espnet_prune.speech.voice import load_voice, save_voice
from espnet_prune.text.front_end import (
    MAX_CHARACTERS,
    PAUSE_SECONDS,
    UNKNOWN,
    check_ids,
    known_ids,
    shortened,
    tokenize,
)

Text = str | np.ndarray | torch.Tensor | Sequence[torch.Tensor]
References = Source | Sequence[Source]
Style = torch.Tensor | np.ndarray
Output = dict[str, torch.Tensor]


class Text2Speech(espnet2.bin.tts_inference.Text2Speech):
    """Speak in the voice of a reference.

    Examples:
        >>> text2speech = Text2Speech.from_pretrained("exp/tts_mine")
        >>> wav = text2speech("Hello there.", speech="reference.wav")["wav"]
        >>> soundfile.write("out.wav", wav.numpy(), text2speech.fs)

    Args:
        train_config: ``config.yaml`` of training.
        model_file: Weights of training, in single or half precision.
        vocoder: ``griffin_lim``, ``hifigan`` and the other choices of
            :func:`espnet_prune.speech.vocoder.open_vocoder`. ESPnet's name of this
            argument, ``vocoder_file``, is accepted too.
        vocoder_config: Further settings of ESPnet's own vocoders.
        speed: Speed of the speech: 2 speaks twice as fast.
        dtype: ``float32`` or ``float64``.
        device: For instance ``cpu``, ``cuda`` or ``cuda:1``.
        options: Further arguments of ESPnet's ``Text2Speech``, for instance ``seed``
            for other phases of Griffin-Lim.

    Attributes:
        voices: Name and file of each voice of the model, in the folder ``voices`` next
            to its configuration. If no voice is given, the first one speaks.
        voice_from_reference: Whether the voice depends only on a reference.

    Raises:
        UserError: A file is missing, broken, or has values that are not finite, the
            weights do not belong to the configuration, the model takes no reference,
            the vocoder does not fit, or there is no such device.
    """

    def __init__(
        self,
        train_config: Path | str | None = None,
        model_file: Path | str | None = None,
        vocoder: Path | str = GRIFFIN_LIM,
        vocoder_config: Path | str | None = None,
        speed: float | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        **options: Any,
    ):
        if not isinstance(dtype, str) or dtype not in ("float32", "float64"):
            raise UserError(
                f"dtype {dtype} is too coarse for mel features: use float32 or float64"
            )
        require_device(device)
        known = inspect.signature(espnet2.bin.tts_inference.Text2Speech).parameters
        require_known("Text2Speech", options, known)
        model_file = _require_file(model_file, "weights")
        if train_config is None:
            train_config = Path(model_file).parent / "config.yaml"
        train_config = _require_file(train_config, "configuration")
        vocoder = options.pop("vocoder_file", None) or vocoder
        weights = load_weights(model_file)
        self._build(Path(train_config), dict(options, dtype=dtype, device=device))
        self._fill(weights, train_config, model_file)
        if not hasattr(self.tts, "encode_style"):
            raise UserError(
                f"{train_config} describes a {self.train_args.tts}, which takes no "
                "reference: use Text2Speech of ESPnet"
            )
        self.model_file = Path(model_file)
        self.voices = find_voices(train_config)
        self.voice_from_reference = self.tts.use_gst and not (
            self.use_sids or self.use_lids or self.use_spembs
        )
        # ESPnet passes its factor on the durations to the models that it knows
        self.decode_conf.setdefault("alpha", options.get("speed_control_alpha", 1.0))
        if speed is not None:
            self.decode_conf["alpha"] = alpha_of(speed)
        features = describe_features(self.feats_extract)
        if not features:
            raise UserError(
                f"{train_config} describes a model of precomputed features, which "
                "cannot use a reference: train with tts.sh --feats_type raw"
            )
        self.reference_fs = features["fs"]
        self.vocoder = open_vocoder(
            vocoder, features, device, vocoder_config, self.seed
        )
        if isinstance(self.vocoder, torch.nn.Module):
            self.vocoder.to(getattr(torch, dtype))

    def _build(self, train_config: Path, options: dict[str, Any]) -> None:
        """Build the model and its text front end as ESPnet does, without weights."""
        with paths_made_absolute(train_config) as config:
            try:
                super().__init__(config, None, **options)
            except UserError:
                raise
            except ImportError as error:
                raise UserError(
                    f"loading {train_config} needs a package ({first_line(error)}): "
                    "install it with pip"
                ) from error
            except FileNotFoundError as error:
                raise UserError(
                    f"{error.filename}, which {train_config} names, is missing: go to "
                    "the recipe that trained the model, or give a packed model"
                ) from error
            except OSError as error:
                raise UserError(explain(error)) from error
            except Exception as error:
                # settings that are missing or of another type raise many kinds of error
                raise UserError(
                    f"no model can be built from {train_config} "
                    f"({type(error).__name__}: {first_line(error)}): give the "
                    "config.yaml of a TTS training with this version of ESPnet"
                ) from error

    def _fill(self, weights, train_config, model_file) -> None:
        """Load all weights into the model; ESPnet would leave missing ones random."""
        remedy = "give the weights and the config.yaml of one training"
        try:
            missing = self.model.load_state_dict(weights, strict=False).missing_keys
        except RuntimeError as error:
            raise UserError(
                f"{model_file} does not fit the model of {train_config} "
                f"({fault_of_weights(error)}): {remedy}"
            ) from error
        if missing:
            raise UserError(
                f"{model_file} lacks {len(missing)} weights of this model, first "
                f"{missing[0]}: {remedy}"
            )

    @functools.cached_property
    def model_id(self) -> str:
        """SHA-256 of the weights, by which voice files name their model."""
        return digest(self.model_file)

    @classmethod
    def from_pretrained(
        cls,
        model_tag: Path | str | None = None,
        vocoder_tag: str | None = None,
        **options: Any,
    ) -> "Text2Speech":
        """Build from a name, folder, archive or tag of a model.

        Args:
            model_tag: The name of a model of the package, an experiment folder, an
                archive of ESPnet's packing stage, or a tag of the model zoo or Hugging
                Face. If neither this nor ``model_file`` is given, ``english_small`` of
                the package.
            vocoder_tag: ESPnet's name for a ``vocoder`` to fetch.
            options: Arguments of the constructor. ``model_file`` may name weights in
                the experiment folder other than ``train.loss.ave.pth``. ``vocoder`` is
                by default that of
                :func:`espnet_prune.speech.pretrained.default_vocoder`.

        Raises:
            UserError: There is no such model, or the constructor raises it.
        """
        files = options.get("train_config"), options.get("model_file")
        if model_tag is not None or files == (None, None):
            options.update(find_model(model_tag, options.pop("model_file", None)))
            options.setdefault("vocoder", default_vocoder(model_tag))
        if vocoder_tag is not None:
            options.update(vocoder=vocoder_tag)
        return cls(**options)

    def tokenize(
        self,
        text: str,
        max_characters: int | None = MAX_CHARACTERS,
        by_sentence: bool = False,
    ) -> list[torch.Tensor]:
        """Return the token ids of a text, one tensor for each part to speak separately.

        The text is normalised as the texts of training are, see
        :mod:`espnet_prune.text.normalise`. Punctuation that the model does not know is
        left out; other tokens that it does not know are ``<unk>``, with a warning.

        Args:
            text: Text to speak. If it is longer than ``max_characters``, it is split at
                the ends of sentences, otherwise of clauses, otherwise between words,
                otherwise anywhere. None does not split texts.
            by_sentence: Whether a text that is too long becomes single sentences.
                Otherwise sentences stay together while they fit.

        Returns:
            Token ids without <eos>, int64, one or more of (T_text,).

        Raises:
            UserError: The text is empty or damaged, or yields no token that the model
                knows.
        """
        if max_characters is not None:
            require_whole("max_characters", max_characters)
        if getattr(self.preprocess_fn, "token_id_converter", None) is None:
            raise UserError(
                "this model was trained without a tokenizer of texts: give token ids "
                "instead of text"
            )
        front_end = _FrontEnd(self.preprocess_fn, self.train_args)
        parts = tokenize(text, front_end, max_characters, by_sentence)
        return [torch.from_numpy(ids) for ids in parts]

    @torch.no_grad()
    def style_vector(
        self, reference: References, reference_fs: int | None = None, trim: bool = False
    ) -> torch.Tensor:
        """Compute the style vector of a voice, to save it or to use it again.

        Args:
            reference: A file, samples, or a list of those: the style vectors of several
                recordings are averaged. See
                :func:`espnet_prune.speech.reference.load_reference`.
            reference_fs: Sampling rate of samples in Hz, by default the model's.
            trim: Remove silence at both ends of each recording.

        Returns:
            Style vector on the CPU (style_dim,).
        """
        self._require_reference_model()
        styles = []
        for source in list_sources(reference):
            samples = load_reference(source, self.reference_fs, reference_fs, trim)
            speech = torch.from_numpy(samples)
            speech = speech.to(self.device, getattr(torch, self.dtype))
            feats, lengths = self.feats_extract(speech[None])
            if not torch.isfinite(feats).all():
                raise UserError(
                    "the features of this reference have values that are NaN or "
                    "infinite: use another recording"
                )
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
            styles.append(self.tts.encode_style(feats)[0].cpu())
        style = torch.stack(styles).mean(dim=0)
        if not torch.isfinite(style).all():
            raise UserError(
                "this model gives a style vector with values that are NaN or infinite, "
                "although the reference is sound: the weights or the statistics of its "
                "training are wrong, use an earlier checkpoint"
            )
        return style

    def save_voice(
        self, path: Path | str, reference: References, note: str = "", **options: Any
    ) -> None:
        """Save the voice of a reference in a file, for this model.

        The file is usually NAME.voice. Its note may be the name of the speaker. Further
        arguments are those of :meth:`style_vector`.
        """
        save_voice(path, self.style_vector(reference, **options), self.model_id, note)

    def read_voice(self, voice: Path | str) -> torch.Tensor:
        """Read the style vector (style_dim,) of a saved voice.

        ``voice`` is a name from ``voices``, or a file of :meth:`save_voice`.
        """
        if not isinstance(voice, (str, Path)):
            raise UserError(
                f"a voice is a file or a name, found {type(voice).__name__}: pass the "
                "result of style_vector() as style_vector"
            )
        path = self.voices.get(str(voice), Path(voice))
        if not os.path.isfile(path) and self.voices and path.suffix != VOICE_SUFFIX:
            raise UserError(
                f"there is no voice {voice}: name a file, or a voice of this model "
                f"({', '.join(self.voices)})"
            )
        return load_voice(path, self.model_id).style_vector

    def __call__(
        self,
        text: Text,
        speech: References | None = None,
        durations: torch.Tensor | np.ndarray | None = None,
        spembs: torch.Tensor | np.ndarray | None = None,
        sids: torch.Tensor | np.ndarray | None = None,
        lids: torch.Tensor | np.ndarray | None = None,
        decode_conf: dict[str, Any] | None = None,
        *,
        style_vector: Style | None = None,
        voice: Path | str | None = None,
        reference_fs: int | None = None,
        speed: float | None = None,
    ) -> Output:
        """Speak one text in one voice.

        Args:
            text: A string of any length, or token ids without <eos> (T_text,).
            speech: The voice: a file, samples (T,), or a list of those. With teacher
                forcing, it is the target utterance.
            durations: Frames of each token, with teacher forcing only.
            spembs: Speaker embedding (D,), for a pruned_fastspeech2 that was trained
                with it. The same holds for ``sids`` and ``lids``.
            sids: Number of the speaker (1,).
            lids: Number of the language (1,).
            decode_conf: As in ESPnet; may contain its factor for durations, ``alpha``,
                and ``style_vector``.
            style_vector: The voice instead of ``speech`` (style_dim,).
            voice: The voice instead of ``speech``: a file of :meth:`save_voice`, or the
                name of a voice of the model.
            reference_fs: Sampling rate in Hz of ``speech``, if it is given as samples.
            speed: 2 speaks twice as fast, 0.5 half as fast. By default that of the
                constructor.

        Returns:
            ``feat_gen`` (T_feats, odim) normalised, ``feat_gen_denorm``, ``duration``
            frames of each token (T_text,), and ``wav`` (T_wav,) at ``fs``. For a text
            that was split, these are joined from the parts, with a pause between parts
            in ``wav`` only.

        Raises:
            UserError: Text or reference cannot be used, or the model needs other
                inputs.
        """
        if decode_conf is not None and not isinstance(decode_conf, dict):
            raise UserError(
                f"decode_conf is {decode_conf!r}: give a dictionary of settings"
            )
        conf = {**self.decode_conf, **(decode_conf or {})}
        if speed is not None:
            conf["alpha"] = alpha_of(speed)
        require_positive("the factor for durations, alpha,", conf["alpha"])
        given = {"speech": speech, "spembs": spembs, "sids": sids, "lids": lids}
        if conf.get("use_teacher_forcing"):
            return self._force(text, durations, given, decode_conf)
        if durations is not None:
            raise UserError(
                "durations are for teacher forcing only: leave them out, or add "
                "decode_conf=dict(use_teacher_forcing=True)"
            )
        if style_vector is None:
            style_vector = conf.get("style_vector")
        if voice is not None:
            if style_vector is not None:
                raise UserError("two voices were given: choose voice or style_vector")
            style_vector = self.read_voice(voice)
        self._check_inputs(given, style_vector)
        if not self.voice_from_reference:
            if speech is not None:
                # load_reference refuses a list of several
                speech = load_reference(
                    speech,  # type: ignore[arg-type]
                    self.reference_fs,
                    reference_fs,
                )
            speak = super().__call__
            return self.join(
                [
                    speak(part, speech, None, spembs, sids, lids, conf)
                    for part in self._parts(text)
                ]
            )
        parts = self._parts(text)
        styles = self._styles(
            1,
            None if speech is None else [speech],
            None if style_vector is None else [style_vector],
            reference_fs,
        )
        outputs = self._generate(parts, styles * len(parts), conf["alpha"])
        return dict(self.voice_parts(outputs, [0] * len(parts)))[0]

    def batch(
        self,
        texts: Sequence[Text],
        references: Sequence[References] | None = None,
        style_vectors: Sequence[Style] | None = None,
        reference_fs: int | None = None,
        speed: float | None = None,
        batch_size: int = 8,
    ) -> list[Output]:
        """Speak several texts, each in its own voice.

        Args:
            texts: Texts to speak: strings, token ids, or results of :meth:`tokenize`.
            references: A reference, or a list of references, for each text; one entry
                is used for all texts.
            style_vectors: Voices instead of references, in the same form (style_dim,).
            reference_fs: Sampling rate in Hz of references that are given as samples.
            speed: As in ``__call__``.
            batch_size: Number of texts, or parts of long texts, that the model computes
                together; texts of similar lengths are put together.

        Returns:
            For each text the same as ``__call__``.

        Raises:
            UserError: A text or a reference cannot be used, or their numbers differ.
        """
        outputs = dict(
            self.stream(
                texts, references, style_vectors, reference_fs, speed, batch_size
            )
        )
        return [outputs[number] for number in range(len(texts))]

    def stream(
        self,
        texts: Sequence[Text],
        references: Sequence[References] | None = None,
        style_vectors: Sequence[Style] | None = None,
        reference_fs: int | None = None,
        speed: float | None = None,
        batch_size: int = 8,
    ) -> Iterator[tuple[int, Output]]:
        """Speak many texts and yield each as soon as it is ready, shorter ones first.

        Arguments and errors are those of :meth:`batch`.

        Yields:
            Number of a text, from 0, and what ``__call__`` returns for it.
        """
        alpha = self._choose_alpha(speed)
        require_whole("batch_size", batch_size)
        _require_texts(texts)
        if not self.voice_from_reference:
            raise UserError(
                "the voice of this model does not depend on a reference alone: speak "
                "one text per call, with the inputs of its training (speech, sids, "
                "lids, spembs)"
            )
        parts = [self._parts(text) for text in texts]
        styles = self._styles(len(texts), references, style_vectors, reference_fs)
        lengths = [sum(map(len, text)) for text in parts]
        order = sorted(range(len(texts)), key=lambda number: lengths[number])
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            owners = [number for number in chosen for _ in parts[number]]
            outputs = self._generate(
                [part for number in chosen for part in parts[number]],
                [styles[owner] for owner in owners],
                alpha,
                batch_size,
            )
            yield from self.voice_parts(outputs, owners)

    def _force(self, text, durations, given, decode_conf) -> Output:
        """Speak a text with the durations, pitch and energy of its recording."""
        for name, value in dict(given, durations=durations).items():
            if value is None and (name == "durations" or getattr(self, f"use_{name}")):
                raise UserError(f"teacher forcing needs {name}: give those of the text")
        try:
            return super().__call__(
                text,
                given["speech"],
                durations,
                given["spembs"],
                given["sids"],
                given["lids"],
                decode_conf,
            )
        except UserError:
            raise
        except (
            AssertionError,
            RuntimeError,
            IndexError,
            TypeError,
            TypeCheckError,
        ) as error:
            raise UserError(
                f"teacher forcing fails ({first_line(error)}): give the samples of the "
                "text at the model's rate, and frames of each of its tokens and of "
                "<eos>, which add up to the frames of the samples"
            ) from error

    def _check_inputs(self, given: dict[str, Any], style_vector: Any) -> None:
        """Refuse a call that lacks an input of the model or has an unusable one."""
        if style_vector is not None or given["speech"] is not None:
            self._require_reference_model()
        if style_vector is not None and not self.voice_from_reference:
            raise UserError(
                "this model needs more inputs than a voice, so the voice must be a "
                "recording: give it as speech instead of a style vector"
            )
        for name, value in given.items():
            uses = getattr(self, f"use_{name}")
            if value is None and uses and not self.voice_from_reference:
                raise UserError(
                    f"this model needs {name}: give the inputs of its training"
                )
            if value is not None and not uses:
                raise UserError(f"this model does not use {name}: leave it out")
        # ESPnet's numbers of speakers and languages begin with 1; 0 is unknown
        for name, number in (("sids", self.tts.spks), ("lids", self.tts.langs)):
            if given[name] is not None:
                ids = torch.as_tensor(given[name])
                if ids.numel() != 1 or not 0 <= int(ids) < number:
                    raise UserError(
                        f"{name} is {ids.tolist()}: give one number from 0 to "
                        f"{number - 1}, as [number]"
                    )
        if given["spembs"] is not None:
            embedding = torch.as_tensor(given["spembs"])
            if embedding.shape != (self.tts.spk_embed_dim,) or not bool(
                torch.isfinite(embedding).all()
            ):
                raise UserError(
                    f"spembs has the shape {tuple(embedding.shape)}: give finite "
                    f"numbers of the shape ({self.tts.spk_embed_dim},)"
                )

    def _require_reference_model(self) -> None:
        if not self.tts.use_gst:
            raise UserError(
                f"this {self.train_args.tts} takes no reference: leave speech, voice "
                "and style_vector out, or train it with use_gst"
            )

    def _parts(self, text: Text) -> list[torch.Tensor]:
        """Return a text in any form as a list of token ids."""
        if isinstance(text, (np.ndarray, torch.Tensor)):
            return [self._check_ids(text)]
        if isinstance(text, (list, tuple)) and not any(
            isinstance(part, str) for part in text
        ):
            if not text:
                raise UserError("the text is empty: give a text to speak")
            return [self._check_ids(part) for part in text]
        # tokenize refuses everything that is not a text
        return self.tokenize(text)  # type: ignore[arg-type]

    def _check_ids(self, ids: Any) -> torch.Tensor:
        if isinstance(ids, torch.Tensor) and not ids.is_meta:
            ids = ids.detach().cpu()
        return torch.from_numpy(check_ids(ids, len(self.train_args.token_list)))

    def _styles(
        self,
        number: int,
        references: Sequence[References] | None,
        style_vectors: Sequence[Style] | None,
        reference_fs: int | None,
    ) -> list[torch.Tensor]:
        """Return the style vector of each text; each distinct file is computed once."""
        if references is None and style_vectors is None and self.voices:
            style_vectors = [self.read_voice(next(iter(self.voices)))]
        if (references is None) == (style_vectors is None):
            fault = (
                "no voice was given" if references is None else "two voices were given"
            )
            raise UserError(
                f"{fault}: give either speech, a recording of the voice, or a "
                "style_vector"
            )
        voices: Any = references if style_vectors is None else style_vectors
        one = isinstance(voices, (str, Path)) or not hasattr(voices, "__len__")
        one = one or getattr(voices, "ndim", 1) == 0
        if one or len(voices) not in (1, number):
            found = 1 if one else len(voices)
            raise UserError(
                f"there are {number} texts and {found} voices: give a list with one "
                "for each text, or with one for all"
            )
        styles: list[torch.Tensor] = []
        if style_vectors is not None:
            styles = [self._check_style(style) for style in style_vectors]
        elif references is not None:
            cache: dict[str, torch.Tensor] = {}
            for reference in references:
                # arrays are identified by their object, because hashing them is slow
                path = isinstance(reference, (str, Path))
                key = str(reference) if path else f"object {id(reference)}"
                if key not in cache:
                    style = self.style_vector(reference, reference_fs)
                    cache[key] = self._check_style(style)
                styles.append(cache[key])
        return styles * number if len(styles) == 1 else styles

    @functools.cached_property
    def _style_shape(self) -> tuple[int, ...]:
        silence = torch.zeros(1, 1, self.feats_extract.output_size())
        silence = silence.to(self.device, getattr(torch, self.dtype))
        with torch.no_grad():
            return tuple(self.tts.encode_style(silence).shape[1:])

    def _check_style(self, style: Style) -> torch.Tensor:
        try:
            vector = torch.as_tensor(style)
            fault = f"found {tuple(vector.shape)}"
        except (TypeError, ValueError, RuntimeError):
            vector, fault = torch.empty(0), f"found {type(style).__name__}"
        if vector.is_complex() or tuple(vector.shape) != self._style_shape:
            raise UserError(
                f"a style vector of this model has the shape {self._style_shape}, "
                f"{fault}: compute it with style_vector() of this model"
            )
        vector = vector.to(getattr(torch, self.dtype))
        if not torch.isfinite(vector).all():
            raise UserError(
                "the style vector has values that are NaN or infinite: compute it "
                "again with style_vector() of this model"
            )
        return vector

    def generate(
        self,
        tokens: Sequence[torch.Tensor],
        style_vectors: Sequence[torch.Tensor],
        speed: float | None = None,
        batch_size: int = 8,
    ) -> list[Output]:
        """Generate mels, without waves; those of similar lengths together.

        Args:
            tokens: Token ids of each text, or of each part of a long one (T_text,).
            style_vectors: The voice of each, or one for all (style_dim,).
            speed: As in ``__call__``.
            batch_size: Number of texts that are generated together.

        Returns:
            The same as ``__call__`` except ``wav``, in the order of ``tokens``.

        Raises:
            UserError: The batch size is not a whole number above 0, or the mel is not
                finite.
        """
        alpha = self._choose_alpha(speed)
        require_whole("batch_size", batch_size)
        _require_texts(tokens)
        ids = [self._check_ids(each) for each in tokens]
        styles = self._styles(len(tokens), None, style_vectors, None)
        return self._generate(ids, styles, alpha, batch_size)

    def _choose_alpha(self, speed: float | None) -> float:
        return self.decode_conf["alpha"] if speed is None else alpha_of(speed)

    @torch.no_grad()
    def _generate(self, tokens, style_vectors, alpha, batch_size=8) -> list[Output]:
        order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
        outputs: dict[int, Output] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            style = torch.stack([style_vectors[number] for number in chosen])
            generated = self.tts.batch_inference(
                text=[tokens[number].to(self.device) for number in chosen],
                style_vector=style.to(self.device, getattr(torch, self.dtype)),
                alpha=alpha,
            )
            for number, feat, frames in zip(
                chosen, generated["feat_gen"], generated["duration"], strict=True
            ):
                length = len(tokens[number]) + 1
                outputs[number] = self._denormalise(feat, frames[:length])
        return [outputs[number] for number in range(len(tokens))]

    def _denormalise(self, feat: torch.Tensor, duration: torch.Tensor) -> Output:
        """Check and denormalise one generated mel (T_feats, odim)."""
        if not torch.isfinite(feat).all():
            raise UserError(
                "the model generates values that are not finite: its training "
                "diverged, use an earlier checkpoint"
            )
        output = {"feat_gen": feat, "duration": duration}
        if self.normalize is not None:
            # this changes the array in place
            output["feat_gen_denorm"] = self.normalize.inverse(feat.clone()[None])[0][0]
        return output

    def vocode(self, outputs: Sequence[Output]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the waves of generated mels, each as soon as it is ready.

        On a CPU, each core makes its own wave, which is faster than sharing each wave.

        Yields:
            Number of the output of :meth:`generate`, and its wave (T_wav,).
        """
        if self.vocoder is None:
            return
        name = "feat_gen"
        if self.normalize is not None and not self.prefer_normalized_feats:
            name = "feat_gen_denorm"
        safe = getattr(self.vocoder, "thread_safe", False)
        if not safe or torch.device(self.device).type != "cpu":
            for number, output in enumerate(outputs):
                # a vocoder of ParallelWaveGAN may draw random numbers
                if self.always_fix_seed:
                    set_all_random_seed(self.seed)
                yield number, self.vocoder(output[name])
            return
        # the longest one first, so that no core works alone at the end
        order = sorted(range(len(outputs)), key=lambda n: -len(outputs[n][name]))
        mels = [outputs[number][name] for number in order]
        for place, wave in on_every_core(self.vocoder, mels):
            yield order[place], wave

    def voice_parts(
        self, outputs: Sequence[Output], owners: Sequence[int]
    ) -> Iterator[tuple[int, Output]]:
        """Yield texts with their waves, each as soon as all of its parts are ready.

        ``outputs`` are those of :meth:`generate` for the parts of several texts, and
        ``owners`` the number of the text of each part.

        Yields:
            Number of a text, and the same as ``__call__`` for it.
        """
        parts: dict[int, list[Output]] = {}
        for owner, output in zip(owners, outputs, strict=True):
            parts.setdefault(owner, []).append(output)
        if self.vocoder is None:
            yield from ((owner, self.join(found)) for owner, found in parts.items())
            return
        left = {owner: len(found) for owner, found in parts.items()}
        for number, wave in self.vocode(outputs):
            outputs[number]["wav"] = wave
            owner = owners[number]
            left[owner] -= 1
            if not left[owner]:
                yield owner, self.join(parts.pop(owner))

    def join(self, parts: Sequence[Output]) -> Output:
        """Join the parts of a text, with a pause between their waves."""
        if len(parts) == 1:
            return parts[0]
        joined = {
            name: torch.cat([part[name] for part in parts])
            for name in parts[0]
            if name != "wav"
        }
        if "wav" in parts[0]:
            pause = parts[0]["wav"].new_zeros(round(PAUSE_SECONDS * self.fs))
            waves = [wave for part in parts for wave in (pause, part["wav"])]
            joined["wav"] = torch.cat(waves[1:])
        return joined


class _FrontEnd:
    """ESPnet's text front end, as ``text.front_end.tokenize`` uses it."""

    def __init__(self, preprocess_fn: Any, train_args: Any):
        self.preprocess_fn = preprocess_fn
        self.token_type, self.g2p = train_args.token_type, train_args.g2p
        self.known = preprocess_fn.token_id_converter.token2id

    def clean(self, text: str) -> str:
        return self.preprocess_fn.text_cleaner(text)

    def to_ids(self, part: str) -> tuple[np.ndarray, dict[str, None]]:
        try:
            ids = self.preprocess_fn("<text>", {"text": part})["text"]
        except (ImportError, RuntimeError) as error:
            # cleaners and phonemizers raise only when they get their first text
            raise UserError(
                f"the text front end of this model fails on '{shortened(part)}': "
                f"{first_line(error)}"
            ) from error
        if self.known[UNKNOWN] not in ids:
            return ids, {}
        tokens = self.preprocess_fn.tokenizer.text2tokens(self.clean(part))
        return known_ids(tokens, self.known)


def _require_file(file: Path | str | None, what: str) -> Path | str:
    """Refuse a file of a model that is missing."""
    if not isinstance(file, (str, os.PathLike)) or not os.path.isfile(file):
        raise UserError(
            f"the model's {what} is missing ({file}): give the experiment folder, a "
            "packed model or a tag to from_pretrained"
        )
    return file


def _require_texts(texts: Any) -> None:
    """Refuse texts that are not a list of one or more."""
    if not isinstance(texts, (list, tuple)):
        raise UserError(
            f"a list of texts is needed, found {type(texts).__name__}: put one text in "
            "[ ]"
        )
    if not texts:
        raise UserError("the list of texts is empty: give one or more")


def alpha_of(speed: float) -> float:
    """Return ESPnet's factor for durations for a speed."""
    require_positive("speed", speed)
    return 1.0 / float(speed)
