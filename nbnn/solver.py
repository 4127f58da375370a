"""Solver: trains a compiled model, or any object with `params`, `loss(X)` and `loss(X, y)`, with the course's names and
meanings."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nbnn import inputs, rules
from nbnn.model import Model
from nbnn.schedules import as_schedule, factors
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
}
ALIVE = 0.1  # seconds that one call of the compiled step may take, so that progress and Ctrl-C come in time


class Solver:
    """Train `model` on `data`, a dict with X_train, y_train, X_val, y_val.

    Options, with the course's defaults: update_rule "sgd", optim_config, lr_decay 1.0 (the learning rate is multiplied
    by it after each epoch), batch_size 100, num_epochs 10, num_train_samples 1000, num_val_samples None,
    checkpoint_name None, print_every 10, verbose True. Beyond the course: schedule (see `nbnn.schedules`), clip
    (largest norm of the gradient), reg (L2 of a compiled model), sampling "replacement" or "epoch", seed, log (what
    prints a line), progress (a live line; by default on terminals).

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
        settings = data, self.update_rule, self.optim_config
        offered = getattr(model, "trainee", None)  # a model may know itself how it is trained best
        self._trainee: Any = offered(*settings, reg=self.reg, clip=self.clip) if callable(offered) else None
        if self._trainee is None:
            kind = CompiledTrainee if isinstance(model, Model) else PlainTrainee
            self._trainee = kind(model, *settings, reg=self.reg, clip=self.clip)
        self.X_train, self.y_train, self.X_val, self.y_val = (
            self._trainee.data[k] for k in ("X_train", "y_train", "X_val", "y_val")
        )
        self.epoch = 0
        self.iteration = 0
        self.best_val_acc = 0.0
        self.best_params: dict[str, np.ndarray] = {}
        self.loss_history: list[float] = []
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []
        self._rows_epoch = -1
        self._end = self.num_iterations  # the iteration at which train() ends
        self._interrupt = threading.Event()
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
        if self.iteration >= self._end:
            self._end += self.num_iterations
        stopped = False
        try:
            self._status("compiling")
            self._trainee.prepare()
            with _interruptible() as self._interrupt:
                ready = 1
                while self.iteration < self._end:
                    ready = self._some_steps(ready)
                    self._pause()
        except KeyboardInterrupt:
            stopped = True
        finally:
            self._interrupt = threading.Event()
            self._status("")
            if self.best_params:
                self._trainee.put(self.best_params)
        if stopped:
            self.log(
                f"Stopped by Ctrl-C after iteration {self.iteration} of {self._end}; "
                + (
                    f"the model holds the best weights so far, val_acc {self.best_val_acc:f}"
                    if self.best_params
                    else "no accuracy was measured yet, so the model holds the latest weights"
                )
            )

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
        count = 1 if self.iteration == 0 else min(ready, self.iterations_per_epoch - done)
        rows = self._epoch_rows()[done : done + count]
        rate = self.optim_config["learning_rate"] * self.lr_decay**self.epoch
        rates = rate * factors(self.schedule, self.iteration, count, self._end)
        begun = time.perf_counter()
        losses, problem = self._trainee.steps(rows, rates)
        taken = time.perf_counter() - begun
        for value in losses:
            self.loss_history.append(float(value))
            if self.verbose and self.iteration % self.print_every == 0:
                self._say(f"(Iteration {self.iteration + 1} / {self._end}) loss: {value:f}")
            self.iteration += 1
        if problem is not None:
            raise type(problem)(f"iteration {self.iteration + 1}: {problem}") from None
        self._rate = count * self.batch_size / taken
        first, last = self.iteration == 1, self.iteration == self._end
        epoch_end = self.iteration % self.iterations_per_epoch == 0
        self.epoch += epoch_end
        if first or last or epoch_end:
            try:
                self._measure()
            except FloatingPointError as problem:
                raise FloatingPointError(f"iteration {self.iteration}: {problem}") from None
        return max(1, min(2 * count, int(ALIVE / taken * count)))

    def _pause(self) -> None:
        """Between pieces of work: show that we are alive, and stop if Ctrl-C was pressed."""
        if self._interrupt.is_set():
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
        train = self.check_accuracy(self.X_train, self.y_train, self.num_train_samples)
        val = self.check_accuracy(self.X_val, self.y_val, self.num_val_samples)
        self.train_acc_history.append(train)
        self.val_acc_history.append(val)
        if self.checkpoint_name is not None:
            self._trainee.save(pathlib.Path(f"{self.checkpoint_name}_epoch_{self.epoch}.safetensors"))
        if self.verbose:
            self._say(f"(Epoch {self.epoch} / {self._epochs}) train acc: {train:f}; val_acc: {val:f}")
        if val > self.best_val_acc or not self.best_params:
            self.best_val_acc, self.best_params = val, self._trainee.copy()

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


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag that is looked at between calls; the second one interrupts as usual."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
