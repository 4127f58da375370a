"""The course's layers for rows of numbers, as thin words over the reference kernels.

`out, cache = f_forward(...)`, then `dx, ... = f_backward(dout, cache)`. Results have the dtype that NumPy gives the
arguments together; lists are taken for arrays and whole numbers for float64.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any

import numpy as np

from nbnn.kernels import reference

Cache = tuple[Any, ...]
Params = MutableMapping[str, Any]


def floats(*arrays: Any) -> tuple[np.ndarray, ...]:
    """As arrays of floating-point numbers, each of its own dtype; what is one already is taken as it is."""
    found = (np.asarray(a) for a in arrays)
    return tuple(a if a.dtype.kind == "f" else a.astype(np.float64) for a in found)


def pictures(x: np.ndarray) -> np.ndarray:
    """Rows as the kernels see them: (example, 1, 1, number)."""
    return x.reshape(len(x), 1, 1, math.prod(x.shape[1:]))


def demand(layer: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse another shape, which NumPy might broadcast. A row of numbers may also lie as (1, N)."""
    if array.shape != shape and not (len(shape) == 1 and array.size == shape[0]):
        raise ValueError(f"{layer}: {name} must have shape {shape}, got {array.shape}")


def _nothing(x: np.ndarray) -> ValueError:
    return ValueError(f"x holds no example: its shape is {x.shape}; there is nothing to take a mean of")


def _every(figures: np.ndarray, count: int) -> np.ndarray:
    """The same row for each example."""
    return np.broadcast_to(figures, (count, *figures.shape))


def affine_forward(x: Any, w: Any, b: Any) -> tuple[np.ndarray, Cache]:
    """out = x as rows @ w + b."""
    x, w, b = floats(x, w, b)
    columns = math.prod(x.shape[1:])
    if w.ndim != 2 or len(w) != columns:
        raise ValueError(f"affine_forward: w must have shape ({columns}, M) for rows of x of {columns}, got {w.shape}")
    demand("affine_forward", "b", b, w.shape[1:])
    out = np.empty((len(x), w.shape[1]), np.result_type(x, w, b))
    reference.affine_forward(pictures(x), w[None, None], b, out)
    return out, (x, w, b)


