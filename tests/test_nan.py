"""A loss or a gradient that is not finite: noticed in the step where it appears, named, and nothing of it stays."""

import numpy as np
import pytest
from training import Counter

import nbnn
from nbnn import Affine, BatchNorm, Conv, Graph, ReLU, Solver

PICTURES = Graph(
    [Conv(3, 3, pad=1), BatchNorm(), ReLU(), Affine(4), BatchNorm(), ReLU(), Affine(3)], input=(2, 5, 4), loss="mse"
)
NUMBERS = Graph([Affine(2, init="zeros"), Affine(1, name="last")], input=(1,), loss="mse")
BACKENDS = pytest.mark.parametrize("backend", ["numba", "numpy"])
BAD = 7


def examples(count=24, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((count, 2, 5, 4), np.float32), rng.standard_normal((count, 3), np.float32)
    y[BAD] *= np.float32(1e30)  # finite, until a loss squares it
    return x, y


def everything(model):
    memory = model._memory
    return [*model.state_dict().values(), memory.m, memory.v, memory.settings, model.steps_taken]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


ROWS = np.array([[0, 1, 2, 3], [4, 5, 6, 8], [9, BAD, 10, 11], [12, 13, 14, 15], [BAD, 16, 17, 18], [19, 20, 21, 22]])
GOOD = ROWS[[0, 1, 3, 5]]


@BACKENDS
def test_a_step_that_is_skipped_changes_nothing(backend):
    """Weights, running figures of the norm before the overflow, the rule's memory: all as if the minibatch had not
    been there."""
    x, y = examples()
    model, other = (nbnn.compile(PICTURES, backend=backend) for _ in range(2))
    losses = model.train_steps(x, y, indices=ROWS, on_nan="skip", reg=0.01, clip=1.0)
    wanted = other.train_steps(x, y, indices=GOOD, reg=0.01, clip=1.0)
    assert np.isfinite(losses).tolist() == [True, True, False, True, False, True]
    assert np.array_equal(losses[np.isfinite(losses)], wanted)
    assert model.steps_taken == 6 and other.steps_taken == 4  # it counts: dropout goes on to other numbers
    model.steps_taken = 4
    assert same(everything(model), everything(other))


@BACKENDS
@pytest.mark.parametrize("on_nan", ["raise", "stop"])
def test_a_step_that_ends_the_call_changes_nothing(backend, on_nan):
    x, y = examples()
    model, other = (nbnn.compile(PICTURES, backend=backend) for _ in range(2))
    if on_nan == "raise":
        with pytest.raises(FloatingPointError) as caught:
            model.train_steps(x, y, indices=ROWS)
        assert str(caught.value) == (
            "the loss is inf at step 3 of this call; the parameters are those of "
            "the step before; lower the learning rate, clip the gradient or scale the data"
        )
    else:
        losses = model.train_steps(x, y, indices=ROWS, on_nan="stop")
        assert np.isfinite(losses).tolist() == [True, True, False]
    other.train_steps(x, y, indices=ROWS[:2])
    assert same(everything(model), everything(other))


@BACKENDS
def test_a_gradient_that_overflows_is_noticed_though_the_loss_is_finite(backend):
    """Scores of 0 for a target of 1e15: the loss is 1e30, and the gradient of the first weights 1e25 * 1e15."""
    model = nbnn.compile(NUMBERS, backend=backend)
    model.params["last.w"] = np.ones((2, 1))
    x, y = np.full((3, 1), 1e25, np.float32), np.full((3, 1), 1e15, np.float32)
    before = [np.array(a) for a in everything(model)[:-1]]
    told, began = "the norm of the gradient is inf", ", beginning with the gradient of affine1.w"
    with pytest.raises(FloatingPointError, match=f"^{told}{began}, though the data"):
        model.loss(x, y)
    with pytest.raises(FloatingPointError, match=f"^{told} at step 1 of this call{began}; "):
        model.train_steps(x, y, update_rule="sgd")
    assert model.train_steps(x, y, update_rule="sgd", on_nan="skip", steps=3).tolist() == pytest.approx(
        [np.nan] * 3, nan_ok=True
    )
    assert same(before[:4], [np.array(a) for a in everything(model)[:4]])


def test_a_gradient_whose_square_overflows_would_spoil_the_memory_of_adam():
    """It is finite itself; its norm is not."""
    model = nbnn.compile(NUMBERS, backend="numpy")
    model.params["last.w"] = np.ones((2, 1))
    with pytest.raises(FloatingPointError, match="^the norm of the gradient is inf at step 1 of this call; "):
        model.train_steps(np.full((3, 1), 1e10), np.full((3, 1), 1e12))


WIDE = Graph([Affine(128, init="zeros"), Affine(1, name="last")], input=(128,), loss="mse")


@BACKENDS
@pytest.mark.parametrize(
    ("size", "targets", "fine"),
    [
        (1.0, (1.0, 2.0), True),  # the bound says so
        (1e12, (1e12, -1e12), True),  # it does not, but examples cancel
        (1e15, (1e10, 1e10), False),  # lengths are finite, their product is too large
        (1e25, (1.0, 1.0), False),  # a length is not finite
    ],
)
def test_what_a_bound_spares_is_looked_at_where_the_bound_is_too_large(backend, size, targets, fine):
    model = nbnn.compile(WIDE, backend=backend)
    assert "launch(trust(affine1_length_x" in model.source()
    model.params["last.w"] = np.ones((128, 1))
    x, y = np.full((2, 128), size, np.float32), np.array(targets, np.float32)[:, None]
    before = model.params["affine1.w"].copy()
    losses = model.train_steps(x, y, update_rule="sgd", on_nan="skip", indices=np.array([[0, 1]]))
    assert np.isfinite(losses).tolist() == [fine]
    assert fine or np.array_equal(model.params["affine1.w"], before)
    assert np.isfinite(model.params["affine1.w"]).all()


@pytest.mark.parametrize("options", [{"reg": 0.1}, {"clip": 0.01}, {"reg": 0.1, "clip": 0.01}], ids=str)
def test_a_bound_is_no_sum_where_sums_are_asked_for(options):
    """It is far above the gradient's length, so that a norm with bounds in it would clip much more."""
    x, y = np.array([[1.0] * 128, [-1.0] * 128]) * 1e3, np.array([[1.0], [1.1]])
    found = []
    for backend in ("numba", "numpy"):
        model = nbnn.compile(WIDE, backend=backend)
        assert "launch(trust(affine1_length_x" in model.source()
        model.params["affine1.w"], model.params["last.w"] = np.full((128, 128), 1e-6), np.ones((128, 1))
        losses = model.train_steps(x, y, update_rule="sgd", optim_config={"learning_rate": 1.0}, **options)
        found.append([losses, *model.state_dict().values()])
    for ours, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-7)


