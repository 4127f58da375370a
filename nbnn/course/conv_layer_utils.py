"""Layers of pictures that usually follow each other, joined."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.conv_layers import spatial_batchnorm_backward, spatial_batchnorm_forward
from nbnn.course.fast_layers import (
    conv_backward_fast,
    conv_forward_fast,
    max_pool_backward_fast,
    max_pool_forward_fast,
)
from nbnn.course.row_layers import Cache, Params, relu_backward, relu_forward

__all__ = [
    "conv_bn_relu_backward",
    "conv_bn_relu_forward",
    "conv_relu_backward",
    "conv_relu_forward",
    "conv_relu_pool_backward",
    "conv_relu_pool_forward",
]

Gradients = tuple[np.ndarray, ...]


def conv_relu_forward(x: Any, w: Any, b: Any, conv_param: Params) -> tuple[np.ndarray, Cache]:
    """relu(conv(x))."""
    out, conv_cache = conv_forward_fast(x, w, b, conv_param)
    out, relu_cache = relu_forward(out)
    return out, (conv_cache, relu_cache)


def conv_relu_backward(dout: Any, cache: Cache) -> Gradients:
    """dx, dw, db."""
    conv_cache, relu_cache = cache
    return conv_backward_fast(relu_backward(dout, relu_cache), conv_cache)


def conv_bn_relu_forward(
    x: Any, w: Any, b: Any, gamma: Any, beta: Any, conv_param: Params, bn_param: Params
) -> tuple[np.ndarray, Cache]:
    """relu(spatial batchnorm(conv(x)))."""
    out, conv_cache = conv_forward_fast(x, w, b, conv_param)
    out, bn_cache = spatial_batchnorm_forward(out, gamma, beta, bn_param)
    out, relu_cache = relu_forward(out)
    return out, (conv_cache, bn_cache, relu_cache)


def conv_bn_relu_backward(dout: Any, cache: Cache) -> Gradients:
    """dx, dw, db, dgamma, dbeta."""
    conv_cache, bn_cache, relu_cache = cache
    dout, dgamma, dbeta = spatial_batchnorm_backward(relu_backward(dout, relu_cache), bn_cache)
    return (*conv_backward_fast(dout, conv_cache), dgamma, dbeta)


def conv_relu_pool_forward(x: Any, w: Any, b: Any, conv_param: Params, pool_param: Params) -> tuple[np.ndarray, Cache]:
    """max pool(relu(conv(x)))."""
    out, (conv_cache, relu_cache) = conv_relu_forward(x, w, b, conv_param)
    out, pool_cache = max_pool_forward_fast(out, pool_param)
    return out, (conv_cache, relu_cache, pool_cache)


def conv_relu_pool_backward(dout: Any, cache: Cache) -> Gradients:
    """dx, dw, db."""
    conv_cache, relu_cache, pool_cache = cache
    return conv_relu_backward(max_pool_backward_fast(dout, pool_cache), (conv_cache, relu_cache))
