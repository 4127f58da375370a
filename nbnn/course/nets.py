"""What the nets of the course have in common: arrays under the course's names, in front of a compiled graph.

`params` is a plain dict of plain arrays, because course code replaces them, edits them in place and keeps old ones.
They are copied into the compiled model before it computes, and so are the running figures of batchnorm.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

import nbnn
from nbnn import files, inputs
from nbnn.course.row_layers import Params, kept_share
from nbnn.op import Op
from nbnn.ops import BatchNorm, Dropout
from nbnn.trainees import (
    FIGURES,
    PARTS,
    ArrayDict,
    CompiledTrainee,
    Pause,
    accuracy_of,
    exchanged,
    figures_of,
    put_figures,
)

_FIGURES = ("running_mean", "mean"), ("running_var", "var")  # of a batchnorm: the course's name and ours


@contextlib.contextmanager
def _named(home: str, name: str) -> Iterator[None]:
    """An array that does not fit is called what the course calls it."""
    try:
        yield
    except (TypeError, ValueError) as problem:
        raise type(problem)(str(problem).replace(home, name, 1)) from None


class Net:
    """Its subclasses add their parameters and say in `_nodes` what the graph is. `_homes` gives for each parameter the
    name that the graph has for it, `_norms` for each entry of `bn_params` the node that it belongs to."""

    def __init__(self, input: tuple[int, ...], reg: float, dtype: Any) -> None:
        self.reg, self.dtype = reg, np.dtype(dtype).type
        self.params: dict[str, np.ndarray] = {}
        self.bn_params: list[Params] = []
        self.dropout_param: Params = {}
        self._input = input
        self._homes: dict[str, str] = {}
        self._norms: list[str] = []
        self._built: tuple[list[Op], nbnn.Model] | None = None
        self._steps = 0  # of the net that this one was copied from

    def _add_weights(self, layer: int, node: str, scale: float, *shape: int) -> None:
        """W of that shape, drawn by NumPy's legacy generator, and b; filters come first in a W of pictures."""
        self._add(f"W{layer}", f"{node}.w", scale * np.random.randn(*shape))
        self._add(f"b{layer}", f"{node}.b", np.zeros(shape[0] if len(shape) == 4 else shape[1]))

    def _add_norm(self, layer: int, units: int, *, batch: bool = True) -> None:
        """gamma and beta of a norm; of a batchnorm also its place for running figures."""
        self._add(f"gamma{layer}", f"norm{layer}.gamma", np.ones(units))
        self._add(f"beta{layer}", f"norm{layer}.beta", np.zeros(units))
        self.bn_params.append({"mode": "train"} if batch else {})
        self._norms += [f"norm{layer}"] if batch else []

    def _add(self, name: str, home: str, value: np.ndarray) -> None:
        self.params[name], self._homes[name] = value.astype(self.dtype), home

    def _nodes(self) -> list[Op]:
        raise NotImplementedError

    def _batchnorm(self, place: int) -> BatchNorm:
        whole = isinstance(self.bn_params, (list, tuple)) and len(self.bn_params) >= len(self._norms)
        if not whole or not all(isinstance(param, MutableMapping) for param in self.bn_params):
            raise ValueError(f"bn_params must be a list of a dict for each of the {len(self._norms)} batchnorms")
        param = self.bn_params[place]
        settings = {key: param[key] for key in ("eps", "momentum") if key in param}
        return BatchNorm(name=self._norms[place], **settings)

    def _dropout(self, name: str) -> Dropout:
        return Dropout(1 - kept_share(self.dropout_param), name=name)

    def loss(self, X: Any, y: Any = None) -> Any:
        """`loss(X)` gives the scores in test mode, `loss(X, y)` (loss, gradients by name) in training, with
        0.5 * reg * sum(W * W) over the weights. A loss that is not finite is NaN."""
        x, mode = self._examples(X), "test" if y is None else "train"
        for param in (*self.bn_params[: len(self._norms)], *([self.dropout_param] if self.dropout_param else [])):
            param["mode"] = mode
        model = self.synchronised()
        if "seed" in self.dropout_param:  # the same numbers are dropped each time
            model.seed, model.steps_taken = inputs.seed(self.dropout_param["seed"]), 0
        if y is None:
            return model._forward(x)
        try:
            value, grads = model.loss(x, np.asarray(y), reg=self.reg)
        except FloatingPointError:
            value, grads = np.nan, model.grads.copies()
        if "seed" not in self.dropout_param:
            model.steps_taken += 1  # other numbers are dropped next time
        self._take_figures(model)
        return value, {name: grads[home] for name, home in self._homes.items()}

    def save(self, path: Any) -> None:
        """Write the net as the compiled model that it is: `load` reads it, and so does `nbnn.load`."""
        self.synchronised().save(path)

    def load(self, path: Any) -> None:
        """Take parameters and running figures from a file of `save`, or of the Solver's `checkpoint_name`."""
        found = nbnn.load(path, backend="numpy", dtype=np.dtype(self.dtype).name)
        if found.graph != self._model().graph:
            raise files.FileError(f"{path} holds another net:\n{found.graph}\nThis one is\n{self._model().graph}")
        self._take(found)

    def __getstate__(self) -> Any:
        """Copies, and children of this process, compile the graph anew; they go on with the same random numbers."""
        state = object.__getstate__(self)  # knows __slots__ of a subclass
        own, *slots = state if isinstance(state, tuple) else (state,)
        own = {**own, "_built": None, "_steps": self._built[1].steps_taken if self._built else self._steps}
        return (own, *slots) if slots else own

    def trainee(self, *args: Any, **options: Any) -> Any:
        """What a Solver trains: the compiled step, unless a subclass has a loss of its own."""
        own = getattr(self.loss, "__func__", None) is not Net.loss
        return None if own else _NetTrainee(self, *args, **options)

    def _examples(self, X: Any) -> np.ndarray:
        """Examples in the shape of the input, in a dtype that the graph reads as it is."""
        x = np.asarray(X)
        if x.ndim > 2 and len(self._input) == 1:  # pictures for a net of vectors
            x = x.reshape(len(x), math.prod(x.shape[1:]))
        return inputs.examples(x, self._model().graph)

    def _model(self) -> nbnn.Model:
        """The compiled graph; a new one where the net's settings have changed."""
        nodes = self._nodes()
        if self._built is None or self._built[0] != nodes:
            graph = nbnn.Graph(nodes, input=self._input, loss="softmax")
            model = nbnn.compile(graph, dtype=np.dtype(self.dtype).name)
            model.steps_taken = self._built[1].steps_taken if self._built else self._steps
            self._built = nodes, model
        return self._built[1]

    def synchronised(self) -> nbnn.Model:
        """The compiled graph with our arrays in it."""
        model = self._model()
        self._put(model)
        return model

    def _put(self, model: nbnn.Model) -> None:
        """Our arrays into the model."""
        for name, home in self._homes.items():
            if name not in self.params:
                raise KeyError(f"params has no {name!r}; this net has {', '.join(self._homes)}")
            with _named(home, f"params[{name!r}]"):
                model.params[home] = self.params[name]
        for place, (param, norm) in enumerate(zip(self.bn_params, self._norms, strict=False)):
            for key, own in _FIGURES:
                home = f"{norm}.{own}"
                with _named(home, f'bn_params[{place}]["{key}"]'):
                    model.state[home] = param.get(key, np.zeros(model.state[home].shape))

    def _take_figures(self, model: nbnn.Model) -> None:
        for param, norm in zip(self.bn_params, self._norms, strict=False):
            for key, own in _FIGURES:
                param[key] = np.array(model.state[f"{norm}.{own}"])

    def _take(self, model: nbnn.Model) -> None:
        """The model's arrays into ours: new ones, so that whoever kept an old one sees it unchanged."""
        for name, home in self._homes.items():
            self.params[name] = np.array(model.params[home], order="C")
        self._take_figures(model)


