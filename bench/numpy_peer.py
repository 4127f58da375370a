"""The same net in NumPy, as people write it after a course: windows laid out as columns (im2col), one product, and
back. For chains of convolutions, pools without overlap, affine and ReLU."""

from __future__ import annotations

import numpy as np

from bench.nets import LEARNING_RATE
from bench.runner import Task
from nbnn.op import Op

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Im2col:
    """Each op is two functions here; `kept` is what forward hands to backward."""

    def __init__(self, task: Task) -> None:
        nodes = task.graph.nodes
        unknown = {type(n).__name__ for n in nodes} - {"Conv", "MaxPool", "Affine", "ReLU"}
        if unknown:
            raise NotImplementedError(f"no {', '.join(sorted(unknown))} here")
        self.task = task
        self.params = {name: value.copy() for name, value in task.params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.taken = 0

    def steps(self, rows: np.ndarray, rate: float = LEARNING_RATE) -> list[float]:
        return [self._step(self.task.x[row], self.task.y[row], rate) for row in rows]

    def _step(self, x: np.ndarray, y: np.ndarray, rate: float) -> float:
        kept, n = [], len(x)
        for node in self.task.graph.nodes:
            x, memory = FORWARD[type(node).__name__](node, x, *self._own(node))
            kept.append(memory)
        x = x - x.max(axis=1, keepdims=True)
        logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        dx = np.exp(logs)
        dx[np.arange(n), y] -= 1
        dx /= n
        grads = {}
        for node, memory in zip(reversed(self.task.graph.nodes), reversed(kept), strict=True):
            dx, *own = BACKWARD[type(node).__name__](node, dx, memory, *self._own(node))
            grads |= {f"{node.name}.{key}": g for key, g in zip("wb", own, strict=False)}
        self._adam(grads, rate)
        return float(-logs[np.arange(n), y].mean())

    def _own(self, node: Op) -> list[np.ndarray]:
        return [self.params[f"{node.name}.{key}"] for key in "wb" if f"{node.name}.{key}" in self.params]

    def _adam(self, grads: dict[str, np.ndarray], rate: float) -> None:
        self.taken += 1
        for name, g in grads.items():
            m, v = self.m[name], self.v[name]
            m *= BETA1
            m += (1 - BETA1) * g
            v *= BETA2
            v += (1 - BETA2) * g * g
            mean, square = m / (1 - BETA1**self.taken), v / (1 - BETA2**self.taken)
            self.params[name] -= rate * mean / (np.sqrt(square) + EPS)


def _windows(n: Op, x: np.ndarray) -> np.ndarray:
    """A view (n, c, i, j, u, v) of the padded pictures."""
    x = np.pad(x, ((0, 0), (0, 0), (n.pad, n.pad), (n.pad, n.pad)))
    return np.lib.stride_tricks.sliding_window_view(x, (n.size, n.size), (2, 3))[:, :, :: n.stride, :: n.stride]


def conv(n: Op, x, w, b):
    seen = _windows(n, x)
    count, _, height, width = seen.shape[:4]
    columns = seen.transpose(1, 4, 5, 0, 2, 3).reshape(w[0].size, -1)
    y = w.reshape(len(w), -1) @ columns + b[:, None]
    return y.reshape(len(w), count, height, width).transpose(1, 0, 2, 3), (columns, x.shape)


def conv_back(n: Op, dy, kept, w, b):
    columns, (count, channels, height, width) = kept
    rows, cols = dy.shape[2:]
    dy = dy.transpose(1, 0, 2, 3).reshape(len(w), -1)
    parts = (w.reshape(len(w), -1).T @ dy).reshape(channels, n.size, n.size, count, rows, cols)
    dx = np.zeros((channels, count, height + 2 * n.pad, width + 2 * n.pad), dy.dtype)
    for u in range(n.size):
        for v in range(n.size):
            dx[:, :, u : u + n.stride * rows : n.stride, v : v + n.stride * cols : n.stride] += parts[:, u, v]
    dx = dx[:, :, n.pad : n.pad + height, n.pad : n.pad + width].transpose(1, 0, 2, 3)
    return dx, (dy @ columns.T).reshape(w.shape), dy.sum(axis=1)


def pool(n: Op, x):
    count, channels, height, width = x.shape
    if n.hop != n.size or n.pad or height % n.size or width % n.size:
        raise NotImplementedError(f"no {n} here")
    tiles = x.reshape(count, channels, height // n.size, n.size, width // n.size, n.size)
    y = tiles.max(axis=(3, 5))
    return y, (tiles, y)


def pool_back(n: Op, dy, kept):
    """Equal numbers share the gradient; behind a ReLU that is the same, since it lets none of a tie at 0 through."""
    tiles, y = kept
    at_most = tiles == y[:, :, :, None, :, None]
    share = dy / at_most.sum(axis=(3, 5))
    dx = at_most * share[:, :, :, None, :, None].astype(dy.dtype)
    return (dx.reshape(*dx.shape[:2], dx.shape[2] * n.size, -1),)


def affine(n: Op, x, w, b):
    flat = x.reshape(len(x), -1)
    return flat @ w + b, (flat, x.shape)


def affine_back(n: Op, dy, kept, w, b):
    flat, shape = kept
    return (dy @ w.T).reshape(shape), flat.T @ dy, dy.sum(axis=0)


def relu(n: Op, x):
    return np.maximum(x, 0), x > 0


def relu_back(n: Op, dy, kept):
    return (dy * kept,)


FORWARD = {"Conv": conv, "MaxPool": pool, "Affine": affine, "ReLU": relu}
BACKWARD = {"Conv": conv_back, "MaxPool": pool_back, "Affine": affine_back, "ReLU": relu_back}
