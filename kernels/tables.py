"""The words of a compiled step: they write tables of arguments on the stack, and say how the kernels go through them.

    launch(deep(2), conv_forward(x, w, b, 1, 1, y), relu_forward(y, z), max_pool_forward(z, 2, 2, 0, p))

shares the items among the threads once; each thread takes its share through all the kernels, here two items at a time,
while they are in its cache. So a new graph compiles a straight list of tables and no loop, which takes a second where
the loops would take minutes: `launch.py` has those, once for all graphs.

    launch_shares(16, n, deep(1), norm_backward(...), conv_backward_weights(dw, ...))

does the same with kernels whose items are not examples but sums over shares of them: the threads share 16 units, each
of which is one sixteenth of the items of every kernel, here one unit at a time.

    launch_beside(affine_backward_weights(x, dy, 100, dw, held), add_slots(dy, db))

is for kernels that do not need each other: each thread takes a share of the items of the first, then one of the items
of the second, whatever they are, and nobody waits in between.

What is written and read within a launch only need not be there for all examples: `own` is an array of each worker's
own, with room for as many examples as it takes at a time.
"""

import inspect
import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.extending import intrinsic, models, register_model

from nbnn.kernels.bodies import cell_of
from nbnn.kernels.launch import BESIDE, IS_X86, PLAIN, SHARES, call_engine

_I64 = ir.IntType(64)


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


def _emit_launch(way):
    def emit(context, builder, sig, args):
        works = cgutils.unpack_tuple(builder, args[-1])
        threads = builder.load(_threads(builder))
        units = args[:2] if way == SHARES else (_I64(0), _I64(0))
        words = [_table(builder, works), _I64(len(works)), _I64(way), *units, threads]
        call_engine(context, builder, "nbnn.go", words)
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
def tick(typing, times, place):
    """times[place] = the time now, in a unit of the machine's own: how a profile looks into a compiled step."""

    def emit(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        if IS_X86:
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
