"""What the multipliers of one core can do: the register tile on data that never leaves the first-level cache."""

import numpy as np
from numba import njit

from bench.timing import median_of
from nbnn.kernels.jit import OPTIONS
from nbnn.kernels.simd import lanes_of, pointer
from nbnn.kernels.tile import ROWS, multiply, places, store_tile, zero_tile

DEPTH, TIMES = 256, 4000


@njit(**OPTIONS)
def _repeat(a, b, c, width):
    rows = places(0, ROWS, 1, ROWS, 0, 0, 1)
    to_c = places(0, ROWS, 1, ROWS, 0, 0, width)
    for _ in range(TIMES):
        t = multiply(pointer(a), rows, 0, 0, ROWS, pointer(b), 0, 0, width, 1, 1, DEPTH, zero_tile(a, 2))
        store_tile(pointer(c), to_c, t)


def gflops(dtype: str = "float32") -> float:
    """GFLOP/s of one core in its registers."""
    width = 2 * lanes_of(dtype)
    rng = np.random.default_rng(0)
    a, b = rng.random((DEPTH, ROWS)).astype(dtype), rng.random((DEPTH, width)).astype(dtype)
    c = np.zeros((ROWS, width), dtype)
    seconds = median_of(lambda: _repeat(a, b, c, width), 7)
    return 2 * ROWS * width * DEPTH * TIMES / seconds / 1e9
