"""How kernels run inside a compiled step: a few words that put arguments into blocks of memory, and one parallel loop.

    launch(deep(2), conv_forward(x, w, b, 1, 1, y), relu_forward(y, z), max_pool_forward(z, 2, 2, 0, p))

shares the items among the threads once, by `_launch`, the only parallel function there is; each thread takes its share
through all the kernels, here two items at a time, while they are in its cache. A launch that is too small to be worth
it runs in the thread that asked for it. So a new graph compiles a straight list of launches and no loop, which takes
seconds where the loops would take minutes.

How many threads there are decides who handles an item, never what is computed for it: every item writes only its own
part.
"""

import inspect
import platform
import time

import numba
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from nbnn.kernels.jit import Space, compiled_for, inlined, publish

# Bytes of all arrays times `intensity`: below this a launch over all cores costs more than it saves. Measured: a launch
# takes 2-5 us, in which one core moves about 64 KiB.
SERIAL_BELOW = 1 << 17
_I64, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()

_RUN = ir.FunctionType(ir.VoidType(), [_BYTES, _I64, _I64, _I64])  # arguments, first, last, worker
# A kernel and its arguments: the address of its runner (0: no kernel, the next number says how many items go through
# together), the address of the block, items, cost, grain.
_WORK = types.UniTuple(types.int64, 5)


def bind(kernel, dtype):
    """The function that a compiled step calls for work for a launch: this kernel in that dtype with arguments."""
    symbol = kernel.symbol(dtype)
    wanted = kernel.types(dtype)

    def work(typing, *args):
        def emit(context, builder, sig, args):
            return _emit_work(context, builder, kernel, symbol, sig.args, args)

        return _WORK(*wanted), emit

    work.__name__ = kernel.name
    words = [
        inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(p.replace(annotation=inspect.Parameter.empty) for p in kernel.parameters),
    ]
    work.__signature__ = inspect.Signature(words)  # Numba reads the number of arguments there
    return intrinsic(work)


def _emit_work(context, builder, kernel, symbol, kinds, values):
    """Pack the arguments of a kernel."""
    block_type = ir.LiteralStructType([context.get_value_type(k) for k in kinds])
    run = _runner(context, builder.module, kernel, symbol, kinds, block_type)
    block = cgutils.alloca_once(builder, block_type)
    size = _I64(0)
    for position, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        builder.store(value, cgutils.gep_inbounds(builder, block, 0, position))
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, value)
            if not isinstance(kernel.parameters[position].annotation, Space):
                size = builder.add(size, builder.mul(array.nitems, array.itemsize))
        if kernel.parameters[position].name == kernel.each:
            items = builder.extract_value(array.shape, kernel.axis) if isinstance(kind, types.Array) else value
    cost = builder.mul(size, _I64(kernel.intensity))
    numbers = [builder.ptrtoint(run, _I64), builder.ptrtoint(block, _I64), items, cost, _I64(kernel.grain)]
    return cgutils.pack_array(builder, numbers)


@intrinsic
def deep(typing, together):
    """In a launch: what follows goes through together, so many items at a time."""

    def emit(context, builder, sig, args):
        return cgutils.pack_array(builder, [_I64(0), args[0], _I64(0), _I64(0), _I64(1)])

    return _WORK(types.int64), emit


@intrinsic
def launch(typing, *works):
    """Run kernels over their items, which must be the same for all of them."""

    def emit(context, builder, sig, args):
        table = cgutils.alloca_once(builder, ir.ArrayType(ir.ArrayType(_I64, 2), len(works)))
        items, cost, grain = _I64(0), _I64(0), _I64(1)
        for k, work in enumerate(cgutils.unpack_tuple(builder, args[0])):
            run, block, count, size, least = (builder.extract_value(work, i) for i in range(5))
            for i, word in enumerate((run, block)):
                builder.store(word, cgutils.gep_inbounds(builder, table, 0, k, i))
            items = builder.select(builder.icmp_signed(">", count, items), count, items)
            grain = builder.select(builder.icmp_signed(">", least, grain), least, grain)
            cost = builder.add(cost, size)
        threads = builder.load(_threads(builder.module))
        large = builder.icmp_signed(">=", cost, _I64(SERIAL_BELOW))
        several = builder.icmp_signed(">", items, grain)
        shared = builder.and_(builder.and_(large, several), builder.icmp_signed(">", threads, _I64(1)))
        with builder.if_else(shared) as (parallel, serial):
            for branch, name, words in (
                (parallel, "nbnn.launch", (items, grain, threads)),
                (serial, "nbnn.walk", (_I64(0), items, _I64(0))),
            ):
                with branch:
                    kinds = (types.int64,) * 5
                    function_type = context.call_conv.get_function_type(types.void, kinds)
                    function = cgutils.get_or_insert_function(builder.module, function_type, name)
                    words = [builder.ptrtoint(table, _I64), _I64(len(works)), *words]
                    context.call_conv.call_function(builder, function, types.void, kinds, words)
        return context.get_dummy_value()

    return types.void(types.StarArgUniTuple(_WORK, len(works))), emit


