"""What the text of a compiled step imports: the kernels by name, jitted in one dtype, or their references.

    from nbnn.kernels.engine import float32 as kernels
    conv_forward, relu_forward = kernels("conv_forward", "relu_forward")
    allow_threads, call, called, compiled, deep, launch, launch_beside, launch_shares, own, slots, view = kernels.tools

Nothing here imports Numba before a jitted name is asked for.
"""

import time
from collections.abc import Callable

import numpy as np

# what a step needs beside kernels, in the order of `kernels.tools`
TOOLS = (
    "allow_threads",
    "call",
    "called",
    "compiled",
    "deep",
    "launch",
    "launch_beside",
    "launch_shares",
    "own",
    "slots",
    "view",
)


def slots(n: int, share: int, most: int) -> int:
    """How many partial sums n examples are cut into, each of at least `share`: at least one, at most `most`."""
    return min(max(n // share, 1), most)


class Reference:
    """The NumPy functions, called as they are: a step on them can be followed in a debugger."""

    def __call__(self, *names: str) -> list[Callable]:
        from nbnn.kernels import reference

        return [getattr(reference, name) for name in names]

    @property
    def tools(self) -> tuple[Callable, ...]:
        """A kernel's words have done its work already when the launch around them comes."""
        words = {
            "call": lambda function, *words: function(*words),
            "called": lambda function: function,
            "compiled": lambda function: function,
            "own": _view,
            "slots": slots,
            "view": _view,
        }
        return tuple(words.get(name, _nothing) for name in TOOLS)

    @property
    def tick(self) -> Callable:
        return _tick


class Jitted:
    """The jitted kernels, for use inside a jitted function."""

    def __init__(self, dtype: str):
        self.dtype = dtype

    def __call__(self, *names: str) -> list[Callable]:
        from nbnn.kernels import names as all_names
        from nbnn.kernels.launch import start_engine
        from nbnn.kernels.tables import bind

        kernels = all_names()
        found = [bind(kernels[name], self.dtype) for name in names]
        start_engine()
        return found

    @property
    def tools(self) -> tuple[Callable, ...]:
        from nbnn.kernels import jit, tables

        return tuple(getattr(jit if name in ("called", "compiled") else tables, name) for name in TOOLS)

    @property
    def tick(self) -> Callable:
        from nbnn.kernels.tables import tick

        return tick


def _view(arena: np.ndarray, start: int, shape: tuple, strides: tuple) -> np.ndarray:
    """The array of that shape and those strides (in elements) which begins at arena[start]."""
    return np.lib.stride_tricks.as_strided(arena[start:], shape, [s * arena.itemsize for s in strides])


def _nothing(*words: object) -> None:
    pass


def _tick(times: np.ndarray, place: int) -> None:
    times[place] = time.perf_counter_ns()


reference, float32, float64 = Reference(), Jitted("float32"), Jitted("float64")
