"""Solver: trains a compiled model, or any object with `params`, `loss(X)` and `loss(X, y)`, with the course's names and
meanings."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbnn import inputs, rules
from nbnn.checkpoints import BEST, Checkpoint, Folder, Shapes, differences, fingerprint, read
from nbnn.files import FileError
from nbnn.model import ON_NAN, Model
from nbnn.schedules import as_schedule, factors
from nbnn.signals import Signals, listening
from nbnn.trainees import CompiledTrainee, PlainTrainee
from nbnn.words import hint

DEFAULTS: dict[str, Any] = {
    "update_rule": "sgd",
    "optim_config": None,
    "lr_decay": 1.0,
    "batch_size": 100,
    "num_epochs": 10,
    "num_train_samples": 1000,
    "num_val_samples": None,
    "checkpoint_name": None,
    "print_every": 10,
    "verbose": True,
    # beyond the course
    "schedule": None,
    "clip": 0.0,
    "reg": 0.0,
    "sampling": "replacement",
    "seed": 0,
    "log": print,
    "progress": None,
    "checkpoint": None,
    "checkpoint_every": None,
    "keep": 3,
    "on_nan": None,
    "callbacks": (),
}
# what a training that goes on must have been given as well, besides the same graph and data
SAME = (
    *("update_rule", "optim_config", "lr_decay", "batch_size", "num_epochs", "num_train_samples", "num_val_samples"),
    *("schedule", "clip", "reg", "sampling", "seed"),
)
ALIVE = 0.1  # seconds that one call of the compiled step may take, so that progress and Ctrl-C come in time


class Solver:
    """Train `model` on `data`, a dict with X_train, y_train, X_val, y_val.

    Options, with the course's defaults: update_rule "sgd", optim_config, lr_decay 1.0 (the learning rate is multiplied
    by it after each epoch), batch_size 100, num_epochs 10, num_train_samples 1000, num_val_samples None,
    checkpoint_name None, print_every 10, verbose True. Beyond the course: schedule (see `nbnn.schedules`), clip
    (largest norm of the gradient), reg (L2 of a compiled model), sampling "replacement" or "epoch", seed, log (what
    prints a line), progress (a live line; by default on terminals).

    checkpoint names a folder that keeps the last `keep` checkpoints and the best model; one is written after each
    measurement of the accuracies, after every `checkpoint_every` iterations, and when Ctrl-C or SIGTERM ends the
    training. `resume()` goes on from the newest, to the same bits as if nothing had happened.

    on_nan says what becomes of a step whose loss or gradient is not finite, of which nothing stays in any case: "raise"
    an error that names the node where it began, "stop" the training, or "skip" the step.

    callbacks are functions that are called with the Solver after each measurement; `stop()` ends the training. The
    state of one that has `state_dict()` and `load_state_dict(state)`, made of what JSON can hold, is in checkpoints.

    After `train()` the model holds the weights with the best validation accuracy. For a loss that does not classify,
    the negative mean loss stands where the accuracy stands otherwise.
    """

    def __init__(self, model: Any, data: dict[str, Any], **options: Any) -> None:
        for name in options:
            if name not in DEFAULTS:
                raise ValueError(f"Solver has no option {name!r}; {hint(name, DEFAULTS, 'it has')}")
        if not isinstance(data, Mapping):
            raise TypeError(f"data must be a dict with X_train, y_train, X_val and y_val, got {type(data).__name__}")
        for key in ("X_train", "y_train", "X_val", "y_val"):
            if key not in data:
                raise ValueError(f"data has no {key!r}; it needs X_train, y_train, X_val and y_val")
        self.model = model
        chosen = {**DEFAULTS, **options}
        self.update_rule: str = chosen["update_rule"]
        self.optim_config = rules.config_of(self.update_rule, chosen["optim_config"])
        self.lr_decay = inputs.amount(chosen["lr_decay"], "lr_decay")
        self.batch_size = inputs.positive(chosen["batch_size"], "batch_size")
        self.num_epochs = inputs.positive(chosen["num_epochs"], "num_epochs")
        self.num_train_samples = _or_none(chosen["num_train_samples"], "num_train_samples")
        self.num_val_samples = _or_none(chosen["num_val_samples"], "num_val_samples")
        self.checkpoint_name: str | None = chosen["checkpoint_name"]
        if self.checkpoint_name is not None and not pathlib.Path(self.checkpoint_name).parent.is_dir():
            raise FileNotFoundError(f"checkpoint_name: there is no folder {pathlib.Path(self.checkpoint_name).parent}")
        self.print_every = inputs.positive(chosen["print_every"], "print_every")
        self.verbose = bool(chosen["verbose"])
        self.schedule = as_schedule(chosen["schedule"])
        self.clip, self.reg = inputs.amount(chosen["clip"], "clip"), inputs.amount(chosen["reg"], "reg")
        self.sampling: str = chosen["sampling"]
        if self.sampling not in ("replacement", "epoch"):
            raise ValueError(f"sampling must be 'replacement' or 'epoch', got {self.sampling!r}")
        self.seed: int = inputs.seed(chosen["seed"])
        self.log: Callable[[str], None] = chosen["log"]
        if not callable(self.log):
            raise TypeError(f"log must be a function that takes a line, got {type(self.log).__name__}")
        self.progress = bool(sys.stdout.isatty() if chosen["progress"] is None else chosen["progress"]) and self.verbose
        self.checkpoint_every = _or_none(chosen["checkpoint_every"], "checkpoint_every")
        keep = inputs.positive(chosen["keep"], "keep")
        self._folder = None if chosen["checkpoint"] is None else Folder(chosen["checkpoint"], keep)
        if self._folder is None and self.checkpoint_every is not None:
            raise ValueError('checkpoint_every needs a folder to write to, such as checkpoint="run"')
        self.callbacks = list(chosen["callbacks"])
        for callback in self.callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks must be functions that take the Solver, got {type(callback).__name__}")
        settings = data, self.update_rule, self.optim_config
        offered = getattr(model, "trainee", None)  # a model may know itself how it is trained best
        self._trainee: Any = offered(*settings, reg=self.reg, clip=self.clip) if callable(offered) else None
        if self._trainee is None:
            kind = CompiledTrainee if isinstance(model, Model) else PlainTrainee
            self._trainee = kind(model, *settings, reg=self.reg, clip=self.clip)
        self.on_nan: str = self._trainee.on_nan
        if chosen["on_nan"] is not None:
            self.on_nan = inputs.choice(chosen["on_nan"], ON_NAN, "on_nan")
        self.X_train, self.y_train, self.X_val, self.y_val = (
            self._trainee.data[k] for k in ("X_train", "y_train", "X_val", "y_val")
        )
        self.epoch = 0
        self.iteration = 0
        self.best_val_acc = 0.0
        self.best_params: dict[str, np.ndarray] = {}
        self.skipped = 0  # steps that were left out
        self.loss_history: list[float] = []
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []
        self._rows_epoch = -1
        self._end = self.num_iterations  # the iteration at which train() ends
        self._measured = 0  # the iteration of the last measurement
        self._written = 0  # and of the last checkpoint
        self._best: dict[str, np.ndarray] = {}  # best_params with the running figures
        self._latest: dict[str, np.ndarray] = {}  # where a training that was interrupted goes on
        self._whole = True  # the trainee is at our iteration
        self._ended = False
        self._own = False  # the checkpoints in the folder are of this training
        self._fingerprints: dict[str, str] = {}
        self._signals = Signals()
        self._shown = self._rate = 0.0

    @property
    def iterations_per_epoch(self) -> int:
        return max(len(self.X_train) // self.batch_size, 1)

    @property
    def num_iterations(self) -> int:
        return self.num_epochs * self.iterations_per_epoch

    @property
    def _epochs(self) -> int:
        return self._end // self.iterations_per_epoch

    def train(self) -> None:
        """Train to the end of num_epochs, or until Ctrl-C; either way the best weights so far are then in the model.

        Called again after a stop it goes on where it was; called again after the end it trains num_epochs more.
        """
        if self._ended:
            self._end += self.num_iterations
            self._ended = False
        with contextlib.ExitStack() as stack:
            if self._folder is not None:
                stack.enter_context(self._folder.held())
                self._refuse_foreign()
            if self._latest and _same(self._trainee.copy(), self._best):
                self._trainee.put(self._latest)
            self._latest = {}
            self._signals = stack.enter_context(listening(both=self._folder is not None))
            try:
                self._status("compiling")
                self._trainee.prepare()
                ready = 1
                while True:
                    if self._due():
                        self._measure()
                    self._keep()
                    if self.iteration >= self._end:
                        self._ended = True
                        break
                    ready = self._some_steps(ready)
                    self._pause()
            except KeyboardInterrupt:
                self._stopped(self._signals.name or "Ctrl-C")
            except StoppedByNan as problem:
                self._say(str(problem))
                self._stopped("a step that is not finite")
            finally:
                self._status("")
                latest = {} if self._ended else self._trainee.copy()
                if all(np.isfinite(value).all() for value in latest.values()):
                    self._latest = latest
                if self._best:
                    self._trainee.put(self._best)

    def stop(self) -> None:
        """End the training here; what is due at its end is done."""
        self._end = self.iteration

    def resume(self, path: Any = None, *, force: bool = False) -> bool:
        """Go on from a checkpoint: of that path, or from the newest that is whole in the folder `checkpoint`. Says
        whether there was one; train() then goes on to the same bits as a training that was never stopped.

        A checkpoint of another graph, other data or other settings is refused, unless forced; the settings are then
        those that this Solver was given.
        """
        folder = self._folder if path is None else Folder(path, 1)
        if folder is None:
            raise ValueError('resume needs a file, or the folder that the Solver was given as checkpoint="..."')
        if path is not None and not folder.path.exists():
            raise FileNotFoundError(f"there is no file or folder {folder.path}")
        paths = [folder.path] if folder.path.is_file() else folder.newest_first()
        problem: FileError | None = None
        for found in paths:
            try:
                optional = (*self._trainee.figures, *(["rule/"] if force else []))
                checkpoint = read(found, functools.partial(self._expected, found, force), optional)
                self._check_finite(found, checkpoint)
            except FileError as damaged:
                self.log(str(damaged))
                problem = problem or damaged
                continue
            self._go_on(checkpoint, force)
            self._own = self._folder is not None and found.parent.resolve() == self._folder.path.resolve()
            self.log(f"Going on from {found}, iteration {self.iteration} of {self._end}")
            return True
        if problem is not None:
            raise problem
        return False

    def write_checkpoint(self) -> pathlib.Path:
        """Write a checkpoint of this moment into the folder."""
        if self._folder is None:
            raise ValueError('a checkpoint needs a folder to write to, such as checkpoint="run"')
        path = self._folder.write(self._checkpoint())
        self._written, self._own = self.iteration, True
        return path

    def check_accuracy(self, X: Any, y: Any, num_samples: int | None = None, batch_size: int = 100) -> float:
        """The accuracy on X, or on num_samples examples of it drawn with replacement."""
        X, y = np.asarray(X), np.asarray(y)
        if num_samples is not None and len(X) > inputs.positive(num_samples, "num_samples"):
            chosen = np.random.default_rng((self.seed, 1, self.epoch, self.iteration)).integers(0, len(X), num_samples)
            X, y = X[chosen], y[chosen]
        return float(self._trainee.accuracy(X, y, inputs.positive(batch_size, "batch_size"), self._pause))

    # ---- one call of the compiled step, and what comes between calls

    def _some_steps(self, ready: int) -> int:
        """Take up to `ready` steps, not beyond an epoch's end; returns how many may be taken next time."""
        done = self.iteration % self.iterations_per_epoch
        left = self.iterations_per_epoch - done
        if self.checkpoint_every is not None:
            left = min(left, self.checkpoint_every - self.iteration % self.checkpoint_every)
        count = 1 if self.iteration == 0 else min(ready, left)
        rows = self._epoch_rows()[done : done + count]
        rate = self.optim_config["learning_rate"] * self.lr_decay**self.epoch
        rates = rate * factors(self.schedule, self.iteration, count, self._end)
        begun = time.perf_counter()
        self._whole = False
        losses, problem = self._trainee.steps(rows, rates, self.on_nan)
        taken = time.perf_counter() - begun
        first = self.iteration
        self.loss_history += losses.tolist()
        self.iteration += len(losses)
        self.epoch = self.iteration // self.iterations_per_epoch
        self.skipped += int(np.isnan(losses).sum()) if self.on_nan == "skip" else 0
        self._whole = True
        for iteration, value in enumerate(losses, first):
            if self.verbose and iteration % self.print_every == 0:
                self._say(f"(Iteration {iteration + 1} / {self._end}) loss: {value:f}")
        if problem is not None:
            kind = StoppedByNan if self.on_nan == "stop" else type(problem)
            raise kind(f"iteration {self.iteration + 1}: {problem}") from None
        self._rate = count * self.batch_size / taken
        return max(1, min(2 * count, int(ALIVE / taken * count)))

    def _due(self) -> bool:
        """Whether the accuracies are to be measured now: after the first iteration, each epoch, and the last."""
        last, epoch_end = self.iteration == self._end, self.iteration % self.iterations_per_epoch == 0
        return self._measured < self.iteration and (self.iteration == 1 or last or epoch_end)

    def _keep(self) -> None:
        """Write a checkpoint where one is due."""
        every = self.checkpoint_every or self.num_iterations + 1
        due = self._measured == self.iteration or self.iteration % every == 0
        if self._folder is not None and due and self._written < self.iteration:
            self.write_checkpoint()

    def _stopped(self, why: str) -> None:
        """What is done and said when a training ends early."""
        kept = ""
        if self._folder is not None and self._whole:
            kept = f"; resume() goes on from {self.write_checkpoint()}"
        holds = (
            f"the model holds the best weights so far, val_acc {self.best_val_acc:f}"
            if self._best
            else "no accuracy was measured yet, so the model holds the latest weights"
        )
        self._say(f"Stopped by {why} after iteration {self.iteration} of {self._end}; {holds}{kept}")

    def _pause(self) -> None:
        """Between pieces of work: show that we are alive, and stop if Ctrl-C was pressed."""
        if self._signals.name:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self.loss_history and now - self._shown > ALIVE:
            self._shown = now
            self._status(
                f"epoch {min(self.epoch + 1, self._epochs)}/{self._epochs}  iteration {self.iteration}/{self._end}  "
                f"loss {self.loss_history[-1]:.4f}  {self._rate:,.0f} examples/s"
            )

    def _epoch_rows(self) -> np.ndarray:
        """The minibatches of the current epoch: a function of the seed and the epoch, so that a resume needs no
        state."""
        if self._rows_epoch != self.epoch:
            rng = np.random.default_rng((self.seed, 0, self.epoch))
            shape = self.iterations_per_epoch, self.batch_size
            if self.sampling == "replacement" or self.batch_size > len(self.X_train):
                self._rows = rng.integers(0, len(self.X_train), shape)
            else:
                self._rows = rng.permutation(len(self.X_train))[: shape[0] * shape[1]].reshape(shape)
            self._rows_epoch = self.epoch
        return self._rows

    def _measure(self) -> None:
        try:
            train = self.check_accuracy(self.X_train, self.y_train, self.num_train_samples)
            val = self.check_accuracy(self.X_val, self.y_val, self.num_val_samples)
        except FloatingPointError as problem:
            raise FloatingPointError(f"iteration {self.iteration}: {problem}") from None
        self.train_acc_history.append(train)
        self.val_acc_history.append(val)
        self._measured = self.iteration
        if self.checkpoint_name is not None:
            self._trainee.save(pathlib.Path(f"{self.checkpoint_name}_epoch_{self.epoch}.safetensors"))
        if self.verbose:
            self._say(f"(Epoch {self.epoch} / {self._epochs}) train acc: {train:f}; val_acc: {val:f}")
        if val > self.best_val_acc or not self._best:
            self.best_val_acc, self._best = val, self._trainee.copy()
            self.best_params = self._trainee.shown(self._best)
            if self._folder is not None:
                with self._folder.told(self._folder.path / BEST):
                    self._trainee.save(self._folder.path / BEST)
        for callback in self.callbacks:
            callback(self)

    # ---- checkpoints

    def _keepers(self) -> list[Any]:
        """The callbacks that have a state."""
        return [c for c in self.callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]

    def _check_finite(self, path: pathlib.Path, checkpoint: Checkpoint) -> None:
        """No step leaves weights that are not finite, except those of a model that goes on whatever comes."""
        for name, value in checkpoint.arrays.items():
            if self._trainee.on_nan != "go on" and not name.startswith("history/") and not np.isfinite(value).all():
                raise FileError(f"{path}: {name} holds a NaN or an infinity")

    def _about(self) -> dict[str, Any]:
        if not self._fingerprints:
            self._fingerprints = {name: fingerprint(array) for name, array in self._trainee.data.items()}
        settings = {name: getattr(self, name) for name in SAME}
        settings["callbacks"] = [type(c).__name__ for c in self._keepers()]
        about = {**self._trainee.about(), "data": self._fingerprints, "settings": settings}
        return json.loads(json.dumps(about))

    def _checkpoint(self) -> Checkpoint:
        arrays = {
            **{f"weights/{name}": value for name, value in self._trainee.copy().items()},
            **{f"best/{name}": value for name, value in self._best.items()},
            **{f"rule/{name}": value for name, value in self._trainee.memory().items()},
            "history/loss": np.array(self.loss_history, float),
            "history/train": np.array(self.train_acc_history, float),
            "history/val": np.array(self.val_acc_history, float),
        }
        position = {
            "iteration": self.iteration,
            "measured": self._measured,
            "measurements": len(self.val_acc_history),
            "end": self._end,
            "skipped": self.skipped,
            "best": bool(self._best),
            "best_val_acc": float(self.best_val_acc),
            "counts": self._trainee.counts(),
            "callbacks": [_state_of(c) for c in self._keepers()],
        }
        return Checkpoint(self._about(), position, arrays)

    def _expected(self, path: pathlib.Path, force: bool, about: dict[str, Any], position: dict[str, Any]) -> Shapes:
        """The arrays of a checkpoint that this training can go on from; another one is refused."""
        told = differences(about, self._about())
        if told and not force:
            raise ValueError(
                f"{path} is of another training: {'; '.join(told)}; resume(path, force=True) goes on all the same"
            )
        right = [position["counts"].keys() == self._trainee.counts().keys()]
        right.append(force or len(position["callbacks"]) == len(self._keepers()))
        for key, good in zip(("counts", "callbacks"), right, strict=True):
            if not good:
                raise FileError(f"{path}: the position in its header is damaged: {key}")
        weights, memory = (
            {name: (value.shape, None if force else value.dtype.name) for name, value in arrays.items()}
            for arrays in (self._trainee.copy(), self._trainee.memory())
        )
        return {
            **{f"weights/{name}": value for name, value in weights.items()},
            **({f"best/{name}": value for name, value in weights.items()} if position["best"] else {}),
            **({} if force else {f"rule/{name}": value for name, value in memory.items()}),
            "history/loss": ((position["iteration"],), "float64"),
            "history/train": ((position["measurements"],), "float64"),
            "history/val": ((position["measurements"],), "float64"),
        }

    def _go_on(self, checkpoint: Checkpoint, force: bool) -> None:
        position = checkpoint.position
        parts: dict[str, dict[str, np.ndarray]] = {"weights": {}, "best": {}, "rule": {}, "history": {}}
        for name, value in checkpoint.arrays.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        memory = self._trainee.memory()
        fits = {n: a.shape for n, a in memory.items()} == {n: a.shape for n, a in parts["rule"].items()}
        self._trainee.go_on(parts["weights"], parts["rule"] if fits else memory, position["counts"])
        self.loss_history = parts["history"]["loss"].tolist()
        self.train_acc_history = parts["history"]["train"].tolist()
        self.val_acc_history = parts["history"]["val"].tolist()
        self._best, self.best_val_acc = parts["best"], position["best_val_acc"]
        self.best_params = self._trainee.shown(self._best)
        self.iteration = self._written = position["iteration"]
        self._measured, self.skipped = position["measured"], position["skipped"]
        self.epoch = self.iteration // self.iterations_per_epoch
        self._end = max(self.num_iterations, self.iteration) if force else position["end"]
        if len(position["callbacks"]) == len(self._keepers()):
            for callback, state in zip(self._keepers(), position["callbacks"], strict=True):
                callback.load_state_dict(state)
        self._latest, self._whole, self._ended = {}, True, False

    def _refuse_foreign(self) -> None:
        """A training that begins must not mix its checkpoints with those of another one."""
        assert self._folder is not None
        there = self._folder.newest_first()
        if there and not self._own:
            raise FileExistsError(
                f"{self._folder.path} holds checkpoints of an earlier training, the newest {there[0].name}; "
                "call resume() before train() to go on with it, or name another folder"
            )

    def _say(self, line: str) -> None:
        self._status("")
        self.log(line)

    def _status(self, line: str) -> None:
        """The live line at the foot of a terminal."""
        if self.progress:
            sys.stdout.write(f"\r\033[K{line}")
            sys.stdout.flush()


def _or_none(value: Any, name: str) -> int | None:
    return None if value is None else inputs.positive(value, name)


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)


def _state_of(callback: Any) -> Any:
    state = callback.state_dict()
    try:
        return json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as problem:
        raise TypeError(
            f"the state_dict() of {type(callback).__name__} cannot go into a checkpoint: {problem}; make it of finite "
            "numbers, texts, lists and dicts"
        ) from None


class StoppedByNan(Exception):
    """on_nan="stop"."""
