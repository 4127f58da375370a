"""Convolution of pictures of one channel to few filters, as first layers of gray pictures do it: the lanes of a
register are neighbouring places of a row. As filters, many of them would be empty, and a tile would have one register
of columns.

    y[n, i, j, f] = b[f] + sum over u, v of x[n, i + u*dilation, j + v*dilation, 0] * w[u, v, 0, f]

Letters as in `conv.py`. The rows of a tile are filters, its columns places; y has its filters innermost, as every
kernel wants it, so tiles are turned in their registers. A row has at least as many places as a register has lanes; its
last register begins where it fits. So some places of y are computed twice, and to the weights some places of x meet a
zero in place of their dy (an infinity then makes a NaN, as in Winograd's way). A picture that has room behind its
channel is copied side by side first.

Forward: a worker owns whole examples of y. To the weights: slot s owns partial[s], as in `conv.py`; the sums are kept
lane by lane until the end of the slot.
"""

from nbnn.kernels.jit import Array1, Array2, Array4, Array5, Space3, inlined, kernel, own, step
from nbnn.kernels.simd import (
    fill,
    lane_between,
    lanes,
    load,
    peek,
    pointer,
    poke,
    select,
    store,
    total,
    transpose_block,
)
from nbnn.kernels.tile import (
    ROWS,
    add_lanewise,
    in_line,
    load_tile,
    multiply,
    number_tile,
    onward,
    store_tile,
    store_turned,
)


@inlined
def _side_by_side(x, n, plane, worker):
    """Where example n begins, its places side by side, and the step from row to row."""
    xn, line = pointer(x) + n * step(x, 0), step(plane, 1)
    if step(x, 2) == 1:
        return xn, step(x, 1)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            poke(own(plane, worker), i * line + j, peek(xn, i * step(x, 1) + j * step(x, 2)))
    return own(plane, worker), line


@inlined
def _filters_at(at, line, w, b, dilation, filters, y, row, vectors):
    """All filters at a register or two of places."""
    t, down = number_tile(pointer(b), filters, vectors), dilation * line
    t = multiply(pointer(w), filters, step(w, 0), 0, step(w, 1), at, down, 0, dilation, w.shape[0], 1, w.shape[1], t)
    store_turned(row, step(y, 2), y.shape[3], t)


@kernel(each="y", intensity=16)
def conv_forward_plane(
    x: Array4, w: Array4, b: Array1, dilation: int, y: Array4, plane: Space3, first: int, last: int, worker: int
):
    width, filters = lanes(x), in_line(0, y.shape[3], 1)
    for n in range(first, last):
        xn, line = _side_by_side(x, n, plane, worker)
        for i in range(y.shape[1]):
            at, row = xn + i * line, pointer(y) + (n * step(y, 0) + i * step(y, 1))
            for j in range(0, y.shape[2], 2 * width):
                if y.shape[2] - j >= 2 * width:
                    _filters_at(at + j, line, w, b, dilation, filters, y, row + j * step(y, 2), 2)
                else:
                    for k in range(j, y.shape[2], width):
                        p = min(k, y.shape[2] - width)
                        _filters_at(at + p, line, w, b, dilation, filters, y, row + p * step(y, 2), 1)


@inlined
def _turn_rows(dyn, dy, rows, turned, apart, line):
    """turned[f, i, j] = dy[i, j, f]. A register that begins before its place has zeros where the one before it ends."""
    width, rest = lanes(dy), dy.shape[2] % lanes(dy)
    new, zero = lane_between(dy, width - rest, width), fill(dy, 0.0)
    for f in range(0, dy.shape[3], width):
        for i in range(rows):
            row, to = dyn + (i * step(dy, 1) + f), turned + (f * apart + i * line)
            for j in range(0, dy.shape[2] - rest, width):
                transpose_block(row + j * step(dy, 2), step(dy, 2), to + j, apart)
            if rest != 0:
                tail = to + (dy.shape[2] - rest)
                transpose_block(row + (dy.shape[2] - width) * step(dy, 2), step(dy, 2), tail, apart)
                for k in range(min(dy.shape[3] - f, width)):
                    store(tail, k * apart, select(new, load(tail, k * apart), zero))


