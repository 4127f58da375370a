"""Dropout: y = x / (1 - p) where chance(element) >= p, else 0; chance is a hash of (seed, step, node, element).

The hash is done in whole numbers, so the elements that are kept are the same here and in the kernel, bit for bit.
"""

import numpy as np

from nbnn.kernels.constants import GOLDEN, KEY_MIX, MIX

_64_BITS = (1 << 64) - 1


def _key(seed, step_number, node):
    """64 well-mixed bits of the three numbers, in Python's integers."""
    key = seed & _64_BITS
    for part in (step_number, node):
        key = ((key + GOLDEN) & _64_BITS) ^ (part & _64_BITS)
        for shift, factor in KEY_MIX:
            key ^= key >> shift
            if factor is not None:
                key = key * factor & _64_BITS
    return key


def _mix(h):
    """One round of the 32-bit mixer; products are meant to wrap."""
    for shift, factor in MIX:
        h = h ^ (h >> np.uint32(shift))
        if factor is not None:
            h = h * np.uint32(factor)
    return h


def dropout(x, p, seed, step_number, node, y):
    key = _key(seed, step_number, node)
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    element = np.arange(x.size, dtype=np.uint64).astype(np.uint32).reshape(x.shape)
    chance = _mix(_mix(element ^ low) ^ high) >> np.uint32(8)  # 24 bits
    kept = chance >= int(p * 2**24)
    y[...] = np.where(kept, x * (0.0 if p >= 1 else 1 / (1 - p)), 0)
