"""The k nearest neighbours, by L2 or L1 distance.

Distances are computed in float64, a block of training rows at a time, so that neither large data of small numbers
(pixels as uint8) nor differences of nearly equal pictures are a problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nbnn import inputs

__all__ = ["KNearestNeighbor"]

BLOCK = 1 << 26  # bytes of training rows that are float64 at a time
NEAR = 1 << 19  # of them, where one row after another meets them: they stay in a cache
DISTANCES = 1 << 28  # bytes of them that `predict` holds


class KNearestNeighbor:
    """Remembers all training rows. A tie among labels goes to the smaller label, one among distances to the earlier
    row."""

    def __init__(self, norm: str = "L2") -> None:
        if norm not in ("L2", "L1"):
            raise ValueError(f"norm must be 'L2' or 'L1', got {norm!r}")
        self.norm = norm

    def train(self, X: Any, y: Any) -> None:
        """Remember these rows and their labels."""
        self.X_train, self.y_train = _rows(X), np.asarray(y)
        if self.y_train.shape != (len(self.X_train),):
            raise ValueError(
                f"y must have one label for each of the {len(self.X_train)} rows, got {self.y_train.shape}"
            )

    def predict(self, X: Any, k: int = 1, num_loops: int = 0) -> np.ndarray:
        """The label that most of the k nearest training rows have, for each row of X."""
        ways = {
            0: self.compute_distances_no_loops,
            1: self.compute_distances_one_loop,
            2: self.compute_distances_two_loops,
        }
        if num_loops not in ways:
            raise ValueError(f"Invalid value {num_loops!r} for num_loops; it is 0, 1 or 2")
        X = self._fitting(X)
        together = max(1, DISTANCES // (8 * len(self.X_train)))
        parts = [ways[num_loops](X[n : n + together]) for n in range(0, len(X), together)]
        return np.concatenate([self.predict_labels(part, k) for part in parts] or [self.y_train[:0]])

    def compute_distances_two_loops(self, X: Any) -> np.ndarray:
        """dists[i, j] from row i of X to training row j, one at a time."""
        X = self._fitting(X)
        dists = np.empty((len(X), len(self.X_train)))
        for i in range(len(X)):
            for j in range(len(self.X_train)):
                dists[i, j] = self._distance(X[i] - self.X_train[j].astype(np.float64, copy=False))
        return dists

    def compute_distances_one_loop(self, X: Any) -> np.ndarray:
        """The same, one row of X at a time."""
        X = self._fitting(X)
        dists = np.empty((len(X), len(self.X_train)))
        for place, block in self._blocks(NEAR):
            for i in range(len(X)):
                dists[i, place] = self._distance(X[i] - block)
        return dists

    def compute_distances_no_loops(self, X: Any) -> np.ndarray:
        """The same at once: |x|**2 + |t|**2 - 2 x t, a product of matrices. L1 has none: it takes one row at a time."""
        if self.norm == "L1":
            return self.compute_distances_one_loop(X)
        X = self._fitting(X)
        dists = np.empty((len(X), len(self.X_train)))
        squares = _squares(X)[:, None]
        for place, block in self._blocks():
            part = dists[:, place]
            np.matmul(X, block.T, out=part)
            part *= -2
            part += squares
            part += _squares(block)
        np.maximum(dists, 0, out=dists)  # rounding may leave less than nothing of the distance of a row to itself
        return np.sqrt(dists, out=dists)

    def predict_labels(self, dists: Any, k: int = 1) -> np.ndarray:
        """The label that most of the k nearest have, for each row of distances."""
        dists, k = np.asarray(dists), inputs.positive(k, "k")
        if k > dists.shape[1]:
            raise ValueError(f"k must be from 1 to the {dists.shape[1]} training rows, got {k!r}")
        nearest = np.argpartition(dists, k - 1, axis=1)[:, :k]
        farthest = np.take_along_axis(dists, nearest, axis=1).max(axis=1, keepdims=True)
        tied = np.flatnonzero((dists <= farthest).sum(axis=1) > k)  # more rows than k are that near: the earlier ones
        nearest[tied] = np.argsort(dists[tied], axis=1, kind="stable")[:, :k]
        labels, numbers = np.unique(self.y_train, return_inverse=True)
        votes = np.zeros((len(dists), len(labels)), np.int64)
        np.add.at(votes, (np.arange(len(dists))[:, None], numbers[nearest]), 1)
        found: np.ndarray = labels[votes.argmax(axis=1)]
        return found

    def _distance(self, difference: np.ndarray) -> np.ndarray:
        """Of each row of differences."""
        if self.norm == "L1":
            return np.abs(difference).sum(axis=-1)
        return np.sqrt(np.square(difference).sum(axis=-1))

    def _blocks(self, room: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
        """The training rows in float64, so many bytes at a time, and where they belong."""
        size = max(1, room // (8 * max(1, self.X_train.shape[1])))
        for first in range(0, len(self.X_train), size):
            place = slice(first, first + size)
            yield place, self.X_train[place].astype(np.float64, copy=False)

    def _fitting(self, X: Any) -> np.ndarray:
        if not hasattr(self, "X_train"):
            raise ValueError("KNearestNeighbor has no training rows yet; call train(X, y) first")
        X = _rows(X).astype(np.float64, copy=False)
        if X.shape[1] != self.X_train.shape[1]:
            raise ValueError(f"X must have rows of {self.X_train.shape[1]} numbers as in training, got {X.shape[1]}")
        return X


def _rows(X: Any) -> np.ndarray:
    """Examples as rows, whatever their shape was."""
    X = np.asarray(X)
    if X.ndim < 2:
        raise ValueError(f"X must have one row for each example, got shape {X.shape}")
    return X.reshape(len(X), -1)


def _squares(X: np.ndarray) -> np.ndarray:
    """|x|**2 of each row."""
    return np.einsum("ij,ij->i", X, X)
