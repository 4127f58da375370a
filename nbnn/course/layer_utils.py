"""Layers of the course that usually follow each other, joined: those of rows, and as CS231n has them here too, those of
pictures (`conv_layer_utils`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.conv_layer_utils import (
    conv_bn_relu_backward,
    conv_bn_relu_forward,
    conv_relu_backward,
    conv_relu_forward,
    conv_relu_pool_backward,
    conv_relu_pool_forward,
)
from nbnn.course.row_layers import (
    Cache,
    Params,
    affine_backward,
    affine_forward,
    batchnorm_backward,
    batchnorm_forward,
    dropout_backward,
    dropout_forward,
    layernorm_forward,
    relu_backward,
    relu_forward,
)

__all__ = [
    "affine_batchnorm_relu_backward",
    "affine_batchnorm_relu_forward",
    "affine_relu_backward",
    "affine_relu_forward",
    "conv_bn_relu_backward",
    "conv_bn_relu_forward",
    "conv_relu_backward",
    "conv_relu_forward",
    "conv_relu_pool_backward",
    "conv_relu_pool_forward",
    "generic_backward",
    "generic_forward",
]

Gradients = tuple[np.ndarray | None, ...]


def affine_relu_forward(x: Any, w: Any, b: Any) -> tuple[np.ndarray, Cache]:
    """relu(affine(x))."""
    out, fc_cache = affine_forward(x, w, b)
    out, relu_cache = relu_forward(out)
    return out, (fc_cache, relu_cache)


def affine_relu_backward(dout: Any, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw, db."""
    fc_cache, relu_cache = cache
    return affine_backward(relu_backward(dout, relu_cache), fc_cache)


def affine_batchnorm_relu_forward(
    x: Any, w: Any, b: Any, gamma: Any, beta: Any, bn_param: Params
) -> tuple[np.ndarray, Cache]:
    """relu(batchnorm(affine(x)))."""
    return generic_forward(x, w, b, gamma, beta, bn_param)


def affine_batchnorm_relu_backward(dout: Any, cache: Cache) -> Gradients:
    """dx, dw, db, dgamma, dbeta."""
    return generic_backward(dout, cache)


def generic_forward(
    x: Any,
    w: Any,
    b: Any,
    gamma: Any = None,
    beta: Any = None,
    bn_param: Params | None = None,
    dropout_param: Params | None = None,
    last: bool = False,
) -> tuple[np.ndarray, Cache]:
    """affine, then unless it is the last layer: norm where there is a `bn_param` (batchnorm where that has a mode, else
    layernorm), relu, dropout where there is a `dropout_param`."""
    out, fc_cache = affine_forward(x, w, b)
    norm_cache = relu_cache = dropout_cache = None
    if not last:
        if bn_param is not None:
            norm = batchnorm_forward if "mode" in bn_param else layernorm_forward
            out, norm_cache = norm(out, gamma, beta, bn_param)
        out, relu_cache = relu_forward(out)
        if dropout_param is not None:
            out, dropout_cache = dropout_forward(out, dropout_param)
    return out, (fc_cache, norm_cache, relu_cache, dropout_cache)


def generic_backward(dout: Any, cache: Cache) -> Gradients:
    """dx, dw, db, dgamma, dbeta; the last two are None where there was no norm."""
    fc_cache, norm_cache, relu_cache, dropout_cache = cache
    dgamma = dbeta = None
    if dropout_cache is not None:
        dout = dropout_backward(dout, dropout_cache)
    if relu_cache is not None:
        dout = relu_backward(dout, relu_cache)
    if norm_cache is not None:
        dout, dgamma, dbeta = batchnorm_backward(dout, norm_cache)  # which is layernorm's as well
    return (*affine_backward(dout, fc_cache), dgamma, dbeta)
