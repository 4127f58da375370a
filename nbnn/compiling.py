"""How things are compiled: one process at a time, and whole or compiled again.

Each compiled thing has a lock and a subfolder of its own, sealed with a hash of what is in it: what a crash or a disk
has damaged is thrown away and compiled again, since Numba would run it.
"""

import contextlib
import functools
import gc
import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import shutil
import socket
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from nbnn import cache

BEAT = 1.0  # seconds from one sign of life of a process that compiles to the next
PATIENCE = 60.0  # seconds without one until those who wait for it compile for themselves


class Lock:
    """An RLock that a forked child finds free: the thread that held it is not in the child."""

    def __init__(self) -> None:
        self._locks = {os.getpid(): threading.RLock()}

    def __enter__(self) -> None:
        self._locks.setdefault(os.getpid(), threading.RLock()).acquire()

    def __exit__(self, *problem: object) -> None:
        self._locks[os.getpid()].release()


_compiling = Lock()


def one_at_a_time() -> Lock:
    """The lock of this process for all that compiles. There is one, so no two threads can wait for each other."""
    return _compiling


class Busy(Exception):
    """Another process has the lock."""


@contextlib.contextmanager
def numba_folder(name: str, *, wait: bool = True) -> Iterator[None]:
    """What is jitted in this block is kept in our folder. Only one process at a time compiles what goes by that name,
    because two at once can crash; without `wait`, Busy where another one does.

    LLVM optimises at its first level: the kernels say themselves what goes into which register, and higher levels took
    a fifth longer and made no net faster. Python's collector of cycles rests: among the millions of small objects that
    Numba makes it takes a sixth of the time.
    """
    from numba.core import config as numba_config

    config: Any = numba_config  # its names are made when it is imported
    with one_at_a_time(), _held(name, wait) as place:
        before = config.CACHE_DIR, config.OPT
        config.CACHE_DIR, config.OPT = str(place), type(config.OPT)(cache.OPTIMISATION)
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()
            config.CACHE_DIR, config.OPT = before


@contextlib.contextmanager
def _held(name: str, wait: bool) -> Iterator[pathlib.Path]:
    """The place of what goes by that name, undamaged and for this process alone; a temporary one where the process that
    has it shows no sign of life."""
    lock = temporary = None
    try:
        place = cache.home() / "numba" / name
        lock = _acquire(name, wait)
        _discard_if_damaged(place, name)
    except TimeoutError:
        temporary = cache.own_folder() / name
    except OSError as problem:
        temporary = cache.temporary_root(str(problem)) / name
    try:
        if temporary:
            yield temporary
            return
        _listen()
        _blocks.append(block := _Block(name))
        try:
            yield place
        finally:
            _blocks.pop()
            block.end()
        if block.compiles:
            _seal(name, _digest(place))
    finally:
        if lock is not None:
            lock.release()


# ---- one process at a time


def _locks() -> pathlib.Path:
    path = cache.home() / "locks"
    path.mkdir(exist_ok=True)
    return path


@functools.cache
def _lock(process: int, name: str) -> Any:  # a forked child must not use its parent's
    import filelock

    return filelock.FileLock(_locks() / name)


_given_up: dict[str, str | None] = {}  # the last sign of life of processes that were waited for in vain


def _acquire(name: str, wait: bool) -> Any:
    """The lock of that name, once no other process has it; TimeoutError where the one that has it shows no sign of
    life."""
    import filelock

    lock, sign, since = _lock(os.getpid(), name), _sign(name), time.monotonic()
    while True:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=min(BEAT, PATIENCE) if wait else 0)
            return lock
        if not wait:
            raise Busy(name)
        last, sign = sign, _sign(name)
        if sign != last:
            since = time.monotonic()
        told = name in _given_up and _given_up[name] == sign
        if told or time.monotonic() - since > PATIENCE:
            _given_up[name] = sign
            who = sign.partition(";")[0] if sign else "another process"
            sentence = (
                f"{name} is compiled for this run alone: {who} holds {lock.lock_file} and has shown no sign of life "
                f"for {PATIENCE:g} seconds; end that process"
            )
            if not told:
                warnings.warn(sentence, stacklevel=7)
            raise TimeoutError(sentence)


