"""Model files: one safetensors file with the arrays by name and the graph as JSON in its header. Nothing in it is ever
executed."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnn import cache
from nbnn.graph import Graph
from nbnn.op import shown
from nbnn.words import plain

if TYPE_CHECKING:
    from nbnn.model import Model

FORMAT = "nbnn 1"
PIECE = 1 << 15  # numbers of an array that are copied at a time
LONGEST_GRAPH = 1 << 19  # letters: as many nodes, inputs and long names as a graph may have take 350,000
MOST_TOLD = 12  # differences that an error lists
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
    write(target, to_bytes(arrays, metadata=header))


def write(path: pathlib.Path, content: bytes) -> None:
    """Write a file of a model whole, or leave what was there."""
    try:
        cache.write_atomically(path, content, private=False)
    except OSError as problem:
        raise OSError(
            problem.errno,
            f"{path} could not be written ({problem.strerror}); the model is still in memory, "
            "and an older file of that name is as it was",
        ) from None


def load(path: Any, *, backend: str = "numba", dtype: str | None = None) -> Model:
    """Read a model file."""
    from nbnn.model import Model

    target = pathlib.Path(path)
    if not target.is_file():
        raise FileNotFoundError(f"there is no file {target}")
    with opened(target) as file:
        header, graph = _header(target, file)
        wanted = header["dtype"] if dtype is None else dtype
        model = Model(graph, dtype=wanted, seed=int(header["seed"]), backend=backend, draw=False)
        model.steps_taken = int(header["steps"])
        found = _checksum_of(header)
        for name in sorted(file.keys()):
            home = (model.params if name in model.params else model.state)[name]
            found = _fill(target, name, home, file.get_slice(name), zlib.crc32(name.encode(), found))
    if header.get("checksum") != f"{found:08x}":
        raise FileError(f"{target} is damaged: its checksum is not that of what it holds")
    return model


@contextlib.contextmanager
def opened(target: pathlib.Path) -> Iterator[Any]:
    """A safetensors file, whose arrays are read when they are asked for."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(target, framework="numpy") as file:
            yield file
    except SafetensorError as problem:
        raise FileError(f"{target} is damaged or no model file: {plain(str(problem))}") from None


def _header(target: pathlib.Path, file: Any) -> tuple[dict[str, str], Graph]:
    """Header and graph of a file. What the file says of itself is held to the graph before any room is made."""
    header = file.metadata() or {}
    if header.get("format") != FORMAT:
        raise FileError(f"{target} is a safetensors file, but no model that nbnn has saved")
    graph = _graph(target, header)
    stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in stored.items()}
    _compare(target, found, header, graph)
    return header, graph


def _fill(target: pathlib.Path, name: str, home: np.ndarray, stored: Any, found: int) -> int:
    """Copy an array into its place in the model, piece by piece, so that it is never there twice; the checksum so far
    is handed on."""
    for where in _pieces(home.shape):
        piece = np.ascontiguousarray(stored[where])
        if not np.isfinite(piece).all():
            raise FileError(f"{target}: {name} holds a NaN or an infinity")
        found = zlib.crc32(piece.data, found)
        home[where] = piece
    return found


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The array cut into runs of memory, one after the other."""
    row = math.prod(shape[1:])
    if row <= PIECE or len(shape) == 1:
        step = max(1, PIECE // max(row, 1))
        for first in range(0, shape[0], step):
            yield (slice(first, min(first + step, shape[0])), *(slice(None),) * (len(shape) - 1))
        return
    for k in range(shape[0]):
        yield from ((slice(k, k + 1), *rest) for rest in _pieces(shape[1:]))


def checksum(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """Of all that a file says: a weight with a turned bit is a weight, so nothing else would tell."""
    found = _checksum_of(header)
    for name in sorted(arrays):
        found = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def _checksum_of(header: Mapping[str, str]) -> int:
    return zlib.crc32(
        "\n".join(sorted(f"{key}={value}" for key, value in header.items() if key != "checksum")).encode()
    )


def _graph(target: pathlib.Path, header: dict[str, str]) -> Graph:
    """The graph in a header whose other entries are right."""
    for key, right, wanted in (
        ("dtype", lambda text: text in DTYPES.values(), "float32 or float64"),
        ("seed", _is_count, "a whole number of at least 0 and below 2**63"),
        ("steps", _is_count, "a whole number of at least 0 and below 2**63"),
    ):
        if not right(header.get(key, "")):
            raise FileError(f"{target}: {key} in its header must be {wanted}, got {shown(header.get(key))}")
    if "graph" not in header:
        raise FileError(f"{target}: its header has no graph")
    if len(header["graph"]) > LONGEST_GRAPH:
        raise FileError(f"{target}: the graph in its header has more than {LONGEST_GRAPH} letters, which no net needs")
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
    for name in sorted(found):
        if name not in wanted:
            problems.append(f"{name if re.fullmatch(r'[A-Za-z0-9_.]{1,100}', name) else shown(name)} is unknown")
    if problems:
        told = [*problems[:MOST_TOLD], *([f"and {len(problems) - MOST_TOLD} more"] if problems[MOST_TOLD:] else [])]
        raise FileError(f"{target}: its arrays do not fit its graph: {'; '.join(told)}")
