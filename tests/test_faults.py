"""Faults that broke other libraries, each under its number: labels, shapes, NaN and the arrays that people hand in.

Every row of the list of such faults has at least one test here or in `test_faults_around.py`, which is about what lies
around the numbers: threads, processes, caches and files. Most are held in more depth elsewhere; here each is shown
once.
"""

import dataclasses
import hashlib
import itertools
import re

import numpy as np
import pytest
from soak import times
from test_graph import every_op
from test_kernels import DTYPES, _child, _demand_all_rows

import nbnn
from nbnn import (
    GELU,
    Affine,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Graph,
    GraphError,
    Identity,
    LeakyReLU,
    MaxPool,
    ReLU,
    Sigmoid,
    SiLU,
    Solver,
    Tanh,
    formats,
    inputs,
)
from nbnn.eager import Eager
from nbnn.kernels.jit import FASTMATH, OPTIONS
from nbnn.lower import lower, verify

# few graphs, since each costs a compilation
PICTURES = Graph(
    [Conv(20, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Dropout(0.25), Affine(5)], input=(3, 9, 8), loss="softmax"
)
VECTORS = Graph([Affine(8), BatchNorm(), ReLU(), Dropout(0.2), Affine(3)], input=5, loss="softmax")
NORMED = Graph([BatchNorm(), Affine(3)], input=4, loss="softmax")
SCORES = Graph([Identity()], input=4, loss="softmax")


@pytest.fixture
def pictures():
    return nbnn.compile(PICTURES)


@pytest.fixture
def vectors():
    return nbnn.compile(VECTORS)


def examples(graph, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *graph.input)).astype(np.float32), rng.integers(0, graph.output_shape[0], count)


def parts(count=120, seed=0):
    """What a Solver of VECTORS trains on: the class is the largest of the first three numbers."""
    x, _ = examples(VECTORS, count, seed)
    y, half = x[:, :3].argmax(axis=1), count // 2
    return {"X_train": x[:half], "y_train": y[:half], "X_val": x[half:], "y_val": y[half:]}


def everything(model):
    """All that training may change, as bytes."""
    return [model.steps_taken, *(value.tobytes() for value in model.state_dict().values())]


def scores_and_gradients(model, x, y):
    """Bytes of what a model makes of examples, without a trace of it."""
    held = model.state_dict()
    scores, (loss, grads) = model.loss(x), model.loss(x, y)
    model.load_state_dict(held)
    return [scores.tobytes(), loss, *(g.tobytes() for g in grads.values())]


# ---- labels and indices


@pytest.mark.parametrize("wrong", [5, -1, 2**62])
def test_fault_01_a_label_out_of_range_is_named_before_any_kernel_runs(pictures, wrong):
    x, y = examples(PICTURES, 6)
    y[4] = wrong
    before = everything(pictures)
    for use in (pictures.loss, pictures.train_steps, pictures.evaluate):
        with pytest.raises(IndexError, match=rf"^y holds the label {wrong} \(first in example 4\)"):
            use(x, y)
    assert everything(pictures) == before
    assert not any(g.any() for g in pictures.grads.values())


@pytest.mark.parametrize("ignored", [255, -100])
@pytest.mark.parametrize("part", ["y_train", "y_val"])
def test_fault_02_no_label_means_ignore(vectors, ignored, part):
    data = parts()
    data[part] = data[part].copy()
    data[part][7] = ignored
    with pytest.raises(IndexError, match=rf"^{part} holds the label {ignored} \(first in example 7\), but the net has"):
        Solver(vectors, data)


def test_fault_03_classes_counted_from_one_are_refused_before_training(vectors):
    data = parts()
    before = everything(vectors)
    for y in ("y_train", "y_val"):
        with pytest.raises(IndexError, match=f"^{y} holds the label 3 .*; classes count from 0$"):
            Solver(vectors, {**data, y: data[y] + 1})
    assert everything(vectors) == before


@pytest.mark.parametrize("wrong", [-1, 6, 2**40])
def test_fault_04_an_index_out_of_range_reaches_no_kernel(vectors, wrong):
    x, y = examples(VECTORS, 6)
    before = everything(vectors)
    with pytest.raises(IndexError, match=f"^indices name example {wrong}, but there are the 6 examples 0 to 5$"):
        vectors.train_steps(x, y, indices=[[0, 1], [2, wrong]])
    assert everything(vectors) == before


BOUNDED = {
    "pictures": PICTURES,
    "vectors": VECTORS,
    "every op": every_op(),
    "margins": Graph([Affine(8), Tanh(), Affine(3)], input=5, loss="svm"),
    "distances": Graph([Affine(8), Sigmoid(), Affine(3)], input=5, loss="mse"),
}


