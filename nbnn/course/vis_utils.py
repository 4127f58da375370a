"""Many small pictures as one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["visualize_grid"]


def visualize_grid(Xs: Any, ubound: float = 255.0, padding: int = 1) -> np.ndarray:
    """Pictures (N, H, W, C) or (N, H, W) in a square of ceil(sqrt(N)) rows and columns, row by row.

    Each picture is stretched on its own to 0 ... ubound; one of a single value becomes 0, as are the `padding` pixels
    between pictures and the places that remain empty. (N, H, W) gives a grid without channels.
    """
    Xs = np.asarray(Xs, np.float64)
    if Xs.ndim not in (3, 4) or Xs.size == 0:
        raise ValueError(f"visualize_grid wants pictures (N, H, W, C) or (N, H, W), none of them 0, got {Xs.shape}")
    if padding < 0 or padding != int(padding):
        raise ValueError(f"visualize_grid: padding must be a whole number of at least 0, got {padding!r}")
    gap, within = int(padding), tuple(range(1, Xs.ndim))
    low, span = Xs.min(axis=within, keepdims=True), np.ptp(Xs, axis=within, keepdims=True)
    tiles = ubound * (Xs - low) / np.where(span == 0, 1, span)
    side = math.ceil(math.sqrt(len(Xs)))
    tiles = np.pad(tiles, [(0, side * side - len(Xs)), (0, gap), (0, gap), (0, 0)][: Xs.ndim])
    high, wide, *channels = tiles.shape[1:]
    grid = tiles.reshape(side, side, high, wide, *channels).swapaxes(1, 2)
    grid = grid.reshape(side * high, side * wide, *channels)
    return grid[: side * high - gap, : side * wide - gap]
