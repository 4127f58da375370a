"""The course's convolution and pool on the jitted kernels, over all threads. Nothing is built; a new shape costs no
compilation."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.conv_layers import conv_node, pool_node
from nbnn.course.row_layers import Cache, Params, floats
from nbnn.eager import Eager
from nbnn.op import Op

__all__ = [
    "conv_backward_fast",
    "conv_backward_im2col",
    "conv_backward_strides",
    "conv_forward_fast",
    "conv_forward_im2col",
    "conv_forward_strides",
    "max_pool_backward_fast",
    "max_pool_backward_im2col",
    "max_pool_backward_reshape",
    "max_pool_forward_fast",
    "max_pool_forward_im2col",
    "max_pool_forward_reshape",
]


def _eager(op: Op, *arrays: np.ndarray) -> Eager:
    """For the first of these arrays as input, in float64 if one of them is."""
    dtype = "float64" if np.result_type(*arrays) == np.float64 else "float32"
    return Eager(op, arrays[0].shape[1:], dtype)


def conv_forward_fast(x: Any, w: Any, b: Any, conv_param: Params) -> tuple[np.ndarray, Cache]:
    """Filters w (F, C, HH, WW) over x; `conv_param` has stride and pad."""
    x, w, b = floats(x, w, b)
    out = _eager(conv_node(x, w, conv_param), x, w, b).forward(x, w=w, b=b)
    return out, (x, w, b, conv_param)


def conv_backward_fast(dout: Any, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw, db."""
    (dout,), (x, w, b, conv_param) = floats(dout), cache
    grads = _eager(conv_node(x, w, conv_param), x, w, dout).backward(x, dout, w=w, b=b)
    kinds = {"dx": np.result_type(dout, w), "dw": w.dtype, "db": b.dtype}
    dx, dw, db = (grads[name].astype(kind, copy=False) for name, kind in kinds.items())
    return dx, dw, db


def max_pool_forward_fast(x: Any, pool_param: Params) -> tuple[np.ndarray, Cache]:
    """The maximum of each window; `pool_param` has pool_height, pool_width and stride."""
    (x,) = floats(x)
    return _eager(pool_node(x, pool_param), x).forward(x), (x, pool_param)


def max_pool_backward_fast(dout: Any, cache: Cache) -> np.ndarray:
    """dx: the first maximum of each window gets its gradient."""
    (dout,), (x, pool_param) = floats(dout), cache
    return _eager(pool_node(x, pool_param), x, dout).backward(x, dout)["dx"].astype(dout.dtype, copy=False)


# The course has several ways to the same results; here there is one.
conv_forward_im2col = conv_forward_strides = conv_forward_fast
conv_backward_im2col = conv_backward_strides = conv_backward_fast
max_pool_forward_im2col = max_pool_forward_reshape = max_pool_forward_fast
max_pool_backward_im2col = max_pool_backward_reshape = max_pool_backward_fast
