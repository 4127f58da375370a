"""Where compiled code is kept: one private folder per state of the kernels, the libraries and the machine.

Numba does not notice a change in a file that a cached function merely calls, so the folder's name is a hash of all that
compiled code depends on. Inside it nothing is ever out of date. What lies in it is written by `compiling.py`.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import stat
import sys
import tempfile
import warnings
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
        for path in (root, target):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid"):
            _make_private(root, target)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as problem:
        target = temporary_root(str(problem)) / name
        target.mkdir(exist_ok=True)
    return target


def _make_private(root: pathlib.Path, target: pathlib.Path) -> None:
    """See to it that nobody else can put code into the folder, or another folder in its place: Numba runs what it finds
    there. The root may be one for all like /tmp, where nobody can move what belongs to others."""
    about = root.stat()
    mode = stat.S_IMODE(about.st_mode)
    if not mode & stat.S_ISVTX:
        if about.st_uid not in (os.getuid(), 0):
            raise PermissionError(f"{root} belongs to another user")
        if mode & 0o022:
            root.chmod(mode & ~0o022)
    about = target.lstat()
    if stat.S_ISLNK(about.st_mode):
        raise PermissionError(f"{target} is a link")
    if about.st_uid != os.getuid():
        raise PermissionError(f"{target} belongs to another user")
    if stat.S_IMODE(about.st_mode) & 0o077:
        target.chmod(0o700)


def home() -> pathlib.Path:
    """The folder of this state of the kernels; made again where somebody has removed it meanwhile."""
    if not folder(fingerprint()).is_dir():
        folder.cache_clear()
    return folder(fingerprint())


def temporary_root(problem: str) -> pathlib.Path:
    """The folder of this process, with one warning."""
    root = own_folder()
    if not _warned:
        _warned.append(problem)
        warnings.warn(
            f"compiled code is not kept: the cache folder cannot be used ({problem}); set NBNN_CACHE_DIR to a folder "
            f"that you may write to. This run uses {root}.",
            stacklevel=3,
        )
    return root


_warned: list[str] = []


@functools.cache
def own_folder() -> pathlib.Path:
    """A folder that is gone when this process ends; it outlives forked children, which use it as well."""
    path = tempfile.mkdtemp(prefix="nbnn-")
    atexit.register(_remove, path, os.getpid())
    return pathlib.Path(path)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


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
