"""The same nets in PyTorch, built from our graph and holding our weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from nbnn import Graph, Model
from nbnn.graph import INPUT


class Net:
    """A PyTorch module for a graph of the ops that the measured nets use; `names` orders its parameters as ours."""

    def __init__(self, model: Model, *, channels_last: bool = False) -> None:
        import torch

        self.graph: Graph = model.graph
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.params = {}
        for name, value in model.params.items():
            w = torch.tensor(np.array(value))
            self.params[name] = (w.contiguous(memory_format=self.format) if w.ndim == 4 else w).requires_grad_()
        self.state = {name: torch.tensor(np.array(value)) for name, value in model.state.items()}

    def scores(self, x, training: bool = True):
        """Forward, node by node, as the graph says."""
        import torch.nn.functional as F

        tensors = {INPUT: x.contiguous(memory_format=self.format) if x.ndim == 4 else x}
        for node in self.graph.nodes:
            xs = [tensors[i] for i in node.inputs or ()]
            tensors[node.name] = FORWARD[type(node).__name__](
                F,
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
        import torch.nn.functional as F

        return F.cross_entropy(self.scores(x, training), y)


def _norm(F, n, xs, p, groups):
    return F.group_norm(xs[0], groups, p("gamma"), p("beta"), n.eps)


FORWARD: dict[str, Callable] = {
    "Conv": lambda F, n, xs, p, s, t: F.conv2d(xs[0], p("w"), p("b"), n.stride, n.pad, n.dilation, n.groups),
    "Affine": lambda F, n, xs, p, s, t: F.linear(xs[0].flatten(1), p("w").T, p("b")),
    "MaxPool": lambda F, n, xs, p, s, t: F.max_pool2d(xs[0], n.size, n.hop, n.pad),
    "AvgPool": lambda F, n, xs, p, s, t: F.avg_pool2d(xs[0], n.size, n.hop, n.pad),
    "GlobalAvgPool": lambda F, n, xs, p, s, t: xs[0].mean((2, 3)),
    "BatchNorm": lambda F, n, xs, p, s, t: F.batch_norm(
        xs[0], None if t else s("mean"), None if t else s("var"), p("gamma"), p("beta"), t, 1 - n.momentum, n.eps
    ),
    "LayerNorm": lambda F, n, xs, p, s, t: _norm(F, n, xs, p, 1),
    "GroupNorm": lambda F, n, xs, p, s, t: _norm(F, n, xs, p, n.groups),
    "Dropout": lambda F, n, xs, p, s, t: F.dropout(xs[0], n.p, t),
    "ReLU": lambda F, n, xs, p, s, t: F.relu(xs[0]),
    "LeakyReLU": lambda F, n, xs, p, s, t: F.leaky_relu(xs[0], n.slope),
    "Sigmoid": lambda F, n, xs, p, s, t: xs[0].sigmoid(),
    "Tanh": lambda F, n, xs, p, s, t: xs[0].tanh(),
    "GELU": lambda F, n, xs, p, s, t: F.gelu(xs[0], approximate="tanh"),
    "SiLU": lambda F, n, xs, p, s, t: F.silu(xs[0]),
    "Flatten": lambda F, n, xs, p, s, t: xs[0].flatten(1),
    "Add": lambda F, n, xs, p, s, t: sum(xs[1:], xs[0]),
    "Concat": lambda F, n, xs, p, s, t: _cat(xs),
    "Scale": lambda F, n, xs, p, s, t: xs[0] * p("gamma").reshape(-1, *[1] * (xs[0].ndim - 2)),
    "Identity": lambda F, n, xs, p, s, t: xs[0],
}


def _cat(xs):
    import torch

    return torch.cat(xs, 1)


def stepper(
    model: Model, x: np.ndarray, y: np.ndarray, indices: np.ndarray, *, channels_last: bool = False
) -> Callable[[], None]:
    """A call that takes one Adam step per row of indices, gathering each minibatch from x and y."""
    import torch

    torch.set_flush_denormal(True)
    net = Net(model, channels_last=channels_last)
    adam = torch.optim.Adam(list(net.params.values()), lr=1e-3, fused=True)
    data, labels, rows = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(indices)

    def steps() -> None:
        for row in rows:
            loss = net.loss(data[row], labels[row])
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()

    return steps
