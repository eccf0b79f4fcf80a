"""Text and a recording of a voice to speech, as one call.

ESPnet's ``Text2Speech`` with what zero-shot users ask for and no change to ESPnet:
references as files at any rate, several of them, style vectors to keep, a reference of
its own for each text of a batch, long texts, speed, HiFi-GAN, and models given as an
experiment folder, a packed archive or a tag.
"""

import logging
import pickle
import re
import unicodedata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import espnet2.bin.tts_inference
import numpy as np
import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

import espnet_prune  # noqa: F401  (registers the models with ESPnet)
from espnet_prune.errors import UserError
from espnet_prune.speech.pretrained import (
    download_vocoder,
    find_model,
    first_line,
    paths_made_absolute,
    require_device,
)
from espnet_prune.speech.reference import Source, load_reference
from espnet_prune.speech.vocoder import (
    GRIFFIN_LIM,
    build_vocoder,
    describe_features,
    is_vocoder_name,
    reproducible,
)
from espnet_prune.text.espeak import use_bundled_espeak

# Texts up to this length are said in one breath: about 13 s of read English, when
# ESPnet's recipes train on utterances up to 20 s.
MAX_CHARACTERS = 200
# Silence between the parts of a longer text.
PAUSE_SECONDS = 0.2

Text = Union[str, np.ndarray, torch.Tensor, Sequence[torch.Tensor]]
References = Union[Source, Sequence[Source]]