def _sign(name: str) -> str | None:
    try:
        return (_locks() / f"{name}.holder").read_text(errors="replace")
    except OSError:
        return None


class _Block:
    """A block of `numba_folder`. Once something has to be compiled in it, it says who does that, and again and again
    how much it has worked: a process that was stopped or hangs is not waited for, one that takes minutes is."""

    def __init__(self, name: str) -> None:
        self._path, self._done = _locks() / f"{name}.holder", threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def compiles(self) -> bool:
        return self._thread is not None

    def begin(self) -> None:
        if not self._thread:
            self._who = f"process {os.getpid()} on {socket.gethostname()}"
            self._tell(self._who)
            self._thread = threading.Thread(target=self._live, daemon=True)
            self._thread.start()

    def end(self) -> None:
        if self._thread:
            self._done.set()
            self._thread.join()
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _live(self) -> None:
        while not self._done.wait(BEAT):
            self._tell(f"{self._who}; {time.process_time():.1f} seconds of work")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._path.write_text(text)


_blocks: list[_Block] = []  # of this process, the innermost last


@functools.cache
def _listen() -> None:
    """Tell the block when Numba has found nothing on disk and begins to compile. And let a fork wait until nothing is
    being compiled, since a child would find the locks of Numba and LLVM held for ever. Who registers last waits first:
    before filelock and logging, say, hold locks of theirs that a compiling thread wants."""
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            if _blocks:
                _blocks[-1].begin()

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Listener())
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_compiling.__enter__, after_in_parent=_compiling.__exit__)


# ---- whole, or compiled again


def is_kept(name: str) -> bool:
    """Whether what goes by that name is on disk."""
    return (_locks() / f"{name}.kept").exists()


def _seal(name: str, digest: str | None) -> None:
    """Note that what goes by that name is on disk, whole; or that it is not."""
    path = _locks() / f"{name}.kept"
    if digest is None:
        _throw_away(path)
    else:
        with contextlib.suppress(OSError):  # unsealed, it is compiled again next time
            cache.write_atomically(path, digest.encode())


def _discard_if_damaged(place: pathlib.Path, name: str) -> None:
    """Throw away what is kept by that name unless it is as it was sealed."""
    seal = _locks() / f"{name}.kept"
    sealed = seal.read_text(errors="replace") if seal.is_file() and not seal.is_symlink() else None
    if _digest(place) != sealed:
        _seal(name, None)
        _throw_away(place)


def _throw_away(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(place: pathlib.Path) -> str | None:
    """A hash of all that is in a folder; where that is not all plain files of our own, one that was never noted."""
    if not os.path.lexists(place):
        return None
    found = hashlib.sha256()
    try:
        for path in [place, *sorted(place.rglob("*"))]:
            about = path.lstat()
            if hasattr(os, "getuid") and about.st_uid != os.getuid():
                raise PermissionError(f"{path} belongs to another user")
            if not stat.S_ISDIR(about.st_mode) and not stat.S_ISREG(about.st_mode):
                raise OSError(f"{path} is no plain file")
            found.update(f"{path.relative_to(place)} {stat.S_IFMT(about.st_mode)} {about.st_size} ".encode())
            if stat.S_ISREG(about.st_mode):
                found.update(path.read_bytes())
    except OSError:
        return os.urandom(32).hex()
    return found.hexdigest()


def import_text(text: str, *, jitted: bool) -> ModuleType:
    """The module with that source, from a real file: Numba keeps no code that has none, and debuggers want to show
    it."""
    name = f"step_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    path = (cache.home() if jitted else cache.folder("reference")) / f"{name}.py"
    if not path.is_file() or path.read_bytes() != text.encode():
        if path.is_dir():
            _throw_away(path)
        cache.write_atomically(path, text.encode())
    spec = importlib.util.spec_from_loader(f"nbnn_{name}", _Loader(f"nbnn_{name}", str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # Numba looks there when it loads what it kept
    with one_at_a_time():
        spec.loader.exec_module(module)
    return module


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads the source alone: Python would believe a damaged .pyc beside it."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)
