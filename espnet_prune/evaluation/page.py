"""Pieces of web pages that need no other file and no network.

Pictures and sound are part of the page, so that it can be sent as one file and opened
from a folder.
"""

import base64
import html
import io
import re
from pathlib import Path
from typing import Iterable, List, NamedTuple, Optional, Union

import numpy as np
import soundfile
from PIL import Image

from espnet_prune.errors import UserError

# Every browser of the last years plays both. What is to be judged is not compressed
# with loss.
MEDIA_TYPES = {"FLAC": "audio/flac", "MP3": "audio/mpeg"}
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
PICTURE_PIXELS = 1600  # width that a large picture is shrunk to

STYLE = """\
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem;
       padding: 1rem; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; }
img { max-width: 100%; height: auto; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border: 1px solid #8886; padding: .25rem .5rem; text-align: right;
         vertical-align: top; }
th, td { overflow-wrap: anywhere; min-width: 3rem; max-width: 20rem; }
th:first-child, td:first-child { text-align: left; min-width: 8rem; }
audio { width: 15rem; max-width: 60vw; }
"""


class Sound(NamedTuple):
    """One channel of sound: samples (T,), float, and their rate in Hz."""

    wave: np.ndarray
    fs: int


def read_sound(path: Union[str, Path]) -> Sound:
    """Read a recording as one channel.

    Raises:
        UserError: It cannot be read, it is empty, or its samples are no numbers.

    """
    try:
        wave, fs = soundfile.read(str(path), always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"cannot read {path} as audio ({error}); mend it") from error
    if not len(wave):
        raise UserError(f"{path} holds no samples; mend or remove it")
    if not np.isfinite(wave).all():
        raise UserError(
            f"{path} has samples that are NaN or infinite; make it again with a model "
            "that has not diverged"
        )
    return Sound(wave.mean(axis=1), fs)


def encode_sound(sound: Sound, kind: str) -> bytes:
    """Compress sound.

    Args:
        sound: What to compress; samples beyond 1 are clipped.
        kind: Of ``MEDIA_TYPES``.

    """
    file = io.BytesIO()
    soundfile.write(file, sound.wave.clip(-1, 1), sound.fs, format=kind)
    return file.getvalue()


def data_address(media_type: str, content: bytes) -> str:
    """Turn a file into an address that contains it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def player(path: Union[str, Path], label: str) -> str:
    """Embed a recording with the controls of the browser.

    Args:
        path: Any file that libsndfile reads.
        label: What a screen reader calls it.

    Raises:
        UserError: See ``read_sound``.

    """
    sound = read_sound(path)
    kind = "MP3" if sound.fs in MP3_RATES else "FLAC"
    address = data_address(MEDIA_TYPES[kind], encode_sound(sound, kind))
    return (
        f'<audio controls preload="metadata" aria-label="{html.escape(label)}" '
        f'src="{address}"></audio>'
    )


def picture(png: bytes, caption: str, width: Optional[int] = None) -> str:
    """Embed a picture, with what it shows below it and for those who cannot see it.

    Args:
        png: The picture.
        caption: What it shows.
        width: To show it in, in pixels, where there is room; by default its own.

    """
    text = html.escape(caption)
    size = f' width="{width}"' if width is not None else ""
    return (
        f'<figure><img alt="{text}"{size} src="{data_address("image/png", png)}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def shrink(path: Union[str, Path]) -> bytes:
    """Read a PNG, in a size and in as many colours as a screen has use for.

    Raises:
        UserError: It is no picture.

    """
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except OSError as error:
        raise UserError(
            f"{path} is no picture ({error}); remove it, or draw it anew"
        ) from error
    if image.width > PICTURE_PIXELS:
        height = round(image.height * PICTURE_PIXELS / image.width)
        image = image.resize((PICTURE_PIXELS, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.quantize(256).save(file, format="PNG", optimize=True)
    return file.getvalue()


def table(heading: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Lay out a table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>\n"
        for line in lines
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def from_markdown(text: str) -> str:
    """Turn the Markdown that this package writes into HTML.

    It knows headings, tables, lists and paragraphs, which is all that the tables of
    scores and thresholds have.
    """
    parts: List[str] = []
    for block in re.split(r"\n\s*\n|\n(?=#)|(?<=\|)\n(?!\|)", text.strip()):
        lines = [html.escape(line.strip()) for line in block.strip().splitlines()]
        if not lines:
            continue
        if lines[0].startswith("#"):
            parts.append(f"<h3>{lines.pop(0).lstrip('# ')}</h3>\n")
        if lines and lines[0].startswith("|"):
            cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
            parts.append(table(cells[0], cells[2:]))
        elif lines and lines[0].startswith("- "):
            items = "\n".join(lines)[2:].split("\n- ")
            parts.append("<ul>" + "".join(f"<li>{i}</li>" for i in items) + "</ul>\n")
        elif lines:
            parts.append("<p>" + "<br>\n".join(lines) + "</p>\n")
    return "".join(parts)


def whole(title: str, body: str) -> str:
    """Make a page out of its title, which is text, and its body, which is HTML."""
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f"{body}</main>\n</body>\n</html>\n"
    )
