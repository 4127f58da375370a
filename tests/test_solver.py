"""The Solver: the course's semantics to the letter, schedules, Ctrl-C, and models that are not ours."""

import errno
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import nbnn
from nbnn import Affine, BatchNorm, Dropout, Graph, ReLU, Solver, check, data, schedules
from nbnn.course.fc_net import FullyConnectedNet

GRAPH = Graph([Affine(20), BatchNorm(), ReLU(), Dropout(0.2), Affine(10)], input=(1, 8, 8), loss="softmax")


@pytest.fixture(scope="module")
def digits():
    return data.digits(num_validation=300, num_test=297)


def solver_of(digits, model=None, **options):
    lines = []
    model = nbnn.compile(GRAPH) if model is None else model
    return Solver(model, digits, **{"batch_size": 100, "num_epochs": 2, "log": lines.append, **options}), lines


class Course:
    """A student's own model: softmax regression in NumPy, in the course's shape."""

    def __init__(self, scale=1e-3):
        rng = np.random.default_rng(0)
        self.params = {"W1": scale * rng.standard_normal((64, 10)), "b1": np.zeros(10)}

    def loss(self, X, y=None):
        x = X.reshape(len(X), -1)
        scores = x @ self.params["W1"] + self.params["b1"]
        if y is None:
            return scores
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(len(y)), y]).mean()
        p[np.arange(len(y)), y] -= 1
        p /= len(y)
        return loss, {"W1": x.T @ p, "b1": p.sum(axis=0)}


def test_the_lines_and_histories_are_those_of_the_course(digits):
    solver, lines = solver_of(digits, print_every=5, update_rule="adam")
    solver.train()
    assert solver.iterations_per_epoch == 1200 // 100
    assert [line for line in lines if "Iteration" in line] == [
        f"(Iteration {t + 1} / 24) loss: {solver.loss_history[t]:f}" for t in range(0, 24, 5)
    ]
    epochs = [line for line in lines if "Epoch" in line]
    assert epochs == [
        f"(Epoch {k} / 2) train acc: {train:f}; val_acc: {val:f}"
        for k, (train, val) in enumerate(zip(solver.train_acc_history, solver.val_acc_history, strict=True))
    ]
    assert re.fullmatch(r"\(Epoch 0 / 2\) train acc: \d\.\d{6}; val_acc: \d\.\d{6}", epochs[0])
    assert lines.index(epochs[0]) == 1  # measured after the first iteration
    assert len(solver.loss_history) == solver.iteration == 24
    assert len(solver.val_acc_history) == 3


def test_the_last_iteration_is_measured_once(digits):
    solver, _ = solver_of(digits, num_epochs=1, batch_size=1200)
    solver.train()
    assert len(solver.val_acc_history) == 1  # first, last and epoch's end are the same iteration


def test_a_batch_larger_than_the_data_makes_one_iteration_an_epoch(digits):
    solver, _ = solver_of(digits, num_epochs=3, batch_size=5000)
    solver.train()
    assert solver.iteration == 3


def test_the_best_weights_are_put_back(digits):
    solver, _ = solver_of(digits, update_rule="adam", num_epochs=4, optim_config={"learning_rate": 0.02})
    solver.train()
    assert solver.best_val_acc == max(solver.val_acc_history)
    found = solver.model.evaluate(digits["X_val"], digits["y_val"])
    assert found["accuracy"] == solver.best_val_acc
    for name, value in solver.best_params.items():
        held = solver.model.params if name in solver.model.params else solver.model.state
        assert np.array_equal(held[name], value)
    assert "bn1.mean" in solver.best_params  # running statistics belong to them


def test_the_rate_decays_after_each_epoch(digits, monkeypatch):
    solver, _ = solver_of(digits, num_epochs=3, lr_decay=0.5, optim_config={"learning_rate": 0.4}, verbose=False)
    seen = []
    steps = solver.trainee.steps
    monkeypatch.setattr(
        solver.trainee, "steps", lambda rows, rates, nan: (seen.extend(rates), steps(rows, rates, nan))[1]
    )
    solver.train()
    assert seen == [0.4] * 12 + [0.2] * 12 + [0.1] * 12