@BACKENDS
def test_a_bound_may_be_beyond_all_numbers(backend):
    model = nbnn.compile(WIDE, backend=backend, dtype="float64")
    model.params["last.w"] = np.ones((128, 1))
    refused(model, np.full((2, 128), 1e100), np.full((2, 1), 1e100))
    x, y = np.full((2, 128), 1e76), np.array([[1e76], [-1e76]])  # the bound's square is beyond 2**990, and they cancel
    assert np.isfinite(model.train_steps(x, y, update_rule="sgd", on_nan="skip", indices=np.array([[0, 1]]))).all()


# Their weights end within a block of `update`, where those of the next node begin.
EDGES = Graph([Affine(131, init="zeros"), Affine(150, init="zeros"), Affine(1, name="last")], input=(150,), loss="mse")


def refused(model, x, y, **options):
    """Every step on these examples; and nothing of it stays."""
    before = model.state_dict()
    losses = model.train_steps(x, y, update_rule="sgd", on_nan="skip", indices=np.array([[0, 1]]), **options)
    assert np.isnan(losses).all()
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())


@BACKENDS
def test_a_bound_says_nothing_of_what_begins_in_its_last_block(backend):
    """The first row of the second weights alone overflows; the bound of the first is 0."""
    model = nbnn.compile(EDGES, backend=backend)
    model.params["affine1.b"] = np.eye(1, 131)[0] * 1e12
    model.params["last.w"] = np.ones((150, 1))
    refused(model, np.zeros((2, 150)), np.full((2, 1), 1e10))


@BACKENDS
def test_a_bound_says_nothing_of_what_ends_in_its_first_block(backend):
    """The last row of the first weights alone overflows; the bound of the second is 0."""
    model = nbnn.compile(EDGES, backend=backend)
    model.params["affine2.w"] = np.repeat([0.0, 1.0], [64, 67])[:, None] * np.ones(150)
    model.params["last.w"] = np.ones((150, 1))
    refused(model, np.eye(1, 150, 149).repeat(2, axis=0) * 1e12, np.full((2, 1), 1e10))


