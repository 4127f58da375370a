"""Model files: one safetensors file with the arrays by name and the graph as JSON in its header. Nothing in it is ever
executed."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnn import cache
from nbnn.graph import Graph

if TYPE_CHECKING:
    from nbnn.model import Model

FORMAT = "nbnn 1"


class FileError(ValueError):
    """A file that is no model of ours, or a damaged one."""


def save(model: Model, path: Any) -> None:
    """Write the model; the old file stays whole until the new one is complete on disk."""
    from safetensors.numpy import save as to_bytes

    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target} cannot be written: there is no folder {target.parent}")
    header = {
        "format": FORMAT,
        "graph": json.dumps(model.graph.to_dict()),
        "dtype": model.dtype,
        "seed": str(model.seed),
        "steps": str(model.steps_taken),
    }
    content = to_bytes(model.state_dict(), metadata=header)
    try:
        cache.write_atomically(target, content)
    except OSError as problem:
        raise OSError(
            problem.errno,
            f"{target} could not be written ({problem.strerror}); the model is still in memory, "
            "and an older file of that name is as it was",
        ) from None


def load(path: Any, *, backend: str = "numba", dtype: str | None = None) -> Model:
    """Read a model file."""
    from safetensors import SafetensorError, safe_open

    from nbnn.model import Model

    target = pathlib.Path(path)
    if not target.is_file():
        raise FileNotFoundError(f"there is no file {target}")
    try:
        with safe_open(target, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise FileError(f"{target} is a safetensors file, but no model that nbnn has saved")
            graph = Graph.from_dict(json.loads(header["graph"]))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            model = Model(graph, dtype=dtype or header.get("dtype", ""), seed=int(header["seed"]), backend=backend)
            model.steps_taken = int(header["steps"])
    except (SafetensorError, KeyError, json.JSONDecodeError, RecursionError) as problem:
        raise FileError(f"{target} is damaged or no model file: {problem}") from None
    except FileError:
        raise
    except (ValueError, TypeError) as problem:
        raise FileError(f"{target} holds no valid model: {problem}") from None
    wrong = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if wrong:
        raise FileError(f"{target}: {wrong[0]} holds a NaN or an infinity")
    try:
        model.load_state_dict(arrays)
    except ValueError as problem:
        raise FileError(f"{target}: {problem}") from None
    return model