def test_minibatches_are_drawn_with_replacement_or_by_epochs(digits):
    solver, _ = solver_of(digits)
    rows = solver._epoch_rows()
    assert rows.shape == (12, 100)
    assert len(np.unique(rows)) < 1000  # 1200 draws out of 1200 meet about 759
    other, _ = solver_of(digits, sampling="epoch")
    assert sorted(other._epoch_rows().ravel()) == list(range(1200))
    other.epoch = 1
    assert not np.array_equal(other._epoch_rows(), solver._epoch_rows())


def test_how_many_steps_a_call_takes_changes_no_bit(digits, monkeypatch):
    found = []
    for alive in (0.0, 0.1):
        monkeypatch.setattr("nbnn.solver.ALIVE", alive)
        solver, _ = solver_of(digits, update_rule="adam", clip=1.0, reg=1e-3)
        solver.train()
        found.append(
            (solver.loss_history, solver.val_acc_history, {k: v.tobytes() for k, v in solver.best_params.items()})
        )
    assert found[0] == found[1]


def test_the_same_seed_gives_the_same_bits(digits):
    histories = []
    for seed in (0, 0, 1):
        solver, _ = solver_of(digits, seed=seed)
        solver.train()
        histories.append(solver.loss_history)
    assert histories[0] == histories[1] != histories[2]


def test_it_learns_the_digits_with_every_rule(digits):
    rates = {
        "sgd": 0.5,
        "sgd_momentum": 0.05,
        "sgd_nesterov_momentum": 0.05,
        "rmsprop": 5e-3,
        "adam": 5e-3,
        "adamw": 5e-3,
        "lion": 5e-3,
    }
    for rule, rate in rates.items():
        solver, _ = solver_of(digits, update_rule=rule, optim_config={"learning_rate": rate}, num_epochs=10)
        solver.train()
        assert solver.best_val_acc > 0.9, rule


@pytest.mark.parametrize("rule", ["sgd", "sgd_momentum", "adam"])
def test_a_students_model_is_trained_as_a_compiled_one(digits, rule):
    """The same softmax regression, once as a course model in Python and once compiled: the same losses."""
    config = {"learning_rate": 0.05}
    theirs, _ = solver_of(digits, Course(), update_rule=rule, optim_config=config)
    theirs.train()
    model = nbnn.compile(Graph([Affine(10)], input=(1, 8, 8), loss="softmax"), dtype="float64")
    model.params["affine1.w"] = Course().params["W1"]
    model.params["affine1.b"] = 0 * model.params["affine1.b"]
    ours, _ = solver_of(digits, model, update_rule=rule, optim_config=config)
    ours.train()
    assert ours.loss_history == pytest.approx(theirs.loss_history, rel=1e-6)
    assert theirs.best_val_acc > 0.5
    assert np.array_equal(theirs.model.params["W1"], theirs.best_params["W1"])


def test_checkpoints_are_written_at_each_measurement(digits, tmp_path):
    solver, _ = solver_of(digits, checkpoint_name=str(tmp_path / "run"))
    solver.train()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"run_epoch_{k}.safetensors" for k in range(3)]
    assert nbnn.load(tmp_path / "run_epoch_2.safetensors").graph == GRAPH
    plain, _ = solver_of(digits, Course(), checkpoint_name=str(tmp_path / "plain"), num_epochs=1)
    plain.train()
    from safetensors.numpy import load_file

    assert set(load_file(tmp_path / "plain_epoch_1.safetensors")) == {"W1", "b1"}


@pytest.mark.parametrize("model", [None, Course], ids=["compiled", "a student's"])
def test_a_disk_that_is_full_at_a_measurement_is_told_in_a_sentence(digits, tmp_path, monkeypatch, model):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    solver, _ = solver_of(digits, *([model()] if model else []), checkpoint_name=str(tmp_path / "run"))
    monkeypatch.setattr("nbnn.files.cache.write_atomically", full)
    with pytest.raises(OSError, match=r"run_epoch_0\.safetensors could not be written \(No space left") as caught:
        solver.train()
    assert caught.value.errno == errno.ENOSPC


def test_a_loss_that_does_not_classify_is_measured_by_its_loss():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    y = x @ rng.standard_normal((6, 2)).astype(np.float32)
    model = nbnn.compile(Graph([Affine(2)], input=6, loss="mse"))
    parts = {"X_train": x[:200], "y_train": y[:200], "X_val": x[200:], "y_val": y[200:]}
    solver = Solver(
        model,
        parts,
        update_rule="adam",
        optim_config={"learning_rate": 0.05},
        num_epochs=40,
        batch_size=20,
        verbose=False,
    )
    solver.train()
    assert -1e-3 < solver.best_val_acc < 0
    assert solver.best_val_acc == max(solver.val_acc_history)


