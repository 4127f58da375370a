"""How kernels run inside a compiled step: a few words that write tables of arguments, and one parallel loop.

    launch(deep(2), conv_forward(x, w, b, 1, 1, y), relu_forward(y, z), max_pool_forward(z, 2, 2, 0, p))

shares the items among the threads once, by `_launch`, the only parallel function there is; each thread takes its share
through all the kernels, here two items at a time, while they are in its cache (`_walk`). A launch that is too small to
be worth it runs in the thread that asked for it (`_go` decides). So a new graph compiles a straight list of tables and
no loop, which takes a second where the loops would take minutes.

    launch_shares(16, n, deep(1), norm_backward(...), conv_backward_weights(dw, ...))

does the same with kernels whose items are not examples but sums over shares of them: the threads share 16 units, each
of which is one sixteenth of the items of every kernel, here one unit at a time.

    launch_beside(affine_backward_weights(x, dy, 100, dw, held), add_slots(dy, db))

is for kernels that do not need each other: each thread takes a share of the items of the first, then one of the items
of the second, whatever they are, and nobody waits in between.

How many threads there are decides who handles an item, never what is computed for it: every item writes only its own
part. What is written and read within a launch only need not be there for all examples: `own` is an array of each
worker's own, with room for as many examples as it takes at a time.
"""

import ctypes
import functools
import inspect
import platform
import time

import numba
from llvmlite import binding, ir
from numba import prange, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.extending import intrinsic, models, register_model

from nbnn import compiling
from nbnn.kernels import names
from nbnn.kernels.bodies import AXIS, CELL_HEAD, COUNT, EACH, INTENSITY, LEAST, cell_of, fill_cell
from nbnn.kernels.entry import ARGUMENTS, CELL, GRAIN, ITEMS, RUN
from nbnn.kernels.jit import compiled_for, inlined

# Bytes of all arrays times `intensity`: below this a launch over all cores costs more than it saves. Measured: a launch
# takes 2-5 us, in which one core moves about 64 KiB.
SERIAL_BELOW = 1 << 17
_I64, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()


class View(types.Type):
    """An array of a step: the address of its block (see `entry.py`). Smaller than Numba's arrays, which are eleven
    numbers that every use of them would copy: a step compiles twice as fast."""

    def __init__(self, dtype, ndim):
        super().__init__(name=f"view({dtype}, {ndim})")
        self.dtype, self.ndim = dtype, ndim


@register_model(View)
class _ViewModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _I64)


def _table(builder, words):
    """The address of a table on the stack of these words, LLVM's values or plain numbers, which are written at once."""
    known = [w if isinstance(w, int) else 0 for w in words]
    kind = ir.ArrayType(_I64, len(words))
    with builder.goto_entry_block():
        table = builder.alloca(kind)
    builder.store(ir.Constant(kind, [_I64(w) for w in known]), table)
    for place, value in enumerate(words):
        if not isinstance(value, int):
            builder.store(value, builder.gep(table, [_I64(0), _I64(place)]))
    return builder.ptrtoint(table, _I64)


def _field(context, builder, kind, array, name):
    """One of the numbers of an array of Numba's."""
    return builder.extract_value(array, context.data_model_manager[kind].get_field_position(name))


def _sides(builder, kind, value):
    """The numbers of a tuple, those that are written in the text as such."""
    return [
        one.literal_value if isinstance(one, types.Literal) else builder.extract_value(value, k)
        for k, one in enumerate(kind.types)
    ]


def _times(builder, number, factor):
    return number * factor if isinstance(number, int) else builder.mul(number, _I64(factor))


def _emit_view(context, builder, sig, args):
    arena, _, *dims = sig.args
    size = arena.dtype.bitwidth // 8
    data = builder.gep(_field(context, builder, arena, args[0], "data"), [args[1]])
    shape, strides = (_sides(builder, kind, value) for kind, value in zip(dims[:2], args[2:4], strict=True))
    steps = [_times(builder, step, size) for step in strides]
    own = [steps[0], builder.mul(args[4], _I64(size))] if len(args) > 4 else [0, 0]
    return _table(builder, [builder.ptrtoint(data, _I64), *shape, *steps, *own])


@intrinsic(prefer_literal=True)
def view(typing, arena, start, shape, strides):
    """The array of that shape and those strides (in elements) which begins at arena[start]."""
    return View(arena.dtype, len(shape))(arena, types.int64, shape, strides), _emit_view


@intrinsic(prefer_literal=True)
def own(typing, arena, start, shape, strides, apart):
    """The same for each worker, their rooms so many elements apart, for the examples that it takes at a time."""
    return View(arena.dtype, len(shape))(arena, types.int64, shape, strides, types.int64), _emit_view


@intrinsic(prefer_literal=True)
def slots(typing, n, share, most):
    """How many partial sums n examples are cut into, each of at least `share`: at least one, at most `most`."""

    def emit(context, builder, sig, args):
        def choose(test, a, b):
            return builder.select(builder.icmp_signed(test, a, b), a, b)

        return choose("<", choose(">", builder.udiv(*args[:2]), _I64(1)), args[2])

    return types.int64(types.int64, types.int64, types.int64), emit


