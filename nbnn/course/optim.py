"""The course's update rules: `next_w, config = rule(w, dw, config)`.

The arithmetic is the reference of the one update kernel. `config` gets the defaults that it lacks and the rule's
memory; w is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.row_layers import demand, floats
from nbnn.kernels import reference
from nbnn.kernels.constants import RULES
from nbnn.rules import DEFAULTS, settings_of, unguarded

__all__ = [
    "adam",
    "rmsprop",
    "sgd",
    "sgd_momentum",
    "sgd_nesterov_momentum",
]

Config = dict[str, Any]


def _step(rule: str, w: Any, dw: Any, config: Config | None, *memory: str) -> tuple[np.ndarray, Config]:
    """One step; `memory` names the arrays that the rule keeps in config, its mean before its square."""
    w, dw = floats(w, dw)
    demand(rule, "dw", dw, w.shape)
    config = {} if config is None else config
    for key, value in DEFAULTS[rule].items():
        config.setdefault(key, value)
    if "t" in config:
        config["t"] += 1
    settings = settings_of(rule, config, config.get("t", 0))
    kept = [np.array(config.get(key, np.zeros(w.shape)), dtype=w.dtype, order="C") for key in memory]
    for key, array in zip(memory, kept, strict=True):
        demand(rule, key, array, w.shape)
    m, v = (kept * 2)[:2] if kept else (w, w)
    next_w = np.array(w, order="C")
    flat = (a.reshape(-1) for a in (np.asarray(dw, w.dtype), next_w, m, v))
    reference.update(RULES.index(rule), 0, settings, *flat, *unguarded(next_w.size))
    config.update(zip(memory, kept, strict=True))
    return next_w, config


def sgd(w: Any, dw: Any, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """w - learning_rate (1e-2) * dw."""
    return _step("sgd", w, dw, config)


def sgd_momentum(w: Any, dw: Any, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """With momentum (0.9): `velocity` is kept."""
    return _step("sgd_momentum", w, dw, config, "velocity")


def sgd_nesterov_momentum(w: Any, dw: Any, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """With the gradient as seen from where momentum leads."""
    return _step("sgd_nesterov_momentum", w, dw, config, "velocity")


def rmsprop(w: Any, dw: Any, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """decay_rate 0.99, epsilon 1e-8; the running mean of squares is kept as `cache`, or as `a` where it is there."""
    return _step("rmsprop", w, dw, config, "a" if config and "a" in config else "cache")


def adam(w: Any, dw: Any, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """beta1 0.9, beta2 0.999, epsilon 1e-8; keeps `m`, `v` and `t`, or `v`, `a` and `t` where `a` is there. t counts
    before it is used."""
    config = {} if config is None else config
    config.setdefault("t", 0)
    return _step("adam", w, dw, config, *(("v", "a") if "a" in config else ("m", "v")))
