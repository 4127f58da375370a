"""How many threads the steps of a model take: all, or one where one is faster.

Threads that meet every few microseconds need cores that hand each other data quickly, and on a shared or virtual
machine that changes from minute to minute: a step of 0.14 ms was seen to take 1.2 ms on two threads and 0.2 ms on one.
No result depends on the number of threads, so it may change at any time. Short steps are timed in pieces; the slower
number is tried again now and then.
"""

from __future__ import annotations

from collections import deque

LONG = 5e-3  # seconds; a longer step always takes all threads
PIECE = 2e-2  # seconds that shorter steps are timed together; a piece begins with some 50 microseconds of Python
TRIES = 32  # pieces from one try of the slower number to the next
KEPT = 3  # pieces of which the best counts, so that one that was disturbed changes nothing


class Pace:
    """What is known of one model's steps."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}  # of a step in the last pieces, by the number of threads
        self._pieces = 0

    def plan(self, threads: int, left: int) -> tuple[int, int]:
        """How many threads of those that there are the next piece takes, and how many of the steps that are left."""
        if threads == 1:
            return 1, left
        if threads not in self._seconds:
            return threads, 1
        together = self._step(threads)
        if together >= LONG:
            return threads, left
        if 1 not in self._seconds:
            return 1, min(left, _piece(together))
        faster, slower = sorted((threads, 1), key=self._step)
        chosen = slower if self._pieces % TRIES == 0 else faster
        return chosen, min(left, _piece(self._step(chosen)))

    def learn(self, threads: int, steps: int, seconds: float) -> None:
        """A piece of so many steps took so long."""
        self._seconds.setdefault(threads, deque(maxlen=KEPT)).append(seconds / steps)
        self._pieces += 1

    def _step(self, threads: int) -> float:
        return min(self._seconds[threads])


def _piece(step: float) -> int:
    return max(1, round(PIECE / step))
