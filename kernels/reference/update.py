"""The step of the weights, over the flat arenas: w the parameters, dw their gradients, m and v the memory of the rule.

    sgd                     w -= r * dw
    sgd_momentum            v = mu*v - r*dw;  w += v
    sgd_nesterov_momentum   u = v;  v = mu*v - r*dw;  w += (1 + mu)*v - mu*u
    rmsprop                 v = d*v + (1 - d)*dw**2;  w -= r * dw / (sqrt(v) + eps)
    adam                    m = b1*m + (1 - b1)*dw;  v = b2*v + (1 - b2)*dw**2;  w -= r * m' / (sqrt(v') + eps)
    adamw                   adam, and w -= r * decay * w for weights
    lion                    w -= r * (sign(b1*m + (1 - b1)*dw) + decay * w);  m = b2*m + (1 - b2)*dw

m' = m / (1 - b1**t) and v' = v / (1 - b2**t). The first `weights` numbers are weights; decay and L2 touch those alone.
"""

import numpy as np

from nbnn.kernels.constants import AGE, AVERAGE, BLOCK, RULES


def _block_sums(values):
    """One sum per block of the arena."""
    return [values[start : start + BLOCK].sum() for start in range(0, len(values), BLOCK)]


def add_l2(w, reg, dw, of_w, sums):
    """dw += reg * w, of_w[block] = sum of w**2 over a block, sums[block] = sum of dw**2 over a whole block."""
    dw += reg * w
    of_w[...] = _block_sums(w * w)
    whole = len(w) // BLOCK
    sums[:whole] = _block_sums(dw * dw)[:whole]


def square_sums(dw, sums):
    """sums[block] = sum of dw**2 over a block."""
    sums[...] = _block_sums(dw * dw)


def trust(x, dy, largest, sums):
    """Count blocks as known where the square of the sum of x[n] * dy[n] over the examples is below `largest`."""
    bound = np.dot(x.astype(np.float64), dy.astype(np.float64))
    if bound * bound < largest:
        sums[...] = bound * bound


def clip_norm(sums, largest, dw):
    """dw *= largest / norm where the norm, the root of all sums, is above the largest."""
    norm = np.sqrt(sums.sum())
    if norm > largest:
        dw *= float(largest / norm)


def average(w, settings, mean):
    """mean += (1 - d) * (w - mean), where d is less early on: (t - 1) / (t + 9) in step t, so that the first is w."""
    keep, age = float(settings[AVERAGE]), float(settings[AGE])
    if age > 1:
        mean += (1 - min(keep, (age - 1) / (age + 9))) * (w - mean)
    else:
        mean[...] = w


def _sgd(weights, settings, dw, w, m, v):
    rate, *_ = settings
    w -= rate * dw


def _sgd_momentum(weights, settings, dw, w, m, v):
    rate, mu, *_ = settings
    v[...] = mu * v - rate * dw
    w += v


def _sgd_nesterov_momentum(weights, settings, dw, w, m, v):
    rate, mu, *_ = settings
    before = v.copy()
    v[...] = mu * v - rate * dw
    w += (1 + mu) * v - mu * before


def _rmsprop(weights, settings, dw, w, m, v):
    rate, keep, _, eps, *_ = settings
    v[...] = keep * v + (1 - keep) * dw * dw
    w -= rate * dw / (np.sqrt(v) + eps)


def _adam(weights, settings, dw, w, m, v):
    rate, beta1, beta2, eps, _, time, *_ = settings
    m[...] = beta1 * m + (1 - beta1) * dw
    v[...] = beta2 * v + (1 - beta2) * dw * dw
    w -= rate * (m / (1 - beta1**time)) / (np.sqrt(v / (1 - beta2**time)) + eps)


def _adamw(weights, settings, dw, w, m, v):
    rate, _, _, _, decay, *_ = settings
    w[:weights] -= rate * decay * w[:weights]
    _adam(weights, settings, dw, w, m, v)


def _lion(weights, settings, dw, w, m, v):
    rate, beta1, beta2, _, decay, *_ = settings
    w[:weights] -= rate * decay * w[:weights]
    w -= rate * np.sign(beta1 * m + (1 - beta1) * dw)
    m[...] = beta2 * m + (1 - beta2) * dw


_STEPS = dict(zip(RULES, (_sgd, _sgd_momentum, _sgd_nesterov_momentum, _rmsprop, _adam, _adamw, _lion), strict=True))


def update(rule, weights, settings, dw, w, m, v, sums, norm):
    """One step of the rule with that code, and norm[0] = the sum of sums; where that is not finite there is no step.
    Sums below 0 are made, others are known. `constants` names the settings in the order in which they are unpacked."""
    if (sums < 0).any():
        sums[...] = np.where(sums < 0, _block_sums(dw * dw), sums)
    norm[0] = sums.sum()
    if np.isfinite(norm[0]):
        _STEPS[RULES[rule]](weights, settings.tolist(), dw, w, m, v)
