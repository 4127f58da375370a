"""Solver: trains a compiled model, or any object with `params`, `loss(X)` and `loss(X, y)`, with the course's names and
meanings."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
        self.num_train_samples: int | None = chosen["num_train_samples"]
        self.num_val_samples: int | None = chosen["num_val_samples"]
        self.checkpoint_name: str | None = chosen["checkpoint_name"]
        self.print_every = inputs.positive(chosen["print_every"], "print_every")
        self.verbose = bool(chosen["verbose"])
        self.schedule = as_schedule(chosen["schedule"])
        self.clip, self.reg = inputs.amount(chosen["clip"], "clip"), inputs.amount(chosen["reg"], "reg")
        self.sampling: str = chosen["sampling"]
        if self.sampling not in ("replacement", "epoch"):
            raise ValueError(f"sampling must be 'replacement' or 'epoch', got {self.sampling!r}")
        self.seed: int = inputs.seed(chosen["seed"])
        self.log: Callable[[str], None] = chosen["log"]
        self.progress = bool(sys.stdout.isatty() if chosen["progress"] is None else chosen["progress"]) and self.verbose
        kind = CompiledTrainee if isinstance(model, Model) else PlainTrainee
        self._trainee: Any = kind(model, data, self.update_rule, self.optim_config, reg=self.reg, clip=self.clip)
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
        self._shown = 0.0

    @property
    def iterations_per_epoch(self) -> int:
        return max(len(self.X_train) // self.batch_size, 1)

    @property
    def num_iterations(self) -> int:
        return self.num_epochs * self.iterations_per_epoch

    def train(self) -> None:
        """Train to the end of num_epochs, or until Ctrl-C; either way the best weights so far are then in the model."""
        stopped = False
        try:
            with _interruptible() as interrupt:
                ready = 1
                while self.iteration < self.num_iterations and not interrupt.is_set():
                    ready = self._some_steps(ready)
                stopped = self.iteration < self.num_iterations
        finally:
            if self.best_params:
                self._trainee.put(self.best_params)
        if stopped:
            self._say(
                f"Stopped by Ctrl-C after iteration {self.iteration} of {self.num_iterations}; "
                + (
                    f"the model holds the best weights so far, val_acc {self.best_val_acc:f}"
                    if self.best_params
                    else "no accuracy was measured yet, so the model holds the latest weights"
                )
            )

    def check_accuracy(self, X: Any, y: Any, num_samples: int | None = None, batch_size: int = 100) -> float:
        """The accuracy on X, or on num_samples examples of it drawn with replacement."""
        if num_samples is not None and len(X) > num_samples:
            chosen = np.random.default_rng((self.seed, 1, self.epoch, self.iteration)).integers(0, len(X), num_samples)
            X, y = X[chosen], y[chosen]
        return float(self._trainee.accuracy(X, y, batch_size))

    # ---- one call of the compiled step, and what comes between calls

    def _some_steps(self, ready: int) -> int:
        """Take up to `ready` steps, not beyond an epoch's end; returns how many may be taken next time."""
        done = self.iteration % self.iterations_per_epoch
        count = 1 if self.iteration == 0 else min(ready, self.iterations_per_epoch - done)
        rows = self._epoch_rows()[done : done + count]
        rates = self.optim_config["learning_rate"] * self.lr_decay**self.epoch
        begun = time.perf_counter()
        try:
            losses = self._trainee.steps(
                rows, rates * factors(self.schedule, self.iteration, count, self.num_iterations)
            )
        except FloatingPointError as problem:
            raise FloatingPointError(f"iteration {self.iteration + 1}: {problem}") from None
        taken = time.perf_counter() - begun
        for value in losses:
            self.loss_history.append(float(value))
            if self.verbose and self.iteration % self.print_every == 0:
                self._say(f"(Iteration {self.iteration + 1} / {self.num_iterations}) loss: {value:f}")
            self.iteration += 1
        first, last = self.iteration == 1, self.iteration == self.num_iterations
        epoch_end = self.iteration % self.iterations_per_epoch == 0
        self.epoch += epoch_end
        if first or last or epoch_end:
            self._measure()
        self._show_progress(count * self.batch_size / taken)
        return max(1, min(2 * count, int(ALIVE / taken * count)))

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
            self._say(f"(Epoch {self.epoch} / {self.num_epochs}) train acc: {train:f}; val_acc: {val:f}")
        if val > self.best_val_acc or not self.best_params:
            self.best_val_acc, self.best_params = val, self._trainee.copy()

    def _say(self, line: str) -> None:
        if self.progress:
            sys.stdout.write("\r\033[K")
        self.log(line)

    def _show_progress(self, rate: float) -> None:
        now = time.monotonic()
        if self.progress and now - self._shown > ALIVE:
            self._shown = now
            sys.stdout.write(
                f"\r\033[Kepoch {self.epoch + 1}/{self.num_epochs}  iteration {self.iteration}/{self.num_iterations}  "
                f"loss {self.loss_history[-1]:.4f}  {rate:,.0f} examples/s"
            )
            sys.stdout.flush()
        if self.progress and self.iteration == self.num_iterations:
            sys.stdout.write("\r\033[K")


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
