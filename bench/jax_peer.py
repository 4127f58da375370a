"""The same nets in JAX: one jit of the whole step (minibatch, forward, backward, Adam), its memory handed on."""

from __future__ import annotations

import os

# XLA makes as many threads as it sees cores, and has no setting for it
if hasattr(os, "sched_setaffinity") and "OMP_NUM_THREADS" in os.environ:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["OMP_NUM_THREADS"])])

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.nets import LEARNING_RATE
from bench.runner import Task
from nbnn.graph import INPUT
from nbnn.op import Op

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Jax:
    """Pictures as NCHW, or with channels last: then the weights are turned once, at the start."""

    def __init__(self, task: Task, *, channels_last: bool = False) -> None:
        self.graph, self.last = task.graph, channels_last
        unknown = {type(n).__name__ for n in self.graph.nodes} - {*dir(self)}
        if unknown:
            raise NotImplementedError(f"no {', '.join(sorted(unknown))} here")
        params = {name: jnp.asarray(self._turned(name, value)) for name, value in task.params.items()}
        zeros = [{name: jnp.zeros_like(value) for name, value in params.items()} for _ in range(2)]
        self.held = (params, *zeros, jnp.zeros(()), jax.random.key(0, impl="rbg"))
        x = task.x.transpose(0, 2, 3, 1) if self.last and task.x.ndim == 4 else task.x
        self.data = jnp.asarray(np.ascontiguousarray(x)), jnp.asarray(task.y)
        self.step = jax.jit(self._step, donate_argnums=0)

    def steps(self, rows: np.ndarray, rate: float = LEARNING_RATE) -> list[float]:
        losses = []
        for row in rows:
            self.held, loss = self.step(self.held, *self.data, row, rate)
            losses.append(loss)
        jax.block_until_ready(self.held)
        return [float(loss) for loss in losses]

    def _step(self, held, x, y, row, rate):
        params, m, v, t, key = held
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(self._loss)(params, x[row], y[row], now)
        t = t + 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, grads)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, grads)
        rate, scale = rate / (1 - BETA1**t), 1 / (1 - BETA2**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v * scale) + EPS), params, m, v)
        return (params, m, v, t, key), loss

    def _loss(self, params, x, y, key):
        tensors = {INPUT: x}
        for place, node in enumerate(self.graph.nodes):
            own = {name.split(".")[1]: w for name, w in params.items() if name.split(".")[0] == node.name}
            xs = [tensors[i] for i in node.inputs]
            tensors[node.name] = getattr(self, type(node).__name__)(node, xs, own, jax.random.fold_in(key, place))
        logs = jax.nn.log_softmax(tensors[self.graph.output])
        return -jnp.take_along_axis(logs, y[:, None], 1).mean()

    def _turned(self, name: str, value: np.ndarray) -> np.ndarray:
        """The weights as this layout wants them: an affine node reads a picture in its own order."""
        if not self.last:
            return value
        if value.ndim == 4:
            return value.transpose(2, 3, 1, 0)
        node = next(n for n in self.graph.nodes if n.name == name.split(".")[0])
        shape = self.graph.input_shapes(node)[0]
        if value.ndim == 2 and len(shape) == 3:
            return value.reshape(*shape, -1).transpose(1, 2, 0, 3).reshape(value.shape)
        return value

    def _wide(self, vector, x):
        """One number for each channel."""
        return vector if self.last or x.ndim == 2 else vector[:, None, None]

    # ---- the ops that the measured nets use, each by its name

    def Conv(self, n: Op, xs, p, key):
        words = ("NHWC", "HWIO", "NHWC") if self.last else ("NCHW", "OIHW", "NCHW")
        y = lax.conv_general_dilated(xs[0], p["w"], (n.stride,) * 2, [(n.pad,) * 2] * 2, dimension_numbers=words)
        return y + self._wide(p["b"], y)

    def Affine(self, n: Op, xs, p, key):
        return xs[0].reshape(len(xs[0]), -1) @ p["w"] + p["b"]

    def BatchNorm(self, n: Op, xs, p, key):
        x = xs[0]
        axes = tuple(k for k in range(x.ndim) if k != (x.ndim - 1 if self.last or x.ndim == 2 else 1))
        mean = x.mean(axes)
        variance = jnp.square(x - self._wide(mean, x)).mean(axes)
        scale = p["gamma"] * lax.rsqrt(variance + n.eps)
        return (x - self._wide(mean, x)) * self._wide(scale, x) + self._wide(p["beta"], x)

    def MaxPool(self, n: Op, xs, p, key):
        """Windows side by side as axes of their own: on CPUs much faster than reduce_window and its gradient."""
        axis, sides = (1, xs[0].shape[1:3]) if self.last else (2, xs[0].shape[2:4])
        if n.hop != n.size or n.pad or any(s % n.size for s in sides):
            raise NotImplementedError(f"no {n} here")
        split = [k for s in sides for k in (s // n.size, n.size)]
        return xs[0].reshape(*xs[0].shape[:axis], *split, *xs[0].shape[axis + 2 :]).max((axis + 1, axis + 3))

    def Dropout(self, n: Op, xs, p, key):
        keep = jax.random.bernoulli(key, 1 - n.p, xs[0].shape)
        return jnp.where(keep, xs[0] / (1 - n.p), 0)

    def ReLU(self, n: Op, xs, p, key):
        return jax.nn.relu(xs[0])

    def Add(self, n: Op, xs, p, key):
        return sum(xs[1:], xs[0])
