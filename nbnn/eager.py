"""One op at once, on arrays of any shape: no net, and no step to compile.

    run = Eager(Conv(8, 3, pad=1), (3, 32, 32), "float32")
    y = run.forward(x, w=w, b=b)
    grads = run.backward(x, dy, w=w, b=b)           # dx, dw, db by these names

An op's own kernel calls, one after the other, each over all threads. A kernel is compiled once for each dtype and kept;
so a new shape costs no compilation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nbnn.arrays import arena, people_view
from nbnn.buffers import layout, seen, slot_counts
from nbnn.inputs import as_gathered, still_whole
from nbnn.kernels.constants import CODES
from nbnn.kernels.engine import slots
from nbnn.lower import tensor_array
from nbnn.op import Array, Call, Form, Op, Shape, call
from nbnn.step import address, launch_alone, most_threads


class _Registers(NamedTuple):
    lanes: int
    dtype: str


class _Memory:
    """The arrays of an op for so many examples, each on memory of its own."""

    def __init__(self, arrays: dict[str, Array], calls: list[Call], dense: bool, count: int, dtype: str) -> None:
        from nbnn.kernels.simd import lanes_of

        forms = [_form(o) for c in calls for o in c.operands if isinstance(o, (str, Form))]
        halos = {f.name: f.settings[0] for f in forms if f.kind == "padded"}
        registers = _Registers(lanes_of(dtype), dtype)
        slots = slot_counts(registers, arrays, calls)
        self.dtype, self.arrays = dtype, arrays
        self.counts = {"n": count, "workers": most_threads()}
        self.buffers = {
            name: layout(
                registers, arrays[name], halos.get(name, 0), dense=dense and name == "x", slots=slots.get(name, 0)
            )
            for name in dict.fromkeys(["x", *(f.name for f in forms)])
        }
        self.memory = {
            name: arena(b.size * {"cap": count, "threads": self.counts["workers"]}.get(b.per, 1), dtype)
            for name, b in self.buffers.items()
        }

    def _number(self, side: Any, name: str) -> int:
        """A side of a shape, which may be a word."""
        if side != "slots":
            return self.counts.get(side, side)
        buffer, count = self.buffers[name], self.counts["n"]
        return slots(count, buffer.share, buffer.slots)

    def operand(self, operand: Any) -> Any:
        """What a kernel gets for it."""
        if not isinstance(operand, (str, Form)):
            return operand
        form = _form(operand)
        if form.kind == "count":
            return self.counts["n"] * form.settings[0]
        if form.kind == "items":
            return self._number("slots", form.name) * form.settings[0]
        shape, strides, offset = seen(self.buffers[form.name], form)
        data = self.memory[form.name]
        steps = [s * data.itemsize for s in strides]
        return np.lib.stride_tricks.as_strided(data[offset:], [self._number(s, form.name) for s in shape], steps)

    def run(self, calls: list[Call]) -> None:
        for c in calls:
            self.launch(c.kernel, *map(self.operand, c.operands))

    def launch(self, kernel: str, *args: Any) -> None:
        launch_alone(kernel, self.dtype, *args)

    def put(self, name: str, value: np.ndarray) -> None:
        """Examples as people see them."""
        still_whole(value, name)
        value = as_gathered(value)
        self.launch("gather", address(value), CODES[value.dtype.name], np.arange(len(value)), self.operand(name))

    def take(self, name: str, shape: Shape) -> np.ndarray:
        out = np.empty((self.counts["n"], *shape), self.dtype)
        self.launch("flatten_forward", self.operand(name), out.reshape(len(out), 1, 1, math.prod(shape)))
        return out

    def people(self, name: str) -> np.ndarray:
        """A parameter or its gradient."""
        return people_view(self.memory[name], self.buffers[name], self.arrays[name])


def _form(operand: str | Form) -> Form:
    return operand if isinstance(operand, Form) else Form("", operand)


class Eager:
    """An op with one input of that shape, which keeps nothing from call to call."""

    def __init__(self, op: Op, shape: Shape, dtype: str) -> None:
        self._title = type(op).__name__
        self.out = op.shape(shape)  # refuses what does not fit, in the name of the op that was asked for
        self.op, self.shape, self.dtype = op.chosen(shape), shape, dtype
        self._params = self.op.params(shape)
        tensors = {name: tensor_array(shape) for name in ("x", "dx")} | {
            name: tensor_array(self.out) for name in ("y", "dy")
        }
        grads = {f"d{name}": array for name, array in self._params.items()}
        self._arrays = {**tensors, **self._params, **grads, **self.op.scratch(shape)}

    def forward(self, x: np.ndarray, **params: np.ndarray) -> np.ndarray:
        """y of x, examples in the shape that people know, uint8, float32 or float64."""
        calls = self.op.forward(self.shape)
        memory = self._memory(calls, x, params)
        memory.run(calls)
        return memory.take("y", self.out)

    def backward(self, x: np.ndarray, dy: np.ndarray, **params: np.ndarray) -> dict[str, np.ndarray]:
        """The gradients of sum(y * dy), by name. What of the forward pass they read is computed again."""
        calls = [*self.op.backward_params(self.shape), *self.op.backward_input(self.shape)]
        before = self.op.forward(self.shape)
        if not self._names(calls) & (self._names(before) - {"x", *self._params}):
            before = []
        if dy.shape != (len(x), *self.out):
            raise ValueError(f"{self._title}: dy must have the shape of y, {(len(x), *self.out)}, got {dy.shape}")
        memory = self._memory([*before, *calls, call("copy", "dy", "dx")], x, params)
        memory.put("dy", dy)
        memory.run([*before, *calls])
        found = {"dx": memory.take("dx", self.shape)}
        return found | {f"d{name}": np.array(memory.people(f"d{name}"), order="C") for name in self._params}

    def _names(self, calls: list[Call]) -> set[str]:
        """The arrays that they read or write, the workers' room left out."""
        names = {_form(o).name for c in calls for o in c.operands if isinstance(o, (str, Form))}
        return {name for name in names if self._arrays[name].memory[0] != "workers"}

    def _memory(self, calls: list[Call], x: np.ndarray, params: dict[str, np.ndarray]) -> _Memory:
        if x.shape[1:] != self.shape:
            raise ValueError(f"{self._title}: x must have shape (N, {str(self.shape)[1:-1]}), got {x.shape}")
        for name, array in self._params.items():
            if params[name].shape != array.shape:
                raise ValueError(f"{self._title}: {name} must have shape {array.shape}, got {params[name].shape}")
        memory = _Memory(self._arrays, calls, self.op.dense_input, len(x), self.dtype)
        memory.put("x", x)
        for name in self._params:
            if name in memory.buffers:
                still_whole(params[name], name)
                memory.people(name)[...] = params[name]
        return memory
