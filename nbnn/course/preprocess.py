"""What the course's notes do to data before training: `X_train, X_val, X_test = subtract_mean(X_train, X_val, X_test)`.

Each function learns from its first array alone, does the same to all of them, changes none of those given, and returns
as many as it got: one array for one, else a tuple. Floating-point numbers keep their type; whole numbers become
float64. What is learned is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "add_bias",
    "pca",
    "scale_to_unit_range",
    "standardise",
    "subtract_mean",
    "whiten",
]

Arrays = np.ndarray | tuple[np.ndarray, ...]


def _checked(name: str, X_train: Any, others: tuple[Any, ...], flat: bool = False) -> list[np.ndarray]:
    """All of them as floating-point arrays with the same columns; `flat` wants rows of numbers."""
    arrays = [np.asarray(X) for X in (X_train, *others)]
    for k, X in enumerate(arrays):
        which = f"array {k + 1}" if k else "X_train"
        if X.dtype.kind not in "fiub":
            raise TypeError(f"{name}: {which} must hold real numbers, got {X.dtype}")
        if X.ndim < 2 or (flat and X.ndim > 2):
            advice = "; reshape it with X.reshape(len(X), -1)" if X.ndim > 2 else ""
            raise ValueError(f"{name}: {which} must have one row for each example, got shape {X.shape}{advice}")
        if X.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"{name}: {which} has examples of shape {X.shape[1:]}, those of X_train have {arrays[0].shape[1:]}"
            )
    if arrays[0].size == 0:
        raise ValueError(f"{name}: X_train is empty, of shape {arrays[0].shape}; give at least one example")
    if not np.isfinite(arrays[0]).all():
        raise ValueError(f"{name}: X_train holds NaN or infinity; take those examples out")
    return [X if X.dtype.kind == "f" else X.astype(np.float64) for X in arrays]


def _each(arrays: list[np.ndarray], change: Callable[..., np.ndarray], *learned: np.ndarray) -> Arrays:
    """change(X, *learned) for each array, in the floating-point type of that array."""
    changed = tuple(change(X, *(a.astype(X.dtype) for a in learned)) for X in arrays)
    return changed if len(changed) > 1 else changed[0]


def subtract_mean(X_train: Any, *others: Any) -> Arrays:
    """Subtract the mean of each column."""
    arrays = _checked("subtract_mean", X_train, others)
    return _each(arrays, np.subtract, arrays[0].mean(axis=0, dtype=np.float64))


def standardise(X_train: Any, *others: Any) -> Arrays:
    """Subtract the mean of each column and divide by its standard deviation.

    A column that is the same in all of X_train stays as it is everywhere, so a column of ones remains a bias.
    """
    arrays = _checked("standardise", X_train, others)
    varies = np.ptp(arrays[0], axis=0) > 0
    mean = np.where(varies, arrays[0].mean(axis=0, dtype=np.float64), 0)
    deviation = arrays[0].std(axis=0, dtype=np.float64)
    deviation = np.where(varies & (deviation > 0), deviation, 1)
    return _each(arrays, lambda X, mean, deviation: (X - mean) / deviation, mean, deviation)


def scale_to_unit_range(X_train: Any, *others: Any) -> Arrays:
    """Each column of X_train from -1 at its minimum to 1 at its maximum, and 0 if it does not vary.

    Other arrays may leave that range where they leave X_train's.
    """
    arrays = _checked("scale_to_unit_range", X_train, others)
    low, span = arrays[0].min(axis=0), np.ptp(arrays[0], axis=0)
    varies = span > 0
    span = np.where(varies, span, 1)
    return _each(arrays, lambda X, low, span, varies: (X - low) / span * 2 - varies, low, span, varies)


def _directions(X: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of X, its directions of most variance as columns, most first, and their variances.

    A direction and its opposite are equally good: that one is taken whose largest entry is positive.
    """
    mean = X.mean(axis=0, dtype=np.float64)
    centred = X - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(X))
    variances, vectors = np.maximum(variances[::-1][:components], 0), vectors[:, ::-1][:, :components]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return mean, vectors * np.where(largest < 0, -1, 1), variances


def _count(name: str, components: Any, columns: int) -> int:
    if isinstance(components, bool) or not isinstance(components, (int, np.integer)) or not 1 <= components <= columns:
        raise ValueError(
            f"{name}: components must be a whole number from 1 to the {columns} columns of X_train, got {components!r}"
        )
    return int(components)


def pca(X_train: Any, *others: Any, components: int) -> Arrays:
    """Centred rows in the `components` directions in which X_train varies most, the widest first."""
    arrays = _checked("pca", X_train, others, flat=True)
    mean, vectors, _ = _directions(arrays[0], _count("pca", components, arrays[0].shape[1]))
    return _each(arrays, lambda X, mean, vectors: (X - mean) @ vectors, mean, vectors)


def whiten(X_train: Any, *others: Any, components: int | None = None, eps: float = 1e-5) -> Arrays:
    """Like pca, each direction divided by sqrt(variance + eps): no column is wider than another or goes with it.

    eps keeps directions that hardly vary from becoming noise of full size.
    """
    arrays = _checked("whiten", X_train, others, flat=True)
    columns = arrays[0].shape[1]
    if not eps > 0:
        raise ValueError(f"whiten: eps must be more than 0, since a direction may not vary at all, got {eps!r}")
    wanted = columns if components is None else _count("whiten", components, columns)
    mean, vectors, variances = _directions(arrays[0], wanted)
    return _each(arrays, lambda X, mean, way: (X - mean) @ way, mean, vectors / np.sqrt(variances + eps))


def add_bias(X_train: Any, *others: Any) -> Arrays:
    """Rows with a 1 at their end, so that the last row of a weight matrix is the bias."""
    arrays = _checked("add_bias", X_train, others, flat=True)
    return _each(arrays, lambda X: np.concatenate([X, np.ones((len(X), 1), X.dtype)], axis=1))
