"""What runs in a child for the course: its experiments by ours and by PyTorch, its fast layers, its neighbours."""

from __future__ import annotations

import os
import pathlib
import statistics
import time
from typing import Any

import numpy as np

from bench import resident
from bench.course import EXPERIMENTS, Experiment
from nbnn.course.classifiers import KNearestNeighbor
from nbnn.course.cnn import ThreeLayerConvNet
from nbnn.course.fast_layers import conv_backward_fast, conv_forward_fast
from nbnn.solver import Solver

PARTS = ("X_train", "y_train", "X_val", "y_val")


def solver_of(experiment: Experiment, folder: str, dtype: str = "float32", seed: int = 0) -> Solver:
    """The net with its first weights, and the Solver that draws the minibatches: equal in every process. The weights of
    a float64 net are those of the float32 one."""
    data = {part: np.load(pathlib.Path(folder) / f"{part}.npy") for part in PARTS}
    if experiment.examples is not None:
        data |= {part: data[part][: experiment.examples] for part in PARTS[:2]}
    np.random.seed(seed)
    net = ThreeLayerConvNet(**experiment.net, dtype=dtype)
    net.params = {name: value.astype(np.float32).astype(dtype) for name, value in net.params.items()}
    return Solver(
        net,
        data,
        update_rule="adam",
        optim_config={"learning_rate": experiment.rate},
        num_epochs=experiment.epochs,
        batch_size=experiment.batch,
        verbose=False,
        seed=seed,
    )


def first_rows(solver: Solver, most: int) -> np.ndarray:
    """The minibatches of at most so many first steps."""
    rows: list[np.ndarray] = []
    while len(rows) < most:
        rows += list(solver._epoch_rows())
        solver.epoch += 1
    solver.epoch = 0
    return np.array(rows[: min(most, solver.num_iterations)])


class Ours:
    def first(self, place: int, folder: str, most: int, dtype: str) -> list[float]:
        """The losses of at most so many first steps."""
        solver = solver_of(EXPERIMENTS[place], folder, dtype)
        rows = first_rows(solver, most)
        solver.trainee.prepare()
        losses, _ = solver.trainee.steps(rows, np.full(len(rows), EXPERIMENTS[place].rate), solver.on_nan)
        return losses.tolist()

    def train(self, place: int, folder: str, seed: int) -> dict[str, Any]:
        """All of it, accuracies included; compiled before the clock starts."""
        solver = solver_of(EXPERIMENTS[place], folder, seed=seed)
        solver.trainee.prepare()
        begun = time.perf_counter()
        solver.train()
        return {
            "seconds": time.perf_counter() - begun,
            "steps": solver.iteration,
            "measured": len(solver.val_acc_history),
            "train": max(solver.train_acc_history),
            "val": solver.best_val_acc,
        }


class Torch:
    """The same net, weights and minibatches; the penalty is added as its users write it."""

    def start(self, place: int, folder: str, dtype: str, last: bool) -> None:
        import torch

        from bench.torch_peer import Net

        torch.set_flush_denormal(True)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.torch, self.experiment = torch, EXPERIMENTS[place]
        solver = self.solver = solver_of(self.experiment, folder, dtype)
        model = solver.model._model()
        solver.model._put(model)
        self.net = Net(model, channels_last=last)
        self.x, self.y = torch.from_numpy(solver.X_train), torch.from_numpy(solver.y_train)
        self.dtype = getattr(torch, dtype)

    def steps(self, most: int) -> dict[str, Any]:
        """At most so many first steps: their losses, and the median seconds of one."""
        reg, params = self.experiment.net["reg"], list(self.net.params.values())
        adam = self.torch.optim.Adam(params, lr=self.experiment.rate, fused=True)
        losses, times = [], []
        for row in self.torch.from_numpy(first_rows(self.solver, most)):
            begun = time.perf_counter()
            loss = self.net.loss(self.x[row].to(self.dtype), self.y[row])
            if reg:
                loss = loss + 0.5 * reg * sum((w * w).sum() for w in params if w.ndim > 1)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            losses.append(loss.item())
            times.append(time.perf_counter() - begun)
        return {"losses": losses, "step": statistics.median(times)}

    def accuracies(self) -> dict[str, float]:
        """The accuracy on the validation pictures, and seconds of measuring both as the Solver does it, but in larger
        pieces."""
        begun = time.perf_counter()
        y = self.torch.from_numpy(self.solver.y_val)
        with self.torch.no_grad():
            for x in (self.x[:1000], self.torch.from_numpy(self.solver.X_val)):
                found = [self.net.scores(part.to(self.dtype), training=False).argmax(1) for part in x.split(500)]
                right = self.torch.cat(found)
        return {"seconds": time.perf_counter() - begun, "val": float((right == y).float().mean())}


class Layers:
    """The first call of a fast layer, and those of other shapes after it."""

    def first(self, shapes: list[int]) -> list[float]:
        """Seconds of one convolution, forward and backward, for each number of channels."""
        rng, found = np.random.default_rng(0), []
        for channels in shapes:
            x, w = rng.standard_normal((20, channels, 16, 16)), rng.standard_normal((channels + 1, channels, 3, 3))
            begun = time.perf_counter()
            out, cache = conv_forward_fast(x, w, w[:, 0, 0, 0], {"stride": 1, "pad": 1})
            conv_backward_fast(out, cache)
            found.append(time.perf_counter() - begun)
        return found


class Neighbours:
    """500 rows against 5000, of 3072 numbers."""

    def start(self) -> float:
        """The largest difference between both ways."""
        rng = np.random.default_rng(0)
        x, self.test = (rng.integers(0, 256, (n, 3072)).astype(np.float64) for n in (5000, 500))
        self.knn = KNearestNeighbor()
        self.knn.train(x, rng.integers(0, 10, 5000))
        return float(np.abs(self.knn.compute_distances_no_loops(self.test) - self._product()).max())

    def _product(self) -> np.ndarray:
        """As it is written with NumPy."""
        x, t = self.test, self.knn.X_train
        return np.sqrt((x**2).sum(axis=1)[:, None] + (t**2).sum(axis=1) - 2 * x @ t.T)

    def sample(self, way: str) -> float:
        begun = time.perf_counter()
        if way == "numpy":
            self._product()
        else:
            self.knn.compute_distances_no_loops(self.test)
        return time.perf_counter() - begun

    def needed(self) -> float:
        """MiB that our way needs at most, the data apart."""
        resting = resident.now()
        resident.forget_peak()
        self.knn.predict(self.test, k=5)
        return (resident.peak() - resting) / 2**20
