"""Functions of one number, applied to every element: y[n, i, j, c] = f(x[n, i, j, c]) and dx = dy * f'(x).

Each worker owns whole examples. The room behind the channels is computed along: f may leave anything there, while
gradients keep the zeros that they bring. A NaN stays a NaN, which is why relu asks `x <= 0` and keeps x otherwise.
"""

import math

from nbnn.kernels.arrays import row_length
from nbnn.kernels.constants import GELU_CUBE, GELU_SCALE
from nbnn.kernels.exp import exp, expm1
from nbnn.kernels.jit import Array4, inlined, kernel, step
from nbnn.kernels.simd import absolute, fill, lanes, load, pointer, select, store


def forward_rows(f):
    """The loop y = f(x, setting). (A function is closed over and not passed: Numba cannot keep code that takes
    functions.)"""

    @inlined
    def rows(x, setting, y, first, last):
        for n in range(first, last):
            for i in range(x.shape[1]):
                xp = pointer(x) + (n * step(x, 0) + i * step(x, 1))
                yp = pointer(y) + (n * step(y, 0) + i * step(y, 1))
                for e in range(0, row_length(y), lanes(y)):
                    store(yp, e, f(load(xp, e), setting))

    return rows


def backward_rows(f):
    """The loop dx = f(x, dy, setting); x is the input or the output of the op, whichever the derivative is simpler
    in."""

    @inlined
    def rows(x, dy, setting, dx, first, last):
        for n in range(first, last):
            for i in range(x.shape[1]):
                xp = pointer(x) + (n * step(x, 0) + i * step(x, 1))
                dyp = pointer(dy) + (n * step(dy, 0) + i * step(dy, 1))
                dxp = pointer(dx) + (n * step(dx, 0) + i * step(dx, 1))
                for e in range(0, row_length(dx), lanes(dx)):
                    store(dxp, e, f(load(xp, e), load(dyp, e), setting))

    return rows


@inlined
def floor(x, rectify):
    """What a relu raises smaller numbers to: 0, or a NaN, below which is nothing, where there is no relu."""
    return fill(x, 0.0 if rectify != 0 else math.nan)


@forward_rows
@inlined
def _relu(x, zero):
    return select(x <= zero, zero, x)


@backward_rows
@inlined
def _relu_slope(y, dy, zero):
    return select(y <= zero, zero, dy)


@kernel(each="x", over="x")
def relu_forward(x: Array4, y: Array4, first: int, last: int):
    """y = max(x, 0)."""
    _relu(x, fill(x, 0.0), y, first, last)


@kernel(each="y", over="dy")
def relu_backward(y: Array4, dy: Array4, dx: Array4, first: int, last: int):
    """dx = dy where y > 0, else 0."""
    _relu_slope(y, dy, fill(y, 0.0), dx, first, last)


@forward_rows
@inlined
def _leaky(x, slope):
    return select(x <= slope * 0.0, x * slope, x)


@backward_rows
@inlined
def _leaky_slope(x, dy, slope):
    return select(x <= slope * 0.0, dy * slope, dy)


@kernel(each="x", over="x")
def leaky_relu_forward(x: Array4, slope: float, y: Array4, first: int, last: int):
    """y = x where x > 0, else slope * x."""
    _leaky(x, fill(x, slope), y, first, last)


@kernel(each="x", over="dy")
def leaky_relu_backward(x: Array4, dy: Array4, slope: float, dx: Array4, first: int, last: int):
    """dx = dy where x > 0, else slope * dy."""
    _leaky_slope(x, dy, fill(x, slope), dx, first, last)


@inlined
def logistic(x):
    return 1.0 / (exp(-x) + 1.0)


@forward_rows
@inlined
def _sigmoid(x, _):
    return logistic(x)


@backward_rows
@inlined
def _sigmoid_slope(y, dy, _):
    return dy * (y * (1.0 - y))


@kernel(each="x", intensity=4, over="x")
def sigmoid_forward(x: Array4, y: Array4, first: int, last: int):
    """y = 1 / (1 + exp(-x))."""
    _sigmoid(x, fill(x, 0.0), y, first, last)


@kernel(each="y", over="dy")
def sigmoid_backward(y: Array4, dy: Array4, dx: Array4, first: int, last: int):
    """dx = dy * y * (1 - y)."""
    _sigmoid_slope(y, dy, fill(y, 0.0), dx, first, last)


@inlined
def hyperbolic_tangent(x):
    e = expm1(x + x)  # tanh x = (exp(2x) - 1) / (exp(2x) + 1), and no digit is lost near 0
    return e / (e + 2.0)


@forward_rows
@inlined
def _tanh(x, _):
    return hyperbolic_tangent(x)


@backward_rows
@inlined
def _tanh_slope(y, dy, _):
    return dy * (1.0 - y * y)


@kernel(each="x", intensity=4, over="x")
def tanh_forward(x: Array4, y: Array4, first: int, last: int):
    """y = tanh(x)."""
    _tanh(x, fill(x, 0.0), y, first, last)


@kernel(each="y", over="dy")
def tanh_backward(y: Array4, dy: Array4, dx: Array4, first: int, last: int):
    """dx = dy * (1 - y * y)."""
    _tanh_slope(y, dy, fill(y, 0.0), dx, first, last)


@forward_rows
@inlined
def _gelu(x, half):
    return half * x * (hyperbolic_tangent(GELU_SCALE * (x + GELU_CUBE * x * x * x)) + 1.0)


@backward_rows
@inlined
def _gelu_slope(x, dy, half):
    t = hyperbolic_tangent(GELU_SCALE * (x + GELU_CUBE * x * x * x))
    bend = x * (1.0 - t * t) * (GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x))
    bend = select(absolute(x) > half * 40.0, half * 0.0, bend)  # there t is 1 and x * x may be infinite
    return dy * (half * (1.0 + t + bend))


@kernel(each="x", intensity=4, over="x")
def gelu_forward(x: Array4, y: Array4, first: int, last: int):
    """y = x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3)))."""
    _gelu(x, fill(x, 0.5), y, first, last)


@kernel(each="x", intensity=4, over="dy")
def gelu_backward(x: Array4, dy: Array4, dx: Array4, first: int, last: int):
    """dx = dy / 2 * (1 + t + x * (1 - t*t) * sqrt(2/pi) * (1 + 3 * 0.044715 x**2)), t the tanh of the forward pass."""
    _gelu_slope(x, dy, fill(x, 0.5), dx, first, last)


@forward_rows
@inlined
def _silu(x, _):
    return x * logistic(x)


@backward_rows
@inlined
def _silu_slope(x, dy, _):
    s = logistic(x)
    return dy * (s * (1.0 + x * (1.0 - s)))


@kernel(each="x", intensity=4, over="x")
def silu_forward(x: Array4, y: Array4, first: int, last: int):
    """y = x / (1 + exp(-x))."""
    _silu(x, fill(x, 0.0), y, first, last)


@kernel(each="x", intensity=4, over="dy")
def silu_backward(x: Array4, dy: Array4, dx: Array4, first: int, last: int):
    """dx = dy * s * (1 + x * (1 - s)), s = 1 / (1 + exp(-x))."""
    _silu_slope(x, dy, fill(x, 0.0), dx, first, last)
