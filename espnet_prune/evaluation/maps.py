"""Record the attention maps of one utterance in its synthesis, and draw them."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_prune.attention import AttentionMaps, record_attention
from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import plots, tables
from espnet_prune.speech.reference import read_speaker
from espnet_prune.speech.synthesis import Text2Speech


def read_utterance(data_dir: Path, key: str | None = None) -> tuple[str, str, str]:
    """Return one utterance of a Kaldi folder.

    Args:
        data_dir: Folder with ``text`` and ``wav.scp``.
        key: Name of the utterance (default: the first one).

    Returns:
        Name, text and file of the reference.

    Raises:
        UserError: A file or the utterance is missing.

    """
    texts = read_columns(data_dir / "text")
    references = read_columns(data_dir / "wav.scp")
    both = [name for name in texts if name in references]
    if not both or (key is not None and key not in both):
        raise UserError(
            f"{data_dir} lacks text or wav.scp of {key or 'any utterance'}; "
            "choose another --key or --data_dir"
        )
    key = both[0] if key is None else key
    return key, texts[key], references[key]


def record_panel(
    experiment: Path,
    inference_model: str,
    data_dir: Path,
    key: str,
    spembs: Path | None = None,
) -> plots.AttentionPanel:
    """Synthesise one utterance and keep the attention of the decoder.

    Args:
        experiment: Folder of the model.
        inference_model: Weights in this folder.
        data_dir: Kaldi folder with text and reference.
        key: Name of the utterance.
        spembs: scp file of speaker embeddings, if the model uses them.

    Raises:
        UserError: See ``Text2Speech`` and ``read_speaker``.

    """
    text2speech = Text2Speech.from_pretrained(experiment, model_file=inference_model)
    text2speech.vocoder = None  # the mel is enough
    _, text, reference = read_utterance(data_dir, key)
    voice: dict[str, Any] = read_speaker(text2speech, data_dir, key, spembs)
    if text2speech.use_speech:
        voice["speech"] = reference
    tokens = text2speech.tokenize(text, max_characters=None)  # one map, not parts
    with record_attention(text2speech.tts.decoder) as layers:
        text2speech(tokens, **voice)
    return make_panel(experiment.name, text2speech, layers)


def make_panel(
    name: str, text2speech: Text2Speech, layers: Sequence[AttentionMaps]
) -> plots.AttentionPanel:
    """Name the pruning of a model, for the attention that was recorded from it.

    Args:
        name: Name of the model, for the title.
        text2speech: The model.
        layers: Maps of its decoder, from ``record_attention``.

    """
    attentions = text2speech.tts.decoder_attentions
    first = attentions[0]
    if first.pruning == "none":
        return plots.AttentionPanel(f"{name}: dense", layers, [None] * len(layers))
    if first.pruning == "vanilla":
        what = "vanilla pruning"
    else:
        what = f"phase {first.pruning_conf.phase}"
    kind = first.pruning_conf.synthesis_mask(first.pruning)
    return plots.AttentionPanel(
        f"{name}: {what}, {kind} mask",
        layers,
        [attention.threshold.item() for attention in attentions],
    )


def draw(
    experiments: Sequence[Path],
    inference_model: str,
    data_dir: Path,
    output_dir: str | Path,
    key: str | None = None,
    spembs: Path | None = None,
) -> tuple[Path, list[plots.AttentionPanel]]:
    """Synthesise an utterance with every model, and draw all of them in one figure.

    Args:
        experiments: Folders of the models.
        inference_model: Weights in each folder.
        data_dir: Kaldi folder, see ``read_utterance``.
        output_dir: Folder of ``attention_KEY.png``.
        key: Utterance of the data (default: the first one).
        spembs: scp file of speaker embeddings, if models use them.

    Returns:
        The file and its content.

    Raises:
        UserError: See ``read_utterance`` and ``record_panel``.

    """
    key, text, _ = read_utterance(data_dir, key)
    panels = [
        record_panel(experiment, inference_model, data_dir, key, spembs)
        for experiment in experiments
    ]
    title = f"{key}: {textwrap.shorten(text, 80, placeholder=' ...')}"
    figure = plots.plot_attention(panels, title)
    folder = tables.make_output_dir(output_dir)
    path = folder / f"attention_{key.replace('/', '_')}.png"
    plots.save(figure, path)
    return path, panels


def describe(panel: plots.AttentionPanel) -> str:
    """Return a line with a model, the frames of its speech, and its thresholds."""
    frames = panel.layers[0].dense.size(-1)
    thresholds = " ".join(
        tables.NOT_THERE if each is None else tables.number(each)
        for each in panel.thresholds
    )
    return f"{panel.title}, N = {frames} frames, thresholds of the layers: {thresholds}"
