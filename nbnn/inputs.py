"""What people hand in is held to what the net reads, here and nowhere else; every sentence says what to do."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

from nbnn.graph import Graph
from nbnn.kernels.constants import CODES  # the dtypes that a gather reads as they are
from nbnn.op import real, whole


def examples(x: Any, graph: Graph, *, name: str = "X") -> np.ndarray:
    """Examples as one C-ordered array of uint8, float32 or float64: the array itself where it is one already."""
    given = _real_array(x, name)
    wanted = f"(N, {', '.join(map(str, graph.input))})"
    if given.ndim == 0 or given.shape[1:] != graph.input:
        hint = "; add the batch dimension: X[None]" if given.shape == graph.input else ""
        if given.ndim == 4 and len(graph.input) == 3 and (given.shape[3], *given.shape[1:3]) == graph.input:
            hint = "; channels come first: X.transpose(0, 3, 1, 2)"
        if given.ndim == 3 and (1, *given.shape[1:]) == graph.input:
            hint = "; add the channel dimension: X[:, None]"
        if given.ndim == 2 and len(graph.input) == 3 and given.shape[1] == np.prod(graph.input):
            hint = f"; give the examples their shape: X.reshape(-1, {', '.join(map(str, graph.input))})"
        if given.ndim > 2 and len(graph.input) == 1 and np.prod(given.shape[1:]) == graph.input[0]:
            hint = "; flatten the examples: X.reshape(len(X), -1)"
        raise ValueError(f"{name} must have shape {wanted}, got {given.shape}{hint}")
    if given.shape[0] == 0:
        raise ValueError(f"{name} holds no example: its shape is {given.shape}; an empty batch cannot be computed on")
    return as_gathered(given)


def as_gathered(given: np.ndarray) -> np.ndarray:
    """The array in a dtype and an order that the gather kernel reads; a copy only where it must be."""
    if given.dtype.name not in CODES:
        given = given.astype(np.float64 if given.dtype.itemsize > 2 else np.float32)
    return np.require(given, given.dtype.newbyteorder("="), ["C", "A"])


def labels(y: Any, count: int, graph: Graph, *, name: str = "y") -> np.ndarray:
    """Class numbers as int64, all of them classes of the net."""
    given = _array(y, name)
    if given.ndim == 2 and 1 in given.shape and given.size == count:
        raise ValueError(f"{name} must have shape ({count},), got {given.shape}; use {name}.ravel()")
    if given.shape != (count,):
        raise ValueError(
            f"{name} must have one label for each of the {count} examples, got shape {given.shape}"
            + ("; turn one-hot rows into class numbers: y.argmax(axis=1)" if given.ndim == 2 else "")
        )
    if given.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must hold class numbers of an integer dtype, got {given.dtype}"
            + ("; use y.astype(int)" if given.dtype.kind in "fb" else "")
        )
    classes = graph.output_shape[0]
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        at = int(np.argmax(given == wrong))
        hint = "; classes count from 0" if high == classes and low >= 1 else ""
        raise IndexError(
            f"{name} holds the label {wrong} (first in example {at}), but the net has the {classes} classes "
            f"0 to {classes - 1}{hint}"
        )
    return _numbers(given)


def targets(y: Any, count: int, graph: Graph, *, name: str = "y") -> np.ndarray:
    """Target vectors of the shape of the output."""
    given = _real_array(y, name)
    wanted = (count, *graph.output_shape)
    if given.shape != wanted:
        raise ValueError(
            f"{name} must have the shape of the output, {wanted}, got {given.shape}"
            + (f"; use {name}.reshape({count}, -1)" if given.size == np.prod(wanted) else "")
        )
    return as_gathered(given)


def minibatches(indices: Any, count: int) -> np.ndarray:
    """Rows of example numbers as int64 (steps, batch)."""
    given = _array(indices, "indices")
    if given.dtype.kind not in "iu" or given.ndim != 2 or given.size == 0:
        raise ValueError(
            "indices must be a two-dimensional array of integers, one row for each minibatch, "
            f"got shape {given.shape} of {given.dtype}"
        )
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= count:
        raise IndexError(
            f"indices name example {low if low < 0 else high}, but there are the {count} examples 0 to {count - 1}"
        )
    return _numbers(given)


def _numbers(given: np.ndarray) -> np.ndarray:
    """As int64 in an array that may be written to: a step is compiled once, and for such arrays alone."""
    return np.require(given, np.int64, ["C", "A", "W"])


def choice(value: Any, allowed: tuple[str, ...], name: str) -> str:
    """One of these words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def positive(value: Any, name: str) -> int:
    """A whole number of at least 1."""
    try:
        number = whole(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return number


def seed(value: Any) -> int:
    """A seed: a whole number that fits 63 bits."""
    try:
        number = whole(value)
    except ValueError:
        number = -1
    if not 0 <= number < 2**63:
        raise ValueError(f"seed must be a whole number of at least 0 and below 2**63, got {value!r}")
    return number


def amount(value: Any, name: str) -> float:
    """A finite number of at least 0."""
    number = real(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return number


def not_finite(given: np.ndarray, name: str) -> str | None:
    """A sentence that names the first NaN or infinity, or None."""
    if given.dtype.kind != "f":
        return None
    for n in range(len(given)):  # row by row: no copy of all the data
        if not np.isfinite(given[n]).all():
            what = "a NaN" if np.isnan(given[n]).any() else "an infinity"
            return f"{name} holds {what}, first in example {n}; remove or replace it, for instance with np.nan_to_num"
    return None


def _real_array(x: Any, name: str) -> np.ndarray:
    given = _array(x, name, "fill its gaps first: {}.filled(0)")
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {given.dtype}")
    return given


def _array(x: Any, name: str, unmask: str = "leave its gaps out first") -> np.ndarray:
    if np.ma.isMaskedArray(x):
        raise TypeError(f"{name} is a masked array; {unmask.format(name)}")
    still_whole(x, name)
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} is a list of rows of different lengths; make them equally long") from None
    except RuntimeError as problem:  # a tensor of another library that NumPy may not read
        raise TypeError(f"{name} cannot be read as an array: {problem}") from None


def still_whole(x: Any, name: str) -> None:
    """Refuse an array in a mapped file that has become shorter: to read behind its end would kill the process. A file
    that shrinks while a call is running nobody can see in time."""
    start = 0
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            start = x.offset - x.offset % mmap.ALLOCATIONGRANULARITY  # where NumPy begins a map
        x = x.base.obj if isinstance(x.base, memoryview) else x.base
    if not isinstance(x, mmap.mmap):
        return
    try:
        size = x.size()
    except OSError:  # memory of no file
        return
    if size < start + len(x):
        raise ValueError(
            f"{name} is mapped from a file that has become shorter: it needs {start + len(x):,} bytes, and there are "
            f"{size:,}; write the file again, then map it again"
        )
