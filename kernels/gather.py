"""The minibatch: x[n, i, j, c] = data[rows[n], c, i, j], whatever the dtype of the data, and its labels.

The data stays as the user has it, examples in C order with channels outermost. It comes as its address and the code of
its dtype, so that neither a read-only nor a memory-mapped array makes another compilation; the reference takes the
array itself.
"""

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.arrays import length
from nbnn.kernels.jit import Array1, Array4, Ints, inlined, kernel, step
from nbnn.kernels.simd import Register, lanes, pointer, poke, store

_KINDS = (ir.IntType(8), 1), (ir.FloatType(), 4), (ir.DoubleType(), 8)  # of data, by their codes, and their bytes


def _reader(whole):
    """Reads data of any kind as numbers of x's dtype: one, or a whole register of them."""

    @intrinsic
    def read(typing, x, address, code, index):
        register = Register(x.dtype)
        wanted, count = register.vector.element, register.lanes if whole else 1
        result = register if whole else x.dtype

        def emit(context, builder, sig, args):
            _, address, code, index = args
            after = builder.append_basic_block("read")
            found = builder.function.append_basic_block
            values = []
            for number, (scalar, size) in enumerate(_KINDS):
                here, further = found(f"kind.{number}"), found("other")
                builder.cbranch(builder.icmp_signed("==", code, ir.IntType(64)(number)), here, further)
                builder.position_at_end(here)
                kind = ir.VectorType(scalar, count)
                place = builder.gep(builder.inttoptr(address, scalar.as_pointer()), [index])
                value = builder.load(builder.bitcast(place, kind.as_pointer()), align=size)
                values.append((_converted(builder, value, scalar, ir.VectorType(wanted, count)), here))
                builder.branch(after)
                builder.position_at_end(further)
            builder.unreachable()
            builder.position_at_end(after)
            value = builder.phi(ir.VectorType(wanted, count))
            for one, block in values:
                value.add_incoming(one, block)
            return value if whole else builder.extract_element(value, ir.IntType(32)(0))

        return result(x, types.int64, types.int64, types.int64), emit

    return read


def _converted(builder, value, scalar, kind):
    if isinstance(scalar, ir.IntType):
        return builder.uitofp(value, kind)
    if scalar == kind.element:
        return value
    narrower = isinstance(scalar, ir.FloatType)
    return builder.fpext(value, kind) if narrower else builder.fptrunc(value, kind)


_number, _register = _reader(False), _reader(True)


@inlined
def _run(data, code, at, x, to, count):
    """`count` numbers of the data to as many of x that lie side by side."""
    whole = count // lanes(x) * lanes(x)
    for j in range(0, whole, lanes(x)):
        store(to, j, _register(x, data, code, at + j))
    for j in range(whole, count):
        poke(to, j, _number(x, data, code, at + j))


@inlined
def _gather(data, code, rows, x, first, last):
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for n in range(first, last):
        at, xn = rows[n] * channels * height * width, pointer(x) + n * step(x, 0)
        if height * width == 1:  # a vector
            _run(data, code, at, x, xn, channels)
        elif step(x, 2) == 1:  # a picture of one channel without room
            for i in range(height):
                _run(data, code, at + i * width, x, xn + i * step(x, 1), width)
        else:
            for i in range(height):
                for c in range(channels):
                    row, to = at + (c * height + i) * width, xn + (i * step(x, 1) + c)
                    for j in range(width):
                        poke(to, j * step(x, 2), _number(x, data, code, row + j))


@kernel(each="x", whole=False)
def gather(data: int, code: int, rows: Ints, x: Array4, first: int, last: int):
    _gather(data, code, rows, x, first, last)


@kernel(each="x", fills=2, whole=False)
def gather_lengths(data: int, code: int, rows: Ints, x: Array4, y: Array1, first: int, last: int):
    """The minibatch, and y[n] = the length of x[n] as a vector, found while x[n] is in the first-level cache: to
    read the minibatch once more for it would be more than a hundredth of a small net's step."""
    for n in range(first, last):
        _gather(data, code, rows, x, n, n + 1)
        y[n] = length(x, n)


@kernel(each="labels", whole=False)
def gather_labels(all_labels: Ints, rows: Ints, labels: Ints, first: int, last: int):
    """labels[n] = all_labels[rows[n]]."""
    for n in range(first, last):
        labels[n] = all_labels[rows[n]]
