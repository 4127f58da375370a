"""Convolution:

    y[n, i, j, f] = b[f] + sum over u, v, c of x[n, i*stride + u*dilation, j*stride + v*dilation, c] * w[u, v, c, f]

n example, i, j output place, u, v window place, c channel in, f filter. x comes with its padding of zeros; nothing here
pads. Every product is one tile multiply: the rows of a tile are places (or window cells, for dw), its columns are
filters or channels.

Forward and backward to the input: a worker owns whole examples of y or dx. Backward to the weights: slot s owns
partial[s], the sum over its own share of the examples; `add_slots` then adds the slots in their order. The number of
slots comes with the arrays, so the order of every addition is the same for any number of threads.
"""

from nbnn.kernels.constants import CACHE_LINE
from nbnn.kernels.jit import Array1, Array2, Array3, Array4, Array5, Space3, inlined, kernel, own, step
from nbnn.kernels.simd import fill, lane_between, lanes, load, pointer, select, store
from nbnn.kernels.tile import ROWS, in_line, load_tile, multiply, places, start_tile, store_tile, zero_tile

# Bytes of x and dy that a tile of dw reads before the next tile reads them again: most of a first-level cache of 32
# KiB. (Measured on AVX2 with the first layers of the bench and with 64, 128, 256 channels: with a third more, 256
# channels are a seventh slower; with a third less, first layers a tenth.)
IN_CACHE = 3 << 13


@inlined
def _forward_columns(xn, x, w, b, stride, dilation, yn, y, f, vectors):
    height, width = y.shape[1], y.shape[2]
    runs, depth = w.shape[1], w.shape[2]
    if dilation == 1 and step(x, 2) == depth:  # one window row is one run of memory: fewer, longer sums
        runs, depth = 1, runs * depth
    for p in range(0, height * width, ROWS):
        from_x = places(p, height * width, height, width, 0, stride * step(x, 1), stride * step(x, 2))
        to_y = places(p, height * width, height, width, 0, step(y, 1), step(y, 2))
        c = multiply(
            xn,
            from_x,
            dilation * step(x, 1),
            dilation * step(x, 2),
            1,
            pointer(w) + f,
            step(w, 0),
            step(w, 1),
            step(w, 2),
            w.shape[0],
            runs,
            depth,
            start_tile(pointer(b) + f, vectors),
        )
        store_tile(yn + f, to_y, c)


@kernel(each="y", intensity=16)
def conv_forward(x: Array4, w: Array4, b: Array1, stride: int, dilation: int, y: Array4, first: int, last: int):
    filters, width = w.shape[3], lanes(x)
    for n in range(first, last):
        xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
        for f in range(0, filters, 2 * width):
            if filters - f > width:
                _forward_columns(xn, x, w, b, stride, dilation, yn, y, f, 2)
            else:
                _forward_columns(xn, x, w, b, stride, dilation, yn, y, f, 1)


@inlined
def hop_of(stride, dilation):
    """How many cells further the next cell of the window is that meets the same places of dx, and how many places
    earlier it reads dy."""
    hop = 1
    while (hop * dilation) % stride != 0:
        hop += 1
    return hop, hop * dilation // stride


@inlined
def met_along(place, side, size, stride, dilation, pad, hop):
    """On one axis, the places `place`, `place` + stride, ... below `side` share their window cells `cell`, `cell` +
    hop, ... below `size`: how many places there are, the first cell, how many cells, and which place of dy the first
    place meets there."""
    cell = 0
    while cell < size and (place + pad - cell * dilation) % stride != 0:
        cell += 1
    count, cells = (side - place + stride - 1) // stride, (size - cell + hop - 1) // hop
    return count, cell, cells, (place + pad - cell * dilation) // stride


