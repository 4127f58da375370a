"""Long runs: 200,000 steps leave memory as it is, take as long at the end as at the beginning, and give the same bits
each time. Each run has a process of its own."""

import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from soak import tell, times
from test_kernels import _child

import nbnn
from nbnn import Affine, BatchNorm, Dropout, Graph, ReLU

STEPS = 200_000
CALL = 200  # steps of a call
WARM = 1000  # steps before anything is measured
MOST_GROWTH = 2**20  # bytes
MOST_DRIFT = 1.5  # machines are noisy; the median of many calls, each beside a yardstick, is less so
SAME = np.linspace(-1, 1, 4096)
ROOM = np.empty_like(SAME)
NET = Graph([Affine(16), BatchNorm(), ReLU(), Dropout(0.2), Affine(3)], input=(10,), loss="softmax")

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((200, 10)).astype(np.float32), rng.integers(0, 3, 200)


def resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def yardstick() -> float:
    """Seconds of work that is always the same: how fast the machine is at the moment."""
    begun = time.perf_counter()
    np.tanh(SAME, out=ROOM)
    return time.perf_counter() - begun


def drift(seconds: np.ndarray) -> float:
    """How many times as long the last tenth of the calls took as the first."""
    tenth = max(1, len(seconds) // 10)
    return float(np.median(seconds[-tenth:]) / np.median(seconds[:tenth]))


def digest(model: nbnn.Model) -> str:
    """Of everything that the steps leave behind."""
    arrays = [*model.state_dict().values(), model._memory.m, model._memory.v]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def report(growth: int, seconds: np.ndarray, yards: np.ndarray, **others: object) -> None:
    sys.stdout.write(json.dumps({"growth": growth, "drift": drift(seconds / yards), **others}))


def run_steps(steps: int, of_a_call: int, after: Callable[[], object] = lambda: None, nudge: int = 0) -> None:
    """Train, `of_a_call` steps at a time; `after` runs after each call. `nudge` moves one weight by so many bits."""
    x, y = data()
    model = nbnn.compile(NET, seed=0)
    model.params["affine1.w"].reshape(-1)[:1].view(np.int32)[0] += nudge
    rng, before, losses = np.random.default_rng(1), 0, hashlib.sha256()
    seconds, yards = np.ones((2, steps // of_a_call))  # which must not grow themselves
    for k in range(len(seconds)):
        rows = rng.integers(0, len(x), (of_a_call, 20))
        begun = time.perf_counter()
        found = model.train_steps(x, y, indices=rows, reg=1e-4, clip=5.0)
        seconds[k], yards[k] = time.perf_counter() - begun, yardstick()
        losses.update(found.tobytes())
        after()
        if (k + 1) * of_a_call == WARM:
            before = resident()
    assert model.steps_taken == steps
    growth, seconds, yards = resident() - before, seconds[WARM // of_a_call :], yards[WARM // of_a_call :]
    step = np.median(seconds) / of_a_call
    report(growth, seconds, yards, bits=digest(model) + losses.hexdigest(), step=step)


def run_other_calls(calls: int) -> None:
    """What else is called over and over: losses, predictions, figures, and steps of all of X."""
    x, y = (a[:20] for a in data())
    model = nbnn.compile(NET, seed=0)
    (seconds, yards), before = np.ones((2, calls)), 0
    for k in range(calls):
        begun = time.perf_counter()
        model.loss(x, y, reg=1e-4)
        model.predict(x)
        model.evaluate(x, y)
        model.predict_proba(x[:3])
        model.train_steps(x, y, steps=2, update_rule=("adam", "sgd")[k % 2])
        seconds[k], yards[k] = time.perf_counter() - begun, yardstick()
        if k == WARM:
            before = resident()
    report(resident() - before, seconds[WARM:], yards[WARM:])


def run_solver(steps: int) -> None:
    """The same through a Solver, an epoch of 1,000 steps at a time. The histories that it keeps do not count."""
    x, y = data()
    data_of_epochs = {"X_train": np.tile(x, (100, 1)), "y_train": np.tile(y, 100), "X_val": x, "y_val": y}
    model, marks, yards, before = nbnn.compile(NET, seed=0), [], [], 0
    solver = nbnn.Solver(
        model, data_of_epochs, batch_size=20, num_epochs=steps // 1000, num_train_samples=200, verbose=False
    )
    measure = solver.check_accuracy

    def without_histories() -> int:
        kept = (solver.loss_history, solver.train_acc_history, solver.val_acc_history)
        # a list that has grown leaves the memory of the shorter one to the allocator
        return resident() - sum(2 * sys.getsizeof(history) + 32 * len(history) for history in kept)

    def measured(*args: object, **options: object) -> float:
        nonlocal before
        marks.append(time.perf_counter())
        yards.append(yardstick())
        if len(marks) == 10:  # accuracies are measured twice an epoch
            before = without_histories()
        return measure(*args, **options)

    solver.check_accuracy = measured
    solver.train()
    assert len(solver.loss_history) == steps
    report(without_histories() - before, np.diff(marks[11::2]), np.array(yards[13::2]), bits=digest(model))


def child(call: str) -> dict:
    found = _child(f"import test_long as t; t.{call}")
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout)


def demand_flat(found: dict) -> None:
    assert found["growth"] < MOST_GROWTH, f"memory grew by {found['growth']:,} bytes"
    assert found["drift"] < MOST_DRIFT, f"a call takes {found['drift']:.2f} times as long as at the beginning"


def best(call: str) -> dict:
    """Of up to three runs the first without drift, which other programs on the machine can cause as well."""
    for _ in range(3):
        found = child(call)
        if found["drift"] < MOST_DRIFT:
            break
    return found


@LINUX
def test_200_000_steps_leave_memory_and_time_as_they_were_and_give_the_same_bits():
    found, again = best(f"run_steps({STEPS}, {CALL})"), child(f"run_steps({STEPS}, {CALL})")
    demand_flat(found)
    assert found["bits"] == again["bits"]
    tell("steps of the long run", STEPS)
    tell("bytes of memory that the long run has gained after 1,000 steps", max(0, found["growth"]))
    tell("time of a step at the end of the long run over that at its beginning", round(found["drift"], 2))
    tell("microseconds of a step of the long run", round(1e6 * found["step"], 1))


@LINUX
@pytest.mark.parametrize(
    "call",
    [
        f"run_steps({times(20_000, STEPS)}, 1)",
        f"run_other_calls({times(5_000, STEPS)})",
        f"run_solver({times(10_000, STEPS)})",
    ],
    ids=["a call for each step", "losses and predictions", "a Solver"],
)
def test_calls_leave_memory_and_time_as_they_were(call):
    demand_flat(best(call))


# ---- the checks can fail


@LINUX
def test_a_leak_of_a_kilobyte_a_step_is_found():
    with pytest.raises(AssertionError, match="memory grew by"):
        demand_flat(child(f"run_steps(5000, {CALL}, lambda kept=[]: kept.append(bytearray(1024 * {CALL})))"))


def test_steps_that_become_slower_are_found():
    rng = np.random.default_rng(0)
    noisy = (1 + 0.2 * rng.standard_normal(1000)) * np.where(rng.random(1000) < 0.02, 50, 1)
    assert drift(noisy) < MOST_DRIFT
    with pytest.raises(AssertionError, match="times as long"):
        demand_flat({"growth": 0, "drift": drift(noisy * np.linspace(1, 2, 1000))})


@LINUX
def test_another_bit_is_found():
    one, same, other = (child(f"run_steps(1000, {c}, nudge={n})")["bits"] for c, n in ((200, 0), (100, 0), (200, 1)))
    assert one == same and one != other  # steps are the same steps in any number of calls
