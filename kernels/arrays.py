"""Moves and sums that several ops share: layouts of weights, partial sums, gradients that meet.

Where a row of channels is written, its whole last register is written; where sums are made, one worker owns each place
and adds in the order of the slots or examples.
"""

import math

from nbnn.kernels.jit import Array1, Array2, Array3, Array4, inlined, kernel, step
from nbnn.kernels.simd import fill, lanes, load, peek, pointer, poke, store, total, transpose_block


@inlined
def row_length(x):
    """Elements of one picture row of x, the room behind the channels included: rows of x are one run of memory."""
    return x.shape[2] * step(x, 2)


@inlined
def squares(x, begin, end):
    """The sum of the squares of numbers begin ... end of x's memory: whole registers in four sums at a time, because
    each waits for itself; the rest one by one."""
    width = lanes(x)
    a, b, c, d = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0), fill(x, 0.0)
    fours = begin + (end - begin) // (4 * width) * (4 * width)
    for i in range(begin, fours, 4 * width):
        p = pointer(x) + i
        s, t, u, v = load(p, 0), load(p, width), load(p, 2 * width), load(p, 3 * width)
        a, b, c, d = a + s * s, b + t * t, c + u * u, d + v * v
    ones = begin + (end - begin) // width * width
    for i in range(fours, ones, width):
        v = load(pointer(x), i)
        a = a + v * v
    rest = 0.0
    for i in range(ones, end):
        rest += peek(pointer(x), i) * peek(pointer(x), i)
    return total((a + b) + (c + d)) + rest


@inlined
def length(x, n):
    """The length of x[n] as a vector."""
    height, cells, numbers = x.shape[1], x.shape[2], x.shape[3]
    if step(x, 2) == numbers * step(x, 3):  # a row is one run
        cells, numbers = 1, cells * numbers
    if cells == 1 and step(x, 1) == numbers * step(x, 3):  # so is a picture
        height, numbers = 1, height * numbers
    s = 0.0
    for h in range(height):
        for w in range(cells):
            at = n * step(x, 0) + h * step(x, 1) + w * step(x, 2)
            s += squares(x, at, at + numbers)
    return math.sqrt(s)


@kernel(each="x", intensity=2, whole=False)
def lengths(x: Array4, y: Array1, first: int, last: int):
    """y[n] = the length of x[n] as a vector."""
    for n in range(first, last):
        y[n] = length(x, n)


@kernel(each="w", axis=0)
def copy_rows(w: Array4, y: Array4, first: int, last: int):
    """y[h, v, c, m] = w[h, v, c, m]: the same numbers in another order of rows."""
    for h in range(first, last):
        for v in range(w.shape[1]):
            for c in range(w.shape[2]):
                to_y = pointer(y) + (h * step(y, 0) + v * step(y, 1) + c * step(y, 2))
                from_w = pointer(w) + (h * step(w, 0) + v * step(w, 1) + c * step(w, 2))
                for m in range(0, w.shape[3], lanes(w)):
                    store(to_y, m, load(from_w, m))


@inlined
def turn_block(source, source_step, target, target_step, rows, columns):
    """target[i * target_step + j] = source[j * source_step + i] for i < rows, j < columns, at most `lanes` of both; a
    row of the target is a whole register."""
    if rows == lanes(target) and columns == lanes(target):
        transpose_block(source, source_step, target, target_step)
    else:
        for i in range(rows):
            store(target, i * target_step, fill(target, 0.0))
            for j in range(columns):
                poke(target, i * target_step + j, peek(source, j * source_step + i))


@kernel(each="turned", axis=1, grain=16)
def turn(w: Array3, turned: Array3, first: int, last: int):
    """turned[p, f, c] = w[p, c, f]: the weights as the multiply towards the input wants them."""
    width, channels = lanes(w), w.shape[1]
    for p in range(w.shape[0]):
        wp, tp = pointer(w) + p * step(w, 0), pointer(turned) + p * step(turned, 0)
        for f in range(first, last, width):
            for c in range(0, channels, width):
                from_w, to_t = wp + (c * step(w, 1) + f), tp + (f * step(turned, 1) + c)
                turn_block(from_w, step(w, 1), to_t, step(turned, 1), min(width, last - f), min(width, channels - c))


@kernel(each="total", grain=1024)
def add_slots(partial: Array2, total: Array1, first: int, last: int):
    """total[i] = sum over s of partial[s, i], in the order of s."""
    for i in range(first, last, lanes(total)):
        s = load(pointer(partial), i)
        for slot in range(1, partial.shape[0]):
            s = s + load(pointer(partial) + slot * step(partial, 0), i)
        store(pointer(total), i, s)


