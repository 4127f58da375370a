"""What a Solver trains, behind one face: steps, accuracy, copy, put, save. A compiled model, or any object of the
course's kind."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from nbnn import cache, inputs, rules
from nbnn.model import Model

PARTS = (("X_train", "y_train"), ("X_val", "y_val"))


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
            self.data[y] = (inputs.labels if loss.classifies else inputs.targets)(
                data[y], len(self.data[x]), model.graph, name=y
            )
        model._memory.use(rule, config, model._params)
        model._memory.start(rule, model._params)

    def steps(self, rows: np.ndarray, rates: np.ndarray) -> np.ndarray:
        x = self.data["X_train"]
        losses = self.model._train(x, self.data["y_train"], rows, rates, reg=self.reg, clip=self.clip)
        if len(losses) < len(rows) or not np.isfinite(losses[-1]):
            raise self.model._explain(x, float(losses[-1]), len(losses), self.data["y_train"])
        return losses

    def accuracy(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> float:
        if not self.classifies:
            return -self.model.evaluate(x, y)["loss"]
        return float((self.model._scores(x).argmax(axis=1) == y).mean())

    def copy(self) -> dict[str, np.ndarray]:
        return self.model.state_dict()

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        self.model.load_state_dict(arrays)

    def save(self, path: pathlib.Path) -> None:
        self.model.save(path)


class PlainTrainee:
    """Any object with `params`, `loss(X)` -> scores and `loss(X, y)` -> (loss, gradients): it runs in Python."""

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

    def steps(self, rows: np.ndarray, rates: np.ndarray) -> np.ndarray:
        return np.array([self._step(row, rate) for row, rate in zip(rows, rates, strict=True)])

    def _step(self, row: np.ndarray, rate: float) -> float:
        from nbnn.kernels.reference import update

        loss, grads = self.model.loss(self.data["X_train"][row], self.data["y_train"][row])
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}; lower the learning rate or look for a NaN in the data")
        shrink = 1.0
        if self.clip:
            norm = np.sqrt(sum(float(np.sum(np.square(g, dtype=float))) for g in grads.values()))
            shrink = min(1.0, self.clip / norm) if norm else 1.0
        for name in list(self.model.params):
            w = np.array(
                self.model.params[name]
            )  # the course puts a new array: whoever kept the old one sees it unchanged
            flat, dw = w.reshape(-1), np.asarray(grads[name], w.dtype).reshape(-1) * w.dtype.type(shrink)
            memory = self.memories.setdefault(name, rules.Memory())
            memory.use(self.rule, {**self.config, "learning_rate": rate}, flat)
            memory.settings[rules.RATE] = rate
            memory.settings[rules.TIME] += 1
            update(memory.code, flat.size if w.ndim > 1 else 0, memory.settings, dw, flat, memory.m, memory.v)
            self.model.params[name] = w
        return float(loss)

    def accuracy(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> float:
        parts = [np.argmax(self.model.loss(x[k : k + batch_size]), axis=1) for k in range(0, len(x), batch_size)]
        return float((np.concatenate(parts) == y).mean())

    def copy(self) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in self.model.params.items()}

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        self.model.params = arrays

    def save(self, path: pathlib.Path) -> None:
        from safetensors.numpy import save

        cache.write_atomically(path, save({name: np.ascontiguousarray(v) for name, v in self.model.params.items()}))