class Text2Speech(espnet2.bin.tts_inference.Text2Speech):
    """Speak in the voice of a reference.

    Examples:
        >>> text2speech = Text2Speech.from_pretrained("exp/tts_mine")
        >>> wav = text2speech("Hello there.", speech="reference.wav")["wav"]
        >>> soundfile.write("out.wav", wav.numpy(), text2speech.fs)

    Args:
        train_config: ``config.yaml`` of training.
        model_file: Weights of training.
        vocoder_config: For ESPnet's vocoders.
        vocoder_file: ``hifigan`` and the other choices of
            :func:`espnet_prune.speech.vocoder.build_vocoder`, a ParallelWaveGAN ``.pkl``, or
            None, ``griffin_lim`` or ``none`` for Griffin-Lim.
        dtype: ``float32`` or ``float64``.
        device: For instance ``cpu``, ``cuda`` or ``cuda:1``.
        options: Further arguments of ESPnet's ``Text2Speech``, for instance
            ``speed_control_alpha``, or ``seed`` for other phases of Griffin-Lim.

    Raises:
        UserError: A file is missing, the weights do not belong to the configuration,
            the model takes no reference, the vocoder does not fit, or there is no such
            device.
    """

    def __init__(
        self,
        train_config: Union[Path, str, None] = None,
        model_file: Union[Path, str, None] = None,
        vocoder_config: Union[Path, str, None] = None,
        vocoder_file: Union[Path, str, None] = None,
        dtype: str = "float32",
        device: str = "cpu",
        **options: Any,
    ):
        if dtype not in ("float32", "float64"):
            raise UserError(
                f"dtype {dtype} is too coarse for mel features: use float32 or float64"
            )
        require_device(device)
        if train_config is None and model_file is not None:
            train_config = Path(model_file).parent / "config.yaml"
        for file, what in ((train_config, "configuration"), (model_file, "weights")):
            if file is None or not Path(file).is_file():
                raise UserError(
                    f"the model's {what} is missing ({file}): give the experiment "
                    "folder, a packed model or a tag to from_pretrained"
                )
        if vocoder_file in GRIFFIN_LIM:
            vocoder_file = None
        named = is_vocoder_name(vocoder_file)
        if not named and vocoder_file is not None and not Path(vocoder_file).is_file():
            raise UserError(f"vocoder {vocoder_file} is missing: name another")
        use_bundled_espeak()
        with paths_made_absolute(Path(train_config)) as config:
            try:
                super().__init__(
                    config,
                    model_file,
                    vocoder_config=vocoder_config,
                    vocoder_file=None if named else vocoder_file,
                    dtype=dtype,
                    device=device,
                    **options,
                )
            except ImportError as error:
                raise UserError(
                    f"loading {train_config} needs a package ({first_line(error)}): "
                    "install it by pip"
                ) from error
            except FileNotFoundError as error:
                raise UserError(
                    f"{error.filename}, which {train_config} names, is missing: go to "
                    "the recipe that trained the model, or give a packed model"
                ) from error
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise UserError(
                    f"cannot load {model_file} with {train_config} "
                    f"({first_line(error)}): give the weights and the config.yaml of "
                    "one training"
                ) from error
        self._check_weights(model_file)
        if not hasattr(self.tts, "encode_style"):
            raise UserError(
                f"{train_config} describes a {self.train_args.tts}, which takes no "
                "reference: use Text2Speech of ESPnet"
            )
        self.clones = self.tts.use_gst and not (
            self.use_sids or self.use_lids or self.use_spembs
        )
        # ESPnet passes its speed factor to the models that it knows
        self.decode_conf.setdefault("alpha", options.get("speed_control_alpha", 1.0))
        parameters = describe_features(self.feats_extract)
        self.reference_fs = parameters["fs"]
        if named:
            self.vocoder = build_vocoder(vocoder_file, parameters, device)
            self.vocoder.to(getattr(torch, dtype))
        self.vocoder = reproducible(self.vocoder, self.seed)

    def _check_weights(self, model_file: Union[Path, str]) -> None:
        """Refuse weights that lack some of the model's; ESPnet leaves those random."""
        given = torch.load(model_file, map_location="cpu", weights_only=True)
        missing = [name for name in self.model.state_dict() if name not in given]
        if missing:
            raise UserError(
                f"{model_file} lacks {len(missing)} weights of this model, first "
                f"{missing[0]}: give the weights and the config.yaml of one training"
            )

    @classmethod
    def from_pretrained(
        cls,
        model_tag: Union[Path, str, None] = None,
        vocoder_tag: Optional[str] = None,
        **options: Any,
    ) -> "Text2Speech":
        """Build from whatever names a model.

        Args:
            model_tag: An experiment folder, an archive of ESPnet's packing stage, or
                a tag of the model zoo or Hugging Face.
            vocoder_tag: As ESPnet's, ``parallel_wavegan/NAME``.
            options: Arguments of the constructor. ``model_file`` may name weights in
                the experiment folder other than ``train.loss.ave.pth``.

        Raises:
            UserError: There is no such model, and what the constructor raises.
        """
        if model_tag is not None:
            options.update(find_model(model_tag, options.pop("model_file", None)))
        if vocoder_tag is not None:
            options.update(download_vocoder(vocoder_tag))
        return cls(**options)

    def tokenize(
        self, text: str, max_characters: Optional[int] = MAX_CHARACTERS
    ) -> List[torch.Tensor]:
        """Turn a text into token ids, one tensor for each part to be said on its own.

        Punctuation that the model does not know is left out; other tokens that it does
        not know are ``<unk>``, with a warning.

        Args:
            text: What to say. Longer than ``max_characters``, it is split at the ends
                of sentences, else of clauses, else between words.
            max_characters: None leaves texts whole.

        Returns:
            Token ids without <eos>, int64, one or more of (T_text,).

        Raises:
            UserError: The text is empty or yields no token that the model knows.
        """
        if not isinstance(text, str):
            raise UserError(
                f"a text should be a string, found {type(text).__name__}: give a text "
                "and a reference, or lists of both to batch()"
            )
        if self.preprocess_fn is None:
            raise UserError(
                "this model was trained without a text preprocessor: give token ids "
                "instead of text"
            )
        if not text.strip():
            raise UserError("the text is empty: give something to say")
        converter = self.preprocess_fn.token_id_converter
        parts, unknown = [], {}
        for part in split_text(text, max_characters):
            try:
                ids = self.preprocess_fn("<text>", dict(text=part))["text"]
            except (ImportError, RuntimeError) as error:
                # cleaners and phonemizers say so when a text first reaches them
                raise UserError(
                    f"the text front end of this model fails on '{_shortened(part)}': "
                    f"{first_line(error)}"
                ) from error
            if converter.unk_id in ids:
                tokens = self.preprocess_fn.tokenizer.text2tokens(
                    self.preprocess_fn.text_cleaner(part)
                )
                known = converter.token2id
                new = dict.fromkeys(t for t in tokens if t not in known)
                # marks are no sounds: a model that saw none does better without them
                marks = {
                    t
                    for t in new
                    if all(unicodedata.category(c)[0] in "PSZ" for c in t)
                }
                ids = np.array([i for i, t in zip(ids, tokens) if t not in marks])
                unknown.update((t, None) for t in new if t not in marks)
            if (ids != converter.unk_id).any():
                parts.append(torch.from_numpy(ids))
        names = ", ".join(unknown)
        if not parts:
            reason = f"only tokens that the model does not know ({names})"
            raise UserError(
                f"the text '{_shortened(text)}' gives {reason if names else 'no token'}"
                f": write it for a model of {self.train_args.token_type} tokens"
            )
        if unknown:
            logging.warning(
                f"the text '{_shortened(text)}' has tokens that the model does not "
                f"know, they are said as <unk>: {names}"
            )
        return parts

    @torch.no_grad()
    def style_vector(
        self,
        reference: References,
        reference_fs: Optional[int] = None,
        trim: bool = False,
    ) -> torch.Tensor:
        """Compute the style vector of a voice, to keep and to use again.

        Args:
            reference: A file, samples, or a list of those: several recordings give
                the mean of their style vectors. See
                :func:`espnet_prune.speech.reference.load_reference`.
            reference_fs: Sampling rate of samples in Hz, by default the model's.
            trim: Cut silence off both ends of each recording.

        Returns:
            Style vector on the CPU (style_dim,).

        Raises:
            UserError: A reference cannot be used, or the model takes none.
        """
        self._require_reference_model()
        if not isinstance(reference, (list, tuple)):
            reference = [reference]
        if not reference:
            raise UserError("the list of references is empty: give one or more")
        styles = []
        for source in reference:
            speech = load_reference(source, self.reference_fs, reference_fs, trim=trim)
            speech = speech.to(self.device, getattr(torch, self.dtype))
            feats, lengths = self.feats_extract(speech[None])
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
            styles.append(self.tts.encode_style(feats)[0].cpu())
        return torch.stack(styles).mean(dim=0)

    def __call__(
        self,
        text: Text,
        speech: Optional[References] = None,
        durations: Union[torch.Tensor, np.ndarray, None] = None,
        spembs: Union[torch.Tensor, np.ndarray, None] = None,
        sids: Union[torch.Tensor, np.ndarray, None] = None,
        lids: Union[torch.Tensor, np.ndarray, None] = None,
        decode_conf: Optional[Dict[str, Any]] = None,
        *,
        style_vector: Optional[torch.Tensor] = None,
        reference_fs: Optional[int] = None,
        alpha: Optional[float] = None,
    ) -> Dict[str, torch.Tensor]:
        """Say one text in one voice.

        Args:
            text: A string of any length, or token ids without <eos> (T_text,).
            speech: The voice: a file, samples (T,), or a list of those. With teacher
                forcing it is the target utterance.
            durations: Frames of each token, with teacher forcing only.
            spembs: Speaker embedding (D,), of a pruned_fastspeech2 that was trained
                with it, as are ``sids`` and ``lids``.
            sids: Number of the speaker (1,).
            lids: Number of the language (1,).
            decode_conf: As ESPnet's; may hold ``alpha`` and ``style_vector``.
            style_vector: The voice in place of ``speech`` (style_dim,).
            reference_fs: Sampling rate of ``speech`` given as samples, in Hz.
            alpha: Factor on the durations: 2 takes twice as long, 0.5 half as long.
                By default ``speed_control_alpha`` of the constructor.

        Returns:
            ``feat_gen`` (T_feats, odim) normalised, ``feat_gen_denorm``, ``duration``
            frames of each token (T_text,), and ``wav`` (T_wav,) at ``fs``. Of a text
            that was split, the parts one after another, with a pause between them in
            ``wav`` only.

        Raises:
            UserError: Text or reference cannot be used.
        """
        conf = {**self.decode_conf, **(decode_conf or {})}
        if conf.get("use_teacher_forcing"):
            return super().__call__(
                text, speech, durations, spembs, sids, lids, decode_conf
            )
        if style_vector is None:
            style_vector = conf.get("style_vector")
        if alpha is None:
            alpha = conf["alpha"]
        if not self.clones:
            given = dict(speech=speech, spembs=spembs, sids=sids, lids=lids)
            self._check_inputs(given, style_vector)
            if speech is not None:
                speech = load_reference(speech, self.reference_fs, reference_fs)
            say, conf = super().__call__, dict(conf, alpha=alpha)
            parts = self._parts(text)
            return self._join(
                [say(part, speech, None, spembs, sids, lids, conf) for part in parts]
            )
        return self.batch(
            [text],
            None if speech is None else [speech],
            None if style_vector is None else [style_vector],
            reference_fs=reference_fs,
            alpha=alpha,
        )[0]

    def batch(
        self,
        texts: Sequence[Text],
        references: Optional[Sequence[References]] = None,
        style_vectors: Optional[Sequence[torch.Tensor]] = None,
        reference_fs: Optional[int] = None,
        alpha: Optional[float] = None,
        batch_size: int = 8,
    ) -> List[Dict[str, torch.Tensor]]:
        """Say several texts, each in a voice of its own.

        Args:
            texts: What to say: strings, token ids, or what :meth:`tokenize` returns.
            references: A reference, or a list of references, for each text; one entry
                serves all texts.
            style_vectors: Voices in place of references, likewise (style_dim,).
            reference_fs: Sampling rate of references given as samples, in Hz.
            alpha: As in ``__call__``.
            batch_size: Texts, or parts of long texts, that the model says at once.

        Returns:
            For each text what ``__call__`` returns.

        Raises:
            UserError: A text or a reference cannot be used, or their numbers differ.
        """
        if isinstance(texts, str):
            raise UserError("batch() takes a list of texts, found one: put it in [ ]")
        if not self.clones:
            raise UserError(
                "this model does not take its voice from a reference alone: say text "
                "by text, with what it was trained with (speech, sids, lids, spembs)"
            )
        parts = [self._parts(text) for text in texts]
        styles = self._styles(len(texts), references, style_vectors, reference_fs)
        if alpha is None:
            alpha = self.decode_conf["alpha"]
        said = self._say(
            [part for text in parts for part in text],
            [style for text, style in zip(parts, styles) for _ in text],
            alpha,
            batch_size,
        )
        return [self._join([next(said) for _ in text]) for text in parts]

    def _check_inputs(self, given: Dict[str, Any], style_vector: Any) -> None:
        """Refuse a call without what the model needs, or with what it cannot use."""
        if style_vector is not None or given["speech"] is not None:
            self._require_reference_model()
        for name, value in given.items():
            if value is None and getattr(self, f"use_{name}"):
                raise UserError(
                    f"this model needs {name}: give what it was trained with"
                )

    def _require_reference_model(self) -> None:
        if not self.tts.use_gst:
            raise UserError(
                f"this {self.train_args.tts} takes no reference: leave speech and "
                "style_vector out, or train it with use_gst"
            )

    def _parts(self, text: Text) -> List[torch.Tensor]:
        """Bring a text in any form to a list of token ids."""
        if isinstance(text, str) or text is None:
            return self.tokenize(text)
        if isinstance(text, (list, tuple)):
            return list(text)
        return [torch.as_tensor(text)]

    def _styles(
        self,
        number: int,
        references: Optional[Sequence[References]],
        style_vectors: Optional[Sequence[torch.Tensor]],
        reference_fs: Optional[int],
    ) -> List[torch.Tensor]:
        """Give each text its style vector, computing each distinct file once."""
        if (references is None) == (style_vectors is None):
            fault = "no voice was given" if references is None else "two voices"
            raise UserError(
                f"{fault}: give either speech, a recording of the voice, or a "
                "style_vector"
            )
        voices = references if style_vectors is None else style_vectors
        if isinstance(voices, (str, Path)) or len(voices) not in (1, number):
            found = 1 if isinstance(voices, (str, Path)) else len(voices)
            raise UserError(
                f"there are {number} texts and {found} voices: give a list with one "
                "for each text, or with one for all"
            )
        if style_vectors is not None:
            styles = list(style_vectors)
            for style in styles:
                self._check_style(style)
        else:
            cache: Dict[str, torch.Tensor] = {}
            styles = []
            for reference in references:
                # arrays and lists of them have no cheap identity but their object
                path = isinstance(reference, (str, Path))
                key = str(reference) if path else f"object {id(reference)}"
                if key not in cache:
                    cache[key] = self.style_vector(reference, reference_fs)
                styles.append(cache[key])
        return styles * number if len(styles) == 1 else styles

    @torch.no_grad()
    def _check_style(self, style: torch.Tensor) -> None:
        silence = torch.zeros(1, 1, self.feats_extract.output_size())
        silence = silence.to(self.device, getattr(torch, self.dtype))
        wanted = tuple(self.tts.encode_style(silence).shape[1:])
        found = tuple(getattr(style, "shape", ()))
        if found != wanted:
            raise UserError(
                f"a style vector of this model has the shape {wanted}, found {found}: "
                "compute it by style_vector() of this model"
            )

    @torch.no_grad()
    def _say(
        self,
        tokens: List[torch.Tensor],
        styles: List[torch.Tensor],
        alpha: float,
        batch_size: int,
    ) -> Iterator[Dict[str, torch.Tensor]]:
        """Yield what the model says for each (T_text,) with its (style_dim,)."""
        for start in range(0, len(tokens), batch_size):
            chosen = slice(start, start + batch_size)
            style = torch.stack(styles[chosen])
            output = self.tts.batch_inference(
                text=[part.to(self.device) for part in tokens[chosen]],
                style_vector=style.to(self.device, getattr(torch, self.dtype)),
                alpha=alpha,
            )
            for part, feat, frames in zip(
                tokens[chosen], output["feat_gen"], output["duration"]
            ):
                yield self._finish(feat, frames[: len(part) + 1])

    def _finish(
        self, feat: torch.Tensor, duration: torch.Tensor
    ) -> Dict[str, torch.Tensor]:
        """Denormalise one generated mel (T_feats, odim) and make its wave."""
        if not torch.isfinite(feat).all():
            raise UserError(
                "the model generates values that are no numbers: its training "
                "diverged, use an earlier checkpoint"
            )
        output = dict(feat_gen=feat, duration=duration)
        if self.normalize is not None:
            # works in place
            output["feat_gen_denorm"] = self.normalize.inverse(feat.clone()[None])[0][0]
        if self.vocoder is not None:
            # a vocoder of ParallelWaveGAN may draw noise
            if self.always_fix_seed:
                set_all_random_seed(self.seed)
            denormalised = output.get("feat_gen_denorm", feat)
            output["wav"] = self.vocoder(
                feat if self.prefer_normalized_feats else denormalised
            )
        return output

    def _join(self, parts: List[Dict[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
        """Put the parts of a text together."""
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


def split_text(text: str, max_characters: Optional[int] = MAX_CHARACTERS) -> List[str]:
    """Split a text that is too long to be said in one breath.

    Sentences stay together while they fit. One that is too long itself is split at its
    clauses, and these between words; a word is never split.

    Args:
        text: Any text.
        max_characters: Longest part. None leaves the text whole.

    Returns:
        Parts in order; together they are the text but for the spaces at the cuts.
    """
    text = text.strip()
    if max_characters is None or len(text) <= max_characters:
        return [text]
    parts = [text]
    for end in (
        r"(?<=[.!?])\s+|(?<=[。！？])\s*",
        r"(?<=[,;:])\s+|(?<=[，；：、])\s*",
        r"\s+",
    ):
        pieces = []
        for part in parts:
            pieces.extend(_split_at(end, part, max_characters))
        parts = pieces
    return parts


def _split_at(end: str, part: str, max_characters: int) -> List[str]:
    """Split at as few of the matches of ``end`` as will do, and leave those out."""
    if len(part) <= max_characters:
        return [part]
    begins, ends = [0], []
    for match in re.finditer(end, part):
        ends.append(match.start())
        begins.append(match.end())
    spans: List[Tuple[int, int]] = []
    for begin, stop in zip(begins, [*ends, len(part)]):
        if spans and stop - spans[-1][0] <= max_characters:
            spans[-1] = (spans[-1][0], stop)
        elif begin < stop:
            spans.append((begin, stop))
    return [part[begin:stop] for begin, stop in spans]


def _shortened(text: str) -> str:
    """Quote a text in an error message."""
    text = " ".join(text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."
