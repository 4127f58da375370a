"""How kernels run inside a compiled step: a few words that put arguments into blocks of memory, and one parallel loop.

    launch(deep(2), conv_forward(x, w, b, 1, 1, y), relu_forward(y, z), max_pool_forward(z, 2, 2, 0, p))

shares the items among the threads once, by `_launch`, the only parallel function there is; each thread takes its share
through all the kernels, here two items at a time, while they are in its cache. A launch that is too small to be worth
it runs in the thread that asked for it. So a new graph compiles a straight list of launches and no loop, which takes
seconds where the loops would take minutes.

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

import functools
import inspect
import platform
import time

import numba
from llvmlite import binding, ir
from numba import prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, register_model

from nbnn.kernels.bodies import cell_of
from nbnn.kernels.jit import Space, compiled_for, inlined

# Bytes of all arrays times `intensity`: below this a launch over all cores costs more than it saves. Measured: a launch
# takes 2-5 us, in which one core moves about 64 KiB.
SERIAL_BELOW = 1 << 17
_I64, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()

_RUN = ir.FunctionType(ir.VoidType(), [_BYTES, *[_I64] * 4])  # arguments, first, last, worker, the first example
# A kernel and its arguments: the address of its runner (0: no kernel, the next number says how many items go through
# together), the address of the block, items, cost, grain.
_WORK = types.UniTuple(types.int64, 5)
WORDS = 4  # of a kernel in the table of a launch: its runner, its arguments, its items, its grain


class View(types.Type):
    """An array of a step: the address of a block of its data's address, its bytes, its shape and its strides. Smaller
    than Numba's arrays, which are eleven numbers that every use of them would copy: a step compiles twice as fast."""

    kind = "view"

    def __init__(self, dtype, ndim):
        super().__init__(name=f"{self.kind}({dtype}, {ndim})")
        self.dtype, self.ndim = dtype, ndim

    def word(self, builder, value, place):
        """One number of the block."""
        return builder.load(builder.gep(value, [_I64(place)]))

    def address(self, builder, value, worker, origin):
        """Where the data is, for this worker, which takes examples from `origin` on."""
        return self.word(builder, value, 0)

    def array(self, context, builder, value, worker, origin):
        """The array as Numba's kernels take it."""
        array = context.make_array(types.Array(self.dtype, self.ndim, "A"))(context, builder)
        shape, strides = ([self.word(builder, value, 2 + k * self.ndim + i) for i in range(self.ndim)] for k in (0, 1))
        data = builder.inttoptr(
            self.address(builder, value, worker, origin), context.get_value_type(self.dtype).as_pointer()
        )
        itemsize = _I64(self.dtype.bitwidth // 8)
        context.populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
        return array._getvalue()


class Own(View):
    """An array of each worker's own: what would be example `origin` lies where its room begins. The last number of the
    block says how far the rooms are apart."""

    kind = "own"

    def address(self, builder, value, worker, origin):
        data, step, apart = (self.word(builder, value, k) for k in (0, 2 + self.ndim, 2 + 2 * self.ndim))
        return builder.add(data, builder.sub(builder.mul(worker, apart), builder.mul(origin, step)))


@register_model(Own)
@register_model(View)
class _ViewModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _I64.as_pointer())


