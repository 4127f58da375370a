"""The course's layers for pictures (example, channel, row, column), as thin words over the reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.row_layers import Cache, Params, demand, floats, norm_gradients, normalise_batch, normalise_groups
from nbnn.kernels import reference
from nbnn.ops import Conv, MaxPool

__all__ = [
    "conv_backward_naive",
    "conv_forward_naive",
    "max_pool_backward_naive",
    "max_pool_forward_naive",
    "spatial_batchnorm_backward",
    "spatial_batchnorm_forward",
    "spatial_groupnorm_backward",
    "spatial_groupnorm_forward",
]


def channels_last(x: np.ndarray) -> np.ndarray:
    """(example, channel, row, column) as the kernels see it: channels last."""
    if x.ndim != 4:
        raise ValueError(f"pictures must have shape (N, C, H, W), got {x.shape}")
    return x.transpose(0, 2, 3, 1)


def channels_first(x: np.ndarray) -> np.ndarray:
    """The opposite, in memory of its own."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def conv_node(x: np.ndarray, w: np.ndarray, conv_param: Params) -> Conv:
    """The op with these settings. A pad of 3.0, as (7 - 1) / 2 gives, is 3."""
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"convolution wants x (N, C, H, W) and w (F, C, HH, WW) with the same C, got {x.shape} and {w.shape}"
        )
    return Conv(len(w), (w.shape[2], w.shape[3]), stride=conv_param["stride"], pad=conv_param["pad"])


def _padded(x: np.ndarray, pad: int) -> np.ndarray:
    return np.pad(channels_last(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def conv_forward_naive(x: Any, w: Any, b: Any, conv_param: Params) -> tuple[np.ndarray, Cache]:
    """Filters w (F, C, HH, WW) over x; `conv_param` has stride and pad."""
    x, w, b = floats(x, w, b)
    node = conv_node(x, w, conv_param)
    demand("conv_forward_naive", "b", b, (len(w),))
    filters, height, width = node.shape(x.shape[1:])
    out = np.empty((len(x), height, width, filters), np.result_type(x, w, b))
    reference.conv_forward(_padded(x, node.pad), w.transpose(2, 3, 1, 0), b, node.stride, 1, out)
    return channels_first(out), (x, w, b, conv_param)


def conv_backward_naive(dout: Any, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw, db."""
    (dout,), (x, w, b, conv_param) = floats(dout), cache
    node, dy = conv_node(x, w, conv_param), channels_last(dout)
    demand("conv_backward_naive", "dout", dout, (len(x), *node.shape(x.shape[1:])))
    dx = np.empty(channels_last(x).shape, np.result_type(dout, w))
    reference.conv_backward_data(dy, w.transpose(2, 3, 0, 1), node.stride, 1, node.pad, 0, dx)
    dw, db = np.empty((1, *w.transpose(2, 3, 1, 0).shape), w.dtype), np.empty((1, *b.shape), b.dtype)
    reference.conv_backward_weights(_padded(x, node.pad), dy, node.stride, 1, dw, db)
    return channels_first(dx), np.ascontiguousarray(dw[0].transpose(3, 2, 0, 1)), db[0]


def pool_node(x: np.ndarray, pool_param: Params) -> MaxPool:
    """The op with these settings."""
    if x.ndim != 4:
        raise ValueError(f"max pooling wants x (N, C, H, W), got {x.shape}")
    return MaxPool((pool_param["pool_height"], pool_param["pool_width"]), stride=pool_param["stride"])


def _pooled(x: np.ndarray, node: MaxPool) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of each window and its place there."""
    channels, height, width = node.shape(x.shape[1:])
    out, places = np.empty((2, len(x), height, width, channels), x.dtype)
    reference.max_pool_forward(channels_last(x), *node.window, node.hop, 0, 0, out, places)
    return out, places


def max_pool_forward_naive(x: Any, pool_param: Params) -> tuple[np.ndarray, Cache]:
    """The maximum of each window; `pool_param` has pool_height, pool_width and stride."""
    (x,) = floats(x)
    return channels_first(_pooled(x, pool_node(x, pool_param))[0]), (x, pool_param)


def max_pool_backward_naive(dout: Any, cache: Cache) -> np.ndarray:
    """dx: the first maximum of each window gets its gradient."""
    (dout,), (x, pool_param) = floats(dout), cache
    node = pool_node(x, pool_param)
    demand("max_pool_backward_naive", "dout", dout, (len(x), *node.shape(x.shape[1:])))
    dx = np.empty(channels_last(x).shape, dout.dtype)
    reference.max_pool_backward(_pooled(x, node)[1], channels_last(dout), *node.window, node.hop, 0, dx)
    return channels_first(dx)


def spatial_batchnorm_forward(x: Any, gamma: Any, beta: Any, bn_param: Params) -> tuple[np.ndarray, Cache | None]:
    """Batchnorm over examples and places of each channel; see `layers.batchnorm_forward`."""
    (x,) = floats(x)
    out, cache = normalise_batch(channels_last(x), gamma, beta, bn_param)
    return channels_first(out), cache


def spatial_batchnorm_backward(dout: Any, cache: Cache | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dgamma, dbeta."""
    (dout,) = floats(dout)
    dx, dgamma, dbeta = norm_gradients(channels_last(dout), cache)
    return channels_first(dx), dgamma, dbeta


def spatial_groupnorm_forward(x: Any, gamma: Any, beta: Any, G: int, gn_param: Params) -> tuple[np.ndarray, Cache]:
    """Each of G groups of channels of one example to mean 0 and variance 1; gamma and beta are (1, C, 1, 1)."""
    (x,) = floats(x)
    gamma, beta = (np.reshape(a, -1) for a in floats(gamma, beta))
    if x.shape[1] % G:
        raise ValueError(f"{x.shape[1]} channels do not divide into {G} groups; choose a G that divides them")
    out, cache = normalise_groups(channels_last(x), gamma, beta, G, gn_param.get("eps", 1e-5))
    return channels_first(out), cache


def spatial_groupnorm_backward(dout: Any, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, and dgamma and dbeta as (1, C, 1, 1)."""
    (dout,) = floats(dout)
    dx, dgamma, dbeta = norm_gradients(channels_last(dout), cache)
    return channels_first(dx), dgamma.reshape(1, -1, 1, 1), dbeta.reshape(1, -1, 1, 1)
