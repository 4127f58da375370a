"""The generated functions of one net, loaded, compiled at first use, and called with the right number of threads."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import numpy as np

from nbnn import cache
from nbnn.kernels.constants import CODES

_forked = False
_one_at_a_time = threading.RLock()  # for threading layers that cannot launch from two threads at once


def _after_fork() -> None:
    global _forked
    _forked = True  # a forked child must not launch OpenMP regions: it computes in one thread


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def cores() -> int:
    """The cores that this process may run on now: a cluster may have given it a few of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def step_of(source: str, *, jitted: bool) -> Step:
    """The step of a source text: one for all models that share it."""
    return Step(source, jitted=jitted)


def _jit_is_off() -> bool:
    from numba.core import config

    return bool(getattr(config, "DISABLE_JIT", False))


class Step:
    """predict, gradients and train of a source text: jitted, or plain Python on the reference kernels."""

    def __init__(self, source: str, *, jitted: bool) -> None:
        self.source, self.jitted = source, jitted
        self._module: Any = None
        self._compiled: set[str] = set()

    def compile(self, name: str, args: tuple) -> Any:
        """The function, compiled for arguments of these types."""
        if name not in self._compiled:
            with cache.one_at_a_time():  # two threads may come here at once
                if name not in self._compiled:
                    self._make(name, args)
        return getattr(self._module, name)

    def _make(self, name: str, args: tuple) -> None:
        if self._module is None:
            if self.jitted and _jit_is_off():
                raise RuntimeError('NUMBA_DISABLE_JIT is set, so nothing can be compiled; use backend="numpy" instead')
            self._module = cache.import_text(self.source, jitted=self.jitted)
        if self.jitted:
            from nbnn.kernels.bodies import supply

            function = getattr(self._module, name)
            with cache.numba_folder(self._module.__name__):
                function.compile(self.kinds(args))
            function.disable_compile()
            supply()
        self._compiled.add(name)

    def kinds(self, args: tuple) -> tuple:
        """The types for which a function is compiled."""
        import numba

        return tuple(numba.typeof(a) for a in args)

    def __call__(self, name: str, *args: Any) -> Any:
        function = self.compile(name, args)
        if not self.jitted:
            with np.errstate(all="ignore"):  # as silent as the jitted step; the model says what was not finite
                return function(*args)
        from nbnn.kernels.launch import launches_share_state

        if launches_share_state():
            with _one_at_a_time:
                return function(*args)
        return function(*args)

    def threads(self) -> int:
        """How many threads a launch may use: as many as Numba was told in this thread, but no more than there are cores
        for this process; one in a forked child."""
        if not self.jitted or _forked:
            return 1
        import numba

        return min(numba.get_num_threads(), cores())

    def most_threads(self) -> int:
        """More than this `threads` never says."""
        if not self.jitted:
            return 1
        import numba

        return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]

    def data(self, x: np.ndarray) -> tuple[Any, int]:
        """An array as the gather kernel takes it: its address, or for the reference the array itself."""
        return (x.__array_interface__["data"][0] if self.jitted else x), CODES[x.dtype.name]
