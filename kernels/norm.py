"""Normalisation: y[n, i, j, c] = (x[n, i, j, c] - mean[n, c]) * scale[n, c] * gamma[c] + beta[c],
with scale = 1 / sqrt(variance + eps).

Three ops differ only in what mean and variance are taken over:

    batchnorm   all examples and places of a channel (mean[n] is then the same for every n: a view with step 0)
    groupnorm   the places and the channels of one group, in one example
    layernorm   groupnorm with one group

So there is one pass that looks at x (`channel_moments`: per example and channel, no difference of large squares), one
small kernel that joins those per example and channel figures (`*_statistics`), and one pass that writes y. Backward the
same: `norm_sums`, `*_gradients`, `norm_backward`. Each worker owns examples in the passes over pictures, and channels
where figures of all examples are joined, in the order of the examples.

A pass goes row by row, in each through all channels, because a row stays in the first-level cache where an example does
not (measured on 8 x 8 x 128: 5 to 7 cycles a register for moments and sums, 8 to 20 channel by channel).

    dx = scale * (g - mean(g) - xhat * mean(g * xhat)),  g = dy * gamma,  xhat = (x - mean) * scale

with the means over the same set. With `rectify` a relu comes behind: y is max(y, 0), and dy counts where y is above 0,
which is found again from x.
"""

import math

from nbnn.kernels.activation import floor
from nbnn.kernels.jit import Array1, Array2, Array4, inlined, kernel, step
from nbnn.kernels.simd import fill, lanes, load, pointer, select, sqrt, store


@inlined
def _at_row(x, n, i, c):
    return pointer(x) + (n * step(x, 0) + i * step(x, 1) + c)


@inlined
def _row_moments(xp, pixel, width):
    """Mean and sum of (x - mean)**2 over one row, for one register of channels. Two sums take turns: each addition
    waits for the one before it."""
    zero = fill(xp, 0.0)
    s0, s1, q0, q1 = zero, zero, zero, zero
    even = width // 2 * 2
    for j in range(0, even, 2):
        s0, s1 = s0 + load(xp, j * pixel), s1 + load(xp, (j + 1) * pixel)
    for j in range(even, width):
        s0 = s0 + load(xp, j * pixel)
    mean = (s0 + s1) / width
    for j in range(0, even, 2):
        d, e = load(xp, j * pixel) - mean, load(xp, (j + 1) * pixel) - mean
        q0, q1 = q0 + d * d, q1 + e * e
    for j in range(even, width):
        d = load(xp, j * pixel) - mean
        q0 = q0 + d * d
    return mean, q0 + q1


@kernel(each="x", intensity=2, fills=2)
def channel_moments(x: Array4, mean: Array2, spread: Array2, first: int, last: int):
    """mean[n, c] over the places of one example; spread[n, c] = sum over the places of (x - mean)**2.

    Row i joins the i rows before it: with d = its mean - theirs, the mean moves by d / (i + 1), and the spread gains
    that of the row and d * d * width * i / (i + 1).
    """
    width = x.shape[2]
    for n in range(first, last):
        to_mean, to_spread = pointer(mean) + n * step(mean, 0), pointer(spread) + n * step(spread, 0)
        for i in range(x.shape[1]):
            for c in range(0, x.shape[3], lanes(x)):
                m, q = _row_moments(_at_row(x, n, i, c), step(x, 2), width)
                if i > 0:
                    before = load(to_mean, c)
                    d = m - before
                    m, q = before + d / (i + 1), q + load(to_spread, c) + d * d * (width * i / (i + 1))
                store(to_mean, c, m)
                store(to_spread, c, q)


@kernel(each="mean", grain=16, fills=4, whole=False)
def batch_statistics(
    means: Array2,
    spreads: Array2,
    places: int,
    eps: float,
    momentum: float,
    running_mean: Array1,
    running_var: Array1,
    mean: Array1,
    scale: Array1,
    first: int,
    last: int,
):
    """mean and scale of each channel over all examples; the running figures keep the share `momentum` of themselves.

    A channel whose figures are not finite leaves its running figures alone: one bad batch does not spoil the net for
    good.
    """
    count = means.shape[0]
    for c in range(first, last, lanes(mean)):
        m = fill(mean, 0.0)
        for n in range(count):
            m = m + load(pointer(means), n * step(means, 0) + c)
        m, s = m / count, fill(mean, 0.0)
        for n in range(count):
            d = load(pointer(means), n * step(means, 0) + c) - m
            s = s + (load(pointer(spreads), n * step(spreads, 0) + c) + d * d * places)
        s = s / (count * places)
        store(pointer(mean), c, m)
        store(pointer(scale), c, 1.0 / sqrt(s + eps))
        good = m * 0.0 + s * 0.0 == 0.0  # neither a NaN nor an infinity
        old_mean, old_var = load(pointer(running_mean), c), load(pointer(running_var), c)
        store(pointer(running_mean), c, select(good, old_mean * momentum + m * (1.0 - momentum), old_mean))
        store(pointer(running_var), c, select(good, old_var * momentum + s * (1.0 - momentum), old_var))