def _runner(context, module, kernel, symbol, kinds, block_type):
    """run(block, first, last, worker): take the arguments out of the block and call the compiled body."""
    name = f"run.{symbol}"
    if name in module.globals:
        return module.globals[name]
    share = (types.int64,) * len(kernel.share)
    body_type = context.call_conv.get_function_type(types.void, (*kinds, *share))
    body = cgutils.get_or_insert_function(module, body_type, symbol)
    run = ir.Function(module, _RUN, name)
    run.linkage = "linkonce_odr"
    builder = ir.IRBuilder(run.append_basic_block())
    block = builder.bitcast(run.args[0], block_type.as_pointer())
    values = [builder.load(cgutils.gep_inbounds(builder, block, 0, i)) for i in range(len(kinds))]
    values += run.args[1 : 1 + len(share)]
    context.call_conv.call_function(builder, body, types.void, (*kinds, *share), values)
    builder.ret_void()
    return run


def _threads(module):
    """The variable, one per compiled step, that says whether launches may use threads."""
    name = "nbnn.threads"
    if name not in module.globals:
        variable = ir.GlobalVariable(module, _I64, name)
        variable.linkage = "linkonce_odr"
        variable.initializer = _I64(1)
    return module.globals[name]


@intrinsic
def allow_threads(typing, threads):
    """Say at the head of a compiled step how many threads its launches may use; with 1 none of them touches another."""

    def emit(context, builder, sig, args):
        builder.store(args[0], _threads(builder.module))
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def _run(typing, function, block, first, last, worker):
    def emit(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], _RUN.as_pointer()), [builder.inttoptr(args[1], _BYTES), *args[2:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), emit


@intrinsic
def _word(typing, table, place):
    """The number at that place of a table of words, given by its address."""

    def emit(context, builder, sig, args):
        return builder.load(builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), emit


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


def _walk(table, count, begin, end, worker):
    """Take items begin ... end - 1 through the kernels of a table, each stretch of them `together` items at a time."""
    k, together, denormals = 0, max(end - begin, 1), flush_denormals()
    while k < count:
        if _word(table, 2 * k) == 0:
            together = _word(table, 2 * k + 1)
            k += 1
        stop = k + 1
        while stop < count and _word(table, 2 * stop) != 0:
            stop += 1
        for item in range(begin, end, together):
            for j in range(k, stop):
                _run(_word(table, 2 * j), _word(table, 2 * j + 1), item, min(item + together, end), worker)
        k = stop
    restore_denormals(denormals)


_walk_here = inlined(_walk)


def _launch(table, count, items, grain, threads):
    grains = (items + grain - 1) // grain
    workers = min(threads, grains)
    for worker in prange(workers):
        first = (worker * grains // workers) * grain
        last = min(((worker + 1) * grains // workers) * grain, items)
        _walk_here(table, count, first, last, worker)


def start_engine():
    """Compile or load the launch and give it its name; once per process, before a step is loaded."""
    if not _engine:
        kinds = [types.int64] * 5
        walk, launch = compiled_for(kinds, _walk), compiled_for(kinds, _launch, parallel=True)
        launch(0, 0, 0, 1, 1)  # nothing to do: it only makes Numba choose its threading layer
        _engine.update(walk=walk, launch=launch)
        for name, function in _engine.items():
            publish(f"nbnn.{name}", function)


_engine: dict = {}


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


# ---- arrays inside a compiled step


@intrinsic
def view(typing, arena, start, shape, strides):
    """The array of that shape and those strides (in elements) which begins at arena[start]."""
    kind = types.Array(arena.dtype, len(shape), "A")

    def emit(context, builder, sig, args):
        source = context.make_array(sig.args[0])(context, builder, args[0])
        array = context.make_array(kind)(context, builder)
        size = source.itemsize
        strides = [builder.mul(s, size) for s in cgutils.unpack_tuple(builder, args[3])]
        context.populate_array(
            array,
            data=builder.gep(source.data, [args[1]]),
            shape=cgutils.unpack_tuple(builder, args[2]),
            strides=strides,
            itemsize=size,
            meminfo=None,
        )
        return array._getvalue()

    dims = types.UniTuple(types.int64, len(shape))
    return kind(arena, types.int64, dims, dims), emit
