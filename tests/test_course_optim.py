"""The course's update rules against its formulas, written out here once more in NumPy."""

import numpy as np
import pytest

from nbnn.course import optim

W = np.linspace(-0.4, 0.6, num=20).reshape(4, 5)
DW = np.linspace(-0.6, 0.4, num=20).reshape(4, 5)
KEPT = np.linspace(0.6, 0.9, num=20).reshape(4, 5)
SECOND = np.linspace(0.7, 0.5, num=20).reshape(4, 5)


def test_sgd():
    next_w, config = optim.sgd(W, DW)
    np.testing.assert_allclose(next_w, W - 1e-2 * DW)
    assert config == {"learning_rate": 1e-2}


def test_sgd_momentum_has_the_published_figures():
    next_w, config = optim.sgd_momentum(W, DW, {"learning_rate": 1e-3, "velocity": KEPT})
    np.testing.assert_allclose(config["velocity"], 0.9 * KEPT - 1e-3 * DW)
    np.testing.assert_allclose(next_w, W + 0.9 * KEPT - 1e-3 * DW)


def test_nesterov():
    next_w, config = optim.sgd_nesterov_momentum(W, DW, {"learning_rate": 1e-3, "velocity": KEPT})
    velocity = 0.9 * KEPT - 1e-3 * DW
    np.testing.assert_allclose(config["velocity"], velocity)
    np.testing.assert_allclose(next_w, W + 1.9 * velocity - 0.9 * KEPT)


@pytest.mark.parametrize("name", ["cache", "a"])
def test_rmsprop_under_both_names(name):
    next_w, config = optim.rmsprop(W, DW, {"learning_rate": 1e-2, name: KEPT})
    square = 0.99 * KEPT + 0.01 * DW**2
    np.testing.assert_allclose(config[name], square)
    np.testing.assert_allclose(next_w, W - 1e-2 * DW / (np.sqrt(square) + 1e-8))
    assert ("cache" in config) != ("a" in config)


@pytest.mark.parametrize(("first", "second"), [("m", "v"), ("v", "a")])
def test_adam_under_both_names(first, second):
    next_w, config = optim.adam(W, DW, {"learning_rate": 1e-2, first: KEPT, second: SECOND, "t": 5})
    m, v = 0.9 * KEPT + 0.1 * DW, 0.999 * SECOND + 0.001 * DW**2
    np.testing.assert_allclose(config[first], m)
    np.testing.assert_allclose(config[second], v)
    assert config["t"] == 6
    np.testing.assert_allclose(next_w, W - 1e-2 * (m / (1 - 0.9**6)) / (np.sqrt(v / (1 - 0.999**6)) + 1e-8))


@pytest.mark.parametrize(
    "rule", [optim.sgd, optim.sgd_momentum, optim.sgd_nesterov_momentum, optim.rmsprop, optim.adam]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rules_learn_from_nothing_and_change_nothing_given(rule, dtype):
    w, config = np.array([3.0, -2.0], dtype), {"learning_rate": 0.05}
    given = w.copy()
    for _ in range(300):
        w, config = rule(w, 2 * w, config)
    assert np.abs(w).max() < 0.1 and w.dtype == dtype
    np.testing.assert_array_equal(given, np.array([3.0, -2.0], dtype))


def test_rules_are_those_of_the_solver():
    """The same numbers as a compiled step of one rule."""
    import nbnn
    from nbnn import Affine, Graph

    r = np.random.default_rng(0)
    x, y = r.standard_normal((8, 4)), r.integers(0, 3, 8)
    model = nbnn.compile(Graph([Affine(3)], input=(4,), loss="softmax"), dtype="float64", backend="numpy")
    mine, configs = {k: v.copy() for k, v in model.params.items()}, {}
    for _ in range(5):
        grads = {k: g.copy() for k, g in model.loss(x, y)[1].items()}
        for key in mine:
            mine[key], configs[key] = optim.adam(mine[key], grads[key], configs.get(key))
        model.train_steps(x, y, update_rule="adam")
    for key in mine:
        np.testing.assert_allclose(mine[key], model.params[key], rtol=1e-12)


@pytest.mark.parametrize("rule", [optim.sgd_momentum, optim.sgd_nesterov_momentum, optim.rmsprop, optim.adam])
def test_memory_in_columns_is_kept_as_well(rule):
    """A transposed w and a transposed velocity are followed like others."""
    rng = np.random.default_rng(0)
    w, dw = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    found = []
    for order in ("C", "F"):
        config, weights = None, np.array(w, order=order)
        for _ in range(3):
            weights, config = rule(weights, np.array(dw, order=order), config)
        found.append(weights)
    np.testing.assert_array_equal(*found)
