"""Checkpoints: all that a training needs to go on with the same bits, in one safetensors file.

    weights/NAME, best/NAME              weights and running figures: the latest, and those of the best accuracy
    rule/m/NAME, rule/v/NAME             what the update rule remembers
    rule/averaged/NAME                   the moving average of the weights, if there is one
    history/loss, history/train, history/val

The header holds, as JSON, `about` (what must be the same where a training goes on: the graph, the settings, hashes of
the data) and `position` (the iteration, and whatever else counts), and a checksum. A folder keeps the last few.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbnn import cache
from nbnn.files import DTYPES, MOST_TOLD, FileError, checksum, opened
from nbnn.op import real, shown
from nbnn.words import plain

FORMAT = "nbnn checkpoint 1"
BEST = "best.safetensors"  # beside the checkpoints: the best model so far
LONGEST = 1 << 20  # letters of JSON that are written and read
# students' models may hold other numbers than ours
KINDS = {**DTYPES, "F16": "float16", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}
Shapes = dict[str, tuple[tuple[int, ...], str | None]]  # name -> shape and dtype, None for either


@dataclass
class Checkpoint:
    """What is in a file."""

    about: dict[str, Any]
    position: dict[str, Any]
    arrays: dict[str, np.ndarray]


# ---- one file


def to_bytes(checkpoint: Checkpoint) -> bytes:
    from safetensors.numpy import save

    arrays = {name: np.asarray(value, order="C") for name, value in checkpoint.arrays.items()}
    about, position = (json.dumps(part, allow_nan=False) for part in (checkpoint.about, checkpoint.position))
    if max(len(about), len(position)) >= LONGEST:
        raise ValueError(f"a checkpoint holds at most {LONGEST} letters of settings and of states of callbacks")
    header = {"format": FORMAT, "about": about, "position": position}
    return save(arrays, metadata={**header, "checksum": checksum(header, arrays)})


def read(
    target: pathlib.Path, expected: Callable[[dict[str, Any], dict[str, Any]], Shapes], optional: tuple[str, ...] = ()
) -> Checkpoint:
    """The checkpoint in a file. `expected(about, position)` gives the arrays that must be there, and may refuse; it is
    asked before any array is read. Names that begin with one of `optional` may be there as well."""
    with opened(target) as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise FileError(f"{target} is a safetensors file, but no checkpoint of nbnn")
        about, position = (_json(target, header, key) for key in ("about", "position"))
        _check_position(target, position)
        wanted = expected(about, position)
        found = {}
        for name in file.keys():  # noqa: SIM118 (no mapping)
            part = file.get_slice(name)
            found[name] = tuple(part.get_shape()), KINDS.get(part.get_dtype(), part.get_dtype())
        problems = [f"{name} is missing" for name in wanted if name not in found]
        for name, (shape, dtype) in found.items():
            right_shape, right_dtype = wanted.get(name, (shape, None))
            if name not in wanted and not name.startswith(optional):
                problems.append(f"{name} is unknown")
            elif shape != right_shape:
                problems.append(f"{name} must have shape {right_shape}, got {shape}")
            elif dtype != right_dtype and (right_dtype or dtype not in KINDS.values()):
                problems.append(f"{name} must be {right_dtype or 'of numbers'}, got {dtype}")
        if problems:
            raise FileError(f"{target}: its arrays do not fit this training: {plain('; '.join(problems))}")
        arrays = {name: file.get_tensor(name) for name in found}
    if header.get("checksum") != checksum(header, arrays):
        raise FileError(f"{target} is damaged: its checksum is not that of what it holds")
    return Checkpoint(about, position, arrays)


def _json(target: pathlib.Path, header: dict[str, str], key: str) -> dict[str, Any]:
    text = header.get(key, "")
    try:
        found = json.loads(text) if len(text) < LONGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FileError(f"{target}: {key} in its header is damaged")
    return found


def _check_position(target: pathlib.Path, position: dict[str, Any]) -> None:
    """Hold every entry to its kind, so that nobody behind us needs to."""
    kinds: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("iteration", "measured", "end", "skipped", "measurements"), _is_count),
        "best": lambda value: isinstance(value, bool),
        "best_val_acc": lambda value: math.isfinite(real(value)),
        "counts": lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
        "callbacks": lambda value: isinstance(value, list),
    }
    bad = [key for key, right in kinds.items() if key not in position or not right(position[key])]
    if bad or position["measured"] > position["iteration"]:
        raise FileError(f"{target}: the position in its header is damaged: {', '.join(bad) or 'measured'}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


# ---- what must be the same


def fingerprint(array: np.ndarray) -> str:
    """The dtype, the shape and a hash of the content."""
    found = hashlib.sha256()
    for part in array if array.ndim > 1 else [array]:  # example by example: no copy of all the data
        found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return f"{array.dtype} {array.shape} {found.hexdigest()[:32]}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not the same, in words."""
    told = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "graph" and isinstance(old, dict) and isinstance(new, dict):
            told.append(_graph_difference(old, new))
        elif key in ("settings", "data") and isinstance(old, dict) and isinstance(new, dict):
            told += differences(old, new)
        elif key.startswith(("X_", "y_")):
            told.append(f"{key} holds other data")
        else:
            told.append(f"{key} was {shown(old)} and is {shown(new)}")
    return list(map(plain, told[:MOST_TOLD]))


