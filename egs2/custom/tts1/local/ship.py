#!/usr/bin/env python3
"""Make a small folder of a trained model, as the package ships models.

local/ship.py EXP ../../../espnet_prune/models/NAME --voice "emma=emma.wav=British"

The folder has config.yaml, without the settings of training; the weights in half
precision, without those that only training needs; the statistics of the features; and
a voice file for each --voice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml

from espnet_prune import Text2Speech
from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError, run
from espnet_prune.experiment import read_config
from espnet_prune.files import digest, replace_when_written, write_text
from espnet_prune.loading import load_weights
from espnet_prune.speech import audio
from espnet_prune.speech.pretrained import (
    DEFAULT_WEIGHTS,
    SHIPPED_WEIGHTS,
    VOICE_SUFFIX,
    paths_made_absolute,
)
from espnet_prune.speech.voice import save_voice

# Settings that synthesis needs.
SETTINGS = (
    *("tts", "tts_conf", "odim", "model_conf", "version"),
    *("feats_extract", "feats_extract_conf", "normalize", "normalize_conf"),
    *("pitch_extract", "pitch_extract_conf", "pitch_normalize", "pitch_normalize_conf"),
    *("energy_extract", "energy_extract_conf"),
    *("energy_normalize", "energy_normalize_conf"),
    *("use_preprocessor", "token_type", "token_list", "bpemodel"),
    *("non_linguistic_symbols", "cleaner", "g2p"),
)
STATISTICS = ("normalize_conf", "pitch_normalize_conf", "energy_normalize_conf")
# Weights that only training needs.
OF_TRAINING = ("tts.discriminator.", "tts.aligner.")
# A text to compare the small model with the trained one.
TEXT = "The quick brown fox jumps over the lazy dog."


def keep_full_precision(name: str) -> bool:
    """Return whether a weight is too important, or too large, for half precision."""
    # a threshold decides about connections; a mel filter has sums of many samples
    return name.endswith(".theta") or not name.startswith("tts.")


def shrink(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of synthesis, in half precision where that is enough."""
    small = {}
    for name, weight in weights.items():
        if name.startswith(OF_TRAINING):
            continue
        if weight.is_floating_point() and not keep_full_precision(name):
            weight = weight.half()
        small[name] = weight.contiguous()
    return small


def settings_of_synthesis(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of config.yaml that synthesis needs."""
    settings = {name: config[name] for name in SETTINGS if name in config}
    conf = dict(settings["tts_conf"], durations="given")  # needs no aligner
    for name in ("adversarial_weight", "adversarial_channels"):
        conf.pop(name, None)
    return {**settings, "tts_conf": conf}


def ship(
    experiment: Path,
    weights: str,
    output: Path,
    voices: dict[str, Path],
    notes: dict[str, str],
) -> Text2Speech:
    """Write the folder of a model, and return the model that it contains.

    Files of the same names are replaced. ``voices`` has the recording of each voice
    file by its name, and ``notes`` the note in it.
    """
    # Everything is read before anything is written.
    settings = settings_of_synthesis(read_config(experiment))
    with paths_made_absolute(experiment / "config.yaml") as absolute:
        paths = read_config(absolute)
    statistics = {}
    for name in STATISTICS:
        if not paths.get(name, {}).get("stats_file"):
            continue
        # a path with a slash is found next to config.yaml, from any working folder
        file = Path(paths[name]["stats_file"])
        statistics[file.name] = dict(np.load(file))
        settings[name] = {**settings[name], "stats_file": f"./{file.name}"}
    content = safetensors.torch.save(shrink(load_weights(experiment / weights)))
    for recording in voices.values():
        audio.read(recording)
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(settings, sort_keys=True, allow_unicode=True)
    write_text(output / "config.yaml", text)
    for file_name, arrays in statistics.items():
        np.savez(output / file_name, **arrays)
    small = output / SHIPPED_WEIGHTS
    with replace_when_written(small) as partial:
        partial.write_bytes(content)
    model = Text2Speech.from_pretrained(output)
    identity = digest(small)
    (output / "voices").mkdir(exist_ok=True)
    for name, recording in voices.items():
        file = output / "voices" / f"{name}{VOICE_SUFFIX}"
        save_voice(file, model.style_vector(recording), identity, notes.get(name, ""))
    return model


def compare(small: Text2Speech, trained: Text2Speech, recording: Path) -> str:
    """Say how two models differ for one text and one voice."""
    said = [model(TEXT, speech=recording) for model in (small, trained)]
    if not torch.equal(said[0]["duration"], said[1]["duration"]):
        return "rounding changes the length of a token, so mels are not compared"
    difference = (said[0]["feat_gen"] - said[1]["feat_gen"]).abs().mean()
    return f"normalised mels differ by {difference:.5f} on average"


def main(cmd: Sequence[str] | None = None) -> None:
    """Write the folder and print its size and its difference to the trained model."""
    parser = make_parser("Make a small folder of a trained model, for synthesis only")
    add = parser.add_argument
    add("experiment", type=Path, metavar="EXP", help="folder of the training")
    add("output", type=Path, help="folder to write")
    add("--inference_model", default=DEFAULT_WEIGHTS, help="weights in EXP")
    add(
        "--voice",
        action="append",
        default=[],
        metavar="NAME=WAV=NOTE",
        help="a voice of the model, its recording, and a note; can be repeated",
    )
    args = parser.parse_args(cmd)
    voices, notes = {}, {}
    for voice in args.voice:
        name, *rest = voice.split("=", 2)
        if not name or len(rest) != 2:
            raise UserError(f"--voice {voice} is not NAME=WAV=NOTE")
        voices[name], notes[name] = Path(rest[0]), rest[1]
    small = ship(args.experiment, args.inference_model, args.output, voices, notes)
    trained = Text2Speech.from_pretrained(
        args.experiment, model_file=args.inference_model
    )
    files = [file for file in args.output.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{args.output}: {size / 2**20:.2f} MB in {len(files)} files")
    for name, recording in voices.items():
        print(f"{name}: {compare(small, trained, recording)}")


if __name__ == "__main__":
    run(main)
