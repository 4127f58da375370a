"""What a Solver trains, behind one face. A compiled model, or any object of the course's kind.

prepare()                     compile what is needed
steps(rows, rates, on_nan)    -> losses, and what ended them early; a step that is not finite is not taken
accuracy(x, y, batch_size, pause)
averaged()                    a context in which the weights are their moving average, if there is one
average_anew()                forget that average
copy(), put(arrays)           weights and running figures by name
shown(arrays)                 those of them that people know as `best_params`
memory(), counts()            what the update rule remembers, and the numbers that go on counting
go_on(arrays, memory, counts) put all of that back
about()                       what must be the same where a training goes on
save(path)                    the weights as a file
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from nbnn import files, inputs, rules
from nbnn.model import Model

PARTS = (("X_train", "y_train"), ("X_val", "y_val"))
Pause = Callable[[], None]  # called between pieces of long work: progress, and a chance to stop
ArrayDict = dict[str, np.ndarray]
Given = dict[str, Any]
FIGURES = ("weights/bn_params.", "best/bn_params.")  # in a checkpoint


class CompiledTrainee:
    """A compiled model: several whole steps per call, minibatches gathered in compiled code."""

    on_nan = "raise"
    figures: tuple[str, ...] = ()  # how names in copy() begin that are not there before the first step

    def __init__(
        self, model: Model, data: Given, rule: str, config: Given, *, reg: float, clip: float, average: float = 0.0
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
        self.rule = rules.Memory()
        self.rule.use(rule, config, model._params, average)

    def _checked(self, y: Any, count: int, name: str) -> np.ndarray:
        return (inputs.labels if self.classifies else inputs.targets)(y, count, self.model.graph, name=name)

    def prepare(self) -> None:
        self.model.prepare()

    def steps(self, rows: np.ndarray, rates: np.ndarray, on_nan: str) -> tuple[np.ndarray, Exception | None]:
        x, y = self.data["X_train"], self.data["y_train"]
        skip = on_nan == "skip"
        found = self.model._train(self.rule, x, y, rows, rates, reg=self.reg, clip=self.clip, skip=skip)
        if skip or not found.broken:
            return found.losses, None
        last = len(found.losses) - 1
        return found.losses[:last], self.model._explain(x, found.what, None, y, rows[last])

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

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        if not self.rule.averages:
            yield
            return
        params = self.model._params
        own = params.copy()
        try:
            params[:] = self.rule.averaged
            yield
        finally:
            params[:] = own

    def average_anew(self) -> None:
        self.rule.settings[rules.AGE] = 0

    def copy(self) -> ArrayDict:
        return self.model.state_dict()

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.model.load_state_dict(dict(arrays))
        self.rule.heal(self.model._params)

    def shown(self, arrays: ArrayDict) -> ArrayDict:
        return arrays

    def memory(self) -> ArrayDict:
        return {
            f"{part}/{name}": value
            for part, arena in self.rule.arenas().items()
            for name, value in self.model._named("params", arena).copies().items()
        }

    def counts(self) -> dict[str, int]:
        settings = self.rule.settings
        counts = {"updates": settings[rules.TIME], "averaged": settings[rules.AGE], "steps": self.model.steps_taken}
        return {what: int(count) for what, count in counts.items()}

    def go_on(self, arrays: ArrayDict, memory: ArrayDict, counts: dict[str, int]) -> None:
        self.put(arrays)
        for part, arena in self.rule.arenas().items():
            views = self.model._named("params", arena)
            for name in views:
                views[name] = memory[f"{part}/{name}"]
        self.rule.settings[[rules.TIME, rules.AGE]] = counts["updates"], counts["averaged"]
        self.model.steps_taken = counts["steps"]

    def about(self) -> dict[str, Any]:
        model = self.model
        return {"graph": model.graph.to_dict(), "dtype": model.dtype, "model seed": model.seed}

    def save(self, path: pathlib.Path) -> None:
        self.model.save(path)


class PlainTrainee:
    """Any object with `params`, `loss(X)` -> scores and `loss(X, y)` -> (loss, gradients): it runs in Python, and like
    the course's Solver goes on when a loss is not finite, unless it is told what to do then."""

    on_nan = "go on"
    figures = FIGURES

    def __init__(
        self, model: Any, data: Given, rule: str, config: Given, *, reg: float, clip: float, average: float = 0.0
    ) -> None:
        if not hasattr(model, "params") or not callable(getattr(model, "loss", None)):
            raise TypeError(
                "Solver trains a model from nbnn.compile, or an object with params, loss(X) and loss(X, y); "
                f"{type(model).__name__} has not both"
            )
        if reg:
            raise ValueError("reg belongs to a compiled model; this model's own loss adds its penalty")
        self.model, self.rule, self.config, self.clip, self.average = model, rule, config, clip, average
        self.data = {k: np.asarray(data[k]) for part in PARTS for k in part}
        self.rules = {name: self._rule_of(name) for name in model.params}

    def _rule_of(self, name: str) -> rules.Memory:
        memory = rules.Memory()
        memory.use(self.rule, self.config, np.array(self.model.params[name]).reshape(-1), self.average)
        return memory

    def prepare(self) -> None:
        pass

    def steps(self, rows: np.ndarray, rates: np.ndarray, on_nan: str) -> tuple[np.ndarray, Exception | None]:
        losses: list[float] = []
        for row, rate in zip(rows, rates, strict=True):
            figures = {} if on_nan == "go on" else figures_of(self.model)
            try:
                loss, grads = self.model.loss(self.data["X_train"][row], self.data["y_train"][row])
            except Exception as problem:  # what was done before it counts
                return np.array(losses), problem
            bad = None if on_nan == "go on" else self._not_finite(loss, grads)
            if bad is not None:
                put_figures(self.model, figures)
                if on_nan != "skip":
                    return np.array(losses), bad
                losses.append(np.nan)
                continue
            self._update(grads, rate)
            losses.append(float(loss))
        return np.array(losses), None

    def _not_finite(self, loss: Any, grads: Mapping[str, np.ndarray]) -> FloatingPointError | None:
        named = {"the loss": loss, **{f"the gradient of {name}": grads[name] for name in self.model.params}}
        for what, value in named.items():
            if not np.isfinite(value).all():
                return FloatingPointError(
                    f"{what} is not finite; lower the learning rate, clip the gradient or scale the data"
                )
        return None

    def _update(self, grads: Mapping[str, np.ndarray], rate: float) -> None:
        from nbnn.kernels.reference import average, update

        shrink = 1.0
        if self.clip:
            norm = np.sqrt(sum(float(np.sum(np.square(g, dtype=float))) for g in grads.values()))
            shrink = min(1.0, self.clip / norm) if norm else 1.0
        for name in list(self.model.params):
            # the course puts a new array: whoever kept the old one sees it unchanged
            w = np.array(self.model.params[name], order="C")
            flat, dw = w.reshape(-1), np.asarray(grads[name], w.dtype).reshape(-1) * w.dtype.type(shrink)
            memory = self.rules[name] = self.rules.get(name) or self._rule_of(name)
            memory.use(self.rule, {**self.config, "learning_rate": rate}, flat, self.average)
            memory.settings[rules.TIME] += 1
            known = rules.unguarded(flat.size)
            update(memory.code, flat.size if w.ndim > 1 else 0, memory.settings, dw, flat, memory.m, memory.v, *known)
            if self.average:
                memory.settings[rules.AGE] += 1
                average(flat, memory.settings, memory.averaged)
            self.model.params[name] = w

    def accuracy(self, x: Any, y: Any, batch_size: int, pause: Pause) -> float:
        return accuracy_of(self.model.loss, x, y, batch_size, pause)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        found = {
            name: np.array(memory.averaged).reshape(np.shape(self.model.params[name]))
            for name, memory in self.rules.items()
            if memory.averages and name in self.model.params
        }
        with exchanged(self.model.params, found):
            yield

    def average_anew(self) -> None:
        for memory in self.rules.values():
            memory.settings[rules.AGE] = 0

    def copy(self) -> ArrayDict:
        return {**{name: np.array(value) for name, value in self.model.params.items()}, **figures_of(self.model)}

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.model.params = {name: np.array(value) for name, value in self.shown(dict(arrays)).items()}
        put_figures(self.model, arrays)

    def shown(self, arrays: ArrayDict) -> ArrayDict:
        return {name: arrays[name] for name in self.model.params if name in arrays}  # sums go in this order

    def memory(self) -> ArrayDict:
        return {
            f"{part}/{name}": np.array(arena)
            for name, memory in self.rules.items()
            for part, arena in memory.arenas().items()
        }

    def counts(self) -> dict[str, int]:
        return {
            f"{what} of {name}": int(memory.settings[place])
            for name, memory in self.rules.items()
            for what, place in (("updates", rules.TIME), ("averaged", rules.AGE))
        }

    def go_on(self, arrays: ArrayDict, memory: ArrayDict, counts: dict[str, int]) -> None:
        self.put(arrays)
        for name, rule in self.rules.items():
            for part, arena in rule.arenas().items():
                arena[...] = memory[f"{part}/{name}"]
            rule.settings[[rules.TIME, rules.AGE]] = counts[f"updates of {name}"], counts[f"averaged of {name}"]

    def about(self) -> dict[str, Any]:
        return {"model": type(self.model).__name__}

    def save(self, path: pathlib.Path) -> None:
        from safetensors.numpy import save

        arrays = {**self.model.params, **figures_of(self.model)}
        files.write(path, save({name: np.ascontiguousarray(value) for name, value in arrays.items()}))


