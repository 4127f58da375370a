"""The same nets in PyTorch, built from our graph and holding our weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.nets import LEARNING_RATE
from bench.runner import Task
from nbnn import Graph, Model
from nbnn.graph import INPUT


class Net:
    """A PyTorch module for a graph of the ops that the measured nets use; `names` orders its parameters as ours."""

    def __init__(self, model: Model | Task, *, channels_last: bool = False) -> None:
        self.graph: Graph = model.graph
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.params = {}
        for name, value in model.params.items():
            w = torch.tensor(np.array(value))
            self.params[name] = (w.contiguous(memory_format=self.format) if w.ndim == 4 else w).requires_grad_()
        self.state = {name: torch.tensor(np.array(value)) for name, value in model.state.items()}

    def scores(self, x, training: bool = True):
        """Forward, node by node, as the graph says."""
        tensors = {INPUT: x.contiguous(memory_format=self.format) if x.ndim == 4 else x}
        for node in self.graph.nodes:
            xs = [tensors[i] for i in node.inputs or ()]
            tensors[node.name] = FORWARD[type(node).__name__](
                node,
                xs,
                partial(self._own, self.params, node.name),
                partial(self._own, self.state, node.name),
                training,
            )
        return tensors[self.graph.output]

    @staticmethod
    def _own(arrays: dict, node: str, key: str):
        return arrays.get(f"{node}.{key}")

    def loss(self, x, y, training: bool = True):
        return F.cross_entropy(self.scores(x, training), y)


def _as_it_is(node: Any, x: Any, training: bool) -> Any:
    if training and (node.shift or node.flip):
        raise NotImplementedError("PyTorch has no moves that are a hash of the step")
    return x


def _norm(n, xs, p, groups):
    return F.group_norm(xs[0], groups, p("gamma"), p("beta"), n.eps)


FORWARD: dict[str, Callable] = {
    "Conv": lambda n, xs, p, s, t: F.conv2d(xs[0], p("w"), p("b"), n.stride, n.pad, n.dilation, n.groups),
    "Affine": lambda n, xs, p, s, t: F.linear(xs[0].flatten(1), p("w").T, p("b")),
    "MaxPool": lambda n, xs, p, s, t: F.max_pool2d(xs[0], n.size, n.hop, n.pad),
    "AvgPool": lambda n, xs, p, s, t: F.avg_pool2d(xs[0], n.size, n.hop, n.pad),
    "GlobalAvgPool": lambda n, xs, p, s, t: xs[0].mean((2, 3)),
    "BatchNorm": lambda n, xs, p, s, t: F.batch_norm(
        xs[0], None if t else s("mean"), None if t else s("var"), p("gamma"), p("beta"), t, 1 - n.momentum, n.eps
    ),
    "LayerNorm": lambda n, xs, p, s, t: _norm(n, xs, p, 1),
    "GroupNorm": lambda n, xs, p, s, t: _norm(n, xs, p, n.groups),
    "Dropout": lambda n, xs, p, s, t: F.dropout(xs[0], n.p, t),
    "ReLU": lambda n, xs, p, s, t: F.relu(xs[0]),
    "LeakyReLU": lambda n, xs, p, s, t: F.leaky_relu(xs[0], n.slope),
    "Sigmoid": lambda n, xs, p, s, t: xs[0].sigmoid(),
    "Tanh": lambda n, xs, p, s, t: xs[0].tanh(),
    "GELU": lambda n, xs, p, s, t: F.gelu(xs[0], approximate="tanh"),
    "SiLU": lambda n, xs, p, s, t: F.silu(xs[0]),
    "Flatten": lambda n, xs, p, s, t: xs[0].flatten(1),
    "Add": lambda n, xs, p, s, t: sum(xs[1:], xs[0]),
    "Concat": lambda n, xs, p, s, t: torch.cat(xs, 1),
    "Scale": lambda n, xs, p, s, t: xs[0] * p("gamma").reshape(-1, *[1] * (xs[0].ndim - 2)),
    "Augment": lambda n, xs, p, s, t: _as_it_is(n, xs[0], t),
    "Identity": lambda n, xs, p, s, t: xs[0],
}


class Torch:
    """A training step as PyTorch's users write it when they want it fast."""

    def __init__(self, task: Task, *, channels_last: bool = False, compiled: bool = False) -> None:
        torch.set_flush_denormal(True)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        net = Net(task, channels_last=channels_last)
        self.loss = torch.compile(net.loss) if compiled else net.loss
        self.adam = torch.optim.Adam(list(net.params.values()), lr=LEARNING_RATE, fused=True)
        self.x, self.y = torch.from_numpy(task.x), torch.from_numpy(task.y)

    def steps(self, rows: np.ndarray, rate: float = LEARNING_RATE) -> list[float]:
        self.adam.param_groups[0]["lr"] = rate
        losses = []
        for row in torch.from_numpy(rows):
            loss = self.loss(self.x[row], self.y[row])
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()
            losses.append(loss.detach())
        return [loss.item() for loss in losses]
