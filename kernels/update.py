"""The step of the weights, over the flat arenas: w the parameters, dw their gradients, m and v the memory of the rule.

    sgd                     w -= r * dw
    sgd_momentum            v = mu*v - r*dw;  w += v
    sgd_nesterov_momentum   u = v;  v = mu*v - r*dw;  w += (1 + mu)*v - mu*u
    rmsprop                 v = d*v + (1 - d)*dw**2;  w -= r * dw / (sqrt(v) + eps)
    adam                    m = b1*m + (1 - b1)*dw;  v = b2*v + (1 - b2)*dw**2;  w -= r * m' / (sqrt(v') + eps)
    adamw                   adam, and w -= r * decay * w for weights
    lion                    w -= r * (sign(b1*m + (1 - b1)*dw) + decay * w);  m = b2*m + (1 - b2)*dw

r the learning rate, m' = m / (1 - b1**t) and v' = v / (1 - b2**t) the moments without the bias of their start.
`settings` holds what the rule needs at the places named below. The first `weights` numbers of the arenas are weights;
decay and L2 touch those alone. Each worker owns blocks of the arenas. Sums over the arenas go through one number per
block, added in order.
"""

import math

from nbnn.kernels.arrays import squares
from nbnn.kernels.constants import (
    ADAM,
    ADAMW,
    AGE,
    AVERAGE,
    BETA2,
    BLOCK,
    DECAY,
    EPS,
    LION,
    MOMENTUM,
    RATE,
    RMSPROP,
    SGD,
    SGD_MOMENTUM,
    SGD_NESTEROV_MOMENTUM,
    TIME,
)
from nbnn.kernels.jit import Array1, Doubles, inlined, kernel
from nbnn.kernels.simd import fill, lanes, load, pointer, select, sqrt, store, total


@kernel(each="of_w", fills=3, whole=False)
def add_l2(w: Array1, reg: float, dw: Array1, of_w: Doubles, sums: Doubles, first: int, last: int):
    """dw += reg * w over the weights. of_w[block] = sum of w**2 over a block: the loss is 0.5 * reg * their sum.
    sums[block] = sum of dw**2 over a block that is all weights."""
    for block in range(first, last):
        s, of_dw = fill(w, 0.0), fill(w, 0.0)
        for i in range(block * BLOCK, min((block + 1) * BLOCK, w.shape[0]), lanes(w)):
            value = load(pointer(w), i)
            s = s + value * value
            value = load(pointer(dw), i) + value * reg
            of_dw = of_dw + value * value
            store(pointer(dw), i, value)
        of_w[block] = total(s)
        if (block + 1) * BLOCK <= w.shape[0]:
            sums[block] = total(of_dw)


@inlined
def block_of_squares(dw, block):
    """The sum of dw**2 over a block."""
    return squares(dw, block * BLOCK, min((block + 1) * BLOCK, dw.shape[0]))


@kernel(each="sums")
def square_sums(dw: Array1, sums: Doubles, first: int, last: int):
    """sums[block] = sum of dw**2 over a block."""
    for block in range(first, last):
        sums[block] = block_of_squares(dw, block)


@kernel(each="sums", whole=False)
def trust(x: Array1, dy: Array1, largest: float, sums: Doubles, first: int, last: int):
    """Count blocks as known that hold the gradient of affine weights, where x[n] and dy[n] are the lengths of the
    vectors that an example brings: the gradient is no longer than the sum of their products, and where the square of
    that is below `largest`, all in it is finite. (To look at every number of it would be a tenth of a small net's
    step.)"""
    s = 0.0
    for n in range(x.shape[0]):
        s += x[n] * dy[n]
    if s * s < largest:
        for block in range(first, last):
            sums[block] = s * s


@kernel(each="dw", grain=BLOCK, whole=False)
def clip_norm(sums: Doubles, largest: float, dw: Array1, first: int, last: int):
    """dw *= largest / norm where the norm, the root of all sums, is above the largest."""
    s = 0.0
    for block in range(sums.shape[0]):
        s += sums[block]
    norm = math.sqrt(s)
    if norm > largest:
        for i in range(first, last, lanes(dw)):
            store(pointer(dw), i, load(pointer(dw), i) * (largest / norm))


