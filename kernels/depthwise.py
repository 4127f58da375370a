"""Convolution of each channel alone, with a filter of its own:

    y[n, i, j, c] = b[c] + sum over u, v of x[n, i*stride + u*dilation, j*stride + v*dilation, c] * w[u, v, 0, c]

Letters and owners as in `conv.py`. Channels lie side by side, so registers of them are multiplied lane by lane: the
rows of a tile are places (or window cells, for dw), its columns one or two registers of channels. (With one alone, a
sum of 3x3 takes 1.4 times as long: six sums wait for themselves.) Places go through all of their channels before the
next ones come, which reads each cache line once.
"""

from nbnn.kernels.conv import IN_CACHE, add_places, clear_spare, hop_of, met_along
from nbnn.kernels.jit import Array1, Array2, Array4, Array5, inlined, kernel, step
from nbnn.kernels.simd import lanes, pointer
from nbnn.kernels.tile import ROWS, load_tile, multiply_lanewise, places, start_tile, store_tile, zero_tile


@inlined
def _forward_columns(xn, from_x, x, w, b, dilation, yn, to_y, c, vectors):
    """One or two registers of channels of a tile of places."""
    t, wc = start_tile(pointer(b) + c, vectors), pointer(w) + c
    down, across = dilation * step(x, 1), dilation * step(x, 2)
    t = multiply_lanewise(xn + c, from_x, down, across, wc, step(w, 0), step(w, 1), w.shape[0], w.shape[1], t)
    store_tile(yn + c, to_y, t)


@kernel(each="y", intensity=4)
def conv_forward_depthwise(
    x: Array4, w: Array4, b: Array1, stride: int, dilation: int, y: Array4, first: int, last: int
):
    height, width, channels = y.shape[1], y.shape[2], y.shape[3]
    for n in range(first, last):
        xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
        for p in range(0, height * width, ROWS):
            from_x = places(p, height * width, height, width, 0, stride * step(x, 1), stride * step(x, 2))
            to_y = places(p, height * width, height, width, 0, step(y, 1), step(y, 2))
            for c in range(0, channels, 2 * lanes(x)):
                if channels - c > lanes(x):
                    _forward_columns(xn, from_x, x, w, b, dilation, yn, to_y, c, 2)
                else:
                    _forward_columns(xn, from_x, x, w, b, dilation, yn, to_y, c, 1)


@inlined
def _data_columns(a, from_dy, dy, b, w, count_u, count_v, hop, back, place, to_dx, vectors):
    """The same of dx: each further cell of the window reads `back` places earlier."""
    t, up, left = zero_tile(a, vectors), -back * step(dy, 1), -back * step(dy, 2)
    t = multiply_lanewise(a, from_dy, up, left, b, hop * step(w, 0), hop * step(w, 1), count_u, count_v, t)
    store_tile(place, to_dx, t)


@kernel(each="dx", intensity=4)
def conv_backward_data_depthwise(
    dy: Array4, w: Array4, stride: int, dilation: int, pad: int, halo: int, dx: Array4, first: int, last: int
):
    """As conv_backward_data: dy has a frame of `halo` zeros, and no zero between strides is multiplied."""
    hop, back = hop_of(stride, dilation)
    for n in range(first, last):
        for i0 in range(min(stride, dx.shape[1])):
            height, u0, count_u, i = met_along(i0, dx.shape[1], w.shape[0], stride, dilation, pad, hop)
            for j0 in range(min(stride, dx.shape[2])):
                width, v0, count_v, j = met_along(j0, dx.shape[2], w.shape[1], stride, dilation, pad, hop)
                a = pointer(dy) + (n * step(dy, 0) + (i + halo) * step(dy, 1) + (j + halo) * step(dy, 2))
                b = pointer(w) + (u0 * step(w, 0) + v0 * step(w, 1))
                place = pointer(dx) + (n * step(dx, 0) + i0 * step(dx, 1) + j0 * step(dx, 2))
                for p in range(0, height * width, ROWS):
                    from_dy = places(p, height * width, height, width, 0, step(dy, 1), step(dy, 2))
                    to_dx = places(p, height * width, height, width, 0, stride * step(dx, 1), stride * step(dx, 2))
                    for c in range(0, dx.shape[3], 2 * lanes(dx)):
                        at, wc, to = a + c, b + c, place + c
                        if dx.shape[3] - c > lanes(dx):
                            _data_columns(at, from_dy, dy, wc, w, count_u, count_v, hop, back, to, to_dx, 2)
                        else:
                            _data_columns(at, from_dy, dy, wc, w, count_u, count_v, hop, back, to, to_dx, 1)


@inlined
def _weights_columns(at, from_x, x, dyc, dy, stride, rows, dws, to_dw, fresh, vectors):
    """The same of dw, from `rows` rows of dy: the rows of the tile are cells of the window."""
    if fresh:
        t = zero_tile(dws, vectors)
    else:
        t = load_tile(dws, to_dw, vectors)
    down, across = stride * step(x, 1), stride * step(x, 2)
    t = multiply_lanewise(at, from_x, down, across, dyc, step(dy, 1), step(dy, 2), rows, dy.shape[2], t)
    store_tile(dws, to_dw, t)


@kernel(each="dw", intensity=4, fills=2)
def conv_backward_weights_depthwise(
    x: Array4, dy: Array4, stride: int, dilation: int, dw: Array5, db: Array2, first: int, last: int
):
    """Slot by slot as conv_backward_weights, band by band of rows that stay in the first-level cache."""
    count, slots, size_u, size_v = dy.shape[0], dw.shape[0], dw.shape[1], dw.shape[2]
    cells = size_u * size_v
    band = max(1, min(dy.shape[1], IN_CACHE // (2 * dy.shape[2] * step(dy, 2) * dy.itemsize)))
    for slot in range(first, last):
        dws, dbs = pointer(dw) + slot * step(dw, 0), pointer(db) + slot * step(db, 0)
        begin, end = slot * count // slots, (slot + 1) * count // slots
        clear_spare(dw, slot, 0, 1)
        for n in range(begin, end):
            for i in range(0, dy.shape[1], band):
                rows, fresh = min(band, dy.shape[1] - i), n == begin and i == 0
                xn = pointer(x) + (n * step(x, 0) + i * stride * step(x, 1))
                dyn = pointer(dy) + (n * step(dy, 0) + i * step(dy, 1))
                add_places(dyn, dy, 1, rows, dbs, fresh)
                for k in range(0, cells, ROWS):
                    from_x = places(k, cells, size_u, size_v, 0, dilation * step(x, 1), dilation * step(x, 2))
                    to_dw = places(k, cells, size_u, size_v, 0, step(dw, 1), step(dw, 2))
                    for c in range(0, dy.shape[3], 2 * lanes(x)):
                        at, dyc, to = xn + c, dyn + c, dws + c
                        if dy.shape[3] - c > lanes(x):
                            _weights_columns(at, from_x, x, dyc, dy, stride, rows, to, to_dw, fresh, 2)
                        else:
                            _weights_columns(at, from_x, x, dyc, dy, stride, rows, to, to_dw, fresh, 1)
