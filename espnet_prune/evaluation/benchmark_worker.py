"""Run steps of one checkout, one for each line on stdin.

``benchmark`` starts this file by its path, with the checkout first on the path of
modules, so that two checkouts with a package of the same name can take turns. It
therefore imports from this package only what it measures. That may be an older version,
or the public StyleSpeech (github.com/KevinMIN95/StyleSpeech).

The first line on stdin is a JSON object of settings (``benchmark.Work``), the answer a
list of systems. Each further line names a system; the answer holds its seconds.
"""

import contextlib
import inspect
import json
import math
import os
import resource
import subprocess
import sys
import time
import types
from pathlib import Path

import torch
import yaml

ODIM = 80
VOCABULARY = 80
FRAMES_A_TOKEN = 6

DENSE = "dense"
PRUNINGS = {
    DENSE: {"pruning": "none"},
    "vanilla": {"pruning": "vanilla"},
    "soft masks (phase 1)": {"pruning": "differentiable", "pruning_conf": {"phase": 1}},
    "hard masks (phase 2)": {"pruning": "differentiable", "pruning_conf": {"phase": 2}},
}
GIVEN, LEARNED = "given durations", "learned durations"


def main() -> None:
    """Answer the lines of stdin until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that output of other code is not an answer
    work = json.loads(sys.stdin.readline())
    steps = PARTS[work["part"]](work)
    print(json.dumps(list(steps)), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_time(steps[line.strip()], work)), file=answers, flush=True)


def _time(step, work):
    """Run a step and return its wall time, CPU time and the peak memory.

    The peak is that of the step on a GPU, and that of the process so far on a CPU.
    """
    _synchronise(work["device"])
    if work["device"].startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(work["device"])
    wall, cpu = time.perf_counter(), _cpu_seconds()
    step()
    _synchronise(work["device"])
    return {
        "wall": time.perf_counter() - wall,
        "cpu": _cpu_seconds() - cpu,
        "memory": _peak_memory(work["device"]),
    }


def _cpu_seconds():
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _synchronise(device):
    """Wait until a GPU has finished its queue."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _peak_memory(device):
    """Return the peak memory in bytes: of the GPU, or otherwise of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---------------------------------------------------------------- the parts


def decoder(work):
    """Forward and backward pass of the mel decoder alone, with the loss of pruning."""
    from espnet_prune.attention import pruning_terms

    def make(settings):
        model = _our_model(work, settings).train()
        decoder = model.decoder
        width, batch = decoder.output.in_features, _batch(work)
        device, size = work["device"], work["batch_size"]
        # Both come from trained layers and need gradients.
        x = torch.randn(size, work["frames"], width, device=device, requires_grad=True)
        style_dim = decoder.blocks[0].norm1.affine.in_features
        style = torch.randn(size, style_dim, device=device, requires_grad=True)
        valid = torch.ones(x.shape[:2] + (1,), dtype=torch.bool, device=device)

        def step():
            for leaf in (x, style, *decoder.parameters()):
                leaf.grad = None
            with _precision(work):
                loss = (decoder(x, style, valid) - batch["feats"]).abs().mean()
            sparsity, report = pruning_terms({"": decoder})
            (loss + sparsity).backward()
            for value in report.values():  # the reporter copies them from the device
                value.item()

        return step

    return {name: make(settings) for name, settings in _prunings(work).items()}


def training(work):
    """Whole training step: losses, gradients, clipping, Adam."""
    if work["public"]:
        return {DENSE: _public_training(work)}
    return {
        name: _our_training(work, settings, _batch(work))
        for name, settings in _prunings(work).items()
    }


def durations(work):
    """Whole training step with durations of the data and with learned ones."""
    return {
        GIVEN: _our_training(work, {}, _batch(work)),
        LEARNED: _our_training(
            work, {"durations": "learned"}, _batch(work, by_frame=True)
        ),
    }


def synthesis(work):
    """Text to mel of one sentence in the voice of one reference, without gradients."""
    frames = work["frames"]
    tokens = torch.arange(frames // FRAMES_A_TOKEN) % (VOCABULARY - 2) + 1
    reference = torch.randn(1, frames, ODIM).to(work["device"])
    tokens = tokens.to(work["device"])

    if work["public"]:
        model = _public_model(work).eval()
        _speak_evenly(model.variance_adaptor.duration_predictor.linear_layer)
        lengths = torch.tensor([len(tokens)], device=work["device"])

        def step():
            with torch.inference_mode(), _precision(work):
                style = model.get_style_vector(reference)
                mel = model.inference(style, tokens[None], lengths)[0]
            assert mel.size(1) == FRAMES_A_TOKEN * len(tokens), mel.shape

        return {DENSE: step}

    def make(settings):
        model = _our_model(work, settings).eval()
        _speak_evenly(model.predictors["duration"].output)
        text = tokens[:-1]  # <eos> is the last

        def step():
            with torch.inference_mode(), _precision(work):
                mel = model.inference(text, feats=reference[0])["feat_gen"]
            assert mel.size(0) == FRAMES_A_TOKEN * len(tokens), mel.shape

        return step

    return {name: make(settings) for name, settings in _prunings(work).items()}


def start(work):
    """Start of Python until the model's class is there, and of the command's help."""

    def run(*command):
        return lambda: subprocess.run(
            [sys.executable, *command], check=True, stdout=subprocess.DEVNULL
        )

    if work["public"]:
        _stand_in_for_text_packages()
        return {"import of the model": run("-c", "import models.Modules")}
    return {
        "import of the model": run("-c", "import espnet_prune.model"),
        "import of the package": run("-c", "import espnet_prune"),
    }


PARTS = {
    "decoder": decoder,
    "training": training,
    "durations": durations,
    "synthesis": synthesis,
    "start": start,
}


# ---------------------------------------------------------------- models and data


def _prunings(work):
    """Return the systems to measure, all or the requested ones."""
    return {
        name: settings
        for name, settings in PRUNINGS.items()
        if work["systems"] is None or name in work["systems"]
    }


def _our_model(work, settings):
    from espnet_prune.model import StyleSpeech

    settings = {**work["model"], **settings}
    if settings.get("pruning") in ("none", "vanilla"):
        settings.pop("pruning_conf", None)
    elif "pruning_conf" in work["model"]:
        given = settings.get("pruning_conf", {})
        settings["pruning_conf"] = {**work["model"]["pruning_conf"], **given}
    known = inspect.signature(StyleSpeech).parameters
    if work["compile"] and "compile_model" in known:
        settings["compile_model"] = True
    torch.manual_seed(0)
    return StyleSpeech(VOCABULARY, ODIM, **settings).to(work["device"])


def _batch(work, by_frame=False):
    """Make one batch of random speech; pitch and energy by token or by frame."""
    generator = torch.Generator().manual_seed(0)
    size, frames = work["batch_size"], work["frames"]
    tokens = frames // FRAMES_A_TOKEN
    durations = torch.full((size, tokens), FRAMES_A_TOKEN)
    durations[:, -1] += frames - FRAMES_A_TOKEN * tokens
    values = frames if by_frame else tokens
    batch = {
        "text": torch.randint(
            1, VOCABULARY - 1, (size, tokens - 1), generator=generator
        ),
        "text_lengths": torch.full((size,), tokens - 1),
        "feats": torch.randn(size, frames, ODIM, generator=generator),
        "feats_lengths": torch.full((size,), frames),
        "pitch": torch.randn(size, values, 1, generator=generator),
        "pitch_lengths": torch.full((size,), values),
        "energy": torch.randn(size, values, 1, generator=generator),
        "energy_lengths": torch.full((size,), values),
    }
    if not by_frame:
        batch.update(durations=durations, durations_lengths=torch.full((size,), tokens))
    return {name: value.to(work["device"]) for name, value in batch.items()}


def _our_training(work, settings, batch):
    settings = {"durations": "given", **settings}
    model = _our_model(work, settings).train()
    optimizer = torch.optim.Adam(model.parameters(), **_our_optim_conf())

    def step():
        optimizer.zero_grad()
        with _precision(work):
            loss, stats, _ = model(**batch)
        _descend(model, optimizer, loss)
        for value in stats.values():  # the reporter copies them from the device
            value.item()

    return step


def _our_optim_conf():
    """Read the settings of Adam in the checkout, with a rate that changes little."""
    file = Path("conf", "train.yaml")
    conf = yaml.safe_load(file.read_text())["optim_conf"] if file.is_file() else {}
    return {**conf, "lr": 1e-5}


def _public_training(work):
    model = _public_model(work).train()
    batch = _batch(work)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5
    )
    durations = batch["durations"]
    targets = {
        "log_d_target": torch.log1p(durations.float()),
        "p_target": batch["pitch"][..., 0],
        "e_target": batch["energy"][..., 0],
    }
    # that model has no <eos>: the text has as many tokens as durations
    text = torch.nn.functional.pad(batch["text"], (0, 1), value=1)
    text_lengths, frames = batch["durations_lengths"], work["frames"]

    def step():
        optimizer.zero_grad()
        with _precision(work):
            mel, _, _, log_d, pitch, energy, _, _, _ = model(
                text,
                text_lengths,
                batch["feats"],
                batch["feats_lengths"],
                durations,
                targets["p_target"],
                targets["e_target"],
                text.size(1),
                frames,
            )
            losses = model.get_criterion()(
                mel,
                batch["feats"],
                log_d_predicted=log_d,
                p_predicted=pitch,
                e_predicted=energy,
                src_len=text_lengths,
                mel_len=batch["feats_lengths"],
                **targets,
            )
        _descend(model, optimizer, sum(losses))
        for value in losses:
            value.item()

    return step


def _public_model(work):
    """Build the public StyleSpeech, which calls ``cuda`` for every device."""
    # replacing the method is the aim
    torch.Tensor.cuda = lambda self, *_, **__: self.to(work["device"])  # type: ignore[method-assign]
    _stand_in_for_text_packages()
    from models.StyleSpeech import StyleSpeech

    with open("configs/config.json") as file:
        config = types.SimpleNamespace(**json.load(file))
    torch.manual_seed(0)
    return StyleSpeech(config).to(work["device"])


def _stand_in_for_text_packages():
    """Replace packages that only its text front end needs, which is not measured."""
    for name, content in (("unidecode", "unidecode"), ("inflect", "engine")):
        module = types.ModuleType(name)
        setattr(module, content, lambda *_: None)
        sys.modules.setdefault(name, module)


def _speak_evenly(linear):
    """Make a duration predictor return the same value for every token."""
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(math.log(FRAMES_A_TOKEN + 1))


def _precision(work):
    if work["precision"] == "float32":
        return contextlib.nullcontext()
    dtype = getattr(torch, work["precision"])
    return torch.autocast(torch.device(work["device"]).type, dtype=dtype)


def _descend(model, optimizer, loss):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
