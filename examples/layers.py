"""Layers and their gradients: each against centred differences, and the fast ones against the naive ones."""

# %% [markdown]
# # Layers and gradient checks
#
# Every layer is a forward and a backward function. A gradient is checked against centred differences, whose error
# falls with the square of the step.

# %%
import time

import common
import numpy as np

from nbnn import plots
from nbnn.course.conv_layers import (
    conv_backward_naive,
    conv_forward_naive,
    max_pool_backward_naive,
    max_pool_forward_naive,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
    spatial_groupnorm_backward,
    spatial_groupnorm_forward,
)
from nbnn.course.fast_layers import (
    conv_backward_fast,
    conv_forward_fast,
    max_pool_backward_fast,
    max_pool_forward_fast,
)
from nbnn.course.gradient_check import eval_numerical_gradient_array, rel_error
from nbnn.course.layers import (
    affine_backward,
    affine_forward,
    batchnorm_backward,
    batchnorm_forward,
    dropout_backward,
    dropout_forward,
    layernorm_backward,
    layernorm_forward,
    relu_backward,
    relu_forward,
)

run = common.Run("layers", __doc__)
rng = np.random.default_rng(231)

# %% [markdown]
# ## A gradient against differences
#
# The error of a one-sided difference falls with the step h, that of a centred one with its square, until rounding takes
# over.

# %%
x = rng.standard_normal(1000)
steps = np.logspace(-8, -1, 22)
exact = np.cos(x)
errors = {"one-sided": [], "centred": []}
for h in steps:
    errors["one-sided"].append(np.abs((np.sin(x + h) - np.sin(x)) / h - exact).mean())
    errors["centred"].append(np.abs((np.sin(x + h) - np.sin(x - h)) / (2 * h) - exact).mean())
run.figure(
    plots.lines(
        {name: (steps, values) for name, values in errors.items()},
        run.out / "differences.png",
        title="Derivative of the sine by differences",
        x="step h",
        y="mean error",
        log="xy",
    )
)

# %% [markdown]
# ## All layers

# %%
conv_param, pool_param = {"stride": 1, "pad": 1}, {"pool_height": 2, "pool_width": 2, "stride": 2}


def check(name, forward, backward, arrays, *settings):
    """Print the largest relative error of each gradient."""
    out, cache = forward(*arrays, *settings)
    dout = rng.standard_normal(out.shape)
    found = backward(dout, cache)
    found = found if isinstance(found, tuple) else (found,)
    worst = []
    for place, gradient in enumerate(found):

        def moved(changed, place=place):
            return forward(*arrays[:place], changed, *arrays[place + 1 :], *settings)[0]

        worst.append(rel_error(eval_numerical_gradient_array(moved, arrays[place], dout), gradient))
    print(f"{name:18} " + "  ".join(f"{error:.1e}" for error in worst))
    assert max(worst) < 1e-5


def drawn(*shape):
    return rng.standard_normal(shape)


print("largest relative errors of dx, dw, db ...")
check("affine", affine_forward, affine_backward, (drawn(10, 2, 3), drawn(6, 5), drawn(5)))
check("relu", relu_forward, relu_backward, (drawn(10, 10),))
check("batchnorm", batchnorm_forward, batchnorm_backward, (drawn(8, 5), drawn(5), drawn(5)), {"mode": "train"})
check("layernorm", layernorm_forward, layernorm_backward, (drawn(4, 5), drawn(5), drawn(5)), {})
pictures = drawn(2, 3, 5, 5), drawn(2, 3, 3, 3), drawn(2)
check("convolution", conv_forward_naive, conv_backward_naive, pictures, conv_param)
check("convolution, fast", conv_forward_fast, conv_backward_fast, pictures, conv_param)
check("max pool", max_pool_forward_naive, max_pool_backward_naive, (drawn(2, 3, 6, 6),), pool_param)
check("max pool, fast", max_pool_forward_fast, max_pool_backward_fast, (drawn(2, 3, 6, 6),), pool_param)
norms = drawn(2, 3, 4, 5), drawn(3), drawn(3)
check("spatial batchnorm", spatial_batchnorm_forward, spatial_batchnorm_backward, norms, {"mode": "train"})
groups = drawn(2, 6, 4, 5), drawn(1, 6, 1, 1), drawn(1, 6, 1, 1)
check("spatial groupnorm", spatial_groupnorm_forward, spatial_groupnorm_backward, groups, 3, {})
dropped = {"mode": "train", "p": 0.8, "seed": 123}  # with a seed the same numbers each time
check("dropout", dropout_forward, dropout_backward, (drawn(10, 10),), dropped)

# %% [markdown]
# ## Fast and naive
#
# The naive functions are the reference kernels: NumPy, as plain as the equations. The fast ones run compiled on all
# cores. The first call compiles; no later one does, whatever its shape.

# %%
count = 10 if run.small else 100


def timed(call):
    call()
    begun = time.perf_counter()
    found = call()
    return time.perf_counter() - begun, found


def race(name, naive, fast):
    slow, wanted = timed(naive)
    quick, found = timed(fast)
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    error = max(rel_error(a, b) for a, b in pairs if isinstance(a, np.ndarray))
    print(f"{name:22} naive {slow * 1e3:8.2f} ms  fast {quick * 1e3:6.2f} ms  {slow / quick:6.1f} times  {error:.0e}")


x, w, b = drawn(count, 3, 31, 31), drawn(25, 3, 3, 3), drawn(25)
strided = {"stride": 2, "pad": 1}
out, cache = conv_forward_naive(x, w, b, strided)
race(
    "convolution",
    lambda: conv_forward_naive(x, w, b, strided)[0],
    lambda: conv_forward_fast(x, w, b, strided)[0],
)
race("convolution, backward", lambda: conv_backward_naive(out, cache), lambda: conv_backward_fast(out, cache))
x = drawn(count, 3, 32, 32)
out, cache = max_pool_forward_naive(x, pool_param)
race(
    "max pool",
    lambda: max_pool_forward_naive(x, pool_param)[0],
    lambda: max_pool_forward_fast(x, pool_param)[0],
)
race("max pool, backward", lambda: max_pool_backward_naive(out, cache), lambda: max_pool_backward_fast(out, cache))
