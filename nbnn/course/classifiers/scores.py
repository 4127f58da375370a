"""A loss on the scores X @ W of a linear classifier, with the penalty reg * sum(W * W): here without the half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbnn.course.row_layers import affine_backward, affine_forward, floats

Loss = Callable[[Any, Any], tuple[float, np.ndarray]]


def loss_at_once(loss: Loss, W: Any, X: Any, y: Any, reg: float) -> tuple[float, np.ndarray]:
    """The mean loss over the examples, and its gradient in the shape of W."""
    W, X = floats(W, X)
    scores, cache = affine_forward(X, W, np.zeros(W.shape[1], W.dtype))
    value, dscores = loss(scores, y)
    _, dW, _ = affine_backward(dscores, cache)
    return float(value + reg * np.sum(W * W)), dW + 2 * reg * W


def loss_one_by_one(loss: Loss, W: Any, X: Any, y: Any, reg: float) -> tuple[float, np.ndarray]:
    """The same, one example after another."""
    W, X = floats(W, X)
    total, dW = 0.0, np.zeros_like(W)
    for n in range(len(X)):
        value, gradient = loss_at_once(loss, W, X[n : n + 1], y[n : n + 1], 0.0)
        total += value / len(X)
        dW += gradient / len(X)
    return float(total + reg * np.sum(W * W)), dW + 2 * reg * W