def bits_of_nets():
    """All that a few steps of each net leave, and its scores, as text."""
    for name, graph in list(BOUNDED.items())[: times(1, len(BOUNDED))]:
        model, (x, y) = nbnn.compile(graph), examples(graph, 40)
        y = np.eye(graph.output_shape[0])[y] if name == "distances" else y
        losses = model.train_steps(x, y, steps=3, reg=0.1, clip=1.0)
        found = [losses, model.loss(x), model.loss(x, y)[0], *model.state_dict().values()]
        yield f"{name} {hashlib.sha256(b''.join(np.asarray(a).tobytes() for a in found)).hexdigest()}"


def test_fault_04_numba_s_own_check_of_bounds_finds_nothing_in_nets():
    """The generated Python would raise an IndexError, and a kernel in a launch end the process."""
    found = _child(
        """
import numba, numpy, test_faults
try:
    numba.njit(lambda a, k: a[k])(numpy.zeros(3), 3)
except IndexError:
    print("checked", *test_faults.bits_of_nets(), sep="\\n")
""",
        NUMBA_BOUNDSCHECK="1",
    )
    assert "boundscheck" not in OPTIONS
    assert found.stdout.splitlines() == ["checked", *bits_of_nets()], found.stderr


def test_fault_04_numba_s_own_check_of_bounds_finds_nothing_in_kernels():
    """All rows of cases.py, or in `make test` those of kernels that are no multiply. It sees what kernels index: rows,
    labels, losses, moments, sums, settings. Pictures and weights they reach by address, which guard pages watch:
    test_kernels_stay_inside_their_arrays of test_kernels.py and, over random shapes, test_memory.py."""
    dtypes = DTYPES[: times(1, 2)]
    code = f"import test_kernels as t; t.run_rows(dtypes={dtypes}, intensity={range(times(16, 100))})"
    _demand_all_rows(_child(code, NUMBA_BOUNDSCHECK="1"))


@pytest.mark.parametrize(
    "slip",
    [
        "names()['gather_labels'](np.arange(9), np.array([8, 9]), np.zeros(2, int))",
        "names()['softmax_loss'](room(2, 3), np.zeros(2, int), 0.0, np.zeros(1), room(2, 3))",
        "names()['softmax_loss'](room(2, 3), np.zeros(1, int), 0.0, np.zeros(2), room(2, 3))",
        "names()['batch_gradients'](*np.zeros((2, 3)), np.zeros(3), 8, np.zeros(2), np.zeros(3))",
    ],
)
def test_fault_04_an_index_out_of_range_in_a_kernel_would_be_found(slip):
    code = "import numpy as np; from nbnn.kernels import names; room = lambda n, k: np.zeros((n, 16))[:, :k]; "
    found = _child(f"{code}{slip}", NUMBA_BOUNDSCHECK="1")
    assert found.returncode == 1 and "IndexError: index is out of bounds" in found.stderr, found.stderr


def test_fault_04_an_index_out_of_range_in_a_launch_would_be_found():
    """The example behind the last, past the check that refuses it."""
    code = """
import numpy as np, test_faults
model = test_faults.nbnn.compile(test_faults.VECTORS)
x, y = np.zeros((9, 5))[:8], np.zeros(8, int)
test_faults.inputs.minibatches = lambda indices, count: np.array(indices)
model.train_steps(x, y, indices=[[0, 7]])
print("trained", flush=True)
model.train_steps(x, y, indices=[[0, 8]])
"""
    found = _child(code, NUMBA_BOUNDSCHECK="1")
    assert found.stdout == "trained\n" and found.returncode not in (0, 1), found.stderr


@pytest.mark.parametrize("arena", ["params", "grads", "state", "acts", "work"])
def test_fault_05_an_arena_that_is_too_small_is_noticed(arena):
    """Room is made from the shapes that were inferred, and the plan is held to them before anything is compiled."""
    net = lower(PICTURES)
    assert verify(net) is net
    small = dataclasses.replace(net, sizes={**net.sizes, arena: net.sizes[arena] - 16})
    with pytest.raises(AssertionError, match=f"^after emit: the arena {arena} of {small.sizes[arena]} elements is too"):
        verify(small)


def test_fault_05_batches_of_any_size_find_room(pictures):
    for count in (1, 40, 3, 200, 2):
        x, y = examples(PICTURES, count, seed=count)
        fresh = nbnn.compile(PICTURES, batch=count)
        assert scores_and_gradients(pictures, x, y) == scores_and_gradients(fresh, x, y)


# ---- NaN, overflow, statistics

ACTIVATIONS = [ReLU(), LeakyReLU(), Sigmoid(), Tanh(), GELU(), SiLU()]


