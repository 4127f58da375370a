"""Losses of one example each, and the gradient of their mean: losses[n] and dx[n, k] = d(mean of losses) / d x[n, k].

    softmax   losses[n] = log(sum over k of exp(x[n, k])) - sum over k of t[k] * x[n, k]
              with t[k] = (1 - s) * [k is the label] + s / K
    svm       losses[n] = sum over k, k not the label, of max(0, x[n, k] - x[n, label] + 1)
    mse       losses[n] = mean over k of (x[n, k] - target[n, k])**2

n example, k class, s the label smoothing. Each worker owns examples. Labels have been checked before they come here.
Scores are shifted by their largest, so that nothing overflows and the loss stays finite where the right class has
probability 0.
"""

import math

from nbnn.kernels.exp import exp
from nbnn.kernels.jit import Array2, Doubles, Ints, kernel, step
from nbnn.kernels.simd import fill, lane_between, lanes, load, peek, pointer, poke, select, store, total


@kernel(each="x", intensity=8, fills=2)
def softmax_loss(x: Array2, labels: Ints, smoothing: float, losses: Doubles, dx: Array2, first: int, last: int):
    classes, width = x.shape[1], lanes(x)
    for n in range(first, last):
        xn, dxn = pointer(x) + n * step(x, 0), pointer(dx) + n * step(dx, 0)
        largest = peek(xn, 0)
        for k in range(classes):
            if peek(xn, k) > largest:
                largest = peek(xn, k)
        sums, below = fill(x, 0.0), fill(x, 0.0)
        for k in range(0, classes, width):
            inside = lane_between(x, 0, classes - k)
            d = load(xn, k) - largest
            e = select(inside, exp(d), fill(x, 0.0))
            sums, below = sums + e, below + select(inside, d, fill(x, 0.0))
            store(dxn, k, e)
        s = total(sums)
        y = labels[n]
        shifted = (1.0 - smoothing) * (peek(xn, y) - largest)
        if smoothing > 0.0:  # the sum may be infinite, and 0 * infinity a NaN
            shifted = shifted + smoothing * (total(below) / classes)
        losses[n] = math.log(s) - shifted
        scale, share = 1.0 / (s * x.shape[0]), smoothing / classes / x.shape[0]
        for k in range(0, classes, width):
            p = load(dxn, k) * scale - share
            store(dxn, k, select(lane_between(x, 0, classes - k), p, fill(x, 0.0)))
        poke(dxn, y, peek(dxn, y) - (1.0 - smoothing) / x.shape[0])


@kernel(each="x", intensity=4, fills=2)
def svm_loss(x: Array2, labels: Ints, losses: Doubles, dx: Array2, first: int, last: int):
    classes, width = x.shape[1], lanes(x)
    for n in range(first, last):
        xn, dxn = pointer(x) + n * step(x, 0), pointer(dx) + n * step(dx, 0)
        y = labels[n]
        right = peek(xn, y)
        sums, counts, zero, one = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0), fill(x, 1.0)
        for k in range(0, classes, width):
            others = lane_between(x, 0, classes - k) & ~lane_between(x, y - k, y - k + 1)
            margin = load(xn, k) - right + 1.0
            sums = sums + select(others & ~(margin <= zero), margin, zero)  # a NaN margin stays in the sum
            hit = select(others & (margin > zero), one, zero)
            counts = counts + hit
            store(dxn, k, hit / x.shape[0])
        losses[n] = total(sums)
        poke(dxn, y, -total(counts) / x.shape[0])


@kernel(each="x", intensity=2, fills=2)
def mse_loss(x: Array2, target: Array2, losses: Doubles, dx: Array2, first: int, last: int):
    classes, width = x.shape[1], lanes(x)
    for n in range(first, last):
        sums = fill(x, 0.0)
        for k in range(0, classes, width):
            inside = lane_between(x, 0, classes - k)
            d = load(pointer(x), n * step(x, 0) + k) - load(pointer(target), n * step(target, 0) + k)
            d = select(inside, d, fill(x, 0.0))
            sums = sums + d * d
            store(pointer(dx), n * step(dx, 0) + k, d * (2.0 / (classes * x.shape[0])))
        losses[n] = total(sums) / classes


@kernel(each="out", whole=False)
def add_total(values: Doubles, factor: float, out: Doubles, first: int, last: int):
    """out[0] += factor * sum of values, in their order."""
    for k in range(first, last):
        s = 0.0
        for i in range(values.shape[0]):
            s += values[i]
        out[k] += factor * s
