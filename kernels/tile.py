"""The one multiply: a tile of C stays in registers while a sum of products runs over it.

    C[i, j] (+)= sum over u, v, k of  A[i; u, v, k] * B[u, v, k; j]        i < ROWS, j < vectors * lanes

i and the three sums walk through memory by steps (in elements), so that one tile serves every multiply of matrices:

    product               C rows i walk       u, v, k walk                     B rows
    conv forward          output pixels       window rows, columns, channels   the weights
    conv to the input     input pixels        window rows, columns, filters    the weights, turned
    conv to the weights   window x channels   images, output rows, columns     the gradient of the output
    affine forward        examples            rows, columns, channels          the weights
    affine to the input   examples            -, -, units                      the weights, turned
    affine to the weights features            -, -, examples                   the gradient of the output

Where nothing is summed over channels, as in `depthwise.py`, registers meet registers instead of single numbers.

A row beyond the last is the last row once more: it is computed twice and stored twice with the same value, so that no
tile needs a tail in i. Columns come in whole registers because every row of C and of B has room for them (see
`__init__.py`).

ROWS x 2 registers hold C: 8 x 2 of the 32 registers of AVX-512, 6 x 2 of the 16 of AVX2 and SSE. Per step the tile
loads 2 registers of B and ROWS single numbers of A and does ROWS * 2 multiply-adds; that is what keeps the multipliers
busy.
"""

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic, models, register_model

from nbnn.kernels.jit import inlined
from nbnn.kernels.simd import _INT64, _Value, at, fused, lanes, register_bytes, spread, transposed

ROWS = 8 if register_bytes() == 64 else 6


class Places(types.Type):
    """ROWS offsets in elements: where each row of a tile is."""

    def __init__(self):
        super().__init__(name=f"places({ROWS})")


class Tile(_Value):
    """ROWS x vectors registers."""

    def __init__(self, dtype, vectors):
        self.vectors = vectors
        super().__init__(dtype, f"tile {ROWS} x {vectors} of register")


@register_model(Places)
class _PlacesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(_INT64, ROWS))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(kind.vector, ROWS * kind.vectors))


@intrinsic
def places(typing, first, count, middle, inner, outer_step, middle_step, inner_step):
    """Where rows first, first + 1, ... of a grid outer x middle x inner are; `count` elements in all, the last one
    repeats.

    Rows that lie in one run of the innermost axis, as most do, are found by two divisions for the first of them. For
    the others the divisions are done in floating point for all rows at once: exact for fewer than 2**50 elements.
    """

    def emit(context, builder, sig, args):
        first, count, middle, inner, outer_step, middle_step, inner_step = args
        wide = ir.VectorType(_INT64, ROWS)
        real = ir.VectorType(ir.DoubleType(), ROWS)

        def divide(number, by):
            by_real = spread(builder, builder.sitofp(by, ir.DoubleType()), ROWS)
            middle_of_unit = builder.fadd(builder.sitofp(number, real), ir.Constant(real, [0.5] * ROWS))
            quotient = builder.fptosi(builder.fdiv(middle_of_unit, by_real), wide)
            return quotient, builder.sub(number, builder.mul(quotient, spread(builder, by, ROWS)))

        def anywhere():
            number = builder.add(spread(builder, first, ROWS), lane)
            last = spread(builder, builder.sub(count, _INT64(1)), ROWS)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            rest, inner_at = divide(number, inner)
            outer_at, middle_at = divide(rest, middle)
            offset = builder.mul(outer_at, spread(builder, outer_step, ROWS))
            offset = builder.add(offset, builder.mul(middle_at, spread(builder, middle_step, ROWS)))
            return builder.add(offset, builder.mul(inner_at, spread(builder, inner_step, ROWS)))

        lane = ir.Constant(wide, list(range(ROWS)))
        line, start = builder.udiv(first, inner), builder.urem(first, inner)
        fits = builder.icmp_signed("<=", builder.add(start, _INT64(ROWS)), inner)
        fits = builder.and_(fits, builder.icmp_signed("<=", builder.add(first, _INT64(ROWS)), count))
        with builder.if_else(fits, likely=True) as (in_a_run, scattered):
            with in_a_run:
                at_outer, at_middle = builder.udiv(line, middle), builder.urem(line, middle)
                base = builder.add(builder.mul(at_outer, outer_step), builder.mul(at_middle, middle_step))
                base = builder.add(base, builder.mul(start, inner_step))
                near = [builder.add(base, builder.mul(inner_step, _INT64(i))) for i in range(ROWS)]
                from_run = builder.block
            with scattered:
                offset = anywhere()
                far = [builder.extract_element(offset, ir.IntType(32)(i)) for i in range(ROWS)]
                from_far = builder.block
        found = [builder.phi(_INT64) for _ in range(ROWS)]
        result = ir.Constant(ir.ArrayType(_INT64, ROWS), ir.Undefined)
        for i, place in enumerate(found):
            place.add_incoming(near[i], from_run)
            place.add_incoming(far[i], from_far)
            result = builder.insert_value(result, place, i)
        return result

    return Places()(*[types.int64] * 7), emit


