"""Model files: one safetensors file with the arrays by name and the graph as JSON in its header. Nothing in it is ever
executed."""

from __future__ import annotations

import contextlib
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnn import cache
from nbnn.graph import Graph

if TYPE_CHECKING:
    from nbnn.model import Model

FORMAT = "nbnn 1"
DTYPES = {"F32": "float32", "F64": "float64"}  # as safetensors calls them, and as we do


class FileError(ValueError):
    """A file that is no model of ours, or a damaged one."""


def save(model: Model, path: Any) -> None:
    """Write the model; the old file stays whole until the new one is complete on disk."""
    from safetensors.numpy import save as to_bytes

    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target} cannot be written: there is no folder {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file in it, such as {target / 'net.safetensors'}")
    arrays = model.state_dict()
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise FileError(
                f"{name} holds a NaN or an infinity, so the model is not saved: nothing could be made of it"
            )
    header = {
        "format": FORMAT,
        "graph": json.dumps(model.graph.to_dict()),
        "dtype": model.dtype,
        "seed": str(model.seed),
        "steps": str(model.steps_taken),
    }
    header["checksum"] = checksum(header, arrays)
    content = to_bytes(arrays, metadata=header)
    try:
        cache.write_atomically(target, content, private=False)
    except OSError as problem:
        raise OSError(
            problem.errno,
            f"{target} could not be written ({problem.strerror}); the model is still in memory, "
            "and an older file of that name is as it was",
        ) from None


def load(path: Any, *, backend: str = "numba", dtype: str | None = None) -> Model:
    """Read a model file."""
    from nbnn.model import Model

    target = pathlib.Path(path)
    if not target.is_file():
        raise FileNotFoundError(f"there is no file {target}")
    header, graph, arrays = _read(target)
    model = Model(graph, dtype=header["dtype"] if dtype is None else dtype, seed=int(header["seed"]), backend=backend)
    model.steps_taken = int(header["steps"])
    model.load_state_dict(arrays)
    return model


@contextlib.contextmanager
def opened(target: pathlib.Path) -> Iterator[Any]:
    """A safetensors file, whose arrays are read when they are asked for."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(target, framework="numpy") as file:
            yield file
    except SafetensorError as problem:
        raise FileError(f"{target} is damaged or no model file: {problem}") from None


def _read(target: pathlib.Path) -> tuple[dict[str, str], Graph, dict[str, np.ndarray]]:
    """Header, graph and arrays of a file. What the file says of itself is held to the graph before any room is made."""
    with opened(target) as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise FileError(f"{target} is a safetensors file, but no model that nbnn has saved")
        graph = _graph(target, header)
        stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in stored.items()}
        _compare(target, found, header, graph)
        arrays = {name: file.get_tensor(name) for name in found}
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise FileError(f"{target}: {name} holds a NaN or an infinity")
    if header.get("checksum") != checksum(header, arrays):
        raise FileError(f"{target} is damaged: its checksum is not that of what it holds")
    return header, graph, arrays


def checksum(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """Of all that a file says: a weight with a turned bit is a weight, so nothing else would tell."""
    told = sorted(f"{key}={value}" for key, value in header.items() if key != "checksum")
    value = zlib.crc32("\n".join(told).encode())
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def _graph(target: pathlib.Path, header: dict[str, str]) -> Graph:
    """The graph in a header whose other entries are right."""
    for key, right, wanted in (
        ("dtype", lambda text: text in DTYPES.values(), "float32 or float64"),
        ("seed", _is_count, "a whole number of at least 0 and below 2**63"),
        ("steps", _is_count, "a whole number of at least 0 and below 2**63"),
    ):
        if not right(header.get(key, "")):
            raise FileError(f"{target}: {key} in its header must be {wanted}, got {header.get(key)!r}")
    if "graph" not in header:
        raise FileError(f"{target}: its header has no graph")
    try:
        return Graph.from_dict(json.loads(header["graph"]))
    except (ValueError, TypeError, OverflowError, RecursionError) as problem:
        raise FileError(f"{target}: the graph in its header is damaged: {problem}") from None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63


def _compare(target: pathlib.Path, found: dict[str, tuple], header: dict[str, str], graph: Graph) -> None:
    """Hold names, shapes and dtypes of the arrays to the graph; the error lists all differences."""
    wanted = {
        f"{node.name}.{local}": array.shape
        for node in graph.nodes
        for kind in (node.params, node.state)
        for local, array in kind(*graph.input_shapes(node)).items()
    }
    problems = []
    for name, right in wanted.items():
        shape, code = found.get(name, (None, ""))
        if shape is None:
            problems.append(f"{name} is missing")
        elif shape != right:
            problems.append(f"{name} must have shape {right}, got {shape}")
        elif DTYPES.get(code) != header["dtype"]:
            problems.append(f"{name} must be {header['dtype']}, got {DTYPES.get(code, code)}")
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    if problems:
        raise FileError(f"{target}: its arrays do not fit its graph: {'; '.join(problems)}")