WRONG = [
    ({"learn_rate": 1}, "Solver has no option 'learn_rate'; it has update_rule, optim_config,"),
    ({"batchsize": 1}, "Solver has no option 'batchsize'; did you mean 'batch_size'?"),
    ({"update_rule": "adm"}, "there is no update rule 'adm'; did you mean 'adam'?"),
    ({"optim_config": {"lr": 1}}, "sgd has no setting 'lr'; it has learning_rate"),
    (
        {"update_rule": "adam", "optim_config": {"beta1": 1}},
        "adam: beta1 must be a number of at least 0 and below 1, got 1",
    ),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
    ({"num_epochs": 1.5}, "num_epochs must be a whole number of at least 1, got 1.5"),
    ({"print_every": -1}, "print_every must be a whole number of at least 1, got -1"),
    ({"lr_decay": "fast"}, "lr_decay must be a number of at least 0, got 'fast'"),
    ({"num_val_samples": 0}, "num_val_samples must be a whole number of at least 1, got 0"),
    ({"num_train_samples": "x"}, "num_train_samples must be a whole number of at least 1, got 'x'"),
    ({"schedule": [1]}, "there is no schedule [1]; there are constant, step, cosine, one_cycle"),
    (
        {"schedule": {"schedule": "step", "every": np.nan}},
        "the step schedule: every must be a whole number of at least 1, got nan",
    ),
    ({"sampling": "all"}, "sampling must be 'replacement' or 'epoch', got 'all'"),
    ({"schedule": "cosin"}, "there is no schedule 'cosin'; did you mean 'cosine'?"),
    (
        {"schedule": {"schedule": "cosine", "warmup": 3}},
        "the cosine schedule has no setting 'warmup'; did you mean 'warm_up'?",
    ),
    (
        {"schedule": {"schedule": "step", "every": 0}},
        "the step schedule: every must be a whole number of at least 1, got 0",
    ),
    (
        {"schedule": {"schedule": "cosine", "final": 2}},
        "the cosine schedule: final must be a number from 0 to 1, got 2",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=[s[:40] for _, s in WRONG])
def test_wrong_options_are_refused_in_a_sentence(digits, options, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        solver_of(digits, **options)


def test_wrong_data_and_models_are_refused_in_a_sentence(digits):
    part = {k: v for k, v in digits.items() if k != "X_val"}
    with pytest.raises(ValueError, match="^data has no 'X_val'; it needs X_train, y_train, X_val and y_val$"):
        solver_of(part)
    with pytest.raises(ValueError, match=r"^X_train must have shape \(N, 1, 8, 8\), got \(1200, 8, 8\)"):
        solver_of({**digits, "X_train": digits["X_train"][:, 0]})
    with pytest.raises(IndexError, match="^y_val holds the label 10"):
        solver_of({**digits, "y_val": digits["y_val"] + 1})
    with pytest.raises(TypeError, match="^Solver trains a model from nbnn.compile, or an object with params"):
        solver_of(digits, object())
    with pytest.raises(TypeError, match="^data must be a dict with X_train, y_train, X_val and y_val, got NoneType$"):
        solver_of(None)
    with pytest.raises(TypeError, match="^log must be a function that takes a line, got NoneType$"):
        solver_of(digits, log=None)
    with pytest.raises(FileNotFoundError, match="^checkpoint_name: there is no folder nowhere$"):
        solver_of(digits, checkpoint_name="nowhere/run")
    with pytest.raises(ValueError, match="^reg belongs to a compiled model; this model's own loss adds its penalty$"):
        solver_of(digits, Course(), reg=1.0)


def test_a_loss_that_is_not_finite_ends_with_a_sentence_and_the_best_weights(digits):
    spoilt = {**digits, "X_train": digits["X_train"].copy()}
    spoilt["X_train"][7] = np.nan
    with pytest.raises(ValueError, match="^X_train holds a NaN, first in example 7; remove or replace it"):
        solver_of(spoilt)
    solver, _ = solver_of(digits, optim_config={"learning_rate": 1e30})
    with pytest.raises(
        FloatingPointError, match="^iteration 1: the scores are not finite, beginning with the output of bn1, though"
    ):
        solver.train()


def test_the_accuracy_of_any_array_is_that_of_its_numbers(digits):
    """Views, other dtypes and lists, with and without a draw: nothing but the numbers counts."""
    solver, _ = solver_of(digits, update_rule="adam", optim_config={"learning_rate": 0.02}, num_epochs=4, verbose=False)
    solver.train()
    X, y = digits["X_test"], digits["y_test"]
    wanted = solver.model.evaluate(X, y)["accuracy"]
    wide = np.zeros((2 * len(X), 1, 8, 8))
    wide[::2] = X
    assert wanted > 0.8
    for given in (
        X,
        wide[::2],
        np.asfortranarray(X),
        X.astype(">f8"),
        list(X),
        X.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2),
    ):
        assert solver.check_accuracy(given, y) == pytest.approx(wanted)
        assert solver.check_accuracy(given, list(y), batch_size=7) == pytest.approx(wanted)
    assert solver.check_accuracy(X[::-1], y[::-1]) == pytest.approx(wanted)
    assert abs(solver.check_accuracy(X, y, num_samples=200) - wanted) < 0.1
    with pytest.raises(ValueError, match=r"^X must have shape \(N, 1, 8, 8\), got \(297, 1, 4, 4\)$"):
        solver.check_accuracy(X[:, :, :4, :4], y)


def test_each_solver_keeps_its_own_rule(digits):
    """Neither another Solver on the model nor its own train_steps changes what a Solver does."""
    wanted, _ = solver_of(digits, update_rule="adam", verbose=False)
    wanted.train()
    found, _ = solver_of(digits, update_rule="adam", verbose=False)
    solver_of(digits, found.model, update_rule="sgd")
    before = found.model.state_dict()
    found.model.train_steps(digits["X_train"], digits["y_train"], update_rule="lion")
    found.model.load_state_dict(before)
    found.model.steps_taken = 0
    found.train()
    assert found.loss_history == wanted.loss_history


def test_a_students_arrays_may_lie_in_any_order(digits):
    histories = []
    for order in ("C", "F"):
        model = Course()
        model.params["W1"] = np.array(model.params["W1"], order=order)
        solver, _ = solver_of(digits, model, optim_config={"learning_rate": 0.5})
        solver.train()
        histories.append(solver.loss_history)
    assert histories[0] == pytest.approx(histories[1])
    assert histories[0][-1] < 0.8 * histories[0][0]


def test_a_students_loss_that_is_not_finite_does_not_end_the_training(digits):
    """As in the course: a search over learning rates goes on when one of them is too large."""
    model = Course()
    loss = model.loss
    model.loss = lambda X, y=None: loss(X) if y is None else (np.nan, loss(X, y)[1])
    solver, lines = solver_of(digits, model, num_epochs=1)
    solver.train()
    assert np.isnan(solver.loss_history).all() and len(solver.loss_history) == 12
    assert lines[0] == "(Iteration 1 / 12) loss: nan"


def test_training_again_trains_more(digits):
    solver, lines = solver_of(digits, print_every=1)
    solver.train()
    solver.train()
    assert solver.iteration == len(solver.loss_history) == 48
    assert [line for line in lines if "Iteration" in line][-1].startswith("(Iteration 48 / 48) ")
    assert [line for line in lines if "Epoch" in line][-1].startswith("(Epoch 4 / 4) ")


def test_the_iteration_that_broke_is_named(digits, monkeypatch):
    """Steps of the same call that went well are kept in the histories."""
    solver, _ = solver_of(digits, verbose=False)
    rows = solver._epoch_rows()
    bad = rows[5, 0]
    assert bad not in rows[:5]
    X = digits["X_train"].copy()
    X[bad] = 3e38
    plain = nbnn.compile(Graph([Affine(20), ReLU(), Affine(10)], input=(1, 8, 8), loss="softmax"))
    solver, _ = solver_of({**digits, "X_train": X}, plain, verbose=False, num_train_samples=1)
    with pytest.raises(
        FloatingPointError,
        match="^iteration 6: the loss is nan, beginning with the output of affine1; lower the learning rate",
    ):
        solver.train()
    assert solver.iteration == len(solver.loss_history) == 5
    assert all(np.array_equal(plain.params[name], solver.best_params[name]) for name in plain.params)


# ---- schedules


def rates(schedule, total=100):
    full = schedules.as_schedule(schedule)
    whole = schedules.factors(full, 0, total, total)
    parts = [schedules.factors(full, k, 10, total) for k in range(0, total, 10)]
    assert np.array_equal(whole, np.concatenate(parts))  # asking in pieces changes nothing
    return whole


def test_schedules():
    assert (rates(None) == 1).all()
    cosine = rates("cosine")
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5) and cosine[99] < 1e-3 and (np.diff(cosine) < 0).all()
    assert rates({"schedule": "cosine", "final": 0.2})[99] == pytest.approx(0.2, abs=1e-3)
    step = rates({"schedule": "step", "every": 30, "factor": 0.5})
    assert list(step[[0, 29, 30, 59, 60, 99]]) == [1, 1, 0.5, 0.5, 0.25, 0.125]
    cycle = rates({"schedule": "one_cycle", "peak": 0.25})
    assert cycle.argmax() == 25 and cycle[25] == 1 and cycle[0] == pytest.approx(0.04) and cycle[99] < 2e-3
    warm = rates({"schedule": "constant", "warm_up": 4})
    assert list(warm[:6]) == [0.25, 0.5, 0.75, 1, 1, 1]