@intrinsic
def in_line(typing, first, count, step):
    """Where rows first, first + 1, ... are, `step` (not below 0) from each to the next; `count` in all, the last one
    repeats."""

    def emit(context, builder, sig, args):
        first, count, step = args
        start, last = builder.mul(first, step), builder.mul(builder.sub(count, _INT64(1)), step)
        result = ir.Constant(ir.ArrayType(_INT64, ROWS), ir.Undefined)
        for i in range(ROWS):
            place = builder.add(start, builder.mul(step, _INT64(i)))
            place = builder.select(builder.icmp_signed("<", place, last), place, last)
            result = builder.insert_value(result, place, i)
        return result

    return Places()(*[types.int64] * 3), emit


def _load(builder, kind, place, offset):
    return builder.load(at(builder, place, offset, kind.vector), align=kind.dtype.bitwidth // 8)


def _store(builder, kind, value, place, offset):
    builder.store(value, at(builder, place, offset, kind.vector), align=kind.dtype.bitwidth // 8)


def _cells(kind):
    return [(i, j, i * kind.vectors + j) for i in range(ROWS) for j in range(kind.vectors)]


def _cell_at(builder, kind, rows, i, j):
    """How far register j of row i is from the first of all."""
    return builder.add(builder.extract_value(rows, i), _INT64(j * kind.lanes))


def _tile_of(builder, kind, register):
    """A tile of what `register` gives for each i, j."""
    value = ir.Constant(ir.ArrayType(kind.vector, ROWS * kind.vectors), ir.Undefined)
    for i, j, cell in _cells(kind):
        value = builder.insert_value(value, register(i, j), cell)
    return value


def _spread_at(builder, kind, a, rows, i):
    """The number at row i in every lane."""
    return spread(builder, builder.load(builder.gep(a, [builder.extract_value(rows, i)])), kind.lanes)


def _panel(builder, kind, b, apart):
    """A register for each j, `apart` from each other."""
    return [_load(builder, kind, b, builder.mul(apart, _INT64(j))) for j in range(kind.vectors)]


def _add_products(builder, tile, value, row, panel):
    """value[i, j] + row(i)[j] * panel[j], row by row: few registers are alive at a time."""
    for i in range(ROWS):
        for j, (factor, column) in enumerate(zip(row(i), panel, strict=True)):
            cell = i * tile.vectors + j
            total = fused(builder, tile, factor, column, builder.extract_value(value, cell))
            value = builder.insert_value(value, total, cell)
    return value


@intrinsic(prefer_literal=True)
def start_tile(typing, b, vectors):
    """A tile whose every row is b[0 : vectors * lanes]: the bias, or zeros."""
    kind = Tile(b.dtype, vectors.literal_value)

    def emit(context, builder, sig, args):
        panel = _panel(builder, kind, args[0], _INT64(kind.lanes))
        return _tile_of(builder, kind, lambda i, j: panel[j])

    return kind(b, vectors), emit


@intrinsic(prefer_literal=True)
def number_tile(typing, b, rows, vectors):
    """A tile whose row i is b[rows[i]] everywhere."""
    kind = Tile(b.dtype, vectors.literal_value)

    def emit(context, builder, sig, args):
        numbers = [_spread_at(builder, kind, *args[:2], i) for i in range(ROWS)]
        return _tile_of(builder, kind, lambda i, j: numbers[i])

    return kind(b, Places(), vectors), emit


@intrinsic(prefer_literal=True)
def zero_tile(typing, p, vectors):
    kind = Tile(p.dtype, vectors.literal_value)

    def emit(context, builder, sig, args):
        return ir.Constant(ir.ArrayType(kind.vector, ROWS * kind.vectors), None)

    return kind(p, vectors), emit


@intrinsic(prefer_literal=True)
def load_tile(typing, c, rows, vectors):
    kind = Tile(c.dtype, vectors.literal_value)

    def emit(context, builder, sig, args):
        c, rows = args[:2]
        return _tile_of(builder, kind, lambda i, j: _load(builder, kind, c, _cell_at(builder, kind, rows, i, j)))

    return kind(c, Places(), vectors), emit


@intrinsic
def store_tile(typing, c, rows, tile):
    def emit(context, builder, sig, args):
        c, rows, value = args
        for i, j, cell in _cells(tile):
            _store(builder, tile, builder.extract_value(value, cell), c, _cell_at(builder, tile, rows, i, j))
        return context.get_dummy_value()

    return types.void(c, Places(), tile), emit


@intrinsic
def store_turned(typing, c, step, count, tile):
    """c[j * step + i] = tile[i, j] for the first `count` rows i: columns become rows, written in whole registers with
    zeros behind."""

    def emit(context, builder, sig, args):
        c, step, count, value = args
        zero, size = ir.Constant(tile.vector, None), tile.lanes
        for first in range(0, ROWS, size):
            with builder.if_then(builder.icmp_signed("<", _INT64(first), count)):
                there = [builder.icmp_signed("<", _INT64(i), count) for i in range(first, min(first + size, ROWS))]
                for j in range(tile.vectors):
                    rows = [
                        builder.select(given, builder.extract_value(value, i * tile.vectors + j), zero)
                        for i, given in enumerate(there, first)
                    ]
                    rows += [zero] * (size - len(rows))
                    for k, column in enumerate(transposed(builder, rows)):
                        place = builder.add(builder.mul(step, _INT64(j * size + k)), _INT64(first))
                        _store(builder, tile, column, c, place)
        return context.get_dummy_value()

    return types.void(c, types.int64, types.int64, tile), emit


@intrinsic
def add_tile(typing, tile, c, rows):
    """The tile plus that at c."""

    def emit(context, builder, sig, args):
        value, c, rows = args

        def total(i, j):
            other = _load(builder, tile, c, _cell_at(builder, tile, rows, i, j))
            return builder.fadd(builder.extract_value(value, i * tile.vectors + j), other, flags=("contract", "nsz"))

        return _tile_of(builder, tile, total)

    return tile(tile, c, Places()), emit


@intrinsic
def rank_one(typing, tile, a, rows, b):
    """tile[i, j] += a[rows[i]] * b[j]: the inner step of every multiply, vectors loads and ROWS * vectors
    multiply-adds."""

    def emit(context, builder, sig, args):
        value, a, rows, b = args
        panel = _panel(builder, tile, b, _INT64(tile.lanes))

        def row(i):
            return [_spread_at(builder, tile, a, rows, i)] * tile.vectors

        return _add_products(builder, tile, value, row, panel)

    return tile(tile, a, Places(), b), emit


@intrinsic
def add_lanewise(typing, tile, a, rows, beside, b, apart):
    """tile[i, j] += a[rows[i] + j * beside] * b[j * apart], registers times registers."""

    def emit(context, builder, sig, args):
        value, a, rows, beside, b, apart = args
        panel = _panel(builder, tile, b, apart)

        def row(i):
            return _panel(builder, tile, builder.gep(a, [builder.extract_value(rows, i)]), beside)

        return _add_products(builder, tile, value, row, panel)

    return tile(tile, a, Places(), types.int64, b, types.int64), emit


@intrinsic
def onward(typing, p, steps):
    """p + steps, of which LLVM knows no more than that it is a place. Otherwise it unrolls the loop below and keeps
    each row's place for each of four turns, 32 of them, for which there are no registers."""

    def emit(context, builder, sig, args):
        there = builder.gep(args[0], [args[1]])
        same = ir.FunctionType(there.type, [there.type])
        return builder.asm(same, "", "=r,0", [there], side_effect=False)

    return p(p, types.int64), emit


@inlined
def multiply(a, from_a, au, av, ak, b, bu, bv, bk, nu, nv, nk, c):
    """c plus the sum over u < nu, v < nv, k < nk; a and b walk by their own steps."""
    for u in range(nu):
        for v in range(nv):
            ap, bp = a + (u * au + v * av), b + (u * bu + v * bv)
            for _ in range(nk):
                c = rank_one(c, ap, from_a, bp)
                ap, bp = onward(ap, ak), onward(bp, bk)
    return c


@inlined
def multiply_lanewise(a, from_a, au, av, b, bu, bv, nu, nv, c):
    """c plus the sum over u < nu, v < nv of registers of a times those of b in the same columns."""
    for u in range(nu):
        ap, bp = a + u * au, b + u * bu
        for _ in range(nv):
            c = add_lanewise(c, ap, from_a, lanes(a), bp, lanes(b))
            ap, bp = onward(ap, av), onward(bp, bv)
    return c
