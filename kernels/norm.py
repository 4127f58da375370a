"""Normalisation: y[n, i, j, c] = (x[n, i, j, c] - mean[n, c]) * scale[n, c] * gamma[c] + beta[c],
with scale = 1 / sqrt(variance + eps).

Three ops differ only in what mean and variance are taken over:

    batchnorm   all examples and places of a channel (mean[n] is then the same for every n: a view with step 0)
    groupnorm   the places and the channels of one group, in one example
    layernorm   groupnorm with one group

So there is one pass that looks at x (`channel_moments`: per example and channel, two sweeps while the example is in
cache, no difference of large squares), one small kernel that joins those per example and channel figures
(`*_statistics`), and one pass that writes y. Backward the same: `norm_sums`, `*_gradients`, `norm_backward`. Each
worker owns examples in the passes over pictures, and channels where figures of all examples are joined, in the order of
the examples.

    dx = scale * (g - mean(g) - xhat * mean(g * xhat)),  g = dy * gamma,  xhat = (x - mean) * scale

with the means over the same set.
"""

import math

from nbnn.kernels.jit import Array1, Array2, Array4, inlined, kernel, step
from nbnn.kernels.simd import fill, lanes, load, pointer, select, sqrt, store


def summed(term):
    """The sum of term(x, dy, m) over the places of one example, for one register of channels. Four sums take turns:
    each addition waits for the one before it, and one alone would wait most of the time."""

    @inlined
    def over_places(x, dy, n, c, m):
        xn, dyn = pointer(x) + (n * step(x, 0) + c), pointer(dy) + (n * step(dy, 0) + c)
        s0, s1, s2, s3 = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0), fill(x, 0.0)
        for i in range(x.shape[1]):
            xp, dyp = xn + i * step(x, 1), dyn + i * step(dy, 1)
            whole = x.shape[2] // 4 * 4
            for j in range(0, whole, 4):
                s0 = s0 + term(xp, j * step(x, 2), dyp, j * step(dy, 2), m)
                s1 = s1 + term(xp, (j + 1) * step(x, 2), dyp, (j + 1) * step(dy, 2), m)
                s2 = s2 + term(xp, (j + 2) * step(x, 2), dyp, (j + 2) * step(dy, 2), m)
                s3 = s3 + term(xp, (j + 3) * step(x, 2), dyp, (j + 3) * step(dy, 2), m)
            for j in range(whole, x.shape[2]):
                s0 = s0 + term(xp, j * step(x, 2), dyp, j * step(dy, 2), m)
        return (s0 + s1) + (s2 + s3)

    return over_places


@summed
@inlined
def _sum(xp, x_at, dyp, dy_at, m):
    return load(xp, x_at)


@summed
@inlined
def _sum_of_squares(xp, x_at, dyp, dy_at, m):
    d = load(xp, x_at) - m
    return d * d


@summed
@inlined
def _sum_of_products(xp, x_at, dyp, dy_at, m):
    return load(dyp, dy_at) * (load(xp, x_at) - m)


@kernel(each="x", intensity=2, fills=2)
def channel_moments(x: Array4, mean: Array2, spread: Array2, first: int, last: int):
    """mean[n, c] over the places of one example; spread[n, c] = sum over the places of (x - mean)**2."""
    places = x.shape[1] * x.shape[2]
    for n in range(first, last):
        for c in range(0, x.shape[3], lanes(x)):
            m = _sum(x, x, n, c, fill(x, 0.0)) / places
            store(pointer(mean), n * step(mean, 0) + c, m)
            store(pointer(spread), n * step(spread, 0) + c, _sum_of_squares(x, x, n, c, m))


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
def norm_forward(x: Array4, mean: Array2, scale: Array2, gamma: Array1, beta: Array1, y: Array4, first: int, last: int):
    for n in range(first, last):
        xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
        for c in range(0, x.shape[3], lanes(x)):
            m = load(pointer(mean), n * step(mean, 0) + c)
            factor = load(pointer(scale), n * step(scale, 0) + c) * load(pointer(gamma), c)
            shift = load(pointer(beta), c)
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    value = load(xn, i * step(x, 1) + j * step(x, 2) + c)
                    store(yn, i * step(y, 1) + j * step(y, 2) + c, (value - m) * factor + shift)


@kernel(each="x", intensity=2, fills=2)
def norm_sums(
    x: Array4, dy: Array4, mean: Array2, scale: Array2, sum_dy: Array2, sum_dy_xhat: Array2, first: int, last: int
):
    """sum_dy[n, c] and sum_dy_xhat[n, c] over the places of one example."""
    for n in range(first, last):
        for c in range(0, x.shape[3], lanes(x)):
            m, s = load(pointer(mean), n * step(mean, 0) + c), load(pointer(scale), n * step(scale, 0) + c)
            store(pointer(sum_dy), n * step(sum_dy, 0) + c, _sum(dy, dy, n, c, m))
            store(pointer(sum_dy_xhat), n * step(sum_dy_xhat, 0) + c, _sum_of_products(x, dy, n, c, m) * s)


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
    mean_g: Array2,
    mean_g_xhat: Array2,
    dx: Array4,
    first: int,
    last: int,
):
    for n in range(first, last):
        xn, dyn, dxn = pointer(x) + n * step(x, 0), pointer(dy) + n * step(dy, 0), pointer(dx) + n * step(dx, 0)
        for c in range(0, x.shape[3], lanes(x)):
            m, s = load(pointer(mean), n * step(mean, 0) + c), load(pointer(scale), n * step(scale, 0) + c)
            g, shift = load(pointer(gamma), c), load(pointer(mean_g), n * step(mean_g, 0) + c)
            bend = load(pointer(mean_g_xhat), n * step(mean_g_xhat, 0) + c) * s
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    centred = load(xn, i * step(x, 1) + j * step(x, 2) + c) - m
                    d = load(dyn, i * step(dy, 1) + j * step(dy, 2) + c) * g
                    store(dxn, i * step(dx, 1) + j * step(dx, 2) + c, s * (d - shift - centred * bend))


@kernel(each="x", intensity=2, over="x")
def scale_forward(x: Array4, gamma: Array1, y: Array4, first: int, last: int):
    """y[n, i, j, c] = gamma[c] * x[n, i, j, c]."""
    for n in range(first, last):
        xn, yn = pointer(x) + n * step(x, 0), pointer(y) + n * step(y, 0)
        for c in range(0, x.shape[3], lanes(x)):
            g = load(pointer(gamma), c)
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    store(yn, i * step(y, 1) + j * step(y, 2) + c, g * load(xn, i * step(x, 1) + j * step(x, 2) + c))


@kernel(each="x", intensity=2)
def scale_backward_weights(x: Array4, dy: Array4, dgamma: Array2, first: int, last: int):
    """dgamma[n, c] = sum over i, j of x[n, i, j, c] * dy[n, i, j, c]; `add_slots` adds the examples."""
    for n in range(first, last):
        xn, dyn = pointer(x) + n * step(x, 0), pointer(dy) + n * step(dy, 0)
        for c in range(0, x.shape[3], lanes(x)):
            s = fill(x, 0.0)
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    s = s + load(xn, i * step(x, 1) + j * step(x, 2) + c) * load(
                        dyn, i * step(dy, 1) + j * step(dy, 2) + c
                    )
            store(pointer(dgamma), n * step(dgamma, 0) + c, s)
