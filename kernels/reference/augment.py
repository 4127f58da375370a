"""Augmentation: y[n, i, j, c] = x[n, i + a, j' + b, c]; back, dx[n, i + a, j' + b, c] = dy[n, i, j, c].

a, b and whether j' is W - 1 - j or j are a hash of (seed, step, node, example).
"""

import numpy as np

from nbnn.kernels.constants import MOVES
from nbnn.kernels.reference.dropout import _key


def augment(x, shift, flip, back, seed, step_number, node, y):
    node_key = _key(seed, step_number, node)
    height, width = y.shape[1:3]
    for n in range(len(x)):
        key = _key(node_key, n, 0)
        a, b = ((key >> place & MOVES) % (2 * shift + 1) - shift for place in (44, 24))
        mirrored = bool(flip) and key & 1 == 1
        turned = slice(None, None, -1 if mirrored else 1)
        rows, columns = (slice(max(0, -m), side - max(0, m)) for m, side in ((a, height), (b, width)))
        to_rows, to_columns = (slice(max(0, m), side + min(0, m)) for m, side in ((a, height), (b, width)))
        moved = np.zeros_like(y[n])
        if back:
            moved[to_rows, to_columns] = x[n][:, turned][rows, columns]
            y[n] = moved
        else:
            moved[rows, columns] = x[n][to_rows, to_columns]
            y[n] = moved[:, turned]
