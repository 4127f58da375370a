"""Where compiled code is kept: one private folder per state of the kernels, the libraries and the machine.

Numba does not notice a change in a file that a cached function merely calls, so the folder's name is a hash of all that
compiled code depends on. Inside it nothing is ever out of date.
"""

import atexit
import contextlib
import functools
import gc
import hashlib
import importlib.util
import os
import pathlib
import platform
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

OPTIMISATION = 1  # LLVM's level


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
        str(OPTIMISATION),
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


class Busy(Exception):
    """Another process has the lock."""


@functools.cache
def _in_process(process: int) -> threading.RLock:  # a forked child must not use its parent's
    return threading.RLock()


def one_at_a_time() -> threading.RLock:
    """The lock of this process for all that compiles. There is one, so no two threads can wait for each other."""
    return _in_process(os.getpid())


@functools.cache
def _lock(process: int, name: str) -> Any:
    import filelock

    locks = folder(fingerprint()) / "locks"
    locks.mkdir(exist_ok=True)
    return filelock.FileLock(locks / name)


@contextlib.contextmanager
def numba_folder(name: str, *, wait: bool = True) -> Iterator[None]:
    """What is jitted in this block is kept in our folder. Only one process at a time compiles what goes by that name,
    because two at once can crash; without `wait`, Busy where another one does.

    LLVM optimises at its first level: the kernels say themselves what goes into which register, and higher levels took
    a fifth longer and made no net faster. Python's collector of cycles rests: among the millions of small objects that
    Numba makes it takes a sixth of the time.
    """
    import filelock
    from numba.core import config as numba_config

    config: Any = numba_config  # its names are made when it is imported
    with one_at_a_time():
        lock = _lock(os.getpid(), name)
        try:
            lock.acquire(blocking=wait)
        except filelock.Timeout:
            raise Busy(name) from None
        _forgive_damage()
        before = config.CACHE_DIR, config.OPT
        config.CACHE_DIR, config.OPT = str(folder(fingerprint()) / "numba"), type(config.OPT)(OPTIMISATION)
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()
            config.CACHE_DIR, config.OPT = before
            lock.release()


@functools.cache
def _forgive_damage() -> None:
    """Numba ends with an EOFError at a file of its cache that was cut, for instance by a full disk, and would do so for
    ever. Here such a file is one that is missing: what it held is compiled and written again."""
    from numba.core.caching import IndexDataCacheFile as Files

    index, data = Files._load_index, Files._load_data

    def load_index(files: Any) -> dict:
        try:
            return index(files)
        except OSError:
            raise
        except Exception:  # what comes out of a damaged file may be anything
            return {}

    def load_data(files: Any, name: str) -> Any:
        try:
            return data(files, name)
        except Exception as problem:
            raise FileNotFoundError(name) from problem  # which Numba takes for a file that is gone

    Files._load_index, Files._load_data = load_index, load_data  # type: ignore[method-assign]


def mark_kept(name: str) -> None:
    """Note that what goes by that name is on disk."""
    (folder(fingerprint()) / "locks" / f"{name}.kept").touch()


def is_kept(name: str) -> bool:
    return (folder(fingerprint()) / "locks" / f"{name}.kept").exists()


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
    with numba_folder(module.__name__) if jitted else contextlib.nullcontext():
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
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _sync_folder(path: pathlib.Path) -> None:
    """The new name onto the disk as well, where folders can be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
