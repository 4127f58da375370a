"""The table of kernel cases: one row per kernel and reason, for reference tests, gradient tests and benchmarks.

    for case in CASES:
        args = arguments(case, "float32")  # in the order of the kernel's parameters

Arrays are laid out as compiled steps lay them out: rows of channels with room behind them. The room of forward values
is filled with junk, that of parameters and gradients with zeros; outputs begin as NaN, so that an element that is read
too early or never written shows. `gather` has the array of the data in place of its address.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nbnn.kernels import reference
from nbnn.kernels.constants import BLOCK, BYTE_PLACES, CODES, RULES, SETTINGS, WIDE
from nbnn.kernels.simd import lanes_of
from nbnn.ops import NARROW, sides_of

# A kernel and its reference add the same numbers in another order. Each addition rounds by 6e-8 (float32) or 1e-16
# (float64) of what is added up so far; over the 10,000 terms of the longest sums that becomes up to 5e-6 and 1e-14 of
# the largest result (measured). The rest is margin for other processors.
TOLERANCES = {"float32": 2e-5, "float64": 1e-13}
# Kernels that only move numbers, or round once: they must agree to the bit.
EXACT = {
    "add_forward",
    "augment",
    "clear_frame",
    "collect_groups",
    "copy",
    "copy_channels",
    "copy_rows",
    "dropout",
    "expand_groups",
    "flatten_backward",
    "flatten_forward",
    "gather",
    "gather_labels",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "max_pool_forward",
    "relu_backward",
    "relu_forward",
    "turn",
}
# Kernels whose elements have nothing to do with each other: each is held to its own magnitude plus 1 (plus the largest
# where that is less).
ELEMENTWISE = {
    "gelu_backward",
    "gelu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "tanh_backward",
    "tanh_forward",
    "update",
}


def room(shape: tuple[int, ...], dtype: str, rng: Any = None, halo: int = 0, spare: int = 0) -> np.ndarray:
    """Zeros with room behind the channels, the last axis: the logical view. `rng` fills the room with junk.

    `halo` puts a frame of zeros around pictures, `spare` so many registers more than needed behind each row of
    channels. The array that owns the memory, `.base`, is exactly what a kernel may touch.
    """
    *outer, channels = shape
    lanes = lanes_of(dtype)
    if halo:
        outer[1:3] = [side + 2 * halo for side in outer[1:3]]
    pixel = (-(-channels // lanes) + spare) * lanes
    owner = np.zeros(int(np.prod(outer, dtype=int)) * pixel, dtype)
    if rng is not None:
        owner[:] = rng.normal(0, 100, owner.size)
    framed = owner.reshape(*outer, pixel)[..., :channels]
    framed[...] = 0
    return framed[:, halo:-halo, halo:-halo] if halo else framed


class Maker:
    """Arrays of one dtype from one generator. With `few_digits` they hold multiples of 1/64: most sums of them and of
    their products are exact in any order, however much of a sum cancels."""

    def __init__(self, dtype: str, seed: int, few_digits: bool = False) -> None:
        self.dtype, self.rng, self.few_digits = dtype, np.random.default_rng(seed), few_digits

    def value(self, *shape: int, **how: int) -> np.ndarray:
        """Random forward values, junk in the room."""
        return self._fill(room(shape, self.dtype, self.rng, **how))

    def grad(self, *shape: int, **how: int) -> np.ndarray:
        """Random parameters or gradients, zeros in the room."""
        return self._fill(room(shape, self.dtype, **how))

    def out(self, *shape: int, **how: int) -> np.ndarray:
        """A forward output: NaN, junk in the room."""
        return self._fill(room(shape, self.dtype, self.rng, **how), np.nan)

    def grad_out(self, *shape: int, **how: int) -> np.ndarray:
        """An output that is a parameter or a gradient: NaN, zeros in the room."""
        return self._fill(room(shape, self.dtype, **how), np.nan)

    def dense(self, *shape: int) -> np.ndarray:
        """Random values without room."""
        return self._fill(np.zeros(int(np.prod(shape)), self.dtype).reshape(shape))

    def doubles(self, size: int) -> np.ndarray:
        return np.full(size, np.nan)

    def labels(self, count: int, classes: int) -> np.ndarray:
        return self.rng.integers(0, classes, count)

    def _fill(self, array: np.ndarray, number: float | None = None) -> np.ndarray:
        if number is None:
            array[...] = self.rng.standard_normal(array.shape)
            if self.few_digits:
                array[...] = np.round(64 * array) / 64
        else:
            array[...] = number
        return array


class Case(NamedTuple):
    """A kernel, why the row is there, and how to make the arguments."""

    kernel: str
    label: str
    build: Callable[[Maker], tuple]
    size: float = 0.0  # what results are differences of may be as large as this
    few_digits: bool = False

    def __str__(self) -> str:
        return f"{self.kernel}: {self.label}"


def arguments(case: Case, dtype: str) -> tuple:
    """The arguments of a row, in the order of the kernel's parameters; the same at every call."""
    return case.build(Maker(dtype, zlib.crc32(str(case).encode()), case.few_digits))


def every(row: np.ndarray, count: int) -> np.ndarray:
    """The same row for each example: a view with step 0."""
    return np.ndarray((count, *row.shape), row.dtype, row, strides=(0, *row.strides))


def framed(x: np.ndarray, width: int) -> np.ndarray:
    """x, its outermost rows and columns made zeros."""
    for side in (x, x.transpose(0, 2, 1, 3)):
        side[:, :width] = 0
        side[:, side.shape[1] - width :] = 0
    return x


# ---- convolution


