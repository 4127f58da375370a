"""What a Solver trains, behind one face: steps, accuracy, copy, put, save. A compiled model, or any object of the
course's kind."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbnn import cache, inputs, rules
from nbnn.model import Model

PARTS = (("X_train", "y_train"), ("X_val", "y_val"))
Pause = Callable[[], None]  # called between pieces of long work: progress, and a chance to stop


class CompiledTrainee:
    """A compiled model: several whole steps per call, minibatches gathered in compiled code."""

    def __init__(
        self, model: Model, data: dict[str, Any], rule: str, config: dict[str, Any], *, reg: float, clip: float
    ) -> None:
        loss = model._needed_loss()
        self.model, self.reg, self.clip = model, reg, clip
        self.classifies = loss.classifies
        self.data = {}
        for x, y in PARTS:
            self.data[x] = inputs.examples(data[x], model.graph, name=x)
            self.data[y] = self._checked(data[y], len(self.data[x]), y)
            problem = inputs.not_finite(self.data[x], x) or inputs.not_finite(self.data[y], y)
            if problem:
                raise ValueError(problem)
        self.memory = rules.Memory()
        self.memory.use(rule, config, model._params)

    def _checked(self, y: Any, count: int, name: str) -> np.ndarray:
        return (inputs.labels if self.classifies else inputs.targets)(y, count, self.model.graph, name=name)

    def prepare(self) -> None:
        self.model.prepare()

    def steps(self, rows: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, Exception | None]:
        """The losses of the steps that were taken, and what ended them early."""
        x, y = self.data["X_train"], self.data["y_train"]
        losses = self.model._train(self.memory, x, y, rows, rates, reg=self.reg, clip=self.clip)
        if np.isfinite(losses[-1]):
            return losses, None
        return losses[:-1], self.model._explain(x, f"the loss is {losses[-1]}", None, y)

    def accuracy(self, x: Any, y: Any, batch_size: int, pause: Pause) -> float:
        x = inputs.examples(x, self.model.graph)
        y = self._checked(y, len(x), "y")
        total = 0.0
        for first in range(0, len(x), batch_size):
            part = slice(first, first + batch_size)
            found = self.model.evaluate(x[part], y[part])
            total += len(x[part]) * (found["accuracy"] if self.classifies else -found["loss"])
            pause()
        return total / len(x)

    def copy(self) -> dict[str, np.ndarray]:
        return self.model.state_dict()

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        self.model.load_state_dict(arrays)
        self.memory.heal(self.model._params)

    def save(self, path: pathlib.Path) -> None:
        self.model.save(path)


class PlainTrainee:
    """Any object with `params`, `loss(X)` -> scores and `loss(X, y)` -> (loss, gradients): it runs in Python, and like
    the course's Solver goes on when a loss is not finite."""

    def __init__(
        self, model: Any, data: dict[str, Any], rule: str, config: dict[str, Any], *, reg: float, clip: float
    ) -> None:
        if not hasattr(model, "params") or not callable(getattr(model, "loss", None)):
            raise TypeError(
                "Solver trains a model from nbnn.compile, or an object with params, loss(X) and loss(X, y); "
                f"{type(model).__name__} has not both"
            )
        if reg:
            raise ValueError("reg belongs to a compiled model; this model's own loss adds its penalty")
        self.model, self.rule, self.config, self.clip = model, rule, config, clip
        self.data = {k: np.asarray(data[k]) for part in PARTS for k in part}
        self.memories: dict[str, rules.Memory] = {}

    def prepare(self) -> None:
        pass

    def steps(self, rows: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, Exception | None]:
        return np.array([self._step(row, rate) for row, rate in zip(rows, rates, strict=True)]), None

    def _step(self, row: np.ndarray, rate: float) -> float:
        from nbnn.kernels.reference import update

        loss, grads = self.model.loss(self.data["X_train"][row], self.data["y_train"][row])
        shrink = 1.0
        if self.clip:
            norm = np.sqrt(sum(float(np.sum(np.square(g, dtype=float))) for g in grads.values()))
            shrink = min(1.0, self.clip / norm) if norm else 1.0
        for name in list(self.model.params):
            # the course puts a new array: whoever kept the old one sees it unchanged
            w = np.array(self.model.params[name], order="C")
            flat, dw = w.reshape(-1), np.asarray(grads[name], w.dtype).reshape(-1) * w.dtype.type(shrink)
            memory = self.memories.setdefault(name, rules.Memory())
            memory.use(self.rule, {**self.config, "learning_rate": rate}, flat)
            memory.settings[rules.TIME] += 1
            update(memory.code, flat.size if w.ndim > 1 else 0, memory.settings, dw, flat, memory.m, memory.v)
            self.model.params[name] = w
        return float(loss)

    def accuracy(self, x: Any, y: Any, batch_size: int, pause: Pause) -> float:
        return accuracy_of(self.model.loss, x, y, batch_size, pause)

    def copy(self) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in self.model.params.items()}

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        self.model.params = dict(arrays)

    def save(self, path: pathlib.Path) -> None:
        save_arrays(path, self.model.params)


def accuracy_of(scores: Callable[[np.ndarray], np.ndarray], x: Any, y: Any, batch_size: int, pause: Pause) -> float:
    """The share of examples whose highest score is that of their class."""
    x, y = np.asarray(x), np.asarray(y)
    right = 0
    for first in range(0, len(x), batch_size):
        part = slice(first, first + batch_size)
        right += int((np.argmax(scores(x[part]), axis=1) == y[part]).sum())
        pause()
    return right / len(x)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    dense = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    cache.write_atomically(path, save(dense), private=False)
