"""Where compiled code is kept: one private folder per state of the kernels, the libraries and the machine.

Numba does not notice a change in a file that a cached function merely calls, so the folder's name is a hash of all that
compiled code depends on. Inside it nothing is ever out of date.
"""

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import os
import pathlib
import platform
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@functools.cache
def fingerprint() -> str:
    """A hash of the kernels' source, the versions, and the instructions of this machine."""
    import llvmlite
    import numba
    import numpy as np
    from llvmlite import binding
    from numba.core import config as numba_config

    from nbnn import __version__, kernels

    config: Any = numba_config  # its names are made when it is imported
    told = [
        __version__,
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.version,
        platform.machine(),
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
        str(config.CPU_NAME),
        str(config.CPU_FEATURES),
        str(config.BOUNDSCHECK),
    ]
    for source in sorted(pathlib.Path(kernels.__file__).parent.glob("*.py")):
        told += [source.name, source.read_text()]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:20]


@functools.cache
def folder(name: str) -> pathlib.Path:
    """A folder in the user's cache: private to the user, made when missing; a temporary one where that fails."""
    import platformdirs

    root = pathlib.Path(os.environ.get("NBNN_CACHE_DIR") or platformdirs.user_cache_path("nbnn", appauthor=False))
    target = root / name
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=target):
            pass
        if hasattr(os, "getuid"):
            about = target.stat()
            if about.st_uid != os.getuid():
                raise PermissionError(f"{target} belongs to another user")
            if stat.S_IMODE(about.st_mode) & 0o077:
                target.chmod(0o700)
    except OSError as problem:
        target = _temporary_root(str(problem)) / name
        target.mkdir(exist_ok=True)
    return target


_temporary: list[tempfile.TemporaryDirectory] = []


def _temporary_root(problem: str) -> pathlib.Path:
    """A folder that is gone when the process ends; made once, with one warning."""
    if not _temporary:
        _temporary.append(tempfile.TemporaryDirectory(prefix="nbnn-", ignore_cleanup_errors=True))
        warnings.warn(
            f"compiled code is not kept: the cache folder cannot be used ({problem}); set NBNN_CACHE_DIR to a folder "
            f"that you may write to. This run uses {_temporary[0].name}.",
            stacklevel=3,
        )
        atexit.register(_temporary[0].cleanup)
    return pathlib.Path(_temporary[0].name)


@functools.cache
def _lock(process: int) -> Any:  # a forked child must not use its parent's
    import filelock

    return filelock.FileLock(folder(fingerprint()) / "lock")


@contextlib.contextmanager
def numba_folder() -> Iterator[None]:
    """What is jitted in this block is kept in our folder, and only one process at a time compiles: two at once can
    crash."""
    from numba.core import config as numba_config

    config: Any = numba_config  # its names are made when it is imported
    before = config.CACHE_DIR
    with _lock(os.getpid()):
        config.CACHE_DIR = str(folder(fingerprint()) / "numba")
        try:
            yield
        finally:
            config.CACHE_DIR = before


def import_text(text: str, *, jitted: bool) -> ModuleType:
    """The module with that source, from a real file: Numba keeps no code that has none, and debuggers want to show
    it."""
    name = f"step_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    path = folder(fingerprint() if jitted else "reference") / f"{name}.py"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text.encode())
    spec = importlib.util.spec_from_file_location(f"nbnn_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # Numba looks there when it loads what it kept
    with numba_folder() if jitted else contextlib.nullcontext():
        spec.loader.exec_module(module)
    return module


def write_atomically(path: pathlib.Path, content: bytes, *, private: bool = True) -> None:
    """Write a file so that at every moment either the old or the new one is there, whole, even if the power fails.

    A link stays a link to it. A private file is for its owner alone; another has the mode of the old one, or the usual.
    """
    path = pathlib.Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if not private:
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
