"""Convolution of each channel alone, as a sum over the cells u, v of the window.

y[n, i, j, c] = b[c] + sum over u, v of x[n, i*stride + u*dilation, j*stride + v*dilation, c] * w[u, v, 0, c]
"""

import numpy as np

from nbnn.kernels.reference.conv import gradient_of_padded, seen


def conv_forward_depthwise(x, w, b, stride, dilation, y):
    y[...] = b
    for u, v in np.ndindex(w.shape[:2]):
        y += seen(x, u, v, stride, dilation, y) * w[u, v]


def conv_backward_data_depthwise(dy, w, stride, dilation, pad, halo, dx):
    """What each place of y read gets its share of dy back."""
    dx[...] = gradient_of_padded(dy, w, stride, dilation, pad, halo, dx.shape, np.multiply)


def conv_backward_weights_depthwise(x, dy, stride, dilation, dw, db):
    """Slot s holds the sums over examples s*N // slots ... (s + 1)*N // slots - 1."""
    count, slots = len(x), len(dw)
    for s in range(slots):
        mine = slice(s * count // slots, (s + 1) * count // slots)
        for u, v in np.ndindex(dw.shape[1:3]):
            dw[s, u, v, 0] = (seen(x, u, v, stride, dilation, dy)[mine] * dy[mine]).sum((0, 1, 2))
        db[s] = dy[mine].sum(axis=(0, 1, 2))
