"""Record the attention maps of one utterance in its synthesis, and draw them."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from espnet_prune.attention import AttentionMaps, record_attention
from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import plots, tables
from espnet_prune.speech.reference import read_speaker
from espnet_prune.speech.synthesis import Text2Speech

# Block-sparse attention of GPUs computes whole tiles of these sizes.
TILES = (16, 32, 64)


def read_utterance(data_dir: Path, key: str | None = None) -> tuple[str, str, str]:
    """Return name, text and reference of an utterance, by default the first one."""
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
    """Synthesise one utterance and keep the attention of the decoder."""
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
    """Return the attention that was recorded in a model, with a title about it."""
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

    The folder gets ``attention_KEY.png`` and, if a model has hard masks, the table of
    tiles, ``attention_KEY.md`` and ``.csv``.
    """
    key, text, _ = read_utterance(data_dir, key)
    panels = [
        record_panel(experiment, inference_model, data_dir, key, spembs)
        for experiment in experiments
    ]
    title = f"{key}: {textwrap.shorten(text, 80, placeholder=' ...')}"
    figure = plots.plot_attention(panels, title)
    path = Path(output_dir) / f"attention_{key.replace('/', '_')}.png"
    plots.save(figure, path)
    rows = count_tiles(panels)
    if rows:
        tables.write_csv(path.with_suffix(".csv"), rows)
        tables.write_text(path.with_suffix(".md"), tabulate_tiles(rows))
    return path, panels


def empty_tiles(mask: torch.Tensor, size: int) -> float:
    """Return the share of tiles of a mask (..., T, T) that have no kept connection.

    Only these tiles can be skipped by block-sparse attention, so this share limits what
    pruning can save in time. Tiles at the edges may be smaller than ``size``.
    """
    rest = -mask.size(-1) % size
    tiles = F.pad(mask, (0, rest, 0, rest)).unfold(-2, size, size)
    occupied = tiles.unfold(-2, size, size).flatten(-2).any(-1)
    return float((~occupied).float().mean())


def count_tiles(panels: Sequence[plots.AttentionPanel]) -> list[dict[str, Any]]:
    """Return a row for each layer with a hard mask: its kept share and empty tiles."""
    rows = []
    for panel in panels:
        for number, layer in enumerate(panel.layers, 1):
            if layer.mask.dtype != torch.bool or layer.mask.all():
                continue
            row = {"model": panel.title, "frames": layer.mask.size(-1), "layer": number}
            row["kept_share"] = float(layer.mask.float().mean())
            for size in TILES:
                row[f"empty_{size}"] = empty_tiles(layer.mask, size)
            rows.append(row)
    return rows


def tabulate_tiles(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of ``count_tiles`` as a Markdown table."""
    columns = [*tables.named("model", "frames", "layer")]
    columns.append(tables.Column("kept_share", "kept share", tables.percent))
    for size in TILES:
        heading = f"empty tiles of {size} x {size}"
        columns.append(tables.Column(f"empty_{size}", heading, tables.percent))
    return tables.markdown(rows, columns)


def describe(panel: plots.AttentionPanel) -> str:
    """Return a line with a model, the frames of its speech, and its thresholds."""
    frames = panel.layers[0].dense.size(-1)
    thresholds = " ".join(
        tables.NOT_THERE if each is None else tables.number(each)
        for each in panel.thresholds
    )
    return f"{panel.title}, N = {frames} frames, thresholds of the layers: {thresholds}"
