"""Affine: y[n, m] = b[m] + sum over h, w, c of x[n, h, w, c] * w[h, w, c, m].

n example, h, w, c place and channel in, m unit. Each worker owns rows of y or dx, or features of dw: nothing is added
twice. Work goes in blocks: sums are cut into parts of at most DEPTH products, so that the panel of weights which a tile
reads stays in the first-level cache (16 KiB with AVX2), and the rows into NEAR at a time, whose part of x stays in the
second while all panels pass over it. A sum goes on where its last part ended, in the order of x, so no bit depends on
the cuts. (Measured on AVX2, 1000 x 4096 -> 500: 0.74 of the limit with all rows at once, 0.86 with 96.)
"""

from nbnn.kernels.constants import WHOLE_TILES
from nbnn.kernels.jit import Array1, Array2, Array3, Array4, Space3, inlined, kernel, own, step
from nbnn.kernels.simd import lanes, load, peek, pointer, poke, store
from nbnn.kernels.tile import ROWS, in_line, load_tile, multiply, places, start_tile, store_tile, zero_tile

DEPTH = 256
NEAR = 4 * WHOLE_TILES


@inlined
def _forward_columns(x, w, b, y, first, last, h, w0, c0, cells, depth, m, vectors):
    """One panel of columns of y, one part of the sum: `cells` places of row h of the picture from w0 on, numbers c0 ...
    c0 + depth of each."""
    xp = pointer(x) + (h * step(x, 1) + w0 * step(x, 2) + c0 * step(x, 3))
    wp = pointer(w) + (h * step(w, 0) + w0 * step(w, 1) + c0 * step(w, 2) + m)
    for i in range(first, last, ROWS):
        from_x, to_y = in_line(i, last, step(x, 0)), in_line(i, last, step(y, 0))
        if h == 0 and w0 == 0 and c0 == 0:
            c = start_tile(pointer(b) + m, vectors)
        else:
            c = load_tile(pointer(y) + m, to_y, vectors)
        c = multiply(xp, from_x, 0, step(x, 2), step(x, 3), wp, 0, step(w, 1), step(w, 2), 1, cells, depth, c)
        store_tile(pointer(y) + m, to_y, c)


