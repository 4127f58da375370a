"""Convolution channel by channel beside the one with its weights written out: which take it, the same numbers, NaNs."""

import numpy as np
import pytest
from test_winograd import both_ways, demand_agreement, demand_way

import nbnn
from nbnn import Affine, BatchNorm, Conv, Graph, ReLU, Scale
from nbnn.eager import Eager

CHOSEN = [
    ("as many groups as channels and filters", Conv(8, 3, groups=8), (8, 5, 5), True),
    ("stride, padding and dilation, an oblong window", Conv(5, (3, 4), 2, 3, 2, groups=5), (5, 9, 9), True),
    ("one channel is no group", Conv(1, 3), (1, 9, 9), False),
    ("two filters for each channel", Conv(16, 3, groups=8), (8, 5, 5), False),
    ("two channels for each filter", Conv(4, 3, groups=4), (8, 5, 5), False),
]


@pytest.mark.parametrize(("conv", "shape", "wanted"), [pytest.param(*row[1:], id=row[0]) for row in CHOSEN])
def test_which_convolutions_go_this_way(conv, shape, wanted):
    demand_way(conv, shape, "depthwise", wanted)


@pytest.mark.parametrize(("channels", "window", "stride", "pad"), [(17, 3, 1, 1), (24, (2, 5), 2, 2), (3, 1, 3, 0)])
def test_both_ways_agree(channels, window, stride, pad):
    rng = np.random.default_rng(0)
    nodes = [Scale(), Conv(channels, window, stride, pad, groups=channels, bias=pad != 1), Affine(3)]
    models = both_ways(nodes, (channels, 10, 9), dtype="float64")
    for count in (1, 5):
        demand_agreement(models, rng.standard_normal((count, channels, 10, 9)), rng.standard_normal((count, 3)))
    models[0].verify(batch=3)


def test_a_nan_stays_in_its_channel():
    x, run = np.zeros((2, 10, 7, 7)), Eager(Conv(10, 3, pad=1, groups=10), (10, 7, 7), "float32")
    x[0, 9, 3, 4] = np.nan
    params = {"w": np.ones((10, 1, 3, 3)), "b": np.zeros(10)}
    y, dy = run.forward(x, **params), np.zeros((2, 10, 7, 7))
    assert np.isnan(y[0, 9, 2:5, 3:6]).all()
    assert np.isnan(y).sum() == 9
    dy[1, 2, 3, 3] = np.nan
    grads = run.backward(x, dy, **params)
    assert np.isnan(grads["dw"][[2, 9]]).all()
    assert np.isnan(grads["dw"]).sum() == 18
    assert np.flatnonzero(np.isnan(grads["db"])).tolist() == [2]
    assert np.isnan(grads["dx"][1, 2, 2:5, 2:5]).all()
    assert np.isnan(grads["dx"]).sum() == 9


def test_training_is_that_of_the_other_way_to_the_bit():
    """Zeros between the groups change no sum, and all sums go in the same order (but the gradient of up to 8 channels,
    which the other way sums by columns)."""
    block = [Conv(18, 3, pad=1, groups=18), BatchNorm(), ReLU(), Conv(24, 1), BatchNorm(), ReLU()]
    nodes = [Conv(18, 3, stride=2, pad=1), ReLU(), *block, Affine(10)]
    rng, graph = np.random.default_rng(0), Graph(nodes, input=(3, 16, 16), loss="softmax")
    x, y = rng.standard_normal((100, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 100)
    indices = rng.integers(0, 100, (20, 50))
    models = [nbnn.compile(graph, algorithm=a, seed=0) for a in ("auto", "direct")]
    losses = [m.train_steps(x, y, indices=indices) for m in models]
    assert losses[0][-1] < 0.5 * losses[0][0]
    np.testing.assert_array_equal(*losses)
    assert ["depthwise" in m.source() for m in models] == [True, False]
