"""Features of pictures for linear classifiers: where edges point, and which hues there are.

They have the numbers of the course's published code, oddities included, so that its published accuracies can be
compared; each oddity is named where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "color_histogram_hsv",
    "extract_features",
    "hog_feature",
    "rgb2gray",
]

_LUMA = (0.299, 0.587, 0.144)  # as published; the standard says 0.114 for blue
_ORIENTATIONS, _CELL = 9, 8


def extract_features(
    imgs: Any, feature_fns: Sequence[Callable[[np.ndarray], np.ndarray]], verbose: bool = False
) -> np.ndarray:
    """One row for each image (N, H, W, C): what each function gives for it, one behind the other."""
    imgs = np.asarray(imgs)
    if not feature_fns:
        raise ValueError("extract_features: feature_fns is empty; give at least one function, such as [hog_feature]")
    rows: list[np.ndarray] = []
    for count, image in enumerate(imgs, 1):
        parts = [np.asarray(function(image.squeeze())) for function in feature_fns]
        for function, part in zip(feature_fns, parts, strict=True):
            if part.ndim != 1:
                name = getattr(function, "__name__", repr(function))
                raise ValueError(f"extract_features: {name} must return one row of numbers, got shape {part.shape}")
        row = np.concatenate(parts)
        if rows and row.shape != rows[0].shape:
            raise ValueError(
                f"extract_features: image {count - 1} has {row.size} features and image 0 has {rows[0].size}; "
                "every image must have the same number"
            )
        rows.append(row)
        if verbose and count % 1000 == 0:
            print(f"Done extracting features for {count} / {len(imgs)} images")
    return np.array(rows, np.float64) if rows else np.zeros((0, 0))


def rgb2gray(rgb: Any) -> np.ndarray:
    """The brightness of colours (..., 3); a fourth channel is left out."""
    rgb = np.asarray(rgb)
    if rgb.ndim == 0 or rgb.shape[-1] < 3:
        raise ValueError(f"rgb2gray wants red, green and blue along the last axis, got shape {rgb.shape}")
    # np.dot rounds as the published code does; @ rounds otherwise, and some edges would fall into the next direction
    return np.dot(rgb[..., :3], _LUMA)


def hog_feature(im: Any, both_ways: bool = False) -> np.ndarray:
    """Histogram of oriented gradients: for each cell of 8x8 pixels the mean steepness in each of 9 directions.

    Direction k holds angles from 20 k to 20 (k + 1) degrees, where 90 is brighter to the right and 0 darker downwards.
    Cells go down the first column of cells, then down the next. A 32x32 picture has 144 numbers; what is left over at
    the right and below is not looked at.

    As published, an edge counts only where it becomes brighter to the right. With `both_ways=True` one that becomes
    darker has the same direction, as in the paper by Dalal and Triggs: a picture and its negative have equal numbers.
    """
    grey = rgb2gray(im) if np.ndim(im) == 3 else np.asarray(im, np.float64)
    if grey.ndim != 2 or min(grey.shape) < _CELL:
        raise ValueError(
            f"hog_feature wants a picture (H, W, 3) or (H, W), of at least {_CELL} x {_CELL}, got {np.shape(im)}"
        )
    right, down = np.zeros(grey.shape), np.zeros(grey.shape)
    right[:, :-1], down[:-1] = np.diff(grey, axis=1), np.diff(grey, axis=0)
    nudge = 0.0 if both_ways else 1e-15  # as published: faint level edges lie just inside 0 and 180 degrees
    angle = np.degrees(np.arctan2(down, right + nudge)) + 90
    direction = angle // (180 / _ORIENTATIONS)
    if both_ways:
        direction %= _ORIENTATIONS
    else:
        direction[angle == 0] = -1  # as published: steep level edges, at 0 or 180 degrees, count nowhere
    steepness = np.hypot(right, down)
    spread = direction[..., None] == np.arange(_ORIENTATIONS)
    rows, columns = grey.shape[0] // _CELL, grey.shape[1] // _CELL
    spread = (spread * steepness[..., None])[: rows * _CELL, : columns * _CELL]
    cells = spread.reshape(rows, _CELL, columns, _CELL, _ORIENTATIONS).mean(axis=(1, 3))
    return cells.swapaxes(0, 1).ravel()


def _hue(rgb: np.ndarray) -> np.ndarray:
    """The hue of colours (..., 3) from 0 to 1: red 0, green 1/3, blue 2/3; grey counts as red."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    top = rgb.max(axis=-1)
    span = top - rgb.min(axis=-1)
    unit = np.where(span > 0, span, 1)
    sixths = np.where(top == r, (g - b) / unit, np.where(top == g, 2 + (b - r) / unit, 4 + (r - g) / unit))
    return sixths / 6 % 1


def color_histogram_hsv(
    im: Any, nbin: int = 10, xmin: float = 0, xmax: float = 255, normalized: bool = True
) -> np.ndarray:
    """How the hues of a picture (H, W, 3) with values 0 ... xmax spread over `nbin` equal parts of xmin ... xmax.

    Shares of all pixels that lie there, or with `normalized=False` their counts (the published code gives counts times
    the width of a part).
    """
    im = np.asarray(im)
    if im.ndim != 3 or im.shape[2] != 3 or im.size == 0:
        raise ValueError(f"color_histogram_hsv wants a picture (H, W, 3), got shape {im.shape}")
    if not (im.min() >= 0 and im.max() <= xmax):
        raise ValueError(
            f"color_histogram_hsv: values must lie in 0 ... {xmax}, got {im.min()} ... {im.max()}; "
            "take the picture before its mean is subtracted"
        )
    counts = np.histogram(_hue(im / xmax) * xmax, np.linspace(xmin, xmax, nbin + 1))[0].astype(np.float64)
    return counts / max(counts.sum(), 1) if normalized else counts
