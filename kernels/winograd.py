"""Convolution with a 3x3 window and stride 1 by Winograd's way: 36 products for 16 places of y instead of 144.

A tile is 4 x 4 places of y and the 6 x 6 places of x that they read. Both polynomials of a product are taken at six
points, multiplied there, and the product is read back from its values; in two dimensions along rows, then columns:

    forward          y  = R (U . V) R'     U = W w W',  V = X x X'      . multiplies place by place, sums over channels
    to the input     the same, from dy with w turned and flipped
    to the weights   dw = S (sum over tiles of Q . V) S'     Q = D dy D'      V is that of the forward pass

X, W, R, D, S are small fixed matrices, here written out as the sums that they are. The points are 0, 1, -1, 2, -1/2 and
infinity: the textbook's 0, 1, -1, 2, -2, infinity have a worst error three times as large at the same cost. Each of the
36 products is one tile multiply: its rows are tiles of the picture, its columns filters.

Two things come for free at the point (1, 1), where every polynomial is the sum of its coefficients: a bias added to
that product is added to all 16 places of y, and the sum of Q over the tiles is the gradient of the bias.

Forward and to the input, a worker owns whole examples of y, or filters where those are many and tiles few (`wide`); to
the weights, a slot of dw, as in `conv.py`. A worker has room of its own for the tiles that it works on: v, q, m, the
sums, and a patch for tiles that hang over the edge; for values of w that it makes itself, u; and for cells of w that it
turns.
"""

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.arrays import turn_block
from nbnn.kernels.constants import POINTS, TILE, TILE_READS, WIDE
from nbnn.kernels.conv import clear_spare
from nbnn.kernels.jit import Array1, Array2, Array3, Array4, Array5, Space3, Space4, inlined, kernel, own, step
from nbnn.kernels.simd import _INT64, at, fill, lanes, load, pointer, spread, store
from nbnn.kernels.tile import ROWS, in_line, load_tile, multiply, start_tile, store_tile, zero_tile

ONE = POINTS + 1  # the point (1, 1) among the 36


# ---- the five matrices, each as a function of numbers that can be added and multiplied


def values_of_x(d):
    """X d: six numbers of x as the six values that products need."""
    q, r = d[4] - d[2], d[3] - d[1]
    h, g = q - d[3] * 1.5, r - d[2] * 1.5
    return q - r * 1.5 + (d[0] - d[2]), h + g, h - g, q + r * 0.5, q - r * 2.0, d[5] - d[3] - q * 1.5 - r


def values_of_w(d):
    """W d: a filter of three at the six points, each divided by what the other points make of it."""
    even = d[0] + d[2]
    return (
        d[0],
        (even + d[1]) * (-1.0 / 3.0),
        (even - d[1]) * (1.0 / 3.0),
        (d[2] * 4.0 + d[1] * 2.0 + d[0]) * (1.0 / 15.0),
        (d[2] * 0.25 - d[1] * 0.5 + d[0]) * (-16.0 / 15.0),
        d[2],
    )


def places_of_y(m):
    """R m: four places of y from the six products."""
    even, odd = m[1] + m[2], m[1] - m[2]
    return (
        m[0] + even + m[3] + m[4],
        odd + m[3] * 2.0 - m[4] * 0.5,
        even + m[3] * 4.0 + m[4] * 0.25,
        odd + m[3] * 8.0 - m[4] * 0.125 + m[5],
    )


def values_of_dy(d):
    """D d: four numbers of dy at the six points; what W divides by, S does here."""
    even, odd = d[0] + d[2], d[1] + d[3]
    return (
        d[0],
        even + odd,
        even - odd,
        d[0] + d[1] * 2.0 + d[2] * 4.0 + d[3] * 8.0,
        d[0] - d[1] * 0.5 + d[2] * 0.25 - d[3] * 0.125,
        d[3],
    )


def places_of_dw(m):
    """S m: three cells of dw from the six sums."""
    one, other, two, half = m[1] * (-1.0 / 3.0), m[2] * (1.0 / 3.0), m[3] * (1.0 / 15.0), m[4] * (-16.0 / 15.0)
    even = one + other
    return m[0] + even + two + half, one - other + two * 2.0 - half * 0.5, even + two * 4.0 + half * 0.25 + m[5]


