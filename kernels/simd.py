"""A vector register as a Numba value, so that a loop says which numbers live in registers.

    p = pointer(x)        the address of x[0, 0, ...]; p + k is k elements further on
    a = load(p, k)        the neighbours from p[k] on; broadcast(p, k) is p[k] in every lane, fill(p, 0.5) a constant
    b = fma(a, a, b)      a * a + b; also + - * / with registers and plain numbers, > >= < <= ==, select, sqrt, exp ...
    store(p, k, b)

A register holds `lanes(p)` numbers of p's dtype. Its width is that of the machine, asked of LLVM once, in
`register_bytes`: 64 bytes with AVX-512, 32 with AVX, else 16. Numba sees each name below as a function on values; LLVM
sees one instruction.

Nothing here checks a bound. The contract of the kernels (see `__init__.py`) says what may be read and written.
"""

import functools
import operator

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

_INT64, _INT32 = ir.IntType(64), ir.IntType(32)
# Registers may fuse a * b + c, and may not reorder: what is written is what is added, in that order.
_FLAGS = ("contract", "nsz")


@functools.cache
def register_bytes() -> int:
    """64, 32 or 16: the widest register that LLVM uses for this machine, or for the one that NUMBA_CPU_NAME names."""
    name = numba.config.CPU_NAME or binding.get_host_cpu_name()
    features = numba.config.CPU_FEATURES
    if features is None:
        features = "" if numba.config.CPU_NAME else binding.get_host_cpu_features().flatten()
    probe = ir.Module()
    wide = ir.VectorType(ir.FloatType(), 16)
    function = ir.Function(probe, ir.FunctionType(ir.VoidType(), [wide.as_pointer()]), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    value = builder.load(function.args[0], align=4)
    builder.store(builder.fadd(value, value), function.args[0], align=4)
    builder.ret_void()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=name, features=features, opt=2)
    text = machine.emit_assembly(binding.parse_assembly(str(probe)))
    return 64 if "zmm" in text else 32 if "ymm" in text else 16


def lanes_of(dtype) -> int:
    """How many numbers of this dtype fill one register: 16, 8 or 4 of float32, half of that of float64."""
    return register_bytes() // (types.Float(str(dtype)).bitwidth // 8)


class _Value(types.Type):
    """A Numba type that belongs to a dtype."""

    def __init__(self, dtype, label):
        self.dtype = dtype
        self.lanes = lanes_of(dtype)
        self.scalar = ir.FloatType() if dtype is types.float32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.suffix = f"v{self.lanes}f{dtype.bitwidth}"
        super().__init__(name=f"{label}({dtype} x {self.lanes})")


class Register(_Value):
    def __init__(self, dtype):
        super().__init__(dtype, "register")


class Mask(_Value):
    def __init__(self, dtype):
        super().__init__(dtype, "mask")


class Pointer(_Value):
    def __init__(self, dtype):
        super().__init__(dtype, "pointer")


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.vector)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), kind.lanes))


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.scalar.as_pointer())


def spread(builder, scalar, count):
    """The scalar in each of `count` lanes."""
    kind = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, count), [0] * count))


def call_llvm(builder, name, kind, arguments):
    """Call an LLVM intrinsic by its written-out name: llvmlite's declare_intrinsic cannot mangle vector types."""
    function_type = ir.FunctionType(kind, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments, fastmath=_FLAGS)


def at(builder, pointer, offset, kind):
    """The place `offset` elements behind pointer, as a place of `kind`."""
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def fused(builder, kind, a, b, c):
    """a * b + c: one instruction where the machine has it, two where it has not (never a call of the C library)."""
    return call_llvm(builder, f"llvm.fmuladd.{kind.suffix}", kind.vector, (a, b, c))


# ---- places


