"""The systems of the courses CS231n and C147 over the engine: their names, signatures, shapes and printed lines.

    from nbnn.course.layers import affine_forward
    nbnn.course.as_modules("cs231n", "nndl")        # from then on: from cs231n.layers import *

`layers`, `conv_layers` and `optim` call the reference kernels, `fast_layers` the jitted ones; the nets of `fc_net` and
`cnn` are compiled graphs. docs/course.md has the whole list.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

__all__ = ["as_modules"]


def as_modules(*names: str) -> None:
    """Let `import cs231n.layers` find `nbnn.course.layers`, for each of these names and each module here.

    A package that is imported already under one of the names is not replaced.
    """
    here = sys.modules[__name__]
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"as_modules wants names of packages, such as 'cs231n', got {name!r}")
        if sys.modules.get(name, here) is not here:
            raise ImportError(f"{name} is imported already, from {getattr(sys.modules[name], '__file__', 'elsewhere')}")
    for found in pkgutil.walk_packages(here.__path__, f"{__name__}."):
        module = importlib.import_module(found.name)
        for name in names:
            sys.modules[name + found.name.removeprefix(__name__)] = module
    for name in names:
        sys.modules[name] = here
