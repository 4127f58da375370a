"""Update rules as data: their settings, and the memory that they keep beside the parameters.

The arithmetic of all rules is one kernel, `kernels/update.py`. The names and defaults are the course's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nbnn.arrays import arena
from nbnn.kernels.constants import AGE, AVERAGE, BETA2, BLOCK, DECAY, EPS, MOMENTUM, RATE, RULES, SETTINGS, TIME
from nbnn.op import real
from nbnn.words import hint

DEFAULTS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 1e-2},
    "sgd_momentum": {"learning_rate": 1e-2, "momentum": 0.9},
    "sgd_nesterov_momentum": {"learning_rate": 1e-2, "momentum": 0.9},
    "rmsprop": {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8},
    "adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "adamw": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 1e-2},
    "lion": {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
}
_PLACES = {
    "learning_rate": RATE,
    "momentum": MOMENTUM,
    "decay_rate": MOMENTUM,
    "beta1": MOMENTUM,
    "beta2": BETA2,
    "epsilon": EPS,
    "weight_decay": DECAY,
}
_BELOW_ONE = ("momentum", "decay_rate", "beta1", "beta2")
_WITH_MEAN = ("adam", "adamw", "lion")  # rules that keep m; all but sgd and lion keep v


def config_of(rule: str, given: dict[str, Any] | None) -> dict[str, float]:
    """All settings of a rule, the given ones checked."""
    if not isinstance(rule, str) or rule not in DEFAULTS:
        raise ValueError(f"there is no update rule {rule!r}; {hint(rule, DEFAULTS)}")
    if not isinstance(given, (Mapping, type(None))):
        raise TypeError(f"optim_config must be a dict of settings, got {type(given).__name__}")
    config = dict(DEFAULTS[rule])
    for key, value in (given or {}).items():
        if key not in config:
            raise ValueError(f"{rule} has no setting {key!r}; {hint(key, config, 'it has')}")
        number = real(value)
        if not 0 <= number < (1 if key in _BELOW_ONE else math.inf):
            bounds = "of at least 0 and below 1" if key in _BELOW_ONE else "of at least 0"
            raise ValueError(f"{rule}: {key} must be a number {bounds}, got {value!r}")
        config[key] = number
    return config


def settings_of(rule: str, config: Mapping[str, float], time: float = 0.0) -> np.ndarray:
    """The settings of a rule where its kernel looks for them, and the steps taken."""
    settings = np.zeros(SETTINGS)
    settings[TIME] = time
    for key in DEFAULTS[rule]:
        settings[_PLACES[key]] = config[key]
    return settings


def unguarded(size: int) -> tuple[np.ndarray, np.ndarray]:
    """What lets `update` take a step of so many numbers whatever the gradient is: sums that count as known, and room
    for their own."""
    return np.zeros(-(-size // BLOCK)), np.zeros(1)


class Memory:
    """What a rule remembers from step to step: two arenas like the parameters, and the number of steps; and where it is
    asked for, the moving average of the parameters."""

    def __init__(self) -> None:
        self.rule = ""
        self.config: dict[str, float] = {}
        self.settings = np.zeros(SETTINGS)
        self.m = self.v = self.averaged = np.zeros(0)

    @property
    def code(self) -> int:
        return RULES.index(self.rule)

    @property
    def rate(self) -> float:
        return self.config["learning_rate"]

    def use(self, rule: str, config: dict[str, Any] | None, params: np.ndarray, average: float = 0.0) -> None:
        """Go on with this rule and these settings; another rule than before begins with an empty memory. `average` is
        the share of the moving average that a step keeps, 0 where there is none."""
        self.config = config_of(rule, config)
        if rule != self.rule or self.v.shape != params.shape:
            self.start(rule, params)
        if not average:
            self.averaged = params  # nobody touches it
        elif not self.settings[AVERAGE] or self.averaged.shape != params.shape:
            self.averaged = arena(len(params), str(params.dtype))
            self.settings[AGE] = 0
        before, self.settings = self.settings, settings_of(rule, self.config, self.settings[TIME])
        self.settings[[AVERAGE, AGE]] = average, before[AGE]

    def arenas(self) -> dict[str, np.ndarray]:
        """What this rule keeps, by the letters of its formula, and the average."""
        kept = {"m": self.m} if self.rule in _WITH_MEAN else {}
        if self.rule not in ("sgd", "lion"):
            kept["v"] = self.v
        return {**kept, "averaged": self.averaged} if self.settings[AVERAGE] else kept

    @property
    def averages(self) -> bool:
        """Whether there is an average: it is asked for, and a step has been taken."""
        return bool(self.settings[AVERAGE] and self.settings[AGE])

    def heal(self, params: np.ndarray) -> None:
        """Forget what a step that overflowed has spoilt: with an infinite memory no rule moves again."""
        if self.rule and not (np.isfinite(self.m).all() and np.isfinite(self.v).all()):
            self.start(self.rule, params)
        if self.averages and not np.isfinite(self.averaged).all():
            self.settings[AGE] = 0

    def start(self, rule: str, params: np.ndarray) -> None:
        """Forget."""
        self.rule = rule
        self.v = arena(len(params), str(params.dtype)) if rule != "sgd" else params  # sgd touches neither
        self.m = arena(len(params), str(params.dtype)) if rule in _WITH_MEAN else self.v
        self.settings[TIME] = 0
