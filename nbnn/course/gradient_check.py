"""Gradients by centred differences, whose error falls with the square of h."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "eval_numerical_gradient",
    "eval_numerical_gradient_array",
    "grad_check_sparse",
    "rel_error",
]


def rel_error(x: Any, y: Any) -> float:
    """The largest |x - y| over |x| + |y|, which counts as 1e-8 where it is less."""
    x, y = np.asarray(x), np.asarray(y)
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))


def _difference(f: Callable[[np.ndarray], Any], x: np.ndarray, place: tuple[int, ...], h: float) -> Any:
    """f(x + h) - f(x - h) at one place of x, which is put back, over 2 h."""
    before = x[place]
    x[place] = before + h
    above = np.array(f(x), np.float64)
    x[place] = before - h
    below = np.array(f(x), np.float64)
    x[place] = before
    return (above - below) / (2 * h)


def eval_numerical_gradient(
    f: Callable[[np.ndarray], float], x: np.ndarray, verbose: bool = True, h: float = 1e-5
) -> np.ndarray:
    """The gradient of a number f(x) at every place of x."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        gradient[place] = _difference(f, x, place, h)
        if verbose:
            print(place, gradient[place])
    return gradient


def eval_numerical_gradient_array(
    f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, df: Any, h: float = 1e-5
) -> np.ndarray:
    """The gradient of sum(f(x) * df) for a function whose result is an array."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        gradient[place] = np.sum(_difference(f, x, place, h) * df)
    return gradient


def grad_check_sparse(
    f: Callable[[np.ndarray], float], x: np.ndarray, analytic_grad: np.ndarray, num_checks: int = 10, h: float = 1e-5
) -> None:
    """Print numerical and analytic gradient at some places drawn with `random`."""
    for _ in range(num_checks):
        place = tuple(random.randrange(side) for side in x.shape)
        numerical, analytic = float(_difference(f, x, place, h)), float(analytic_grad[place])
        error = abs(numerical - analytic) / (abs(numerical) + abs(analytic) or 1.0)
        print(f"numerical: {numerical:f} analytic: {analytic:f}, relative error: {error:e}")
