"""Augmentation: each picture moved by up to `shift` places down and across, zeros coming in, and perhaps mirrored.

    y[n, i, j, c] = x[n, i + a, j' + b, c],   j' = W - 1 - j if the picture is mirrored, else j
    dx[n, i + a, j' + b, c] = dy[n, i, j, c]

What happens to a picture is a hash of (seed, step, node, example), as in dropout: the same for any number of threads,
in NumPy, and after a resume. Each worker owns examples.
"""

import numpy as np

from nbnn.kernels.constants import MOVES
from nbnn.kernels.dropout import key_of
from nbnn.kernels.jit import Array4, inlined, kernel, step
from nbnn.kernels.simd import fill, lanes, load, pointer, store


@inlined
def move_of(key, place, shift):
    """A whole number from -shift to shift out of 20 bits of the key."""
    return np.int64((key >> np.uint64(place)) & np.uint64(MOVES)) % (2 * shift + 1) - shift


@kernel(each="x")
def augment(
    x: Array4,
    shift: int,
    flip: int,
    back: int,
    seed: int,
    step_number: int,
    node: int,
    y: Array4,
    first: int,
    last: int,
):
    """y from x, or with `back` dx from dy."""
    node_key = key_of(seed, step_number, node)
    height, width, channels = y.shape[1], y.shape[2], y.shape[3]
    way = -1 if back else 1
    for n in range(first, last):
        key = key_of(node_key, n, 0)
        a, b = move_of(key, 44, shift) * way, move_of(key, 24, shift) * way
        mirrored = flip != 0 and key & np.uint64(1) != np.uint64(0)
        for i in range(height):
            for j in range(width):
                source = j + b
                if mirrored:  # back: out of the move first, then out of the mirror
                    source = width - 1 - source if back else width - 1 - j + b
                yp = pointer(y) + (n * step(y, 0) + i * step(y, 1) + j * step(y, 2))
                if 0 <= i + a < height and 0 <= source < width:
                    xp = pointer(x) + (n * step(x, 0) + (i + a) * step(x, 1) + source * step(x, 2))
                    for c in range(0, channels, lanes(x)):
                        store(yp, c, load(xp, c))
                else:
                    for c in range(0, channels, lanes(x)):
                        store(yp, c, fill(x, 0.0))
