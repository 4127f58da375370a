"""Where compiled steps find the bodies of kernels, and how those that are missing are compiled: by several processes.

A step calls a body through a cell, a few words of memory with its address and what a launch must know of it. So a step
is compiled before the bodies that it calls are there, and while other processes compile them: `ask_for` says which,
`send_for_help` starts helpers where many are missing, and `supply` compiles or loads what is missing and fills the
cells. Whoever comes first to a kernel compiles it; all others find it on disk.
"""

import contextlib
import os
import pathlib
import subprocess
import sys

import numpy as np
from llvmlite import binding
from numba import types

from nbnn import cache, compiling
from nbnn.kernels.jit import Space

PER_HELPER = 8  # bodies for which one is worth the second that it takes to start
FAREWELL = 5.0  # seconds that a helper has to end when all is compiled
# The words of a cell, then for each argument how many axes it has, then the bytes of one of its numbers if it counts
# for the cost of a launch
ADDRESS, LEAST, INTENSITY, EACH, AXIS, COUNT, CELL_HEAD = range(7)
_cells: dict = {}
_waiting: list = []
_helpers: list = []


def cell_of(kernel, dtype):
    """The name of the cell of a body, by which LLVM finds it."""
    name = f"nbnn.{kernel.name}.{dtype}"
    with compiling.one_at_a_time():
        if name not in _cells:
            _cells[name] = np.array(_told(kernel, dtype), np.int64)
            binding.add_symbol(name, _cells[name].ctypes.data)
    return name


def ask_for(function):
    """Wait for the bodies of the kernels that a function of a step calls."""
    words = (function.__globals__.get(name) for name in function.__code__.co_names)
    with compiling.one_at_a_time():
        for kernel, dtype in [word.body for word in words if hasattr(word, "body")]:
            if not _cells[cell_of(kernel, dtype)][ADDRESS] and (kernel, dtype) not in _waiting:
                _waiting.append((kernel, dtype))


def _told(kernel, dtype):
    """What a launch must know of a kernel."""
    kinds, names = kernel.types(dtype), [p.name for p in kernel.parameters]
    arrays = [isinstance(kind, types.Array) for kind in kinds]
    each = names.index(kernel.each)
    axes = [kind.ndim if array else 0 for kind, array in zip(kinds, arrays, strict=True)]
    sizes = [
        kind.dtype.bitwidth // 8 if array and not isinstance(p.annotation, Space) else 0
        for kind, array, p in zip(kinds, arrays, kernel.parameters, strict=True)
    ]
    axis = kernel.axis if arrays[each] else -1
    return [0, kernel.grain, kernel.intensity, each, axis, len(kinds), *axes, *sizes]


def _hardest_first(bodies):
    return sorted(bodies, key=lambda one: -len(one[0].parameters))


def send_for_help():
    """Start helpers for the bodies that are waited for and not on disk: one for every `PER_HELPER`, as far as cores go
    and where none is at work already."""
    with compiling.one_at_a_time():
        _helpers[:] = [helper for helper in _helpers if helper.poll() is None]
        missing = [one for one in _waiting if not compiling.is_kept(f"{one[0].name}.{one[1]}")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = min(cores - 1, len(missing) // PER_HELPER) if sys.executable and not _helpers else 0
    words = [f"{kernel.name}.{dtype}" for kernel, dtype in _hardest_first(missing)]
    root = pathlib.Path(cache.__file__).resolve().parent.parent
    program = f"""
import os, sys
sys.path.insert(0, {str(root)!r})
from nbnn.kernels.bodies import help_with
help_with(sys.argv[1:])
os._exit(0)  # nothing is left to be tidied up, which would take a moment
"""
    for _ in range(wanted):
        with contextlib.suppress(OSError):  # then this process does it alone
            helper = subprocess.Popen(
                [sys.executable, "-c", program, cache.fingerprint(), *words],
                env={**os.environ, "NBNN_CACHE_DIR": str(cache.folder(cache.fingerprint()).parent)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _helpers.append(helper)


def help_with(words):
    """What a helper does: compile what nobody else has begun."""
    from nbnn.kernels import names

    if words[0] == cache.fingerprint():
        for word in words[1:]:
            name, dtype = word.split(".")
            if not compiling.is_kept(word):
                names()[name].body(dtype, wait=False)


def fill_cell(kernel, dtype):
    """Put the body into its cell, whose address this gives."""
    cell = _cells[cell_of(kernel, dtype)]
    cell[ADDRESS] = kernel.body(dtype).address
    return cell.ctypes.data


def supply():
    """Fill the cells of all bodies that are waited for."""
    if not (_waiting or _helpers):
        return
    with compiling.one_at_a_time():
        later = [one for one in _hardest_first(_waiting) if one[0].body(one[1], wait=False) is None]
        for kernel, dtype in later:
            kernel.body(dtype)
        for kernel, dtype in _waiting:
            fill_cell(kernel, dtype)
        _waiting.clear()
        while _helpers:
            _dismiss(_helpers.pop())


def _dismiss(helper):
    """Let a helper end; one that does not has nothing left to do, and may hold a lock for which others wait."""
    try:
        helper.wait(FAREWELL)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()
