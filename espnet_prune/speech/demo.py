"""A web page to speak with a model: ``espnet-prune demo``, or a Hugging Face Space.

The ``app.py`` of a Space, as ESPnet's spaces have it, is

    from espnet_prune.speech.demo import serve

    serve("english_small")

``Actions`` are what its buttons do. ``build_demo`` lays out the page with Gradio, which
is in the extra ``demo`` of this package.
"""

import contextlib
import html
import io
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import PIL.Image
import torch
from matplotlib.figure import Figure

from espnet_prune.attention import AttentionMaps, record_attention, without_masks
from espnet_prune.errors import UserError, first_line
from espnet_prune.evaluation import maps, page, plots
from espnet_prune.speech.audio import write_speech
from espnet_prune.speech.pretrained import DEFAULT_MODEL, VOICE_SUFFIX, default_vocoder
from espnet_prune.speech.synthesis import Output, Text2Speech
from espnet_prune.speech.vocoder import (
    GRIFFIN_LIM,
    describe_features,
    list_vocoders,
    open_vocoder,
)
from espnet_prune.speech.voice import save_voice

MAX_TEXT = 5000  # characters
MAX_UPLOAD = "50mb"
SPEEDS = (0.5, 2.0)
PICTURE_DPI = 150
# Files of the page are removed when they are a day old.
DELETE_AFTER = (3600, 86400)
SHIPPED, RECORDED, SAVED = "shipped", "recorded", "saved"
SOURCES = {
    SHIPPED: "A voice of the model",
    RECORDED: "A recording",
    SAVED: "A saved voice",
}
ASKED = {
    SHIPPED: "choose a voice of the model",
    RECORDED: "upload a recording, or record yourself with the microphone",
    SAVED: "choose a .voice file",
}


def _halve(layer: AttentionMaps) -> AttentionMaps:
    """Keep the maps of a layer in less memory."""
    mask = layer.mask
    if mask.dtype.is_floating_point:
        mask = mask.half()
    # `pruned` is their product, and no picture needs it
    dense = layer.dense.half().cpu()
    return AttentionMaps(dense, mask.cpu(), dense)


