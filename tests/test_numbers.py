"""Numbers at the edge, through whole nets: each is well defined, and the same on both backends."""

import time

import numba
import numpy as np
import pytest
from soak import tell

import nbnn
from nbnn import Affine, BatchNorm, Conv, Dropout, Graph, MaxPool, ReLU
from nbnn.kernels.constants import RULES

BACKENDS = pytest.mark.parametrize("backend", ["numba", "numpy"])


def data(graph, count=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *graph.input)).astype(np.float32), rng.integers(0, graph.output_shape[0], count)


@BACKENDS
@pytest.mark.parametrize("rule", RULES)
def test_a_learning_rate_of_zero_moves_no_bit(backend, rule):
    graph = Graph([Conv(5, 3), BatchNorm(), ReLU(), MaxPool(2), Affine(3)], input=(2, 6, 6), loss="softmax")
    model = nbnn.compile(graph, backend=backend)
    model.params["affine1.b"] = [0.0, 1e30, -1e-30]  # -0.0 + 0.0 is 0.0, and a denormal counts as a zero
    x, y = data(graph)
    before = {name: value.tobytes() for name, value in model.params.copies().items()}
    model.train_steps(
        x,
        y,
        steps=5,
        update_rule=rule,
        optim_config={"learning_rate": 0.0},
        reg=0.1 if rule == "adam" else 0.0,
        clip=1.0,
    )
    assert {name: value.tobytes() for name, value in model.params.copies().items()} == before


def scores_net(loss, backend, dtype="float32"):
    """A net whose scores are its data: an affine whose weights are the identity."""
    model = nbnn.compile(Graph([Affine(4)], input=(4,), loss=loss), backend=backend, dtype=dtype)
    model.params["affine1.w"] = np.eye(4)
    return model


@BACKENDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_huge_scores(backend, dtype):
    model, huge = scores_net("softmax", backend, dtype), 1e37 if dtype == "float32" else 1e300
    x = np.array([[huge, 0, 0, 0], [huge, huge, huge, huge], [-huge, -huge, -huge, huge]], dtype)
    loss, grads = model.loss(x, np.array([0, 2, 3]))
    assert np.isclose(loss, np.log(4) / 3)  # certain, at a loss among four, certain
    assert np.allclose(grads["affine1.b"], np.array([1, 1, -3, 1]) / 12)
    assert np.allclose(model.predict_proba(x), [[1, 0, 0, 0], [0.25] * 4, [0, 0, 0, 1]])
    wrong, _ = model.loss(x[:1], np.array([1]))
    assert np.isclose(wrong, huge)  # certain and wrong: as large as it is, but a number


@BACKENDS
def test_svm_ties(backend):
    """A margin of exactly 0 adds nothing and pulls at nothing; equal scores are each 1 short."""
    model = scores_net("svm", backend)
    loss, grads = model.loss(np.array([[1.0, 0.0, 0.0, 0.0]]), [0])
    assert loss == 0 and not grads["affine1.b"].any()
    loss, grads = model.loss(np.full((2, 4), 7.0), [1, 3])
    assert loss == 3 and grads["affine1.b"].tolist() == [1, -1, 1, -1]


@BACKENDS
@pytest.mark.parametrize("value", [0.0, 0.7, 1e6, 1e-40])
def test_batchnorm_of_constant_channels(backend, value):
    graph = Graph([BatchNorm(), Affine(3)], input=(2, 3, 3), loss="softmax")
    model = nbnn.compile(graph, backend=backend)
    model.params["bn1.beta"] = [0.5, -2.0]
    x, y = data(graph, 8)
    x[:, 0] = value
    loss, grads = model.loss(x, y)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in grads.values())
    assert model.state["bn1.mean"][0] == pytest.approx(0.1 * value)
    assert model.state["bn1.var"][0] == pytest.approx(0.9, abs=1e-6 * value**2)  # 0.9 of the 1 that it began with
    assert abs(grads["bn1.gamma"][0]) <= 1e-4 * max(1.0, value)  # what is normalised is nothing but rounding
    assert np.isfinite(model.train_steps(x, y, steps=20, update_rule="sgd")).all()


@BACKENDS
def test_all_is_dropped(backend):
    """Behind a dropout of everything there is nothing but biases, and nothing before it gets a gradient."""
    graph = Graph([Affine(6), Dropout(1.0), Affine(3)], input=(5,), loss="softmax")
    model = nbnn.compile(graph, backend=backend)
    x, y = data(graph, 9)
    start = model.params["affine1.w"].copy()
    loss, grads = model.loss(x, y)
    assert np.isclose(loss, np.log(3))
    assert not any(grads[name].any() for name in ("affine1.w", "affine1.b", "affine2.w"))
    assert np.allclose(grads["affine2.b"], 1 / 3 - np.bincount(y, minlength=3) / 9)
    assert np.isfinite(model.train_steps(x, y, steps=5)).all()
    assert np.array_equal(model.params["affine1.w"], start)
    assert np.ptp(model.loss(x)) > 0  # outside training nothing is dropped


# ---- denormals

MOST_SLOWER = 1.5  # on a processor that is left to compute with them, a multiplication takes up to 100 times as long


def seconds_of_steps(model, x, y, steps=20):
    rows = np.tile(np.arange(len(x)), (steps, 1))
    begun = time.perf_counter()
    model.train_steps(x, y, indices=rows, update_rule="sgd", optim_config={"learning_rate": 0.0})
    return time.perf_counter() - begun


def slower_by(changes, repeat=11):
    """How many times as long steps take after each of two changes of one net, medians taken in turn."""
    graph = Graph([Affine(64), ReLU(), Affine(64), ReLU(), Affine(10)], input=(64,), loss="softmax")
    x, y = data(graph, 64)
    nets = []
    for change in changes:
        model = nbnn.compile(graph)
        nets.append((model, change(model, x)))
    times = [[seconds_of_steps(model, given, y) for model, given in nets] for _ in range(repeat)]
    normal, denormal = np.median(times[1:], axis=0)
    return denormal / normal


def as_they_are(model, x):
    return x


def small_weights(model, x):
    for name in ("affine1.w", "affine2.w"):
        model.params[name] = model.params[name] * 1e-39
    return x


def small_data(model, x):
    return (np.abs(x) * 1e-39).astype(np.float32)


def small_gradients(model, x):
    """The last weights are so small that what comes back through them is denormal."""
    model.params["affine3.w"] = model.params["affine3.w"] * 1e-38
    return x


@pytest.mark.parametrize("change", [small_weights, small_data, small_gradients], ids=lambda f: f.__name__)
def test_denormals_do_not_slow_training(change):
    before = numba.get_num_threads()
    numba.set_num_threads(1)  # what others do on this machine shows less
    try:
        found = slower_by((as_they_are, change))
        found = found if found < MOST_SLOWER else slower_by((as_they_are, change))
    finally:
        numba.set_num_threads(before)
    tell(f"time of a step with denormals over one without: {change.__name__.replace('_', ' ')}", round(found, 2))
    assert found < MOST_SLOWER
