"""Pooling, one output place at a time: cut out its window, as far as it lies inside the picture, and reduce it."""

import numpy as np

from nbnn.kernels.constants import BYTE_PLACES


def _window(x, i, j, tall, wide, stride, pad):
    """What output place i, j sees of x: a view (n, rows, columns, c)."""
    top, left = i * stride - pad, j * stride - pad
    return x[:, max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)]


def places_of(places, tall, wide, channels):
    """The places as numbers, a view: the rows are of bytes where those are enough."""
    return (places.view(np.uint8) if tall * wide <= BYTE_PLACES else places)[..., :channels]


def max_pool_forward(x, tall, wide, stride, pad, rectify, y, places):
    """`places` has u*wide + v + 1 of the first maximum, 0 where a relu leaves nothing. NumPy's argmax is the first too,
    and takes a NaN for a maximum."""
    places = places_of(places, tall, wide, x.shape[3])
    for i, j in np.ndindex(y.shape[1:3]):
        seen = _window(x, i, j, tall, wide, stride, pad)
        count, rows, columns, channels = seen.shape
        y[:, i, j] = seen.max(axis=(1, 2))
        u, v = np.divmod(seen.reshape(count, rows * columns, channels).argmax(axis=1), columns)
        places[:, i, j] = (u + max(pad - i * stride, 0)) * wide + v + max(pad - j * stride, 0) + 1
    if rectify:
        places[y <= 0] = 0
        np.maximum(y, 0, out=y)


def max_pool_backward(places, dy, tall, wide, stride, pad, dx):
    """The place that was found in each window gets its dy."""
    places = places_of(places, tall, wide, dy.shape[3])
    dx[...] = 0
    for i, j in np.ndindex(dy.shape[1:3]):
        given = _window(dx, i, j, tall, wide, stride, pad)
        above, left = max(pad - i * stride, 0), max(pad - j * stride, 0)
        for u, v in np.ndindex(given.shape[1:3]):
            given[:, u, v] += np.where(places[:, i, j] == (u + above) * wide + v + left + 1, dy[:, i, j], 0)


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
