"""Records of speech that was made, so that nothing is made or scored twice.

``synthesis.jsonl`` in a folder of recordings has a line for each:

    {"utterance": "p225_038", "model": "exp/tts_mine", "vocoder": "hifigan", "device":
    "NVIDIA H100 80GB HBM3", "batch_size": 8, "audio_seconds": 2.1,
    "synthesis_seconds": 0.04, "kept_share": 0.27, "of": "5d41402abc4b2a76",
    "said": "76b2a4cba2041d45"}

``of`` is a hash of all that the recording was made from: text, reference, weights,
configuration, vocoder, speed. Recordings with the same hash are not made again.
``said`` is one of the text and the reference alone, which scoring compares to the data.
A recording that went through a vocoder has its hash as ``recording`` in place of
``said``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_prune import files
from espnet_prune.speech.audio import write_speech

if TYPE_CHECKING:
    import torch

RECORDS = "synthesis.jsonl"

Record = dict[str, Any]

digest = functools.partial(files.digest, size=8)


def identify_vocoder(vocoder: str | None) -> list[str]:
    """Return what identifies a vocoder: a name, or the hashes of its files."""
    path = Path(vocoder or "")
    if not path.exists() or not path.name:
        return [str(vocoder)]
    found = [path]
    if path.is_dir():
        found = sorted((*path.glob("g_*"), *path.glob("generator*")))
        found += path.glob("config.json")
    return [digest(file) for file in found]


def stamp(*parts: Any) -> str:
    """Return a short hash of a value that JSON can represent."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def stamp_said(text: str, reference: Path) -> str:
    """Return a hash of a text and of the recording whose voice says it."""
    return stamp(text, digest(reference))


def lacking(folder: Path, stamps: dict[str, str]) -> list[str]:
    """Return the utterances to make, and remove their old records."""
    records = files.read_json_lines(folder / RECORDS)
    kept = {
        name: record
        for name, record in records.items()
        if (folder / f"{name}.wav").is_file()
        and record.get("of") == stamps.get(name, record.get("of"))
    }
    # this also removes a line that was cut off, which the next one would continue
    files.write_json_lines(folder / RECORDS, kept.values())
    return [name for name in stamps if name not in kept]


def keep(folder: Path, wave: torch.Tensor, fs: int, record: Record) -> None:
    """Write a recording (T_wav,), then its record, so that it is not made again."""
    with files.replace_when_written(folder / f"{record['utterance']}.wav") as partial:
        write_speech(partial, wave.cpu().numpy(), fs)
    files.append_json_line(folder / RECORDS, record)