@inlined
def _data_columns(a, dy, turned, down, across, hop, back, stride, place, dx, c, vectors):
    """One panel of channels of those places that share their window cells, as `met_along` tells both axes."""
    height, u0, count_u, _ = down
    width, v0, count_v, _ = across
    row, pixel = step(dy, 1), step(dy, 2)
    b = pointer(turned) + (u0 * step(turned, 0) + v0 * step(turned, 1) + c)
    for p in range(0, height * width, ROWS):
        from_dy = places(p, height * width, height, width, 0, row, pixel)
        to_dx = places(p, height * width, height, width, 0, stride * step(dx, 1), stride * step(dx, 2))
        t = multiply(
            a,
            from_dy,
            -back * row,
            -back * pixel,
            1,
            b,
            hop * step(turned, 0),
            hop * step(turned, 1),
            step(turned, 2),
            count_u,
            count_v,
            turned.shape[2],
            zero_tile(a, vectors),
        )
        store_tile(place + c, to_dx, t)


@kernel(each="dx", intensity=16)
def conv_backward_data(
    dy: Array4, turned: Array4, stride: int, dilation: int, pad: int, halo: int, dx: Array4, first: int, last: int
):
    """dx[n, i, j, c] = sum over u, v, f of dy[n, (i + pad - u*dilation) / stride, ..., f] * turned[u, v, f, c], where
    that divides.

    dy comes with a frame of `halo` zeros. Places of dx with equal remainders modulo the stride use the same window
    cells, so each of the stride * stride sets of places is one dense multiply; no multiplication by a zero between
    strides is done.
    """
    channels, width = dx.shape[3], lanes(dx)
    hop, back = hop_of(stride, dilation)
    for n in range(first, last):
        for i0 in range(min(stride, dx.shape[1])):
            down = met_along(i0, dx.shape[1], turned.shape[0], stride, dilation, pad, hop)
            for j0 in range(min(stride, dx.shape[2])):
                across = met_along(j0, dx.shape[2], turned.shape[1], stride, dilation, pad, hop)
                a = pointer(dy) + (n * step(dy, 0) + (down[3] + halo) * step(dy, 1) + (across[3] + halo) * step(dy, 2))
                place = pointer(dx) + (n * step(dx, 0) + i0 * step(dx, 1) + j0 * step(dx, 2))
                for c in range(0, channels, 2 * width):
                    if channels - c > width:
                        _data_columns(a, dy, turned, down, across, hop, back, stride, place, dx, c, 2)
                    else:
                        _data_columns(a, dy, turned, down, across, hop, back, stride, place, dx, c, 1)


@inlined
def _met(place, taps, back, length):
    """Which cells of a column of the window, one every `back` rows, meet a row of dy: the first, and the last + 1."""
    begin = 0
    while begin < taps and place - begin * back >= length:
        begin += 1
    end = begin
    while end < taps and place - end * back >= 0:
        end += 1
    return begin, end


@inlined
def _window_columns(a, from_dy, row, turned, b, deeper, taps, columns, to_columns, vectors):
    """One panel of the columns (v, c)."""
    t = zero_tile(b, vectors)
    t = multiply(a, from_dy, row, 0, 1, b, deeper, 0, step(turned, 1), taps, 1, turned.shape[1], t)
    store_tile(columns, to_columns, t)


@inlined
def _window_rows(a, dy, rows, up, turned, u, hop, taps, columns, line, pitch):
    """columns[i, j, (v, c)] = sum over t < taps, f of dy[i - t * up, j, f] * turned[u + t * hop, f, (v, c)] for `rows`
    rows i."""
    count, row, deeper = rows * dy.shape[2], -up * step(dy, 1), hop * step(turned, 0)
    for p in range(0, count, ROWS):
        from_dy = places(p, count, rows, dy.shape[2], 0, step(dy, 1), step(dy, 2))
        to_columns = places(p, count, rows, dy.shape[2], 0, line * pitch, pitch)
        for k in range(0, turned.shape[2], 2 * lanes(dy)):
            b = pointer(turned) + (u * step(turned, 0) + k)
            if turned.shape[2] - k > lanes(dy):
                _window_columns(a, from_dy, row, turned, b, deeper, taps, columns + k, to_columns, 2)
            else:
                _window_columns(a, from_dy, row, turned, b, deeper, taps, columns + k, to_columns, 1)


