"""Web pages that need no other file and no network.

Pictures and sound are part of the page, so that it can be sent as one file and opened
from a folder. Pages are Jinja templates in ``templates``, which escape every text.
"""

import base64
import functools
import io
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import soundfile

from espnet_prune.errors import UserError
from espnet_prune.speech import audio

# All current browsers play both. Samples to be rated are compressed without loss.
MEDIA_TYPES = {"FLAC": "audio/flac", "MP3": "audio/mpeg"}
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
HIGHEST_RATE = 655_350  # Hz, of FLAC
PICTURE_PIXELS = 1600  # large pictures are shrunk to this width


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """Fill a template; values are escaped in pages, but not in a Markdown card."""
    return _templates().get_template(template).render(values)


class Sound(NamedTuple):
    """One channel of sound: samples (T,), float, and their rate in Hz."""

    wave: np.ndarray
    fs: int


def read_sound(path: str | Path) -> Sound:
    """Read a recording as one channel."""
    samples, header = audio.read(path)
    if not len(samples):
        raise UserError(f"{path} contains no samples; replace or remove it")
    if header.rate > HIGHEST_RATE:
        raise UserError(
            f"{path} has the sampling rate {header.rate} Hz, which no browser plays; "
            "convert it to 48000 Hz"
        )
    return Sound(samples.mean(axis=1), header.rate)


def encode_sound(sound: Sound, kind: str) -> bytes:
    """Compress sound as a key of ``MEDIA_TYPES``; samples beyond 1 are clipped."""
    file = io.BytesIO()
    soundfile.write(file, sound.wave.clip(-1, 1), sound.fs, format=kind)
    return file.getvalue()


def data_address(media_type: str, content: bytes) -> str:
    """Return a data address that contains a file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def to_address(sound: Sound) -> str:
    """Return a data address that contains sound, in a format that browsers play."""
    kind = "MP3" if sound.fs in MP3_RATES else "FLAC"
    return data_address(MEDIA_TYPES[kind], encode_sound(sound, kind))


def shrink(path: str | Path) -> bytes:
    """Read a PNG, reduced to the size and colours that a screen needs."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError as error:
        raise UserError(
            f"{path} is not a picture ({error}); remove it or draw it again"
        ) from error
    if image.width > PICTURE_PIXELS:
        height = round(image.height * PICTURE_PIXELS / image.width)
        image = image.resize((PICTURE_PIXELS, height), Image.Resampling.LANCZOS)
    png = io.BytesIO()
    image.quantize(256).save(png, format="PNG", optimize=True)
    return png.getvalue()
