"""Pictures of a training, as PNG files: how it went, what the first layer learned, what is taken for what, and lines
side by side. Needs matplotlib.

Nothing here touches matplotlib's global state (pyplot), so it works in threads, in servers and beside your own plots.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSS, _TRAIN, _VALIDATION, _INK, _RULE = "#3b6ea8", "#c8701b", "#23805a", "#333333", "#e4e4e4"
_DPI = 150
_TILE = 96  # pixels that the longer side of a filter takes in the grid, at least
_GAP = 6  # pixels between filters
_HEAD = 44  # pixels above the grid, for the title
_LEAST_WIDTH = 640  # pixels: the title needs them


class History(Protocol):
    """What `curves` reads: a Solver is one, and so is any object with these three lists."""

    @property
    def loss_history(self) -> Sequence[float]: ...
    @property
    def train_acc_history(self) -> Sequence[float]: ...
    @property
    def val_acc_history(self) -> Sequence[float]: ...


def curves(history: History, path: str | os.PathLike[str]) -> pathlib.Path:
    """Draw the loss of every iteration, its running mean, and the accuracies of every epoch to a PNG file at `path`.

    The accuracies start at epoch 0, before the first step. A loss that is not finite leaves a gap.
    """
    losses = np.asarray(history.loss_history, dtype=np.float64)
    if losses.size == 0:
        raise ValueError("curves: loss_history is empty, so there is nothing to draw; train first")
    figure = _figure(9.6, 3.8)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    left, right = figure.subplots(1, 2)

    reach = max(1, min(50, losses.size // 20))
    iterations = np.arange(1, losses.size + 1)
    size = min(5.0, max(1.5, 60 / math.sqrt(losses.size)))
    _style(left, "Loss", "iteration", "loss")
    faint = {"alpha": 0.3, "markersize": size, "markeredgewidth": 0}
    left.plot(iterations, losses, "o", color=_LOSS, label="each iteration", **faint)
    mean = _running_mean(losses, reach)
    left.plot(iterations, mean, color=_LOSS, linewidth=1.8, label=f"running mean of {2 * reach + 1}")
    beside = max(0.5, losses.size / 25)
    left.set_xlim(1 - beside, losses.size + beside)  # also where the losses at an end are not finite
    left.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="upper right", markerscale=4 / size)

    _style(right, "Accuracy", "epoch", "accuracy")
    for name, accuracies, color in (
        ("train", history.train_acc_history, _TRAIN),
        ("validation", history.val_acc_history, _VALIDATION),
    ):
        if len(accuracies):
            right.plot(range(len(accuracies)), accuracies, "o-", color=color, markersize=3.5, linewidth=1.8, label=name)
    if right.lines:
        right.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="lower right")
    return _write(figure, path)


def filters(w: np.ndarray, path: str | os.PathLike[str]) -> pathlib.Path:
    """Draw the filters `w` (F, C, HH, WW) of a first layer, each scaled to its own range, to a PNG file at `path`.

    Three channels are drawn as red, green and blue; any other number as grey, the mean of the first three.
    """
    w = np.asarray(w, dtype=np.float64)
    if w.ndim != 4 or w.size == 0:
        raise ValueError(f"filters: w must be (filters, channels, height, width), none of them 0, got shape {w.shape}")
    if not np.isfinite(w).all():
        raise ValueError("filters: w holds NaN or infinity, so it has no range to scale to; the training has diverged")
    grid = _grid(_pictures(w))
    height, width = grid.shape[0] + _HEAD + _GAP, max(grid.shape[1] + 2 * _GAP, _LEAST_WIDTH)
    figure = _figure(width / _DPI, height / _DPI)
    beside = (width - grid.shape[1]) // 2
    axes = figure.add_axes((beside / width, _GAP / height, grid.shape[1] / width, grid.shape[0] / height))
    axes.imshow(grid, interpolation="none", aspect="auto")
    axes.set_axis_off()
    count, *sizes = w.shape
    title = f"First-layer filters: {count} of {'x'.join(map(str, sizes))}, each scaled to its own range"
    figure.text(0.5, 1 - _HEAD / 2 / height, title, ha="center", va="center", color=_INK, fontsize=9)
    return _write(figure, path)


def confusion(
    true: np.ndarray, predicted: np.ndarray, path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> pathlib.Path:
    """Draw how often each class (a row) was taken for each class (a column) to a PNG file at `path`."""
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 1 or len(true) == 0:
        raise ValueError(
            f"confusion: it wants two lists of classes of one length, got shapes {true.shape} and {predicted.shape}"
        )
    classes = max(int(true.max()), int(predicted.max())) + 1
    words = list(names) if names is not None else [str(k) for k in range(classes)]
    if len(words) < classes:
        raise ValueError(f"confusion: there are {classes} classes, but {len(words)} names")
    counts = np.zeros((len(words), len(words)), np.int64)
    np.add.at(counts, (true, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.5 * len(words)
    figure = _figure(side + 0.6, side)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        ink = "white" if shares[row, column] > 0.5 else _INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=8)
    axes.set_title(f"Right: {(true == predicted).mean():.1%}", loc="left", color=_INK, fontsize=11, fontweight="bold")
    axes.set_xlabel("predicted", color=_INK)
    axes.set_ylabel("true", color=_INK)
    axes.set_xticks(range(len(words)), words, rotation=90, fontsize=9)
    axes.set_yticks(range(len(words)), words, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _write(figure, path)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | os.PathLike[str],
    *,
    title: str,
    x: str,
    y: str,
    log: str = "",
) -> pathlib.Path:
    """Draw named lines (places, values) in one frame to a PNG file at `path`; `log` names the axes that are
    logarithmic: "x", "y" or "xy"."""
    if not series:
        raise ValueError("lines: there is no line to draw")
    figure = _figure(6.4, 4.0)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots()
    for name, (places, values) in series.items():
        few = "o-" if len(places) <= 30 else "-"
        axes.plot(places, values, few, markersize=3.5, linewidth=1.6, label=name)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    every = np.concatenate([np.asarray(places, np.float64) for places, _ in series.values()])
    _style(axes, title, x, y, whole="x" not in log and bool((every == np.round(every)).all()))
    axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return _write(figure, path)


def _pictures(w: np.ndarray) -> np.ndarray:
    """Filters (F, C, HH, WW) as pictures (F, HH, WW, 3) from 0 to 1; a filter of one value only is mid-grey."""
    shown = w if w.shape[1] == 3 else np.repeat(w[:, :3].mean(axis=1, keepdims=True), 3, axis=1)
    low = shown.min(axis=(1, 2, 3), keepdims=True)
    span = shown.max(axis=(1, 2, 3), keepdims=True) - low
    scaled = np.where(span > 0, (shown - low) / np.where(span > 0, span, 1), 0.5)
    return scaled.transpose(0, 2, 3, 1)


def _grid(pictures: np.ndarray) -> np.ndarray:
    """Enlarge pictures (F, HH, WW, 3) by a whole factor and lay them out in a near-square grid on white."""
    zoom = -(-_TILE // max(pictures.shape[1:3]))
    tiles = pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    padding = ((0, rows * columns - len(tiles)), (0, _GAP), (0, _GAP), (0, 0))
    tiles = np.pad(tiles, padding, constant_values=1.0)
    high, wide = tiles.shape[1:3]
    grid = tiles.reshape(rows, columns, high, wide, 3).swapaxes(1, 2).reshape(rows * high, columns * wide, 3)
    return grid[:-_GAP, :-_GAP]


def _running_mean(losses: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each loss and up to `reach` on either side; only finite ones count, and one that is not stays NaN."""
    finite = np.isfinite(losses)
    sums = np.concatenate(([0.0], np.cumsum(np.where(finite, losses, 0.0))))
    counts = np.concatenate(([0], np.cumsum(finite)))
    start = np.maximum(np.arange(losses.size) - reach, 0)
    end = np.minimum(np.arange(losses.size) + reach + 1, losses.size)
    mean = np.full(losses.size, np.nan)
    np.divide(sums[end] - sums[start], counts[end] - counts[start], out=mean, where=finite)
    return mean


def _figure(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, on the Agg canvas and known to nobody else."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise ImportError('plots need matplotlib: pip install "nbnn[plots]"') from problem
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes, title: str, x: str, y: str, *, whole: bool = True) -> None:
    axes.set_title(title, loc="left", color=_INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.tick_params(color=_RULE, labelcolor=_INK, labelsize=9)
    axes.grid(color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    if whole:
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_RULE)


def _write(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    target = pathlib.Path(path)
    figure.savefig(target, format="png", dpi=_DPI, bbox_inches=None)
    return target
