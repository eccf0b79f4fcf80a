"""Figures of training and of attention, for a screen and for a paper.

Every function returns a new figure; ``save`` writes it as PNG. Rows are those of
``history``.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from espnet_prune import keys
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.history import Row, decoder_layers
from espnet_prune.files import replace_when_written

if TYPE_CHECKING:  # these imports load torch and ESPnet
    import torch

    from espnet_prune.attention import AttentionMaps

DPI = 200
MAX_PIXELS = 4000  # on either side of a PNG; viewers cannot open larger ones
MAX_CELLS = 256  # on either side of one attention map, about its size in pixels
CHARACTERS_PER_HEAD = 18  # length of a line of a title above the maps of a band
HEADS_PER_BAND = 8  # attention maps next to each other in one line

# Okabe and Ito's colours, which colour-blind readers can distinguish too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
MARKERS = "osD^vP"
TIME = "training step"
LAYER_LABELS = {
    keys.THRESHOLD: "threshold (multiples of 1/N)",
    keys.KEPT_SHARE: "kept share of connections (hard mask)",
    keys.KEPT_MASS: "kept attention mass (hard mask)",
    keys.SOFT_MEAN: "mean of the soft mask",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}


class AttentionPanel(NamedTuple):
    """The attention of one model in the synthesis of one utterance."""

    title: str  # name of the model
    layers: "Sequence[AttentionMaps]"  # decoder layers, for one utterance
    thresholds: Sequence[float | None]  # one for each layer; None for a dense one


def style_of(number: int) -> dict[str, Any]:
    """Return colour and marker of line ``number`` of a figure."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def plot_layers(
    rows: Sequence[Row], *names: str, target: float | None = None
) -> Figure:
    """Draw statistics of every decoder layer against time, a panel for each.

    Args:
        rows: Statistics by epoch; those of the validation set are drawn.
        names: Keys of ``LAYER_LABELS``. Kept share and kept mass are those of the hard
            mask, also in phase 1, where they show the effect of the switch.
        target: R, a level line beside the means of the soft mask.
    """
    with styled_figure(3.0 + 3.0 * len(names), 3.4) as figure:
        grid = figure.subplots(1, len(names), sharex=True, squeeze=False)[0]
        for ax, name in zip(grid, names, strict=True):
            for number, layer in enumerate(decoder_layers(rows)):
                key = keys.of_layer(name, layer)
                _draw(ax, rows, "valid", key, number, str(layer))
            _mark_phases(ax, rows)
            if name in (keys.KEPT_SHARE, keys.KEPT_MASS):
                show_shares(ax)
            if target is not None:
                ax.axhline(target, color="0.2", linewidth=1)
                where = ("axes fraction", "data")
                ax.annotate(
                    f" R = {target:g}", (1, target), xycoords=where, va="center"
                )
            ax.set(xlabel=TIME, ylabel=LAYER_LABELS[name])
        grid[0].legend(title="decoder layer", ncols=2)
    return figure


def plot_losses(rows: Sequence[Row]) -> Figure:
    """Draw every loss term, of training and validation, across the phase switch."""
    names = sorted(
        {name for row in rows for name in row if keys.is_loss(name)},
        key=lambda name: (name != keys.LOSS, name != keys.MEL_LOSS, name),
    )
    with panels(len(names), 3, 3.3, 2.5, sharex=True) as (figure, grid, panel):
        for ax, name in zip(panel, names, strict=True):
            for number, split in enumerate(("train", "valid")):
                _draw(ax, rows, split, name, number, label=split)
            _mark_phases(ax, rows, label=False)
            ax.set_title("total loss" if name == keys.LOSS else name.replace("_", " "))
        for column in grid.T:
            below = [ax for ax in column if ax.figure is not None]
            below[-1].set_xlabel(TIME)
            below[-1].tick_params(labelbottom=True)
        panel[0].legend()
    return figure