@kernel(each="x", over="a")
def add_forward(a: Array4, x: Array4, y: Array4, first: int, last: int):
    """y[n, i, j, c] = a[n, i, j, c] + x[n, i, j, c]."""
    for n in range(first, last):
        for i in range(x.shape[1]):
            ap = pointer(a) + (n * step(a, 0) + i * step(a, 1))
            xp = pointer(x) + (n * step(x, 0) + i * step(x, 1))
            yp = pointer(y) + (n * step(y, 0) + i * step(y, 1))
            for e in range(0, row_length(y), lanes(y)):
                store(yp, e, load(ap, e) + load(xp, e))


@kernel(each="y", whole=False)
def clear_frame(pad: int, y: Array4, first: int, last: int):
    """The outermost `pad` rows and columns of y become zeros: its memory may have been another array's before."""
    for n in range(first, last):
        for i in range(y.shape[1]):
            inner = y.shape[2] - 2 * pad if pad <= i < y.shape[1] - pad else 0
            for k in range(y.shape[2] - inner):
                j = k if k < pad or inner == 0 else k + inner
                place = pointer(y) + (n * step(y, 0) + i * step(y, 1) + j * step(y, 2))
                for c in range(0, y.shape[3], lanes(y)):
                    store(place, c, fill(y, 0.0))


@kernel(each="x", over="x")
def copy(x: Array4, y: Array4, first: int, last: int):
    """y = x: the gradients of Add, and Identity."""
    for n in range(first, last):
        for i in range(x.shape[1]):
            xp = pointer(x) + (n * step(x, 0) + i * step(x, 1))
            yp = pointer(y) + (n * step(y, 0) + i * step(y, 1))
            for e in range(0, row_length(y), lanes(y)):
                store(yp, e, load(xp, e))


@kernel(each="x", whole=False)
def copy_channels(x: Array4, y: Array4, first: int, last: int):
    """y = x where either is a piece of the channels of wider pixels: nothing behind the last channel is touched."""
    whole = x.shape[3] // lanes(x) * lanes(x)
    for n in range(first, last):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                xp = pointer(x) + (n * step(x, 0) + i * step(x, 1) + j * step(x, 2))
                yp = pointer(y) + (n * step(y, 0) + i * step(y, 1) + j * step(y, 2))
                for c in range(0, whole, lanes(x)):
                    store(yp, c, load(xp, c))
                for c in range(whole, x.shape[3]):
                    poke(yp, c, peek(xp, c))


@kernel(each="x", whole=False)
def flatten_forward(x: Array4, y: Array4, first: int, last: int):
    """y[n, 0, 0, (c*H + i)*W + j] = x[n, i, j, c]: the order in which people flatten pictures."""
    height, width = x.shape[1], x.shape[2]
    for n in range(first, last):
        yp = pointer(y) + n * step(y, 0)
        for i in range(height):
            for j in range(width):
                xp = pointer(x) + (n * step(x, 0) + i * step(x, 1) + j * step(x, 2))
                for c in range(x.shape[3]):
                    poke(yp, (c * height + i) * width + j, peek(xp, c))


@kernel(each="dx", whole=False)
def flatten_backward(dy: Array4, dx: Array4, first: int, last: int):
    """dx[n, i, j, c] = dy[n, 0, 0, (c*H + i)*W + j]."""
    height, width = dx.shape[1], dx.shape[2]
    for n in range(first, last):
        yp = pointer(dy) + n * step(dy, 0)
        for i in range(height):
            for j in range(width):
                xp = pointer(dx) + (n * step(dx, 0) + i * step(dx, 1) + j * step(dx, 2))
                for c in range(dx.shape[3]):
                    poke(xp, c, peek(yp, (c * height + i) * width + j))


@kernel(each="dense", axis=2)
def expand_groups(w: Array4, groups: int, dense: Array4, first: int, last: int):
    """dense[u, v, c, f] = w[u, v, c - group of f * channels of a group, f] inside the group of f, else 0.

    A grouped convolution runs as a dense one: simple and correct for any size of a group, `groups` times the work.
    """
    channels, filters = w.shape[2], w.shape[3] // groups
    for u in range(w.shape[0]):
        for v in range(w.shape[1]):
            for c in range(first, last):
                group = c // channels
                row = pointer(dense) + (u * step(dense, 0) + v * step(dense, 1) + c * step(dense, 2))
                for f in range(0, dense.shape[3], lanes(dense)):
                    store(row, f, fill(dense, 0.0))
                for f in range(group * filters, (group + 1) * filters):
                    poke(row, f, w[u, v, c - group * channels, f])


@kernel(each="dw", axis=2, whole=False)
def collect_groups(dense: Array4, groups: int, dw: Array4, first: int, last: int):
    """dw[u, v, c, f] = dense[u, v, c + group of f * channels of a group, f]: the inverse of `expand_groups`."""
    channels, filters = dw.shape[2], dw.shape[3] // groups
    for u in range(dw.shape[0]):
        for v in range(dw.shape[1]):
            for c in range(first, last):
                for f in range(dw.shape[3]):
                    dw[u, v, c, f] = dense[u, v, c + (f // filters) * channels, f]
