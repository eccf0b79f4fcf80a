"""The page that speaks: what it does, and how it looks in a real browser."""

import contextlib
import html
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from browser import Browser
from tiny_experiment import PRUNED, voice, write_recipe

from espnet_prune import UserError
from espnet_prune.cli.demo import main
from espnet_prune.speech.synthesis import Text2Speech
from espnet_prune.speech.voice import load_voice

pytest.importorskip("gradio", reason="Gradio is missing: pip install 'gradio>=6,<7'")

from espnet_prune.speech import demo

LONG = (
    "the first sentence is not short, it has a clause. the second one follows it at "
    "once. the third sentence makes the text longer than what is said in one breath. "
    "no. yes. the fourth sentence is the last one of them all."
)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make an experiment with two voices, and recordings, good and bad."""
    folder = tmp_path_factory.mktemp("demo")
    experiment = write_recipe(folder, tts_conf=PRUNED)
    model = Text2Speech.from_pretrained(experiment)
    (experiment / "voices").mkdir()
    for name, pitch in (("ann", 240.0), ("bob", 110.0)):
        model.save_voice(experiment / "voices" / f"{name}.voice", voice(pitch=pitch))
    soundfile.write(folder / "me.wav", voice(pitch=160.0), 16000)
    soundfile.write(folder / "short.wav", voice(seconds=1.0), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(32000), 16000)
    (folder / "bad.wav").write_text("this is no sound")
    other = Text2Speech.from_pretrained(write_recipe(folder, "tts_other", seed=1))
    other.save_voice(folder / "other.voice", voice())
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Text2Speech.from_pretrained(folder / "exp" / "tts_tiny")


@pytest.fixture(scope="module")
def actions(model):
    return demo.Actions(model)


def speak(actions, text="hello there", **choices):
    """Return all that a click on "Speak" changes, and the samples of the speech."""
    given = {
        "source": demo.SHIPPED,
        "shipped": "ann",
        "recording": None,
        "saved": None,
        "speed": 1.0,
        "vocoder": "griffin_lim",
        "masked": True,
        **choices,
    }
    changes, wave = [], None
    for change in actions.speak(text, **given):
        changes.append(change)
        if "speech" in change:
            wave, _ = soundfile.read(change["speech"], dtype="float32")
    return changes, wave


def words(change):
    """Return the text of the message that a change shows."""
    return html.unescape(re.sub("<[^>]*>", " ", change["message"])).strip()


# ------------------------------------------------------------------ what the page does


def test_a_text_is_spoken_as_everywhere(actions, model, folder):
    changes, wave = speak(actions)
    assert np.abs(wave - model("hello there", voice="ann")["wav"].numpy()).max() < 1e-4
    assert re.search(r"^[0-9.]+ s of speech, made in [0-9.]+ s\.$", words(changes[-1]))
    me = str(folder / "me.wav")
    _, wave = speak(actions, source=demo.RECORDED, recording=me, speed=0.5)
    wanted = model("hello there", speech=me, speed=0.5)["wav"].numpy()
    assert np.abs(wave - wanted).max() < 1e-4


def test_a_long_text_is_heard_sentence_by_sentence(actions, model):
    changes, wave = speak(actions, LONG)
    heard = [
        len(change["player"]["sounds"]) for change in changes if "player" in change
    ]
    # "no. yes." is one of them
    assert heard == [0, 1, 2, 3, 4, 5]
    assert words(changes[1]) == "Sentence 1 of 5 is ready."
    assert "mel" in changes[1] and "panel" in changes[1]
    parts = [
        len(model([part], voice="ann")["wav"])
        for part in model.tokenize(LONG, by_sentence=True)
    ]
    assert len(wave) == sum(parts) + 4 * round(0.2 * 16000)
    # sounds of the click before are not played again
    assert changes[0]["player"]["click"] != speak(actions)[0][0]["player"]["click"]


def test_attention_with_and_without_the_mask(actions):
    _, before = speak(actions)
    changes, dense = speak(actions, masked=False)
    panel = next(change["panel"] for change in changes if "panel" in change)
    assert not np.array_equal(dense, before)
    assert panel.thresholds == [None, None]
    (shown,) = actions.draw_attention(panel, 1, 1)
    assert shown["before"]["visible"] and not shown["after"]["visible"]
    # the mask is there again
    changes, again = speak(actions)
    assert np.array_equal(again, before)
    panel = next(change["panel"] for change in changes if "panel" in change)
    assert not panel.layers[0].mask.all()
    pictures = {}
    for layer, head in ((1, 1), (1, 2), (2, 1)):
        (shown,) = actions.draw_attention(panel, layer, head)
        assert shown["after"]["visible"]
        pictures[layer, head] = shown["before"]["value"].tobytes()
    assert len(set(pictures.values())) == 3
    assert list(actions.draw_attention(None, 1, 1)) == []


def test_a_voice_is_saved_and_speaks(actions, model, folder, tmp_path):
    me = str(folder / "me.wav")
    for change in actions.save(demo.RECORDED, None, me, None, "me, who agreed"):
        made = tmp_path / "me.voice"
        made.write_bytes(Path(change["made"].value["path"]).read_bytes())
    assert Path(change["made"].value["path"]).name == "me.voice"
    found = load_voice(made, model.model_id)
    assert found.note == "me, who agreed"
    assert torch.equal(found.style_vector, model.style_vector(me))
    _, spoken = speak(actions, source=demo.SAVED, saved=str(made))
    _, wanted = speak(actions, source=demo.RECORDED, recording=me)
    assert np.array_equal(spoken, wanted)


def test_a_note_that_no_file_can_have_is_said_on_the_page(actions):
    (change,) = actions.save(demo.SHIPPED, "ann", None, None, "me\x00")
    assert "control character" in words(change) and "made" not in change


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"text": " "}, "The text is empty: give a text to speak."),
        ({"text": "a" * 5001}, "The text has 5001 characters: give at most 5000"),
        ({"shipped": "other"}, "There is no voice other: choose a voice of the model"),
        ({"shipped": "/etc/me.voice"}, "There is no voice /etc/me.voice: choose a"),
        ({"vocoder": "/etc/g_1"}, "There is no vocoder /etc/g_1: choose one of gri"),
        ({"source": "x"}, "No voice is given: choose its kind."),
        ({"text": "!?"}, "The text '!?' gives no token"),
        ({"source": demo.RECORDED}, "No voice is given: upload a recording, or record"),
        ({"source": demo.SAVED}, "No voice is given: choose a .voice file."),
        ({"recording": "bad.wav"}, "bad.wav"),
        ({"recording": "silent.wav"}, "Reference silent.wav is silent"),
        ({"saved": "bad.wav"}, "bad.wav is not a voice file"),
        ({"saved": "other.voice"}, "The voice other.voice belongs to another model"),
        ({"speed": 0}, "Speed is 0: choose a number above 0"),
    ],
)
def test_what_cannot_be_spoken_is_said_on_the_page(actions, folder, choices, message):
    choices = dict(choices)
    for name, source in (("recording", demo.RECORDED), ("saved", demo.SAVED)):
        if name in choices:
            choices.update({name: str(folder / choices[name]), "source": source})
    changes, wave = speak(actions, **choices)
    assert wave is None
    assert message in words(changes[-1])
    assert 'role="alert"' in changes[-1]["message"]
    # visitors learn nothing of the folders of the machine
    assert str(folder) not in changes[-1]["message"]


def test_a_full_disk_is_said_on_the_page(actions, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    changes, wave = speak(actions)
    (change,) = actions.save(demo.SHIPPED, "ann", None, None, "me")
    for shown in (changes[-1], change):
        assert "This machine cannot store the file" in words(shown)
        assert "nowhere" not in shown["message"]
    assert wave is None
    # nothing that Gradio would have to store
    assert not any(each.get("mel", {}).get("value") for each in changes)


def test_doubts_about_a_recording_are_said(actions, folder):
    short = str(folder / "short.wav")
    changes, _ = speak(actions, "hello %", source=demo.RECORDED, recording=short)
    said = words(changes[-1])
    assert "Note: reference short.wav lasts 1.0 s: use a recording of 2 s" in said
    assert str(folder) not in said


def test_texts_are_not_read_as_html(actions):
    changes, _ = speak(actions, "<b>№№</b>")
    assert "<b>" not in changes[-1]["message"]


def test_gradio_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs Gradio: pip install "gradio>=6,<7"'):
        main([])


def test_a_model_that_needs_more_than_a_voice_has_no_page(folder):
    conf = {"use_gst": True, "spk_embed_dim": 3, "adim": 8, "aheads": 2}
    experiment = write_recipe(
        folder, "tts_spembs", tts="pruned_fastspeech2", tts_conf=conf
    )
    with pytest.raises(
        UserError, match="the page needs a model that speaks from a text"
    ):
        demo.build_demo(experiment)


@pytest.mark.parametrize(
    "address",
    [
        {"server_port": 99999},
        {"server_port": -3},
        {"server_name": "192.0.2.1"},  # belongs to documentation, to no machine
        {"server_name": "not a host"},
        {"server_name": "::1"},
    ],
)
def test_an_address_that_cannot_be_served_is_refused_at_once(address):
    with pytest.raises(UserError, match="choose another --host or --port"):
        demo.serve("no model", **address)


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*in use"):
            demo.serve("no model", server_port=port)


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def address(folder):
    app, address, _ = demo.serve(
        folder / "exp" / "tts_tiny", prevent_thread_lock=True, quiet=True
    )
    yield address
    app.get_blocks().close()


@pytest.fixture
def browser(tmp_path, address):
    browser = Browser(tmp_path / "browser")
    browser.page.goto(address)
    browser.page.wait_for_selector("#speak")
    yield browser
    browser.close()


def choose(browser, source):
    browser.page.get_by_label(demo.SOURCES[source], exact=True).check()


def wait_for(browser, text):
    with contextlib.suppress(Exception):
        browser.page.locator("#message", has_text=text).wait_for()
    assert text in browser.text("#message")


def faults(browser):
    """Return what went wrong on the page, without requests that it ended itself."""
    ended = ("blob:", "/queue/data")  # of the waveform, and of a message that came
    return [
        fault
        for fault in browser.faults
        if not any(part in getattr(fault, "url", "") for part in ended)
    ]


def test_a_visitor_speaks(browser):
    browser.page.get_by_label("Text", exact=True).fill(LONG)
    browser.click("#speak")
    wait_for(browser, "made in")
    browser.until("document.querySelector('#player audio').currentTime > 0")
    for picture in ("#mel", "#before", "#after"):
        browser.page.locator(f"{picture} img").wait_for()
    browser.page.locator("#speech").get_by_label("Download").wait_for()
    first = browser.page.locator("#before img").get_attribute("src")
    browser.page.locator("#layer").get_by_label("2").check()
    browser.until(f"document.querySelector('#before img').src !== '{first}'")
    browser.click("#stop")
    wait_for(browser, "Stopped.")
    assert browser.evaluate("document.querySelector('#player audio').paused")
    assert faults(browser) == []


def test_a_visitor_saves_a_voice_and_comes_back_with_it(browser, folder, model):
    choose(browser, demo.RECORDED)
    browser.page.locator("#recording input[type=file]").set_input_files(
        folder / "me.wav"
    )
    browser.page.locator("#recording audio, #recording canvas").first.wait_for(
        state="attached"
    )
    browser.page.get_by_text("Save this voice").first.click()
    browser.page.get_by_label("Note in the file").fill("mine")
    browser.click("#save")
    wait_for(browser, "The voice is saved.")
    browser.page.locator("#made a[download]").first.click()
    file = browser.downloaded("me.voice")
    assert load_voice(file, model.model_id).note == "mine"
    choose(browser, demo.SAVED)
    browser.page.locator("#saved input[type=file]").set_input_files(file)
    browser.page.locator("#saved a[download]").first.wait_for()
    browser.page.get_by_label("Text", exact=True).fill("hello again")
    browser.click("#speak")
    wait_for(browser, "made in")
    assert faults(browser) == []


def test_a_visitor_gives_a_bad_file_on_a_phone(browser, folder):
    browser.page.set_viewport_size(PHONE)
    choose(browser, demo.SAVED)
    bad = folder / "bad.voice"
    bad.write_text("this is no voice")
    browser.page.locator("#saved input[type=file]").set_input_files(bad)
    browser.page.locator("#saved a[download]").first.wait_for()
    browser.click("#speak")
    wait_for(browser, "bad.voice is not a voice file")
    assert browser.page.get_by_role("alert").is_visible()
    # nothing is cut off at the side
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for button in ("#speak", "#stop"):
        box = browser.page.locator(button).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