@pytest.mark.parametrize("op", ACTIVATIONS, ids=str)
def test_fault_06_a_nan_passes_through_every_activation(op):
    assert not FASTMATH & {"nnan", "ninf", "fast"}
    assert OPTIONS["fastmath"] is FASTMATH
    x = np.linspace(-2, 2, 74, dtype=np.float32).reshape(2, 37)
    x[0, 5] = x[1, 36] = np.nan
    run = Eager(op, (37,), "float32")
    assert np.array_equal(np.isnan(run.forward(x)), np.isnan(x))
    dx = run.backward(np.ones_like(x), x)["dx"]
    assert np.array_equal(np.isnan(dx), np.isnan(x))


def test_fault_06_the_compiled_check_of_the_loss_sees_a_nan(vectors):
    x, y = examples(VECTORS, 6)
    for value in (np.nan, np.inf):
        vectors.params["affine2.b"][1] = value
        with pytest.raises(FloatingPointError, match=r"^the loss is (nan|inf) because affine2.b holds a NaN or an inf"):
            vectors.train_steps(x, y, steps=5)
        with pytest.raises(FloatingPointError, match="^the scores are not finite because affine2.b holds"):
            vectors.predict(x)
        assert vectors.steps_taken == 0
        vectors.params["affine2.b"][1] = 0
    assert np.isfinite(vectors.train_steps(x, y, steps=5)).all()


