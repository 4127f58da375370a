"""Ops at once, without a step: they are what the reference says, and their gradients those of differences."""

import numpy as np
import pytest

import nbnn
from nbnn import GELU, Affine, AvgPool, Conv, Flatten, GlobalAvgPool, MaxPool, ReLU, Tanh
from nbnn.eager import Eager

OPS = {
    "a first convolution": (Conv(5, 3, stride=2, pad=1), (3, 9, 8)),
    "a convolution": (Conv(20, 5, pad=1), (9, 9, 8)),
    "Winograd's": (Conv(20, 3, pad=1), (17, 12, 9)),
    "by halves": (Conv(20, 5, pad=1), (9, 14, 14)),
    "by halves, but not to the input": (Conv(20, 7, pad=3), (3, 8, 8)),
    "by rows of places": (Conv(5, (5, 4), pad=1), (1, 9, 20)),
    "dilated, oblong, in groups": (Conv(8, (3, 2), dilation=2, groups=2, pad=2), (4, 9, 8)),
    "affine on pictures": (Affine(7), (3, 4, 5)),
    "affine on wide pictures": (Affine(7), (9, 4, 5)),
    "affine on vectors": (Affine(33), (18,)),
    "max pool": (MaxPool(2), (3, 7, 6)),
    "max pool, overlapping": (MaxPool((3, 2), stride=2, pad=1), (17, 7, 6)),
    "average pool": (AvgPool(3, stride=2), (5, 7, 7)),
    "the mean of all": (GlobalAvgPool(), (5, 3, 4)),
    "relu": (ReLU(), (5, 3, 4)),
    "gelu": (GELU(), (5, 3, 4)),
    "tanh of vectors": (Tanh(), (37,)),
    "flatten": (Flatten(), (5, 3, 4)),
}


def given(op, shape, count=6):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(a.shape) for name, a in op.params(shape).items()}
    return rng.standard_normal((count, *shape)), arrays


@pytest.mark.parametrize("name", OPS)
def test_forward_is_the_reference_s(name):
    op, shape = OPS[name]
    x, arrays = given(op, shape)
    reference = nbnn.compile(nbnn.Graph([op], input=shape, loss=None), dtype="float64", backend="numpy")
    for local, value in arrays.items():
        reference.params[next(n for n in reference.params if n.endswith(f".{local}"))] = value
    wanted = reference.loss(x)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        found = Eager(op, shape, dtype).forward(x.astype(dtype), **arrays)
        assert found.dtype == dtype and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", OPS)
def test_gradients_are_those_of_differences(name):
    op, shape = OPS[name]
    x, arrays = given(op, shape)
    run, rng = Eager(op, shape, "float64"), np.random.default_rng(1)
    dy = rng.standard_normal((len(x), *run.out))
    grads = run.backward(x, dy, **arrays)
    places = {"dx": x, **{f"d{local}": value for local, value in arrays.items()}}
    assert set(grads) == set(places)
    for key, value in places.items():
        assert grads[key].shape == value.shape
        way, h = rng.standard_normal(value.shape), 1e-6
        sums = []
        for sign in (1, -1):
            moved = {"dx": x, **{f"d{local}": v for local, v in arrays.items()}}
            moved[key] = value + sign * h * way
            y = run.forward(moved.pop("dx"), **{k[1:]: v for k, v in moved.items()})
            sums.append((y * dy).sum())
        wanted = (sums[0] - sums[1]) / (2 * h)
        assert abs(wanted - (grads[key] * way).sum()) < 1e-6 * max(1, abs(wanted)), key


def test_threads_change_no_bit_and_uint8_is_read():
    import numba

    op, shape = Conv(33, 3, pad=1), (16, 20, 20)
    x, arrays = given(op, shape, count=64)
    x = (40 * x + 128).clip(0, 255).astype(np.uint8)
    run, found = Eager(op, shape, "float32"), []
    for threads in (numba.config.NUMBA_NUM_THREADS, 1):
        numba.set_num_threads(threads)
        y = run.forward(x, **arrays)
        found.append((y.tobytes(), run.backward(x, y, **arrays)["dw"].tobytes()))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert found[0] == found[1]
    np.testing.assert_allclose(y, run.forward(x.astype(np.float32), **arrays))
