"""The minibatch: x[n, i, j, c] = data[rows[n], c, i, j], whatever the dtype of the data, and its labels.

The data stays as the user has it, examples in C order with channels outermost. It comes as its address and the code of
its dtype, so that neither a read-only nor a memory-mapped array makes another compilation; the reference takes the
array itself.
"""

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.jit import Array4, Ints, kernel


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


@kernel(each="x")
def gather(data: int, code: int, rows: Ints, x: Array4, first: int, last: int):
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for n in range(first, last):
        at = rows[n] * channels * height * width
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    if code == 0:
                        x[n, i, j, c] = read_uint8(data, at)
                    elif code == 1:
                        x[n, i, j, c] = read_float32(data, at)
                    else:
                        x[n, i, j, c] = read_float64(data, at)
                    at += 1


@kernel(each="labels")
def gather_labels(all_labels: Ints, rows: Ints, labels: Ints, first: int, last: int):
    """labels[n] = all_labels[rows[n]]."""
    for n in range(first, last):
        labels[n] = all_labels[rows[n]]