# ---- alive and interruptible


def test_progress_never_pauses_long(digits, monkeypatch):
    """Between two looks at progress and Ctrl-C pass less than 0.2 s, measuring the accuracy included."""
    large = {k: np.repeat(v, 30, axis=0) for k, v in digits.items()}
    solver, _ = solver_of(large, num_epochs=1, verbose=False)
    looks = []
    pause = solver._pause
    monkeypatch.setattr(solver, "_pause", lambda: (looks.append(time.perf_counter()), pause())[1])
    solver.train()
    assert len(looks) > 50
    assert solver.iteration == 360
    assert np.quantile(np.diff(looks), 0.98) < 0.2  # a busy machine may hold back one or two


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent with os.kill")
def test_ctrl_c_ends_cleanly_with_the_best_weights():
    code = """
        import nbnn
        from nbnn import Affine, Graph, ReLU, Solver, data
        model = nbnn.compile(Graph([Affine(50), ReLU(), Affine(10)], input=(1, 8, 8), loss="softmax"))
        digits = data.digits()
        solver = Solver(model, digits, update_rule="adam", num_epochs=1000000, print_every=1000)
        solver.train()
        found = model.evaluate(digits["X_val"], digits["y_val"])["accuracy"]
        assert found == solver.best_val_acc, (found, solver.best_val_acc)
        assert len(solver.loss_history) == solver.iteration
        print("ended well")
    """
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in child.stdout:
        if "(Epoch 30 " in line:
            break
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert time.monotonic() - begun < 5
    assert re.search(
        r"Stopped by Ctrl-C after iteration \d+ of \d+; the model holds the best weights so far, val_acc \d\.\d+", out
    )
    assert out.strip().endswith("ended well")
    assert "Traceback" not in err