@inlined
def _decay(w, i, value, weights, rate):
    """The pull of a weight towards 0."""
    if i < weights:
        value = value - load(pointer(w), i) * rate
    return value


@kernel(each="mean", grain=BLOCK, whole=False)
def average(w: Array1, settings: Doubles, mean: Array1, first: int, last: int):
    """mean += (1 - d) * (w - mean), the exponential moving average of the weights. Early on d is only
    (t - 1) / (t + 9) in step t, so the first mean is w itself."""
    age = settings[AGE]
    share = 1.0 - min(settings[AVERAGE], (age - 1.0) / (age + 9.0))
    for i in range(first, last, lanes(w)):
        value = load(pointer(w), i)
        if age > 1.0:
            before = load(pointer(mean), i)
            value = before + (value - before) * share
        store(pointer(mean), i, value)


@kernel(each="w", grain=BLOCK, fills=5, whole=False)
def update(
    rule: int,
    weights: int,
    settings: Doubles,
    dw: Array1,
    w: Array1,
    m: Array1,
    v: Array1,
    sums: Doubles,
    norm: Doubles,
    first: int,
    last: int,
):
    """The step, and norm[0] = the sum of dw**2 or a bound of it; where that is not finite there is no step.

    Nobody may begin before all sums are known, and nobody waits: each worker makes those of its own blocks that are not
    known yet (below 0), then for itself those that no other worker has made so far. So noticing a gradient that is not
    finite takes no launch of its own, in which threads would have to meet, and dw is in the cache when it is used.
    """
    for block in range(first // BLOCK, -(-last // BLOCK)):
        if sums[block] < 0.0:
            sums[block] = block_of_squares(dw, block)
    s = 0.0
    for block in range(sums.shape[0]):
        known = sums[block]
        if known < 0.0:
            known = block_of_squares(dw, block)
        s += known
    if last == w.shape[0]:
        norm[0] = s
    if not math.isfinite(s):
        return
    rate, mu, eps = settings[RATE], settings[MOMENTUM], settings[EPS]
    wp, dwp, mp, vp = pointer(w), pointer(dw), pointer(m), pointer(v)
    if rule == SGD:
        for i in range(first, last, lanes(w)):
            store(wp, i, load(wp, i) - load(dwp, i) * rate)
    elif rule in (SGD_MOMENTUM, SGD_NESTEROV_MOMENTUM):
        for i in range(first, last, lanes(w)):
            before = load(vp, i)
            speed = before * mu - load(dwp, i) * rate
            store(vp, i, speed)
            if rule == SGD_NESTEROV_MOMENTUM:
                speed = speed * (1.0 + mu) - before * mu
            store(wp, i, load(wp, i) + speed)
    elif rule == RMSPROP:
        for i in range(first, last, lanes(w)):
            g = load(dwp, i)
            second = load(vp, i) * mu + g * g * (1.0 - mu)
            store(vp, i, second)
            store(wp, i, load(wp, i) - g * rate / (sqrt(second) + eps))
    elif rule in (ADAM, ADAMW):
        beta2, decay = settings[BETA2], settings[DECAY]
        # one division and one root for each register: more of them would be half of the time of a small net's step
        speed = rate / (1.0 - mu ** settings[TIME])
        weight = 1.0 / (1.0 - beta2 ** settings[TIME])
        for i in range(first, last, lanes(w)):
            g = load(dwp, i)
            mean = load(mp, i) * mu + g * (1.0 - mu)
            second = load(vp, i) * beta2 + g * g * (1.0 - beta2)
            store(mp, i, mean)
            store(vp, i, second)
            value = load(wp, i)
            if rule == ADAMW:
                value = _decay(w, i, value, weights, rate * decay)
            store(wp, i, value - mean * speed / (sqrt(second * weight) + eps))
    elif rule == LION:
        beta2, decay = settings[BETA2], settings[DECAY]
        zero, up = fill(w, 0.0), fill(w, rate)
        for i in range(first, last, lanes(w)):
            g, mean = load(dwp, i), load(mp, i)
            way = mean * mu + g * (1.0 - mu)
            store(mp, i, mean * beta2 + g * (1.0 - beta2))
            value = _decay(w, i, load(wp, i), weights, rate * decay)
            value = select(
                way > zero, value - up, select(way < zero, value + up, value + way)
            )  # + way lets a NaN through
            store(wp, i, value)