def plot_models(models: Mapping[str, Sequence[Row]], name: str) -> Figure:
    """Draw one statistic of the validation set, one line per model."""
    with styled_figure(9.0, 3.4) as figure:
        ax = figure.subplots()
        for number, (label, rows) in enumerate(models.items()):
            _draw(ax, rows, "valid", name, number, label=_plain(label))
        ax.set_xlabel(TIME)
        ax.set_ylabel(f"{name.replace('_', ' ')} (validation)")
        figure.legend(loc="outside lower center", fontsize=8)
    return figure


def plot_attention(panels: Sequence[AttentionPanel], title: str) -> Figure:
    """Draw attention maps before and after the mask, like figure 3 of the paper.

    Columns are the heads of the decoder layers; several models are drawn below each
    other. With a hard mask, the rows are the probabilities before and after it, and
    pruned weights are white. A soft mask prunes nothing to zero; it gets its own row.
    Weights are shown as multiples of 1/N, the unit of thresholds, on one logarithmic
    scale for the whole figure.
    """
    bands = [band for panel in panels for band in _bands(panel)]
    heads = max(len(band.columns) for band in bands)
    heights = [1.1 + 1.55 * len(band.rows) for band in bands]
    weights = _scale_of([maps.dense for panel in panels for maps in panel.layers])
    with styled_figure(1.4 + 1.5 * heads, 0.3 + sum(heights)) as figure:
        # The head is a separate part, because the layout reserves no space for a title
        # above nested parts.
        ratios = [0.3, *heights]
        head, *parts = figure.subfigures(
            len(ratios), squeeze=False, height_ratios=ratios
        )[:, 0]
        head.suptitle(_plain(title), fontsize=11)
        for part, band in zip(parts, bands, strict=True):
            _draw_band(part, band, weights, heads)
    return figure


def plot_head(panel: AttentionPanel, layer: int, head: int, masked: bool) -> Figure:
    """Draw the attention map of one head, before or after the mask.

    Layers and heads are numbered from 1.
    """
    maps, threshold = panel.layers[layer - 1], panel.thresholds[layer - 1]
    name = _rows_of(panel)[-1] if masked else "dense"
    title = f"before the mask\nlayer {layer}, head {head}"
    if masked:
        soft = maps.mask.dtype.is_floating_point
        row = "soft mask" if soft else "pruned"
        title = f"after the mask\n{_describe_mask(maps, head - 1, row)}"
        if threshold is not None:
            title += f", threshold {tables.number(threshold)}"
    with styled_figure(3.6, 3.2) as figure:
        ax = figure.subplots()
        weights = _scale_of([maps.dense[:, head - 1]])
        image = _draw_map(ax, maps, head - 1, name, weights)
        ax.set(title=title, xlabel="key frame", ylabel="query frame")
        figure.colorbar(image, ax=ax).set_label("weight x N", fontsize=8)
    return figure


def plot_mel(mel: np.ndarray, frames_per_second: float) -> Figure:
    """Draw a mel spectrogram, log10 of the mel amplitude (T, n_mels)."""
    with styled_figure(5.4, 2.4) as figure:
        ax = figure.subplots()
        image = ax.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, len(mel) / frames_per_second, 0, mel.shape[1]),
        )
        ax.grid(False)
        ax.set(xlabel="seconds", ylabel="mel band", title="mel spectrogram")
        figure.colorbar(image, ax=ax).set_label("log10 amplitude", fontsize=8)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG with at most ``MAX_PIXELS`` on either side."""
    dpi = min(DPI, *(MAX_PIXELS / inches for inches in figure.get_size_inches()))
    with replace_when_written(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)


def to_png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as PNG with ``dpi`` dots per inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


@contextlib.contextmanager
def styled_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of this size in inches, in the style of this module."""
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