def conv(
    label: str,
    channels: int,
    filters: int,
    sides: tuple[int, int],
    window: tuple[int, int],
    *,
    n: int = 2,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    slots: int = 1,
    together: int = 2,
    dense: bool = False,
    alone: bool = False,
) -> list[Case]:
    """Forward, to the input and to the weights; each channel `alone`, or all for each filter. On the way to few
    channels a worker holds `together` rows of dy."""
    out = [(side + 2 * pad - (size - 1) * dilation - 1) // stride + 1 for side, size in zip(sides, window, strict=True)]
    halo, depth = _frame(sides, window, out, stride, pad, dilation), 1 if alone else channels

    def padded(make: Maker) -> np.ndarray:
        return framed((make.dense if dense else make.value)(n, *(side + 2 * pad for side in sides), channels), pad)

    def forward(make: Maker) -> tuple:
        return (
            padded(make),
            make.grad(*window, depth, filters),
            make.grad(filters),
            stride,
            dilation,
            make.out(n, *out, filters),
        )

    def data(make: Maker) -> tuple:
        dy = framed(make.grad(n, *(side + 2 * halo for side in out), filters), halo)
        return (
            dy,
            make.grad(*window, 1 if alone else filters, channels),
            stride,
            dilation,
            pad,
            halo,
            make.grad_out(n, *sides, channels),
        )

    def narrow(make: Maker) -> tuple:
        turned = make.grad(window[0], filters, window[1] * channels)
        room = make.out(2, together * (out[1] + halo) + halo, (window[1] - 1) * channels + 16)
        dy = make.grad(n, *out, filters)
        return dy, turned, stride, dilation, pad, halo, make.grad_out(n, *sides, channels), room

    def weights(make: Maker) -> tuple:
        dw, db = make.grad_out(slots, *window, depth, filters), make.grad_out(slots, filters)
        return padded(make), make.grad(n, *out, filters), stride, dilation, dw, db

    few = [Case("conv_backward_data_narrow", label, narrow)] if channels <= NARROW and not alone else []
    way = "_depthwise" if alone else ""
    return [
        *few,
        Case(f"conv_forward{way}", label, forward),
        Case(f"conv_backward_data{way}", label, data),
        Case(f"conv_backward_weights{way}", label, weights),
    ]


def _frame(
    sides: tuple[int, int], window: tuple[int, int], out: list[int], stride: int, pad: int, dilation: int
) -> int:
    """How many zeros around dy are read on the way back to the input, found by going through all of it."""
    frames = [0]
    for side, size, length in zip(sides, window, out, strict=True):
        reads = [
            (i + pad - u * dilation) // stride
            for i in range(side)
            for u in range(size)
            if (i + pad - u * dilation) % stride == 0
        ]
        frames += [-min(reads, default=0), max(reads, default=0) - (length - 1)]
    return max(frames)


CONV = [
    *conv("one channel, one filter, one example", 1, 1, (5, 5), (3, 3), n=1),
    *conv(
        "colour pictures as they come: dense, a window row is one run of memory",
        3,
        16,
        (8, 8),
        (3, 3),
        pad=1,
        n=3,
        dense=True,
    ),
    *conv("dense pictures, dilated: a window row is no run", 3, 10, (9, 7), (3, 3), pad=2, dilation=2, dense=True),
    *conv("colour pictures with room", 3, 10, (7, 9), (3, 3), pad=1),
    *conv("5 channels to 20 filters, even window", 5, 20, (6, 7), (2, 4), pad=1),
    *conv("17 channels to 33 filters: a register and a bit of each", 17, 33, (5, 6), (3, 3), pad=1),
    *conv("33 channels to 70 filters: three panels, the last one narrow", 33, 70, (4, 5), (3, 3), pad=1),
    *conv("full registers, rows of channels without gaps", 16, 32, (6, 6), (3, 3), pad=1),
    *conv("1x1", 17, 16, (5, 3), (1, 1)),
    *conv("1x1 with stride 2: places of the input that nobody reads", 5, 10, (6, 7), (1, 1), stride=2),
    *conv("1x1 with stride 3 and padding 2: padding that is read alone", 3, 5, (7, 5), (1, 1), stride=3, pad=2),
    *conv("stride 2", 5, 16, (9, 8), (3, 3), stride=2, pad=1),
    *conv("stride 3, 5x5 window", 3, 10, (11, 13), (5, 5), stride=3, pad=2),
    *conv("stride 3, wider than the window", 5, 10, (10, 11), (2, 2), stride=3),
    *conv("stride 3, padding 3", 3, 10, (8, 7), (4, 4), stride=3, pad=3),
    *conv("dilation 2", 5, 16, (8, 9), (3, 3), pad=2, dilation=2),
    *conv("dilation 3, padding 3", 5, 10, (7, 8), (3, 3), pad=3, dilation=3),
    *conv("stride 2 and dilation 2: only even places meet", 5, 10, (9, 10), (3, 3), stride=2, dilation=2, pad=2),
    *conv("stride 2 and dilation 3", 3, 10, (11, 10), (3, 3), stride=2, dilation=3, pad=3),
    *conv("stride 3 and dilation 2", 3, 10, (10, 11), (3, 2), stride=3, dilation=2, pad=1),
    *conv("stride 3 and dilation 3", 3, 10, (12, 11), (3, 3), stride=3, dilation=3, pad=3),
    *conv("window as large as the picture", 5, 16, (5, 4), (5, 4)),
    *conv("window as large as the padded picture", 5, 16, (3, 4), (5, 6), pad=1),
    *conv("a row of pixels, a lying window", 3, 10, (1, 17), (1, 5), pad=0),
    *conv("a standing window on a lying picture", 3, 10, (4, 11), (3, 1), pad=1),
    *conv("one place", 17, 20, (1, 1), (1, 1), n=1),
    *conv("slots with unequal shares", 5, 16, (5, 5), (3, 3), pad=1, n=7, slots=3),
    *conv("a slot for each example", 3, 10, (5, 5), (3, 3), pad=1, n=4, slots=4),
    *conv("more rows than pass over the weights together", 16, 16, (32, 32), (3, 3), pad=1, n=10),
    *conv("more small examples than pass over the weights together", 5, 16, (5, 5), (3, 3), pad=1, n=30),
]

# ---- convolution of each channel alone


def depthwise(label: str, channels: int, sides: tuple[int, int], window: tuple[int, int], **how: int) -> list[Case]:
    """Forward, to the input and to the weights."""
    return conv(label, channels, channels, sides, window, alone=True, **how)


DEPTHWISE = [
    *depthwise("whole registers", 32, (6, 7), (3, 3), pad=1),
    *depthwise("two channels, one example", 2, (3, 5), (2, 3), n=1),
    *depthwise("a register and a bit, stride 2", 17, (9, 8), (3, 3), stride=2, pad=1),
    *depthwise("stride 2 and dilation 3, an even window", 5, (11, 10), (2, 4), stride=2, dilation=3, pad=3),
    *depthwise("stride 2 and dilation 2: only even places meet", 5, (9, 10), (3, 3), stride=2, dilation=2, pad=2),
    *depthwise("33 channels: two registers and one", 33, (4, 5), (3, 3), pad=1),
    *depthwise("dilation 2", 9, (8, 9), (3, 3), pad=2, dilation=2),
    *depthwise("1x1 with stride 2: places of the input that nobody reads", 5, (6, 7), (1, 1), stride=2),
    *depthwise("a wide window, slots with unequal shares", 8, (7, 9), (5, 7), pad=3, n=7, slots=3),
    *depthwise("bands of a picture", 64, (20, 33), (3, 3), pad=1),
]


# ---- convolution, Winograd's way


def winograd(
    label: str,
    channels: int,
    filters: int,
    sides: tuple[int, int],
    *,
    n: int = 2,
    slots: int = 1,
    blocks: int = 1,
    together: int = 16,
) -> list[Case]:
    """The values of the weights, forward (which is also the way to the input), to the weights. `sides` are those of x
    with its padding; a worker holds `together` tiles, and on the way to the weights all channels or, of `blocks`, 16 at
    a time."""
    out = [side - 2 for side in sides]
    held = channels if blocks == 1 else 16

    def space(make: Maker, *shape: int) -> np.ndarray:
        return make.out(2, 36, *shape)  # two workers

    def patch(make: Maker) -> np.ndarray:
        return make.out(2, 6, 6, max(channels, filters))

    def weights(make: Maker) -> tuple:
        return make.grad(3, 3, channels, filters), make.grad_out(36, channels, filters)

    def turned(make: Maker) -> tuple:
        return make.grad(3, 3, channels, filters), make.grad_out(36, filters, channels), make.out(2, 9, 256)

    def forward(make: Maker) -> tuple:
        room = space(make, together, channels), space(make, together, filters), patch(make)
        x, u = make.value(n, *sides, channels), make.grad(36, channels, filters)
        return x, u, make.grad(filters), make.out(n, *out, filters), *room

    def wide(make: Maker, turned: int) -> tuple:
        inner, outer = (filters, channels) if turned else (channels, filters)
        x, w = make.value(n, *sides, inner), make.grad(3, 3, channels, filters)
        room = space(make, together, inner), space(make, inner, WIDE), space(make, together, WIDE), patch(make)
        return x, w, turned, outer, make.grad(outer), make.out(n, *out, outer), *room, make.out(2, 9, 256)

    def back(make: Maker) -> tuple:
        dw, db = make.grad_out(slots, 3, 3, channels, filters), make.grad_out(slots, filters)
        room = space(make, together, held), space(make, together, filters), space(make, held, filters)
        x, dy = make.value(n, *sides, channels), make.grad(n, *out, filters)
        return x, dy, slots * blocks, dw, db, *room, patch(make)

    return [
        Case("winograd_weights", label, weights),
        Case("winograd_weights_turned", label, turned),
        Case("conv_forward_winograd", label, forward),
        Case("conv_winograd_wide", label, lambda make: wide(make, 0)),
        Case("conv_winograd_wide", f"{label}, turned", lambda make: wide(make, 1)),
        Case("conv_backward_weights_winograd", label, back),
    ]


WINOGRAD = [
    *winograd("whole tiles, full registers", 16, 32, (10, 10)),
    *winograd("sides of 4 k + 1, 2, 3: tiles that hang over", 16, 16, (7, 9), n=3),
    *winograd("smaller than a tile", 17, 20, (4, 5), n=1),
    *winograd("one place", 5, 3, (3, 3)),
    *winograd("33 channels to 70 filters: three panels, the last one narrow", 33, 70, (8, 6)),
    *winograd("more tiles than are held together, across examples", 5, 10, (14, 12), n=3, together=8),
    *winograd("fewer tiles than a product has rows", 16, 16, (6, 6), n=1),
    *winograd("slots with unequal shares", 16, 10, (8, 8), n=7, slots=3),
    *winograd("blocks of channels, the last one smaller", 40, 16, (6, 10), n=4, slots=2, blocks=3, together=8),
    *winograd("blocks of channels and tiles that hang over", 17, 5, (6, 8), n=2, blocks=2),
]

# ---- convolution by halves


def halves(
    label: str,
    channels: int,
    filters: int,
    out: tuple[int, int],
    window: tuple[int, int],
    *,
    n: int = 2,
    slots: int = 1,
    rows: int = 2,
) -> list[Case]:
    """The pieces of the weights, forward, to the weights. `out` are the even sides of y; of the parts of dy a worker
    holds `rows` rows."""
    sides = [side + size - 1 for side, size in zip(out, window, strict=True)]
    cells = math.prod((size + 1) // 2 for size in window) * channels

    def pieces(make: Maker) -> tuple:
        return make.grad(*window, channels, filters), make.grad_out(9, cells, filters)

    def parts(make: Maker) -> np.ndarray:
        return make.out(2, 9, sides[0] // 2, sides[1] // 2 * channels + 16)  # two workers

    def forward(make: Maker) -> tuple:
        w, halved = pieces(make)
        reference.halve_weights(w, halved)
        x, y = make.value(n, *sides, channels), make.out(n, *out, filters)
        return x, halved, make.grad(filters), *window, y, make.out(2, 4, 256), parts(make)

    def back(make: Maker) -> tuple:
        dw, db = make.grad_out(slots, *window, channels, filters), make.grad_out(slots, filters)
        room = parts(make), make.out(2, 9, rows * (out[1] // 2), filters), make.out(2, 9, cells, filters)
        return make.value(n, *sides, channels), make.grad(n, *out, filters), dw, db, *room

    return [
        Case("halve_weights", label, pieces),
        Case("conv_forward_halves", label, forward),
        Case("conv_backward_weights_halves", label, back),
    ]


HALVES = [
    *halves("colour pictures, an odd window", 3, 16, (8, 8), (7, 7), n=3),
    *halves("an even window", 3, 16, (6, 8), (6, 4)),
    *halves("a lying window", 5, 10, (4, 6), (2, 5)),
    *halves("two places, one channel, one filter, one example", 1, 1, (2, 2), (5, 5), n=1),
    *halves("17 channels to 33 filters: a register and a bit of each", 17, 33, (4, 6), (3, 3)),
    *halves("32 channels to 70 filters: three panels, the last one narrow", 32, 70, (4, 4), (5, 3)),
    *halves("slots with unequal shares", 3, 10, (6, 4), (5, 5), n=7, slots=3),
    *halves("fewer rows at the end", 3, 10, (10, 6), (5, 5), n=3, slots=2),
]

# ---- convolution of one channel by rows of places


def plane(
    label: str,
    filters: int,
    out: tuple[int, int],
    window: tuple[int, int],
    *,
    n: int = 2,
    dilation: int = 1,
    slots: int = 1,
    rows: int = 2,
    dense: bool = True,
) -> list[Case]:
    """Forward and to the weights; a worker holds `rows` rows of dy."""
    sides = [side + (size - 1) * dilation for side, size in zip(out, window, strict=True)]

    def x(make: Maker) -> np.ndarray:
        return (make.dense if dense else make.value)(n, *sides, 1)

    def room(make: Maker) -> np.ndarray:
        return make.out(2, *sides)  # two workers

    def forward(make: Maker) -> tuple:
        w, b = make.grad(*window, 1, filters), make.grad(filters)
        return x(make), w, b, dilation, make.out(n, *out, filters), room(make)

    def weights(make: Maker) -> tuple:
        dw, db = make.grad_out(slots, *window, 1, filters), make.grad_out(slots, filters)
        turned = make.out(2, 16, rows * -(-out[1] // 16) * 16)
        sums = make.out(2, 1, (math.prod(window) // 2 + 2) * 256)
        return x(make), make.grad(n, *out, filters), dilation, dw, db, room(make), turned, sums

    return [
        Case("conv_forward_plane", label, forward),
        Case("conv_backward_weights_plane", label, weights),
    ]


PLANE = [
    *plane("whole registers, an odd window", 6, (5, 32), (5, 5), n=3),
    *plane("a row of a register and a bit", 3, (4, 17), (3, 4)),
    *plane("a row of two registers and a bit", 5, (3, 39), (4, 2), dense=False),
    *plane("one filter, one example, one cell", 1, (3, 16), (1, 1), n=1),
    *plane("dilation 2, a picture with room", 4, (4, 20), (3, 3), dilation=2, dense=False),
    *plane("slots with unequal shares, fewer rows at the end", 6, (5, 24), (2, 5), n=7, slots=3),
]

# ---- affine


def affine(
    label: str, n: int, picture: tuple[int, int, int], units: int, *, dense: bool = False, spare: int = 0
) -> list[Case]:
    """Forward, to the input and to the weights. Rows of dw lie in the order channel, row, column, as in a model."""
    height, width, channels = picture

    def x(make: Maker) -> np.ndarray:
        return make.dense(n, *picture) if dense else make.value(n, *picture, spare=spare)

    def forward(make: Maker) -> tuple:
        return x(make), make.grad(*picture, units, spare=spare), make.grad(units), make.out(n, units, spare=spare)

    def data(make: Maker) -> tuple:
        dx = make.grad_out(n, *picture, spare=spare)
        return make.grad(n, units, spare=spare), make.grad(height * width, units, channels, spare=spare), dx

    def weights(make: Maker) -> tuple:
        dw, held = make.grad_out(channels, height, width, units, spare=spare), make.out(2, 5, 24)
        return x(make), make.grad(n, units, spare=spare), dw[..., 0].size, dw.transpose(1, 2, 0, 3), held

    def planes(make: Maker) -> tuple:
        w = make.grad(channels, height, width, units, spare=spare)
        return x(make).transpose(0, 3, 1, 2), w, make.grad(units), make.out(n, units, spare=spare)

    return [
        Case("affine_forward", label, forward),
        Case("affine_forward", f"{label}, plane by plane", planes),
        Case("affine_backward_data", label, data),
        Case("affine_backward_weights", label, weights),
    ]


AFFINE = [
    *affine("one number to one unit", 1, (1, 1, 1), 1),
    *affine("a vector, 10 units", 7, (1, 1, 33), 10),
    *affine("a dense vector, 100 units", 9, (1, 1, 50), 100, dense=True),
    *affine("pictures, 10 units", 9, (3, 4, 5), 10),
    *affine("dense pictures, 100 units", 7, (4, 3, 3), 100, dense=True),
    *affine("pictures, one unit, one example", 1, (3, 2, 17), 1),
    *affine("65 examples: many tiles and a bit", 65, (2, 2, 5), 33),
    *affine("a vector longer than one part of the sum", 9, (1, 1, 1030), 10),
    *affine("more examples than go together, a vector longer than one part", 100, (1, 1, 300), 33),
    *affine("rows of a picture longer than one part, with gaps", 3, (2, 20, 17), 10, spare=1),
    *affine("a picture with more channels than one part of the sum", 3, (2, 1, 1030), 20, dense=True),
    *affine("more units than one part of the sum", 7, (1, 2, 5), 1030),
    *affine("more examples than one part of the sum", 1030, (1, 1, 17), 5),
    *affine("a register more than needed behind each row", 9, (2, 1, 16), 32, spare=1),
]

# ---- functions of one number

_ALL = (
    np.nan,
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1.0,
    -1.0,
    20.5,
    -20.5,
    88.0,
    -88.0,
    89.0,
    -89.0,
    709.0,
    -709.0,
    711.0,
    -711.0,
    1e4,
    -1e4,
)
_ENDS = (np.inf, -np.inf)
# kernel -> (what the backward pass reads, settings, values to try forward and backward beyond the ordinary ones)
ACTIVATIONS: dict[str, tuple[str, tuple, tuple, tuple]] = {
    "relu": ("y", (), _ALL + _ENDS, _ALL + _ENDS),
    "leaky_relu": ("x", (0.1,), _ALL + _ENDS, _ALL + _ENDS),
    "sigmoid": ("y", (), _ALL + _ENDS, _ALL + _ENDS),
    "tanh": ("y", (), _ALL + _ENDS, _ALL + _ENDS),
    "gelu": ("x", (), (*_ALL, np.inf), _ALL + _ENDS),  # -inf * 0 is no number
    "silu": ("x", (), (*_ALL, np.inf), _ALL),  # nor is inf * 0
}


def activation(name: str) -> list[Case]:
    reads, settings, forward_ends, backward_ends = ACTIVATIONS[name]

    def seen(make: Maker, x: np.ndarray) -> np.ndarray:
        """What the backward pass reads, in the memory of x."""
        if reads == "y":
            getattr(reference, f"{name}_forward")(x.copy(), *settings, x)
        return x

    def sweep(make: Maker, *shape: int, **how: int) -> np.ndarray:
        x = make.value(*shape, **how)
        x[...] = make.rng.uniform(-12, 12, x.shape)
        return x

    def special(make: Maker, numbers: tuple) -> np.ndarray:
        x = make.value(1, 2, len(numbers), 5)
        x[...] = np.array(numbers, make.dtype)[:, None]
        return x

    def rows(x: Callable[..., np.ndarray], *shape: Any, back: tuple, **how: int) -> tuple[Callable, Callable]:
        def forward(make: Maker) -> tuple:
            given = x(make, *shape, **how)
            return given, *settings, make.out(*given.shape, **how)

        def backward(make: Maker) -> tuple:
            given = seen(make, x(make, *back, **how))
            return given, make.grad(*given.shape, **how), *settings, make.grad_out(*given.shape, **how)

        return forward, backward

    def cases(label: str, pair: tuple[Callable, Callable]) -> list[Case]:
        return [Case(f"{name}_forward", label, pair[0]), Case(f"{name}_backward", label, pair[1])]

    def bad_gradient(make: Maker) -> tuple:
        args = rows(sweep, back=(2, 2, 3, 5))[1](make)
        args[1][0, 1, 2] = np.nan
        return args

    return [
        *cases("from -12 to 12, many channels", rows(sweep, 3, 5, 4, 33, back=(3, 5, 4, 33))),
        *cases("in a frame, which stays zero", rows(sweep, 2, 3, 4, 5, back=(2, 3, 4, 5), halo=2)),
        *cases("a register more than needed", rows(sweep, 1, 2, 3, 16, back=(1, 2, 3, 16), spare=1)),
        *cases("a vector of one number", rows(Maker.value, 1, 1, 1, 1, back=(1, 1, 1, 1))),
        *cases("huge, tiny and none", rows(special, forward_ends, back=(backward_ends,))),
        Case(f"{name}_backward", "a NaN in dy", bad_gradient),
    ]


# ---- pooling


def pool(
    label: str,
    shape: tuple[int, int, int, int],
    size: int | tuple[int, int],
    stride: int,
    pad: int = 0,
    change: Callable[[np.ndarray], None] = lambda x: None,
    rectify: int = 0,
) -> list[Case]:
    """Maximum and mean, forward and backward; `change` makes the pictures special; `rectify` is for the maximum."""
    n, height, width, channels = shape
    tall, wide = sides_of(size)
    out = (n, (height + 2 * pad - tall) // stride + 1, (width + 2 * pad - wide) // stride + 1, channels)

    def pictures(make: Maker) -> np.ndarray:
        x = make.value(*shape)
        change(x)
        return x

    def forward(make: Maker) -> tuple:
        return pictures(make), tall, wide, stride, pad, make.out(*out)

    def max_forward(make: Maker) -> tuple:
        room = -(-channels // 4) if tall * wide <= BYTE_PLACES else channels
        return pictures(make), tall, wide, stride, pad, rectify, make.out(*out), make.out(*out[:3], room)

    def max_backward(make: Maker) -> tuple:
        *_, places = found = max_forward(make)
        reference.max_pool_forward(*found)
        return places, make.grad(*out), tall, wide, stride, pad, make.grad_out(*shape)

    def avg_backward(make: Maker) -> tuple:
        return make.grad(*out), tall, wide, stride, pad, make.grad_out(*shape)

    return [
        Case("max_pool_forward", label, max_forward),
        Case("max_pool_backward", label, max_backward),
        Case("avg_pool_forward", label, forward),
        Case("avg_pool_backward", label, avg_backward),
    ]


def global_pool(label: str, shape: tuple[int, int, int, int]) -> list[Case]:
    n, _, _, channels = shape
    return [
        Case("global_avg_pool_forward", label, lambda make: (make.value(*shape), make.out(n, 1, 1, channels))),
        Case("global_avg_pool_backward", label, lambda make: (make.grad(n, 1, 1, channels), make.grad_out(*shape))),
    ]


def _whole_numbers(x: np.ndarray) -> None:
    np.round(x, out=x)


def _some_nan(x: np.ndarray) -> None:
    x[0, 1, :, ::2] = np.nan
    x[-1, :, 2, 1] = np.nan


def _all_low(x: np.ndarray) -> None:
    x[...] = -np.inf


POOL = [
    *pool("2x2", (2, 4, 6, 17), 2, 2),
    *pool("a row and a column left over", (2, 5, 7, 5), 2, 2),
    *pool("3x3 with stride 2: windows overlap", (2, 7, 9, 16), 3, 2),
    *pool("3x3 with stride 1 and padding", (3, 5, 4, 33), 3, 1, 1),
    *pool("windows that reach over every side", (1, 3, 4, 5), 4, 2, 2),
    *pool("stride 3, wider than the window", (2, 8, 9, 3), 2, 3),
    *pool("window as large as the picture", (2, 4, 4, 10), 4, 4),
    *pool("2x3, windows apart", (2, 7, 10, 5), (2, 3), 3),
    *pool("3x2, windows overlap, padding", (2, 6, 5, 17), (3, 2), 2, 1),
    *pool("1x1", (1, 3, 2, 1), 1, 1),
    *pool("the largest window whose places are bytes", (2, 15, 17, 9), (15, 17), 1),
    *pool("16x16: places that are no bytes", (2, 17, 18, 5), 16, 1),
    *pool("ties: the first maximum gets the gradient", (2, 6, 7, 17), 3, 2, 1, _whole_numbers),
    *pool("a NaN is a maximum", (2, 6, 6, 5), 3, 2, 1, _some_nan),
    *pool("nothing but -inf, and padding", (1, 4, 4, 3), 2, 2, 1, _all_low),
    *pool("2x2 and a relu", (2, 4, 6, 17), 2, 2, rectify=1),
    *pool("3x3 and a relu: windows overlap, ties", (2, 6, 7, 17), 3, 2, 1, _whole_numbers, rectify=1),
    *pool("a NaN passes a relu", (2, 6, 6, 5), 3, 2, 1, _some_nan, rectify=1),
    *global_pool("pictures", (3, 4, 5, 17)),
    *global_pool("one place", (1, 1, 1, 5)),
]

# ---- normalisation

EPS = 1e-5


def norm(
    label: str,
    shape: tuple[int, int, int, int],
    groups: int = 0,
    change: Callable[[np.ndarray], None] = lambda x: None,
    rectify: int = 0,
) -> list[Case]:
    """Every kernel of batchnorm, or with `groups` of groupnorm, each on what the references of those before it give."""
    n, height, width, channels = shape
    places = height * width

    def forward(make: Maker) -> dict[str, Any]:
        """x, the figures per example, and mean and scale."""
        x = make.value(*shape)
        x *= 2
        x += 3
        change(x)
        means, spreads = make.out(n, channels), make.out(n, channels)
        reference.channel_moments(x, means, spreads)
        if groups:
            mean, scale = make.out(n, channels), make.out(n, channels)
            reference.group_statistics(means, spreads, places, groups, EPS, mean, scale)
        else:
            one, two = make.out(channels), make.out(channels)
            reference.batch_statistics(
                means, spreads, places, EPS, 0.9, np.zeros(channels), np.zeros(channels), one, two
            )
            mean, scale = every(one, n), every(two, n)
        return {"x": x, "means": means, "spreads": spreads, "mean": mean, "scale": scale}

    def backward(make: Maker) -> dict[str, Any]:
        """All of forward, dy, and the sums and means of it."""
        found = forward(make)
        gamma, dy, dgamma, dbeta = (
            make.grad(channels),
            make.grad(*shape),
            make.grad_out(channels),
            make.grad_out(channels),
        )
        sum_dy, weighted = make.grad_out(n, channels), make.grad_out(n, channels)
        seen = found["mean"], found["scale"], gamma, make.grad(channels)
        reference.norm_sums(found["x"], dy, *seen, rectify, sum_dy, weighted)
        reference.affine_gradients(sum_dy, weighted, gamma, dgamma, dbeta)
        if groups:
            means = make.grad_out(n, channels), make.grad_out(n, channels)
            reference.group_gradients(sum_dy, weighted, gamma, places, groups, *means)
        else:
            one, two = make.grad_out(channels), make.grad_out(channels)
            reference.batch_gradients(dgamma, dbeta, gamma, n * places, one, two)
            means = every(one, n), every(two, n)
        return found | {
            "dy": dy,
            "gamma": gamma,
            "beta": seen[-1],
            "dgamma": dgamma,
            "dbeta": dbeta,
            "sum_dy": sum_dy,
            "sum_dy_xhat": weighted,
            "mean_g": means[0],
            "mean_g_xhat": means[1],
        }

    def row(
        kernel: str,
        chain: Callable[[Maker], dict[str, Any]],
        inputs: str,
        *rest: Callable[[Maker], Any] | float,
        size: float = 1e-3,
    ) -> Case:
        def build(make: Maker) -> tuple:
            found = chain(make)
            return *(found[i] for i in inputs.split()), *(r(make) if callable(r) else r for r in rest)

        return Case(kernel, label, build, size=size)

    def figures(make: Maker) -> np.ndarray:
        return make.out(n, channels)

    def sums(make: Maker) -> np.ndarray:
        return make.grad_out(n, channels)

    def channel(make: Maker) -> np.ndarray:
        return make.out(channels)

    def gradient(make: Maker) -> np.ndarray:
        return make.grad_out(channels)

    def running(make: Maker) -> np.ndarray:
        kept = make.value(channels)
        np.abs(kept, out=kept)
        return kept

    both = [
        row("channel_moments", forward, "x", figures, figures),
        row(
            "norm_forward",
            forward,
            "x mean scale",
            lambda make: make.grad(channels),
            lambda make: make.grad(channels),
            rectify,
            lambda make: make.out(*shape),
        ),
        row("norm_sums", backward, "x dy mean scale gamma beta", rectify, sums, sums),
        row("affine_gradients", backward, "sum_dy sum_dy_xhat gamma", gradient, gradient),
        row(
            "norm_backward",
            backward,
            "x dy mean scale gamma beta mean_g mean_g_xhat",
            rectify,
            lambda make: make.grad_out(*shape),
            size=1.0,  # without variance, differences of numbers of size 1 are scaled by 1 / sqrt(eps) = 316
        ),
    ]
    if groups:
        return [
            *both,
            row("group_statistics", forward, "means spreads", places, groups, EPS, figures, figures),
            row("group_gradients", backward, "sum_dy sum_dy_xhat gamma", places, groups, sums, sums),
        ]
    return [
        *both,
        row("batch_statistics", forward, "means spreads", places, EPS, 0.9, running, running, channel, channel),
        Case(
            "running_statistics", label, lambda make: (running(make), running(make), EPS, channel(make), channel(make))
        ),
        row("batch_gradients", backward, "dgamma dbeta gamma", n * places, gradient, gradient),
    ]


def _constant_channels(x: np.ndarray) -> None:
    x[..., ::2] = 0.7


def _nan_channel(x: np.ndarray) -> None:
    x[-1, 0, 0, 1] = np.nan


def scale(label: str, shape: tuple[int, int, int, int]) -> list[Case]:
    n, _, _, channels = shape
    return [
        Case("scale_forward", label, lambda make: (make.value(*shape), make.grad(channels), make.out(*shape))),
        Case(
            "scale_forward",
            f"{label}, backward",
            lambda make: (make.grad(*shape), make.grad(channels), make.grad_out(*shape)),
        ),
        Case(
            "scale_backward_weights",
            label,
            lambda make: (make.value(*shape), make.grad(*shape), make.grad_out(n, channels)),
        ),
    ]


NORM = [
    *norm("batch of pictures", (5, 4, 3, 17)),
    *norm("batch of vectors: one place", (9, 1, 1, 33)),
    *norm("one example, many channels", (1, 5, 5, 70)),
    *norm("one example, one place, one channel", (1, 1, 1, 1)),
    *norm("constant channels have no variance", (3, 4, 4, 6), change=_constant_channels),
    *norm("a NaN spoils its channel alone", (3, 2, 2, 5), change=_nan_channel),
    *norm("batch of pictures and a relu", (5, 4, 3, 17), rectify=1),
    *norm("batch of vectors and a relu", (9, 1, 1, 33), rectify=1),
    *norm("constant channels and a relu", (3, 4, 4, 6), change=_constant_channels, rectify=1),
    *norm("a NaN passes a relu", (3, 2, 2, 5), change=_nan_channel, rectify=1),
    *norm("two groups and a relu", (2, 3, 4, 18), groups=2, rectify=1),
    *norm("layernorm of pictures", (3, 4, 3, 10), groups=1),
    *norm("layernorm of vectors", (5, 1, 1, 33), groups=1),
    *norm("three groups", (2, 3, 4, 18), groups=3),
    *norm("a group for each channel", (2, 3, 3, 5), groups=5),
    *norm("constant channels in pairs", (2, 3, 3, 6), groups=3, change=_constant_channels),
    *norm("a NaN spoils its group alone", (3, 2, 2, 6), groups=3, change=_nan_channel),
    *scale("pictures", (3, 4, 5, 17)),
    *scale("one number", (1, 1, 1, 1)),
]

# ---- dropout


def dropout(
    label: str, p: float, shape: tuple[int, ...], seed: int = 7, step: int = 3, node: int = 2, gradient: bool = False
) -> Case:
    def build(make: Maker) -> tuple:
        given, filled = (make.grad, make.grad_out) if gradient else (make.value, make.out)
        return given(*shape), p, seed, step, node, filled(*shape)

    return Case("dropout", label, build)


DROPOUT = [
    dropout("nothing is dropped", 0.0, (2, 3, 4, 5)),
    dropout("0.3 of 33 channels", 0.3, (3, 4, 5, 33)),
    dropout("a vector", 0.5, (65, 1, 1, 17)),
    dropout("everything is dropped", 1.0, (2, 3, 4, 5)),
    dropout("large numbers in the key", 0.3, (2, 3, 4, 17), seed=2**63 - 1, step=2**40 + 5, node=2**31),
    dropout("backward", 0.3, (2, 3, 4, 5), gradient=True),
]

# ---- augmentation


def augment(label: str, shape: tuple[int, ...], shift: int, flip: int, back: int, seed: int = 7) -> Case:
    def build(make: Maker) -> tuple:
        given, filled = (make.grad, make.grad_out) if back else (make.value, make.out)
        return given(*shape), shift, flip, back, seed, 3, 2, filled(*shape)

    return Case("augment", f"{label}{', backward' if back else ''}", build)


AUGMENT = [
    case
    for back in (0, 1)
    for case in (
        augment("moved and mirrored", (9, 6, 5, 3), 2, 1, back),
        augment("moved as far as can be", (12, 4, 7, 17), 3, 0, back),
        augment("mirrored alone", (5, 3, 4, 1), 0, 1, back),
        augment("left alone", (2, 3, 4, 5), 0, 0, back),
        augment("a large seed", (3, 5, 5, 16), 1, 1, back, seed=2**63 - 1),
    )
]

# ---- losses


def loss(
    kernel: str,
    label: str,
    n: int,
    classes: int,
    *settings: float,
    change: Callable[[np.ndarray], None] = lambda x: None,
) -> Case:
    def build(make: Maker) -> tuple:
        x = make.value(n, classes)
        x *= 3
        change(x)
        target = make.value(n, classes) if kernel == "mse_loss" else make.labels(n, classes)
        return x, target, *settings, make.doubles(n), make.grad_out(n, classes)

    return Case(kernel, label, build, size=1 / n)


def _nearly_equal(x: np.ndarray) -> None:
    """No class is so likely that the gradient of a single example would be hardly anything."""
    x *= 0.1


def _huge_and_equal(x: np.ndarray) -> None:
    x[...] = 1e30
    x[-1] = -1e30


def _far_apart(x: np.ndarray) -> None:
    x *= 1e4


def _nan_row(x: np.ndarray) -> None:
    x[1, -1] = np.nan
    x[2, 0] = np.nan


LOSS = [
    *(loss("softmax_loss", f"{k} classes", n, k, 0.0) for n, k in ((3, 1), (4, 2), (9, 10), (4, 16), (5, 17), (7, 40))),
    loss("softmax_loss", "one example, nearly equal scores", 1, 3, 0.0, change=_nearly_equal),
    *(loss("softmax_loss", f"{k} classes, smooth labels", 5, k, 0.1) for k in (1, 3, 33)),
    loss("softmax_loss", "huge equal scores", 3, 10, 0.0, change=_huge_and_equal),
    loss("softmax_loss", "huge equal scores, smooth labels", 3, 10, 0.1, change=_huge_and_equal),
    loss("softmax_loss", "scores so far apart that classes have probability 0", 6, 10, 0.0, change=_far_apart),
    loss("softmax_loss", "a NaN spoils its example", 4, 10, 0.0, change=_nan_row),
    *(loss("svm_loss", f"{k} classes", n, k) for n, k in ((3, 1), (1, 2), (9, 10), (4, 16), (5, 17), (7, 40))),
    loss("svm_loss", "margins of exactly 0", 9, 10, change=_whole_numbers),
    loss("svm_loss", "a NaN spoils its example", 4, 10, change=_nan_row),
    *(loss("mse_loss", f"{k} numbers", n, k) for n, k in ((3, 1), (1, 2), (9, 10), (4, 16), (7, 40))),
    loss("mse_loss", "a NaN spoils its example", 4, 10, change=_nan_row),
    Case("add_total", "a sum to add to", lambda make: (make.rng.standard_normal(100), 0.01, np.array([0.5]))),
    Case("add_total", "one number", lambda make: (make.rng.standard_normal(1), 1.0, np.array([0.0]))),
]

# ---- the step of the weights


def _settings(age: float = 0.0) -> np.ndarray:
    settings = np.array([0.01, 0.9, 0.99, 1e-3, 0.1, 3.0, 0.8, age])  # an eps that shows
    assert len(settings) == SETTINGS
    return settings


def average(label: str, size: int, age: float) -> Case:
    return Case("average", label, lambda make: (make.grad(size), _settings(age), make.grad(size)))


def step(rule: str, label: str, size: int, weights: int, bad: int | None = None, known: float = -1.0) -> Case:
    def build(make: Maker) -> tuple:
        dw, w, m, v = (make.grad(size) for _ in range(4))
        if rule in ("rmsprop", "adam", "adamw"):
            np.abs(v, out=v)
        if bad is not None:
            dw[bad] = np.nan
        sums = np.full(-(-size // BLOCK), known)
        return RULES.index(rule), weights, _settings(), dw, w, m, v, sums, make.doubles(1)

    return Case("update", f"{rule}, {label}", build)


def _sums(make: Maker) -> np.ndarray:
    return make.rng.uniform(1, 2, 3)


def _l2(size: int) -> Callable[[Maker], tuple]:
    blocks = -(-size // BLOCK)
    return lambda make: (make.grad(size), 0.3, make.grad(size), make.doubles(blocks), np.full(blocks, -1.0))


def trust(label: str, examples: int, largest: float = 1e30, bad: float | None = None) -> Case:
    def build(make: Maker) -> tuple:
        x, dy = np.abs(make.grad(examples)), np.abs(make.grad(examples))
        if bad is not None:
            dy[-1] = bad
        return x, dy, largest, np.full(3, -1.0)

    return Case("trust", label, build)


def lengths(label: str, n: int, shape: tuple[int, int, int], dense: bool = False) -> Case:
    def build(make: Maker) -> tuple:
        return make.dense(n, *shape) if dense else make.value(n, *shape), make.grad_out(n)

    return Case("lengths", label, build)


UPDATE = [
    *(step(rule, "blocks and a bit, weights and others", 2 * BLOCK + 48, BLOCK + 16) for rule in RULES),
    *(step(rule, "one register, all weights", 16, 16) for rule in RULES),
    *(step(rule, "a NaN in the gradient ends the step", 64, 32, bad=19) for rule in RULES),
    *(step(rule, "a NaN where the sums are said to be known", 64, 32, bad=19, known=0.5) for rule in RULES),
    step("adam", "known sums that are infinite", 2 * BLOCK + 48, BLOCK + 16, known=np.inf),
    average("blocks and a bit", 2 * BLOCK + 48, 1000.0),
    average("one register, early", 16, 3.0),
    average("the first step", 48, 1.0),
    Case("add_l2", "blocks and a bit", _l2(2 * BLOCK + 16)),
    Case("add_l2", "one register", _l2(16)),
    Case("add_l2", "no weights", _l2(0)),
    trust("a bound that is small enough", 5),
    trust("a bound that is too large", 5, largest=1e-6),
    trust("a length that is a NaN", 5, bad=np.nan),
    trust("a length that is infinite", 5, bad=np.inf),
    lengths("vectors", 3, (1, 1, 100)),
    lengths("pictures with room behind the channels", 3, (4, 5, 17)),
    lengths("dense pictures", 3, (4, 5, 3), dense=True),
    lengths("four registers and a bit, dense", 2, (1, 1, 4 * 16 + 21), dense=True),
    Case("square_sums", "blocks and a bit", lambda make: (make.grad(2 * BLOCK + 16), make.doubles(3))),
    Case("square_sums", "one block", lambda make: (make.grad(BLOCK), make.doubles(1))),
    Case("clip_norm", "longer than allowed", lambda make: (_sums(make), 0.5, make.grad(2 * BLOCK + 16))),
    Case("clip_norm", "short enough", lambda make: (_sums(make), 50.0, make.grad(48))),
    Case("clip_norm", "a norm that is NaN", lambda make: (np.array([1.0, np.nan]), 0.5, make.grad(48))),
]

# ---- moves


def gather(
    dtype: str, label: str, shape: tuple[int, int, int], vectors: bool = False, dense: bool = False, halo: int = 0
) -> list[Case]:
    channels, height, width = shape

    def build(make: Maker) -> tuple:
        numbers = make.rng.uniform(0, 256, (9, channels * height * width) if vectors else (9, *shape))
        x = make.dense(5, height, width, channels) if dense else make.out(5, height, width, channels, halo=halo)
        return numbers.astype(dtype), CODES[dtype], np.array([8, 0, 3, 3, 7]), x

    def measured(make: Maker) -> tuple:
        return *build(make), make.grad_out(5)

    label = f"{dtype}, {label}"
    return [Case("gather", label, build), Case("gather_lengths", label, measured)]


def groups(label: str, window: tuple[int, int], channels: int, filters: int, count: int) -> list[Case]:
    def expand(make: Maker) -> tuple:
        return make.grad(*window, channels // count, filters), count, make.grad_out(*window, channels, filters)

    def collect(make: Maker) -> tuple:
        return make.grad(*window, channels, filters), count, make.grad_out(*window, channels // count, filters)

    return [Case("expand_groups", label, expand), Case("collect_groups", label, collect)]


def _add_in_place(make: Maker) -> tuple:
    y = make.grad(2, 3, 4, 17)
    return y, make.grad(2, 3, 4, 17), y


def _copy_into_piece(make: Maker) -> tuple:
    return make.value(2, 3, 4, 5), make.value(2, 3, 4, 33)[..., 7:12]


def _copy_from_piece(make: Maker) -> tuple:
    return make.grad(2, 3, 4, 33)[..., 15:32], make.grad_out(2, 3, 4, 17)


def _rows_of_weights(make: Maker) -> tuple:
    return make.grad(5, 3, 4, 33).transpose(1, 2, 0, 3), make.grad_out(3, 4, 5, 33)


def _turn_matrix(make: Maker) -> tuple:
    w = make.grad(33, 20)
    return w[None], make.grad_out(1, 20, 33)


def flatten(label: str, *shape: int) -> list[Case]:
    flat = (shape[0], 1, 1, shape[1] * shape[2] * shape[3])
    return [
        Case("flatten_forward", label, lambda make: (make.value(*shape), make.out(*flat))),
        Case("flatten_backward", label, lambda make: (make.grad(*flat), make.grad_out(*shape))),
    ]


MOVES = [
    *(case for dtype in CODES for case in gather(dtype, "pictures", (3, 4, 5))),
    *(case for dtype in CODES for case in gather(dtype, "vectors", (17, 1, 1), vectors=True)),
    *gather("uint8", "into a frame", (3, 4, 5), halo=2),
    *gather("float32", "into dense pictures", (3, 5, 4), dense=True),
    *(case for dtype in CODES for case in gather(dtype, "into dense pictures of one channel", (1, 3, 37), dense=True)),
    *(
        case
        for dtype in CODES
        for case in gather(dtype, "vectors of many registers", (2 * 64 + 21, 1, 1), vectors=True)
    ),
    Case(
        "gather_labels",
        "in any order, some twice",
        lambda make: (make.labels(9, 10), np.array([8, 0, 3, 3, 7]), np.full(5, -1)),
    ),
    Case("copy_rows", "weights of an affine after pictures", _rows_of_weights),
    Case("turn", "a window of weights", lambda make: (make.grad(9, 5, 33), make.grad_out(9, 33, 5))),
    Case("turn", "a matrix", _turn_matrix),
    Case("turn", "whole blocks and borders", lambda make: (make.grad(2, 37, 53), make.grad_out(2, 53, 37))),
    Case("turn", "one number", lambda make: (make.grad(1, 1, 1), make.grad_out(1, 1, 1))),
    Case("add_slots", "several slots", lambda make: (make.grad(5, 33), make.grad_out(33))),
    Case("add_slots", "one slot", lambda make: (make.grad(1, 17), make.grad_out(17))),
    Case("add_slots", "as long as many weights", lambda make: (make.grad(4, 2320), make.grad_out(2320))),
    Case(
        "add_forward", "values", lambda make: (make.value(2, 3, 4, 17), make.value(2, 3, 4, 17), make.out(2, 3, 4, 17))
    ),
    Case(
        "add_forward",
        "in frames of different width",
        lambda make: (make.value(2, 3, 4, 5, halo=1), make.value(2, 3, 4, 5), make.out(2, 3, 4, 5, halo=2)),
    ),
    Case("add_forward", "a gradient, in place", _add_in_place),
    Case("clear_frame", "a frame of one", lambda make: (1, make.value(2, 4, 5, 20))),
    Case("clear_frame", "a frame of two, one channel", lambda make: (2, make.value(3, 6, 5, 1))),
    Case("clear_frame", "no inside", lambda make: (1, make.value(2, 2, 2, 5))),
    Case("copy", "into a frame", lambda make: (make.grad(2, 3, 4, 5), make.grad_out(2, 3, 4, 5, halo=1))),
    Case("copy", "more channels", lambda make: (make.value(2, 3, 1, 33), make.out(2, 3, 1, 33))),
    Case("copy_channels", "into some channels of more", _copy_into_piece),
    Case("copy_channels", "from some channels of more", _copy_from_piece),
    *flatten("pictures", 3, 4, 5, 17),
    *flatten("vectors", 2, 1, 1, 5),
    *groups("two groups", (3, 2), 6, 10, 2),
    *groups("a group for each channel", (3, 3), 17, 34, 17),
    *groups("one group", (1, 1), 5, 17, 1),
]

CASES: list[Case] = [
    *CONV,
    *DEPTHWISE,
    *WINOGRAD,
    *HALVES,
    *PLANE,
    *AFFINE,
    *(case for name in ACTIVATIONS for case in activation(name)),
    *POOL,
    *NORM,
    *DROPOUT,
    *AUGMENT,
    *LOSS,
    *UPDATE,
    *MOVES,
]
