"""How a compiled kernel is entered: by one address, whatever its arguments are.

    run(work, first, last, worker, origin)

`work` is a table of 64-bit words: the address of the kernel's cell (see `bodies.py`), two that the launch fills, and
one for each argument, a number as it is or the address of an array's block. Such a block has the address of the data,
the shape, the strides in bytes, and two numbers for an array of each worker's own: how far examples are apart, and how
far the rooms of workers are; then what would be example `origin` lies where the room begins. Both are 0 elsewhere.

A compiled step writes these tables on its stack (`tables.py`); `Entry.work` writes one for Python.
"""

import ctypes
import functools
import operator

import numpy as np
from llvmlite import ir
from numba import types

CELL, ITEMS, GRAIN, ARGUMENTS = range(4)  # words of a work: its kernel's cell, its items, the fewest that go together
SUPPLIED = ("first", "last", "worker")  # the arguments that come from the launch
_I64 = ir.IntType(64)
RUN = ir.FunctionType(ir.IntType(32), [_I64] * 5)


def word(builder, address, place):
    """A number of a table, which is given by its address."""
    return builder.load(builder.gep(builder.inttoptr(address, _I64.as_pointer()), [_I64(place)]))


def name_of(fndesc):
    return f"run.{fndesc.llvm_func_name}"


def _count(fndesc):
    """How many of the arguments are in the table."""
    return sum(name not in SUPPLIED for name in fndesc.args)


def add_entry(context, kernel, fndesc):
    """Write `run` beside the function that is the compiled kernel. It hands over what Numba's rules want: where to put
    the result and where the error, then each argument, an array as its many numbers."""
    kernel.attributes.add("noinline")  # its code is there once
    run = ir.Function(kernel.module, RUN, name_of(fndesc))
    builder = ir.IRBuilder(run.append_basic_block())
    work, *share, origin = run.args
    words = [builder.alloca(kind.pointee) for kind in kernel.function_type.args[:2]]
    count = _count(fndesc)
    for k, kind in enumerate(fndesc.argtypes[:count]):
        value = word(builder, work, ARGUMENTS + k)
        if isinstance(kind, types.Array):
            words += _numbers(context, builder, kind, value, share[2], origin)
        else:
            words.append(value if kind == types.int64 else builder.bitcast(value, context.get_value_type(kind)))
    builder.ret(builder.call(kernel, [*words, *share[: len(fndesc.argtypes) - count]]))


def _numbers(context, builder, kind, block, worker, origin):
    """An array as nobody's property: how many numbers, the bytes of one, the address, shape, strides."""
    itemsize, nobody = _I64(kind.dtype.bitwidth // 8), ir.IntType(8).as_pointer()(None)
    data, *sides, step, apart = (word(builder, block, k) for k in range(2 * kind.ndim + 3))
    data = builder.add(data, builder.sub(builder.mul(worker, apart), builder.mul(origin, step)))
    data = builder.inttoptr(data, context.get_value_type(kind.dtype).as_pointer())
    return [nobody, nobody, functools.reduce(builder.mul, sides[: kind.ndim]), itemsize, data, *sides]


class Entry:
    """A compiled kernel, which Python can call as well."""

    def __init__(self, name, kinds, only):
        self._only = only  # keeps it in memory
        self._name = name
        self._kinds = [(np.dtype(k.dtype.name), k.ndim) if isinstance(k, types.Array) else k for k in kinds]
        self._count = _count(only.fndesc)
        dims = [kind.ndim for kind in kinds if isinstance(kind, types.Array)]
        self._table = ctypes.c_int64 * (ARGUMENTS + self._count + sum(2 * ndim + 3 for ndim in dims))
        self.address = only.library.get_pointer_to_function(name_of(only.fndesc))
        if not self.address:
            raise RuntimeError(
                f"{name} was compiled without its entry; this version of Numba is not one that nbnn knows"
            )
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 5)(self.address)

    def __call__(self, *values):
        """The arguments, then what a launch supplies: first, last, and for some kernels the worker."""
        if len(values) != len(self._kinds):
            raise TypeError(f"{self._name} takes {len(self._kinds)} arguments, got {len(values)}")
        work = self.work(values[: self._count], 0)
        supplied = [self._number(types.int64, value) for value in values[self._count :]]
        words = [*supplied, *[0] * (4 - len(supplied))]  # no worker, where there is none, and no origin
        if self._run(ctypes.addressof(work), *words):
            raise IndexError(f"index is out of bounds in {self._name}")  # nothing else goes wrong in a kernel

    def work(self, values, cell):
        """The table of the kernel with these arguments, with the blocks of arrays behind it."""
        table = self._table()
        words, blocks, behind = [cell, 0, 1], [], ctypes.addressof(table) + 8 * (ARGUMENTS + self._count)
        for kind, value in zip(self._kinds[: self._count], values, strict=True):
            if isinstance(kind, tuple):
                words.append(behind + 8 * len(blocks))
                blocks += self._block(kind, value)
            else:
                words.append(self._number(kind, value))
        table[:] = words + blocks
        return table

    def _block(self, kind, value):
        given = (value.dtype, value.ndim) if isinstance(value, np.ndarray) and value.flags.behaved else None
        if given != kind:
            got = f"{value.dtype.str}, {value.ndim}" if isinstance(value, np.ndarray) else type(value).__name__
            wanted = "an aligned, writable array of {}, {} axes".format(*kind)
            raise TypeError(f"{self._name} wants {wanted}; got {got}")
        return value.ctypes.data, *value.shape, *value.strides, 0, 0

    def _number(self, kind, value):
        if kind == types.float64:
            return int(np.float64(value).view(np.int64))
        number = operator.index(value)
        if not -(2**63) <= number < 2**63:
            raise OverflowError(f"{self._name} takes numbers of 64 bits, got {value}")
        return number