def figures_of(model: Any) -> ArrayDict:
    """The running figures of a model of the course: the arrays in its `bn_params`."""
    return {
        f"bn_params.{place}.{key}": np.array(value)
        for place, param in enumerate(getattr(model, "bn_params", ()))
        if isinstance(param, dict)
        for key, value in param.items()
        if isinstance(value, np.ndarray)
    }


def put_figures(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Put them back: new arrays, and none that were not there then."""
    for place, param in enumerate(getattr(model, "bn_params", ())):
        if isinstance(param, dict):
            for key in [key for key, value in param.items() if isinstance(value, np.ndarray)]:
                del param[key]
            lead = f"bn_params.{place}."
            param |= {n.removeprefix(lead): np.array(value) for n, value in arrays.items() if n.startswith(lead)}


def accuracy_of(scores: Callable[[np.ndarray], np.ndarray], x: Any, y: Any, batch_size: int, pause: Pause) -> float:
    """The share of examples whose highest score is that of their class."""
    x, y = np.asarray(x), np.asarray(y)
    right = 0
    for first in range(0, len(x), batch_size):
        part = slice(first, first + batch_size)
        right += int((np.argmax(scores(x[part]), axis=1) == y[part]).sum())
        pause()
    return right / len(x)


@contextlib.contextmanager
def exchanged(params: MutableMapping[str, Any], others: Mapping[str, Any]) -> Iterator[None]:
    """A context in which these parameters have other values."""
    own = {name: params[name] for name in others}
    try:
        params.update(others)
        yield
    finally:
        params.update(own)