@kernel(each="mean", fills=2, whole=False)
def running_statistics(
    running_mean: Array1, running_var: Array1, eps: float, mean: Array1, scale: Array1, first: int, last: int
):
    """What batchnorm uses outside training."""
    for c in range(first, last):
        mean[c] = running_mean[c]
        scale[c] = 1.0 / math.sqrt(running_var[c] + eps)


@kernel(each="means", intensity=2, fills=2, whole=False)
def group_statistics(
    means: Array2,
    spreads: Array2,
    places: int,
    groups: int,
    eps: float,
    mean: Array2,
    scale: Array2,
    first: int,
    last: int,
):
    """mean and scale of each group of channels of each example, written out for every channel of the group."""
    size = means.shape[1] // groups
    for n in range(first, last):
        for g in range(groups):
            m = 0.0
            for c in range(g * size, (g + 1) * size):
                m += means[n, c]
            m /= size
            s = 0.0
            for c in range(g * size, (g + 1) * size):
                d = means[n, c] - m
                s += spreads[n, c] + places * d * d
            s = 1.0 / math.sqrt(s / (size * places) + eps)
            for c in range(g * size, (g + 1) * size):
                mean[n, c] = m
                scale[n, c] = s


@kernel(each="x", intensity=2, over="x")
def norm_forward(
    x: Array4,
    mean: Array2,
    scale: Array2,
    gamma: Array1,
    beta: Array1,
    rectify: int,
    y: Array4,
    first: int,
    last: int,
):
    low = floor(x, rectify)
    for n in range(first, last):
        for i in range(x.shape[1]):
            for c in range(0, x.shape[3], lanes(x)):
                xp, yp = _at_row(x, n, i, c), _at_row(y, n, i, c)
                m = load(pointer(mean), n * step(mean, 0) + c)
                factor = load(pointer(scale), n * step(scale, 0) + c) * load(pointer(gamma), c)
                shift = load(pointer(beta), c)
                for j in range(x.shape[2]):
                    value = (load(xp, j * step(x, 2)) - m) * factor + shift
                    store(yp, j * step(y, 2), select(value <= low, low, value))


@inlined
def _row_sums(xp, x_pixel, dyp, dy_pixel, width, mean, factor, shift, low, total, weighted):
    """total + sum of dy, weighted + sum of dy * (x - mean) over one row, two sums of each in turn; dy counts where
    (x - mean) * factor + shift is above `low`."""
    zero = fill(xp, 0.0)
    total_1, weighted_1 = zero, zero
    even = width // 2 * 2
    for j in range(0, even, 2):
        a, b = load(xp, j * x_pixel) - mean, load(xp, (j + 1) * x_pixel) - mean
        d = select(a * factor + shift <= low, zero, load(dyp, j * dy_pixel))
        e = select(b * factor + shift <= low, zero, load(dyp, (j + 1) * dy_pixel))
        total, total_1, weighted, weighted_1 = total + d, total_1 + e, weighted + d * a, weighted_1 + e * b
    for j in range(even, width):
        a = load(xp, j * x_pixel) - mean
        d = select(a * factor + shift <= low, zero, load(dyp, j * dy_pixel))
        total, weighted = total + d, weighted + d * a
    return total + total_1, weighted + weighted_1


@kernel(each="x", intensity=2, fills=2)
def norm_sums(
    x: Array4,
    dy: Array4,
    mean: Array2,
    scale: Array2,
    gamma: Array1,
    beta: Array1,
    rectify: int,
    sum_dy: Array2,
    sum_dy_xhat: Array2,
    first: int,
    last: int,
):
    """sum_dy[n, c] and sum_dy_xhat[n, c] over the places of one example."""
    low = floor(x, rectify)
    for n in range(first, last):
        to_sum, to_weighted = pointer(sum_dy) + n * step(sum_dy, 0), pointer(sum_dy_xhat) + n * step(sum_dy_xhat, 0)
        for i in range(x.shape[1]):
            for c in range(0, x.shape[3], lanes(x)):
                xp, dyp, m = _at_row(x, n, i, c), _at_row(dy, n, i, c), load(pointer(mean), n * step(mean, 0) + c)
                factor = load(pointer(scale), n * step(scale, 0) + c) * load(pointer(gamma), c)
                shift = load(pointer(beta), c)
                total, weighted = fill(x, 0.0), fill(x, 0.0)
                if i > 0:
                    total, weighted = load(to_sum, c), load(to_weighted, c)
                total, weighted = _row_sums(
                    xp, step(x, 2), dyp, step(dy, 2), x.shape[2], m, factor, shift, low, total, weighted
                )
                store(to_sum, c, total)
                store(to_weighted, c, weighted)
        for c in range(0, x.shape[3], lanes(x)):
            store(to_weighted, c, load(to_weighted, c) * load(pointer(scale), n * step(scale, 0) + c))