@contextlib.contextmanager
def panels(
    number: int, columns: int, width: float, height: float, **options: Any
) -> Iterator[tuple[Figure, np.ndarray, list[Axes]]]:
    """Yield a figure of equal panels, its grid, and a flat list of the panels.

    At most ``columns`` panels stand next to each other, each of this width and height
    in inches.
    """
    columns = min(columns, number)
    lines = -(-number // columns)
    with styled_figure(1.0 + width * columns, 0.9 + height * lines) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, **options)
        for ax in grid.flat[number:]:
            ax.remove()
        yield figure, grid, list(grid.flat[:number])


def show_shares(ax: Axes) -> None:
    """Give the vertical axis percentages from 0 to 100."""
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw(
    ax: Axes,
    rows: Sequence[Row],
    split: str,
    name: str,
    number: int,
    label: str | None,
) -> None:
    """Draw one statistic as line ``number`` of its axes, broken between phases."""
    colour = COLOURS[number % len(COLOURS)]
    for phase in sorted({row["phase"] for row in rows}, key=lambda p: p or 0):
        points = [
            (row["step"], row[name])
            for row in rows
            if row["phase"] == phase and row["split"] == split and name in row
        ]
        if not points:
            continue
        ax.plot(
            *zip(*points, strict=True),
            color=colour,
            # lines on top of each other are both visible
            linestyle=DASHES[number % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)] if len(points) <= 30 else None,
            label=label,
        )
        label = None  # one entry in the legend for both phases
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _mark_phases(ax: Axes, rows: Sequence[Row], label: bool = True) -> None:
    """Mark the switch from soft to hard masks, if there is one."""
    if {1, 2} - {row["phase"] for row in rows}:
        return
    switch = max(row["step"] for row in rows if row["phase"] == 1)
    ax.axvline(switch, color="0.4", linewidth=1, linestyle=":")
    if label:
        for text, side in (
            ("phase 1: soft mask ", "right"),
            (" phase 2: hard", "left"),
        ):
            ax.annotate(
                text,
                (switch, 1.0),
                xycoords=("data", "axes fraction"),
                ha=side,
                va="bottom",
                color="0.3",
                fontsize=8,
            )


class _Band(NamedTuple):
    """Decoder layers that are drawn next to each other."""

    title: str
    # for each map: number of its layer, its head from 0, its maps, its threshold
    columns: "list[tuple[int, int, AttentionMaps, float | None]]"
    rows: Sequence[str]  # "dense", "soft mask", "masked", "pruned"


def _rows_of(panel: AttentionPanel) -> tuple[str, ...]:
    """Return the titles of the rows in which the maps of a model are drawn."""
    if panel.thresholds[0] is None:
        return ("dense",)
    if panel.layers[0].mask.dtype.is_floating_point:
        return ("dense", "soft mask", "masked")
    return ("dense", "pruned")


