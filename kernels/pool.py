"""Pooling over windows of u < tall, v < wide: max, mean, and the mean of the whole picture.

    max   y[n, i, j, c] = max over u, v of x[n, i*stride + u - pad, j*stride + v - pad, c], none from the padding
    mean  y[n, i, j, c] = sum over the same places / (tall * wide): places in the padding count as zeros

With `rectify` the maximum is followed by a relu, or has one before it, which is the same: y = max(y, 0), and a window
whose maximum is not above 0 passes no gradient.

Each worker owns whole examples of y, or of dx. A tie goes to the first maximum in reading order; a NaN is a maximum.
"""

from nbnn.kernels.activation import floor
from nbnn.kernels.constants import BYTE_PLACES
from nbnn.kernels.jit import Array4, inlined, kernel, step
from nbnn.kernels.simd import fill, is_nan, lanes, load, load_bytes, pointer, select, store, store_bytes


@inlined
def _at(x, n, i, j):
    """Where place i, j of example n begins."""
    return pointer(x) + (n * step(x, 0) + i * step(x, 1) + j * step(x, 2))


@inlined
def clear(dx, n):
    """dx[n] = 0, the room behind the channels included."""
    for i in range(dx.shape[1]):
        for j in range(dx.shape[2]):
            place = _at(dx, n, i, j)
            for c in range(0, dx.shape[3], lanes(dx)):
                store(place, c, fill(dx, 0.0))


@inlined
def _window(place, stride, pad, reach, length):
    """The part of the window of output place `place` that lies inside the picture: first and last + 1."""
    start = place * stride - pad
    return max(start, 0), min(start + reach, length)


@inlined
def _first(i, j, top, left, wide, stride, pad):
    """The place within its window of what lies at top, left of the picture, counted from 1."""
    return (top - i * stride + pad) * wide + left - j * stride + pad + 1


@inlined
def _larger(value, place, best, where):
    """The larger of two numbers with its place, the second where they are equal; a NaN is larger than any number."""
    better = ~(value <= best) & ~is_nan(best)
    return select(better, value, best), select(better, place, where)


@inlined
def _positive(best, where, low):
    """0 and what a relu makes of it where a maximum is not above it."""
    nothing = best <= low
    return select(nothing, low, best), select(nothing, fill(best, 0.0), where)


@inlined
def _maximum(xp, x, low, place, wide, top, bottom, left, right):
    """The first maximum of a window and its place there."""
    best, one = load(xp, top * step(x, 1) + left * step(x, 2)), fill(x, 1.0)
    begin = fill(x, place)
    where = begin
    for u in range(top, bottom):
        here = begin
        for v in range(left, right):
            best, where = _larger(load(xp, u * step(x, 1) + v * step(x, 2)), here, best, where)
            here = here + one
        begin = begin + fill(x, wide)
    return _positive(best, where, low)


@inlined
def _maxima_of_four(at, x, stride, low, to_y, y, to_places, places):
    """A row of windows of 2x2 inside of the picture."""
    down, on, first = step(x, 1), step(x, 2), fill(x, 1.0)
    for _ in range(y.shape[2]):
        for c in range(0, y.shape[3], lanes(y)):
            best, where = _larger(load(at, on + c), first + 1.0, load(at, c), first)
            best, where = _larger(load(at, down + c), first + 2.0, best, where)
            best, where = _larger(load(at, down + on + c), first + 3.0, best, where)
            best, where = _positive(best, where, low)
            store(to_y, c, best)
            store_bytes(to_places, c, where)
        at, to_y, to_places = at + stride * on, to_y + step(y, 2), to_places + step(places, 2)


