"""Compare the speech of a packed model with that of its experiment."""

import inspect
import io
import shlex
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from espnet2.bin import tts_inference
from espnet2.bin.tts_inference import Text2Speech
from espnet_model_zoo.downloader import ModelDownloader

from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError, first_line
from espnet_prune.loading import check_archive, load_yaml
from espnet_prune.speech import audio
from espnet_prune.speech.reference import read_speaker
from espnet_prune.speech.vocoder import GRIFFIN_LIM, describe_features, open_vocoder


def check(
    packed: Path,
    data_dir: Path,
    said: Path,
    settings: dict[str, Any],
    vocoder: str = GRIFFIN_LIM,
    spembs: Path | None = None,
) -> str:
    """Load a packed model as its users do, and compare its speech of one utterance.

    ``settings`` are options of decoding, keyword arguments of ``Text2Speech``; the
    others are options of ``espnet-prune check``. ``said`` is a folder of ``ID.wav``, or
    the weights if a GPU computed the speech, because a GPU rounds differently.

    Returns:
        The name of the utterance.
    """
    if not packed.exists():
        raise UserError(f"there is no {packed}; run the stage that makes it first")
    name, text = next(iter(read_columns(data_dir / "text").items()))
    references = read_columns(data_dir / "wav.scp")
    if name not in references:
        raise UserError(f"{data_dir}/wav.scp lacks {name} of {data_dir}/text; add it")
    before = said / f"{name}.wav" if said.is_dir() else said
    if not before.exists():
        raise UserError(f"there is no {before}; run the decoding stage first")

    def say(train_config, model_file) -> np.ndarray:
        text2speech = Text2Speech(train_config, model_file, **settings)
        # ESPnet's own Griffin-Lim gives another result each time
        features = describe_features(text2speech.feats_extract)
        text2speech.vocoder = open_vocoder(vocoder, features)
        speech = audio.read(references[name], "reference").samples[:, 0]
        speaker = read_speaker(text2speech, data_dir, name, spembs)
        wav = text2speech(text, speech=speech, **speaker)["wav"].numpy()
        with io.BytesIO() as file:
            soundfile.write(file, wav, text2speech.fs, "PCM_16", format="WAV")
            file.seek(0)
            return soundfile.read(file, dtype="int16")[0]

    with tempfile.TemporaryDirectory() as cache:
        try:
            with warnings.catch_warnings():  # about unpacking the file
                warnings.simplefilter("ignore", UserWarning)
                check_archive(packed)
                model = ModelDownloader(cache).unpack_local_file(str(packed))
        except Exception as error:  # zipfile, yaml and ESPnet raise different errors
            raise UserError(
                f"{packed} cannot be unpacked as a model ({first_line(error)}); run "
                "the packing stage again"
            ) from error
        samples = say(**model)
    if said.is_dir():
        audio.read(before, "speech")  # it refuses what cannot be read
        wanted = soundfile.read(before, dtype="int16")[0]
    else:
        wanted = say(said.parent / "config.yaml", said)
    if not np.array_equal(samples, wanted):
        raise UserError(
            f"{packed} and {before} produce different samples of {name}; pack the "
            "model that was decoded, and give the options of its decoding"
        )
    return name


def decoding_settings(config: Path | None, options: str) -> dict[str, Any]:
    """Read the options of ``Text2Speech`` except model and vocoder, as ESPnet does.

    ``config`` is a YAML file, and ``options`` the ``--inference_args`` of tts.sh.
    """
    try:
        command = shlex.split(options)
    except ValueError as error:
        raise UserError(
            f"--inference_args cannot be split ({error}): close the quote"
        ) from error
    # options that decoding needs
    command += ["--output_dir", "", "--data_path_and_name_and_type", "text,text,text"]
    if config is not None:
        if not config.is_file():
            raise UserError(f"there is no {config}; give the options of the decoding")
        load_yaml(config, "YAML file of options", may_be_empty=True)
        command += ["--config", str(config)]
    given = vars(tts_inference.get_parser().parse_args(command))
    taken = inspect.signature(Text2Speech).parameters.keys() & given
    taken -= {"train_config", "model_file", "vocoder_config", "vocoder_file"}
    return {name: given[name] for name in sorted(taken)}
