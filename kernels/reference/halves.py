"""Convolution by halves without the halves: the window is put together again; see `kernels/halves.py`."""

import numpy as np

from nbnn.kernels.reference.conv import conv_backward_weights, conv_forward


def _cells(size):
    """Three matrices: what each cell of the parts A, B, C of a window's side is the sum of."""
    short, whole = size // 2, (size + 1) // 2
    even, odd = np.eye(size)[::2], np.eye(size)[1::2]
    both = even.copy()
    both[:short] += odd
    return both, even[:whole], odd


def halve_weights(w, pieces):
    pieces[...] = 0
    for i, rows in enumerate(_cells(w.shape[0])):
        for j, columns in enumerate(_cells(w.shape[1])):
            part = np.einsum("su,tv,uvcf->stcf", rows, columns, w).reshape(-1, w.shape[3])
            pieces[3 * i + j, : len(part)] = part


def conv_forward_halves(x, pieces, b, size_u, size_v, y, kept, parts):
    """kept and parts are room for the kernel."""
    w = np.empty((size_u, size_v, x.shape[3], y.shape[3]), x.dtype)
    for i, j in np.ndindex(2, 2):
        quarter = w[i::2, j::2]
        quarter[...] = pieces[4 + 3 * i + j, : quarter[..., 0].size].reshape(quarter.shape)
    conv_forward(x, w, b, 1, 1, y)


def conv_backward_weights_halves(x, dy, dw, db, parts, q, sums):
    conv_backward_weights(x, dy, 1, 1, dw, db)
