"""Functions of one number, applied to every element: y = f(x), dx = dy * f'(x). A NaN stays a NaN."""

import numpy as np

from nbnn.kernels.constants import GELU_CUBE, GELU_SCALE

_overflow_is_meant = np.errstate(
    over="ignore", invalid="ignore"
)  # exp(-x) may be infinite where 1 / (1 + exp(-x)) is 0


def relu_forward(x, y):
    y[...] = np.where(x <= 0, 0, x)


def relu_backward(y, dy, dx):
    dx[...] = np.where(y <= 0, 0, dy)


def leaky_relu_forward(x, slope, y):
    y[...] = np.where(x <= 0, slope * x, x)


def leaky_relu_backward(x, dy, slope, dx):
    dx[...] = np.where(x <= 0, slope * dy, dy)


@_overflow_is_meant
def _logistic(x):
    return 1 / (1 + np.exp(-x))


def sigmoid_forward(x, y):
    y[...] = _logistic(x)


def sigmoid_backward(y, dy, dx):
    dx[...] = dy * y * (1 - y)


def tanh_forward(x, y):
    y[...] = np.tanh(x)


def tanh_backward(y, dy, dx):
    dx[...] = dy * (1 - y * y)


def _gelu_tanh(x):
    return np.tanh(GELU_SCALE * (x + GELU_CUBE * x**3))


@_overflow_is_meant
def gelu_forward(x, y):
    """y = x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3)))."""
    y[...] = x / 2 * (1 + _gelu_tanh(x))


@_overflow_is_meant
def gelu_backward(x, dy, dx):
    """dx = dy / 2 * (1 + t + x * (1 - t*t) * sqrt(2/pi) * (1 + 3 * 0.044715 x**2)), t the tanh of the forward pass."""
    t = _gelu_tanh(x)
    bend = x * (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBE * x * x)
    dx[...] = dy / 2 * (1 + t + np.where(np.abs(x) > 20, 0, bend))  # far out t is +-1, and x * x may be infinite


def silu_forward(x, y):
    y[...] = x * _logistic(x)


def silu_backward(x, dy, dx):
    """dx = dy * s * (1 + x * (1 - s)), s = 1 / (1 + exp(-x))."""
    s = _logistic(x)
    dx[...] = dy * s * (1 + x * (1 - s))