@BACKENDS
@pytest.mark.parametrize(("dtype", "reg"), [("float32", 1e30), ("float64", 1e165)])
def test_what_l2_adds_is_looked_at(backend, dtype, reg):
    model = nbnn.compile(WIDE, backend=backend, dtype=dtype)
    model.params["affine1.w"] = np.full((128, 128), 1e-10)
    model.params["last.w"] = np.zeros((128, 1))
    refused(model, np.zeros((2, 128)), np.ones((2, 1)), reg=reg)


def solver_of(on_nan, **options):
    x, y = examples(60)
    data = {"X_train": x, "y_train": y, "X_val": x[20:], "y_val": y[20:]}
    lines = []
    model = nbnn.compile(PICTURES, backend="numpy")
    settings = {"num_epochs": 3, "batch_size": 10, "sampling": "epoch", "num_train_samples": 1, "print_every": 100}
    return Solver(model, data, on_nan=on_nan, log=lines.append, **settings, **options), lines


def bad_iteration(solver):
    return int(np.flatnonzero((solver._epoch_rows() == BAD).any(axis=1))[0])


def test_the_solver_raises_stops_or_skips():
    solver, _ = solver_of(None)
    bad = bad_iteration(solver)
    with pytest.raises(FloatingPointError, match=f"^iteration {bad + 1}: the loss is inf; lower"):
        solver.train()
    assert len(solver.loss_history) == solver.iteration == bad

    solver, lines = solver_of("stop", callbacks=[Counter()])
    solver.train()
    assert lines[-2].startswith(f"iteration {bad + 1}: the loss is inf; lower")
    assert lines[-1].startswith(f"Stopped by a step that is not finite after iteration {bad} of 18; the model holds")
    assert len(solver.loss_history) == bad

    solver, _ = solver_of("skip")
    solver.train()
    assert solver.iteration == 18 and solver.skipped == 3  # once in each epoch
    assert np.isnan(solver.loss_history).sum() == 3
    assert all(np.isfinite(value).all() for value in solver.model.state_dict().values())


def test_how_many_were_skipped_is_in_checkpoints(tmp_path):
    solver, _ = solver_of("skip", checkpoint=tmp_path)
    solver.train()
    again, _ = solver_of("skip", checkpoint=tmp_path)
    assert again.resume() and again.skipped == 3
    assert np.array_equal(again.loss_history, solver.loss_history, equal_nan=True)


class Students:
    """A student's model whose gradient breaks in its third step."""

    def __init__(self):
        self.params, self.calls = {"w": np.zeros(2)}, 0

    def loss(self, X, y=None):
        if y is None:
            return X[:, :2]
        self.calls += 1
        return 1.0, {"w": np.array([1.0, np.inf if self.calls == 3 else 1.0])}


@pytest.mark.parametrize(("on_nan", "w"), [(None, [-50, -np.inf]), ("skip", [-40, -40]), ("stop", [-20, -20])])
def test_a_students_model_goes_on_unless_told_otherwise(on_nan, w):
    data = {
        "X_train": np.zeros((50, 3)),
        "y_train": np.zeros(50, int),
        "X_val": np.zeros((5, 3)),
        "y_val": np.ones(5, int),
    }
    settings = {"optim_config": {"learning_rate": 10}, "num_epochs": 1, "batch_size": 10, "verbose": False, "log": len}
    solver = Solver(Students(), data, on_nan=on_nan, **settings)
    weights = []
    steps = solver.trainee.steps
    solver.trainee.steps = lambda *a: (steps(*a), weights.append(solver.model.params["w"]))[0]
    solver.train()
    assert weights[-1].tolist() == w
    assert solver.skipped == (on_nan == "skip")
    if on_nan is None:
        with pytest.raises(FloatingPointError, match="^iteration 3: the gradient of w is not finite; lower the"):
            Solver(Students(), data, on_nan="raise", **settings).train()


@pytest.mark.parametrize("word", ["ignore", None, 3])
def test_other_words_are_refused(word):
    model = nbnn.compile(NUMBERS, backend="numpy")
    with pytest.raises(ValueError) as caught:
        model.train_steps(np.zeros((3, 1)), np.zeros((3, 1)), on_nan=word)
    assert str(caught.value) == f"on_nan must be one of 'raise', 'stop', 'skip', got {word!r}"