class _NetTrainee(CompiledTrainee):
    """A net of the course under a Solver: whole steps in compiled code. A step whose loss is not finite is counted and
    changes no weight, since course code searches among learning rates that are too large."""

    on_nan = "skip"
    figures = FIGURES

    def __init__(
        self, net: Net, data: Mapping[str, Any], rule: str, config: dict[str, Any], *, reg: float, **options: float
    ) -> None:
        if reg:
            raise ValueError("reg belongs to a compiled model; this net has its own: net.reg")
        self.net = net
        given = {x: net._examples(data[x]) for x, _ in PARTS} | {y: np.asarray(data[y]) for _, y in PARTS}
        super().__init__(net._model(), given, rule, config, reg=0.0, **options)

    def prepare(self) -> None:
        self.model = self.net.synchronised()
        super().prepare()

    def steps(self, rows: np.ndarray, rates: np.ndarray, on_nan: str) -> tuple[np.ndarray, Exception | None]:
        self.model, self.reg = self.net.synchronised(), self.net.reg
        found = super().steps(rows, rates, on_nan)
        self.net._take(self.model)
        return found

    def accuracy(self, x: Any, y: Any, batch_size: int, pause: Pause) -> float:
        self.model = self.net.synchronised()
        return accuracy_of(lambda part: self.model._forward(self.net._examples(part)), x, y, batch_size, pause)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        views = self.model._named("params", self.rule.averaged) if self.rule.averages else {}
        found = {name: np.array(views[home], order="C") for name, home in self.net._homes.items() if views}
        with exchanged(self.net.params, found):
            yield

    def copy(self) -> ArrayDict:
        return {**{name: value.copy() for name, value in self.net.params.items()}, **figures_of(self.net)}

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.net.params = {name: np.array(value) for name, value in self.shown(dict(arrays)).items()}
        put_figures(self.net, arrays)
        self.net._put(self.model)
        self.rule.heal(self.model._params)

    def shown(self, arrays: ArrayDict) -> ArrayDict:
        return {name: arrays[name] for name in self.net._homes if name in arrays}

    def about(self) -> dict[str, Any]:
        dropout = {key: float(value) for key, value in self.net.dropout_param.items() if key in ("p", "seed")}
        told = {**super().about(), "reg": float(self.net.reg), "dropout": dropout}
        del told["model seed"]  # the net's own is in dropout
        return told

    def save(self, path: pathlib.Path) -> None:
        self.net.synchronised().save(path)
