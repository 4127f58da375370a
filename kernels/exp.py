"""The exponential of a register, e**a, and e**a - 1, from additions and multiplications: Numba has no vector version.

    e**x = 2**n * e**r,  n = round(x / ln 2),  r = x - n ln 2,  |r| <= ln 2 / 2

e**r comes from its Taylor series, 2**n from writing n into the exponent bits.
"""

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.simd import fused

# log2 e, ln 2 in two parts, degree of the series, smallest and largest argument, shift that rounds, bits of a mantissa
_EXP = {
    types.float32: (1.4426950408889634, 0.693359375, -2.12194440e-4, 7, -87.33, 88.36, 1.5 * 2.0**23, 23),
    types.float64: (
        1.4426950408889634,
        0.693147180369123816490,
        1.90821492927058770002e-10,
        13,
        -708.3,
        709.43,
        1.5 * 2.0**52,
        52,
    ),
}


def _emit_expm1(builder, kind, x):
    """(2**n, e**r - 1) with x = n ln 2 + r, |r| <= ln 2 / 2; no flags, since reordering would undo the rounding trick.

    n comes out of the low mantissa bits of x / ln 2 + shift, which costs no conversion and is harmless for NaN. The
    Taylor series of that degree is exact to less than half a unit in the last place on this interval.
    """
    log2e, high, low, degree, _, _, shift, bits = _EXP[kind.dtype]
    integer = ir.VectorType(ir.IntType(kind.dtype.bitwidth), kind.lanes)

    def number(v):
        return ir.Constant(kind.vector, [v] * kind.lanes)

    shifted = builder.fadd(builder.fmul(x, number(log2e)), number(shift))
    n = builder.fsub(shifted, number(shift))
    r = builder.fsub(builder.fsub(x, builder.fmul(n, number(high))), builder.fmul(n, number(low)))
    series, factorial = number(0.0), 1.0
    coefficients = []
    for k in range(1, degree + 1):
        factorial *= k
        coefficients.append(1.0 / factorial)
    for coefficient in reversed(coefficients):
        series = fused(builder, kind, series, r, number(coefficient))
    exponent = builder.shl(builder.bitcast(shifted, integer), ir.Constant(integer, [bits] * kind.lanes))
    one = ir.Constant(integer, [((1 << (kind.dtype.bitwidth - bits - 2)) - 1) << bits] * kind.lanes)
    return builder.bitcast(builder.add(exponent, one), kind.vector), builder.fmul(series, r)


def _clamp(builder, kind, x):
    """x held to the range of exp; NaN stays. Returns (clamped, is below the range, is above it)."""
    smallest, largest = (ir.Constant(kind.vector, [v] * kind.lanes) for v in _EXP[kind.dtype][4:6])
    below, above = builder.fcmp_ordered("<", x, smallest), builder.fcmp_ordered(">", x, largest)
    return builder.select(above, largest, builder.select(below, smallest, x)), below, above


@intrinsic
def exp(typing, a):
    """e**a to 2 units in the last place; 0 below the smallest normal number, inf from 2**127.5 (2**1023.5) on, NaN
    stays."""

    def emit(context, builder, sig, args):
        held, below, above = _clamp(builder, a, args[0])
        power, rest = _emit_expm1(builder, a, held)
        value = fused(builder, a, power, rest, power)
        value = builder.select(below, ir.Constant(a.vector, [0.0] * a.lanes), value)
        value = builder.select(above, ir.Constant(a.vector, [float("inf")] * a.lanes), value)
        return builder.select(builder.fcmp_unordered("uno", args[0], args[0]), args[0], value)

    return a(a), emit


@intrinsic
def expm1(typing, a):
    """e**a - 1 without the loss of digits near 0; -1 far below, and the largest finite power far above."""

    def emit(context, builder, sig, args):
        held, _, _ = _clamp(builder, a, args[0])
        power, rest = _emit_expm1(builder, a, held)
        one = ir.Constant(a.vector, [1.0] * a.lanes)
        value = fused(builder, a, power, rest, builder.fsub(power, one))
        return builder.select(builder.fcmp_unordered("uno", args[0], args[0]), args[0], value)

    return a(a), emit
