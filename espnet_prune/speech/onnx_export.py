"""Write a model in the ONNX format: style encoder, acoustic model and vocoder.

Features and their normalisation are part of the graphs, so that samples go in and mels
come out as vocoders take them. ``onnx_runtime`` speaks with the result.

Letters: T_text tokens without <eos>, T_feats mel frames, S width of the style vector.
"""

import contextlib
import copy
import importlib.util
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank

from espnet_prune import __version__, data
from espnet_prune.attention import pruned_attentions, synthesising
from espnet_prune.data.testset import read_sentences
from espnet_prune.errors import UserError
from espnet_prune.model import MAX_FRAMES_A_TOKEN, Prosody, StyleSpeech
from espnet_prune.speech import onnx_runtime
from espnet_prune.speech.generators import HiFiGAN, to_hifigan_mel
from espnet_prune.speech.synthesis import Text2Speech
from espnet_prune.speech.vocoder import describe_features
from espnet_prune.text.front_end import FrontEnd
from espnet_prune.variance import durations_from_log, rates_of_sinusoid

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = 'pip install -e ".[onnx]"'
OPSET = 20  # onnxruntime 1.17 and later know it
SPEEDS = (0.5, 1.0, 2.0)
TOLERANCE = 1e-4  # in the mel
SENTENCES = Path(data.__file__).parent / "sentences.txt"


class StyleEncoderGraph(torch.nn.Module):
    """Samples to style vector: ESPnet's features, normalisation, style encoder."""

    window: torch.Tensor

    def __init__(self, features: LogMelFbank, normalize: Any, tts: StyleSpeech):
        super().__init__()
        self.logmel, self.encoder = features.logmel, tts.style_encoder
        self.normalize = _Normalisation(normalize)
        stft = features.stft
        self.n_fft, self.hop = stft.n_fft, stft.hop_length
        kind = "ones" if stft.window is None else f"{stft.window}_window"
        window = getattr(torch, kind)(stft.win_length)
        before = (self.n_fft - stft.win_length) // 2
        window = F.pad(window, (before, self.n_fft - stft.win_length - before))
        self.register_buffer("window", window * self.n_fft ** (-0.5 * stft.normalized))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Encode samples (T_wav,) to a style vector (S,)."""
        around = (self.n_fft // 2, self.n_fft // 2)
        samples = F.pad(samples[None, None], around, mode="reflect")[0]
        spectrum = torch.stft(
            samples,
            self.n_fft,
            self.hop,
            window=self.window,
            center=False,
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(dim=-1).transpose(1, 2)
        feats, _ = self.logmel(power.clamp(min=1e-10).sqrt())
        feats = self.normalize(feats)
        return self.encoder(feats, torch.ones_like(feats[..., :1]) > 0)[0]


class AcousticGraph(torch.nn.Module):
    """Tokens, style vector and speed to mel and durations.

    It is ``StyleSpeech.batch_inference`` for one text. A text that would take more
    memory than ``require_speakable`` allows gets one frame.
    """

    def __init__(self, tts: StyleSpeech, normalize: Any):
        super().__init__()
        self.tts, self.normalize = tts, _Normalisation(normalize)

    def forward(
        self, tokens: torch.Tensor, style_vector: torch.Tensor, speed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Speak tokens without <eos> (T_text,) with a style vector (S,) and a speed.

        Returns:
            Tensor: Denormalised mel (T_feats, n_mels).
            Tensor: Frames of each token and <eos> (T_text + 1,), int64.
        """
        alpha: Any = 1 / speed
        tts, style = self.tts, style_vector[None]
        tokens = torch.cat([tokens, tokens.new_full((1,), tts.eos)])[None]
        valid = torch.ones_like(tokens, dtype=torch.bool)[..., None]
        encoded = tts.encoder(tokens, style, valid)
        predicted = tts._predict_variances(encoded, valid)
        durations = durations_from_log(predicted.log_duration, valid, alpha)
        total = durations.sum()
        wrong = (total < 1) | (total > MAX_FRAMES_A_TOKEN * tokens.size(1))
        frames = torch.where(wrong, torch.ones_like(total), total).item()
        torch._check(frames >= 2)  # else the exporter makes a graph for one frame
        prosody = Prosody(durations, predicted.pitch, predicted.energy)
        mel = tts._decode(encoded, prosody, style, valid, frames)
        return self.normalize.inverse(mel[0]), durations[0]


