"""Where the time of a step goes, node by node: a text with each call by itself and a tick between its sections. What
is computed once more on the way back counts with the node that reads it, and what a step does about all of its loss and
gradient with the update."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnn import rules
from nbnn.codegen import profiled_text
from nbnn.inputs import positive
from nbnn.kernels.constants import TIME
from nbnn.step import step_of
from nbnn.words import align

if TYPE_CHECKING:
    from nbnn.model import Model


@dataclass(frozen=True)
class Profile:
    """Milliseconds of each part of a training step, the median of several."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        rows = [["part", "ms", "share"]]
        rows += [[name, f"{ms:.3f}", f"{ms / self.total:.1%}"] for name, ms in self.parts.items()]
        return align([*rows, ["all", f"{self.total:.3f}", ""]], right=(1, 2))


def profile(model: Model, X: Any, y: Any, *, update_rule: str = "adam", repeat: int = 20) -> Profile:
    """Take a step of no length with X as one minibatch `repeat` times; the model is left as it is. (Where the gradient
    is not finite the update ends at once, as in training.)"""
    repeat = positive(repeat, "repeat")
    twin = model.twin(apart=True)  # where calls go together, none has a time of its own
    text, titles = profiled_text(twin.lowered)
    step = step_of(text, jitted=model.backend == "numba")
    memory = rules.Memory()
    memory.use(update_rule, {"learning_rate": 0.0}, twin._params)
    memory.settings[TIME] = 1.0
    update = memory.code, twin.lowered.decayed, memory.settings, memory.m, memory.v, np.zeros(1)
    parts = []
    for _ in range(repeat + 1):
        times = np.zeros(len(titles) + 1, np.int64)
        arguments = (*twin.gradient_arguments(X, y), *update, times)
        step.compile("profiled", arguments)
        begun = time.perf_counter()
        step("profiled", *arguments)
        seconds = time.perf_counter() - begun
        ticks = np.diff(times)
        parts.append(ticks * (seconds / ticks.sum() * 1e3))  # a tick has no unit: all of them are the time of the call
    return Profile(dict(zip(titles, np.median(parts[1:], axis=0).tolist(), strict=True)))