@intrinsic
def pointer(typing, x):
    """The address of the first element of the array x."""
    kind = Pointer(x.dtype)

    def emit(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return kind(x), emit


@intrinsic
def lanes(typing, p):
    """How many numbers a register of p's dtype holds."""

    def emit(context, builder, sig, args):
        return _INT64(p.lanes if isinstance(p, _Value) else lanes_of(p.dtype))

    return types.int64(p), emit


@infer_global(operator.add)
class _PointerPlus(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.int64)


@lower_builtin(operator.add, Pointer, types.Integer)
def _pointer_plus(context, builder, sig, args):
    return builder.gep(args[0], [args[1]])


@intrinsic
def load(typing, p, offset):
    def emit(context, builder, sig, args):
        return builder.load(at(builder, *args, p.vector), align=p.dtype.bitwidth // 8)

    return Register(p.dtype)(p, types.int64), emit


@intrinsic
def broadcast(typing, p, offset):
    def emit(context, builder, sig, args):
        return spread(builder, builder.load(at(builder, *args, p.scalar)), p.lanes)

    return Register(p.dtype)(p, types.int64), emit


@intrinsic
def store(typing, p, offset, value):
    def emit(context, builder, sig, args):
        builder.store(args[2], at(builder, args[0], args[1], p.vector), align=p.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(p, types.int64, Register(p.dtype)), emit


def _bytes_at(builder, pointer, offset, kind):
    """The place `offset` bytes behind pointer, as one of as many bytes as a register has numbers."""
    byte, bytes_ = ir.IntType(8), ir.VectorType(ir.IntType(8), kind.lanes)
    return builder.bitcast(builder.gep(builder.bitcast(pointer, byte.as_pointer()), [offset]), bytes_.as_pointer())


@intrinsic
def load_bytes(typing, p, offset):
    """A register of the bytes from the one that lies `offset` bytes behind p."""

    def emit(context, builder, sig, args):
        found = builder.load(_bytes_at(builder, *args, p), align=1)
        return builder.sitofp(builder.zext(found, ir.VectorType(_INT32, p.lanes)), p.vector)

    return Register(p.dtype)(p, types.int64), emit


@intrinsic
def store_bytes(typing, p, offset, value):
    """Whole numbers of 0 ... 255 as bytes, from the one that lies `offset` bytes behind p."""

    def emit(context, builder, sig, args):
        whole = builder.fptosi(args[2], ir.VectorType(_INT32, p.lanes))
        place = _bytes_at(builder, args[0], args[1], p)
        builder.store(builder.trunc(whole, ir.VectorType(ir.IntType(8), p.lanes)), place, align=1)
        return context.get_dummy_value()

    return types.void(p, types.int64, Register(p.dtype)), emit


@intrinsic
def peek(typing, p, offset):
    """The one number p[offset]."""

    def emit(context, builder, sig, args):
        return builder.load(at(builder, *args, p.scalar))

    return p.dtype(p, types.int64), emit


@intrinsic
def poke(typing, p, offset, value):
    """p[offset] = value, one number."""

    def emit(context, builder, sig, args):
        builder.store(args[2], at(builder, args[0], args[1], p.scalar))
        return context.get_dummy_value()

    return types.void(p, types.int64, p.dtype), emit


@intrinsic
def fill(typing, p, number):
    """A register of p's dtype with the number in every lane; p is any pointer or array, and only lends its dtype."""
    kind = Register(p.dtype)

    def emit(context, builder, sig, args):
        return spread(builder, args[1], kind.lanes)

    return kind(p, p.dtype), emit


# ---- arithmetic


@intrinsic
def fma(typing, a, b, c):
    """a * b + c."""

    def emit(context, builder, sig, args):
        return fused(builder, a, *args)

    return a(a, a, a), emit


def _both(args):
    """The register type of `register op register`, `register op number` or `number op register`."""
    kinds = [a for a in args if isinstance(a, Register)]
    others = [a for a in args if not isinstance(a, Register)]
    if len(args) == 2 and kinds and all(isinstance(a, types.Number) for a in others):
        return kinds[0]
    return None


def _binary(op, emit, result=lambda kind: kind):
    @infer_global(op)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            kind = _both(args)
            if kind is not None:
                return signature(result(kind), *(a if isinstance(a, Register) else kind.dtype for a in args))

    def lower(context, builder, sig, args):
        kind = _both(sig.args)
        wide = [
            v if isinstance(t, Register) else spread(builder, v, kind.lanes)
            for t, v in zip(sig.args, args, strict=True)
        ]
        return emit(builder, *wide)

    for left, right in ((Register, Register), (Register, types.Number), (types.Number, Register)):
        lower_builtin(op, left, right)(lower)


for _op, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _binary(_op, lambda builder, a, b, name=_name: getattr(builder, name)(a, b, flags=_FLAGS))
for _op, _sign in (
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.eq, "=="),
):
    _binary(_op, lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b), lambda kind: Mask(kind.dtype))


def _mask_binary(op, name):
    @infer_global(op)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and all(isinstance(a, Mask) for a in args):
                return signature(args[0], *args)

    @lower_builtin(op, Mask, Mask)
    def lower(context, builder, sig, args):
        return getattr(builder, name)(*args)


_mask_binary(operator.and_, "and_")
_mask_binary(operator.or_, "or_")


@infer_global(operator.neg)
class _Negative(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], Register):
            return signature(args[0], args[0])