def affine_backward(dout: Any, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx in the shape of x, dw, db."""
    (dout,), (x, w, b) = floats(dout), cache
    demand("affine_backward", "dout", dout, (len(x), w.shape[1]))
    dx, dw, db = np.empty(x.shape, np.result_type(dout, w)), np.empty_like(w), np.empty_like(b)
    reference.affine_backward_data(dout, w.T[None], pictures(dx))
    reference.affine_backward_weights(pictures(x), dout, len(w), dw[None, None], None)
    reference.add_slots(dout, db)
    return dx, dw, db


def relu_forward(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """out = max(x, 0); the cache is x."""
    (x,) = floats(x)
    out = np.empty_like(x)
    reference.relu_forward(x, out)
    return out, x


def relu_backward(dout: Any, cache: np.ndarray) -> np.ndarray:
    (dout,) = floats(dout)
    demand("relu_backward", "dout", dout, cache.shape)
    dx = np.empty_like(dout)
    reference.relu_backward(cache, dout, dx)
    return dx


def normalise_batch(x: np.ndarray, gamma: Any, beta: Any, bn_param: Params) -> tuple[np.ndarray, Cache | None]:
    """Batchnorm of x (example, row, column, channel); running figures are read from `bn_param` and left there."""
    gamma, beta = floats(gamma, beta)
    if len(x) == 0:
        raise _nothing(x[:, 0, 0])
    mode, eps, channels = bn_param["mode"], bn_param.get("eps", 1e-5), x.shape[3]
    running = {}
    for key in ("running_mean", "running_var"):
        running[key] = np.array(bn_param.get(key, np.zeros(channels, x.dtype)), dtype=x.dtype)
    for name, array in {"gamma": gamma, "beta": beta, **running}.items():
        demand("batchnorm", name, array, (channels,))
    mean, scale = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    if mode == "train":
        means, spreads = np.empty((len(x), channels), x.dtype), np.empty((len(x), channels), x.dtype)
        reference.channel_moments(x, means, spreads)
        places, momentum = x.shape[1] * x.shape[2], bn_param.get("momentum", 0.9)
        reference.batch_statistics(means, spreads, places, eps, momentum, *running.values(), mean, scale)
    elif mode == "test":
        reference.running_statistics(*running.values(), eps, mean, scale)
    else:
        raise ValueError(f'Invalid forward batchnorm mode "{mode}"')
    bn_param.update(running)
    mean, scale = _every(mean, len(x)), _every(scale, len(x))
    out = np.empty(x.shape, np.result_type(x, gamma, beta))
    reference.norm_forward(x, mean, scale, gamma, beta, 0, out)
    return out, (x, mean, scale, gamma, beta) if mode == "train" else None


def normalise_groups(x: np.ndarray, gamma: Any, beta: Any, groups: int, eps: float) -> tuple[np.ndarray, Cache]:
    """Groupnorm of x (example, row, column, channel)."""
    gamma, beta = floats(gamma, beta)
    for name, array in {"gamma": gamma, "beta": beta}.items():
        demand("layernorm" if groups == 1 else "groupnorm", name, array, (x.shape[3],))
    means, spreads, mean, scale = (np.empty((len(x), x.shape[3]), x.dtype) for _ in range(4))
    reference.channel_moments(x, means, spreads)
    reference.group_statistics(means, spreads, x.shape[1] * x.shape[2], groups, eps, mean, scale)
    out = np.empty(x.shape, np.result_type(x, gamma, beta))
    reference.norm_forward(x, mean, scale, gamma, beta, 0, out)
    return out, (x, mean, scale, gamma, beta, groups)


def _told(x: np.ndarray) -> tuple[int, ...]:
    """The shape of rows or pictures as people know it."""
    n, height, width, channels = x.shape
    return (n, channels) if height == width == 1 else (n, channels, height, width)


def norm_gradients(dout: np.ndarray, cache: Cache | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dgamma, dbeta of either."""
    if cache is None:
        raise ValueError('the cache is of mode "test", which has no gradient; run the forward pass in mode "train"')
    x, mean, scale, gamma, beta, *groups = cache
    count, places = len(x), x.shape[1] * x.shape[2]
    if dout.shape != x.shape:
        raise ValueError(f"dout must have the shape of x, {_told(x)}, got {_told(dout)}")
    kind = np.result_type(x, dout)
    sum_dy, sum_dy_xhat, mean_g, mean_g_xhat = (np.empty((count, x.shape[3]), kind) for _ in range(4))
    dgamma, dbeta, dx = np.empty_like(gamma), np.empty_like(beta), np.empty(x.shape, kind)
    reference.norm_sums(x, dout, mean, scale, gamma, beta, 0, sum_dy, sum_dy_xhat)
    reference.affine_gradients(sum_dy, sum_dy_xhat, gamma, dgamma, dbeta)
    if groups:
        reference.group_gradients(sum_dy, sum_dy_xhat, gamma, places, groups[0], mean_g, mean_g_xhat)
    else:
        reference.batch_gradients(dgamma, dbeta, gamma, count * places, mean_g[0], mean_g_xhat[0])
        mean_g, mean_g_xhat = _every(mean_g[0], count), _every(mean_g_xhat[0], count)
    reference.norm_backward(x, dout, mean, scale, gamma, beta, mean_g, mean_g_xhat, 0, dx)
    return dx, dgamma, dbeta


def batchnorm_forward(x: Any, gamma: Any, beta: Any, bn_param: Params) -> tuple[np.ndarray, Cache | None]:
    """Each column to mean 0 and variance 1, then gamma and beta. `bn_param` has mode "train" or "test", and may have
    eps 1e-5, momentum 0.9 (the share of the running figures that is kept), running_mean and running_var."""
    (x,) = floats(x)
    out, cache = normalise_batch(pictures(x), gamma, beta, bn_param)
    return out.reshape(x.shape), cache


def batchnorm_backward(dout: Any, cache: Cache | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dgamma, dbeta."""
    (dout,) = floats(dout)
    dx, dgamma, dbeta = norm_gradients(pictures(dout), cache)
    return dx.reshape(dout.shape), dgamma, dbeta


batchnorm_backward_alt = batchnorm_backward  # there is one way here, and it is the short one


def layernorm_forward(x: Any, gamma: Any, beta: Any, ln_param: Params) -> tuple[np.ndarray, Cache]:
    """Each row to mean 0 and variance 1, then gamma and beta; the same in training and outside."""
    (x,) = floats(x)
    out, cache = normalise_groups(pictures(x), gamma, beta, 1, ln_param.get("eps", 1e-5))
    return out.reshape(x.shape), cache


layernorm_backward = batchnorm_backward


def kept_share(dropout_param: Params) -> float:
    """The probability of keeping a number."""
    if "p" not in dropout_param:
        raise ValueError('dropout_param has no "p", the probability of keeping a number')
    p, meaning = np.asarray(dropout_param["p"]), dropout_param.get("p_means", "keep")
    if meaning not in ("keep", "drop"):
        raise ValueError(f'dropout_param["p_means"] must be "keep" or "drop", got {meaning!r}')
    if p.dtype.kind not in "fiub" or p.size != 1 or not 0 <= p <= 1:
        raise ValueError(f'dropout_param["p"] must be a number from 0 to 1, got {dropout_param["p"]!r}')
    return float(p.item() if meaning == "keep" else 1 - p.item())


def dropout_forward(x: Any, dropout_param: Params) -> tuple[np.ndarray, Cache]:
    """`dropout_param` has mode "train" or "test", p, and may have a seed.

    p is the probability of keeping a number, or with `"p_means": "drop"` that of dropping it; what is kept is divided
    by the probability of keeping. Random numbers come from NumPy's legacy generator as in the course, so published
    numbers reproduce.
    """
    (x,), mode = floats(x), dropout_param["mode"]
    if "seed" in dropout_param:
        np.random.seed(dropout_param["seed"])
    mask = None
    if mode == "train":
        keep = kept_share(dropout_param)
        mask = (np.random.rand(*x.shape) < keep) / (keep or 1.0)  # with 0 nothing is kept, and nothing divided by it
        out = x * mask
    elif mode == "test":
        out = x
    else:
        raise ValueError(f'Invalid forward dropout mode "{mode}"')
    return out.astype(x.dtype, copy=False), (dropout_param, mask)


def dropout_backward(dout: Any, cache: Cache) -> np.ndarray:
    (dout,), (dropout_param, mask) = floats(dout), cache
    if mask is not None:
        demand("dropout_backward", "dout", dout, mask.shape)
    return (dout * mask).astype(dout.dtype, copy=False) if dropout_param["mode"] == "train" else dout


def svm_loss(x: Any, y: Any) -> tuple[float, np.ndarray]:
    """The multiclass hinge loss with margin 1, mean over the examples, and its gradient."""
    return _loss(reference.svm_loss, x, y)


def softmax_loss(x: Any, y: Any) -> tuple[float, np.ndarray]:
    """The cross-entropy of the softmax of each row, mean over the examples, and its gradient."""
    return _loss(reference.softmax_loss, x, y, 0.0)


def _loss(kernel: Any, x: Any, y: Any, *settings: float) -> tuple[float, np.ndarray]:
    (x,), labels = floats(x), np.asarray(y)
    if labels.shape != (len(x),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"y must be {len(x)} whole numbers, one class for each row, got {labels.dtype} of shape {labels.shape}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < x.shape[1]:
        raise ValueError(f"y must lie in 0 ... {x.shape[1] - 1}, got {labels.min()} ... {labels.max()}")
    if len(x) == 0:
        raise _nothing(x)
    losses, dx = np.empty(len(x), x.dtype), np.empty_like(x)
    kernel(x, labels.astype(np.int64), *settings, losses, dx)
    return losses.mean(), dx
