"""nbnn: the fastest way to train a small or medium neural net on a CPU, and every line of it can be read."""

import importlib
import os
import pathlib
from typing import TYPE_CHECKING, Any

_root = pathlib.Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir():
    __path__.append(str(_root))  # a checkout: the folder kernels/ beside us is nbnn.kernels, from here on

from nbnn.graph import Graph, GraphError
from nbnn.losses import Mse, Softmax, Svm
from nbnn.ops import (
    GELU,
    Add,
    Affine,
    Augment,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    Identity,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Tanh,
)

if TYPE_CHECKING:
    from nbnn.model import Model, compile, load
    from nbnn.solver import Solver

__version__ = "0.1.0"
__all__ = [
    "GELU",
    "Add",
    "Affine",
    "Augment",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Graph",
    "GraphError",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "MaxPool",
    "Model",
    "Mse",
    "ReLU",
    "Scale",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Solver",
    "Svm",
    "Tanh",
    "compile",
    "load",
]

# imported at first use, so that `import nbnn` stays quick and loads no numba
_LATER = {"Model": "nbnn.model", "compile": "nbnn.model", "load": "nbnn.model", "Solver": "nbnn.solver"}

forks: list[int] = []  # this process, if it was forked: it must not launch the threads of its parent, but works in one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: forks.append(os.getpid()))


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'nbnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
