"""Choosing settings: cross-validation over a few, and random search from coarse to fine over many.

results = cross_validate(build, X, y, [{"k": 1}, {"k": 3}, {"k": 5}])
k_to_accuracies = {result.settings["k"]: result.accuracies for result in results}

trials = random_search(evaluate, {"lr": log_uniform(1e-5, 1e-1), "hidden": whole(50, 500), "rule": ["sgd", "adam"]})
trials[0].settings
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "Trial",
    "Validation",
    "best",
    "cross_validate",
    "kfold",
    "log_uniform",
    "random_search",
    "uniform",
    "whole",
]

Settings = dict[str, Any]
_MARGIN = 0.05  # of a range: what the next one reaches beyond the best few, whose top may lie just outside them


def _whole_number(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


# ---- cross-validation


def kfold(num: int, folds: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """`folds` pairs (rows to train on, rows to validate on): each of the `num` rows is validated on exactly once."""
    num, folds = _whole_number("kfold: num", num, 2), _whole_number("kfold: folds", folds, 2)
    if folds > num:
        raise ValueError(f"kfold: {folds} folds want at least {folds} rows, got {num}; take at most {num} folds")
    parts = np.array_split(np.random.default_rng(seed).permutation(num), folds)
    return [(np.delete(np.arange(num), part), np.sort(part)) for part in parts]


@dataclass(frozen=True)
class Validation:
    """The accuracy of one choice of settings on each fold."""

    settings: Settings
    accuracies: list[float]

    @property
    def mean(self) -> float:
        """Over the folds."""
        return float(np.mean(self.accuracies))


def cross_validate(
    build: Callable[..., Any],
    X: Any,
    y: Any,
    choices: Iterable[Mapping[str, Any]],
    folds: int = 5,
    seed: int = 0,
    verbose: bool = True,
) -> list[Validation]:
    """For each choice and fold, the accuracy on the fold of what `build(X_train, y_train, **choice)` makes of the rest.

    `build` returns something trained that has predict(X). All choices see the same folds.
    """
    X, y, tried = np.asarray(X), np.asarray(y), list(choices)
    if not tried or not all(isinstance(choice, Mapping) for choice in tried):
        raise ValueError(f'cross_validate: choices must be settings, such as [{{"k": 1}}, {{"k": 5}}], got {choices!r}')
    if y.ndim != 1 or len(X) != len(y):
        raise ValueError(f"cross_validate: X has {len(X)} rows, so y must be {len(X)} labels, got shape {y.shape}")
    pairs = kfold(len(X), folds, seed)
    results = []
    for choice in map(dict, tried):
        accuracies = []
        for rows, held_out in pairs:
            found = np.asarray(build(X[rows], y[rows], **choice).predict(X[held_out]))
            if found.shape != held_out.shape:
                raise ValueError(
                    f"cross_validate: predict must give one label for each of {len(held_out)} rows, "
                    f"got shape {found.shape}"
                )
            accuracies.append(float(np.mean(found == y[held_out])))
            if verbose:
                said = [f"{name} = {value}" for name, value in choice.items()]
                print(", ".join([*said, f"accuracy = {accuracies[-1]:f}"]))
        results.append(Validation(choice, accuracies))
    return results


def best(results: Sequence[Validation]) -> Validation:
    """The result with the highest mean accuracy, the first of equals."""
    if not results:
        raise ValueError("best: there are no results to choose from")
    return max(results, key=lambda result: result.mean)


# ---- random search


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, evenly spread as they are or by their logarithms."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, random: np.random.Generator) -> float | int:
        if self.whole:
            return int(random.integers(int(self.low), int(self.high) + 1))
        value = random.uniform(self._place(self.low), self._place(self.high))
        return min(max(self._value(value), self.low), self.high)

    def around(self, values: list[float]) -> Range:
        """The part of this range that holds these values, and a little more."""
        margin = _MARGIN * (self._place(self.high) - self._place(self.low))
        low = self._value(self._place(min(values)) - margin)
        high = self._value(self._place(max(values)) + margin)
        return Range(max(low, self.low), min(high, self.high), self.log, self.whole)

    def _place(self, value: float) -> float:
        return math.log(value) if self.log else value

    def _value(self, place: float) -> float:
        return math.exp(place) if self.log else round(place) if self.whole else place


@dataclass(frozen=True)
class _Choices:
    """One of a few things, each as likely as another."""

    values: tuple[Any, ...]

    def draw(self, random: np.random.Generator) -> Any:
        return self.values[random.integers(len(self.values))]

    def around(self, values: list[Any]) -> _Choices:
        """Those that are among `values`; compared as objects, since arrays and functions may be choices too."""
        return _Choices(tuple(v for v in self.values if any(v is w for w in values)))


def _ends(name: str, low: Any, high: Any, kind: Any = numbers.Real) -> None:
    for value in (low, high):
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            wanted = "whole numbers" if kind is numbers.Integral else "finite numbers"
            raise ValueError(f"{name}(low, high) wants {wanted}, got {value!r}")
    if low >= high:
        raise ValueError(f"{name}(low, high) wants low < high, got {low!r} and {high!r}")


def log_uniform(low: float, high: float) -> Range:
    """Numbers whose logarithms are evenly spread, for what acts by factors: learning rates, penalties."""
    _ends("log_uniform", low, high)
    if low <= 0:
        raise ValueError(f"log_uniform(low, high) wants low > 0, got {low!r}; take uniform for a range with 0 in it")
    return Range(float(low), float(high), log=True)


def uniform(low: float, high: float) -> Range:
    """Numbers evenly spread from low to high."""
    _ends("uniform", low, high)
    return Range(float(low), float(high))


def whole(low: int, high: int) -> Range:
    """Whole numbers from low to high, both included."""
    _ends("whole", low, high, numbers.Integral)
    return Range(int(low), int(high), whole=True)


@dataclass(frozen=True)
class Trial:
    """One setting that was tried: its score, and the round (from 1) in which it was drawn."""

    score: float
    settings: Settings
    round: int


def random_search(
    evaluate: Callable[..., float],
    ranges: Mapping[str, Range | Sequence[Any]],
    *,
    num: int = 20,
    rounds: int = 2,
    narrow: float = 0.25,
    seed: int = 0,
    verbose: bool = True,
) -> list[Trial]:
    """Draw `num` settings a round, score each with `evaluate(**settings)`, and return all trials, the best first.

    Higher scores are better, and NaN is worse than any. After each round every range shrinks to what holds the best
    trials so far, as many as the share `narrow` of a round: a setting that matters is soon narrow, one that does not
    stays wide. The seed decides what is drawn; `evaluate` may draw numbers of its own.
    """
    num, rounds = _whole_number("random_search: num", num, 1), _whole_number("random_search: rounds", rounds, 1)
    if not 0 < narrow <= 1:
        raise ValueError(f"random_search: narrow must be more than 0 and at most 1, got {narrow!r}")
    current = {name: _as_range(name, given) for name, given in ranges.items()}
    if not current:
        raise ValueError('random_search: ranges is empty; give at least one, such as {"lr": log_uniform(1e-5, 1e-1)}')
    random = np.random.default_rng(seed)
    trials: list[Trial] = []
    for round_ in range(1, rounds + 1):
        for count in range(1, num + 1):
            settings = {name: range_.draw(random) for name, range_ in current.items()}
            trials.append(Trial(_score(evaluate(**settings)), settings, round_))
            if verbose:
                words = "".join(f"  {name} {_brief(value)}" for name, value in settings.items())
                print(f"(round {round_}, {count} / {num}) val_acc: {trials[-1].score:f}{words}")
        trials.sort(key=lambda trial: (math.isnan(trial.score), -trial.score))
        few = [trial for trial in trials[: math.ceil(narrow * num)] if trial.score > -math.inf]
        if few:
            current = {name: r.around([trial.settings[name] for trial in few]) for name, r in current.items()}
    return trials


def _as_range(name: str, given: Any) -> Range | _Choices:
    if isinstance(given, Range):
        return given
    if not isinstance(given, (list, tuple)):
        raise TypeError(
            f"random_search: the range of {name} must be log_uniform(low, high), uniform(low, high), whole(low, high) "
            f"or a list of choices, got {given!r}"
        )
    if not given:
        raise ValueError(f"random_search: {name} has no choices; give at least one")
    return _Choices(tuple(given))


def _score(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"random_search: evaluate must return a number, higher is better, got {value!r}") from None


def _brief(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)
