"""What parameters and state begin with: a function of the graph and the seed, the same for every dtype and machine."""

from __future__ import annotations

import math

import numpy as np

from nbnn.graph import Graph
from nbnn.op import Array


def initial_values(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Values by name, in the shapes that people know. Each array has its own random stream, so nodes do not disturb
    each other."""
    values = {}
    for place, node in enumerate(graph.nodes):
        shapes = graph.input_shapes(node)
        for number, (local, array) in enumerate({**node.params(*shapes), **node.state(*shapes)}.items()):
            rng = np.random.default_rng((seed, place, number))
            values[f"{node.name}.{local}"] = _draw(array, getattr(node, "scale", 1.0), rng)
    return values


def _draw(array: Array, scale: float, rng: np.random.Generator) -> np.ndarray:
    """he: normal, variance 2 / fan in; xavier: normal, variance 2 / (fan in + fan out); normal: standard deviation
    `scale`."""
    fan_in, fan_out = array.fan
    if array.init == "he":
        return rng.standard_normal(array.shape) * math.sqrt(2 / fan_in)
    if array.init == "xavier":
        return rng.standard_normal(array.shape) * math.sqrt(2 / (fan_in + fan_out))
    if array.init == "normal":
        return rng.standard_normal(array.shape) * scale
    if array.init == "dirac":
        return _dirac(array.shape)
    if array.init.startswith("constant "):
        return np.full(array.shape, float(array.init.split()[1]))
    return np.ones(array.shape) if array.init == "ones" else np.zeros(array.shape)


def _dirac(shape: tuple[int, ...]) -> np.ndarray:
    """Weights that hand the input on: 1 where filter and channel agree, in the middle of the window."""
    if len(shape) == 2:
        return np.eye(*shape)
    w = np.zeros(shape)
    both = np.arange(min(shape[:2]))
    w[both, both, shape[2] // 2, shape[3] // 2] = 1
    return w
