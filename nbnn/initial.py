"""What parameters and state begin with: a function of the graph and the seed, the same for every dtype and machine."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from nbnn.graph import Graph
from nbnn.op import Array

DRAWN = 1 << 16  # numbers drawn at a time: they are drawn in float64, and a copy of a large array would cost memory


def fill_initial(graph: Graph, seed: int, out: Mapping[str, np.ndarray]) -> None:
    """Fill the arrays, by name and in the shapes that people know. Each has its own random stream, so nodes do not
    disturb each other."""
    for place, node in enumerate(graph.nodes):
        shapes = graph.input_shapes(node)
        for number, (local, array) in enumerate({**node.params(*shapes), **node.state(*shapes)}.items()):
            rng = np.random.default_rng((seed, place, number))
            _fill(out[f"{node.name}.{local}"], array, getattr(node, "scale", 1.0), rng)


def _fill(out: np.ndarray, array: Array, scale: float, rng: np.random.Generator) -> None:
    """he: normal, variance 2 / fan in; xavier: normal, variance 2 / (fan in + fan out); normal: standard deviation
    `scale`."""
    fan_in, fan_out = array.fan
    fans = {"he": fan_in, "xavier": fan_in + fan_out}
    if array.init == "normal":
        _fill_normal(out, scale, rng)
    elif array.init in fans:
        _fill_normal(out, math.sqrt(2 / fans[array.init]), rng)
    elif array.init == "dirac":
        _fill_dirac(out)
    elif array.init.startswith("constant "):
        out[...] = float(array.init.split()[1])
    else:
        out[...] = array.init == "ones"


def _fill_normal(out: np.ndarray, deviation: float, rng: np.random.Generator) -> None:
    rows = max(1, DRAWN // max(1, math.prod(out.shape[1:])))
    for k in range(0, len(out), rows):
        part = out[k : k + rows]
        part[...] = rng.standard_normal(part.shape) * deviation


def _fill_dirac(w: np.ndarray) -> None:
    """Weights that hand the input on: 1 where filter and channel agree, in the middle of the window."""
    both = np.arange(min(w.shape[:2]))
    w[...] = 0
    w[(both, both, *(side // 2 for side in w.shape[2:]))] = 1
