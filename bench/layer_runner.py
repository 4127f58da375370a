"""What runs in a child for a single layer: ours as a step runs it, and PyTorch's functions in both layouts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import nbnn
from bench.nets import LAYERS, Layer
from bench.report import agreed
from bench.timing import median_of
from nbnn import Affine, Conv
from nbnn.lower import TO_INPUT, TO_WEIGHTS

DIRECTIONS = ("forward", TO_INPUT, TO_WEIGHTS)
FEW = 4  # examples that are enough to know that a result is right
LONG = 3e-3  # seconds; a call of at least that is timed once a sample, a shorter one several times


class OurLayer:
    """Reads a layer's parts from the profile of a step, so that all that a step does for it counts. What nets begin
    with is measured as their beginning, but for its gradient to the input, which only a node before it wants."""

    def start(self, place: int, algorithm: str) -> dict[str, float]:
        """Build it; the residual of each direction."""
        layer = LAYERS[place]
        graphs = [layer.graph(before=before) for before in ([False, True] if layer.first else [True])]
        self.node = next(node.name for node in graphs[0].nodes if isinstance(node, type(layer.node)))
        self.models = [nbnn.compile(graph, algorithm=algorithm, batch=layer.n) for graph in graphs]
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((layer.n, *layer.input), np.float32)
        self.y = rng.standard_normal((layer.n, *graphs[0].output_shape), np.float32)
        residuals: dict[str, float] = {}
        for model in self.models:
            residuals = self._residuals(model) | residuals
        return {d: residuals[d] for d in DIRECTIONS if d in residuals}

    def _residuals(self, model: nbnn.Model) -> dict[str, float]:
        """Against the reference in float64. The gradient of the input is seen through that of the scale before the
        layer: for each channel the sum of x * dx, a random combination of all that dx has there."""
        exact = nbnn.compile(model.graph, dtype="float64", backend="numpy")
        exact.load_state_dict(model.state_dict())
        x, y = self.x[:FEW], self.y[:FEW]
        grads, wanted = model.loss(x, y)[1], exact.loss(x, y)[1]
        found = {"forward": agreed(model.loss(x), exact.loss(x))[0]}
        if "scale1.gamma" in grads:
            found[TO_INPUT] = agreed(grads["scale1.gamma"], wanted["scale1.gamma"])[0]
        if f"{self.node}.w" in grads:
            errors = [agreed(grads[f"{self.node}.{own}"], wanted[f"{self.node}.{own}"])[0] for own in "wb"]
            found[TO_WEIGHTS] = float(np.max(errors))  # NaN if one is
        return found

    def sample(self, threads: int, repeat: int) -> dict[str, float]:
        """Milliseconds of each direction, and the machine's limit in GFLOP/s at about the same time."""
        import numba

        from bench import limit

        numba.set_num_threads(threads)
        parts: dict[str, float] = {}
        for model in self.models:
            parts = model.profile(self.x, self.y, update_rule="sgd", repeat=repeat).parts | parts
        found = {d: parts[f"{self.node} {d}"] for d in DIRECTIONS if f"{self.node} {d}" in parts}
        return found | ({"limit": limit.gflops()} if threads == 1 else {})


class TorchLayer:
    """`torch.nn.functional` forward, and what its autograd calls backward, one direction at a time."""

    def start(self, place: int) -> None:
        import torch

        torch.set_flush_denormal(True)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        layer = LAYERS[place]
        formats = [torch.contiguous_format] if len(layer.input) == 1 else [torch.contiguous_format, torch.channels_last]
        self.calls: list[dict[str, Callable[[], Any]]] = [torch_calls(torch, layer, f) for f in formats]

    def sample(self, repeat: int) -> list[dict[str, float]]:
        """Milliseconds of each direction, for each layout."""
        import torch

        with torch.no_grad():
            return [{d: median_of(call, repeat) * 1e3 for d, call in calls.items()} for calls in self.calls]


def torch_calls(torch: Any, layer: Layer, layout: Any) -> dict[str, Callable[[], Any]]:
    """The directions of a layer as calls on tensors of one layout."""
    F, aten, node = torch.nn.functional, torch.ops.aten, layer.node
    x = torch.randn(layer.n, *layer.input)
    if x.ndim == 4:
        x = x.contiguous(memory_format=layout)
    if isinstance(node, Conv):
        w = torch.randn(node.filters, layer.input[0] // node.groups, node.size, node.size)
        w = w.contiguous(memory_format=layout)
        b = torch.randn(node.filters)
        dy = torch.randn_like(F.conv2d(x, w, b, node.stride, node.pad, 1, node.groups))
        settings = ([node.filters], [node.stride] * 2, [node.pad] * 2, [1, 1], False, [0, 0], node.groups)
        return {
            "forward": lambda: F.conv2d(x, w, b, node.stride, node.pad, 1, node.groups),
            TO_INPUT: lambda: aten.convolution_backward(dy, x, w, *settings, [True, False, False]),
            TO_WEIGHTS: lambda: aten.convolution_backward(dy, x, w, *settings, [False, True, True]),
        }
    if isinstance(node, Affine):
        flat = x.flatten(1)
        w, b, dy = torch.randn(node.units, flat.shape[1]), torch.randn(node.units), torch.randn(layer.n, node.units)
        return {
            "forward": lambda: F.linear(flat, w, b),
            TO_INPUT: lambda: dy @ w,
            TO_WEIGHTS: lambda: (dy.T @ flat, dy.sum(0)),
        }
    pool = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    y, places = aten.max_pool2d_with_indices(x, *pool)
    dy = torch.randn_like(y)
    return {
        "forward": lambda: aten.max_pool2d_with_indices(x, *pool),
        TO_INPUT: lambda: aten.max_pool2d_with_indices_backward(dy, x, *pool, places),
    }