@lower_builtin(operator.neg, Register)
def _negative(context, builder, sig, args):
    return builder.fneg(args[0])


@infer_global(operator.invert)
class _Invert(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], Mask):
            return signature(args[0], args[0])


@lower_builtin(operator.invert, Mask)
def _invert(context, builder, sig, args):
    return builder.not_(args[0])


@intrinsic
def select(typing, mask, yes, no):
    """yes where the mask holds, else no, lane by lane."""

    def emit(context, builder, sig, args):
        return builder.select(*args)

    return yes(mask, yes, no), emit


@intrinsic
def lane_between(typing, like, first, last):
    """A mask of the lanes first <= lane < last."""
    kind = Mask(like.dtype)

    def emit(context, builder, sig, args):
        lane = ir.Constant(ir.VectorType(_INT64, kind.lanes), list(range(kind.lanes)))
        low, high = (spread(builder, edge, kind.lanes) for edge in args[1:])
        return builder.and_(builder.icmp_signed(">=", lane, low), builder.icmp_signed("<", lane, high))

    return kind(like, types.int64, types.int64), emit


@intrinsic
def is_nan(typing, a):
    def emit(context, builder, sig, args):
        return builder.fcmp_unordered("uno", args[0], args[0])

    return Mask(a.dtype)(a), emit


@intrinsic
def sqrt(typing, a):
    def emit(context, builder, sig, args):
        return call_llvm(builder, f"llvm.sqrt.{a.suffix}", a.vector, args)

    return a(a), emit


@intrinsic
def absolute(typing, a):
    def emit(context, builder, sig, args):
        return call_llvm(builder, f"llvm.fabs.{a.suffix}", a.vector, args)

    return a(a), emit


@intrinsic
def total(typing, a):
    """The sum of the lanes, in one fixed order: halves are added to halves."""

    def emit(context, builder, sig, args):
        value, count = args[0], a.lanes
        while count > 1:
            count //= 2
            low, high = (ir.Constant(ir.VectorType(_INT32, count), list(range(s, s + count))) for s in (0, count))
            value = builder.fadd(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
        return builder.extract_element(value, _INT32(0))

    return a.dtype(a), emit


def transposed(builder, rows):
    """As many registers as one has lanes, rows made columns: log2(lanes) rounds of shuffles; round r swaps the parts of
    the registers that are 2**r apart."""
    rows, size, distance = list(rows), len(rows), 1
    while distance < size:
        low = [k if not k & distance else k - distance + size for k in range(size)]
        high = [k + distance if not k & distance else k + size for k in range(size)]
        masks = [ir.Constant(ir.VectorType(_INT32, size), order) for order in (low, high)]
        for j in range(size):
            if not j & distance:
                pair = rows[j], rows[j + distance]
                rows[j], rows[j + distance] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        distance *= 2
    return rows


@intrinsic
def transpose_block(typing, source, source_step, target, target_step):
    """target[i * target_step + j] = source[j * source_step + i] for i, j < lanes: a square block, turned inside the
    registers."""

    def emit(context, builder, sig, args):
        source_at, source_step, target_at, target_step = args
        size, align = source.lanes, source.dtype.bitwidth // 8
        rows = [
            builder.load(at(builder, source_at, builder.mul(source_step, _INT64(j)), source.vector), align=align)
            for j in range(size)
        ]
        for i, row in enumerate(transposed(builder, rows)):
            builder.store(row, at(builder, target_at, builder.mul(target_step, _INT64(i)), source.vector), align=align)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), emit