def _emit_view(context, builder, sig, args):
    source = context.make_array(sig.args[0])(context, builder, args[0])
    size = _I64(sig.args[0].dtype.bitwidth // 8)
    shape, strides = (cgutils.unpack_tuple(builder, args[k]) for k in (2, 3))
    data = builder.ptrtoint(builder.gep(source.data, [args[1]]), _I64)
    steps = [builder.mul(s, size) for s in (*strides, *args[4:])]
    words = [data, functools.reduce(builder.mul, shape, size), *shape, *steps]
    block = cgutils.alloca_once(builder, _I64, size=len(words))
    for place, word in enumerate(words):
        builder.store(word, builder.gep(block, [_I64(place)]))
    return block


@intrinsic
def view(typing, arena, start, shape, strides):
    """The array of that shape and those strides (in elements) which begins at arena[start]."""
    dims = types.UniTuple(types.int64, len(shape))
    return View(arena.dtype, len(shape))(arena, types.int64, dims, dims), _emit_view


@intrinsic
def own(typing, arena, start, shape, strides, apart):
    """The same for each worker, their rooms so many elements apart, for the examples that it takes at a time."""
    dims = types.UniTuple(types.int64, len(shape))
    return Own(arena.dtype, len(shape))(arena, types.int64, dims, dims, types.int64), _emit_view


def bind(kernel, dtype):
    """The function that a compiled step calls for work for a launch: this kernel in that dtype with arguments."""
    wanted, cell = kernel.types(dtype), cell_of(kernel, dtype)

    def work(typing, *args):
        def emit(context, builder, sig, args):
            body = (*wanted, *[types.int64] * len(kernel.share))
            return _emit_work(context, builder, kernel, body, cell, sig.args, args)

        return _WORK(*(a if isinstance(a, View) else w for a, w in zip(args, wanted, strict=True))), emit

    work.__name__ = kernel.name
    words = [
        inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(p.replace(annotation=inspect.Parameter.empty) for p in kernel.parameters),
    ]
    work.__signature__ = inspect.Signature(words)  # Numba reads the number of arguments there
    return intrinsic(work)


def _emit_work(context, builder, kernel, body, cell, kinds, values):
    """Pack the arguments of a kernel; `body` are the types of its body's, which is called through the cell."""
    block_type = ir.LiteralStructType([context.get_value_type(k) for k in kinds])
    run = _runner(context, builder.module, body, cell, kinds, block_type)
    block = cgutils.alloca_once(builder, block_type)
    size = _I64(0)
    for position, (parameter, kind, value) in enumerate(zip(kernel.parameters, kinds, values, strict=True)):
        builder.store(value, cgutils.gep_inbounds(builder, block, 0, position))
        if isinstance(kind, View):
            total, count = kind.word(builder, value, 1), functools.partial(kind.word, builder, value, 2 + kernel.axis)
        elif isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, value)
            total = builder.mul(array.nitems, array.itemsize)
            count = functools.partial(builder.extract_value, array.shape, kernel.axis)
        else:
            total, count = _I64(0), functools.partial(builder.add, value, _I64(0))
        if not isinstance(parameter.annotation, Space):
            size = builder.add(size, total)
        if parameter.name == kernel.each:
            items = count()
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
        return _emit_launch(context, builder, cgutils.unpack_tuple(builder, args[0]))

    return types.void(types.StarArgUniTuple(_WORK, len(works))), emit


@intrinsic
def launch_shares(typing, units, examples, *works):
    """Run kernels over their items, unit by unit: a unit is the same share of the items of each."""

    def emit(context, builder, sig, args):
        return _emit_launch(context, builder, cgutils.unpack_tuple(builder, args[2]), *args[:2])

    return types.void(types.int64, types.int64, types.StarArgUniTuple(_WORK, len(works))), emit


@intrinsic
def launch_beside(typing, *works):
    """Run kernels that do not need each other, each over its own items."""

    def emit(context, builder, sig, args):
        return _emit_launch(context, builder, cgutils.unpack_tuple(builder, args[0]), beside=True)

    return types.void(types.StarArgUniTuple(_WORK, len(works))), emit


def _emit_launch(context, builder, works, units=None, examples=None, beside=False):
    table = cgutils.alloca_once(builder, ir.ArrayType(ir.ArrayType(_I64, WORDS), len(works)))
    items, cost, grain = _I64(0), _I64(0), _I64(1)
    for k, work in enumerate(works):
        run, block, count, size, least = (builder.extract_value(work, i) for i in range(5))
        for i, word in enumerate((run, block, count, least if beside else _I64(1))):
            builder.store(word, cgutils.gep_inbounds(builder, table, 0, k, i))
        if beside:
            count = builder.sdiv(builder.add(count, builder.sub(least, _I64(1))), least)
        items = builder.select(builder.icmp_signed(">", count, items), count, items)
        grain = builder.select(builder.icmp_signed(">", least, grain), least, grain)
        cost = builder.add(cost, size)
    threads = builder.load(_threads(builder.module))
    if beside:  # a unit for each worker
        units = examples = builder.select(builder.icmp_signed("<", threads, items), threads, items)
        grain = _I64(1)
    elif units is None:
        units = examples = items
    else:
        grain = _I64(1)
    large = builder.icmp_signed(">=", cost, _I64(SERIAL_BELOW))
    several = builder.icmp_signed(">", units, grain)
    shared = builder.and_(builder.and_(large, several), builder.icmp_signed(">", threads, _I64(1)))
    with builder.if_else(shared) as (parallel, serial):
        for branch, name, words in (
            (parallel, "nbnn.launch", (units, examples, grain, threads)),
            (serial, "nbnn.walk", (_I64(0), units, units, examples, _I64(0))),
        ):
            with branch:
                _call_engine(context, builder, name, [builder.ptrtoint(table, _I64), _I64(len(works)), *words])
    return context.get_dummy_value()


