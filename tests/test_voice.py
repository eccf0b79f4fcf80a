"""Voice files: what they hold, and which of them are refused."""

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from espnet_prune import __version__
from espnet_prune.errors import UserError
from espnet_prune.files import digest
from espnet_prune.speech.voice import load_voice, save_voice

STYLE = torch.tensor([0.1, -2.0, 3e-8])


def refused(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


def test_a_voice_comes_back_with_its_facts(tmp_path):
    save_voice(tmp_path / "me.voice", STYLE, "abc", "Näme,\nwith consent")
    found = load_voice(tmp_path / "me.voice", "abc")
    assert torch.equal(found.style_vector, STYLE)
    assert found[1:] == ("abc", "Näme,\nwith consent", __version__)
    assert [file.name for file in tmp_path.iterdir()] == ["me.voice"]
    with safetensors.safe_open(tmp_path / "me.voice", "np") as file:
        assert list(file.keys()) == ["style_vector"]  # others can read it
    save_voice(tmp_path / "me.voice", STYLE.double().requires_grad_(), "abc")
    assert load_voice(str(tmp_path / "me.voice")).style_vector.dtype == torch.float32


def test_another_model_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    first, second = (digest(tmp_path / name) for name in "ab")
    assert first != second
    save_voice(tmp_path / "me.voice", STYLE, first)
    assert "belongs to another model" in refused(
        load_voice, tmp_path / "me.voice", second
    )


@pytest.mark.parametrize(
    "style", [STYLE[None], torch.tensor(1.0), torch.tensor([1.0, float("nan")])]
)
def test_what_is_no_style_vector_is_not_written(tmp_path, style):
    assert "a style vector should" in refused(
        save_voice, tmp_path / "me.voice", style, "abc"
    )
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "me.voice", tmp_path):
        assert "cannot be written" in refused(save_voice, place, STYLE, "abc")


def test_broken_voices(tmp_path):
    path = tmp_path / "me.voice"
    assert "is missing" in refused(load_voice, path)
    save_voice(path, STYLE, "abc")
    whole = path.read_bytes()
    facts = {"model": "abc"}
    flipped = bytearray(whole)
    flipped[-3] ^= 1  # a number is another one
    for content in (
        b"",
        b"junk" * 20,
        whole[:-1],
        bytes(flipped),
        whole + bytes(2**21),
        safetensors.torch.save({"other": STYLE}, facts),
        safetensors.torch.save({"style_vector": STYLE[None]}, facts),
        safetensors.torch.save({"style_vector": STYLE[:0]}, facts),
        safetensors.torch.save({"style_vector": STYLE.bool()}, facts),
        safetensors.torch.save({"style_vector": STYLE.double() + 1e300}, facts),
        safetensors.torch.save({"style_vector": STYLE / 0}, facts),
        safetensors.torch.save({"style_vector": STYLE}),
    ):
        path.write_bytes(content)
        assert "me.voice is not a voice file" in refused(load_voice, path)


@pytest.mark.parametrize("note", [Path("ann"), "an\udcff"])
def test_notes_that_are_no_text(tmp_path, note):
    message = refused(save_voice, tmp_path / "me.voice", STYLE, "abc", note)
    assert "the note" in message
    assert not list(tmp_path.iterdir())
