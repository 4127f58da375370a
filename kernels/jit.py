"""How a loop becomes a kernel: one decorator and one set of Numba options.

    @kernel(each="y")                                       # one item of work per y[n]
    def relu_forward(x: Array4, y: Array4, first: int, last: int): ...

A kernel is one jitted body that handles the items first .. last - 1; one that needs room of its own asks for its
`worker` number as well. It is compiled once for each dtype, alone, and kept on disk. From Python it is called without
first and last: `relu_forward(x, y)`; in a compiled step it is part of a launch (see `tables.py`).
"""

import ctypes
import functools
import inspect

from llvmlite import ir
from numba import njit, types
from numba.core import config
from numba.core.caching import FunctionCache
from numba.core.compiler import Compiler
from numba.core.extending import intrinsic
from numba.core.runtime import rtsys

from nbnn import compiling
from nbnn.kernels.entry import SUPPLIED, Entry
from nbnn.kernels.simd import pointer

# Never nnan or ninf: a NaN must survive. And not reassoc: Numba lays these flags on every instruction of a kernel, and
# the order of additions is ours; exp even rounds by adding and subtracting a constant, which reassoc would cancel.
FASTMATH = {"contract", "nsz"}
_helpers = set()  # the functions that are `inlined`


class _Quickly(Compiler):
    """How Numba compiles, but that it inlines helpers quickly."""

    def compile_extra(self, func):
        from nbnn.kernels.inlining import quick_inlining  # a start from disk can do without

        with quick_inlining(_helpers):
            return super().compile_extra(func)


class _Entered(_Quickly):
    """How it compiles a kernel, which has a way in of its own."""

    def define_pipelines(self):
        from nbnn.kernels.lowering import with_entry  # a start from disk can do without

        return [with_entry(pipeline) for pipeline in super().define_pipelines()]


OPTIONS = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True, "pipeline_class": _Quickly}
# Nobody calls a kernel but by its address, and it keeps no array: the rest would be a sixth of what compiling takes.
BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}


class _Real:
    """An array of the model's dtype with any strides."""

    def __init__(self, ndim):
        self.ndim = ndim

    def numba_type(self, real):
        return types.Array(real, self.ndim, "A")


class Space(_Real):
    """Room for one worker each: what a kernel leaves in it means nothing."""


class _Fixed:
    """An argument that has the same type in every dtype."""

    def __init__(self, kind):
        self.kind = kind

    def numba_type(self, real):
        return self.kind


Array1, Array2, Array3, Array4, Array5 = (_Real(ndim) for ndim in (1, 2, 3, 4, 5))
Space3, Space4 = Space(3), Space(4)
Ints = _Fixed(types.Array(types.int64, 1, "A"))
Doubles = _Fixed(types.Array(types.float64, 1, "A"))
_PLAIN = {int: _Fixed(types.int64), float: _Fixed(types.float64)}


def inlined(function):
    """A helper that kernels call: it becomes part of each kernel that uses it. (With helpers as functions of their own,
    for LLVM to inline, kernels take a fifth longer to compile and run no faster.)"""
    _helpers.add(function)
    return njit(**OPTIONS, inline="always")(function)


