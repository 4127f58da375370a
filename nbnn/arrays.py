"""Named views on one flat buffer: how people see parameters, gradients and state."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from nbnn.buffers import Buffer
from nbnn.inputs import still_whole
from nbnn.kernels.constants import CACHE_LINE
from nbnn.op import Array
from nbnn.words import hint


def arena(elements: int, dtype: str) -> np.ndarray:
    """Zeros that begin at an aligned address."""
    itemsize = np.dtype(dtype).itemsize
    try:
        raw = np.zeros(elements * itemsize + CACHE_LINE, np.uint8)
    except (ValueError, OverflowError) as problem:  # more than an array may ever have
        raise MemoryError(str(problem)) from None
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + elements * itemsize].view(dtype)


def memory_view(buffer: np.ndarray, where: Buffer) -> np.ndarray:
    """The array as the kernels see it, its room left out."""
    strides = [s * buffer.itemsize for s in where.strides]
    return np.lib.stride_tricks.as_strided(buffer[where.start : where.start + where.size], where.shape, strides)


def people_view(buffer: np.ndarray, where: Buffer, array: Array) -> np.ndarray:
    """The array in the shape that people know: a view, never a copy."""
    seen = memory_view(buffer, where)
    if array.merged:
        merged = math.prod(seen.shape[: array.merged])
        strides = seen.strides[array.merged - 1 :]
        seen = np.lib.stride_tricks.as_strided(seen, (merged, *seen.shape[array.merged :]), strides)
    return seen.transpose(array.axes) if array.axes else seen


class Arrays(MutableMapping[str, np.ndarray]):
    """A dict of arrays that are views: `a["conv1.w"] += 1` and `a["conv1.w"] = new` both write into the model.

    The set of names and every shape are those of the graph and stay as they are.
    """

    def __init__(self, views: dict[str, np.ndarray]) -> None:
        self._views = views

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._views:
            raise KeyError(f"there is no {name!r}; {hint(name, self._views)}")
        return self._views[name].view()  # a fresh view: whoever reshapes it in place reshapes only what they hold

    def __setitem__(self, name: str, value: Any) -> None:
        self[name][...] = self.fitting(name, value)

    def fitting(self, name: str, value: Any) -> np.ndarray:
        """The value as an array that may be written to that name; an error where it does not fit."""
        shape = self[name].shape
        still_whole(value, name)
        try:
            given = np.asarray(value)
            real = given.dtype.kind in "fiu" and not np.ma.isMaskedArray(value)
        except ValueError:
            real = False
        if not real:
            raise TypeError(
                f"{name} must be an array of real numbers, got {type(value).__name__}"
                + (f" of dtype {given.dtype}" if isinstance(value, np.ndarray) else "")
            )
        if given.shape != shape:
            raise ValueError(f"{name} must keep its shape {shape}, got {given.shape}")
        return given

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name} cannot be removed: the arrays of a model are those of its graph")

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {view.shape}" for name, view in self._views.items()) + "}"

    def copies(self) -> dict[str, np.ndarray]:
        """The arrays as they are now, on their own memory."""
        return {name: np.array(view, order="C") for name, view in self._views.items()}
