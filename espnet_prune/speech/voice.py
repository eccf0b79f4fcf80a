"""Voices in files: the style vector of a speaker, for the model that computed it.

A voice file is in the format of safetensors: the tensor ``style_vector`` and, as text,
the model it belongs to, a note, and the version of this plugin.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_prune import __version__
from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written
from espnet_prune.loading import first_line

SUFFIX = ".voice"
TENSOR = "style_vector"
# A style vector has some hundred values.
MAX_BYTES = 2**20


class Voice(NamedTuple):
    """What a voice file holds.

    Attributes:
        style_vector: float32 (style_dim,).
        model: :func:`identify_model` of the model that computed it.
        note: whatever its maker wrote.
        plugin_version: of espnet_prune that wrote it.

    """

    style_vector: torch.Tensor
    model: str
    note: str
    plugin_version: str


def identify_model(model_file: str | Path) -> str:
    """Give the SHA-256 of a file of weights: what a style vector belongs to."""
    with open(model_file, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_voice(
    path: str | Path, style_vector: torch.Tensor, model: str, note: str = ""
) -> None:
    """Write a voice file; it is whole or absent.

    Args:
        path: Where to, by custom NAME.voice.
        style_vector: (style_dim,).
        model: :func:`identify_model` of the weights that computed it.
        note: Kept with it, for instance whose voice it is, and with whose consent.

    Raises:
        UserError: It cannot be written, or the vector is none.
    """
    import safetensors.torch

    vector = style_vector.detach().to("cpu", torch.float32).contiguous()
    if vector.dim() != 1 or not torch.isfinite(vector).all():
        raise UserError(
            "a style vector should have the shape (style_dim,) and finite values: "
            "compute it by style_vector() of a model"
        )
    facts = {"model": model, "note": note, "plugin_version": __version__}
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

    Args:
        path: What :func:`save_voice` wrote.
        model: :func:`identify_model` of the weights that are to speak; None does not
            compare them.

    Raises:
        UserError: There is no such file, it is no voice, or it belongs to another
            model.
    """
    import safetensors

    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(
            f"the voice {path} is missing: make it by espnet-prune voice, or name "
            "another"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        with safetensors.safe_open(path, "pt") as file:
            vector, facts = file.get_tensor(TENSOR), file.metadata() or {}
        if vector.dim() != 1 or not torch.isfinite(vector).all():
            raise ValueError("its style vector is none")
        if "model" not in facts:
            raise ValueError("it names no model")
    except Exception as error:  # safetensors has errors of its own
        raise UserError(
            f"{path} is no voice file ({first_line(error)}): make one by espnet-prune "
            "voice"
        ) from error
    if model is not None and facts["model"] != model:
        raise UserError(
            f"the voice {path} belongs to another model: make it again from its "
            "recordings, by espnet-prune voice with this model"
        )
    return Voice(
        vector.float(),
        facts["model"],
        facts.get("note", ""),
        facts.get("plugin_version", ""),
    )
