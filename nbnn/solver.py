"""Solver: trains a compiled model, or any object with `params`, `loss(X)` and `loss(X, y)`, with the course's names and
meanings."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from nbnn import inputs, rules
from nbnn.keeper import Keeper
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
    "average": 0.0,
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
ALIVE = 0.1  # seconds that one call of the compiled step may take, so that progress and Ctrl-C come in time


class Solver:
    """Train `model` on `data`, a dict with X_train, y_train, X_val, y_val.

    Options, with the course's defaults: update_rule "sgd", optim_config, lr_decay 1.0 (the learning rate is multiplied
    by it after each epoch), batch_size 100, num_epochs 10, num_train_samples 1000, num_val_samples None,
    checkpoint_name None, print_every 10, verbose True. Beyond the course: schedule (see `nbnn.schedules`), clip
    (largest norm of the gradient), reg (L2 of a compiled model), average (the share, such as 0.999, that each step
    keeps of a moving average of the weights; accuracies, and the best weights, are then those of the average),
    sampling "replacement" or "epoch", seed, log (what prints a line), progress (a live line; by default on terminals).

    checkpoint names a folder that keeps the last `keep` checkpoints and the best model; one is written after each
    measurement of the accuracies, after every `checkpoint_every` iterations, and when Ctrl-C or SIGTERM ends the
    training. `resume()` goes on from the newest, to the same bits as if nothing had happened.

    on_nan says what becomes of a step whose loss or gradient is not finite, of which nothing stays in any case: "raise"
    an error that names the node where it began, "stop" the training, or "skip" the step.

    callbacks are functions that are called with the Solver after each measurement, when the model has the weights of
    the last step, not their average; `stop()` ends the training. The state of one that has `state_dict()` and
    `load_state_dict(state)`, made of what JSON can hold, is in checkpoints.

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
        self.average = inputs.amount(chosen["average"], "average")
        if self.average >= 1:
            raise ValueError(f"average must be below 1, such as 0.999, got {chosen['average']!r}")
        self.sampling: str = chosen["sampling"]
        if self.sampling not in ("replacement", "epoch"):
            raise ValueError(f"sampling must be 'replacement' or 'epoch', got {self.sampling!r}")
        self.seed: int = inputs.seed(chosen["seed"])
        self.log: Callable[[str], None] = chosen["log"]
        if not callable(self.log):
            raise TypeError(f"log must be a function that takes a line, got {type(self.log).__name__}")
        self.progress = bool(sys.stdout.isatty() if chosen["progress"] is None else chosen["progress"]) and self.verbose
        every = _or_none(chosen["checkpoint_every"], "checkpoint_every")
        self._keeper = Keeper(self, chosen["checkpoint"], every, inputs.positive(chosen["keep"], "keep"))
        self.callbacks = list(chosen["callbacks"])
        for callback in self.callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks must be functions that take the Solver, got {type(callback).__name__}")
        settings = data, self.update_rule, self.optim_config
        more: dict[str, Any] = {"reg": self.reg, "clip": self.clip}
        if self.average:  # a model's own trainee may know no other than the two
            more["average"] = self.average
        offered = getattr(model, "trainee", None)  # a model may know itself how it is trained best
        self.trainee: Any = offered(*settings, **more) if callable(offered) else None
        if self.trainee is None:
            kind = CompiledTrainee if isinstance(model, Model) else PlainTrainee
            self.trainee = kind(model, *settings, **more)
        self.on_nan: str = self.trainee.on_nan
        if chosen["on_nan"] is not None:
            self.on_nan = inputs.choice(chosen["on_nan"], ON_NAN, "on_nan")
        self.X_train, self.y_train, self.X_val, self.y_val = (
            self.trainee.data[k] for k in ("X_train", "y_train", "X_val", "y_val")
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
        self.end = self.num_iterations  # the iteration at which train() ends
        self.measured = 0  # the iteration of the last measurement
        self.best: dict[str, np.ndarray] = {}  # best_params with the running figures
        self._latest: dict[str, np.ndarray] = {}  # where a training that was interrupted goes on
        self._whole = True  # the trainee is at our iteration
        self._ended = False
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
        return self.end // self.iterations_per_epoch

    def train(self) -> None:
        """Train to the end of num_epochs, or until Ctrl-C; either way the best weights so far are then in the model.

        Called again after a stop it goes on where it was; called again after the end it trains num_epochs more.
        """
        if self._ended:
            self.end += self.num_iterations
            self._ended = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._keeper.at_work())
            if not self._whole and self._keeper.folder is not None:
                raise RuntimeError(
                    "the last step was interrupted halfway, so what is in memory is no training's state; "
                    "resume() goes on from the last checkpoint"
                )
            if (weights := self.weights()) is self._latest:
                self.trainee.put(weights)
            elif self._latest:  # somebody has put other weights into the model
                self.trainee.average_anew()
            self._latest = {}
            self._signals = stack.enter_context(listening(both=self._keeper.folder is not None))
            try:
                self._status("compiling")
                self.trainee.prepare()
                ready = 1
                while True:
                    if self._due():
                        self._measure()
                    self._keeper.write_if_due()
                    if self.iteration >= self.end:
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
                latest = {} if self._ended else self.trainee.copy()
                if self.trainee.on_nan == "go on" or all(np.isfinite(value).all() for value in latest.values()):
                    self._latest = latest
                if self.best:
                    self.trainee.put(self.best)
                if self._ended:  # another training would begin with these
                    self.trainee.average_anew()

    def stop(self) -> None:
        """End the training here; what is due at its end is done."""
        self.end = self.iteration

    def resume(self, path: Any = None, *, force: bool = False) -> bool:
        """Go on from a checkpoint: of that path, or from the newest that is whole in the folder `checkpoint`. Says
        whether there was one; train() then goes on to the same bits as a training that was never stopped.

        A checkpoint of another graph, other data or other settings is refused, unless forced; the settings are then
        those that this Solver was given.
        """
        return self._keeper.resume(path, force)

    def write_checkpoint(self) -> pathlib.Path:
        """Write a checkpoint of this moment into the folder."""
        return self._keeper.write_on_request()

    def weights(self) -> dict[str, np.ndarray]:
        """The weights and running figures of the training: those of the trainee, but after a stop, as long as it holds
        the best ones that we have put there, the latest."""
        found = self.trainee.copy()
        return self._latest if self._latest and _same(found, self.best) else found

    def check_accuracy(self, X: Any, y: Any, num_samples: int | None = None, batch_size: int = 100) -> float:
        """The accuracy on X, or on num_samples examples of it drawn with replacement."""
        inputs.still_whole(X, "X")
        inputs.still_whole(y, "y")
        X, y = np.asarray(X), np.asarray(y)
        if num_samples is not None and len(X) > inputs.positive(num_samples, "num_samples"):
            chosen = np.random.default_rng((self.seed, 1, self.epoch, self.iteration)).integers(0, len(X), num_samples)
            X, y = X[chosen], y[chosen]
        return float(self.trainee.accuracy(X, y, inputs.positive(batch_size, "batch_size"), self._pause))

    def demand_whole(self) -> None:
        """Refuse data in a mapped file that has become shorter since the Solver was made."""
        for name, array in self.trainee.data.items():
            inputs.still_whole(array, name)

    # ---- one call of the compiled step, and what comes between calls

    def _some_steps(self, ready: int) -> int:
        """Take up to `ready` steps, not beyond an epoch's end; returns how many may be taken next time."""
        done = self.iteration % self.iterations_per_epoch
        left = min(self.iterations_per_epoch - done, self._keeper.left(self.iteration), self.end - self.iteration)
        count = 1 if self.iteration == 0 else int(min(ready, left))
        rows = self._epoch_rows()[done : done + count]
        rate = self.optim_config["learning_rate"] * self.lr_decay**self.epoch
        rates = rate * factors(self.schedule, self.iteration, count, self.end)
        self.demand_whole()
        begun = time.perf_counter()
        self._whole = False
        losses, problem = self.trainee.steps(rows, rates, self.on_nan)
        taken = time.perf_counter() - begun
        first = self.iteration
        self.loss_history += losses.tolist()
        self.iteration += len(losses)
        self.epoch = self.iteration // self.iterations_per_epoch
        self.skipped += int(np.isnan(losses).sum()) if self.on_nan == "skip" else 0
        self._whole = True
        for iteration, value in enumerate(losses, first):
            if self.verbose and iteration % self.print_every == 0:
                self._say(f"(Iteration {iteration + 1} / {self.end}) loss: {value:f}")
        if problem is not None:
            self._not_finite(self.iteration + 1, problem)
        self._rate = count * self.batch_size / max(taken, 1e-9)
        return max(1, min(2 * count, int(ALIVE / max(taken, 1e-9) * count)))

    def _not_finite(self, iteration: int, problem: Exception) -> NoReturn:
        """End the training because of that problem, as on_nan says; another kind of error is the model's own."""
        if type(problem) not in (FloatingPointError, ValueError):
            raise problem
        kind = StoppedByNan if self.on_nan == "stop" else type(problem)
        raise kind(f"iteration {iteration}: {problem}") from None

    def _due(self) -> bool:
        """Whether the accuracies are to be measured now: after the first iteration, each epoch, and the last."""
        last, epoch_end = self.iteration >= self.end, self.iteration % self.iterations_per_epoch == 0
        return self.measured < self.iteration and (self.iteration == 1 or last or epoch_end)

    def _stopped(self, why: str) -> None:
        """What is done and said when a training ends early."""
        kept = ""
        if self._keeper.folder is not None and self._whole:
            kept = f"; resume() goes on from {self._keeper.write()}"
        holds = (
            f"the model holds the best weights so far, val_acc {self.best_val_acc:f}"
            if self.best
            else "no accuracy was measured yet, so the model holds the latest weights"
        )
        self._say(f"Stopped by {why} after iteration {self.iteration} of {self.end}; {holds}{kept}")

    def _pause(self) -> None:
        """Between pieces of work: show that we are alive, and stop if Ctrl-C was pressed."""
        if self._signals.name:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self.loss_history and now - self._shown > ALIVE:
            self._shown = now
            self._status(
                f"epoch {min(self.epoch + 1, self._epochs)}/{self._epochs}  iteration {self.iteration}/{self.end}  "
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
        self.demand_whole()
        with self.trainee.averaged():
            try:
                train = self.check_accuracy(self.X_train, self.y_train, self.num_train_samples)
                val = self.check_accuracy(self.X_val, self.y_val, self.num_val_samples)
            except FloatingPointError as problem:
                self._not_finite(self.iteration, problem)
            self.train_acc_history.append(train)
            self.val_acc_history.append(val)
            self.measured = self.iteration
            if val > self.best_val_acc or not self.best:
                self.note_best(self.trainee.copy(), val)
                self._keeper.best_is_new = True
        if self.verbose:
            self._say(f"(Epoch {self.epoch} / {self._epochs}) train acc: {train:f}; val_acc: {val:f}")
        for callback in self.callbacks:
            callback(self)
        if self.checkpoint_name is not None:
            with self.trainee.averaged():
                self.trainee.save(pathlib.Path(f"{self.checkpoint_name}_epoch_{self.epoch}.safetensors"))

    def note_best(self, arrays: dict[str, np.ndarray], accuracy: float) -> None:
        """These are the best weights and running figures so far."""
        self.best, self.best_val_acc = arrays, accuracy
        self.best_params = self.trainee.shown(arrays)

    def go_on(self, iteration: int, measured: int, end: int) -> None:
        """Be at this iteration: the model and its update rule are."""
        self.iteration, self.measured, self.end = iteration, measured, end
        self.epoch = iteration // self.iterations_per_epoch
        self._latest, self._whole, self._ended = {}, True, False

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


class StoppedByNan(Exception):
    """on_nan="stop"."""
