"""Trainings for the tests of checkpoints, in this process or as a program that is killed:

    python training.py KIND FOLDER [STEP]

trains into FOLDER, going on from what lies there, prints each line at once, and at the end a hash of all that came of
it. At the given step of writing checkpoints it waits in the middle of one, and says so.
"""

import hashlib
import itertools
import os
import sys
import time

import numpy as np

import nbnn
from nbnn import Affine, Augment, BatchNorm, Conv, Dropout, Graph, MaxPool, ReLU, Solver

HELD = "writing"
PICTURES = Graph(
    [Augment(1), Conv(4, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Dropout(0.3), Affine(3)],
    input=(2, 6, 6),
    loss="softmax",
)
VECTORS = Graph([Affine(12), ReLU(), Dropout(0.5), Affine(3)], input=(72,), loss="svm")


def pictures(seed=0):
    """Three kinds of noise that can nearly be told apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 260)
    x = rng.standard_normal((260, 2, 6, 6), np.float32) + 0.4 * rng.standard_normal((3, 2, 6, 6), np.float32)[y]
    return {"X_train": x[:200], "y_train": y[:200], "X_val": x[200:], "y_val": y[200:]}


def vectors(seed=0):
    return {name: a.reshape(len(a), -1) if name[0] == "X" else a for name, a in pictures(seed).items()}


class Counter:
    """A callback with a state: how often the accuracy got worse."""

    def __init__(self):
        self.worse = 0

    def __call__(self, solver):
        self.worse += len(solver.val_acc_history) > 1 and solver.val_acc_history[-1] < solver.val_acc_history[-2]

    def state_dict(self):
        return {"worse": int(self.worse)}

    def load_state_dict(self, state):
        self.worse = int(state["worse"])


def course_net():
    from nbnn.course.fc_net import FullyConnectedNet

    np.random.seed(3)
    return FullyConnectedNet([10, 8], 72, 3, dropout=0.8, use_batchnorm=True, reg=1e-3, weight_scale=0.1)


# kind -> the model, its data, and how it is trained
KINDS = {
    "pictures": (
        lambda **o: nbnn.compile(PICTURES, seed=1, **o),
        pictures,
        {"update_rule": "adam", "sampling": "epoch", "schedule": "cosine", "optim_config": {"learning_rate": 5e-3}},
    ),
    "vectors": (
        lambda **o: nbnn.compile(VECTORS, seed=2, dtype="float64", **o),
        vectors,
        {
            "update_rule": "adamw",
            "clip": 1.0,
            "reg": 1e-3,
            "average": 0.9,
            "schedule": {"schedule": "one_cycle", "warm_up": 5},
        },
    ),
    "course": (
        lambda **o: course_net(),
        vectors,
        {
            "update_rule": "sgd_momentum",
            "average": 0.5,
            "lr_decay": 0.9,
            "optim_config": {"learning_rate": 1e-2, "momentum": 0.8},
        },
    ),
}
COMMON = {"batch_size": 16, "num_epochs": 6, "print_every": 1, "num_train_samples": 50, "seed": 5, "progress": False}


def solver_of(kind, folder=None, *, model=None, data=None, backend="numpy", **options):
    make, read, settings = KINDS[kind]
    model = make(backend=backend) if model is None else model
    where = {} if folder is None else {"checkpoint": folder, "checkpoint_every": 5}
    return Solver(
        model, read() if data is None else data, **{**COMMON, **settings, **where, "callbacks": [Counter()], **options}
    )


def outcome(solver):
    """A hash of all that a training leaves: weights, running figures, the rule's memory, histories, the callback's
    state."""
    found = hashlib.sha256()
    model = solver.model
    arrays = dict(model.params) | {f"best {n}": a for n, a in solver.best_params.items()}
    arrays |= dict(getattr(model, "state", {}))
    arrays |= {f"rule {n}": a for n, a in solver.trainee.memory().items()}
    arrays |= {f"{i}{k}": a for i, p in enumerate(getattr(model, "bn_params", ())) for k, a in p.items() if k != "mode"}
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    for history in (solver.loss_history, solver.train_acc_history, solver.val_acc_history):
        found.update(np.array(history, float).tobytes())
    found.update(str(sorted(solver.trainee.counts().items())).encode())
    found.update(str([c.state_dict() for c in solver.callbacks if hasattr(c, "state_dict")]).encode())
    return found.hexdigest()


def hold(step):
    """Wait to be killed at that step of writing files. Each takes four: half of it is there, all of it, it is on the
    disk, it has its name."""
    fdopen, steps = os.fdopen, itertools.count(1)

    def wait():
        if next(steps) == step:
            print(HELD, flush=True)
            time.sleep(600)

    def in_halves(*args):
        stream = fdopen(*args)
        write = stream.write

        def write_in_halves(content):
            write(content[: len(content) // 2])
            stream.flush()
            wait()
            write(content[len(content) // 2 :])

        stream.write = write_in_halves
        return stream

    def after_waiting(function):
        return lambda *args: (wait(), function(*args))[1]

    os.fdopen, os.fsync, os.replace = in_halves, after_waiting(os.fsync), after_waiting(os.replace)


def main(kind, folder, step=None):
    if step:
        hold(int(step))
    solver = solver_of(kind, folder, backend="numba", log=lambda line: print(line, flush=True))
    solver.resume()
    solver.train()
    print("outcome", outcome(solver), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