@kernel(each="y", grain=ROWS, intensity=16)
def affine_forward(x: Array4, w: Array4, b: Array1, y: Array2, first: int, last: int):
    """Axes 1 to 3 of x and 0 to 2 of w may be in any order that is the same in both."""
    height, cells, numbers, units, width = x.shape[1], x.shape[2], x.shape[3], y.shape[1], lanes(x)
    if step(x, 2) == numbers * step(x, 3) and step(w, 1) == numbers * step(w, 2):  # a row is one run: one long sum
        cells, numbers = 1, cells * numbers
    if cells == 1 and step(x, 1) == numbers * step(x, 3) and step(w, 0) == numbers * step(w, 2):  # so is a picture
        height, numbers = 1, height * numbers
    few = max(1, DEPTH // numbers)  # cells of one part
    for h in range(height):
        for w0 in range(0, cells, few):
            part = min(few, cells - w0)
            for c0 in range(0, numbers, DEPTH):
                depth = min(DEPTH, numbers - c0)
                for i in range(first, last, NEAR):
                    end = min(i + NEAR, last)
                    for m in range(0, units, 2 * width):
                        if units - m > width:
                            _forward_columns(x, w, b, y, i, end, h, w0, c0, part, depth, m, 2)
                        else:
                            _forward_columns(x, w, b, y, i, end, h, w0, c0, part, depth, m, 1)


@inlined
def _data_columns(dy, turned, dx, first, last, h, w, m0, depth, c, vectors):
    bp = pointer(turned) + ((h * dx.shape[2] + w) * step(turned, 0) + m0 * step(turned, 1) + c)
    for i in range(first, last, ROWS):
        from_dy, to_dx = in_line(i, last, step(dy, 0)), in_line(i, last, step(dx, 0))
        place = pointer(dx) + (h * step(dx, 1) + w * step(dx, 2) + c)
        if m0 == 0:
            t = zero_tile(place, vectors)
        else:
            t = load_tile(place, to_dx, vectors)
        t = multiply(pointer(dy) + m0, from_dy, 0, 0, 1, bp, 0, 0, step(turned, 1), 1, 1, depth, t)
        store_tile(place, to_dx, t)


@kernel(each="dx", grain=ROWS, intensity=16)
def affine_backward_data(dy: Array2, turned: Array3, dx: Array4, first: int, last: int):
    """dx[n, h, w, c] = sum over m of dy[n, m] * turned[h * W + w, m, c]."""
    units, channels, width = dy.shape[1], dx.shape[3], lanes(dx)
    for m0 in range(0, units, DEPTH):
        depth = min(DEPTH, units - m0)
        for i in range(first, last, NEAR):
            end = min(i + NEAR, last)
            for h in range(dx.shape[1]):
                for w in range(dx.shape[2]):
                    for c in range(0, channels, 2 * width):
                        if channels - c > width:
                            _data_columns(dy, turned, dx, i, end, h, w, m0, depth, c, 2)
                        else:
                            _data_columns(dy, turned, dx, i, end, h, w, m0, depth, c, 1)


@inlined
def _hold(x, n0, depth, first, count, held, worker):
    """held[k, i] = feature first + i of example n0 + k, run by run: the channels of a place, or all where there are no
    gaps."""
    i, run = 0, x.shape[3]
    if step(x, 2) == run and step(x, 1) == x.shape[2] * run:
        run = x.shape[1] * x.shape[2] * run
    while i < count:
        cell, c = (first + i) // run, (first + i) % run
        at_h, at_w = cell // x.shape[2], cell % x.shape[2]
        source = pointer(x) + (n0 * step(x, 0) + at_h * step(x, 1) + at_w * step(x, 2) + c)
        target = own(held, worker) + i
        length = min(run - c, count - i)
        whole = length // lanes(x) * lanes(x)
        for k in range(depth):
            from_x, to_held = source + k * step(x, 0), target + k * step(held, 1)
            for j in range(0, whole, lanes(x)):
                store(to_held, j, load(from_x, j))
            for j in range(whole, length):
                poke(to_held, j, peek(from_x, j))
        i += length


@inlined
def _weights_columns(held, dy, dw, first, last, n0, depth, m, worker, vectors):
    for i in range(first, last, ROWS):
        from_held = in_line(i - first, last - first, 1)
        to_dw = places(i, last, dw.shape[1], dw.shape[2], step(dw, 0), step(dw, 1), step(dw, 2))
        if n0 == 0:
            t = zero_tile(pointer(dw), vectors)
        else:
            t = load_tile(pointer(dw) + m, to_dw, vectors)
        a, b = own(held, worker), pointer(dy) + (n0 * step(dy, 0) + m)
        t = multiply(a, from_held, 0, 0, step(held, 1), b, 0, 0, step(dy, 0), 1, 1, depth, t)
        store_tile(pointer(dw) + m, to_dw, t)


@kernel(each="features", grain=ROWS, intensity=16)
def affine_backward_weights(
    x: Array4, dy: Array2, features: int, dw: Array4, held: Space3, first: int, last: int, worker: int
):
    """dw[h, w, c, m] = sum over n of x[n, h, w, c] * dy[n, m]. `features` is their number, h * w * c.

    held[worker] takes a block of x, examples by features, that all panels of dw read: in x itself each example is on
    another page of memory (measured on AVX2: 0.84 of the limit instead of 0.38 with 1000 x 4096 -> 500, 0.93 instead of
    0.86 with 64 x 784 -> 256).
    """
    count, units, width, examples, near = x.shape[0], dy.shape[1], lanes(x), held.shape[1], held.shape[2]
    for i in range(first, last, near):
        end = min(i + near, last)
        for n0 in range(0, count, examples):
            depth = min(examples, count - n0)
            _hold(x, n0, depth, i, end - i, held, worker)
            for m in range(0, units, 2 * width):
                if units - m > width:
                    _weights_columns(held, dy, dw, i, end, n0, depth, m, worker, 2)
                else:
                    _weights_columns(held, dy, dw, i, end, n0, depth, m, worker, 1)
