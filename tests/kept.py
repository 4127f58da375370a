"""Kernels that are compiled once for all tests, for children that compile with a cache of their own."""

import pathlib
import shutil
from collections.abc import Collection

from soak import SOAKING

from nbnn import Graph, cache
from nbnn.codegen import TRAIN_KERNELS, _kernels
from nbnn.kernels import names
from nbnn.kernels.simd import lanes_of
from nbnn.lower import lower


def give(folder: pathlib.Path, graph: Graph, missing: Collection[str] = ()) -> None:
    """Put the kernels of a net and of training, in float32, into a cache folder, but for those that the test wants to
    be missing. In a soak all are missing: there everything is compiled in earnest."""
    if SOAKING:
        return
    here, there = cache.home(), folder / cache.fingerprint()
    for part in ("numba", "locks"):
        (there / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    there.chmod(0o700)
    for name in {*_kernels(lower(graph, lanes=lanes_of("float32"))), *TRAIN_KERNELS}:
        if name not in missing:
            names()[name].body("float32")
            label = f"{name}.float32"
            shutil.copytree(here / "numba" / label, there / "numba" / label, dirs_exist_ok=True)
            shutil.copy(here / "locks" / f"{label}.kept", there / "locks")
