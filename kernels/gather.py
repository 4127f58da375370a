"""The minibatch: x[n, i, j, c] = data[rows[n], c, i, j], whatever the dtype of the data, and its labels.

The data stays as the user has it, examples in C order with channels outermost. It comes as its address and the code of
its dtype, so that neither a read-only nor a memory-mapped array makes another compilation; the reference takes the
array itself.
"""

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.jit import Array4, Ints, inlined, kernel, step
from nbnn.kernels.simd import pointer, poke


def _reader(scalar, result):
    @intrinsic
    def read(typing, address, index):
        def emit(context, builder, sig, args):
            place = builder.inttoptr(args[0], scalar.as_pointer())
            value = builder.load(builder.gep(place, [args[1]]))
            return builder.uitofp(value, ir.FloatType()) if isinstance(scalar, ir.IntType) else value

        return result(types.int64, types.int64), emit

    return read


read_uint8 = _reader(ir.IntType(8), types.float32)
read_float32 = _reader(ir.FloatType(), types.float32)
read_float64 = _reader(ir.DoubleType(), types.float64)


def _rows(read):
    @inlined
    def rows(data, rows, x, first, last):
        height, width, channels = x.shape[1], x.shape[2], x.shape[3]
        for n in range(first, last):
            at, xn = rows[n] * channels * height * width, pointer(x) + n * step(x, 0)
            if height * width == 1:  # a vector is one run of memory on both sides
                for c in range(channels):
                    poke(xn, c, read(data, at + c))
            else:
                for i in range(height):
                    for c in range(channels):
                        row, to = at + (c * height + i) * width, xn + (i * step(x, 1) + c)
                        for j in range(width):
                            poke(to, j * step(x, 2), read(data, row + j))

    return rows


_rows_uint8, _rows_float32, _rows_float64 = _rows(read_uint8), _rows(read_float32), _rows(read_float64)


@kernel(each="x", whole=False)
def gather(data: int, code: int, rows: Ints, x: Array4, first: int, last: int):
    if code == 0:
        _rows_uint8(data, rows, x, first, last)
    elif code == 1:
        _rows_float32(data, rows, x, first, last)
    else:
        _rows_float64(data, rows, x, first, last)


@kernel(each="labels", whole=False)
def gather_labels(all_labels: Ints, rows: Ints, labels: Ints, first: int, last: int):
    """labels[n] = all_labels[rows[n]]."""
    for n in range(first, last):
        labels[n] = all_labels[rows[n]]
