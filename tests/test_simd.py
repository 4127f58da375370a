"""Registers as values: arithmetic, exp and expm1 to the last digits, NaN and infinities, and the rows of a tile."""

import inspect
import math

import numpy as np
import pytest
from numba import njit
from numba.core import cgutils, types
from numba.core.extending import intrinsic

from nbnn.kernels import simd
from nbnn.kernels.exp import exp, expm1
from nbnn.kernels.jit import OPTIONS
from nbnn.kernels.tile import ROWS, Places, places

DTYPES = ("float32", "float64")
# Least argument whose power is a normal number, and the largest for which exp is stated to be finite, 127.5 ln 2 and
# 1023.5 ln 2.
RANGE = {"float32": (-87.33, 88.36), "float64": (-708.3, 709.43)}
BITS = {"float32": 24, "float64": 53}


def over(function):
    """A jitted loop: y = function(x) over whole registers. Functions are jitted first, intrinsics are taken as are."""
    if inspect.isfunction(function):
        function = njit(**OPTIONS)(function)

    @njit(**OPTIONS)
    def loop(x, y):
        for k in range(0, x.shape[0], simd.lanes(x)):
            simd.store(simd.pointer(y), k, function(simd.load(simd.pointer(x), k)))

    def run(x, dtype):
        width = simd.lanes_of(dtype)
        padded = np.zeros(-(-len(x) // width) * width, dtype)
        padded[: len(x)] = x
        y = np.full_like(padded, -1)
        loop(padded, y)
        return y[: len(x)]

    return run


exp, expm1 = over(exp), over(expm1)


def errors_in_ulps(found, wanted, dtype):
    """Distances from the exact values, in units of the last place of those values."""
    _, exponents = np.frexp(wanted)
    units = np.ldexp(np.ones_like(wanted), exponents - BITS[dtype])
    return np.abs(found.astype(np.longdouble) - wanted) / units


def spread_out(dtype, low, high):
    """Arguments all over a range, close around 0, and around the places where exp changes its power of 2."""
    rng = np.random.default_rng(0)
    edges = (np.arange(int(low / math.log(2)), int(high / math.log(2))) + 0.5) * math.log(2)
    small = np.exp(rng.uniform(-30, 0, 20_000)) * rng.choice([-1, 1], 20_000)
    x = np.concatenate(
        [rng.uniform(low, high, 200_000), small, edges, np.nextafter(edges, 0), [low, high, 0.0, -0.0]]
    ).astype(dtype)
    return x[(x >= np.array(low, dtype)) & (x <= np.array(high, dtype))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_within_two_units_in_the_last_place(dtype):
    x = spread_out(dtype, *RANGE[dtype])
    assert errors_in_ulps(exp(x, dtype), np.exp(x.astype(np.longdouble)), dtype).max() < 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_expm1_is_within_three_units_in_the_last_place_also_near_zero(dtype):
    x = spread_out(dtype, *RANGE[dtype])
    x = x[x != 0]
    assert errors_in_ulps(expm1(x, dtype), np.expm1(x.astype(np.longdouble)), dtype).max() < 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_and_expm1_beyond_their_range(dtype):
    low, high = RANGE[dtype]
    below, above = [low * 1.001, low * 10, -1e30, -np.inf], [high * 1.001, high * 10, 1e30, np.inf]
    assert exp(below, dtype).tolist() == [0.0] * 4
    assert exp(above, dtype).tolist() == [np.inf] * 4
    assert expm1(below, dtype).tolist() == [-1.0] * 4
    far = expm1(above, dtype)
    assert np.isfinite(far).all() and (far > np.exp(np.longdouble(high)) * 0.999).all()
    assert np.isnan(exp([np.nan, -np.nan], dtype)).all()
    assert np.isnan(expm1([np.nan, -np.nan], dtype)).all()
    assert exp([0.0, -0.0], dtype).tolist() == [1.0, 1.0]
    assert expm1([0.0, -0.0], dtype).tolist() == [0.0, 0.0]


def test_the_check_of_exp_can_fail():
    x = spread_out("float32", *RANGE["float32"])
    found = exp(x, "float32")
    found[1234] *= np.float32(1 + 4e-7)
    assert errors_in_ulps(found, np.exp(x.astype(np.longdouble)), "float32").max() > 2


def test_lanes_fill_a_register():
    assert simd.register_bytes() in (16, 32, 64)
    assert simd.lanes_of("float32") == 2 * simd.lanes_of("float64") == simd.register_bytes() // 4
    assert simd.lanes_of(np.dtype("float32")) == simd.lanes_of("float32")

    @njit(**OPTIONS)
    def of_all(x):
        p = simd.pointer(x)
        return simd.lanes(x), simd.lanes(p), simd.lanes(simd.load(p, 0))

    for dtype in DTYPES:
        assert of_all(np.zeros(16, dtype)) == (simd.lanes_of(dtype),) * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_total_adds_all_lanes_halves_to_halves(dtype):
    @njit(**OPTIONS)
    def total(x):
        return simd.total(simd.load(simd.pointer(x), 0))

    rng = np.random.default_rng(0)
    x = rng.standard_normal(simd.lanes_of(dtype)).astype(dtype)
    halves = x
    while len(halves) > 1:
        halves = halves[: len(halves) // 2] + halves[len(halves) // 2 :]
    assert total(x) == halves[0]
    x[-1] = np.nan
    assert np.isnan(total(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_masks_and_select(dtype):
    cases = {
        "a + 2 * a - a / 4": (over(lambda a: a + 2.0 * a - a / 4.0), lambda a: a + 2 * a - a / 4),
        "-a": (over(lambda a: -a), lambda a: -a),
        "fma": (over(lambda a: simd.fma(a, a, a)), lambda a: a * a + a),
        "sqrt": (over(lambda a: simd.sqrt(simd.absolute(a))), lambda a: np.sqrt(np.abs(a))),
        "where a > 0": (over(lambda a: simd.select(a > 0.0, a, a * 0.5)), lambda a: np.where(a > 0, a, a / 2)),
        "where |a| >= 1": (
            over(lambda a: simd.select((a >= 1.0) | (a <= -1.0), a, -a)),
            lambda a: np.where(np.abs(a) >= 1, a, -a),
        ),
        "where |a| < 1": (
            over(lambda a: simd.select((a < 1.0) & (a > -1.0), a, -a)),
            lambda a: np.where(np.abs(a) < 1, a, -a),
        ),
        "where not a == 1": (over(lambda a: simd.select(~(a == 1.0), a, a + a)), lambda a: np.where(a != 1, a, a + a)),
        "where NaN": (over(lambda a: simd.select(simd.is_nan(a), a + 1.0, -a)), lambda a: np.where(np.isnan(a), a, -a)),
    }
    x = np.concatenate([np.random.default_rng(0).standard_normal(100), [0, 1, -1, np.inf, np.nan]]).astype(dtype)
    for name, (found, wanted) in cases.items():
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(
                found(x, dtype), wanted(x), rtol=4 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).eps, err_msg=name
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_comparisons_with_nan_do_not_hold(dtype):
    for compare in (lambda a: a > 0.0, lambda a: a >= 0.0, lambda a: a < 0.0, lambda a: a <= 0.0, lambda a: a == a):
        compare = njit(**OPTIONS)(compare)

        @njit(**OPTIONS)
        def holds(a, compare=compare):
            return simd.select(compare(a), simd.fill(a, 1.0), simd.fill(a, 0.0))

        assert over(holds)([np.nan], dtype).tolist() == [0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_places_in_memory(dtype):
    """load, broadcast, peek, poke, store and pointer + offset, at any offset."""

    @njit(**OPTIONS)
    def shuffle(x, y):
        p, q = simd.pointer(x) + 1, simd.pointer(y) + 2
        simd.store(q, 1, simd.load(p, 2) + simd.broadcast(p, 0) + simd.fill(x, 0.5))
        simd.poke(q, 0, simd.peek(p, 1))

    width = simd.lanes_of(dtype)
    x, y = np.arange(width + 8, dtype=dtype), np.zeros(width + 8, dtype)
    shuffle(x[::1], y)
    wanted = np.zeros_like(y)
    wanted[2] = 2
    wanted[3 : 3 + width] = x[3 : 3 + width] + 1.5
    assert y.tolist() == wanted.tolist()


# ---- the rows of a tile


@intrinsic
def spill(typing, rows, out):
    """out[i] = row i of the places."""
    if not isinstance(rows, Places):
        return None

    def emit(context, builder, sig, args):
        data = context.make_array(sig.args[1])(context, builder, args[1]).data
        for i in range(ROWS):
            builder.store(builder.extract_value(args[0], i), cgutils.gep(builder, data, i))
        return context.get_dummy_value()

    return types.void(rows, out), emit


@njit(**OPTIONS)
def rows_of(first, count, middle, inner, outer_step, middle_step, inner_step, out):
    spill(places(first, count, middle, inner, outer_step, middle_step, inner_step), out)


def demand_places(first, count, middle, inner, steps):
    found = np.zeros(ROWS, np.int64)
    rows_of(first, count, middle, inner, *steps, found)
    wanted = []
    for number in range(first, first + ROWS):
        rest, inner_at = divmod(min(number, count - 1), inner)
        outer_at, middle_at = divmod(rest, middle)
        wanted.append(outer_at * steps[0] + middle_at * steps[1] + inner_at * steps[2])
    assert found.tolist() == wanted


def test_rows_of_a_tile_are_where_divmod_says():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        outer, middle, inner = (int(s) for s in rng.integers(1, 40, 3))
        count = outer * middle * inner
        demand_places(
            int(rng.integers(0, count)), count, middle, inner, [int(s) for s in rng.integers(-100, 10_000, 3)]
        )


def test_rows_of_a_tile_in_large_grids():
    """Around every kind of edge, up to the 2**50 elements that are promised."""
    rng = np.random.default_rng(1)
    for _ in range(2000):
        inner, middle = (int(2 ** rng.uniform(0, 25)) for _ in range(2))
        outer = int(2 ** rng.uniform(0, 50 - math.log2(inner * middle))) if inner * middle < 2**49 else 1
        count = min(outer * middle * inner, 2**50)
        edge = int(rng.integers(0, outer + 1)) * middle * inner + int(rng.integers(0, middle + 1)) * inner
        demand_places(max(0, min(edge - int(rng.integers(0, ROWS + 1)), count - 1)), count, middle, inner, (1, 2**7, 3))


def test_the_last_row_repeats():
    for count in range(1, 2 * ROWS):
        demand_places(0, count, 1, count, (0, 0, 5))


def test_the_check_of_places_can_fail():
    with pytest.raises(AssertionError):
        found = np.zeros(ROWS, np.int64)
        rows_of(0, 100, 3, 7, 1000, 100, 1, found)
        found[2] += 1
        assert found.tolist() == [n // 21 * 1000 + n // 7 % 3 * 100 + n % 7 for n in range(ROWS)]