class _Sum:
    """A register in the making: arithmetic on it writes instructions."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def __add__(self, other):
        return _Sum(self.builder, self.builder.fadd(self.value, other.value, flags=("contract", "nsz")))

    def __sub__(self, other):
        return _Sum(self.builder, self.builder.fsub(self.value, other.value, flags=("contract", "nsz")))

    def __mul__(self, number):
        kind = self.value.type
        factor = spread(self.builder, ir.Constant(kind.element, number), kind.count)
        return _Sum(self.builder, self.builder.fmul(self.value, factor, flags=("contract", "nsz")))


def _both_ways(rule, size):
    """The intrinsic that takes a patch of size x size registers, applies the rule to its columns, then to its rows, and
    stores what comes out: (source, step of a row, step of a place, target, step of a row, step of a place)."""

    @intrinsic
    def apply(typing, source, row, place, target, target_row, target_place):
        def emit(context, builder, sig, args):
            source_at, row, place, target_at, target_row, target_place = args
            align = source.dtype.bitwidth // 8

            def cell(pointer, i, i_step, j, j_step):
                offset = builder.add(builder.mul(i_step, _INT64(i)), builder.mul(j_step, _INT64(j)))
                return at(builder, pointer, offset, source.vector)

            def column(j):
                cells = (cell(source_at, i, row, j, place) for i in range(size))
                return rule([_Sum(builder, builder.load(c, align=align)) for c in cells])

            columns = [column(j) for j in range(size)]
            for i in range(len(columns[0])):
                for j, value in enumerate(rule([c[i] for c in columns])):
                    builder.store(value.value, cell(target_at, i, target_row, j, target_place), align=align)
            return context.get_dummy_value()

        return types.void(source, types.int64, types.int64, target, types.int64, types.int64), emit

    return apply


_x_to_values = _both_ways(values_of_x, TILE_READS)
_w_to_values = _both_ways(values_of_w, 3)
_values_to_y = _both_ways(places_of_y, POINTS)
_dy_to_values = _both_ways(values_of_dy, TILE)
_values_to_dw = _both_ways(places_of_dw, POINTS)


# ---- tiles of a picture


@inlined
def _place_of(tile, down, across):
    """The example, row and column at which a tile of the batch begins."""
    n, rest = tile // (down * across), tile % (down * across)
    return n, rest // across * TILE, rest % across * TILE


@inlined
def _copy_patch(source, row, pixel, height, width, target, size, room, channels):
    """size x size places at the target, `room` apart: the height x width that there are, the rest zeros."""
    for i in range(size):
        for j in range(size):
            there = i < height and j < width
            for c in range(0, channels, lanes(target)):
                if there:
                    store(target, (i * size + j) * room + c, load(source, i * row + j * pixel + c))
                else:
                    store(target, (i * size + j) * room + c, fill(target, 0.0))


def _taker(to_values, size):
    @inlined
    def take(x, c0, channels, first, count, down, across, patch, v, worker):
        """v[p, t] = the values of tile first + t at point p, channels c0 ... c0 + channels of x."""
        spare, room = own(patch, worker), step(patch, 2)
        for t in range(count):
            n, i, j = _place_of(first + t, down, across)
            source = pointer(x) + (n * step(x, 0) + i * step(x, 1) + j * step(x, 2) + c0)
            row, pixel = step(x, 1), step(x, 2)
            height, width = x.shape[1] - i, x.shape[2] - j
            if height < size or width < size:
                _copy_patch(source, row, pixel, height, width, spare, size, room, channels)
                source, row, pixel = spare, size * room, room
            for c in range(0, channels, lanes(x)):
                to_v = own(v, worker) + (t * step(v, 2) + c)
                to_values(source + c, row, pixel, to_v, POINTS * step(v, 1), step(v, 1))

    return take


_take_x, _take_dy = _taker(_x_to_values, TILE_READS), _taker(_dy_to_values, TILE)


@inlined
def _give_y(m, first, count, down, across, patch, y, start, filters, worker):
    """The places of tiles first ... of y, filters start ..., from their products."""
    spare, width = own(patch, worker), lanes(y)
    for t in range(count):
        n, i, j = _place_of(first + t, down, across)
        below, right = y.shape[1] - i, y.shape[2] - j
        for f in range(0, filters, width):
            target = pointer(y) + (n * step(y, 0) + i * step(y, 1) + j * step(y, 2) + start + f)
            from_m = own(m, worker) + (t * step(m, 2) + f)
            if below >= TILE and right >= TILE:
                _values_to_y(from_m, POINTS * step(m, 1), step(m, 1), target, step(y, 1), step(y, 2))
            else:
                _values_to_y(from_m, POINTS * step(m, 1), step(m, 1), spare, TILE * width, width)
                for u in range(min(below, TILE)):
                    for v in range(min(right, TILE)):
                        store(target, u * step(y, 1) + v * step(y, 2), load(spare, (u * TILE + v) * width))


@inlined
def _panel(vp, v, up, row, bp, start, mp, m, count, channels, vectors):
    for t in range(0, count, ROWS):
        from_v, to_m = in_line(t, count, step(v, 2)), in_line(t, count, step(m, 2))
        c = start_tile(bp, vectors) if start else zero_tile(mp, vectors)
        store_tile(mp, to_m, multiply(vp, from_v, 0, 0, 1, up, 0, 0, row, 1, 1, channels, c))


@inlined
def _products(v, from_u, point, row, from_b, count, channels, filters, m, worker):
    """m[p, t, f] = sum over c of v[p, t, c] * u[p, c, f]; `point` and `row` are the steps of u. Point by point, because
    what belongs to one stays near: panel by panel of filters, each through all points, is 0.6 times as fast with 256
    filters, 0.8 times with 64."""
    for p in range(POINTS * POINTS):
        for f in range(0, filters, 2 * lanes(v)):
            vp, up = own(v, worker) + p * step(v, 1), from_u + (p * point + f)
            mp, bp = own(m, worker) + (p * step(m, 1) + f), from_b + f
            if filters - f > lanes(v):
                _panel(vp, v, up, row, bp, p == ONE, mp, m, count, channels, 2)
            else:
                _panel(vp, v, up, row, bp, p == ONE, mp, m, count, channels, 1)


@inlined
def _take_w(w, first, last, f0, filters, to_u, point, row):
    """The values of filters f0 ... of channels first ... last: rows of u."""
    for c in range(first, last):
        for f in range(0, filters, lanes(w)):
            from_w = pointer(w) + (c * step(w, 2) + f0 + f)
            _w_to_values(from_w, step(w, 0), step(w, 1), to_u + (c * row + f), POINTS * point, point)


@inlined
def _take_turned(w, first, last, c0, channels, to_u, point, row, cells, worker):
    """The values of channels c0 ... of filters first ... last: rows of u. cells[worker] takes a square of channels and
    filters of each of the nine cells, turned."""
    width, room, cell = lanes(w), own(cells, worker), step(cells, 1)
    for f in range(first, last, width):
        filters = min(width, last - f)
        for c in range(0, channels, width):
            source = pointer(w) + ((c0 + c) * step(w, 2) + f)
            for i in range(3):
                for j in range(3):
                    from_w, to_cell = source + (i * step(w, 0) + j * step(w, 1)), room + (3 * i + j) * cell
                    turn_block(from_w, step(w, 2), to_cell, width, filters, min(width, channels - c))
            for k in range(filters):
                target = to_u + ((f + k) * row + c)
                _w_to_values(room + k * width, 3 * cell, cell, target, POINTS * point, point)


@kernel(each="w", axis=2, intensity=8)
def winograd_weights(w: Array4, u: Array3, first: int, last: int):
    """u[p, c, f] = the value of filter f, channel c at point p."""
    _take_w(w, first, last, 0, w.shape[3], pointer(u), step(u, 0), step(u, 1))


@kernel(each="u", axis=1, grain=16, intensity=8)
def winograd_weights_turned(w: Array4, u: Array3, cells: Space3, first: int, last: int, worker: int):
    """u[p, f, c] = the value of filter f, channel c at point p."""
    _take_turned(w, first, last, 0, w.shape[2], pointer(u), step(u, 0), step(u, 1), cells, worker)


@kernel(each="y", intensity=16)
def conv_forward_winograd(
    x: Array4, u: Array3, b: Array1, y: Array4, v: Space4, m: Space4, patch: Space4, first: int, last: int, worker: int
):
    """conv_forward from the values of w: 2.8 to 3 times as fast from 64 channels on, 1.9 times with 32."""
    down, across = (y.shape[1] + TILE - 1) // TILE, (y.shape[2] + TILE - 1) // TILE
    channels, filters, together = x.shape[3], y.shape[3], v.shape[2]
    end = last * down * across
    for tile in range(first * down * across, end, together):
        count = min(together, end - tile)
        _take_x(x, 0, channels, tile, count, down, across, patch, v, worker)
        _products(v, pointer(u), step(u, 0), step(u, 1), pointer(b), count, channels, filters, m, worker)
        _give_y(m, tile, count, down, across, patch, y, 0, filters, worker)


@kernel(each="filters", grain=WIDE, intensity=16)
def conv_winograd_wide(
    x: Array4,
    w: Array4,
    turned: int,
    filters: int,
    b: Array1,
    y: Array4,
    v: Space4,
    u: Space4,
    m: Space4,
    patch: Space4,
    cells: Space3,
    first: int,
    last: int,
    worker: int,
):
    """conv_forward from w itself, or where `turned` from w with channels and filters exchanged, for weights whose
    values are more than a cache holds: each worker owns filters of y, WIDE at a time, makes their values, and forgets
    them. Every worker takes the values of x, and makes those of w anew for each `together` tiles. (Measured with one
    tile of 4 x 4 in each of 64 pictures, 512 channels and filters: as fast as from values made before, without their 36
    MiB.)"""
    down, across = (y.shape[1] + TILE - 1) // TILE, (y.shape[2] + TILE - 1) // TILE
    channels, together, end = x.shape[3], v.shape[2], x.shape[0] * down * across
    to_u, point, row = own(u, worker), step(u, 1), step(u, 2)
    for tile in range(0, end, together):
        count = min(together, end - tile)
        _take_x(x, 0, channels, tile, count, down, across, patch, v, worker)
        for f in range(first, last, WIDE):
            some = min(WIDE, last - f)
            if turned:
                _take_turned(w, 0, channels, f, some, to_u, point, row, cells, worker)
            else:
                _take_w(w, 0, channels, f, some, to_u, point, row)
            _products(v, to_u, point, row, pointer(b) + f, count, channels, some, m, worker)
            _give_y(m, tile, count, down, across, patch, y, f, some, worker)


@inlined
def _add_panel(vp, v, qp, q, place, sums, fresh, count, channels, vectors):
    for c in range(0, channels, ROWS):
        from_v, to_sums = in_line(c, channels, 1), in_line(c, channels, step(sums, 2))
        t = zero_tile(place, vectors) if fresh else load_tile(place, to_sums, vectors)
        t = multiply(vp, from_v, 0, 0, step(v, 2), qp, 0, 0, step(q, 2), 1, 1, count, t)
        store_tile(place, to_sums, t)


@inlined
def _add_products(v, q, count, channels, filters, sums, fresh, worker):
    """sums[p, c, f] (+)= sum over tiles t of v[p, t, c] * q[p, t, f], point by point."""
    for p in range(POINTS * POINTS):
        for f in range(0, filters, 2 * lanes(v)):
            vp, qp = own(v, worker) + p * step(v, 1), own(q, worker) + (p * step(q, 1) + f)
            place = own(sums, worker) + (p * step(sums, 1) + f)
            if filters - f > lanes(v):
                _add_panel(vp, v, qp, q, place, sums, fresh, count, channels, 2)
            else:
                _add_panel(vp, v, qp, q, place, sums, fresh, count, channels, 1)


@kernel(each="items", intensity=16, fills=2)
def conv_backward_weights_winograd(
    x: Array4,
    dy: Array4,
    items: int,
    dw: Array5,
    db: Array2,
    v: Space4,
    q: Space4,
    sums: Space4,
    patch: Space4,
    first: int,
    last: int,
    worker: int,
):
    """conv_backward_weights, 2.5 to 3 times as fast from 64 channels on, 2.2 times with 32.

    Item s * blocks + k is the k-th block of channels of slot s; v and sums have room for one block, which is whole
    registers unless there is only one.
    """
    down, across = (dy.shape[1] + TILE - 1) // TILE, (dy.shape[2] + TILE - 1) // TILE
    count, slots, filters, width = dy.shape[0], dw.shape[0], dy.shape[3], lanes(x)
    blocks, size, together = items // slots, v.shape[3], v.shape[2]
    for item in range(first, last):
        slot, c0 = item // blocks, item % blocks * size
        channels, dbs = min(size, x.shape[3] - c0), pointer(db) + slot * step(db, 0)
        begin, end = slot * count // slots * down * across, (slot + 1) * count // slots * down * across
        for tile in range(begin, end, together):
            part, fresh = min(together, end - tile), tile == begin
            _take_x(x, c0, channels, tile, part, down, across, patch, v, worker)
            _take_dy(dy, 0, filters, tile, part, down, across, patch, q, worker)
            _add_products(v, q, part, channels, filters, sums, fresh, worker)
            if c0 == 0:
                for f in range(0, filters, width):
                    total = fill(dy, 0.0) if fresh else load(dbs, f)
                    for t in range(part):
                        total = total + load(own(q, worker), ONE * step(q, 1) + t * step(q, 2) + f)
                    store(dbs, f, total)
        clear_spare(dw, slot, c0, c0 + channels)
        for c in range(channels):
            to_dw = pointer(dw) + (slot * step(dw, 0) + (c0 + c) * step(dw, 3))
            for f in range(0, filters, width):
                from_sums = own(sums, worker) + (c * step(sums, 2) + f)
                _values_to_dw(from_sums, POINTS * step(sums, 1), step(sums, 1), to_dw + f, step(dw, 1), step(dw, 2))
