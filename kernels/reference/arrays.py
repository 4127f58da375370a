"""Moves and sums that several ops share."""

import numpy as np


def copy_rows(w, y):
    """y[h, v, c, m] = w[h, v, c, m]."""
    y[...] = w


def turn(w, turned):
    """turned[p, f, c] = w[p, c, f]."""
    turned[...] = w.transpose(0, 2, 1)


def add_slots(partial, total):
    """total[i] = sum over s of partial[s, i]."""
    total[...] = partial.sum(axis=0)


def add_forward(a, x, y):
    y[...] = a + x


def clear_frame(pad, y):
    """The outermost `pad` rows and columns become zeros."""
    inner = y[:, pad : y.shape[1] - pad, pad : y.shape[2] - pad].copy()
    y[...] = 0
    y[:, pad : y.shape[1] - pad, pad : y.shape[2] - pad] = inner


def copy(x, y):
    y[...] = x


def copy_channels(x, y):
    y[...] = x


def flatten_forward(x, y):
    """y[n, 0, 0, (c*H + i)*W + j] = x[n, i, j, c]."""
    y[...] = x.transpose(0, 3, 1, 2).reshape(y.shape)


def flatten_backward(dy, dx):
    """dx[n, i, j, c] = dy[n, 0, 0, (c*H + i)*W + j]."""
    count, height, width, channels = dx.shape
    dx[...] = dy.reshape(count, channels, height, width).transpose(0, 2, 3, 1)


def _blocks(w, dense, groups):
    """(the filters of a group, the rows of w that meet its channels in the dense weights) for each group."""
    channels, filters = w.shape[2], w.shape[3] // groups
    for g in range(groups):
        mine = slice(g * filters, (g + 1) * filters)
        yield w[..., mine], dense[:, :, g * channels : (g + 1) * channels, mine]


def expand_groups(w, groups, dense):
    """The weights of a grouped convolution as those of an ordinary one: blocks on the diagonal, zeros elsewhere."""
    dense[...] = 0
    for small, large in _blocks(w, dense, groups):
        large[...] = small


def collect_groups(dense, groups, dw):
    """The blocks on the diagonal, taken back out."""
    for small, large in _blocks(dw, dense, groups):
        small[...] = large


def lengths(x, y):
    """y[n] = the length of x[n] as a vector."""
    y[...] = np.sqrt((x * x).sum((1, 2, 3)))
