"""Affine: y[n, m] = b[m] + sum over h, w, c of x[n, h, w, c] * w[h, w, c, m]."""

import numpy as np


def affine_forward(x, w, b, y):
    y[...] = np.tensordot(x, w, 3) + b


def affine_backward_data(dy, turned, dx):
    """dx[n, h, w, c] = sum over m of dy[n, m] * turned[h * W + w, m, c]."""
    dx[...] = np.tensordot(dy, turned, ((1,), (1,))).reshape(dx.shape)


def affine_backward_weights(x, dy, features, dw, held):
    """dw[h, w, c, m] = sum over n of x[n, h, w, c] * dy[n, m]. `features` is their number, h * w * c,
    and `held` room for the kernel."""
    dw[...] = np.tensordot(x, dy, ((0,), (0,)))
