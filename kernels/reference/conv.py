"""Convolution as a sum over the cells u, v of the window: each adds one shifted picture times one small matrix.

y[n, i, j, f] = b[f] + sum over u, v, c of x[n, i*stride + u*dilation, j*stride + v*dilation, c] * w[u, v, c, f]
"""

import functools

import numpy as np


def seen(x, u, v, stride, dilation, y):
    """The places of x that window cell u, v meets, one for each place of y: a view."""
    i, j = u * dilation, v * dilation
    return x[:, i : i + y.shape[1] * stride : stride, j : j + y.shape[2] * stride : stride][
        :, : y.shape[1], : y.shape[2]
    ]


def conv_forward(x, w, b, stride, dilation, y):
    y[...] = b
    for u, v in np.ndindex(w.shape[:2]):
        y += np.tensordot(seen(x, u, v, stride, dilation, y), w[u, v], 1)


def conv_backward_data(dy, turned, stride, dilation, pad, halo, dx):
    """What each place of y read gets its share of dy back; turned[u, v] is w[u, v] transposed."""
    dx[...] = gradient_of_padded(
        dy, turned, stride, dilation, pad, halo, dx.shape, functools.partial(np.tensordot, axes=1)
    )


def gradient_of_padded(dy, w, stride, dilation, pad, halo, shape, product):
    """The sum over the cells of product(dy, w[u, v]), each where the cell read x, without the padding of x.

    The frame of `halo` zeros around dy is there for the kernel and not needed here.
    """
    dy = dy[:, halo : dy.shape[1] - halo, halo : dy.shape[2] - halo]
    count, height, width, channels = shape
    padded = np.zeros((count, height + 2 * pad, width + 2 * pad, channels), dy.dtype)
    for u, v in np.ndindex(w.shape[:2]):
        seen(padded, u, v, stride, dilation, dy)[...] += product(dy, w[u, v])
    return padded[:, pad : pad + height, pad : pad + width]


def conv_backward_data_narrow(dy, turned, stride, dilation, pad, halo, dx, room):
    """The same from turned[u, f, (v, c)] and a dy without a frame; `halo` and `room` are there for the kernel."""
    cells = turned.reshape(*turned.shape[:2], -1, dx.shape[3]).transpose(0, 2, 1, 3)
    conv_backward_data(dy, cells, stride, dilation, pad, 0, dx)


def conv_backward_weights(x, dy, stride, dilation, dw, db):
    """Slot s holds the sums over examples s*N // slots ... (s + 1)*N // slots - 1."""
    count, slots = len(x), len(dw)
    for s in range(slots):
        mine = slice(s * count // slots, (s + 1) * count // slots)
        for u, v in np.ndindex(dw.shape[1:3]):
            dw[s, u, v] = np.tensordot(seen(x, u, v, stride, dilation, dy)[mine], dy[mine], ((0, 1, 2), (0, 1, 2)))
        db[s] = dy[mine].sum(axis=(0, 1, 2))
