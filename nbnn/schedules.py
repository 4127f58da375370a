"""Learning-rate schedules as data: a word, or a dict such as {"schedule": "cosine", "warm_up": 100}.

    constant    1
    step        factor ** (t // every)
    cosine      final + (1 - final) * (1 + cos(pi * t / T)) / 2
    one_cycle   from `start` up to 1 at the share `peak` of all steps, then down to `final`, both along half a cosine

Each is the factor of the learning rate at step t of T, counted after the warm-up; during the first `warm_up` steps the
factor rises from 1 / warm_up to 1 in a line.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from nbnn.words import hint

SETTINGS: dict[str, dict[str, float]] = {
    "constant": {"warm_up": 0},
    "step": {"every": 1000, "factor": 0.1, "warm_up": 0},
    "cosine": {"final": 0.0, "warm_up": 0},
    "one_cycle": {"start": 0.04, "peak": 0.3, "final": 1e-4, "warm_up": 0},
}
_STEPS = ("warm_up", "every")


def as_schedule(schedule: str | dict[str, Any] | None) -> dict[str, Any]:
    """The schedule with all its settings, checked."""
    given = dict(schedule) if isinstance(schedule, dict) else {"schedule": "constant" if schedule is None else schedule}
    word: Any = given.pop("schedule", None)
    if not isinstance(word, str) or word not in SETTINGS:
        raise ValueError(f"there is no schedule {word!r}; {hint(word, SETTINGS)}")
    full: dict[str, Any] = {"schedule": word, **SETTINGS[word]}
    value: Any
    for key, value in given.items():
        if key not in full:
            raise ValueError(f"the {word} schedule has no setting {key!r}; {hint(key, SETTINGS[word], 'it has')}")
        number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        least = 1 if key == "every" else 0
        if not number or value < least or (key not in _STEPS and value > 1) or (key in _STEPS and value != int(value)):
            wanted = f"a whole number of at least {least}" if key in _STEPS else "a number from 0 to 1"
            raise ValueError(f"the {word} schedule: {key} must be {wanted}, got {value!r}")
        full[key] = int(value) if key in _STEPS else float(value)
    return full


def factors(schedule: dict[str, Any], first: int, count: int, total: int) -> np.ndarray:
    """The factors of steps first, first + 1, ... first + count - 1 of `total`."""
    warm_up, word = schedule["warm_up"], schedule["schedule"]
    t = np.arange(first, first + count, dtype=float)
    share = np.clip((t - warm_up) / max(total - warm_up, 1), 0, 1)
    if word == "step":
        value = schedule["factor"] ** np.floor(np.maximum(t - warm_up, 0) / schedule["every"])
    elif word == "cosine":
        value = _swing(1.0, schedule["final"], share)
    elif word == "one_cycle":
        peak = schedule["peak"]
        rise = _swing(schedule["start"], 1.0, np.clip(share / max(peak, 1e-12), 0, 1))
        value = np.where(
            share < peak, rise, _swing(1.0, schedule["final"], np.clip((share - peak) / max(1 - peak, 1e-12), 0, 1))
        )
    else:
        value = np.ones(count)
    return np.where(t < warm_up, (t + 1) / max(warm_up, 1), value)


def _swing(start: float, end: float, share: np.ndarray) -> np.ndarray:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + np.cos(np.pi * share)) / 2
