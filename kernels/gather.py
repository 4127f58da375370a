"""The minibatch: x[n, i, j, c] = data[rows[n], c, i, j], whatever the dtype of the data, and its labels.

The data stays as the user has it, examples in C order with channels outermost. It comes as its address and the code of
its dtype, so that neither a read-only nor a memory-mapped array makes another compilation; the reference takes the
array itself.
"""

import math

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.jit import Array1, Array4, Ints, inlined, kernel, step
from nbnn.kernels.simd import Register, fill, lanes, pointer, poke, store, total


def _reader(scalar, whole):
    """Reads data of this kind as numbers of x's dtype: one, or a whole register of them."""

    @intrinsic
    def read(typing, x, address, index):
        register = Register(x.dtype)
        count = register.lanes if whole else 1
        result = register if whole else x.dtype

        def emit(context, builder, sig, args):
            kind = ir.VectorType(scalar, count)
            place = builder.gep(builder.inttoptr(args[1], scalar.as_pointer()), [args[2]])
            value = builder.load(builder.bitcast(place, kind.as_pointer()), align=_bytes(scalar))
            value = _converted(builder, value, scalar, ir.VectorType(register.vector.element, count))
            return value if whole else builder.extract_element(value, ir.IntType(32)(0))

        return result(x, types.int64, types.int64), emit

    return read


def _bytes(scalar):
    return {"i8": 1, "float": 4, "double": 8}[str(scalar)]


def _converted(builder, value, scalar, kind):
    if isinstance(scalar, ir.IntType):
        return builder.uitofp(value, kind)
    if scalar == kind.element:
        return value
    return builder.fpext(value, kind) if _bytes(scalar) == 4 else builder.fptrunc(value, kind)


def _mover(scalar):
    one, register = _reader(scalar, False), _reader(scalar, True)

    @inlined
    def move(data, at, x, to, apart, count):
        """`count` numbers of the data to places of x that are `apart`; the sum of their squares. (Where nobody wants
        it, nothing is left of it; in four sums it costs nothing beside the copy.)"""
        width = lanes(x)
        a, b, c, d = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0), fill(x, 0.0)
        ones = count // width * width if apart == 1 else 0
        fours = ones // (4 * width) * (4 * width)
        for j in range(0, fours, 4 * width):
            s, t = register(x, data, at + j), register(x, data, at + j + width)
            u, v = register(x, data, at + j + 2 * width), register(x, data, at + j + 3 * width)
            store(to, j, s)
            store(to, j + width, t)
            store(to, j + 2 * width, u)
            store(to, j + 3 * width, v)
            a, b, c, d = a + s * s, b + t * t, c + u * u, d + v * v
        for j in range(fours, ones, width):
            s = register(x, data, at + j)
            store(to, j, s)
            a = a + s * s
        rest = 0.0
        for j in range(ones, count):
            value = one(x, data, at + j)
            poke(to, j * apart, value)
            rest += value * value
        return total((a + b) + (c + d)) + rest

    return move


_move_uint8, _move_float32, _move_float64 = (_mover(s) for s in (ir.IntType(8), ir.FloatType(), ir.DoubleType()))


@inlined
def _gather(data, code, rows, x, n):
    """One example, run by run: a row of one channel, or a vector; the sum of its squares. (Asking for the code at each
    number is two to three times as slow, three copies of these loops take twice as long to compile.)"""
    height, channels, count, apart, s = x.shape[1], x.shape[3], x.shape[2], step(x, 2), 0.0
    if height * count == 1:
        channels, count, apart = 1, channels, 1
    for i in range(height):
        for c in range(channels):
            at, to = ((rows[n] * channels + c) * height + i) * count, n * step(x, 0) + i * step(x, 1) + c
            if code == 0:
                s += _move_uint8(data, at, x, pointer(x) + to, apart, count)
            elif code == 1:
                s += _move_float32(data, at, x, pointer(x) + to, apart, count)
            else:
                s += _move_float64(data, at, x, pointer(x) + to, apart, count)
    return s


@kernel(each="x", whole=False)
def gather(data: int, code: int, rows: Ints, x: Array4, first: int, last: int):
    for n in range(first, last):
        _gather(data, code, rows, x, n)


@kernel(each="x", fills=2, whole=False)
def gather_lengths(data: int, code: int, rows: Ints, x: Array4, y: Array1, first: int, last: int):
    """The minibatch, and y[n] = the length of x[n] as a vector: to read the minibatch once more for it would be more
    than a hundredth of a small net's step."""
    for n in range(first, last):
        y[n] = math.sqrt(_gather(data, code, rows, x, n))


@kernel(each="labels", whole=False)
def gather_labels(all_labels: Ints, rows: Ints, labels: Ints, first: int, last: int):
    """labels[n] = all_labels[rows[n]]."""
    for n in range(first, last):
        labels[n] = all_labels[rows[n]]
