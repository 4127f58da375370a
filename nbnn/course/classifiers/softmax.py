"""The cross-entropy loss of a linear classifier, with the penalty reg * sum(W * W)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.classifiers.scores import loss_at_once, loss_one_by_one
from nbnn.course.row_layers import softmax_loss

__all__ = ["softmax_loss_naive", "softmax_loss_vectorized"]


def softmax_loss_naive(W: Any, X: Any, y: Any, reg: float) -> tuple[float, np.ndarray]:
    """The loss and its gradient in the shape of W, one example after another."""
    return loss_one_by_one(softmax_loss, W, X, y, reg)


def softmax_loss_vectorized(W: Any, X: Any, y: Any, reg: float) -> tuple[float, np.ndarray]:
    """The same at once."""
    return loss_at_once(softmax_loss, W, X, y, reg)
