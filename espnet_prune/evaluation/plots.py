"""Figures of training and of attention, for a screen and for a paper.

Every function returns a new figure; ``save`` writes it as PNG. Rows are those of
``history``.
"""

import contextlib
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from espnet_prune import keys
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.history import Row, decoder_layers
from espnet_prune.files import replace_when_written

if TYPE_CHECKING:  # this import loads torch and ESPnet
    from espnet_prune.attention import AttentionMaps

DPI = 200
MAX_PIXELS = 4000  # on either side of a PNG; viewers cannot open larger ones
MAX_CELLS = 256  # on either side of one attention map, about its size in pixels
CHARACTERS_PER_HEAD = 18  # of one line of a title above the maps of a band
HEADS_PER_BAND = 8  # attention maps next to each other in one line

# Okabe and Ito's colours, which colour-blind readers can distinguish too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
MARKERS = "osD^vP"
TIME = "training step"
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
    layers: "Sequence[AttentionMaps]"  # of the decoder, for a batch of one utterance
    thresholds: Sequence[float | None]  # of each layer; None for a dense one


def style_of(number: int) -> dict[str, Any]:
    """Return colour and marker of line ``number`` of a figure."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def plot_thresholds(rows: Sequence[Row]) -> Figure:
    """Draw the threshold of every decoder layer against time."""
    with styled_figure(6.0, 3.4) as figure:
        ax = figure.subplots()
        _draw_layers(ax, rows, keys.THRESHOLD)
        ax.set_ylabel("threshold (multiples of 1/N)")
        ax.legend(title="decoder layer", ncols=2)
    return figure


def plot_kept(rows: Sequence[Row]) -> Figure:
    """Draw kept share and kept mass of the hard mask, per decoder layer.

    Both are of the hard mask, also in phase 1, where they show the effect of the
    switch.
    """
    with styled_figure(9.0, 3.4) as figure:
        left, right = figure.subplots(1, 2, sharex=True)
        for ax, name, label in (
            (left, keys.KEPT_SHARE, "kept share of connections (hard mask)"),
            (right, keys.KEPT_MASS, "kept attention mass (hard mask)"),
        ):
            _draw_layers(ax, rows, name)
            ax.set_ylabel(label)
            ax.set_ylim(-0.03, 1.03)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        left.legend(title="decoder layer", ncols=2)
    return figure


def plot_soft_mean(rows: Sequence[Row], sparsity_ratio: float) -> Figure:
    """Draw the mean soft mask of every decoder layer against its target R."""
    with styled_figure(6.0, 3.4) as figure:
        ax = figure.subplots()
        _draw_layers(ax, rows, keys.SOFT_MEAN)
        ax.axhline(sparsity_ratio, color="0.2", linewidth=1)
        ax.annotate(
            f" R = {sparsity_ratio:g}",
            (1.0, sparsity_ratio),
            xycoords=("axes fraction", "data"),
            va="center",
            color="0.2",
        )
        ax.set_ylabel("mean of the soft mask")
        ax.legend(title="decoder layer", ncols=2)
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
    heads = max(sum(maps.dense.size(1) for _, maps in band.layers) for band in bands)
    heights = [1.1 + 1.55 * len(band.rows) for band in bands]
    largest = max(
        float(maps.dense.max()) * maps.dense.size(-1)
        for panel in panels
        for maps in panel.layers
    )
    weights = LogNorm(0.1, max(10.0, largest))
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
    before = _per_head(maps.dense, maps)[head - 1]
    mask = _per_head(maps.mask, maps)[head - 1]
    hard = not maps.mask.dtype.is_floating_point
    weights = LogNorm(0.1, max(10.0, float(before.max()) * len(before)))
    title = f"before the mask\nlayer {layer}, head {head}"
    if masked:
        mean = float(mask.mean())
        title = f"{tables.percent(mean)} kept" if hard else f"mean mask {mean:.2g}"
        title = f"after the mask\n{title}"
        if threshold is not None:
            title += f", threshold {tables.number(threshold)}"
    with styled_figure(3.6, 3.2) as figure:
        ax = figure.subplots()
        image = _draw_map(
            ax,
            before * mask if masked else before,
            "pruned" if masked and hard else "dense",
            weights,
        )
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


def _draw_layers(ax: Axes, rows: Sequence[Row], name: str) -> None:
    for number, layer in enumerate(decoder_layers(rows)):
        _draw(ax, rows, "valid", keys.of_layer(name, layer), number, str(layer))
    _mark_phases(ax, rows)
    ax.set_xlabel(TIME)


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
    layers: list  # of pairs: number of the layer, its maps
    thresholds: Sequence[float | None]
    # functions that return the values to draw, by the title of their row
    rows: "dict[str, Callable[[AttentionMaps], np.ndarray]]"


def _bands(panel: AttentionPanel) -> Iterator[_Band]:
    """Split the layers of a model so that each line of figures stays legible."""
    before = {"dense": lambda maps: _per_head(maps.dense, maps)}

    def after(maps):
        return _per_head(maps.pruned, maps)

    if panel.thresholds[0] is None:
        rows = before
    elif panel.layers[0].mask.dtype.is_floating_point:
        soft = {"soft mask": lambda maps: _per_head(maps.mask, maps)}
        rows = {**before, **soft, "masked": after}
    else:
        rows = {**before, "pruned": after}
    frames = panel.layers[0].dense.size(-1)
    title = f"{panel.title}, N = {frames} frames"
    cells = _block(frames)
    if cells > 1:
        title += f" (a dot is the mean of {cells} x {cells} weights)"
    size = max(1, HEADS_PER_BAND // panel.layers[0].dense.size(1))
    numbered = list(enumerate(panel.layers, 1))
    for start in range(0, len(numbered), size):
        part = slice(start, start + size)
        yield _Band(title, numbered[part], panel.thresholds[part], rows)
        title = f"{panel.title}, continued"


def _draw_band(part: SubFigure, band: _Band, weights: Normalize, heads: int) -> None:
    """Draw the layers of one band in the first columns of ``heads``."""
    # Names of experiments are long, and a figure may be one head wide.
    title = textwrap.fill(band.title, CHARACTERS_PER_HEAD * heads)
    part.suptitle(_plain(title), fontsize=10)
    grid = part.subplots(len(band.rows), heads, squeeze=False)
    columns = [
        (number, head, maps, threshold)
        for (number, maps), threshold in zip(band.layers, band.thresholds, strict=True)
        for head in range(maps.dense.size(1))
    ]
    for ax in grid[:, len(columns) :].flat:
        ax.remove()
    grid = grid[:, : len(columns)]
    for line, (name, values_of) in zip(grid, band.rows.items(), strict=True):
        soft = name == "soft mask"
        for ax, (number, head, maps, threshold) in zip(line, columns, strict=True):
            image = _draw_map(ax, values_of(maps)[head], name, weights)
            if ax is not line[0]:
                ax.tick_params(labelleft=False)
            if name == "dense":
                heading = f"layer {number}, head {head + 1}"
                if threshold is not None:
                    heading += f"\nthreshold {tables.number(threshold)}"
                ax.set_title(heading)
            elif name != "masked":
                mean = float(_per_head(maps.mask, maps)[head].mean())
                ax.set_title(
                    f"mean {mean:.2g}" if soft else f"{tables.percent(mean)} kept"
                )
        line[0].set_ylabel(f"{name}\nquery frame")
        bar = part.colorbar(image, ax=list(line), pad=0.01, aspect=14)
        bar.set_label("mask" if soft else "weight x N", fontsize=8)
    for ax in grid[:-1].flat:
        ax.tick_params(labelbottom=False)
    for ax in grid[-1]:
        ax.set_xlabel("key frame")


def _draw_map(ax: Axes, values: np.ndarray, name: str, weights: Normalize):
    """Draw one (T, T) map, one row per query; zeros stay white.

    If several weights share a dot, its colour is the mean of the nonzero ones. The
    fewer they are, the paler the dot, so that a sparse map looks sparse.
    """
    frames = values.shape[-1]
    soft = name == "soft mask"
    if not soft:
        values = values * frames
    there = _mean_of_blocks((values != 0) if name == "pruned" else np.ones_like(values))
    dots = _mean_of_blocks(values) / np.where(there > 0, there, 1)
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


def _per_head(values, maps: "AttentionMaps") -> np.ndarray:
    """Turn (1, H or 1, T, T) into (H, T, T)."""
    return values[:1].expand_as(maps.dense[:1])[0].detach().float().cpu().numpy()


def _block(frames: int) -> int:
    """Return how many frames share one cell on either side of a map."""
    return -(-frames // MAX_CELLS)


def _mean_of_blocks(values: np.ndarray) -> np.ndarray:
    """Shrink a map (T, T) to the means of blocks; blocks at the edges are smaller."""
    frames, block = len(values), _block(len(values))
    starts = np.arange(0, frames, block)
    sums = np.add.reduceat(
        np.add.reduceat(values * 1.0, starts, axis=0), starts, axis=1
    )
    sizes = np.minimum(block, frames - starts)
    return sums / (sizes[:, None] * sizes)