def _bands(panel: AttentionPanel) -> Iterator[_Band]:
    """Split the layers of a model so that each line of figures stays legible."""
    frames, heads = panel.layers[0].dense.size(-1), panel.layers[0].dense.size(1)
    title = f"{panel.title}, N = {frames} frames"
    cells = _block(frames)
    if cells > 1:
        title += f" (a dot is the mean of {cells} x {cells} weights)"
    columns = [
        (number, head, maps, threshold)
        for number, (maps, threshold) in enumerate(
            zip(panel.layers, panel.thresholds, strict=True), 1
        )
        for head in range(heads)
    ]
    size = heads * max(1, HEADS_PER_BAND // heads)
    for start in range(0, len(columns), size):
        yield _Band(title, columns[start : start + size], _rows_of(panel))
        title = f"{panel.title}, continued"


def _scale_of(maps: "Sequence[torch.Tensor]") -> Normalize:
    """Return the logarithmic scale of the weights x N of maps (..., T, T)."""
    largest = max(float(each.max()) * each.size(-1) for each in maps)
    return LogNorm(0.1, max(10.0, largest))


def _draw_band(part: SubFigure, band: _Band, weights: Normalize, heads: int) -> None:
    """Draw the layers of one band in the first columns of ``heads``."""
    # Names of experiments are long, and a figure may be one head wide.
    title = textwrap.fill(band.title, CHARACTERS_PER_HEAD * heads)
    part.suptitle(_plain(title), fontsize=10)
    grid = part.subplots(len(band.rows), heads, squeeze=False)
    for ax in grid[:, len(band.columns) :].flat:
        ax.remove()
    grid = grid[:, : len(band.columns)]
    for line, name in zip(grid, band.rows, strict=True):
        for ax, column in zip(line, band.columns, strict=True):
            number, head, maps, threshold = column
            image = _draw_map(ax, maps, head, name, weights)
            if ax is not line[0]:
                ax.tick_params(labelleft=False)
            if name == "dense":
                heading = f"layer {number}, head {head + 1}"
                if threshold is not None:
                    heading += f"\nthreshold {tables.number(threshold)}"
                ax.set_title(heading)
            elif name != "masked":
                ax.set_title(_describe_mask(maps, head, name))
        line[0].set_ylabel(f"{name}\nquery frame")
        bar = part.colorbar(image, ax=list(line), pad=0.01, aspect=14)
        bar.set_label("mask" if name == "soft mask" else "weight x N", fontsize=8)
    for ax in grid[:-1].flat:
        ax.tick_params(labelbottom=False)
    for ax in grid[-1]:
        ax.set_xlabel("key frame")


def _describe_mask(maps: "AttentionMaps", head: int, name: str) -> str:
    """Return how much the mask of one head keeps; ``name`` is its row."""
    mean = float(_of_head(maps.mask, head).mean())
    return f"mean {mean:.2g}" if name == "soft mask" else f"{tables.percent(mean)} kept"


def _draw_map(
    ax: Axes, maps: "AttentionMaps", head: int, name: str, weights: Normalize
) -> AxesImage:
    """Draw the map of one head in the row ``name``: a line per query, zeros white.

    If several weights share a dot, its colour is the mean of the nonzero ones. The
    fewer they are, the paler the dot, so that a sparse map looks sparse.
    """
    dense, mask = _of_head(maps.dense, head), _of_head(maps.mask, head)
    frames, soft = len(dense), name == "soft mask"
    values = mask if soft else frames * (dense if name == "dense" else dense * mask)
    shown = values != 0 if name == "pruned" else values.new_ones(frames, frames)
    there = _shrink(shown.float())
    dots = _shrink(values) / np.where(there > 0, there, 1)
    side = len(dots) * _block(frames)
    image = ax.imshow(
        dots if soft else np.maximum(dots, weights.vmin or 0.0),
        norm=Normalize(0.0, 1.0) if soft else weights,
        cmap="gray" if soft else "viridis",
        alpha=np.sqrt(there),
        extent=(0, side, side, 0),
        interpolation="nearest",
    )
    ax.set(xlim=(0, frames), ylim=(frames, 0))
    for each in (ax.xaxis, ax.yaxis):
        each.set_major_locator(MaxNLocator(3, integer=True))
    ax.grid(False)
    ax.spines[:].set_visible(True)
    return image


def _plain(text: str) -> str:
    """Escape a text, so that matplotlib does not read formulas in it."""
    return text.replace("$", r"\$")


def _of_head(values: "torch.Tensor", head: int) -> "torch.Tensor":
    """Take the map (T, T) of a head from (1, H, T, T), or the shared (1, 1, T, T)."""
    return values[0, head if values.size(1) > 1 else 0].detach().float().cpu()


def _block(frames: int) -> int:
    """Return how many frames share one cell on either side of a map."""
    return -(-frames // MAX_CELLS)


def _shrink(values: "torch.Tensor") -> np.ndarray:
    """Shrink a map (T, T) to the means of blocks; blocks at the edges are smaller."""
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(values[None], _block(len(values)), ceil_mode=True)[0].numpy()