def bind(kernel, dtype):
    """The function that a compiled step calls for work for a launch: this kernel in that dtype with arguments. It gives
    the address of their table."""
    wanted, cell = kernel.types(dtype), cell_of(kernel, dtype)

    def taken(name, given, kind):
        """The type of an argument. A view is not looked at again, so a wrong one would be read beyond its block."""
        if not isinstance(given, View):
            return kind
        if not isinstance(kind, types.Array) or (given.dtype, given.ndim) != (kind.dtype, kind.ndim):
            raise TypingError(f"{kernel.name} wants {kind} for {name}, got {given}")
        return given

    def work(typing, *args):
        def emit(context, builder, sig, args):
            place = builder.module.globals.get(cell) or ir.GlobalVariable(builder.module, _I64, cell)
            words = [_argument(context, builder, *pair) for pair in zip(sig.args, args, strict=True)]
            return _table(builder, [builder.ptrtoint(place, _I64), 0, 1, *words])

        kinds = (taken(p.name, a, w) for p, a, w in zip(kernel.parameters, args, wanted, strict=True))
        return types.int64(*kinds), emit

    work.__name__ = kernel.name
    words = [
        inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(p.replace(annotation=inspect.Parameter.empty) for p in kernel.parameters),
    ]
    work.__signature__ = inspect.Signature(words)  # Numba reads the number of arguments there
    found = intrinsic(work)
    found.body = kernel, dtype
    return found


def _argument(context, builder, kind, value):
    """The word of an argument."""
    if isinstance(kind, types.Array):
        data = builder.ptrtoint(_field(context, builder, kind, value, "data"), _I64)
        dims = (_field(context, builder, kind, value, name) for name in ("shape", "strides"))
        return _table(builder, [data, *(n for each in dims for n in cgutils.unpack_tuple(builder, each)), 0, 0])
    return value if value.type == _I64 else builder.bitcast(value, _I64)


@intrinsic
def deep(typing, together):
    """In a launch: what follows goes through together, so many items at a time. A work without a kernel."""

    def emit(context, builder, sig, args):
        return _table(builder, [0, args[0]])

    return types.int64(types.int64), emit


PLAIN, SHARES, BESIDE = range(3)  # ways to launch


def _emit_launch(way):
    def emit(context, builder, sig, args):
        works = cgutils.unpack_tuple(builder, args[-1])
        threads = builder.load(_threads(builder))
        units = args[:2] if way == SHARES else (_I64(0), _I64(0))
        words = [_table(builder, works), _I64(len(works)), _I64(way), *units, threads]
        _call_engine(context, builder, "nbnn.go", words)
        return context.get_dummy_value()

    return emit


@intrinsic
def launch(typing, *works):
    """Run kernels over their items, which must be the same for all of them."""
    return types.void(types.StarArgUniTuple(types.int64, len(works))), _emit_launch(PLAIN)


@intrinsic
def launch_shares(typing, units, examples, *works):
    """Run kernels over their items, unit by unit: a unit is the same share of the items of each."""
    given = types.StarArgUniTuple(types.int64, len(works))
    return types.void(types.int64, types.int64, given), _emit_launch(SHARES)


@intrinsic
def launch_beside(typing, *works):
    """Run kernels that do not need each other, each over its own items."""
    return types.void(types.StarArgUniTuple(types.int64, len(works))), _emit_launch(BESIDE)


def _call_engine(context, builder, name, words):
    """Call what `start_engine` has given this name; nothing goes wrong there."""
    function_type = context.call_conv.get_function_type(types.void, (types.int64,) * len(words))
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    with builder.goto_entry_block():
        nothing = [builder.alloca(kind.pointee) for kind in function_type.args[:2]]
    builder.call(function, [*nothing, *words])


def _threads(builder):
    """The variable of a function that says how many threads its launches may use."""
    function = builder.function
    if not hasattr(function, "threads_of_launches"):
        with builder.goto_entry_block():
            function.threads_of_launches = builder.alloca(_I64)
    return function.threads_of_launches


@intrinsic
def allow_threads(typing, threads):
    """Say at the head of a function how many threads its launches may use; with 1 none of them touches another."""

    def emit(context, builder, sig, args):
        builder.store(args[0], _threads(builder))
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def call(typing, function, *words):
    """Call a compiled function that returns nothing, given by its address, with these arguments."""

    def emit(context, builder, sig, args):
        kinds = sig.args[1].types
        place = context.call_conv.get_function_type(types.none, kinds).as_pointer()
        values = cgutils.unpack_tuple(builder, args[1])
        status, _ = context.call_conv.call_function(
            builder, builder.inttoptr(args[0], place), types.none, kinds, values
        )
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.none(types.int64, types.StarArgTuple(words)), emit


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


_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
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
        if not _IS_X86:
            return ir.IntType(32)(0)
        before = _control_word(builder, "llvm.x86.sse.stmxcsr", ir.IntType(32)(0))
        _control_word(builder, "llvm.x86.sse.ldmxcsr", builder.or_(before, ir.IntType(32)(_FLUSH)))
        return before

    return types.uint32(), emit


@intrinsic
def restore_denormals(typing, before):
    def emit(context, builder, sig, args):
        if _IS_X86:
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
            _call_engine(context, builder, name, cgutils.unpack_tuple(builder, args[0]))
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


@intrinsic
def tick(typing, times, place):
    """times[place] = the time now, in a unit of the machine's own: how a profile looks into a compiled step."""

    def emit(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        if _IS_X86:
            counter = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I64, []), "llvm.readcyclecounter")
            now = builder.call(counter, [])
        else:  # elsewhere the counter may be forbidden to programs: ask the C library for nanoseconds
            clock = ir.FunctionType(ir.IntType(32), [ir.IntType(32), _I64.as_pointer()])
            function = cgutils.get_or_insert_function(builder.module, clock, "clock_gettime")
            pair = cgutils.alloca_once(builder, _I64, size=2)
            builder.call(function, [ir.IntType(32)(time.CLOCK_MONOTONIC), pair])
            seconds, rest = (builder.load(builder.gep(pair, [_I64(k)])) for k in (0, 1))
            now = builder.add(builder.mul(seconds, _I64(10**9)), rest)
        builder.store(now, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(times, types.int64), emit