@intrinsic(prefer_literal=True)
def step(typing, x, axis):
    """The stride of an axis in elements. A shift: a division by x.itemsize, which LLVM does not know, would stay in the
    innermost loops, because a division may fail and so is not moved out of them."""

    def emit(context, builder, sig, args):
        strides = context.make_array(sig.args[0])(context, builder, args[0]).strides
        shift = (x.dtype.bitwidth // 8).bit_length() - 1
        return builder.ashr(builder.extract_value(strides, axis.literal_value), ir.IntType(64)(shift))

    return types.int64(x, axis), emit


@inlined
def own(space, worker):
    """Where the room of a worker begins."""
    return pointer(space) + worker * step(space, 0)


def compiled(function):
    """Make one function of a generated step: compiled when its step says so, which also says where it is kept."""
    return njit(**OPTIONS, **BARE)(function)


def called(function):
    """The same with a way in from Python."""
    return njit(**OPTIONS, no_cfunc_wrapper=True)(function)


def need_jit():
    """Refuse to compile where Numba was told not to."""
    if config.DISABLE_JIT:
        raise RuntimeError('NUMBA_DISABLE_JIT is set, so nothing can be compiled; use backend="numpy" instead')


class _Kept(FunctionCache):
    """Numba's own, but it reads without what only compiling needs: all of Numba's registries, and SciPy where that is
    installed. Their import would be a third of the time from a start to the first step."""

    def load_overload(self, sig, target_context):
        rtsys.initialize(target_context)  # which code from disk does need
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def keep(jitted):
    """Keep what is compiled of a jitted function in Numba's folder of this moment."""
    jitted._cache = _Kept(jitted.py_func)


def compiled_for(kinds, function, name, wait=True, entered=False, **options):
    """The code of the function for arguments of these types: compiled now, or read from disk where it is kept under
    that name. Without `wait`, None where another process is at it. A kernel is `entered` by a table of arguments."""
    need_jit()
    options = {**OPTIONS, **BARE, **({"pipeline_class": _Entered} if entered else {}), **options}
    try:
        with compiling.numba_folder(name, wait=wait):
            jitted = njit(**options)(function)
            keep(jitted)
            jitted.compile(types.void(*kinds))
            return Entry(function.__name__, kinds, only_one(jitted)) if entered else Code(jitted)
    except compiling.Busy:
        return None


def only_one(jitted):
    """What has been compiled of a function of one kind of arguments."""
    (only,) = jitted.overloads.values()
    return only


class Code:
    """A compiled function that is called by its address, by Numba's rules."""

    def __init__(self, jitted):
        self._only = only_one(jitted)  # keeps it in memory
        self.address = self._only.library.get_pointer_to_function(self._only.fndesc.llvm_func_name)

    @functools.cached_property
    def _call(self):
        numbers = [ctypes.c_int64] * len(self._only.fndesc.argtypes)
        return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *numbers)(self.address)

    def __call__(self, *numbers):
        """From Python, for who takes whole numbers alone: where to put the result and where the error, then these."""
        self._call(*(ctypes.byref(ctypes.c_void_p()) for _ in range(2)), *numbers)


class Kernel:
    """A loop with a name, one compiled body per dtype, and the argument that counts its items."""

    def __init__(self, function, each, axis, grain, intensity, fills, over, whole):
        self.name = function.__name__
        self.function = function
        self.each, self.axis = each, axis
        self.grain = grain
        self.intensity = intensity
        self.fills, self.over, self.whole = fills, over, whole
        self.__doc__ = function.__doc__
        whole = inspect.signature(function)
        self.parameters = [p for p in whole.parameters.values() if p.name not in SUPPLIED]
        self.__signature__ = whole.replace(parameters=self.parameters)
        self.share = tuple(name for name in SUPPLIED if name in whole.parameters)
        self._bodies = {}

    @functools.cached_property
    def outputs(self):
        """The places of the outputs among the arguments."""
        arrays = [
            k
            for k, p in enumerate(self.parameters)
            if not isinstance(p.annotation, Space) and p.annotation not in (int, float)
        ]
        return arrays[-self.fills :]

    def types(self, dtype):
        """The Numba types of the arguments, without the share."""
        real = types.Float(str(dtype))
        return tuple(_PLAIN.get(p.annotation, p.annotation).numba_type(real) for p in self.parameters)

    def body(self, dtype, wait=True):
        """The compiled body for "float32" or "float64": compiled or read from disk at first use. Without `wait`, None
        where another process is compiling it."""
        with compiling.one_at_a_time():
            if dtype not in self._bodies:
                kinds = (*self.types(dtype), *[types.int64] * len(self.share))
                found = compiled_for(kinds, self.function, f"{self.name}.{dtype}", wait, entered=True)
                if found is None:
                    return None
                self._bodies[dtype] = found
            return self._bodies[dtype]

    def __call__(self, *args, **kwargs):
        """Run over all items in this thread."""
        bound = inspect.signature(self).bind(*args, **kwargs)
        reals = (a.dtype for p, a in zip(self.parameters, bound.args, strict=True) if isinstance(p.annotation, _Real))
        dtype = next(reals, "float64")  # a kernel without such arrays is the same in both
        each = bound.arguments[self.each]
        items = each if isinstance(each, int) else each.shape[self.axis]
        self.body(str(dtype))(*bound.args, *(0, items, 0)[: len(self.share)])


def kernel(each, axis=0, grain=1, intensity=1, fills=1, over="", whole=True):
    """Make a kernel of a loop over the items of the argument `each`: an array, along `axis`, or a whole number. Threads
    get multiples of `grain` items.

    `intensity` is roughly the arithmetic per byte: it moves the size from which threads pay. `fills` of the arrays, the
    last ones before the workers' room, are outputs. The output may be the same array as the input `over`. `whole` says
    that outputs are filled whatever was there before, up to the end of the last register of their channels.
    """
    return lambda function: Kernel(function, each, axis, grain, intensity, fills, over, whole)
