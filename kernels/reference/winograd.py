"""Winograd's convolution with its matrices as such, found exactly from the points; see `kernels/winograd.py`."""

from fractions import Fraction

import numpy as np

from nbnn.kernels.constants import POINTS, TILE, TILE_READS
from nbnn.kernels.reference.conv import conv_backward_weights

FINITE = (0, 1, -1, 2, Fraction(-1, 2))  # and infinity, where a polynomial has the value of its last coefficient


def evaluation(size):
    """The POINTS x size matrix that takes a polynomial of `size` coefficients to its values at the points."""
    rows = [[Fraction(point) ** k for k in range(size)] for point in FINITE]
    return [*rows, [Fraction(k == size - 1) for k in range(size)]]


def weights_of_points():
    """What each finite point's value is divided by: the product of its distances to the others."""
    return [np.prod([Fraction(p) - q for q in FINITE if q != p]) for p in FINITE] + [Fraction(1)]


def data_matrix():
    """Row p: the coefficients of the polynomial with zeros at all finite points but p; last, at all of them."""
    rows = []
    for point in (*FINITE, None):
        coefficients = [Fraction(1)]
        for root in FINITE:
            if root != point:
                shifted, kept = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
                coefficients = [a - root * b for a, b in zip(shifted, kept, strict=True)]
        rows.append(coefficients + [Fraction(0)] * (TILE_READS - len(coefficients)))
    return rows


def numbers(matrix, dtype=np.float64):
    return np.array([[float(value) for value in row] for row in matrix], dtype)


def winograd_weights(w, u):
    scaled = numbers(evaluation(3)) / numbers([weights_of_points()]).T
    values = np.einsum("pi,ijcf,qj->pqcf", scaled, w, scaled, optimize=True)
    u[...] = values.reshape(u.shape)


def winograd_weights_turned(w, u, cells):
    """cells is room for the kernel."""
    winograd_weights(w.transpose(0, 1, 3, 2), u)


def conv_winograd_wide(x, w, turned, filters, b, y, v, u, m, patch, cells):
    """v, u, m, patch and cells are room for the kernel."""
    w = w.transpose(0, 1, 3, 2) if turned else w
    values = np.empty((POINTS**2, *w.shape[2:]), w.dtype)
    winograd_weights(w, values)
    conv_forward_winograd(x, values, b, y, v, m, patch)


def conv_forward_winograd(x, u, b, y, v, m, patch):
    """v, m and patch are room for the kernel."""
    count, height, width, filters = y.shape
    down, across = -(-height // TILE), -(-width // TILE)
    whole = np.zeros((count, TILE * down + 2, TILE * across + 2, x.shape[3]), x.dtype)
    whole[:, : x.shape[1], : x.shape[2]] = x
    tiles = np.lib.stride_tricks.sliding_window_view(whole, (TILE_READS, TILE_READS), axis=(1, 2))[:, ::TILE, ::TILE]
    data, back = numbers(data_matrix(), x.dtype), numbers(evaluation(TILE), x.dtype).T
    values = np.einsum("pi,nrscij,qj->nrspqc", data, tiles, data, optimize=True)
    products = np.einsum("nrspqc,pqcf->nrspqf", values, u.reshape(POINTS, POINTS, *u.shape[1:]), optimize=True)
    places = np.einsum("ip,nrspqf,jq->nrisjf", back, products, back, optimize=True)
    y[...] = places.reshape(count, TILE * down, TILE * across, filters)[:, :height, :width] + b


def conv_backward_weights_winograd(x, dy, items, dw, db, v, q, sums, patch):
    """The same sums as without Winograd; `items` says how the kernel cuts its work, v ... patch are room for it."""
    conv_backward_weights(x, dy, 1, 1, dw, db)
