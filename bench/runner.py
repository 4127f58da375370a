"""What runs in a child: a task, and one contestant on it.

A contestant is a class. `Contestant(task, **settings)` makes the net of the task with its weights; `steps(rows, rate)`
takes one Adam step for each row of indices and returns the losses once all of them are done. Its module imports all
that it needs at its top, so that imports are over when a clock starts.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import resident
from bench.nets import NETS, graph_of
from nbnn import Graph
from nbnn.initial import fill_initial

CHECKED = 4  # steps whose losses are compared
LEAST_EXAMPLES = 512

# name -> module, class, settings
CONTESTANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours": ("bench.ours", "Ours", {}),
    "torch": ("bench.torch_peer", "Torch", {}),
    "torch last": ("bench.torch_peer", "Torch", {"channels_last": True}),
    # contiguous: channels_last made the compiled step of vgg several times slower
    "torch comp": ("bench.torch_peer", "Torch", {"compiled": True}),
    "jax": ("bench.jax_peer", "Jax", {}),
    "jax NHWC": ("bench.jax_peer", "Jax", {"channels_last": True}),
    "sklearn": ("bench.sklearn_peer", "Sklearn", {}),
    "numpy": ("bench.numpy_peer", "Im2col", {}),
}


@dataclass
class Task:
    """A net, its first weights and its data: the same in every process, since all of it comes from seeds."""

    graph: Graph
    batch: int
    params: dict[str, np.ndarray] = field(init=False)
    state: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        examples = max(2 * self.batch, LEAST_EXAMPLES)
        # small numbers, so that the first steps do not overshoot and blow up what rounding differs in
        self.x = rng.standard_normal((examples, *self.graph.input), np.float32) / 4
        self.y = rng.integers(0, self.graph.output_shape[0], examples)
        self.params, self.state = {}, {}
        for n in self.graph.nodes:
            shapes = self.graph.input_shapes(n)
            for arrays, found in ((self.params, n.params(*shapes)), (self.state, n.state(*shapes))):
                arrays |= {f"{n.name}.{local}": np.empty(array.shape, np.float32) for local, array in found.items()}
        fill_initial(self.graph, 0, {**self.params, **self.state})
        self._rng = np.random.default_rng(1)

    def rows(self, steps: int, batch: int | None = None) -> np.ndarray:
        """The next minibatches."""
        return self._rng.integers(0, len(self.x), (steps, batch or self.batch))


class Runner:
    """The object that a child serves."""

    def start(self, name: str, net: str, batch: int, dropout: bool = True) -> dict[str, Any]:
        """Import the contestant, then make its net and take the first steps: their losses, and how long the first
        took."""
        module, kind, settings = CONTESTANTS[name]
        make = getattr(importlib.import_module(module), kind)
        self.resting = resident.now()
        resident.forget_peak()
        self.task = Task(graph_of(net, dropout=dropout)[0], batch)
        rate = NETS[net].checked_rate
        begun = time.perf_counter()
        self.contestant = make(self.task, **settings)
        self.task.params.clear()  # the contestant has its own, and the task's would count as its memory
        self.task.state.clear()
        losses = self.contestant.steps(self.task.rows(1), rate)
        first = time.perf_counter() - begun
        losses += self.contestant.steps(self.task.rows(CHECKED - 1), rate)
        return {"losses": losses, "first": first}

    def sample(self, steps: int, batch: int | None = None) -> float:
        """Seconds of one step, of several together. The one before them that does not count wakes the threads and
        takes back the caches from whoever computed last; a step that is timed alone is long enough to do without."""
        if steps > 1:
            self.contestant.steps(self.task.rows(1, batch))
        rows = self.task.rows(steps, batch)
        begun = time.perf_counter()
        self.contestant.steps(rows)
        return (time.perf_counter() - begun) / steps

    def peak(self) -> float:
        """MiB that this process has needed at most, above what it had after its imports."""
        return (resident.peak() - self.resting) / 2**20

    def profile(self, repeat: int) -> dict[str, float]:
        return self.contestant.profile(repeat)