@pytest.mark.parametrize("op", [MaxPool(2), MaxPool(3, 2, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fault_07_a_nan_is_a_maximum(op, dtype):
    rng = np.random.default_rng(0)
    run = Eager(op, (3, 6, 6), dtype)
    for i, j in itertools.product(range(6), range(6)):
        x = rng.standard_normal((1, 3, 6, 6)).astype(dtype)
        x[0, 1, i, j] = np.nan
        y = run.forward(x)
        wanted = pool_by_loops(x, op, np.max)  # np.max keeps a NaN
        assert np.isnan(wanted).any()
        assert np.array_equal(y, wanted, equal_nan=True)
        dx = run.backward(x, np.ones_like(y))["dx"]
        assert dx[0, 1, i, j] == np.isnan(y).sum()  # all of the gradient goes to the NaN
        assert dx.sum() == y.size
    none = np.full((1, 3, 6, 6), -np.inf, dtype)
    assert (run.forward(none) == -np.inf).all()  # and not the lowest finite number


def test_fault_08_softmax_of_huge_scores():
    model, huge = nbnn.compile(SCORES), 3e38
    for row in ([huge] * 4, [-huge] * 4, [1e30, 1e30, 1e30, 1e30]):
        assert model.loss([row], [2])[0] == pytest.approx(np.log(4))
        assert model.evaluate([row], [2])["loss"] == pytest.approx(np.log(4))
        assert model.predict_proba([row])[0].tolist() == [0.25] * 4
    for row, loss in (([1e4, 0, 0, 0], 0), ([0, 1e4, 0, 0], 1e4), ([0, huge, huge, 0], huge)):
        assert model.loss([row], [0])[0] == pytest.approx(loss, rel=1e-6)
    assert model.predict_proba([[huge, -huge, -huge, huge]])[0].tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("row", "what"),
    [([-np.inf] * 4, "an infinity"), ([0, np.inf, 0, 0], "an infinity"), ([0, np.nan, 0, 0], "a NaN")],
)
def test_fault_08_scores_that_are_not_finite_are_named(row, what):
    model = nbnn.compile(SCORES)
    for use in (model.loss, model.train_steps, model.evaluate, lambda x, y: model.predict_proba(x)):
        with pytest.raises(ValueError, match=f"^X holds {what}, first in example 1; remove or replace it"):
            use([[0.0, 1, 2, 3], row], [0, 0])


def test_fault_08_a_class_of_minus_infinity_has_the_probability_zero():
    model, row = nbnn.compile(SCORES), [0, -np.inf, 0, 0]
    assert model.loss([row], [2])[0] == pytest.approx(np.log(3))
    for use in (lambda: model.loss([row], [1]), lambda: model.predict_proba([row])):
        with pytest.raises(ValueError, match="^X holds an infinity, first in example 0; remove or replace it"):
            use()


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_fault_09_a_loss_of_zero_spoils_nothing(backend):
    model = nbnn.compile(NORMED, backend=backend)
    x = np.eye(4)[[0, 1, 2] * 4]
    model.params["affine1.w"] = 1e4 * np.eye(4)[:, :3]
    y = np.array([0, 1, 2] * 4)
    for rule in ("adam", "rmsprop", "sgd_momentum"):
        assert model.train_steps(x, y, steps=20, update_rule=rule).tolist() == [0] * 20
    assert model.evaluate(x, y) == {"loss": 0, "accuracy": 1}
    assert all(np.isfinite(value).all() for value in model.state_dict().values())


def test_fault_09_a_loss_that_is_lost_ends_the_training_with_the_best_weights(vectors):
    data = parts(1200)
    settings = {"update_rule": "adam", "optim_config": {"learning_rate": 0.03}, "lr_decay": 1e30}
    solver = Solver(vectors, data, num_epochs=5, batch_size=20, verbose=False, **settings)
    with pytest.raises(FloatingPointError, match=r"^iteration \d+: "):
        solver.train()
    assert 30 <= solver.iteration < 150
    assert all(np.isfinite(value).all() for value in vectors.state_dict().values())
    assert vectors.evaluate(data["X_val"], data["y_val"])["accuracy"] == solver.best_val_acc > 0.5
    assert np.isfinite(vectors.train_steps(data["X_train"], data["y_train"], steps=3)).all()


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_fault_10_a_batch_that_is_not_finite_leaves_the_statistics_alone(backend, wrong):
    model = nbnn.compile(NORMED, backend=backend)
    x, y = examples(NORMED, 6)
    model.train_steps(x, y, steps=2)
    before = everything(model)
    x[3, 1] = wrong  # one channel of one example
    for train in (model.loss, model.train_steps):
        with pytest.raises(ValueError, match="first in example 3"):
            train(x, y)
        assert everything(model) == before
    with pytest.raises(ValueError, match="^X holds no example"):
        model.train_steps(x[:0], y[:0])
    assert everything(model) == before


def test_fault_10_a_bad_minibatch_among_good_ones_leaves_no_trace():
    """Of several steps in one call those before the bad one count, with their statistics."""
    x, y = examples(NORMED, 12)
    x[7, 2] = np.nan
    model, wanted = nbnn.compile(NORMED), nbnn.compile(NORMED)
    with pytest.raises(ValueError, match="^X holds a NaN, first in example 7"):
        model.train_steps(x, y, indices=[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]])
    wanted.train_steps(x, y, indices=[[0, 1, 2], [3, 4, 5]])
    assert everything(model) == everything(wanted)


def test_fault_10_a_batch_whose_variance_overflows_leaves_the_statistics_alone():
    model = nbnn.compile(NORMED)
    x, y = examples(NORMED, 6)
    x[:2, 1] = 3e38, -3e38
    model.loss(x, y)
    assert (model.state["bn1.mean"][1], model.state["bn1.var"][1]) == (0, 1)
    assert np.isfinite(model.state["bn1.var"]).all() and (model.state["bn1.mean"][[0, 2, 3]] != 0).all()
    before = everything(model)
    x[:, 1] = 3e38  # now the mean overflows as well, and with it the loss
    for train in (model.loss, model.train_steps):
        with pytest.raises(FloatingPointError, match="^the loss is nan"):
            train(x, y)
        assert everything(model) == before


def test_fault_11_a_single_value_has_the_variance_zero():
    """As the course computes it and as the docstring says: the output is beta, and the running variance shrinks."""
    assert "a single value has the variance 0, so y = beta" in " ".join(BatchNorm.__doc__.split())
    model = nbnn.compile(NORMED)
    model.params["bn1.beta"] = [1, 2, 3, 4]
    x, y = examples(NORMED, 1)
    loss, grads = model.loss(x, y)
    scores = np.array([1, 2, 3, 4]) @ model.params["affine1.w"] + model.params["affine1.b"]
    assert loss == pytest.approx(np.log(np.exp(scores - scores[y[0]]).sum()), rel=1e-5)
    assert not grads["bn1.gamma"].any() and grads["bn1.beta"].any()
    assert np.allclose(model.state["bn1.mean"], 0.1 * x[0]) and np.allclose(model.state["bn1.var"], 0.9)


def test_fault_11_no_epoch_ends_with_a_batch_of_one(vectors):
    solver = Solver(vectors, parts(82), batch_size=20, sampling="epoch", num_epochs=2, verbose=False)
    assert solver._epoch_rows().shape == (2, 20)  # of 41
    solver.train()
    assert len(solver.loss_history) == 4 and np.isfinite(solver.loss_history).all()


def test_fault_12_an_empty_batch_is_refused_in_training_and_outside(pictures):
    x, y = examples(PICTURES, 6)
    before = everything(pictures)
    for use in (
        pictures.loss,
        pictures.predict,
        pictures.predict_proba,
        lambda x: pictures.loss(x, y[:0]),
        lambda x: pictures.evaluate(x, y[:0]),
        lambda x: pictures.train_steps(x, y[:0]),
    ):
        with pytest.raises(ValueError, match=r"^X holds no example: its shape is \(0, 3, 9, 8\); an empty batch"):
            use(x[:0])
    with pytest.raises(ValueError, match=r"^X_val holds no example"):
        Solver(pictures, {"X_train": x, "y_train": y, "X_val": x[:0], "y_val": y[:0]})
    assert everything(pictures) == before
    assert np.isfinite(pictures.train_steps(x, y)).all()


def test_fault_12_layers_of_the_course_take_or_refuse_an_empty_batch():
    from nbnn.course import fast_layers, layers

    x, w = np.zeros((0, 3, 8, 8)), np.ones((4, 3, 3, 3))
    y, cache = fast_layers.conv_forward_fast(x, w, np.ones(4), {"stride": 1, "pad": 1})
    dx, dw, db = fast_layers.conv_backward_fast(y, cache)
    assert (y.shape, dx.shape) == ((0, 4, 8, 8), x.shape)
    assert not dw.any() and not db.any()
    pool = {"stride": 2, "pool_height": 2, "pool_width": 2}
    assert fast_layers.max_pool_forward_fast(x, pool)[0].shape == (0, 3, 4, 4)
    for loss in (layers.softmax_loss, layers.svm_loss):
        with pytest.raises(ValueError, match=r"^x holds no example: its shape is \(0, 3\)"):
            loss(np.zeros((0, 3)), np.zeros(0, int))
    for mode in ("train", "test"):
        with pytest.raises(ValueError, match=r"^x holds no example: its shape is \(0, 3\)"):
            layers.batchnorm_forward(np.zeros((0, 3)), np.ones(3), np.zeros(3), {"mode": mode})


# ---- shapes


@pytest.mark.parametrize(
    ("node", "fits"),
    [
        (lambda k: Conv(4, k), 5),
        (lambda k: Conv(4, (k, 3)), 5),
        (lambda k: Conv(4, k, pad=2), 9),
        (lambda k: Conv(4, 3, dilation=k), 2),
        (lambda k: MaxPool(k), 5),
        (lambda k: AvgPool(k, 1, 1), 7),
    ],
)
def test_fault_13_a_window_larger_than_its_input_is_refused_by_the_graph(node, fits):
    assert Graph([node(fits)], input=(2, 5, 5)).output_shape[1] == 1  # the largest that fits
    with pytest.raises(GraphError, match=r"1: a \d+x\d+ window does not fit its 5x5 input"):
        Graph([node(fits + 1)], input=(2, 5, 5))


def test_fault_13_the_course_s_convolution_names_itself():
    from nbnn.course import fast_layers

    with pytest.raises(ValueError, match="^Conv: a 3x3 window does not fit its 2x2 input; pad it by at least 1 or"):
        fast_layers.conv_forward_fast(
            np.zeros((2, 3, 2, 2)), np.zeros((4, 3, 3, 3)), np.zeros(4), {"stride": 1, "pad": 0}
        )


@pytest.mark.parametrize(
    "make",
    [
        *(lambda v, k=k: Conv(4, 3, **{k: v}) for k in ("stride", "dilation", "groups")),
        lambda v: Conv(4, v),
        lambda v: Conv(v, 3),
        lambda v: MaxPool(v),
        lambda v: MaxPool(2, v),
        lambda v: AvgPool(2, v),
    ],
)
def test_fault_14_zero_and_negative_settings_are_refused_when_the_op_is_made(make):
    make(1)
    for value in (0, -1, -(2**40), 0.5, True):
        with pytest.raises(ValueError, match=r"^(Conv|MaxPool|AvgPool): \w+ must be a whole number"):
            make(value)


def test_fault_14_paddings_are_held_to_their_bounds():
    for make in (lambda p: Conv(4, 3, pad=p), lambda p: MaxPool(3, pad=p), lambda p: AvgPool(3, 1, p)):
        make(1)
        with pytest.raises(ValueError, match=r": pad must be a whole number of at least 0, got -1$"):
            make(-1)
    for pool in (MaxPool, AvgPool):
        with pytest.raises(ValueError, match="pad must be at most 1, half of the window, got 2"):
            pool(3, pad=2)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Graph([Conv(1, 1, pad=2**63 - 1)], input=(1, 1, 1)),
        lambda: Graph([Conv(1, 3, pad=2**47)], input=(1, 5, 5)),  # the sides are fine, their product is not
        lambda: Graph([Conv(1, 3, stride=2**63)], input=(1, 5, 5)),
        lambda: Graph([Conv(1, 2**32, dilation=2**32)], input=(1, 5, 5)),  # 2**64 wraps to 0
        lambda: Graph([Conv(1, 3, dilation=2**40)], input=(1, 5, 5)),
        lambda: Graph([Identity()], input=(2**21, 2**21, 2**22)),  # 2**64
        lambda: Graph([Affine(2**32)], input=2**32),
        lambda: Graph([Affine(2**24), Affine(2**40)], input=2),
        lambda: Graph([MaxPool(2**62, pad=2**61)], input=(1, 5, 5)),
    ],
)
def test_fault_15_sizes_beyond_all_memory_are_counted_without_overflow(build):
    with pytest.raises(ValueError, match=r"2\*\*48|does not fit its"):
        build()