@kernel(each="x", intensity=2, fills=2)
def max_pool_forward(
    x: Array4,
    tall: int,
    wide: int,
    stride: int,
    pad: int,
    rectify: int,
    y: Array4,
    places: Array4,
    first: int,
    last: int,
):
    """`places` remembers the place u*wide + v + 1 of the maximum, or 0: so nobody needs x again, the largest array of
    many nets, and the way back is twice as fast as a search. Its rows are of bytes where BYTE_PLACES are enough. (2x2
    windows written out are twice as fast as loops.)"""
    low, as_bytes, four = floor(x, rectify), tall * wide <= BYTE_PLACES, tall == 2 and wide == 2 and pad == 0
    for n in range(first, last):
        xn = pointer(x) + n * step(x, 0)
        for i in range(y.shape[1]):
            if four:
                row = xn + i * stride * step(x, 1)
                _maxima_of_four(row, x, stride, low, _at(y, n, i, 0), y, _at(places, n, i, 0), places)
                continue
            top, bottom = _window(i, stride, pad, tall, x.shape[1])
            for j in range(y.shape[2]):
                left, right = _window(j, stride, pad, wide, x.shape[2])
                place = _first(i, j, top, left, wide, stride, pad)
                to_y, to_places = _at(y, n, i, j), _at(places, n, i, j)
                for c in range(0, y.shape[3], lanes(y)):
                    best, where = _maximum(xn + c, x, low, place, wide, top, bottom, left, right)
                    store(to_y, c, best)
                    if as_bytes:
                        store_bytes(to_places, c, where)
                    else:
                        store(to_places, c, where)


@inlined
def _there(where, place, given, dx):
    """A gradient where the maximum was found at this place, else 0."""
    return select(where == place, given, fill(dx, 0.0))


@inlined
def _gradients_of_four(from_places, places, from_dy, dy, stride, to, dx):
    """dy of a row of windows of 2x2, which do not overlap, where their maxima were found."""
    down, on, first = step(dx, 1), step(dx, 2), fill(dx, 1.0)
    for _ in range(dy.shape[2]):
        for c in range(0, dy.shape[3], lanes(dy)):
            where, given = load_bytes(from_places, c), load(from_dy, c)
            store(to, c, _there(where, first, given, dx))
            store(to, on + c, _there(where, first + 1.0, given, dx))
            store(to, down + c, _there(where, first + 2.0, given, dx))
            store(to, down + on + c, _there(where, first + 3.0, given, dx))
        to, from_dy, from_places = to + stride * on, from_dy + step(dy, 2), from_places + step(places, 2)


@inlined
def _max_gradients(places, dy, tall, wide, stride, pad, n, dx, fresh):
    """dy of each window where its maximum was found: fresh, with zeros elsewhere, or added to that of other windows."""
    dxn, down, on = pointer(dx) + n * step(dx, 0), step(dx, 1), step(dx, 2)
    as_bytes, four = tall * wide <= BYTE_PLACES, fresh and tall == 2 and wide == 2
    for i in range(dy.shape[1]):
        if four:
            row = dxn + i * stride * down
            _gradients_of_four(_at(places, n, i, 0), places, _at(dy, n, i, 0), dy, stride, row, dx)
            continue
        top, bottom = _window(i, stride, pad, tall, dx.shape[1])
        for j in range(dy.shape[2]):
            left, right = _window(j, stride, pad, wide, dx.shape[2])
            place = _first(i, j, top, left, wide, stride, pad)
            from_places, from_dy = _at(places, n, i, j), _at(dy, n, i, j)
            for c in range(0, dy.shape[3], lanes(dy)):
                where = load_bytes(from_places, c) if as_bytes else load(from_places, c)
                given, corner, begin = load(from_dy, c), dxn + (top * down + left * on + c), fill(dx, place)
                for u in range(bottom - top):
                    here = begin
                    for v in range(right - left):
                        part = _there(where, here, given, dx)
                        if not fresh:
                            part = part + load(corner, u * down + v * on)
                        store(corner, u * down + v * on, part)
                        here = here + 1.0
                    begin = begin + fill(dx, wide)


@inlined
def _clear_rest(dx, n, tall, wide, stride, rows, columns):
    """dx[n] = 0 outside of the windows at 0, stride, ..., of which there are rows x columns."""
    for i in range(dx.shape[1]):
        inside = i < rows * stride and i % stride < tall
        for j in range(dx.shape[2]):
            if not (inside and j < columns * stride and j % stride < wide):
                place = _at(dx, n, i, j)
                for c in range(0, dx.shape[3], lanes(dx)):
                    store(place, c, fill(dx, 0.0))


