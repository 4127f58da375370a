"""Keeper: what a Solver writes into a folder while it trains, and how it goes on from there."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnn.checkpoints import BEST, Checkpoint, Folder, Shapes, differences, fingerprint, read
from nbnn.files import FileError
from nbnn.words import plain

if TYPE_CHECKING:
    from nbnn.solver import Solver

# what a training that goes on must have been given as well, besides the same graph and data
SAME = (
    *("update_rule", "optim_config", "lr_decay", "batch_size", "num_epochs", "num_train_samples", "num_val_samples"),
    *("schedule", "clip", "reg", "average", "sampling", "seed", "on_nan"),
)
AVERAGED = "averaged/"  # how the names of a moving average begin
KINDS = ("weights", "best", "rule", "history")  # of a checkpoint's arrays


class Keeper:
    """Of one Solver. Without a folder it keeps nothing."""

    def __init__(self, solver: Solver, folder: Any, every: int | None, keep: int) -> None:
        self.solver, self.every = solver, every
        self.folder = None if folder is None else Folder(folder, keep)
        if self.folder is None and every is not None:
            raise ValueError('checkpoint_every needs a folder to write to, such as checkpoint="run"')
        self._written = 0  # the iteration of the last checkpoint
        self._own = False  # the checkpoints in the folder are of this training
        self._working = False
        self.best_is_new = False  # and is not in the folder yet
        self._fingerprints: dict[str, str] = {}

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """The folder is this training's alone, and holds no checkpoints of another one."""
        if self.folder is None:
            yield
            return
        with self.folder.held():
            there = self.folder.newest_first()
            if there and not self._own:
                raise FileExistsError(
                    f"{self.folder.path} holds checkpoints of an earlier training, the newest {there[0].name}; "
                    "call resume() before train() to go on with it, or name another folder"
                )
            self._working = True
            try:
                yield
            finally:
                self._working = False

    def left(self, iteration: int) -> float:
        """Steps until the next checkpoint that `checkpoint_every` asks for."""
        return float("inf") if self.every is None else self.every - iteration % self.every

    def write_if_due(self) -> None:
        """After each measurement, and after every so many iterations."""
        solver = self.solver
        due = solver.measured == solver.iteration or (self.every is not None and solver.iteration % self.every == 0)
        if self.folder is not None and due and self._written < solver.iteration:
            if self.best_is_new:  # and the model is as it was measured
                with solver.trainee.averaged(), self.folder.told(self.folder.path / BEST):
                    solver.trainee.save(self.folder.path / BEST)
                self.best_is_new = False
            self.write()

    def write(self) -> pathlib.Path:
        """Write the checkpoint of this moment."""
        path = self._write()
        self._written = self.solver.iteration
        return path

    def write_on_request(self) -> pathlib.Path:
        """The same for who asks, while it trains or not: the one that is due here is still written, and what was
        written here is not written again."""
        if self._working:
            return self._write()
        with self.at_work():
            if self.folder is not None and self._own and self._written == self.solver.iteration:
                return self.folder.path_of(self._written)
            return self.write()

    def _write(self) -> pathlib.Path:
        if self.folder is None:
            raise ValueError('a checkpoint needs a folder to write to, such as checkpoint="run"')
        path = self.folder.write(self._checkpoint())
        self._own = True
        return path

    def resume(self, path: Any, force: bool) -> bool:
        """See `Solver.resume`."""
        folder = self.folder if path is None else Folder(path, 1)
        if folder is None:
            raise ValueError('resume needs a file, or the folder that the Solver was given as checkpoint="..."')
        if path is not None and not folder.path.exists():
            raise FileNotFoundError(f"there is no file or folder {folder.path}")
        damaged: FileError | None = None
        for found in [folder.path] if folder.path.is_file() else folder.newest_first():
            try:
                checkpoint = self._read(found, force)
                self._restore_callbacks(found, checkpoint.position["callbacks"])
            except FileError as problem:
                self.solver.log(str(problem))
                damaged = damaged or problem
                continue
            self._go_on(checkpoint, force)
            self._own = self.folder is not None and found.parent.resolve() == self.folder.path.resolve()
            self.solver.log(f"Going on from {found}, iteration {self.solver.iteration} of {self.solver.end}")
            return True
        if damaged is not None:
            raise damaged
        return False

    # ---- what is in a checkpoint

    def _about(self) -> dict[str, Any]:
        """What must be the same where this training goes on, as JSON gives it back."""
        solver = self.solver
        if not self._fingerprints:
            solver.demand_whole()
            self._fingerprints = {name: fingerprint(array) for name, array in solver.trainee.data.items()}
        settings = {name: getattr(solver, name) for name in SAME}
        settings["callbacks"] = [type(c).__name__ for c in self._with_state()]
        return json.loads(json.dumps({**solver.trainee.about(), "data": self._fingerprints, "settings": settings}))

    def _with_state(self) -> list[Any]:
        """The callbacks that have a state."""
        return [c for c in self.solver.callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]

    def _checkpoint(self) -> Checkpoint:
        solver = self.solver
        arrays = {
            "weights": solver.weights(),
            "best": solver.best,
            "rule": solver.trainee.memory(),
            "history": {
                "loss": np.array(solver.loss_history, float),
                "train": np.array(solver.train_acc_history, float),
                "val": np.array(solver.val_acc_history, float),
            },
        }
        position = {
            "iteration": solver.iteration,
            "measured": solver.measured,
            "measurements": len(solver.val_acc_history),
            "end": solver.end,
            "skipped": solver.skipped,
            "best": bool(solver.best),
            "best_val_acc": float(solver.best_val_acc),
            "counts": solver.trainee.counts(),
            "callbacks": [_state_of(c) for c in self._with_state()],
        }
        named = {f"{kind}/{name}": value for kind in KINDS for name, value in arrays[kind].items()}
        return Checkpoint(self._about(), position, named)

    def _read(self, path: pathlib.Path, force: bool) -> Checkpoint:
        trainee = self.solver.trainee
        optional = (*trainee.figures, *(["rule/"] if force else []))
        checkpoint = read(path, functools.partial(self._expected, path, force), optional)
        for name, value in checkpoint.arrays.items():
            # nothing can be made of such weights, except by a model that goes on whatever comes
            if trainee.on_nan != "go on" and not name.startswith("history/") and not np.isfinite(value).all():
                raise FileError(f"{path}: {name} holds a NaN or an infinity")
        return checkpoint

    def _expected(self, path: pathlib.Path, force: bool, about: dict[str, Any], position: dict[str, Any]) -> Shapes:
        """The arrays of a checkpoint that this training can go on from; another one is refused."""
        told = differences(about, self._about())
        if told and not force:
            raise ValueError(
                f"{path} is of another training: {'; '.join(told)}; resume(path, force=True) goes on all the same"
            )
        trainee = self.solver.trainee
        right = {
            "counts": position["counts"].keys() == trainee.counts().keys(),
            "callbacks": force or len(position["callbacks"]) == len(self._with_state()),
        }
        for key, good in right.items():
            if not good:
                raise FileError(f"{path}: the position in its header is damaged: {key}")
        weights, memory = (
            {name: (value.shape, None if force else value.dtype.name) for name, value in arrays.items()}
            for arrays in (trainee.copy(), trainee.memory())
        )
        return {
            **{f"weights/{name}": value for name, value in weights.items()},
            **({f"best/{name}": value for name, value in weights.items()} if position["best"] else {}),
            **({} if force else {f"rule/{name}": value for name, value in memory.items()}),
            "history/loss": ((position["iteration"],), "float64"),
            "history/train": ((position["measurements"],), "float64"),
            "history/val": ((position["measurements"],), "float64"),
        }

    def _restore_callbacks(self, path: pathlib.Path, states: list[Any]) -> None:
        """All of them or none; what a callback says of its state may be anything."""
        callbacks = self._with_state()
        if len(callbacks) != len(states):  # forced
            return
        before = [_state_of(callback) for callback in callbacks]
        for callback, state in zip(callbacks, states, strict=True):
            try:
                callback.load_state_dict(state)
            except Exception as problem:
                for one, old in zip(callbacks, before, strict=True):
                    one.load_state_dict(old)
                raise FileError(f"{path}: {type(callback).__name__} refuses its state: {plain(str(problem))}") from None

    def _go_on(self, checkpoint: Checkpoint, force: bool) -> None:
        solver, position = self.solver, checkpoint.position
        parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
        for name, value in checkpoint.arrays.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = value
        memory, counts = solver.trainee.memory(), position["counts"]
        given = {n: a for n, a in parts["rule"].items() if n in memory and a.shape == memory[n].shape}
        averaged = {name for name in memory if name.startswith(AVERAGED)}
        settings = checkpoint.about.get("settings")
        same = isinstance(settings, dict) and settings.get("update_rule") == solver.update_rule
        if not (same and memory.keys() - averaged <= given.keys()):  # forced: the rule begins anew
            given = {name: value for name, value in given.items() if name in averaged}
            counts = {name: 0 if name.startswith("updates") else count for name, count in counts.items()}
        if not averaged <= given.keys():  # and so does the average
            counts = {name: 0 if name.startswith("averaged") else count for name, count in counts.items()}
        memory |= given
        solver.trainee.go_on(parts["weights"], memory, counts)
        solver.loss_history, solver.train_acc_history, solver.val_acc_history = (
            parts["history"][name].tolist() for name in ("loss", "train", "val")
        )
        self._written = position["iteration"]
        end = max(solver.num_iterations, position["iteration"]) if force else position["end"]
        solver.go_on(position["iteration"], position["measured"], end)
        solver.skipped = position["skipped"]
        solver.note_best(parts["best"], position["best_val_acc"])


def _state_of(callback: Any) -> Any:
    state = callback.state_dict()
    try:
        return json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as problem:
        raise TypeError(
            f"the state_dict() of {type(callback).__name__} cannot go into a checkpoint: {problem}; make it of finite "
            "numbers, texts, lists and dicts"
        ) from None