def test_fault_15_a_net_that_this_machine_has_no_room_for():
    with pytest.raises(MemoryError, match=r"^this net needs [\d.]+ GiB for its parameters"):
        nbnn.compile(Graph([Affine(2**45)], input=2), backend="numpy")


def test_fault_16_ranks_that_do_not_meet_are_named_with_both_shapes(pictures):
    x, _ = examples(PICTURES, 6)
    for wrong in (x[0], x[None], x.reshape(6, -1), x[:, :, :, 0]):
        with pytest.raises(ValueError, match=re.escape(f"X must have shape (N, 3, 9, 8), got {wrong.shape}")):
            pictures.predict(wrong)
    with pytest.raises(ValueError, match=re.escape("conv1.w must keep its shape (20, 3, 3, 3), got (20, 27)")):
        pictures.params["conv1.w"] = np.zeros((20, 27))
    with pytest.raises(GraphError, match=r"Conv reads pictures \(channels, height, width\), got the vector \(7,\)"):
        Graph([Affine(7), Conv(4, 3)], input=(3, 9, 8))
    with pytest.raises(
        GraphError, match=r"^input must be \(channels, height, width\) or \(features,\).*, got \(3, 9\)"
    ):
        Graph([Conv(4, 3)], input=(3, 9))


def windows_by_loops(x, window, stride, pad, dilation, fill):
    """(n, c, i, j, u, v): every window that lies wholly inside the padded picture, one by one."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    reach = [(side - 1) * dilation + 1 for side in window]
    rows = [
        [x[:, :, i : i + reach[0] : dilation, j : j + reach[1] : dilation] for j in range(0, x.shape[3], stride)]
        for i in range(0, x.shape[2], stride)
    ]
    rows = [[w for w in row if w.shape[2:] == tuple(window)] for row in rows]
    return np.stack([np.stack(row, axis=2) for row in rows if row], axis=2)


def pool_by_loops(x, op, reduce):
    fill = -np.inf if reduce is np.max else 0
    return reduce(windows_by_loops(x, op.window, op.hop, op.pad, 1, fill), axis=(4, 5))


SLIDES = [
    *(Conv(3, 3, stride=s, pad=p, dilation=d) for s, p, d in itertools.product((1, 2, 3), (0, 1, 2), (1, 2, 3))),
    *(Conv(3, window, stride=2, pad=1) for window in ((2, 3), (4, 1), 2)),
    *(MaxPool(k, s, p) for k, s, p in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 0))),
    *(AvgPool(k, s, p) for k, s, p in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 0))),
]


def test_fault_17_windows_lie_where_plain_loops_put_them():
    """Values against loops and against the reference, gradients by y being linear in x and in w. A window that does
    not fit wholly has no place: there is no ceil mode."""
    rng = np.random.default_rng(0)
    shapes = set()
    for op in SLIDES:
        x, other = rng.standard_normal((2, 2, 2, 9, 8))
        run = Eager(op, (2, 9, 8), "float64")
        arrays = {name: rng.standard_normal(a.shape) for name, a in op.params((2, 9, 8)).items()}
        y = run.forward(x, **arrays)
        if isinstance(op, Conv):
            seen = windows_by_loops(x, op.window, op.stride, op.pad, op.dilation, 0)
            wanted = np.einsum("ncijuv,fcuv->nfij", seen, arrays["w"]) + arrays["b"][:, None, None]
        else:
            wanted = pool_by_loops(x, op, np.max if isinstance(op, MaxPool) else np.mean)
        assert y.shape == wanted.shape == (2, *Graph([op], input=(2, 9, 8)).output_shape), op
        np.testing.assert_allclose(y, wanted, rtol=1e-11, atol=1e-11, err_msg=str(op))
        shapes.add(y.shape)
        dy = rng.standard_normal(y.shape)
        grads = run.backward(x, dy, **arrays)
        if isinstance(op, MaxPool):  # linear as long as the maxima stay where they are
            other = x * 2
        moved = run.forward(other, **arrays) - (arrays["b"][:, None, None] if arrays else 0)
        assert (moved * dy).sum() == pytest.approx((grads["dx"] * other).sum(), rel=1e-9), op
        if arrays:
            without = y - arrays["b"][:, None, None]
            assert (without * dy).sum() == pytest.approx((grads["dw"] * arrays["w"]).sum(), rel=1e-9), op
    assert len(shapes) > 10
    for op in SLIDES[::4]:
        plain = nbnn.compile(Graph([op], input=(2, 9, 8)), dtype="float64", backend="numpy")
        arrays = {name.split(".")[1]: value for name, value in plain.params.items()}
        np.testing.assert_allclose(plain.loss(x), Eager(op, (2, 9, 8), "float64").forward(x, **arrays), atol=1e-11)


# ---- the arrays that people hand in

VIEWS = {
    "every other one": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "Fortran order": np.asfortranarray,
    "a part of more": lambda a: np.pad(a, 1, constant_values=9)[tuple(slice(1, -1) for _ in a.shape)],
}
TURNED = {
    "columns": lambda a: a[..., ::-1].copy()[..., ::-1],
    "all axes": lambda a: np.flip(np.flip(a).copy()),
}
BIG_ENDIAN = {code: lambda a, code=code: a.astype(code) for code in (">f4", ">f8", ">i2", ">u8")}


def whole_numbers(count=6):
    """Examples that every dtype can hold."""
    return np.random.default_rng(0).integers(0, 100, (count, *PICTURES.input)).astype(np.float32)


def assert_same_as_input_and_as_weights(model, change):
    """The changed arrays make the same bits, as examples and as parameters."""
    x, y = whole_numbers(), np.array([0, 1, 2, 3, 4, 0])
    for name in model.params:
        model.params[name] = np.round(8 * np.abs(model.params[name]))
    given = change(x)
    wanted = scores_and_gradients(model, x, y)
    assert scores_and_gradients(model, given, y) == wanted
    for put in (model.load_state_dict, model.params.update):
        arrays = {name: change(value) for name, value in model.state_dict().items()}
        for name in model.params:
            model.params[name][...] = 0
        put(arrays if put == model.load_state_dict else {name: arrays[name] for name in model.params})
        assert scores_and_gradients(model, x, y) == wanted


@pytest.mark.parametrize("form", VIEWS)
def test_fault_18_views_of_any_strides_are_read_right(pictures, form):
    assert not VIEWS[form](whole_numbers()).flags.c_contiguous
    assert_same_as_input_and_as_weights(pictures, VIEWS[form])


def test_fault_18_expanded_arrays_are_read_right(pictures):
    x, y = whole_numbers()[:1], np.array([0, 1, 2])
    wide = np.broadcast_to(x, (3, *PICTURES.input))
    assert wide.strides[0] == 0
    assert scores_and_gradients(pictures, wide, y) == scores_and_gradients(pictures, wide.copy(), y)
    flat = np.broadcast_to(np.float32(0.5), pictures.params["conv1.w"].shape)
    pictures.params["conv1.w"] = flat
    assert (pictures.params["conv1.w"] == 0.5).all()
    pictures.params["conv1.w"][0, 0, 0, 0] = 1  # one number of ours, not all of one cell
    assert (pictures.params["conv1.w"] == 0.5).sum() == flat.size - 1


def test_fault_19_strides_of_sides_of_one_mean_nothing():
    rng = np.random.default_rng(0)
    run, w, b = Eager(Conv(5, 3, pad=1), (1, 6, 1), "float32"), rng.standard_normal((5, 1, 3, 3)), np.zeros(5)
    x = rng.standard_normal((1, 1, 6, 1)).astype(np.float32)
    wanted = run.forward(x, w=w, b=b)
    for odd in (0, 4, 20, -8, 10**9):
        strange = np.lib.stride_tricks.as_strided(x, x.shape, (odd, odd, 4, odd))
        assert strange.strides[0] == odd
        assert run.forward(strange, w=w, b=b).tobytes() == wanted.tobytes()
    gray = rng.standard_normal((4, 6, 5)).astype(np.float32)
    run = Eager(Conv(5, 3, pad=1), (1, 6, 5), "float32")
    for same in (gray[:, None], gray[..., None].transpose(0, 3, 1, 2), np.asfortranarray(gray[:, None])):
        assert run.forward(same, w=w, b=b).tobytes() == run.forward(gray[:, None].copy(), w=w, b=b).tobytes()


@pytest.mark.parametrize("form", TURNED)
def test_fault_20_negative_strides_are_read_right(pictures, form):
    assert TURNED[form](whole_numbers()).strides[-1] < 0
    assert_same_as_input_and_as_weights(pictures, TURNED[form])


@pytest.mark.parametrize("code", BIG_ENDIAN)
def test_fault_21_big_endian_arrays_are_read_right(pictures, code):
    assert BIG_ENDIAN[code](whole_numbers()).dtype.byteorder == ">"
    assert_same_as_input_and_as_weights(pictures, BIG_ENDIAN[code])


def test_fault_21_files_of_big_endian_numbers_and_labels(pictures, tmp_path):
    x = whole_numbers(3)
    header = bytes([0, 0, 0x0D, 4]) + b"".join(n.to_bytes(4, "big") for n in x.shape)
    (tmp_path / "x.idx").write_bytes(header + x.astype(">f4").tobytes())
    read = formats.read_idx(tmp_path / "x.idx")
    assert np.array_equal(read, x)
    y = np.array([4, 0, 1])
    assert scores_and_gradients(pictures, read, y.astype(">i4")) == scores_and_gradients(pictures, x, y)


def test_fault_22_read_only_arrays_and_files_are_read_in_place(tmp_path):
    x, y = whole_numbers(), np.array([0, 1, 2, 3, 4, 0])
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array)
    content = (tmp_path / "x.npy").read_bytes()
    wanted = nbnn.compile(PICTURES)
    losses = wanted.train_steps(x, y, steps=3)
    frozen = x.copy()
    frozen.setflags(write=False)
    for mode in ("r", "c", None):
        mapped_x, mapped_y = (np.load(tmp_path / f"{n}.npy", mmap_mode=mode or "r") for n in "xy")
        given = frozen if mode is None else mapped_x
        assert np.shares_memory(inputs.examples(given, PICTURES), given)
        model = nbnn.compile(PICTURES)
        assert model.train_steps(given, mapped_y, steps=3).tobytes() == losses.tobytes()
        assert everything(model) == everything(wanted)
    assert (tmp_path / "x.npy").read_bytes() == content and np.array_equal(frozen, x)
    for step, function in ((wanted._step, "predict"), (wanted._step, "gradients"), (wanted._trainer, "train")):
        assert len(step.compile(function, ()).signatures) == 1  # nothing was compiled for them alone


def test_fault_23_bytes_and_doubles_are_cast_once_and_never_scaled(pictures):
    x, y = whole_numbers(), np.array([0, 1, 2, 3, 4, 0])
    x[0, 0, 0, 0] = 255
    wanted = scores_and_gradients(pictures, x, y)
    for given in (x.astype(np.uint8), x.astype(np.float64), x.astype(np.int64), x.astype(np.float16)):
        assert scores_and_gradients(pictures, given, y) == wanted
    assert scores_and_gradients(pictures, x / 255, y) != wanted
    third = np.full((1, *PICTURES.input), 1 / 3)
    assert pictures.loss(third).tobytes() == pictures.loss(third.astype(np.float32)).tobytes()
    assert pictures.loss(third).dtype == np.float32
    assert np.shares_memory(inputs.examples(x.astype(np.uint8), PICTURES), x) is False
    assert "uint8, float32 or float64 as they are" in " ".join(nbnn.Model.loss.__doc__.split())


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_fault_24_dropout_at_both_ends(backend):
    x, target = np.ones((2, 37), np.float32), np.zeros((2, 37))
    x[0, 3], x[1, 5] = 3e38, -3e38
    none, all_ = (nbnn.compile(Graph([Affine(37, init="dirac"), Dropout(p)], input=37, loss="mse"), backend=backend)
                  for p in (0, 1))  # fmt: skip
    assert np.array_equal(none.loss(x), x) and np.array_equal(all_.loss(x), x)  # outside training
    loss, grads = all_.loss(x, target)
    assert loss == 0 and not any(g.any() for g in grads.values())
    loss, grads = none.loss(np.ones((2, 37)), target)
    assert loss == 1 and np.allclose(grads["affine1.b"], 2 / 37)
    everywhere = nbnn.compile(Graph([Dropout(1.0)], input=37, loss="mse"), backend=backend)
    assert everywhere.loss(np.full((2, 37), np.inf), target)[0] == 0  # not infinity * 0
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="^Dropout: p must be a number from 0 to 1"):
            Dropout(p)


def test_fault_24_p_is_the_probability_of_dropping():
    model = nbnn.compile(Graph([Affine(4096, init="zeros"), Dropout(0.1)], input=1, loss="mse"), backend="numpy")
    model.params["affine1.b"] = np.ones(4096)
    _, grads = model.loss(np.zeros((1, 1)), np.zeros((1, 4096)))
    assert 0.08 < (grads["affine1.b"] == 0).mean() < 0.12
    assert "p is the probability of dropping" in Dropout.__doc__


def test_fault_24_the_dropout_of_the_course_at_both_ends():
    from nbnn.course import layers

    x = np.ones((5, 7))
    for meaning, p, kept in (("keep", 0, 0), ("keep", 1, 1), ("drop", 0, 1), ("drop", 1, 0)):
        y, held = layers.dropout_forward(x, {"mode": "train", "p": p, "p_means": meaning})
        assert (y == kept).all() and (layers.dropout_backward(x, held) == kept).all()
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"p.* must be a number from 0 to 1, got"):
            layers.dropout_forward(x, {"mode": "train", "p": p})
