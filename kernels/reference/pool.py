"""Pooling, one output place at a time: cut out its window, as far as it lies inside the picture, and reduce it."""

import numpy as np


def _window(x, i, j, tall, wide, stride, pad):
    """What output place i, j sees of x: a view (n, rows, columns, c)."""
    top, left = i * stride - pad, j * stride - pad
    return x[:, max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)]


def max_pool_forward(x, tall, wide, stride, pad, rectify, y):
    for i, j in np.ndindex(y.shape[1:3]):
        y[:, i, j] = _window(x, i, j, tall, wide, stride, pad).max(axis=(1, 2))
    if rectify:
        np.maximum(y, 0, out=y)


def max_pool_backward(x, y, dy, tall, wide, stride, pad, rectify, dx):
    """The first maximum of each window gets its dy. NumPy's argmax is the first too, and takes a NaN for a maximum."""
    dx[...] = 0
    if rectify:
        dy = np.where(y <= 0, 0, dy)
    for i, j in np.ndindex(y.shape[1:3]):
        seen, given = (_window(a, i, j, tall, wide, stride, pad) for a in (x, dx))
        count, rows, columns, channels = seen.shape
        first = seen.reshape(count, rows * columns, channels).argmax(axis=1)
        for u, v in np.ndindex(rows, columns):
            given[:, u, v] += np.where(first == u * columns + v, dy[:, i, j], 0)


def max_pool_backward_apart(x, y, dy, tall, wide, stride, rectify, dx):
    """dx may be x."""
    found = np.zeros_like(dx)
    max_pool_backward(x, y, dy, tall, wide, stride, 0, rectify, found)
    dx[...] = found


def avg_pool_forward(x, tall, wide, stride, pad, y):
    for i, j in np.ndindex(y.shape[1:3]):
        y[:, i, j] = _window(x, i, j, tall, wide, stride, pad).sum(axis=(1, 2)) / (tall * wide)


def avg_pool_backward(dy, tall, wide, stride, pad, dx):
    dx[...] = 0
    for i, j in np.ndindex(dy.shape[1:3]):
        _window(dx, i, j, tall, wide, stride, pad)[...] += dy[:, i : i + 1, j : j + 1] / (tall * wide)


def global_avg_pool_forward(x, y):
    y[...] = x.mean(axis=(1, 2), keepdims=True)


def global_avg_pool_backward(dy, dx):
    dx[...] = dy / (dx.shape[1] * dx.shape[2])
