"""Convolution of one channel by rows of places beside the direct one: which take it, the same numbers and errors."""

import numpy as np
import pytest
from test_halves import three_runs
from test_winograd import both_ways, demand_agreement, demand_the_same_training, demand_way, relative_rms

from nbnn import Affine, Conv, MaxPool, ReLU, Scale
from nbnn.eager import Eager
from nbnn.plane import PlaneConv

CHOSEN = [
    ("lenet's first layer", Conv(6, 5), (1, 28, 28), True),
    ("padding, one filter", Conv(1, 5, pad=2), (1, 9, 16), True),
    ("an oblong window, dilated", Conv(4, (2, 8), dilation=2), (1, 9, 40), True),
    ("two channels", Conv(6, 5), (2, 28, 28), False),
    ("more filters than a tile has rows", Conv(7, 5), (1, 28, 28), False),
    ("rows shorter than a register", Conv(6, 5), (1, 28, 19), False),
    ("few cells", Conv(6, 3), (1, 28, 28), False),
    ("many cells", Conv(6, (16, 32)), (1, 60, 60), True),
    ("too many cells", Conv(6, (16, 33)), (1, 60, 60), False),
    ("a large picture", Conv(6, 5, pad=2), (1, 1020, 1020), True),
    ("too large a picture", Conv(6, 5, pad=2), (1, 1020, 1021), False),
    ("a stride", Conv(6, 5, stride=2), (1, 60, 60), False),
]


@pytest.mark.parametrize(("conv", "shape", "wanted"), [pytest.param(*row[1:], id=row[0]) for row in CHOSEN])
def test_which_convolutions_go_this_way(conv, shape, wanted):
    demand_way(conv, shape, "plane", wanted)


# a first layer, and one whose picture has room behind its channel and which is asked for the gradient of its input
@pytest.mark.parametrize("before", [[], [Scale()], [Conv(1, 3, pad=1, bias=False)]])
@pytest.mark.parametrize(("filters", "window", "pad"), [(6, 5, 0), (3, (4, 6), 3), (1, 4, 1)])
def test_both_ways_agree(before, filters, window, pad):
    rng = np.random.default_rng(0)
    nodes = [*before, Conv(filters, window, pad=pad, bias=pad != 1), Affine(3)]
    models = both_ways(nodes, (1, 10, 24), dtype="float64")
    assert "conv_forward_plane" in models[0].source()
    for count in (1, 5):
        x, y = rng.standard_normal((count, 1, 10, 24)), rng.standard_normal((count, 3))
        demand_agreement(models, x, y)
        assert models[0].loss(x, y)[0] == models[1].loss(x, y)[0]  # the same sums in the same order
        np.testing.assert_array_equal(models[0].loss(x), models[1].loss(x))


def test_errors_in_float32_are_those_of_the_direct_way(monkeypatch):
    op, rng = Conv(6, 5), np.random.default_rng(1)
    x, dy = rng.standard_normal((64, 1, 28, 28)).astype(np.float32), rng.standard_normal((64, 6, 24, 24))
    params = {"w": rng.standard_normal((6, 1, 5, 5)).astype(np.float32), "b": np.zeros(6, np.float32)}
    runs = three_runs(PlaneConv, op, x.shape[1:], monkeypatch)
    found = [{"y": r.forward(x, **params), **r.backward(x, dy.astype(np.float32), **params)} for r in runs]
    np.testing.assert_array_equal(found[0]["y"], found[1]["y"])  # the same sums in the same order
    for name, wanted in found[2].items():
        error, direct = (relative_rms(f[name], wanted) for f in found[:2])
        assert 1e-8 < error < min(2 * direct, 2e-6), (name, error, direct)


def test_a_nan_is_in_all_that_reads_it():
    x, run = np.zeros((2, 1, 12, 24)), Eager(Conv(6, 5), (1, 12, 24), "float32")
    x[0, 0, 6, 9] = np.nan
    params = {"w": np.ones((6, 1, 5, 5)), "b": np.zeros(6)}
    y, grads = run.forward(x, **params), run.backward(x, np.ones((2, 6, 8, 20)), **params)
    assert np.isnan(y[0, :, 2:7, 5:10]).all()
    assert np.isnan(y).sum() == 6 * 25
    assert np.isnan(grads["dw"]).all()
    assert not np.isnan(grads["db"]).any()


def test_training_follows_the_direct_way():
    nodes = [Conv(6, 5, pad=2), ReLU(), MaxPool(2), Affine(10)]
    demand_the_same_training(nodes, rate=5e-4, steps=30, least=0.8, channels=1)
