"""Pieces of pages: sound, pictures, and the Markdown of this package's tables."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread, imsave
from tiny_experiment import voice

from espnet_prune import UserError
from espnet_prune.evaluation import page


def content(text):
    media, data = re.search(r'src="data:([\w/]+);base64,([^"]+)"', text).groups()
    return media, io.BytesIO(base64.b64decode(data))


@pytest.mark.parametrize("fs, kind", [(22050, "audio/mpeg"), (22051, "audio/flac")])
def test_recordings_are_embedded_in_what_browsers_play(tmp_path, fs, kind):
    wave = voice(0.5, fs)
    stereo = np.stack([0.5 * wave, 1.5 * wave], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo, fs)
    text = page.player(tmp_path / "x.wav", 'a "label" <b>')
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in text
    media, file = content(text)
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
        ("nan.wav", "nan.wav has samples that are NaN or infinite; make it again"),
        ("inf.wav", "inf.wav has samples that are NaN or infinite; make it again"),
        ("text.wav", "cannot read .*text.wav as audio"),
        ("none.wav", "cannot read .*none.wav as audio"),
        ("empty.wav", "empty.wav holds no samples"),
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
    with pytest.raises(UserError, match="none.png is no picture"):
        page.shrink(tmp_path / "none.png")


def test_markdown_becomes_html():
    text = (
        "# Scores on <data>\n\n| system |  cer |\n| -----: | ---: |\n| a & b | 1.0 |\n"
        "\nDifferences:\n\n- one\nof two lines\n- two\n\nEnd,\nindeed.\n"
    )
    html = page.from_markdown(text)
    assert "<h3>Scores on &lt;data&gt;</h3>" in html
    assert "<th>system</th><th>cer</th>" in html
    assert "<td>a &amp; b</td><td>1.0</td>" in html and "---" not in html
    assert "<li>one\nof two lines</li><li>two</li>" in html
    assert "<p>End,<br>\nindeed.</p>" in html
    # a table may be followed by text at once
    assert page.from_markdown("| a |\n| -: |\n| 1 |\ntext").endswith("<p>text</p>\n")


def test_whole_page_escapes_its_title():
    assert "<title>a &lt;b&gt;</title>" in page.whole("a <b>", "")
