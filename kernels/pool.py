"""Pooling over windows of u < tall, v < wide: max, mean, and the mean of the whole picture.

    max   y[n, i, j, c] = max over u, v of x[n, i*stride + u - pad, j*stride + v - pad, c], none from the padding
    mean  y[n, i, j, c] = sum over the same places / (tall * wide): places in the padding count as zeros

With `rectify` the maximum is followed by a relu, or has one before it, which is the same: y = max(y, 0), and a window
whose maximum is not above 0 passes no gradient.

Each worker owns whole examples of y, or of dx. A tie goes to the first maximum in reading order; a NaN is a maximum.
"""

from nbnn.kernels.activation import floor
from nbnn.kernels.jit import Array4, inlined, kernel, step
from nbnn.kernels.simd import fill, is_nan, lanes, load, pointer, select, store


@inlined
def clear(dx, n):
    """dx[n] = 0, the room behind the channels included."""
    for i in range(dx.shape[1]):
        for j in range(dx.shape[2]):
            place = pointer(dx) + (n * step(dx, 0) + i * step(dx, 1) + j * step(dx, 2))
            for c in range(0, dx.shape[3], lanes(dx)):
                store(place, c, fill(dx, 0.0))


@inlined
def _window(place, stride, pad, reach, length):
    """The part of the window of output place `place` that lies inside the picture: first and last + 1."""
    start = place * stride - pad
    return max(start, 0), min(start + reach, length)


@kernel(each="x", intensity=2)
def max_pool_forward(
    x: Array4, tall: int, wide: int, stride: int, pad: int, rectify: int, y: Array4, first: int, last: int
):
    """Row by row of x, each into its row of y: memory is read in its order (measured: twice as fast as window by
    window where x is in no cache)."""
    low = floor(x, rectify)
    for n in range(first, last):
        for i in range(y.shape[1]):
            top, bottom = _window(i, stride, pad, tall, x.shape[1])
            yp = pointer(y) + (n * step(y, 0) + i * step(y, 1))
            for u in range(top, bottom):
                xp = pointer(x) + (n * step(x, 0) + u * step(x, 1))
                for j in range(y.shape[2]):
                    left, right = _window(j, stride, pad, wide, x.shape[2])
                    for c in range(0, y.shape[3], lanes(y)):
                        best = load(xp, left * step(x, 2) + c) if u == top else load(yp, j * step(y, 2) + c)
                        for v in range(left, right):
                            value = load(xp, v * step(x, 2) + c)
                            best = select((value > best) | is_nan(value), value, best)
                        store(yp, j * step(y, 2) + c, select(best <= low, low, best))


@inlined
def _window_gradient(xn, x, best, rest, top, bottom, left, right, c, dxn, dx, fresh):
    """dx of one window and one register of channels: `rest` where the maximum is found first, zero elsewhere; fresh, or
    added to what other windows gave."""
    zero = fill(x, 0.0)
    waiting = zero <= zero
    for u in range(top, bottom):
        for v in range(left, right):
            value = load(xn, u * step(x, 1) + v * step(x, 2) + c)
            found = waiting & ((value == best) | is_nan(value))  # with a NaN there, best is one
            waiting = waiting & ~found
            place, part = u * step(dx, 1) + v * step(dx, 2) + c, select(found, rest, zero)
            if not fresh:
                part = part + load(dxn, place)
            store(dxn, place, part)


@inlined
def _max_gradients(x, y, dy, tall, wide, stride, pad, low, n, dx, fresh):
    xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
    dyn, dxn = pointer(dy) + n * step(dy, 0), pointer(dx) + n * step(dx, 0)
    for i in range(y.shape[1]):
        top, bottom = _window(i, stride, pad, tall, x.shape[1])
        for j in range(y.shape[2]):
            left, right = _window(j, stride, pad, wide, x.shape[2])
            for c in range(0, y.shape[3], lanes(y)):
                best = load(yn, i * step(y, 1) + j * step(y, 2) + c)
                rest = load(dyn, i * step(dy, 1) + j * step(dy, 2) + c)
                rest = select(best <= low, fill(y, 0.0), rest)
                _window_gradient(xn, x, best, rest, top, bottom, left, right, c, dxn, dx, fresh)


@kernel(each="x", intensity=2)
def max_pool_backward(
    x: Array4,
    y: Array4,
    dy: Array4,
    tall: int,
    wide: int,
    stride: int,
    pad: int,
    rectify: int,
    dx: Array4,
    first: int,
    last: int,
):
    """dx[place] = sum of dy over the windows whose first maximum is at that place: found again, not remembered."""
    for n in range(first, last):
        clear(dx, n)
        _max_gradients(x, y, dy, tall, wide, stride, pad, floor(x, rectify), n, dx, False)


@inlined
def _clear_rest(dx, n, tall, wide, stride, rows, columns):
    """dx[n] = 0 outside of the windows at 0, stride, ..., of which there are rows x columns."""
    for i in range(dx.shape[1]):
        inside = i < rows * stride and i % stride < tall
        for j in range(dx.shape[2]):
            if not (inside and j < columns * stride and j % stride < wide):
                place = pointer(dx) + (n * step(dx, 0) + i * step(dx, 1) + j * step(dx, 2))
                for c in range(0, dx.shape[3], lanes(dx)):
                    store(place, c, fill(dx, 0.0))


@kernel(each="x", intensity=2, over="x")
def max_pool_backward_apart(
    x: Array4, y: Array4, dy: Array4, tall: int, wide: int, stride: int, rectify: int, dx: Array4, first: int, last: int
):
    """max_pool_backward without padding and with windows that do not overlap, such as 2x2 with stride 2: 1.4 times as
    fast, and dx may take the place of x, often the largest array of a net."""
    for n in range(first, last):
        _max_gradients(x, y, dy, tall, wide, stride, 0, floor(x, rectify), n, dx, True)
        if y.shape[1] * tall != dx.shape[1] or y.shape[2] * wide != dx.shape[2]:
            _clear_rest(dx, n, tall, wide, stride, y.shape[1], y.shape[2])


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
