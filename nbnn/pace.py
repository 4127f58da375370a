"""How many threads the steps of a model take: all, or one where one is faster.

Threads that meet every few microseconds need cores that hand each other data quickly, and on a shared or virtual
machine that changes from minute to minute: a step of 0.14 ms was seen to take 1.2 ms on two threads and 0.2 ms on one.
No result depends on the number of threads, so it may change at any time. Short steps are timed in pieces; the slower
number is tried again now and then.
"""

from __future__ import annotations

from collections import deque

LONG = 5e-3  # seconds; one thread is tried for longer steps only where all of them have become slow
PIECE = 2e-2  # seconds that shorter steps are timed together; a piece begins with some 50 microseconds of Python
TRIES = 16  # pieces from one try of the other number to the next; where one cost less than a piece fewer, at least 2
SLOW = 1.5  # times what steps took at best
KEPT = 3  # pieces of which the best counts, so that one that was disturbed changes nothing


class Pace:
    """What is known of one model's steps. Seconds are those of one example."""

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}  # pieces, by the number of threads
        self._best: dict[int, float] = {}
        self._since = TRIES  # pieces since the last try

    def plan(self, threads: int, left: int, batch: int) -> tuple[int, int]:
        """How many threads of those that there are the next piece takes, and how many of the steps that are left."""
        if threads == 1:
            return 1, left
        if threads not in self._last:
            return threads, 1
        together = self._now(threads)
        one = self._now(1) if 1 in self._last else float("inf")
        usual, other = (threads, 1) if together <= one else (1, threads)
        unknown = 1 not in self._last and together * batch < LONG
        doubtful = usual == 1 or together > SLOW * self._best[threads]
        lost = self._now(other) / self._now(usual) - 1 if other in self._last else 0.0
        if unknown or (doubtful and self._since >= max(2, TRIES * min(lost, 1.0))):
            self._since = 0
            usual = other
        step = self._now(usual if usual in self._last else threads) * batch
        return usual, min(left, max(1, round(PIECE / step)))

    def learn(self, threads: int, examples: int, seconds: float) -> None:
        """A piece of so many examples took so long."""
        each = seconds / examples
        self._last.setdefault(threads, deque(maxlen=KEPT)).append(each)
        self._best[threads] = min(self._best.get(threads, each), each)
        self._since += 1

    def _now(self, threads: int) -> float:
        return min(self._last[threads])
