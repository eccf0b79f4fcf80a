"""ESPnet's own training loop on a few synthetic recordings, in a second or two."""

import re
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from espnet_prune import PruneTTSTask

FRAMES = {"fs": 8000, "n_fft": 256, "hop_length": 128}
TEXTS = {"a": "BAD", "b": "CAFE", "c": "DEED BAG", "d": "A"}
TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]
EPOCHS = 4
STEPS = 2  # an epoch
WARMUP = 5  # the peak of the learning rate lies inside phase 1
LR = 1e-2
TINY = {
    "adim": 8,
    "aheads": 2,
    "elayers": 1,
    "eunits": 8,
    "dlayers": 2,
    "dunits": 8,
    "decoder_prenet_units": 8,
    "style_units": 8,
    "style_dim": 4,
    "predictor_units": 8,
}


def write_corpus(folder):
    """Four recordings of half a second with text and durations, as Kaldi has them."""
    noise = np.random.default_rng(0)
    lines = {name: [] for name in ("text", "wav.scp", "durations")}
    shapes = {name: [] for name in ("text_shape", "speech_shape")}
    for i, (key, text) in enumerate(TEXTS.items()):
        samples = 3200 + 700 * i
        time_axis = np.arange(samples) / FRAMES["fs"]
        wave = 0.3 * np.sin(2 * np.pi * (150 + 60 * i) * time_axis)
        wave += 0.02 * noise.standard_normal(samples)
        soundfile.write(folder / f"{key}.wav", wave, FRAMES["fs"])
        frames, tokens = samples // FRAMES["hop_length"] + 1, len(text) + 1
        durations = [frames // tokens] * tokens
        durations[-1] += frames - sum(durations)
        lines["text"].append(f"{key} {text}")
        lines["wav.scp"].append(f"{key} {folder}/{key}.wav")
        lines["durations"].append(f"{key} {' '.join(map(str, durations))}")
        shapes["text_shape"].append(f"{key} {tokens - 1}")
        shapes["speech_shape"].append(f"{key} {samples}")
    for name, content in {**lines, **shapes}.items():
        (folder / name).write_text("\n".join(content) + "\n")
    return folder


def options(
    corpus, output_dir, phase=1, epochs=EPOCHS, phase1_dir=None, tiny=TINY, **changes
):
    """Command line of one training, with dropout so that random numbers matter."""
    conf = {
        "tts": "stylespeech",
        "tts_conf": dict(
            pruning="differentiable",
            pruning_conf={"phase": phase, "threshold_scale": 30.0, "temperature": 0.05},
            **tiny,
        ),
        "token_list": TOKENS,
        "token_type": "char",
        "feats_extract": "fbank",
        "feats_extract_conf": dict(**FRAMES, n_mels=6, fmin=0, fmax=4000),
        "normalize": None,
        "pitch_extract": "dio",
        "pitch_extract_conf": FRAMES,
        "pitch_normalize": None,
        "energy_extract": "energy",
        "energy_extract_conf": FRAMES,
        "energy_normalize": None,
        "optim": "adam",
        "optim_conf": {"lr": LR},
        "scheduler": "warmuplr",
        "scheduler_conf": {"warmup_steps": WARMUP},
        "max_epoch": epochs,
        "batch_type": "sorted",
        "batch_size": 2,
        "keep_nbest_models": 2,
        "best_model_criterion": [["valid", "loss", "min"]],
        "num_workers": 0,
        "log_interval": 1,
        "use_matplotlib": False,
        "use_tensorboard": False,
        "resume": True,
    }
    conf["tts_conf"].update(changes.pop("tts_conf", {}))
    conf.update(changes)
    for part in ("train", "valid"):
        conf[f"{part}_data_path_and_name_and_type"] = [
            [f"{corpus}/text", "text", "text"],
            [f"{corpus}/wav.scp", "speech", "sound"],
            [f"{corpus}/durations", "durations", "text_int"],
        ]
        conf[f"{part}_shape_file"] = [f"{corpus}/text_shape", f"{corpus}/speech_shape"]
    file = Path(output_dir).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(conf))
    command = ["--config", str(file), "--output_dir", str(output_dir)]
    if phase1_dir is not None:
        command += ["--phase1_dir", str(phase1_dir)]
    return command


def train(*args, **kwargs):
    """Train in this process and return the last checkpoint."""
    command = options(*args, **kwargs)
    PruneTTSTask.main(cmd=command)
    return checkpoint(args[1])


def checkpoint(folder):
    """Read checkpoint.pth of an experiment folder."""
    return torch.load(Path(folder) / "checkpoint.pth", weights_only=True)


def thresholds(states):
    """Parameters behind the thresholds, by name."""
    model = states.get("model", states)
    return {k: v.item() for k, v in model.items() if k.endswith(".theta")}


def same(a, b):
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def learned(states):
    """What a reporter says of learning: all but times and memory."""
    skip = re.compile("time|GPU|mem", re.IGNORECASE)
    return {
        (epoch, part, name): value
        for epoch, parts in states["reporter"]["stats"].items()
        for part, names in parts.items()
        for name, value in names.items()
        if not skip.search(name)
    }
