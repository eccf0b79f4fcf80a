#!/usr/bin/env python3
"""Check that a packed model says what the experiment said, sample by sample."""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import soundfile
import yaml
from espnet2.bin.tts_inference import Text2Speech
from espnet2.utils.types import str_or_none
from espnet_model_zoo.downloader import ModelDownloader

from espnet_prune import PruneTTSTask
from espnet_prune.errors import UserError, run
from espnet_prune.files import read_columns
from espnet_prune.pretrained import first_line
from espnet_prune.reference import read_speaker


def check(
    packed: Path,
    data_dir: Path,
    wav_dir: Path,
    settings: Dict[str, Any],
    vocoder: Optional[str] = None,
    spembs: Optional[Path] = None,
) -> str:
    """Load a packed model as its user would and compare its speech.

    Args:
        packed: zip of ESPnet's packing stage.
        data_dir: folder with ``text`` (what to say) and ``wav.scp`` (references).
        wav_dir: what the experiment said, ``ID.wav``.
        settings: those of decoding, keyword arguments of ``Text2Speech``.
        vocoder: the one of decoding, None for Griffin-Lim.
        spembs: scp file of speaker embeddings, if the model uses them.

    Returns:
        Name of the utterance that was compared.

    Raises:
        UserError: a file is missing, or the samples differ.

    """
    if not packed.exists():
        raise UserError(f"there is no {packed}; run the stage that makes it first")
    name, text = next(iter(read_columns(data_dir / "text").items()))
    references = read_columns(data_dir / "wav.scp")
    if name not in references:
        raise UserError(f"{data_dir}/wav.scp lacks {name} of {data_dir}/text; add it")
    said = wav_dir / f"{name}.wav"
    if not said.exists():
        raise UserError(f"there is no {said}; run the decoding stage first")
    with tempfile.TemporaryDirectory() as cache:
        try:
            with warnings.catch_warnings():  # that it unpacks the file
                warnings.simplefilter("ignore", UserWarning)
                files = ModelDownloader(cache).unpack_local_file(str(packed))
        except Exception as error:  # zipfile, yaml and ESPnet each raise their own
            raise UserError(
                f"{packed} cannot be unpacked as a model ({first_line(error)}); run "
                "the packing stage again"
            ) from error
        text2speech = Text2Speech(**files, **settings)
        # ESPnet's own Griffin-Lim says something else each time
        text2speech.vocoder = PruneTTSTask.build_vocoder_from_file(
            None, vocoder, text2speech.model
        )
        speech, _ = soundfile.read(references[name], dtype="float32")
        speaker = read_speaker(text2speech, data_dir, name, spembs)
        wav = text2speech(text, speech=speech, **speaker)["wav"].numpy()
        again = Path(cache) / said.name
        soundfile.write(again, wav, text2speech.fs, "PCM_16")
        samples, before = (soundfile.read(f, dtype="int16")[0] for f in (again, said))
    if not np.array_equal(samples, before):
        raise UserError(
            f"{packed} does not say {name} as {said} does; pack the model that was "
            "decoded, and give the options of its decoding"
        )
    return name


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Load a packed model by ESPnet's Text2Speech and compare what it "
        "says, bit for bit, with what its experiment said.",
    )
    parser.add_argument("packed", type=Path, help="zip of the packing stage")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="text and reference wav.scp"
    )
    parser.add_argument(
        "--wav_dir", type=Path, required=True, help="speech of the decoding stage"
    )
    parser.add_argument("--config", type=Path, help="YAML with the options of decoding")
    parser.add_argument(
        "--vocoder_file",
        type=str_or_none,
        help="vocoder of decoding (default: none, Griffin-Lim)",
    )
    parser.add_argument(
        "--spembs",
        type=Path,
        help="scp file of speaker embeddings, for models that use them",
    )
    return parser


def main(cmd=None) -> None:
    """Check one utterance."""
    args = get_parser().parse_args(cmd)
    settings = yaml.safe_load(args.config.read_text()) if args.config else {}
    name = check(
        args.packed,
        args.data_dir,
        args.wav_dir,
        settings,
        args.vocoder_file,
        args.spembs,
    )
    print(f"{args.packed}: loads, and says {name} bit for bit as before")


if __name__ == "__main__":
    run(main)