@contextlib.contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect the warnings that this thread logs within the context."""
    found: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                found.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logging.getLogger().addHandler(collector)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(collector)


def _show(figure: Figure | None) -> dict[str, Any]:
    """Show a picture of the page, or hide it if there is none."""
    if figure is None:
        return gr.update(value=None, visible=False)
    png = plots.to_png(figure, PICTURE_DPI)
    # Gradio stores it too, and would end with a traceback on a full disk
    with tempfile.TemporaryFile() as file:
        file.write(png)
    return gr.update(value=PIL.Image.open(io.BytesIO(png)), visible=True)


# --------------------------------------------------------------------------- the page

# Plays the sentences of a text one after the other, as they arrive. The value of the
# component is the number of a click on "Speak" and the sounds of its sentences so far.
PLAYER = """
const player = new Audio();
element.append(player);
let click = null, sounds = [], played = 0;
const next = () => {
    if (!player.paused && !player.ended) return;
    if (played >= sounds.length) return;
    player.src = sounds[played++];
    player.play().catch(() => {});
};
player.addEventListener("ended", next);
watch("value", () => {
    const value = props.value || {click: null, sounds: []};
    if (value.click !== click) {
        player.pause();
        player.removeAttribute("src");
        [click, played] = [value.click, 0];
    }
    sounds = value.sounds;
    next();
});
"""
STYLE = """
.gradio-container {
    width: 100%; max-width: 1200px !important; margin: 0 auto !important;
}
#message, #message > div { padding: 0 !important; }
.news, .error { padding: 0.6em 0.9em; border-radius: 8px; overflow-wrap: anywhere; }
.news { border: 1px solid var(--border-color-primary); }
.error { background: #fdecea; border: 1px solid #e7b3ad; }
.error p { color: #7a1a12 !important; }
.news p, .error p { margin: 0 !important; }
.news p + p { margin-top: 0.4em !important; }
footer { opacity: 0.7; }
"""


def _news(text: str, notes: Iterable[str] = ()) -> str:
    lines = [text, *(f"Note: {note}." for note in notes)]
    inside = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<div class="news" role="status">{inside}</div>'


def _error(error: UserError) -> str:
    text = str(error)
    if text.partition(" ")[0].isalpha():  # not the name of a file
        text = text[0].upper() + text[1:]
    return f'<div class="error" role="alert"><p>{html.escape(text)}.</p></div>'


def _not_stored(error: Exception) -> str:
    """Say that this machine has a fault; only its log says where."""
    logging.warning(f"the page cannot store a file: {first_line(error)}")
    return _error(
        UserError(
            "this machine cannot store the file: ask who runs this page to free disk "
            "space"
        )
    )


class ChosenVoice(NamedTuple):
    """The voice that a visitor chose."""

    source: str  # a key of ``SOURCES``, which says which of the others is meant
    shipped: str | None  # name of a voice of the model
    recording: str | None  # file of a recording
    saved: str | None  # a voice file

    @property
    def given(self) -> str:
        """The name of the voice, or its file."""
        for source, given in zip(SOURCES, self[1:], strict=True):
            if source == self.source and isinstance(given, str) and given:
                return given
        asked = ASKED.get(str(self.source), "choose its kind")
        raise UserError(f"no voice is given: {asked}")

    def read(self, model: Text2Speech) -> tuple[torch.Tensor, list[str]]:
        """Return the style vector (style_dim,), and warnings about the recording."""
        given = self.given
        if self.source == SHIPPED and given not in model.voices:
            # otherwise a visitor could read other files of this machine
            raise UserError(f"there is no voice {given}: {ASKED[SHIPPED]}")
        read = model.style_vector if self.source == RECORDED else model.read_voice
        with _collect_warnings() as notes:
            try:
                style = read(given)
            except UserError as error:
                raise UserError(self._shorten(str(error))) from error
        return style, [self._shorten(note) for note in notes]

    def _shorten(self, message: str) -> str:
        """Name a file as the visitor knows it, without the folder of the page."""
        return message.replace(self.given, Path(self.given).name)


class Actions:
    """What happens when a visitor clicks, for several visitors at the same time.

    Each yields the values of the components that change, by their names.

    Args:
        model: The model that speaks.
        vocoder: The name of its vocoder.

    Attributes:
        vocoders: Names that can be chosen.
        prunes: Whether the model prunes its attention.
    """

    def __init__(self, model: Text2Speech, vocoder: str = GRIFFIN_LIM):
        if not model.voice_from_reference or model.vocoder is None:
            raise UserError(
                "the page needs a model that speaks from a text and a voice alone: "
                "name another model"
            )
        self.model = model
        self.features = describe_features(model.feats_extract)
        self.vocoders = list_vocoders(self.features)
        if vocoder not in self.vocoders:
            self.vocoders.append(vocoder)
        self.prunes = model.tts.decoder_attentions[0].pruning != "none"
        self._opened: dict[str, Any] = {vocoder: model.vocoder}
        self._clicks = iter(range(1, 2**53))
        # masks and vocoder are states of the model
        self._lock = threading.Lock()

    def speak(
        self,
        text: str,
        source: str,
        shipped: str | None,
        recording: str | None,
        saved: str | None,
        speed: float,
        vocoder: str,
        masked: bool,
    ) -> Iterator[dict[str, Any]]:
        """Speak a text, sentence by sentence."""
        model = self.model
        click = next(self._clicks)
        sounds: list[str] = []
        outputs: list[Output] = []
        yield {
            "player": {"click": click, "sounds": []},
            "message": _news("Speaking ..."),
        }
        started = time.monotonic()
        try:
            style, notes = ChosenVoice(source, shipped, recording, saved).read(model)
            if isinstance(text, str) and len(text) > MAX_TEXT:
                raise UserError(
                    f"the text has {len(text)} characters: give at most {MAX_TEXT}"
                )
            with _collect_warnings() as doubts:
                parts = model.tokenize(text, by_sentence=True)
            notes += doubts
            for number, tokens in enumerate(parts, 1):
                output, panel = self._say(tokens, style, speed, vocoder, masked)
                outputs.append(output)
                sound = page.Sound(output["wav"].cpu().numpy(), model.fs)
                sounds = [*sounds, page.to_address(sound)]
                changes: dict[str, Any] = {"player": {"click": click, "sounds": sounds}}
                if number < len(parts):
                    ready = f"Sentence {number} of {len(parts)} is ready."
                    changes["message"] = _news(ready, notes)
                if number == 1:
                    changes |= {"panel": panel, "mel": self._draw_mel(output)}
                yield changes
        except UserError as error:
            yield {"message": _error(error)}
            return
        except OSError as error:
            yield {"message": _not_stored(error)}
            return
        joined = model.join(outputs)
        wave = joined["wav"].cpu().numpy()
        took = time.monotonic() - started
        done = f"{len(wave) / model.fs:.1f} s of speech, made in {took:.1f} s."
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "speech.wav"
                write_speech(file, wave, model.fs)
                # the page takes a copy of the file before this goes on
                yield {
                    "speech": str(file),
                    "message": _news(done, notes),
                    "mel": self._draw_mel(joined),
                }
        except OSError as error:
            yield {"message": _not_stored(error)}

    def _say(
        self,
        tokens: torch.Tensor,
        style: torch.Tensor,
        speed: float,
        vocoder: str,
        masked: bool,
    ) -> tuple[Output, plots.AttentionPanel]:
        """Speak one sentence; return what ``Text2Speech`` returns, and the attention.

        Args:
            tokens: One result of ``Text2Speech.tokenize`` (T_text,).
            style: The voice (style_dim,).
            speed: 2 speaks twice as fast.
            vocoder: One of ``vocoders``.
            masked: Whether the attention is pruned.
        """
        model = self.model
        if vocoder not in self.vocoders:
            names = ", ".join(self.vocoders)
            raise UserError(f"there is no vocoder {vocoder}: choose one of {names}")
        with self._lock, contextlib.ExitStack() as stack:
            if vocoder not in self._opened:
                self._opened[vocoder] = open_vocoder(
                    vocoder, self.features, model.device
                )
            model.vocoder = self._opened[vocoder]
            if not masked:
                stack.enter_context(without_masks(model.tts))
            layers = stack.enter_context(record_attention(model.tts.decoder))
            output = model([tokens], style_vector=style, speed=speed)
            panel = maps.make_panel("", model, layers)
        return output, panel._replace(layers=[_halve(layer) for layer in layers])

    def _draw_mel(self, output: Output) -> dict[str, Any]:
        """Draw the denormalised mel spectrogram of some speech."""
        mel = output.get("feat_gen_denorm", output["feat_gen"]).cpu().numpy()
        rate = self.features["fs"] / self.features["n_shift"]
        return _show(plots.plot_mel(mel, rate))

    def draw_attention(
        self, panel: plots.AttentionPanel | None, layer: int, head: int
    ) -> Iterator[dict[str, Any]]:
        """Draw one head, before and after the mask."""
        if panel is None:
            return
        after = None
        if panel.thresholds[0] is not None:
            after = plots.plot_head(panel, layer, head, masked=True)
        before = plots.plot_head(panel, layer, head, masked=False)
        yield {"before": _show(before), "after": _show(after)}

    def stop(self) -> Iterator[dict[str, Any]]:
        """Stop speaking and playing."""
        yield {
            "player": {"click": next(self._clicks), "sounds": []},
            "message": _news("Stopped."),
        }

    def save(
        self,
        source: str,
        shipped: str | None,
        recording: str | None,
        saved: str | None,
        note: str,
    ) -> Iterator[dict[str, Any]]:
        """Make a voice file of the chosen voice, to be downloaded."""
        voice = ChosenVoice(source, shipped, recording, saved)
        try:
            with tempfile.TemporaryDirectory() as folder:
                style, notes = voice.read(self.model)
                file = Path(folder) / f"{Path(voice.given).stem}{VOICE_SUFFIX}"
                save_voice(file, style, self.model.model_id, note)
                yield {
                    "made": gr.File(str(file), visible=True),
                    "message": _news("The voice is saved. Download its file.", notes),
                }
        except UserError as error:
            yield {"message": _error(error)}
        except OSError as error:
            yield {"message": _not_stored(error)}


def build_demo(
    model: str | Path | None = None,
    model_file: str | None = None,
    vocoder: str | None = None,
    device: str = "cpu",
) -> gr.Blocks:
    """Load a model and build its page.

    Args:
        model: As for ``Text2Speech.from_pretrained``.
        model_file: Other weights in an experiment folder.
        vocoder: The vocoder that is chosen at first.
        device: cpu, cuda or cuda:N.
    """
    vocoder = vocoder or default_vocoder(model)
    text2speech = Text2Speech.from_pretrained(
        model, model_file=model_file, vocoder=vocoder, device=device
    )
    name = Path(DEFAULT_MODEL if model is None else model).name
    return _lay_out(Actions(text2speech, vocoder), vocoder, f"Speak with {name}")


def _lay_out(actions: Actions, vocoder: str, title: str) -> gr.Blocks:
    """Lay out the page and connect its buttons to the actions."""
    voices = list(actions.model.voices)
    attentions = actions.model.tts.decoder_attentions
    sources = [source for source in SOURCES if voices or source != SHIPPED]
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=DELETE_AFTER
    ) as demo:
        gr.Markdown(
            f"# {title}\nType a text and choose a voice. Imitate people only with "
            "their consent."
        )
        with gr.Row():
            with gr.Column(min_width=320):
                text = gr.Textbox(
                    label="Text",
                    lines=4,
                    max_lines=12,
                    max_length=MAX_TEXT,
                    value="Hello there. This voice was made by a small model.",
                )
                source = gr.Radio(
                    [(SOURCES[each], each) for each in sources],
                    value=sources[0],
                    label="Voice",
                )
                shipped = gr.Dropdown(
                    voices,
                    value=voices[0] if voices else None,
                    label="Voice of the model",
                    visible=sources[0] == SHIPPED,
                )
                recording = gr.Audio(
                    label="Recording of 2 s or more",
                    type="filepath",
                    buttons=[],
                    visible=sources[0] == RECORDED,
                    elem_id="recording",
                )
                saved = gr.File(
                    label="Saved voice (.voice)",
                    file_types=[".voice"],
                    visible=False,
                    elem_id="saved",
                )
                with gr.Accordion("Save this voice", open=False):
                    note = gr.Textbox(
                        label="Note in the file",
                        placeholder="Whose voice it is, and that they agreed",
                    )
                    save = gr.Button("Save this voice", elem_id="save")
                    made = gr.File(label="Voice file", visible=False, elem_id="made")
                with gr.Row():
                    speed = gr.Slider(*SPEEDS, value=1.0, step=0.05, label="Speed")
                    chosen = gr.Dropdown(
                        actions.vocoders, value=vocoder, label="Vocoder"
                    )
                masked = gr.Checkbox(
                    value=actions.prunes,
                    label="Prune the attention (apply the mask)",
                    visible=actions.prunes,
                )
                with gr.Row():
                    speak = gr.Button(
                        "Speak", variant="primary", min_width=120, elem_id="speak"
                    )
                    stop = gr.Button("Stop", min_width=120, elem_id="stop")
                message = gr.HTML(_news("Ready."), elem_id="message")
            with gr.Column(min_width=320):
                speech = gr.Audio(
                    label="Speech",
                    interactive=False,
                    buttons=["download"],
                    elem_id="speech",
                )
                mel = _picture("Mel spectrogram of the speech", elem_id="mel")
                with gr.Accordion("Attention of the decoder", open=True):
                    with gr.Row():
                        layer = _numbers(len(attentions), "Layer")
                        head = _numbers(attentions[0].h, "Head")
                    with gr.Row():
                        before = _picture("Attention before the mask", elem_id="before")
                        after = _picture("Attention after the mask", elem_id="after")
        player = gr.HTML(html_template="", js_on_load=PLAYER, elem_id="player")
        panel = gr.State(time_to_live=3600)
        parts = {
            "message": message,
            "player": player,
            "speech": speech,
            "mel": mel,
            "panel": panel,
            "before": before,
            "after": after,
            "made": made,
        }

        def shown(*names: str) -> list[Any]:
            return [parts[name] for name in names]

        def named(call: Callable[..., Iterator[dict[str, Any]]]) -> Callable:
            """Let an action yield components in place of their names."""

            def changed(*values):
                for changes in call(*values):
                    yield {parts[name]: value for name, value in changes.items()}

            return changed

        source.change(
            lambda chosen: [
                gr.update(visible=chosen == each) for each in (SHIPPED, RECORDED, SAVED)
            ],
            source,
            [shipped, recording, saved],
            show_progress="hidden",
        )
        voice = [source, shipped, recording, saved]
        speaking = gr.on(
            [speak.click, text.submit],
            named(actions.speak),
            [text, *voice, speed, chosen, masked],
            shown("message", "player", "speech", "mel", "panel"),
            show_progress_on=speech,
            api_name="speak",
        )
        gr.on(
            [panel.change, layer.change, head.change],
            named(actions.draw_attention),
            [panel, layer, head],
            shown("before", "after"),
            show_progress="hidden",
            trigger_mode="always_last",
        )
        stop.click(
            named(actions.stop),
            None,
            shown("message", "player"),
            cancels=speaking,
            show_progress="hidden",
        )
        save.click(named(actions.save), [*voice, note], shown("message", "made"))
    return demo


def _picture(description: str, **options: Any) -> gr.Image:
    """Make a place for a picture, hidden at first, and with nothing that covers it."""
    return gr.Image(
        alt_text=description,
        show_label=False,
        interactive=False,
        buttons=[],
        visible=False,
        min_width=240,
        **options,
    )


def _numbers(number: int, label: str) -> gr.Radio:
    return gr.Radio(
        list(range(1, number + 1)),
        value=1,
        label=label,
        min_width=120,
        elem_id=label.lower(),
    )


def require_address(host: str | None, port: int | None) -> None:
    """Refuse an address at which this machine cannot serve, and any of IPv6.

    Gradio would try a hundred ports, several seconds each, and cannot serve IPv6.
    """
    host = host or "127.0.0.1"
    try:
        socket.create_server((host, port or 0)).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"the page cannot be served at {host}, port {port or 'any'} "
            f"({first_line(error)}): choose another --host or --port"
        ) from error


def serve(
    model: str | Path | None = None,
    model_file: str | None = None,
    vocoder: str | None = None,
    device: str = "cpu",
    **options: Any,
) -> Any:
    """Serve the page of a model until it is stopped.

    ``options`` are further arguments of Gradio's ``launch``, for instance
    ``server_name`` and ``server_port``; the others are those of ``build_demo``.
    """
    require_address(options.get("server_name"), options.get("server_port"))
    demo = build_demo(model, model_file, vocoder, device)
    # fonts of the system, so that the page needs no network
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    options = {
        "theme": theme,
        "css": STYLE,
        "max_file_size": MAX_UPLOAD,
        "footer_links": ["api", "gradio"],
        **options,
    }
    for tries_left in (1, 0):
        try:
            return demo.launch(**options)
        except (OSError, ValueError) as error:
            demo.close()
            # Gradio waits 3 s for its own page, which is slow at first
            if tries_left and isinstance(error, ValueError):
                continue
            raise UserError(
                f"the page cannot be served ({first_line(error)}): choose another "
                "--port, or correct the settings of the proxy"
            ) from error
    return None