@inlined
def _add_cells(columns, pitch, j0, across, hop, back, stride, place, dx):
    """Those places j0, j0 + stride, ... of a row of dx that share their window cells v: the sum over v of columns[j,
    (v, c)], each for the j that v met."""
    channels, zero = dx.shape[3], fill(dx, 0.0)
    count, v0, taps, start = across
    further = hop * channels - back * pitch  # the next cell met a place `back` earlier
    for j in range(count):
        near, to = columns + ((start + j) * pitch + v0 * channels), place + (j0 + j * stride) * step(dx, 2)
        for c in range(0, channels, lanes(dx)):
            s = zero
            for t in range(taps):
                s = s + load(near, t * further + c)
            store(to, c, select(lane_between(dx, 0, channels - c), s, zero))


@kernel(each="dx", intensity=16)
def conv_backward_data_narrow(
    dy: Array4,
    turned: Array3,
    stride: int,
    dilation: int,
    pad: int,
    halo: int,
    dx: Array4,
    room: Space3,
    first: int,
    last: int,
    worker: int,
):
    """conv_backward_data for few channels, which would fill a part of a register.

    Here the columns of a tile are a row of the window with its channels, turned[u, f, (v, c)]. What a row of dx gets
    from all rows of the window is summed up in the tile, for each v apart, and lies in the worker's room between `halo`
    places of zeros; then each place of dx adds its v from there. (For the 6 channels of lenet 1.5 times as fast as all
    cells (u, v, c) at once, which are added where they belong one by one.)
    """
    size_u, size_v = turned.shape[0], turned.shape[2] // dx.shape[3]
    hop, back = hop_of(stride, dilation)
    line, pitch, cells = dy.shape[2] + halo, step(room, 1), own(room, worker)
    together = max(1, (room.shape[1] - halo) // line)
    for r in range(together + 1):
        for k in range(0, halo * pitch, lanes(dx)):
            store(cells, r * line * pitch + k, fill(dx, 0.0))
    cells = cells + halo * pitch
    for n in range(first, last):
        dyn, dxn = pointer(dy) + n * step(dy, 0), pointer(dx) + n * step(dx, 0)
        for i0 in range(min(stride, dx.shape[1])):
            height, u0, taps, start = met_along(i0, dx.shape[1], size_u, stride, dilation, pad, hop)
            i = 0
            while i < height:
                begin, end = _met(start + i, taps, back, dy.shape[1])
                rows = 1
                while rows < together and i + rows < height:
                    if (begin, end) != _met(start + i + rows, taps, back, dy.shape[1]):
                        break
                    rows += 1
                a = dyn + (start + i - begin * back) * step(dy, 1)
                _window_rows(a, dy, rows, back, turned, u0 + begin * hop, hop, end - begin, cells, line, pitch)
                for r in range(rows):
                    place = dxn + (i0 + (i + r) * stride) * step(dx, 1)
                    for j0 in range(min(stride, dx.shape[2])):
                        across = met_along(j0, dx.shape[2], size_v, stride, dilation, pad, hop)
                        _add_cells(cells + r * line * pitch, pitch, j0, across, hop, back, stride, place, dx)
                i += rows


@inlined
def _weights_columns(xn, x, dyn, stride, dilation, dy, group, rows, dws, dw, f, fresh, vectors):
    """One panel of filters of dws, `rows` rows of dy of `group` examples: the rows of a tile are the cells and channels
    (u, v, c) of the window."""
    cells = dw.shape[1] * dw.shape[2] * dw.shape[3]
    for i in range(0, cells, ROWS):
        from_x = places(i, cells, dw.shape[2], dw.shape[3], dilation * step(x, 1), dilation * step(x, 2), 1)
        to_dw = in_line(i, cells, step(dw, 3))
        if fresh:
            t = zero_tile(dws, vectors)
        else:
            t = load_tile(dws + f, to_dw, vectors)
        t = multiply(
            xn,
            from_x,
            step(x, 0),
            stride * step(x, 1),
            stride * step(x, 2),
            dyn + f,
            step(dy, 0),
            step(dy, 1),
            step(dy, 2),
            group,
            rows,
            dy.shape[2],
            t,
        )
        store_tile(dws + f, to_dw, t)


@inlined
def add_places(dyn, dy, group, rows, dbs, fresh):
    """dbs[f] (+)= sum of dy[n, i, j, f] over `group` examples and `rows` rows, in the order of memory."""
    pixel, even, zero = step(dy, 2), dy.shape[2] // 2 * 2, fill(dy, 0.0)
    for n in range(group):
        for i in range(rows):
            for f in range(0, dy.shape[3], lanes(dy)):
                row = dyn + (n * step(dy, 0) + i * step(dy, 1) + f)
                s0, s1 = zero if fresh and n == 0 and i == 0 else load(dbs, f), zero
                for j in range(0, even, 2):
                    s0, s1 = s0 + load(row, j * pixel), s1 + load(row, j * pixel + pixel)
                for j in range(even, dy.shape[2]):
                    s0 = s0 + load(row, j * pixel)
                store(dbs, f, s0 + s1)


@inlined
def clear_spare(dw, slot, first, last):
    """Zeros in what rows of dw[slot], channels first ... last - 1, have behind their last register: `add_slots` adds
    whole rows."""
    spare = (dw.shape[4] + lanes(dw) - 1) // lanes(dw) * lanes(dw)
    for u in range(dw.shape[1]):
        for v in range(dw.shape[2]):
            for c in range(first, last):
                row = pointer(dw) + (slot * step(dw, 0) + u * step(dw, 1) + v * step(dw, 2) + c * step(dw, 3))
                for f in range(spare, step(dw, 3), lanes(dw)):
                    store(row, f, fill(dw, 0.0))


@kernel(each="dw", intensity=16, fills=2)
def conv_backward_weights(
    x: Array4, dy: Array4, stride: int, dilation: int, dw: Array5, db: Array2, first: int, last: int
):
    """dw[s, u, v, c, f] = sum over the examples n of slot s, i, j of x[n, i*stride + u*dilation, ..., c] * dy[n, i, j,
    f]; db[s, f] = sum of dy[n, i, j, f].

    Band by band: as many rows of dy, or whole examples, as stay in the first-level cache with their x while all tiles
    of dw read them. db comes first, so that dy is brought in the order of memory. (On AVX2 1.2 to 1.4 times as fast as
    whole pictures in first layers.)
    """
    count, slots, filters, width = dy.shape[0], dw.shape[0], dw.shape[4], lanes(x)
    places_near = IN_CACHE // ((2 * width + min(x.shape[3], CACHE_LINE // x.itemsize)) * x.itemsize)
    together = max(1, places_near // (dy.shape[1] * dy.shape[2]))
    band = max(1, min(dy.shape[1], places_near // dy.shape[2]))
    for slot in range(first, last):
        dws, dbs = pointer(dw) + slot * step(dw, 0), pointer(db) + slot * step(db, 0)
        begin, end = slot * count // slots, (slot + 1) * count // slots
        clear_spare(dw, slot, 0, dw.shape[3])
        for n in range(begin, end, together):
            group = min(together, end - n)
            for i in range(0, dy.shape[1], band):
                rows, fresh = min(band, dy.shape[1] - i), n == begin and i == 0
                xn = pointer(x) + (n * step(x, 0) + i * stride * step(x, 1))
                dyn = pointer(dy) + (n * step(dy, 0) + i * step(dy, 1))
                add_places(dyn, dy, group, rows, dbs, fresh)
                for f in range(0, filters, 2 * width):
                    if filters - f > width:
                        _weights_columns(xn, x, dyn, stride, dilation, dy, group, rows, dws, dw, f, fresh, 2)
                    else:
                        _weights_columns(xn, x, dyn, stride, dilation, dy, group, rows, dws, dw, f, fresh, 1)