# ---- the moving average of the weights


AVERAGED = {
    "compiled": lambda: nbnn.compile(GRAPH, seed=1),
    "reference": lambda: nbnn.compile(GRAPH, seed=1, backend="numpy"),
    "course": lambda: FullyConnectedNet([20], input_dim=64, use_batchnorm=True, weight_scale=0.1, dtype=np.float64),
    "own": Course,
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_accuracies_are_those_of_the_moving_average(kind, digits):
    """One step an epoch, so that callbacks see the weights of each step."""
    few = {**digits, "X_train": digits["X_train"][:100], "y_train": digits["y_train"][:100]}
    steps, seen = [], []

    def note(solver):
        steps.append({name: np.array(value) for name, value in solver.model.params.items()})
        with solver.trainee.averaged():
            seen.append({name: np.array(value) for name, value in solver.model.params.items()})
            accuracy = solver.check_accuracy(few["X_val"], few["y_val"])
        assert accuracy == solver.val_acc_history[-1]

    options = {"update_rule": "sgd_momentum", "optim_config": {"learning_rate": 0.05}, "num_epochs": 12}
    solver, _ = solver_of(few, AVERAGED[kind](), average=0.5, callbacks=[note], **options)
    solver.train()
    mean = dict.fromkeys(steps[0], 0)
    for t, weights in enumerate(steps, 1):
        keep = min(0.5, (t - 1) / (t + 9))
        mean = {name: keep * mean[name] + (1 - keep) * value for name, value in weights.items()}
        assert all(check.relative_error(seen[t - 1][name], value) < 1e-5 for name, value in mean.items())
    best = int(np.argmax(solver.val_acc_history))
    for name, value in solver.model.params.items():
        assert np.array_equal(value, seen[best][name]) and not np.array_equal(value, steps[best][name])


def test_a_step_that_is_left_out_is_not_averaged(digits):
    """Its weights are those of the step before, and count once."""
    huge = np.array(digits["X_train"][:100], np.float32)
    huge[7] = 3e38
    data = {**digits, "X_train": np.concatenate([digits["X_train"][:100], huge]), "y_train": digits["y_train"][:200]}
    graph = Graph([Affine(10)], input=(1, 8, 8), loss="softmax")
    left, whole = (
        solver_of(d, nbnn.compile(graph), average=0.9, on_nan="skip", num_epochs=6, callbacks=[])[0]
        for d in (data, digits)
    )
    whole.trainee.data["X_train"], whole.trainee.data["y_train"] = data["X_train"][:100], data["y_train"][:100]
    rows = np.arange(100)[None]
    for k in range(4):
        left.trainee.steps(rows + 100 * (k == 2), np.full(1, 0.1), "skip")
        whole.trainee.steps(rows, np.full(1, 0.1), "skip") if k != 2 else None
    assert left.trainee.rule.averaged.tobytes() == whole.trainee.rule.averaged.tobytes()
    assert left.trainee.counts()["updates"] == 3


@pytest.mark.parametrize("kind", AVERAGED)
def test_weights_before_the_first_step_are_their_own_average(kind, digits):
    """Of the first two steps the first is left out, and no weights but those that the model had are measured."""
    model = AVERAGED[kind]()
    solver, _ = solver_of(digits, model, average=0.9, on_nan="skip", num_epochs=1, batch_size=1200)
    before = {name: np.array(value) for name, value in model.params.items()}
    solver.trainee.steps = lambda rows, rates, on_nan: (np.full(len(rows), np.nan), None)
    solver.train()
    assert solver.skipped == 1 and all(np.array_equal(model.params[name], value) for name, value in before.items())


def test_an_average_that_has_overflowed_begins_anew(digits):
    solver, _ = solver_of(digits, nbnn.compile(GRAPH), average=0.9, num_epochs=1)
    solver.trainee.steps(np.arange(200).reshape(2, 100), np.full(2, 0.1), "raise")
    solver.trainee.rule.averaged[3] = np.inf
    solver.trainee.put(solver.trainee.copy())
    solver.trainee.steps(np.arange(100)[None], np.full(1, 0.1), "raise")
    assert solver.trainee.rule.averaged.tobytes() == solver.model._params.tobytes()


def test_weights_that_were_put_in_are_not_averaged_with_those_before(digits):
    solver, _ = solver_of(
        digits, Course(), average=0.99, num_epochs=2, callbacks=[lambda s: s.iteration == 12 and s.stop()]
    )
    solver.train()
    solver.end = 24
    solver.model.params = Course(scale=1.0).params
    wanted = solver.check_accuracy(digits["X_val"], digits["y_val"])
    solver.optim_config["learning_rate"] = 0.0
    solver.callbacks = []
    solver.train()
    assert wanted < 0.5 and solver.val_acc_history[-1] == wanted


def test_the_average_is_put_into_the_dict_that_parts_of_a_model_share(digits):
    model = Course()
    held = model.params
    solver, _ = solver_of(digits, model, average=0.9, num_epochs=1)
    solver.trainee.steps(np.arange(200).reshape(2, 100), np.full(2, 0.1), "go on")
    own = dict(held)
    with solver.trainee.averaged():
        assert model.params is held and all(not np.array_equal(held[name], own[name]) for name in own)
    assert all(held[name] is own[name] for name in own)


@pytest.mark.parametrize("wrong", [1, 1.5, -0.1, "0.9", True, np.nan])
def test_an_average_that_is_no_share_is_refused(wrong, digits):
    with pytest.raises(ValueError, match="^average must be "):
        solver_of(digits, average=wrong)
