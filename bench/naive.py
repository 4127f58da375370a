"""A convolution and a pool as a student first writes them: four loops in plain Python, one window at a time."""

from __future__ import annotations

from itertools import product

import numpy as np


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pad: int) -> np.ndarray:
    framed, out = _frame(x, pad), _places(x.shape[2] + 2 * pad, w.shape[2], stride)
    y = np.zeros((len(x), len(w), out, out), x.dtype)
    for n, f, i, j in product(*map(range, y.shape)):
        y[n, f, i, j] = np.sum(framed[n][_window(i, j, stride, w.shape[2])] * w[f]) + b[f]
    return y


def conv_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    framed = _frame(x, pad)
    dx, dw, db = np.zeros_like(framed), np.zeros_like(w), np.zeros(len(w), x.dtype)
    for n, f, i, j in product(*map(range, dy.shape)):
        window = _window(i, j, stride, w.shape[2])
        dx[n][window] += dy[n, f, i, j] * w[f]
        dw[f] += dy[n, f, i, j] * framed[n][window]
        db[f] += dy[n, f, i, j]
    return dx[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]], dw, db


def pool_forward(x: np.ndarray, size: int) -> np.ndarray:
    y = np.zeros((*x.shape[:2], x.shape[2] // size, x.shape[3] // size), x.dtype)
    for n, c, i, j in product(*map(range, y.shape)):
        y[n, c, i, j] = np.max(x[n, c, i * size : (i + 1) * size, j * size : (j + 1) * size])
    return y


def pool_backward(dy: np.ndarray, x: np.ndarray, size: int) -> np.ndarray:
    dx = np.zeros_like(x)
    for n, c, i, j in product(*map(range, dy.shape)):
        window = x[n, c, i * size : (i + 1) * size, j * size : (j + 1) * size]
        u, v = np.unravel_index(np.argmax(window), window.shape)
        dx[n, c, i * size + u, j * size + v] = dy[n, c, i, j]
    return dx


def _frame(x: np.ndarray, pad: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))


def _places(side: int, size: int, stride: int) -> int:
    return (side - size) // stride + 1


def _window(i: int, j: int, stride: int, size: int) -> tuple[slice, slice, slice]:
    return slice(None), slice(i * stride, i * stride + size), slice(j * stride, j * stride + size)