def _call_engine(context, builder, name, words):
    """Call what `start_engine` has given this name."""
    kinds = (types.int64,) * len(words)
    function_type = context.call_conv.get_function_type(types.void, kinds)
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    context.call_conv.call_function(builder, function, types.void, kinds, words)


def _runner(context, module, body, cell, kinds, block_type):
    """run(block, first, last, worker, origin): take the arguments out of the block and call the compiled body."""
    letters = ("o" if isinstance(kind, Own) else "v" if isinstance(kind, View) else "a" for kind in kinds)
    name = f"run.{cell}.{''.join(letters)}"
    if name in module.globals:
        return module.globals[name]
    run = ir.Function(module, _RUN, name)
    run.linkage = "linkonce_odr"
    builder = ir.IRBuilder(run.append_basic_block())
    block = builder.bitcast(run.args[0], block_type.as_pointer())
    values = [builder.load(cgutils.gep_inbounds(builder, block, 0, i)) for i in range(len(kinds))]
    values = [
        kind.array(context, builder, value, *run.args[3:]) if isinstance(kind, View) else value
        for kind, value in zip(kinds, values, strict=True)
    ]
    values += run.args[1 : 1 + len(body) - len(kinds)]
    pointer = context.call_conv.get_function_type(types.void, body).as_pointer()
    place = module.globals.get(cell) or ir.GlobalVariable(module, pointer, cell)
    status, _ = context.call_conv.call_function(builder, builder.load(place), types.void, body, values)
    if numba.config.BOUNDSCHECK:  # nobody could be told of an index out of range, so the process ends
        with cgutils.if_unlikely(builder, status.is_error):
            trap = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(module, trap, "llvm.trap"), [])
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
def _run(typing, function, block, first, last, worker, origin):
    def emit(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], _RUN.as_pointer()), [builder.inttoptr(args[1], _BYTES), *args[2:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), emit


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


@inlined
def beginning(unit, units, items, grain):
    """The first of the items that belong to a unit, or to one behind it: whole grains, as many for each as can be."""
    return min(unit * ((items + grain - 1) // grain) // units * grain, items)


def _walk(table, count, begin, end, units, examples, worker):
    """Take units begin ... end - 1 through the kernels of a table, each stretch of them `together` units at a time."""
    k, together, denormals = 0, max(end - begin, 1), flush_denormals()
    while k < count:
        if _word(table, WORDS * k) == 0:
            together = _word(table, WORDS * k + 1)
            k += 1
        stop = k + 1
        while stop < count and _word(table, WORDS * stop) != 0:
            stop += 1
        for unit in range(begin, end, together):
            beyond, origin = min(unit + together, end), unit * examples // units
            for j in range(k, stop):
                at = WORDS * j
                items, grain = _word(table, at + 2), _word(table, at + 3)
                first, last = beginning(unit, units, items, grain), beginning(beyond, units, items, grain)
                _run(_word(table, at), _word(table, at + 1), first, last, worker, origin)
        k = stop
    restore_denormals(denormals)


@intrinsic
def _walk_by_name(typing, *words):
    """`_walk`, already compiled: the one parallel function has little to compile."""

    def emit(context, builder, sig, args):
        _call_engine(context, builder, "nbnn.walk", cgutils.unpack_tuple(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.StarArgUniTuple(types.int64, len(words))), emit


def _launch(table, count, units, examples, grain, threads):
    grains = (units + grain - 1) // grain
    workers = min(threads, grains)
    for worker in prange(workers):
        first = (worker * grains // workers) * grain
        last = min(((worker + 1) * grains // workers) * grain, units)
        _walk_by_name(table, count, first, last, units, examples, worker)


def start_engine():
    """Compile or load the launch and give it its name; once per process, before a step is loaded."""
    if not _engine:
        walk = compiled_for([types.int64] * 7, _walk, "walk")
        binding.add_symbol("nbnn.walk", walk.address)  # which the launch calls
        launch = compiled_for([types.int64] * 6, _launch, "launch", parallel=True)
        binding.add_symbol("nbnn.launch", launch.address)
        numba.get_num_threads()  # makes Numba choose its threading layer; a launch would end a forked child
        _engine.update(walk=walk, launch=launch)


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
