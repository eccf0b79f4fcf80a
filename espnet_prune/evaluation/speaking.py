"""Speak a whole test set: each utterance once, with its computing time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_prune.evaluation.metrics import Utterance
from espnet_prune.evaluation.records import (
    Record,
    digest,
    identify_vocoder,
    keep,
    lacking,
    stamp,
    stamp_said,
)
from espnet_prune.evaluation.scoring import read_data
from espnet_prune.files import lock_folder
from espnet_prune.processes import name_processor

if TYPE_CHECKING:  # these imports load torch and ESPnet
    import torch

    from espnet_prune.attention import AttentionMaps
    from espnet_prune.speech.synthesis import Text2Speech


class Kept(NamedTuple):
    """Kept share of connections, and their number per layer and head."""

    share: float
    connections: int


def speak_test_set(
    data_dir: Path,
    folder: Path,
    model: str | None = None,
    model_file: str | None = None,
    vocoder: str | None = None,
    device: str = "cpu",
    batch_size: int = 8,
    speed: float = 1.0,
) -> tuple[int, int]:
    """Speak a zero-shot test set; utterances that are in the folder are not made again.

    ``model``, ``model_file``, ``vocoder`` and ``device`` are as for
    ``Text2Speech.from_pretrained``, ``batch_size`` and ``speed`` as for ``speak``.

    Returns:
        Numbers of all utterances and of new ones.
    """
    from espnet_prune.speech.pretrained import default_vocoder, find_model
    from espnet_prune.speech.synthesis import Text2Speech

    vocoder = vocoder or default_vocoder(model)
    data = read_data(data_dir)
    found: dict[str, Any] = find_model(model, model_file)
    made_from: list[object] = [digest(Path(file)) for file in found.values()]
    made_from += [identify_vocoder(vocoder), speed]
    stamps = {
        name: stamp(said.text, digest(said.reference), *made_from)
        for name, said in data.items()
    }
    todo = lacking(folder, stamps) if folder.exists() else list(stamps)
    if todo:
        text2speech = Text2Speech(**found, vocoder=vocoder, device=device)
        said = [data[name] for name in todo]
        facts: Record = {"model": model, "vocoder": vocoder}
        with lock_folder(folder, "say"):
            speak(text2speech, said, stamps, folder, facts, batch_size, speed)
    return len(data), len(todo)


def speak(
    text2speech: Text2Speech,
    utterances: Iterable[Utterance],
    stamps: dict[str, str],
    folder: Path,
    facts: Record,
    batch_size: int = 8,
    speed: float = 1.0,
) -> None:
    """Speak utterances, each with its own reference, and write them with their records.

    The seconds of an utterance are those of the front end, of the style encoder, and of
    its share of the batch, vocoder included, in proportion to its length. Loading the
    model and writing files do not count, and one utterance is spoken first to warm up.

    Args:
        text2speech: The model.
        utterances: Utterances to speak; all are checked before the first one is spoken.
        stamps: Hash of each utterance's inputs.
        folder: Existing folder for the recordings.
        facts: Entries that every record gets.
        batch_size: Number of utterances that are computed together.
        speed: 2 speaks twice as fast.
    """
    import torch
    from tqdm import tqdm

    utterances = list(utterances)
    if not utterances:
        return
    device = torch.device(text2speech.device)
    facts = {**facts, "device": name_device(device), "batch_size": batch_size}
    tokens, seconds = {}, {}
    styles, encoding = {}, {}  # style vector and seconds of each reference
    # the first call is slow, so it is not measured
    text2speech.style_vector(utterances[0].reference)
    for utterance in utterances:
        begin = time.perf_counter()
        tokens[utterance.name] = text2speech.tokenize(utterance.text)
        seconds[utterance.name] = time.perf_counter() - begin
        heard = utterance.reference
        if heard not in styles:
            begin = time.perf_counter()
            styles[heard] = text2speech.style_vector(heard)
            encoding[heard] = time.perf_counter() - begin
        seconds[utterance.name] += encoding[heard]
    # utterances of similar lengths, so that a batch has little padding
    utterances.sort(key=lambda utterance: sum(map(len, tokens[utterance.name])))

    warm_up = tokens[utterances[0].name][0][:8]
    style = styles[utterances[0].reference]
    list(text2speech.vocode(text2speech.generate([warm_up], [style], speed)))
    with tqdm(total=len(utterances), desc="speaking", unit="utt", ncols=79) as bar:
        for start in range(0, len(utterances), batch_size):
            batch = utterances[start : start + batch_size]
            owners = [n for n, said in enumerate(batch) for _ in tokens[said.name]]
            parts = [part for said in batch for part in tokens[said.name]]
            voices = [styles[batch[owner].reference] for owner in owners]
            outputs, kept, elapsed = generate(
                text2speech, parts, voices, speed, batch_size
            )
            begin = time.perf_counter()
            waves = {}
            for number, output in text2speech.voice_parts(outputs, owners):
                waves[number] = output["wav"].cpu()
                bar.update()
            elapsed += time.perf_counter() - begin
            samples = max(1, sum(map(len, waves.values())))
            for number, utterance in enumerate(batch):
                name, wave = utterance.name, waves[number]
                taken = seconds[name] + elapsed * len(wave) / samples
                record = {
                    "utterance": name,
                    **facts,
                    "audio_seconds": len(wave) / text2speech.fs,
                    "synthesis_seconds": round(taken, 6),
                    "kept_share": mean_kept(
                        [
                            part
                            for part, owner in zip(kept, owners, strict=True)
                            if owner == number
                        ]
                    ),
                    "of": stamps[name],
                    "said": stamp_said(utterance.text, utterance.reference),
                }
                keep(folder, wave, text2speech.fs, record)


def generate(
    text2speech: Text2Speech,
    parts: list[torch.Tensor],
    styles: list[torch.Tensor],
    speed: float,
    batch_size: int,
) -> tuple[list[dict[str, torch.Tensor]], list[Kept | None], float]:
    """Generate mels, and count the connections that attention kept.

    ``parts`` are token ids (T_text,), and ``styles`` their style vectors (style_dim,).

    Returns:
        What ``Text2Speech.generate`` returns for each part.
        Kept connections of each part; None with soft masks, which keep a part of each
            connection.
        Seconds of the generation alone, without the counting.
    """
    from espnet_prune.attention import record_attention

    order = sorted(range(len(parts)), key=lambda number: len(parts[number]))
    outputs: dict[int, dict[str, torch.Tensor]] = {}
    kept: dict[int, Kept | None] = {}
    seconds = 0.0
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        begin = time.perf_counter()
        with record_attention(text2speech.tts.decoder) as layers:
            made = text2speech.generate(
                [parts[number] for number in chosen],
                [styles[number] for number in chosen],
                speed,
                batch_size,
            )
        seconds += time.perf_counter() - begin
        outputs.update(zip(chosen, made, strict=True))
        kept.update(zip(chosen, count_kept(layers, made), strict=True))
    numbers = range(len(parts))
    return [outputs[n] for n in numbers], [kept[n] for n in numbers], seconds


def count_kept(
    layers: list[AttentionMaps], made: list[dict[str, torch.Tensor]]
) -> list[Kept | None]:
    """Return the share of the decoder's connections that one pass kept.

    It is the mean over layers and heads, 1 for a dense decoder, and None with soft
    masks, or if nothing was recorded. The length of an utterance is the sum of its
    durations; the rest of its row is padding.
    """
    import torch

    if not layers or any(maps.mask.dtype != torch.bool for maps in layers):
        return [None] * len(made)
    kept: list[Kept | None] = []
    for row, output in enumerate(made):
        frames = int(output["duration"].sum())
        shares = [
            maps.mask[row, :, :frames, :frames].double().mean() for maps in layers
        ]
        kept.append(Kept(torch.stack(shares).mean().item(), frames**2))
    return kept


def mean_kept(parts: list[Kept | None]) -> float | None:
    """Average over all connections of a text in parts; None if one is not known."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    total = sum(part.share * part.connections for part in known)
    return total / sum(part.connections for part in known)


def name_device(device: torch.device) -> str:
    """Return the processor, and how many of its cores compute."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{name_processor()}, {threads} thread{'s' if threads > 1 else ''}"