class VocoderGraph(torch.nn.Module):
    """Denormalised mel (T_feats, n_mels) to samples (T_wav,) by HiFi-GAN."""

    def __init__(self, vocoder: HiFiGAN):
        super().__init__()
        self.generator = vocoder.generator

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Generate samples within [-1, 1]."""
        return self.generator(to_hifigan_mel(mel)[None]).flatten()


class _Normalisation(torch.nn.Module):
    """ESPnet's normalisation by global statistics, or none, in float32."""

    def __init__(self, normalize: Any):
        super().__init__()
        mean, std = torch.zeros(1), torch.ones(1)
        if normalize is not None:
            mean = normalize.mean.float() if normalize.norm_means else mean
            std = normalize.std.float() if normalize.norm_vars else std
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, feats):
        return (feats - self.mean) / self.std

    def inverse(self, feats):
        return feats * self.std + self.mean


def require_packages() -> None:
    """Refuse to start without the packages that write and run ONNX."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: {INSTALL}")


def export(text2speech: Text2Speech, folder: str | Path) -> Path:
    """Write a model, whose vocoder is a HiFi-GAN or None, as a folder of ONNX graphs.

    The folder is new or empty. It gets ``style_encoder.onnx``, ``acoustic.onnx``,
    ``model.json``, and as far as the model has them ``vocoder.onnx`` and
    ``voices.npz``.
    """
    require_packages()
    folder = Path(folder)
    require_new(folder)
    graphs = _graphs(text2speech)
    settings = _describe(text2speech)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, graph in graphs.items():
            _write(graph, partial / name)
        if text2speech.voices:
            styles: Any = {
                n: text2speech.read_voice(n).numpy() for n in text2speech.voices
            }
            np.savez(partial / onnx_runtime.VOICES, **styles)
        onnx_runtime.write_settings(partial, settings)
        partial.chmod(0o755)
        partial.replace(folder)
    except OSError as error:
        raise UserError(
            f"the model cannot be written to {folder} ({error.strerror}): free disk "
            "space, or name another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def require_new(folder: Path) -> None:
    """Refuse a folder that has files, or whose parent is missing."""
    if not folder.absolute().parent.is_dir():
        raise UserError(f"the folder {folder.parent} is missing: make it first")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: name another one")


class _Graph(NamedTuple):
    """A module to export: its examples, and which inputs have a dynamic length."""

    module: torch.nn.Module
    examples: dict[str, torch.Tensor]
    dynamic: tuple[str, ...]
    outputs: tuple[str, ...]


def _graphs(text2speech: Text2Speech) -> dict[str, _Graph]:
    """Return the graphs of a model by the names of their files."""
    tts, features = text2speech.tts, text2speech.feats_extract
    normalize = text2speech.normalize
    for part, wanted in (
        (tts, StyleSpeech),
        (features, LogMelFbank),
        (normalize, GlobalMVN | None),
        (text2speech.vocoder, HiFiGAN | None),
    ):
        if not isinstance(part, wanted):
            raise UserError(
                f"a {type(part).__name__} cannot be exported: only models with tts: "
                "stylespeech, feats_extract: fbank, normalize: global_mvn and a "
                "HiFi-GAN can"
            )
    seconds = torch.zeros(2 * features.fs)
    graphs = {
        onnx_runtime.STYLE_ENCODER: _Graph(
            StyleEncoderGraph(features, normalize, tts),
            {"samples": seconds},
            ("samples",),
            ("style_vector",),
        ),
        onnx_runtime.ACOUSTIC: _Graph(
            AcousticGraph(tts, normalize),
            {
                "tokens": torch.full((9,), min(3, tts.idim - 1)),
                "style_vector": torch.zeros(text2speech._style_shape),
                "speed": torch.tensor(1.0),
            },
            ("tokens",),
            ("mel", "duration"),
        ),
    }
    if isinstance(text2speech.vocoder, HiFiGAN):
        graphs[onnx_runtime.VOCODER] = _Graph(
            VocoderGraph(text2speech.vocoder),
            {"mel": torch.zeros(9, features.n_mels)},
            ("mel",),
            ("wav",),
        )
    return graphs


def _describe(text2speech: Text2Speech) -> dict[str, Any]:
    preprocess = text2speech.preprocess_fn
    tokenizer = None if preprocess is None else preprocess.tokenizer
    vocoder = text2speech.vocoder
    return {
        "format": onnx_runtime.FORMAT,
        "plugin_version": __version__,
        "model": text2speech.model_id,
        "style_dim": int(text2speech._style_shape[0]),
        "text": FrontEnd.describe(text2speech.train_args, tokenizer),
        "features": describe_features(text2speech.feats_extract),
        "vocoder": None if vocoder is None else "hifigan",
    }


@torch.no_grad()
def _write(graph: _Graph, path: Path) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = [{0: dynamic} if n in graph.dynamic else {} for n in graph.examples]
    # oneDNN chooses an algorithm by the length, which is not known here
    with (
        _quiet(),
        torch.backends.mkldnn.flags(enabled=False),
        torch.compiler.set_stance("force_eager"),
        synthesising(graph.module),
    ):
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.examples.values()),
            path,
            input_names=list(graph.examples),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(shapes),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# ------------------------------------------------------------------------- the check


def check(text2speech: Text2Speech, folder: str | Path) -> list[list[str]]:
    """Compare an exported model with torch on 20 sentences; return rows of a table.

    They have part, shortest and longest mel in frames, largest difference, share of the
    values beyond ``TOLERANCE``, and CPU seconds of torch and of onnxruntime for a
    second of speech. Other tokens or durations are an error, and so is a mel beyond
    ``TOLERANCE`` in double precision.
    """
    speech = onnx_runtime.OnnxSpeech(folder, threads=torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    style = torch.randn(text2speech._style_shape, generator=generator)
    if speech.voices:
        style = torch.from_numpy(next(iter(speech.voices.values())))
    texts = read_sentences(SENTENCES)[:20]
    with _quiet():  # tokens that the model does not know
        tokens = [part for text in texts for part in text2speech.tokenize(text)]
        theirs = [part for text in texts for part in speech.tokenize(text)]
    if not all(map(np.array_equal, tokens, theirs)) or len(tokens) != len(theirs):
        raise UserError("the exported model makes other tokens: report this fault")
    frame = speech.settings["features"]["n_shift"] / speech.fs
    rows = []
    for speed in SPEEDS:

        def say(ids: torch.Tensor, speed=speed) -> tuple[np.ndarray, np.ndarray]:
            (output,) = text2speech.generate([ids], [style], speed)
            mel = output.get("feat_gen_denorm", output["feat_gen"])
            return mel.numpy(), output["duration"].numpy()

        def run(ids: torch.Tensor, speed=speed) -> list[np.ndarray]:
            inputs = {"tokens": ids.numpy(), "style_vector": style.numpy()}
            inputs["speed"] = np.array(speed, np.float32)
            return speech.acoustic.run(None, inputs)

        wanted, found = _timed(say, tokens), _timed(run, tokens)
        for number, (one, other) in enumerate(zip(wanted[0], found[0], strict=True), 1):
            if not np.array_equal(one[1], other[1]):
                raise UserError(
                    f"the exported model gives text {number} other durations at speed "
                    f"{speed:g}: report this fault"
                )
        mels = [mel for mel, _ in wanted[0]]
        theirs = [mel for mel, _ in found[0]]
        times = wanted[1], found[1]
        rows.append(_row(f"mel at speed {speed:g}", mels, mels, theirs, times, frame))
    say_double, run_double = in_double(text2speech, Path(folder))
    inputs = [(ids, style, speed) for speed in SPEEDS for ids in tokens]
    exact = [say_double(*each) for each in inputs]
    theirs = [run_double(*each) for each in inputs]
    row = _row("mel in double precision", exact, exact, theirs, [], frame)
    if float(row[2]) > TOLERANCE:
        raise UserError(
            f"the mels of the exported model differ by {row[2]} in double precision: "
            "report this fault"
        )
    rows.append(row)
    if speech.vocoder is not None and text2speech.vocoder is not None:
        vocode, vocoder = text2speech.vocoder, speech.vocoder
        mels = sorted(mels, key=len)[:5]
        waves, torch_time = _timed(lambda m: vocode(torch.from_numpy(m)).numpy(), mels)
        made, onnx_time = _timed(lambda m: vocoder.run(None, {"mel": m})[0], mels)
        times = torch_time, onnx_time
        rows.append(_row("samples", mels, waves, made, times, frame))
    return rows


def in_double(
    text2speech: Text2Speech, folder: Path
) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """Return the acoustic model of torch and the exported one in double precision.

    Both take tokens, style vector and speed, and return the mel. In double precision,
    rounding moves practically no connection to the other side of its threshold.
    onnxruntime has no convolutions for it, but ONNX's own evaluator has.
    """
    import onnx
    from onnx import TensorProto, numpy_helper, reference

    class GatherElements(reference.op_run.OpRun):
        """ONNX's own knows at most 64 tokens."""

        def _run(self, values, indices, axis=None):
            return (np.take_along_axis(values, indices, axis),)

    tts = copy.deepcopy(text2speech.tts)
    graph = AcousticGraph(tts, text2speech.normalize).double().eval()
    # The exporter rounded these constants to single precision, which alone can move a
    # connection over its threshold; ``widen`` puts the exact ones in their place.
    exact: list[Any] = [rates_of_sinusoid(tts.encoded_norm.normalized_shape[0], "cpu")]
    for attention in pruned_attentions(tts):
        exact += [attention.threshold, attention.d_k**-0.5, attention.h**0.5]
    exact = [torch.as_tensor(v, dtype=torch.float64).detach().numpy() for v in exact]

    def widen(tensor) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            for each in exact:
                if each.shape == values.shape and np.allclose(values, each, 1e-6, 0):
                    values = each
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    model = onnx.load(folder / onnx_runtime.ACOUSTIC)
    for tensor in model.graph.initializer:
        widen(tensor)
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1))  # the default is float32
            node.attribute.append(onnx.helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                widen(attribute.t)
            elif node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    evaluator = reference.ReferenceEvaluator(model, new_ops=[GatherElements])

    @torch.no_grad()
    def wanted(tokens: torch.Tensor, style: torch.Tensor, speed: float) -> np.ndarray:
        with synthesising(graph):
            speeds = torch.tensor(speed, dtype=torch.float64)
            return graph(tokens, style.double(), speeds)[0].numpy()

    def found(tokens: torch.Tensor, style: torch.Tensor, speed: float) -> np.ndarray:
        inputs = {"tokens": tokens.numpy(), "style_vector": style.double().numpy()}
        inputs["speed"] = np.array(speed)
        outputs: Any = evaluator.run(["mel"], inputs)
        return outputs[0]

    return wanted, found


def _timed(call: Callable[[Any], Any], inputs: Sequence[Any]) -> tuple[list, float]:
    """Return the results of a function, and the seconds of CPU that it took."""
    start = time.process_time()
    return [call(each) for each in inputs], time.process_time() - start


def _row(part, mels, wanted, said, seconds, frame) -> list[str]:
    """Return a line of the table; a frame lasts ``frame`` seconds."""
    pairs = zip(wanted, said, strict=True)
    difference = np.concatenate([np.abs(one - other).ravel() for one, other in pairs])
    frames = [len(mel) for mel in mels]
    return [
        part,
        f"{min(frames)} to {max(frames)}",
        f"{difference.max():.1e}",
        f"{100 * (difference > TOLERANCE).mean():.3f} %",
        *(f"{each / (frame * sum(frames)):.4f}" for each in seconds),
    ]