@kernel(each="gamma", grain=16, fills=2)
def affine_gradients(
    sum_dy: Array2, sum_dy_xhat: Array2, gamma: Array1, dgamma: Array1, dbeta: Array1, first: int, last: int
):
    """dgamma[c] = sum over n of sum_dy_xhat[n, c], dbeta[c] = sum over n of sum_dy[n, c]. `gamma` only counts the
    channels."""
    for c in range(first, last, lanes(gamma)):
        total, weighted = fill(gamma, 0.0), fill(gamma, 0.0)
        for n in range(sum_dy.shape[0]):
            total = total + load(pointer(sum_dy), n * step(sum_dy, 0) + c)
            weighted = weighted + load(pointer(sum_dy_xhat), n * step(sum_dy_xhat, 0) + c)
        store(pointer(dbeta), c, total)
        store(pointer(dgamma), c, weighted)


@kernel(each="gamma", fills=2, whole=False)
def batch_gradients(
    dgamma: Array1, dbeta: Array1, gamma: Array1, count: int, mean_g: Array1, mean_g_xhat: Array1, first: int, last: int
):
    """The two means of dx over a whole channel of `count` elements, which dgamma and dbeta already hold the sums of."""
    for c in range(first, last):
        mean_g[c] = gamma[c] * dbeta[c] / count
        mean_g_xhat[c] = gamma[c] * dgamma[c] / count


@kernel(each="sum_dy", intensity=2, fills=2, whole=False)
def group_gradients(
    sum_dy: Array2,
    sum_dy_xhat: Array2,
    gamma: Array1,
    places: int,
    groups: int,
    mean_g: Array2,
    mean_g_xhat: Array2,
    first: int,
    last: int,
):
    """The two means of dx over each group of channels of each example, written out for every channel of the group."""
    size = gamma.shape[0] // groups
    for n in range(first, last):
        for g in range(groups):
            total, weighted = 0.0, 0.0
            for c in range(g * size, (g + 1) * size):
                total += gamma[c] * sum_dy[n, c]
                weighted += gamma[c] * sum_dy_xhat[n, c]
            for c in range(g * size, (g + 1) * size):
                mean_g[n, c] = total / (size * places)
                mean_g_xhat[n, c] = weighted / (size * places)


@kernel(each="x", intensity=2, over="dy")
def norm_backward(
    x: Array4,
    dy: Array4,
    mean: Array2,
    scale: Array2,
    gamma: Array1,
    beta: Array1,
    mean_g: Array2,
    mean_g_xhat: Array2,
    rectify: int,
    dx: Array4,
    first: int,
    last: int,
):
    low, zero = floor(x, rectify), fill(x, 0.0)
    for n in range(first, last):
        for i in range(x.shape[1]):
            for c in range(0, x.shape[3], lanes(x)):
                xp, dyp, dxp = _at_row(x, n, i, c), _at_row(dy, n, i, c), _at_row(dx, n, i, c)
                m, s = load(pointer(mean), n * step(mean, 0) + c), load(pointer(scale), n * step(scale, 0) + c)
                factor, shift = s * load(pointer(gamma), c), load(pointer(beta), c)
                pull = load(pointer(mean_g), n * step(mean_g, 0) + c) * s
                bend = load(pointer(mean_g_xhat), n * step(mean_g_xhat, 0) + c) * s * s
                for j in range(x.shape[2]):
                    a = load(xp, j * step(x, 2)) - m
                    d = select(a * factor + shift <= low, zero, load(dyp, j * step(dy, 2)))
                    store(dxp, j * step(dx, 2), d * factor - pull - a * bend)


@kernel(each="x", intensity=2, over="x")
def scale_forward(x: Array4, gamma: Array1, y: Array4, first: int, last: int):
    """y[n, i, j, c] = gamma[c] * x[n, i, j, c]."""
    for n in range(first, last):
        for i in range(x.shape[1]):
            for c in range(0, x.shape[3], lanes(x)):
                xp, yp, g = _at_row(x, n, i, c), _at_row(y, n, i, c), load(pointer(gamma), c)
                for j in range(x.shape[2]):
                    store(yp, j * step(y, 2), g * load(xp, j * step(x, 2)))


@kernel(each="x", intensity=2)
def scale_backward_weights(x: Array4, dy: Array4, dgamma: Array2, first: int, last: int):
    """dgamma[n, c] = sum over i, j of x[n, i, j, c] * dy[n, i, j, c]; `add_slots` adds the examples."""
    zero, none = fill(x, 0.0), floor(x, 0)
    for n in range(first, last):
        to_dgamma = pointer(dgamma) + n * step(dgamma, 0)
        for i in range(x.shape[1]):
            for c in range(0, x.shape[3], lanes(x)):
                xp, dyp = _at_row(x, n, i, c), _at_row(dy, n, i, c)
                before = zero if i == 0 else load(to_dgamma, c)
                _, s = _row_sums(xp, step(x, 2), dyp, step(dy, 2), x.shape[2], zero, zero, zero, none, zero, before)
                store(to_dgamma, c, s)
