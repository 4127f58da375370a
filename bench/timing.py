"""How times are taken: several calls in turn, the median of each, so that a noisy machine hurts both sides alike."""

import statistics
import time
from collections.abc import Callable


def median_of(call: Callable[[], object], times: int) -> float:
    """Seconds of one call, after one that does not count."""
    return in_turn({"": call}, times)[""]


def in_turn(calls: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Median seconds of each call: A B A B ..., after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(times + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if turn:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