@inlined
def _add_rows(turned, apart, places, filters, sums):
    """The lanes of sums[f] += the sum of turned[f]."""
    width, zero = lanes(turned), fill(turned, 0.0)
    for f in range(filters):
        row, s0, s1 = turned + f * apart, load(sums, f * width), zero
        for k in range(0, places - width, 2 * width):
            s0, s1 = s0 + load(row, k), s1 + load(row, k + width)
        if places % (2 * width) != 0:
            s0 = s0 + load(row, places - width)
        store(sums, f * width, s0 + s1)


@inlined
def _two_cells(at, apart, line, turned, from_turned, turned_line, rows, places, t):
    """What `rows` rows give to two cells of the window: at[i, j] and what lies `apart` from it, times turned[f, i, j],
    lane by lane."""
    width = lanes(at)
    for i in range(rows):
        x, dy = at + i * line, turned + i * turned_line
        for _ in range(places // width):
            t = add_lanewise(t, dy, from_turned, 0, x, apart)
            x, dy = onward(x, width), onward(dy, width)
        if places % width != 0:
            t = add_lanewise(t, dy, from_turned, 0, at + (i * line + places - width), apart)
    return t


@inlined
def _cell(k, size_v, line, dilation):
    """How far cell k of the window is from the first."""
    return dilation * (k // size_v * line + k % size_v)


@inlined
def _store_totals(sums, apart, filters, row, room):
    """row[f] = the lanes of sums[f] together, and zeros in its room."""
    for f in range(0, room, lanes(row)):
        store(row, f, fill(row, 0.0))
    for f in range(filters):
        poke(row, f, total(load(sums, f * apart)))


@kernel(each="dw", intensity=16, fills=2)
def conv_backward_weights_plane(
    x: Array4,
    dy: Array4,
    dilation: int,
    dw: Array5,
    db: Array2,
    plane: Space3,
    turned: Space3,
    sums: Space3,
    first: int,
    last: int,
    worker: int,
):
    """conv_backward_weights for pictures of one channel. A worker turns as many rows of dy as it has room for, and
    takes them through all cells of the window, two at a time. `sums` is one run of tiles: the lanes of cells 0 and 1,
    of 2 and 3, ..., and of db."""
    count, slots, width, places = dy.shape[0], dw.shape[0], lanes(x), dy.shape[2]
    cells, size_v = dw.shape[1] * dw.shape[2], dw.shape[2]
    kept, in_turn, apart = own(sums, worker), own(turned, worker), step(turned, 1)
    turned_line, size = (places + width - 1) // width * width, 2 * ROWS * width
    band = turned.shape[2] // turned_line
    of_bias = kept + (cells + 1) // 2 * size
    from_turned, to_kept = in_line(0, dy.shape[3], apart), in_line(0, ROWS, 2 * width)
    for slot in range(first, last):
        begin, end = slot * count // slots, (slot + 1) * count // slots
        for k in range(0, (cells + 3) // 2 * size, width):
            store(kept, k, fill(x, 0.0))
        for n in range(begin, end):
            xn, line = _side_by_side(x, n, plane, worker)
            for i in range(0, dy.shape[1], band):
                rows, dyn = min(band, dy.shape[1] - i), pointer(dy) + (n * step(dy, 0) + i * step(dy, 1))
                _turn_rows(dyn, dy, rows, in_turn, apart, turned_line)
                _add_rows(in_turn, apart, rows * turned_line, dy.shape[3], of_bias)
                for k in range(0, cells, 2):
                    here = _cell(k, size_v, line, dilation)
                    further = _cell(min(k + 1, cells - 1), size_v, line, dilation) - here
                    t, at = load_tile(kept + k // 2 * size, to_kept, 2), xn + (i * line + here)
                    t = _two_cells(at, further, line, in_turn, from_turned, turned_line, rows, places, t)
                    store_tile(kept + k // 2 * size, to_kept, t)
        for k in range(cells):
            row = pointer(dw) + (slot * step(dw, 0) + k // size_v * step(dw, 1) + k % size_v * step(dw, 2))
            _store_totals(kept + (k // 2 * size + k % 2 * width), 2 * width, dw.shape[4], row, step(dw, 3))
        _store_totals(of_bias, width, dw.shape[4], pointer(db) + slot * step(db, 0), dw.shape[4])
