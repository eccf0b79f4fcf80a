"""Voice files: the style vector of a speaker, for the model that computed it.

A voice file is in the format of safetensors: the tensor ``style_vector`` and, as text,
its model, a note, and the version of this plugin.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_prune import __version__
from espnet_prune.errors import UserError, first_line
from espnet_prune.files import replace_when_written
from espnet_prune.text.normalise import normalise

TENSOR = "style_vector"
CHECKSUM = "sha256"  # key of the checksum of the style vector
# A style vector has a few hundred values.
MAX_BYTES = 2**20


class Voice(NamedTuple):
    """The content of a voice file."""

    style_vector: torch.Tensor  # float32 (style_dim,)
    model: str  # SHA-256 of the weights that computed it
    note: str  # free text of its maker
    plugin_version: str  # version of espnet_prune that wrote it


def _is_style(vector: torch.Tensor) -> bool:
    return vector.dim() == 1 and len(vector) > 0 and bool(vector.isfinite().all())


def _digest(vector: torch.Tensor) -> str:
    return hashlib.sha256(vector.numpy().tobytes()).hexdigest()


def save_voice(
    path: str | Path, style_vector: torch.Tensor, model: str, note: str = ""
) -> None:
    """Write a voice file; after an error it does not exist.

    Args:
        path: File to write, usually NAME.voice.
        style_vector: (style_dim,).
        model: SHA-256 of the weights that computed it.
        note: For instance the name of the speaker, and whose consent there is.
    """
    import safetensors.torch

    if not isinstance(path, (str, os.PathLike)):
        raise UserError(
            f"the file of a voice is {path!r}: give its name, for instance me.voice"
        )
    if not isinstance(note, str):
        raise UserError(f"the note of a voice is {note!r}: give a text")
    normalise(note, "the note")  # it refuses damaged texts
    vector = style_vector.detach().to("cpu", torch.float32).contiguous()
    if not _is_style(vector):
        raise UserError(
            "a style vector should have the shape (style_dim,) and finite values: "
            "compute it with style_vector() of a model"
        )
    facts = {
        "model": model,
        "note": note,
        "plugin_version": __version__,
        CHECKSUM: _digest(vector),
    }
    content = safetensors.torch.save({TENSOR: vector}, facts)
    try:
        with replace_when_written(Path(path)) as partial:
            partial.write_bytes(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the voice cannot be written to {path} ({first_line(error)}): name "
            "another file"
        ) from error


def load_voice(path: str | Path, model: str | None = None) -> Voice:
    """Read a voice file.

    If ``model``, the SHA-256 of the weights that will speak, is given, a voice of
    another model is refused.
    """
    import safetensors

    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(
            f"the voice {path} is missing: make it with espnet-prune voice, or name "
            "another"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        with safetensors.safe_open(path, "pt") as file:
            vector, facts = file.get_tensor(TENSOR), file.metadata() or {}
        if not vector.is_floating_point() or not _is_style(vector := vector.float()):
            raise ValueError("it has no valid style vector")
        # files of earlier versions have none
        if facts.get(CHECKSUM) not in (None, _digest(vector)):
            raise ValueError("its style vector is damaged")
        if "model" not in facts:
            raise ValueError("it names no model")
    except Exception as error:  # safetensors raises its own errors
        raise UserError(
            f"{path} is not a voice file ({first_line(error)}): make one with "
            "espnet-prune voice"
        ) from error
    if model is not None and facts["model"] != model:
        raise UserError(
            f"the voice {path} belongs to another model: make it again from its "
            "recordings, with espnet-prune voice and this model"
        )
    return Voice(
        vector,
        facts["model"],
        facts.get("note", ""),
        facts.get("plugin_version", ""),
    )
