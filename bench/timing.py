"""How times are taken: in turn, so that a noisy machine hurts all sides alike; of each the median."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def seconds_of(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def median_of(call: Callable[[], object], times: int) -> float:
    """Seconds of one call, after one that does not count."""
    call()
    return statistics.median(seconds_of(call) for _ in range(times))


def in_turn(samples: Mapping[str, Callable[[], T]], times: int, pause: float = 0.0) -> dict[str, list[T]]:
    """What each gives when asked A B A B ... `times` times, with `pause` seconds before each question."""
    taken: dict[str, list[T]] = {name: [] for name in samples}
    for _ in range(times):
        for name, sample in samples.items():
            time.sleep(pause)
            taken[name].append(sample())
    return taken