def _graph_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    before, now = (graph.get("nodes") for graph in (old, new))
    if isinstance(before, list) and isinstance(now, list):
        for number, (a, b) in enumerate(zip(before, now, strict=False), 1):
            if a != b:
                return f"node {number} of the graph was {_node(a)} and is {_node(b)}"
        if len(before) != len(now):
            return f"the graph had {len(before)} nodes and has {len(now)}"
    parts = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} of the graph was {shown(old.get(key))} and is {shown(new.get(key))}" for key in parts)


def _node(told: Any) -> str:
    if not isinstance(told, dict):
        return shown(told)
    settings = ", ".join(f"{key}={shown(value)}" for key, value in told.items() if key != "op")
    return f"{told.get('op')}({settings})"


# ---- a folder of them


class Folder:
    """Checkpoints by the number of their iteration, the last few of them."""

    def __init__(self, path: Any, keep: int) -> None:
        self.path, self.keep = pathlib.Path(path), keep

    def newest_first(self) -> list[pathlib.Path]:
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        found = [name for name in names if re.fullmatch(r"\d{8,19}\.safetensors", name)]
        return [self.path / name for name in sorted(found, key=lambda name: int(name.split(".")[0]), reverse=True)]

    def path_of(self, iteration: int) -> pathlib.Path:
        return self.path / f"{iteration:08d}.safetensors"

    def write(self, checkpoint: Checkpoint) -> pathlib.Path:
        """Write it, and once it is there remove those before it that are more than we keep. Those behind it, of a
        training that has gone back, are put aside."""
        target = self.path_of(checkpoint.position["iteration"])
        with self.told(target):
            cache.write_atomically(target, to_bytes(checkpoint), private=False)
        with contextlib.suppress(OSError):
            paths = self.newest_first()
            here = paths.index(target)
            for later in paths[:here]:
                later.replace(later.with_suffix(".later"))
            for old in paths[here + self.keep :]:
                old.unlink(missing_ok=True)
        return target

    @contextlib.contextmanager
    def told(self, target: pathlib.Path) -> Iterator[None]:
        """Say in a sentence what could not be written, and which checkpoint is there; nobody has read it."""
        try:
            yield
        except OSError as problem:
            rest = ""
            with contextlib.suppress(OSError):
                there = next(iter(self.newest_first()), None)
                rest = f"; the newest checkpoint there is {there}" if there else "; no checkpoint is found there"
            raise type(problem)(
                problem.errno,
                f"{target} could not be written ({problem.strerror or problem}); the training is still in memory, "
                f"and train() goes on with it{rest}",
            ) from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder where it is missing, and keep other processes out of it."""
        import filelock

        with self.told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", blocking=False)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise RuntimeError(
                    f"another process trains into {self.path}; name another folder, or wait until it has ended"
                ) from None
        try:
            for name in os.listdir(self.path):  # what a process that was killed had begun to write
                if re.fullmatch(r"\.(\d{8,19}|best)\.safetensors\..+", name):
                    (self.path / name).unlink(missing_ok=True)
            yield
        finally:
            lock.release()