@kernel(each="dx", intensity=2)
def max_pool_backward(
    places: Array4, dy: Array4, tall: int, wide: int, stride: int, pad: int, dx: Array4, first: int, last: int
):
    """dx[place] = sum of dy over the windows that found their maximum there. Windows that do not overlap, such as 2x2
    with stride 2, write each place of dx once."""
    apart = pad == 0 and stride >= max(tall, wide)
    for n in range(first, last):
        if not apart:
            clear(dx, n)
        elif dy.shape[1] * tall != dx.shape[1] or dy.shape[2] * wide != dx.shape[2]:
            _clear_rest(dx, n, tall, wide, stride, dy.shape[1], dy.shape[2])
        _max_gradients(places, dy, tall, wide, stride, pad, n, dx, apart)


@kernel(each="x", intensity=2)
def avg_pool_forward(x: Array4, tall: int, wide: int, stride: int, pad: int, y: Array4, first: int, last: int):
    for n in range(first, last):
        xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
        for i in range(y.shape[1]):
            top, bottom = _window(i, stride, pad, tall, x.shape[1])
            for j in range(y.shape[2]):
                left, right = _window(j, stride, pad, wide, x.shape[2])
                for c in range(0, y.shape[3], lanes(y)):
                    s = fill(x, 0.0)
                    for u in range(top, bottom):
                        for v in range(left, right):
                            s = s + load(xn, u * step(x, 1) + v * step(x, 2) + c)
                    store(yn, i * step(y, 1) + j * step(y, 2) + c, s / (tall * wide))


@kernel(each="dx", intensity=2)
def avg_pool_backward(dy: Array4, tall: int, wide: int, stride: int, pad: int, dx: Array4, first: int, last: int):
    """dx[place] = sum of dy over the windows that hold the place / (tall * wide)."""
    for n in range(first, last):
        dyn, dxn = pointer(dy) + n * step(dy, 0), pointer(dx) + n * step(dx, 0)
        clear(dx, n)
        for i in range(dy.shape[1]):
            top, bottom = _window(i, stride, pad, tall, dx.shape[1])
            for j in range(dy.shape[2]):
                left, right = _window(j, stride, pad, wide, dx.shape[2])
                for c in range(0, dy.shape[3], lanes(dy)):
                    part = load(dyn, i * step(dy, 1) + j * step(dy, 2) + c) / (tall * wide)
                    for u in range(top, bottom):
                        for v in range(left, right):
                            place = u * step(dx, 1) + v * step(dx, 2) + c
                            store(dxn, place, load(dxn, place) + part)


@kernel(each="x", intensity=2)
def global_avg_pool_forward(x: Array4, y: Array4, first: int, last: int):
    """y[n, 0, 0, c] = mean over i, j of x[n, i, j, c]."""
    places = x.shape[1] * x.shape[2]
    for n in range(first, last):
        xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
        for c in range(0, x.shape[3], lanes(x)):
            s = fill(x, 0.0)
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    s = s + load(xn, i * step(x, 1) + j * step(x, 2) + c)
            store(yn, c, s / places)


@kernel(each="dx", intensity=2)
def global_avg_pool_backward(dy: Array4, dx: Array4, first: int, last: int):
    """dx[n, i, j, c] = dy[n, 0, 0, c] / (H * W)."""
    places = dx.shape[1] * dx.shape[2]
    for n in range(first, last):
        dyn, dxn = pointer(dy) + n * step(dy, 0), pointer(dx) + n * step(dx, 0)
        for c in range(0, dx.shape[3], lanes(dx)):
            part = load(dyn, c) / places
            for i in range(dx.shape[1]):
                for j in range(dx.shape[2]):
                    store(dxn, i * step(dx, 1) + j * step(dx, 2) + c, part)
