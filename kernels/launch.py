"""How kernels run over their items: one parallel loop for all graphs, and who decides when it is worth it.

A compiled step writes tables of arguments (see `tables.py`) and hands them to `_go`, which counts items and cost. Large
ones go to `_launch`, the only parallel function there is, which shares the items among the threads; small ones stay in
the thread that asked. Either way `_walk` takes a share of them through all the kernels of a table. The three find each
other, and are found by steps, under names that `start_engine` gives them.

How many threads there are decides who handles an item, never what is computed for it: every item writes only its own
part.
"""

import ctypes
import functools
import platform

import numba
from llvmlite import binding, ir
from numba import prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from nbnn import compiling
from nbnn.kernels import names
from nbnn.kernels.bodies import AXIS, CELL_HEAD, COUNT, EACH, INTENSITY, LEAST, fill_cell
from nbnn.kernels.entry import ARGUMENTS, CELL, GRAIN, ITEMS, RUN
from nbnn.kernels.jit import compiled_for, inlined

# Bytes of all arrays times `intensity`: below this a launch over all cores costs more than it saves. Measured: a launch
# takes 2-5 us, in which one core moves about 64 KiB.
SERIAL_BELOW = 1 << 17
PLAIN, SHARES, BESIDE = range(3)  # ways to launch
_I64, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()


def call_engine(context, builder, name, words):
    """Call what `start_engine` has given this name; nothing goes wrong there."""
    function_type = context.call_conv.get_function_type(types.void, (types.int64,) * len(words))
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    with builder.goto_entry_block():
        nothing = [builder.alloca(kind.pointee) for kind in function_type.args[:2]]
    builder.call(function, [*nothing, *words])


@intrinsic
def _run(typing, function, work, first, last, worker, origin):
    def emit(context, builder, sig, args):
        status = builder.call(builder.inttoptr(args[0], RUN.as_pointer()), args[1:])
        if numba.config.BOUNDSCHECK:  # nobody could be told of an index out of range, so the process ends
            with cgutils.if_unlikely(builder, builder.icmp_signed("!=", status, status.type(0))):
                trap = ir.FunctionType(ir.VoidType(), [])
                builder.call(cgutils.get_or_insert_function(builder.module, trap, "llvm.trap"), [])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), emit


@intrinsic
def _word(typing, table, place):
    """The number at that place of a table of words, given by its address."""

    def emit(context, builder, sig, args):
        return builder.load(builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), emit


@intrinsic
def _put(typing, table, place, value):
    """Write it."""

    def emit(context, builder, sig, args):
        builder.store(args[2], builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), emit


IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
_FLUSH = 0x8040  # of the control word of x86: results and operands too small for a normal number count as zeros


def _control_word(builder, name, word):
    place = cgutils.alloca_once(builder, ir.IntType(32))
    builder.store(word, place)
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [_BYTES]), name)
    builder.call(function, [builder.bitcast(place, _BYTES)])
    return builder.load(place)


@intrinsic
def flush_denormals(typing):
    """Make this thread take the smallest numbers for zeros, on which multiplications take 100 times as long; gives what
    `restore_denormals` wants. Gradients of a net that has learnt its data are such numbers."""

    def emit(context, builder, sig, args):
        if not IS_X86:
            return ir.IntType(32)(0)
        before = _control_word(builder, "llvm.x86.sse.stmxcsr", ir.IntType(32)(0))
        _control_word(builder, "llvm.x86.sse.ldmxcsr", builder.or_(before, ir.IntType(32)(_FLUSH)))
        return before

    return types.uint32(), emit


@intrinsic
def restore_denormals(typing, before):
    def emit(context, builder, sig, args):
        if IS_X86:
            _control_word(builder, "llvm.x86.sse.ldmxcsr", args[0])
        return context.get_dummy_value()

    return types.void(types.uint32), emit


