"""Pieces of pages: sound, pictures, and templates that escape every text."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread, imsave
from tiny_experiment import voice

from espnet_prune import UserError
from espnet_prune.evaluation import page


def content(address):
    media, data = re.fullmatch(r"data:([\w/]+);base64,([^\"]+)", address).groups()
    return media, io.BytesIO(base64.b64decode(data))


@pytest.mark.parametrize("fs, kind", [(22050, "audio/mpeg"), (22051, "audio/flac")])
def test_recordings_are_embedded_in_what_browsers_play(tmp_path, fs, kind):
    wave = voice(0.5, fs)
    stereo = np.stack([0.5 * wave, 1.5 * wave], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo, fs)
    media, file = content(page.to_address(page.read_sound(tmp_path / "x.wav")))
    assert media == kind
    heard, rate = soundfile.read(file)
    assert rate == fs and len(heard) == pytest.approx(len(wave), rel=0.15)
    assert np.std(heard[: len(wave)]) == pytest.approx(np.std(wave), rel=0.1)


def test_recordings_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    for number in (np.nan, np.inf):
        soundfile.write(tmp_path / f"{number}.wav", [0, number], 16000, "FLOAT")
    for name, fault in (
        ("nan.wav", "nan.wav has 1 samples that are NaN or infinite"),
        ("inf.wav", "inf.wav has 1 samples that are NaN or infinite"),
        ("text.wav", "text.wav cannot be read as audio"),
        ("none.wav", "none.wav is missing"),
        ("empty.wav", "empty.wav contains no samples"),
    ):
        with pytest.raises(UserError, match=fault):
            page.read_sound(tmp_path / name)


def test_pictures_are_shrunk(tmp_path):
    image = np.tile(np.linspace(0, 1, 3200)[None, :, None], (40, 1, 3))
    imsave(tmp_path / "large.png", image)
    small = imread(io.BytesIO(page.shrink(tmp_path / "large.png")))
    assert small.shape[:2] == (20, 1600)
    assert np.allclose(small[10, :, 0], np.linspace(0, 1, 1600), atol=0.02)
    (tmp_path / "none.png").write_text("hello")
    with pytest.raises(UserError, match="none.png is not a picture"):
        page.shrink(tmp_path / "none.png")


def test_pages_escape_every_text():
    text = '</script> "a" <b> {{ 7 * 7 }}'
    html = page.render("listening.html", title=text, content={"send": text})
    assert html.count(
        "<title>&lt;/script&gt; &#34;a&#34; &lt;b&gt; {{ 7 * 7 }}</title>"
    )
    (data,) = re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert json.loads(data) == {"send": text}
