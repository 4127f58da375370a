"""Numbers at the edge, through whole nets: each is well defined, and the same on both backends."""

import contextlib
import json
import time

import numba
import numpy as np
import pytest
from numba import njit, types
from soak import tell
from test_kernels import _child

import nbnn
from nbnn import Affine, BatchNorm, Conv, Dropout, Graph, MaxPool, ReLU
from nbnn.kernels import launch
from nbnn.kernels.constants import RULES
from nbnn.kernels.jit import OPTIONS, Code
from nbnn.step import cores

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
SLOW = 4  # so many times as long: such a processor
TINY = np.float32(1e-39)
TINY_BITS = int(TINY.view(np.uint32))
ROUNDS, SECONDS = 10, 8.0  # of measuring; what others do on this machine shows in some rounds
# net -> its graph, examples so many that threads share them, and steps for a few milliseconds
NETS = {
    "affine": (Graph([Affine(64), ReLU(), Affine(64), ReLU(), Affine(10)], input=64, loss="softmax"), 512, 5),
    "conv": (Graph([Conv(16, 3, pad=1), ReLU(), Conv(16, 3), Affine(10)], input=(8, 8, 8), loss="softmax"), 128, 4),
}
THREADS = pytest.mark.parametrize("threads", [1, 2])


@contextlib.contextmanager
def so_many(threads):
    """Launches use so many threads, or those that this machine has; gives how many."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before, cores()))
    try:
        yield numba.get_num_threads()
    finally:
        numba.set_num_threads(before)


def seconds_of_steps(model, x, y, steps):
    rows = np.tile(np.arange(len(x)), (steps, 1))
    begun = time.perf_counter()
    model.train_steps(x, y, indices=rows, update_rule="sgd", optim_config={"learning_rate": 0.0})
    return time.perf_counter() - begun


def slower_by(net, seconds=SECONDS):
    """How many times as long steps take after each change of a net: the least times of rounds that measure all in turn,
    and that go on for a while as long as the times differ."""
    graph, count, steps = NETS[net]
    x, y = data(graph, count)
    assert x.nbytes >= launch.SERIAL_BELOW
    nets = []
    for change in (as_they_are, *CHANGES):
        model = nbnn.compile(graph)
        nets.append((model, change(model, x)))
        seconds_of_steps(*nets[-1], y, steps)
    rounds, begun = [], time.monotonic()
    while True:
        rounds.append([seconds_of_steps(*one, y, steps) for one in nets])
        normal, *changed = np.min(rounds, axis=0)
        found = {change.__name__: took / normal for change, took in zip(CHANGES, changed, strict=True)}
        alike = max(found.values()) < MOST_SLOWER and min(found.values()) > 1 / MOST_SLOWER
        if len(rounds) >= ROUNDS and (alike or time.monotonic() - begun > seconds):
            return found


def as_they_are(model, x):
    return x


def weights_of(model):
    return [name for name in model.params if name.endswith(".w")]


def small_weights(model, x):
    for name in weights_of(model)[:2]:
        model.params[name] = model.params[name] * TINY
    return x


def small_data(model, x):
    return np.abs(x) * TINY


def small_gradients(model, x):
    """The last weights are so small that what comes back through them is denormal."""
    last = weights_of(model)[-1]
    model.params[last] = model.params[last] * 1e-38
    return x


CHANGES = (small_weights, small_data, small_gradients)


@THREADS
@pytest.mark.parametrize("net", NETS)
def test_denormals_do_not_slow_training(net, threads):
    with so_many(threads) as there:
        found = slower_by(net)
    for change, times in found.items():
        name = f"{change.replace('_', ' ')}, {net}, {there} thread{'s'[: there - 1]}"
        tell(f"time of a step with denormals over one without: {name}", round(times, 2))
    assert max(found.values()) < MOST_SLOWER, found


def scores_of_tiny_data():
    """The scores, as bits, where each is the same tiny number; all threads have a share of them."""
    model = nbnn.compile(Graph([Affine(64)], input=64, loss="softmax"))
    model.params["affine1.w"] = np.eye(64)
    x = np.full((4096, 64), TINY)
    assert x.nbytes > 4 * launch.SERIAL_BELOW
    return np.unique(model.loss(x).view(np.uint32)).tolist()


@THREADS
def test_a_denormal_counts_as_a_zero_in_every_thread(threads):
    """On processors of x86; others take no longer for them."""
    with so_many(threads):
        assert scores_of_tiny_data() == [0 if launch.IS_X86 else TINY_BITS]


def processor_is_slower_by():
    """How many times as long this processor takes for products of denormals, left alone."""
    found = []
    for value in (0.7, TINY):
        a, times = np.full(4096, value, np.float32), []
        for _ in range(20):
            begun = time.perf_counter()
            for _ in range(50):
                np.multiply(a, np.float32(0.7))
            times.append(time.perf_counter() - begun)
        found.append(min(times))
    return found[1] / found[0]


def without_flushing():
    """In a child process: what denormals do if they are not taken for zeros, here or in one thread alone."""
    launch._FLUSH = 0
    launch.compiled_for = lambda kinds, function, name, **options: Code(
        njit(types.void(*kinds), **OPTIONS, **options)(function)
    )
    with so_many(1):
        slower = {net: slower_by(net, 0) for net in NETS}
    with so_many(2) as there:
        nowhere = scores_of_tiny_data()
        launch._FLUSH = FLUSH
        njit(lambda: launch.flush_denormals())()
        here_alone = scores_of_tiny_data()
    print(json.dumps([there, nowhere, here_alone, processor_is_slower_by(), slower]))


FLUSH = launch._FLUSH


def test_without_the_flushing_the_checks_would_fail():
    """Where the processor is slow with denormals, training is as well; on any, scores show them, also those of threads
    other than the one that asks."""
    child = _child("import test_numbers; test_numbers.without_flushing()", NUMBA_NUM_THREADS="2")
    assert child.returncode == 0, child.stderr
    threads, nowhere, here_alone, processor, slower = json.loads(child.stdout)
    assert nowhere == [TINY_BITS]
    assert TINY_BITS in here_alone or (threads == 1 and launch.IS_X86)
    tell("time of a product of denormals over one of others", round(processor, 2))
    for net, found in slower.items():
        tell(f"time of a step with denormals that are left alone: {net}", round(max(found.values()), 2))
        assert processor < SLOW or min(found.values()) > MOST_SLOWER, (processor, slower)
