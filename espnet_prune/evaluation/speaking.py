"""Saying a whole test set: every utterance once, and how long it took.

Beside the recordings, ``synthesis.jsonl`` has a line for each:

    {"utterance": "p225_038", "model": "exp/tts_mine", "vocoder": "hifigan", "device":
    "NVIDIA H100 80GB HBM3", "batch_size": 8, "audio_seconds": 2.1,
    "synthesis_seconds": 0.04, "kept_share": 0.27, "of": "5d41402abc4b2a76"}

``of`` stands for all that the recording was made from: text, reference, weights,
configuration, vocoder, speed. What has the same one is not said again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import soundfile

from espnet_prune.evaluation.scorers import Utterance
from espnet_prune.files import read_json_lines, replace_when_written

if TYPE_CHECKING:  # they load torch and ESPnet, which the records do not need
    import torch

    from espnet_prune.speech.synthesis import Text2Speech

RECORDS = "synthesis.jsonl"

Record = dict[str, Any]


class Voice(NamedTuple):
    """The style vector of a reference and the seconds that it took."""

    style: torch.Tensor
    seconds: float


def digest(path: Path) -> str:
    """Give a short hash of what a file holds."""
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    return content.hexdigest()


def identify_vocoder(vocoder: str | None) -> list[str]:
    """Give what changes whenever a vocoder does: a name, or the hashes of its files."""
    path = Path(vocoder or "")
    if not path.exists() or not path.name:
        return [str(vocoder)]
    files = [path]
    if path.is_dir():
        files = sorted((*path.glob("g_*"), *path.glob("generator*")))
        files += path.glob("config.json")
    return [digest(file) for file in files]


def stamp(*parts: Any) -> str:
    """Give a short hash of anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ------------------------------------------------------------------------ the records


def lacking(folder: Path, stamps: dict[str, str]) -> list[str]:
    """Name the utterances that have to be made, and forget what they were before.

    Args:
        folder: Of recordings, which exists.
        stamps: What each utterance is to be made from.

    """
    records = read_json_lines(folder / RECORDS)
    kept = {
        name: record
        for name, record in records.items()
        if (folder / f"{name}.wav").is_file()
        and record.get("of") == stamps.get(name, record.get("of"))
    }
    # a line that was cut off goes too: the next one would continue it
    with replace_when_written(folder / RECORDS) as partial:
        partial.write_text("".join(map(_line, kept.values())), encoding="utf-8")
    return [name for name in stamps if name not in kept]


def keep(folder: Path, wave: torch.Tensor, fs: int, record: Record) -> None:
    """Write a recording (T_wav,), then its record: it is not made again."""
    with replace_when_written(folder / f"{record['utterance']}.wav") as partial:
        soundfile.write(partial, wave.cpu().numpy(), fs, "PCM_16", format="WAV")
    with open(folder / RECORDS, "a", encoding="utf-8") as file:
        file.write(_line(record))


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


# --------------------------------------------------------------------------- speaking


def speak(
    text2speech: Text2Speech,
    utterances: Iterable[Utterance],
    stamps: dict[str, str],
    folder: Path,
    facts: Record,
    batch_size: int = 8,
    alpha: float = 1.0,
) -> None:
    """Say utterances, each with its own reference, and keep them with their records.

    The seconds of an utterance are those from its text and the file of its reference to
    its samples: front end, style encoder, and of the batch with its vocoder the part
    that its length is of the whole batch. Loading the model and writing are left out,
    and one utterance is said beforehand.

    Args:
        text2speech: The model.
        utterances: What to say; all of it is checked before any of it is said.
        stamps: What each is made from.
        folder: Where to, which exists.
        facts: Entries that every record gets.
        batch_size: Utterances that are said at once.
        alpha: Factor on the durations.

    Raises:
        UserError: A text or a reference cannot be used.

    """
    import torch
    from tqdm import tqdm

    # of like lengths, so that a batch has little padding
    utterances = sorted(utterances, key=lambda utterance: len(utterance.text))
    if not utterances:
        return
    device = torch.device(text2speech.device)
    facts = {**facts, "device": name_device(device), "batch_size": batch_size}
    tokens, seconds, voices = {}, {}, {}
    text2speech.style_vector(utterances[0].reference)  # what comes first is slow
    for utterance in utterances:
        begin = time.perf_counter()
        tokens[utterance.name] = text2speech.tokenize(utterance.text)
        seconds[utterance.name] = time.perf_counter() - begin
        if utterance.reference not in voices:
            begin = time.perf_counter()
            style = text2speech.style_vector(utterance.reference)
            voices[utterance.reference] = Voice(style, time.perf_counter() - begin)
        seconds[utterance.name] += voices[utterance.reference].seconds

    def say(batch: list[Utterance]) -> list[torch.Tensor]:
        said = text2speech.batch(
            [tokens[utterance.name] for utterance in batch],
            style_vectors=[voices[utterance.reference].style for utterance in batch],
            alpha=alpha,
            batch_size=batch_size,
        )
        return [output["wav"].cpu() for output in said]

    say(utterances[:1])
    with tqdm(total=len(utterances), desc="speaking", unit="utt", ncols=79) as bar:
        for start in range(0, len(utterances), batch_size):
            batch = utterances[start : start + batch_size]
            begin = time.perf_counter()
            waves = say(batch)
            elapsed = time.perf_counter() - begin
            samples = max(1, sum(map(len, waves)))
            for utterance, wave in zip(batch, waves, strict=True):
                name, style = utterance.name, voices[utterance.reference].style
                taken = seconds[name] + elapsed * len(wave) / samples
                record = {
                    "utterance": name,
                    **facts,
                    "audio_seconds": len(wave) / text2speech.fs,
                    "synthesis_seconds": round(taken, 6),
                    "kept_share": kept_share(text2speech, tokens[name], style, alpha),
                    "of": stamps[name],
                }
                keep(folder, wave, text2speech.fs, record)
                bar.update()


def kept_share(
    text2speech: Text2Speech,
    tokens: list[torch.Tensor],
    style: torch.Tensor,
    alpha: float = 1.0,
) -> float | None:
    """Measure the share of the decoder's connections that inference keeps.

    The utterance is said once more, alone and without a vocoder, so that recording
    costs no time that is measured and no frame is padding.

    Args:
        text2speech: The model.
        tokens: Of the parts of the text, each (T_text,).
        style: Style vector (style_dim,).
        alpha: Factor on the durations.

    Returns:
        Mean over layers and heads, of a text in parts over all their connections; 1
        for a dense decoder. None under soft masks, which keep a part of each.

    """
    import torch

    from espnet_prune import masks
    from espnet_prune.attention import record_attention

    vocoder, text2speech.vocoder = text2speech.vocoder, None
    shares, connections = [], []
    try:
        for part in tokens:
            with record_attention(text2speech.tts.decoder) as layers:
                text2speech.batch([[part]], style_vectors=[style], alpha=alpha)
            if not layers or any(maps.mask.dtype != torch.bool for maps in layers):
                return None
            pairs = layers[0].mask.new_ones(()).expand(layers[0].dense[:, :1].shape)
            share = torch.stack([masks.kept_share(maps.mask, pairs) for maps in layers])
            shares.append(share.mean().item())
            connections.append(pairs.numel())
    finally:
        text2speech.vocoder = vocoder
    total = sum(
        share * number for share, number in zip(shares, connections, strict=True)
    )
    return total / sum(connections)


def name_device(device: torch.device) -> str:
    """Name the processor that computes, and how many of its cores."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = "CPU"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":", 1)[1] for line in lines if line.startswith("model n")]
        name = " ".join(models[0].split()) if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