@inlined
def beginning(unit, units, items, grain):
    """The first of the items that belong to a unit, or to one behind it: whole grains, as many for each as can be."""
    return min(unit * ((items + grain - 1) // grain) // units * grain, items)


def _walk(table, count, begin, end, units, examples, worker):
    """Take units begin ... end - 1 through the works of a table, each stretch of them `together` units at a time."""
    k, together, denormals = 0, max(end - begin, 1), flush_denormals()
    while k < count:
        if _word(_word(table, k), CELL) == 0:
            together = _word(_word(table, k), ITEMS)
            k += 1
        stop = k + 1
        while stop < count and _word(_word(table, stop), CELL) != 0:
            stop += 1
        for unit in range(begin, end, together):
            beyond, origin = min(unit + together, end), unit * examples // units
            for j in range(k, stop):
                work = _word(table, j)
                items, grain = _word(work, ITEMS), _word(work, GRAIN)
                first, last = beginning(unit, units, items, grain), beginning(beyond, units, items, grain)
                _run(_word(_word(work, CELL), 0), work, first, last, worker, origin)
        k = stop
    restore_denormals(denormals)


def _by_name(name):
    """What `start_engine` has compiled under that name: its callers have little to compile."""

    @intrinsic
    def call_it(typing, *words):
        def emit(context, builder, sig, args):
            call_engine(context, builder, name, cgutils.unpack_tuple(builder, args[0]))
            return context.get_dummy_value()

        return types.void(types.StarArgUniTuple(types.int64, len(words))), emit

    return call_it


_walk_by_name, _launch_by_name = _by_name("nbnn.walk"), _by_name("nbnn.launch")


def _launch(table, count, units, examples, grain, threads):
    grains = (units + grain - 1) // grain
    workers = min(threads, grains)
    for worker in prange(workers):
        first = (worker * grains // workers) * grain
        last = min(((worker + 1) * grains // workers) * grain, units)
        _walk_by_name(table, count, first, last, units, examples, worker)


def _go(table, count, way, units, examples, threads):
    """Count the items and the cost of the works of a table, and take them through: in this thread or in all."""
    items, cost, grain = 0, 0, 1
    for k in range(count):
        work = _word(table, k)
        cell = _word(work, CELL)
        if cell == 0:
            continue
        size, arguments = 0, _word(cell, COUNT)
        for j in range(arguments):
            total = _word(cell, CELL_HEAD + arguments + j)
            if total != 0:  # an array that counts
                block = _word(work, ARGUMENTS + j)
                for side in range(_word(cell, CELL_HEAD + j)):
                    total *= _word(block, 1 + side)
                size += total
        cost += size * _word(cell, INTENSITY)
        least, axis, mine = _word(cell, LEAST), _word(cell, AXIS), _word(work, ARGUMENTS + _word(cell, EACH))
        if axis >= 0:
            mine = _word(mine, 1 + axis)
        _put(work, ITEMS, mine)
        if way == BESIDE:
            _put(work, GRAIN, least)
            mine = (mine + least - 1) // least
        items, grain = max(items, mine), max(grain, least)
    if way == PLAIN:
        units = examples = items
    else:
        grain = 1
    if way == BESIDE:  # a unit for each worker
        units = examples = min(threads, items)
    if cost >= SERIAL_BELOW and units > grain and threads > 1:
        _launch_by_name(table, count, units, examples, grain, threads)
    else:
        _walk_by_name(table, count, 0, units, units, examples, 0)


def start_engine():
    """Compile or load the launch and give its parts their names; once per process, before a step is loaded. It is there
    whole or not at all."""
    with compiling.one_at_a_time():
        if _engine:
            return
        found = {}
        for function, words, options in ((_walk, 7, {}), (_launch, 6, {"parallel": True}), (_go, 6, {})):
            name = function.__name__[1:]
            found[name] = compiled_for([types.int64] * words, function, name, **options)
            binding.add_symbol(f"nbnn.{name}", found[name].address)  # by which the next one finds it
        numba.get_num_threads()  # makes Numba choose its threading layer; a launch would end a forked child
        _engine.update(found)


_engine: dict = {}


@functools.cache
def one_of(name, dtype):
    """A kernel, compiled for Python to launch, and the address of its cell."""
    start_engine()
    kernel = names()[name]
    return kernel.body(dtype), fill_cell(kernel, dtype)


def launch_one(entry, cell, values, threads):
    """Launch it over all its items."""
    work = entry.work(values, cell)
    table = ctypes.c_int64(ctypes.addressof(work))
    _engine["go"](ctypes.addressof(table), 1, PLAIN, 0, 0, threads)


def launches_share_state() -> bool:
    """Whether two threads must not launch at the same time: Numba's workqueue layer would abort the process."""
    return bool(_engine) and numba.threading_layer() == "workqueue"
