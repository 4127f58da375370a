"""Dropout: y = x / (1 - p) where chance(element) >= p, else 0. The same kernel runs backward: dx is the dropout of dy.

No mask is stored. The chance of an element is a hash of (seed, step, node, element), computed again whenever it is
asked for: the same for any number of threads, in NumPy, and after a resume. Element e = ((n*H + i)*W + j)*C + c of the
minibatch, modulo 2**32.

The hash is two rounds of a 32-bit mixer (multiply and shift by constants with low bias, found by Chris Wellons) around
two keys.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from nbnn.kernels.constants import GOLDEN, KEY_MIX, MIX
from nbnn.kernels.jit import Array4, inlined, kernel, step
from nbnn.kernels.simd import Mask, fill, lanes, load, pointer, select, spread, store


@inlined
def key_of(seed, step_number, node):
    """64 well-mixed bits of the three numbers."""
    key = np.uint64(seed)
    for part in (np.uint64(step_number), np.uint64(node)):
        key = (key + np.uint64(GOLDEN)) ^ part
        key = (key ^ (key >> np.uint64(KEY_MIX[0][0]))) * np.uint64(KEY_MIX[0][1])
        key = (key ^ (key >> np.uint64(KEY_MIX[1][0]))) * np.uint64(KEY_MIX[1][1])
        key = key ^ (key >> np.uint64(KEY_MIX[2][0]))
    return key


@intrinsic
def chance(typing, like, element, key, threshold):
    """A mask over the elements `element`, `element + 1`, ...: the top 24 bits of the hash reach the threshold."""
    kind = Mask(like.dtype)
    word = ir.VectorType(ir.IntType(32), kind.lanes)

    def emit(context, builder, sig, args):
        def same(number):
            return ir.Constant(word, [number] * kind.lanes)

        def mix(h):
            for shift, factor in MIX:
                h = builder.xor(h, builder.lshr(h, same(shift)))
                if factor is not None:
                    h = builder.mul(h, same(factor))
            return h

        low = builder.trunc(args[2], ir.IntType(32))
        high = builder.trunc(builder.lshr(args[2], ir.IntType(64)(32)), ir.IntType(32))
        h = builder.add(
            spread(builder, builder.trunc(args[1], ir.IntType(32)), kind.lanes),
            ir.Constant(word, list(range(kind.lanes))),
        )
        h = mix(builder.xor(h, spread(builder, low, kind.lanes)))
        h = mix(builder.xor(h, spread(builder, high, kind.lanes)))
        bound = spread(builder, builder.trunc(args[3], ir.IntType(32)), kind.lanes)
        return builder.icmp_unsigned(">=", builder.lshr(h, same(8)), bound)

    return kind(like, types.int64, types.uint64, types.int64), emit


@kernel(each="x", intensity=4, over="x")
def dropout(x: Array4, p: float, seed: int, step_number: int, node: int, y: Array4, first: int, last: int):
    key = key_of(seed, step_number, node)
    threshold = int(p * (1 << 24))
    keep = fill(x, 0.0 if p >= 1.0 else 1.0 / (1.0 - p))
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for n in range(first, last):
        for i in range(height):
            for j in range(width):
                element = ((n * height + i) * width + j) * channels
                xp = pointer(x) + (n * step(x, 0) + i * step(x, 1) + j * step(x, 2))
                yp = pointer(y) + (n * step(y, 0) + i * step(y, 1) + j * step(y, 2))
                for c in range(0, channels, lanes(x)):
                    store(yp, c, select(chance(x, element + c, key, threshold), load(xp, c) * keep, fill(x, 0.0)))
