"""The functions of a generated text, loaded, compiled at first use, and called with the right number of threads; and
single kernels, called without any text."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import numpy as np

from nbnn import compiling, forks
from nbnn.kernels.constants import CODES

_one_at_a_time = compiling.Lock()  # for threading layers that cannot launch from two threads at once


def cores() -> int:
    """The cores that this process may run on now: a cluster may have given it a few of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def step_of(source: str, *, jitted: bool) -> Step:
    """The step of a source text: one for all models that share it."""
    return Step(source, jitted=jitted)


class Step:
    """The functions of a source text: jitted, or plain Python on the reference kernels."""

    def __init__(self, source: str, *, jitted: bool) -> None:
        self.source, self.jitted = source, jitted
        self._module: Any = None
        self._ready: dict[str, Any] = {}
        self._codes: dict[str, Any] = {}
        self._supplied: set[str] = set()  # functions all of whose kernels are there

    def load(self) -> Any:
        """The module of the text."""
        with compiling.one_at_a_time():
            if self._module is None:
                if self.jitted:
                    from nbnn.kernels.jit import need_jit

                    need_jit()
                self._module = compiling.import_text(self.source, jitted=self.jitted)
            return self._module

    def expect(self, name: str) -> None:
        """Say that the function will be compiled: the kernels that it calls are compiled with those of others."""
        if self.jitted and name not in self._ready:
            from nbnn.kernels.bodies import ask_for

            ask_for(getattr(self.load(), name).py_func)

    def compile(self, name: str, args: tuple) -> Any:
        """The function, compiled for arguments of these types, and the kernels that it calls."""
        function = self._function(name, args)
        self.supply(name)
        return function

    def handle(self, name: str, args: tuple) -> Any:
        """What another function calls this one by: its address, or where nothing is jitted the function itself. Its
        kernels are there after `supply`."""
        function = self._function(name, args)
        if not self.jitted:
            return function
        if name not in self._codes:
            from nbnn.kernels.jit import Code

            self._codes[name] = Code(function)
        return self._codes[name].address

    def supply(self, name: str) -> None:
        """See to it that the kernels of a compiled function are there. Once they are, nobody waits for what others
        compile."""
        if self.jitted and name not in self._supplied:
            from nbnn.kernels.bodies import supply

            supply()
            self._supplied.add(name)

    def _function(self, name: str, args: tuple) -> Any:
        if name not in self._ready:
            with compiling.one_at_a_time():
                if name not in self._ready:
                    self._ready[name] = self._compile(name, args)
        return self._ready[name]

    def _compile(self, name: str, args: tuple) -> Any:
        function = getattr(self.load(), name)
        if self.jitted:
            from nbnn.kernels.bodies import send_for_help
            from nbnn.kernels.jit import keep

            self.expect(name)
            send_for_help()
            with compiling.numba_folder(self._module.__name__):
                keep(function)
                function.compile(self.kinds(args))
            function.disable_compile()
        return function

    def kinds(self, args: tuple) -> tuple:
        """The types for which a function is compiled."""
        import numba

        return tuple(numba.typeof(a) for a in args)

    def __call__(self, name: str, *args: Any) -> Any:
        function = self.compile(name, args)
        if not self.jitted:
            with np.errstate(all="ignore"):  # as silent as the jitted step; the model says what was not finite
                return function(*args)
        with _launching():
            return function(*args)

    def threads(self) -> int:
        """How many threads a launch may use now."""
        return threads() if self.jitted else 1

    def most_threads(self) -> int:
        """More than this `threads` never says."""
        return most_threads() if self.jitted else 1

    def data(self, x: np.ndarray) -> tuple[Any, int]:
        """An array as the gather kernel takes it: its address, or for the reference the array itself."""
        return (address(x) if self.jitted else x), CODES[x.dtype.name]


def launch_alone(name: str, dtype: str, *args: Any) -> None:
    """Run a kernel over all its items and threads, with no step around it."""
    from nbnn.kernels.launch import launch_one, one_of

    entry, cell = one_of(name, dtype)
    with _launching():
        launch_one(entry, cell, args, threads())


def _launching() -> contextlib.AbstractContextManager:
    """Held while anything is launched."""
    from nbnn.kernels.launch import launches_share_state

    return _one_at_a_time if launches_share_state() else contextlib.nullcontext()


def threads() -> int:
    """As many as Numba was told in this thread, but no more than there are cores for this process; one in a forked
    child."""
    if forks:
        return 1
    import numba

    return min(numba.get_num_threads(), cores())


def most_threads() -> int:
    import numba

    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def address(x: np.ndarray) -> int:
    return int(x.__array_interface__["data"][0])
