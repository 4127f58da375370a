"""From a list of kernel calls to launches: what goes through together, and how many examples at a time.

Most kernels work on each example alone. Calls of such kernels that follow each other become one launch: the threads
meet once, and each takes its share of the examples through all of the calls while they are in its cache. Calls that
need all examples (a sum over the batch, a layout of weights) stand between launches, on the side where they are due:

    before   what needs nothing of the launch, such as weights turned for the way back: it waits for the launch that
             needs it
    after    what gathers, such as gradients of weights; a launch ends only where one of its calls waits for that

Within a launch a stretch of calls goes through `deep(k)` examples at a time: as many as fit into half a megabyte, in
whole tiles where rows of tiles are examples, and at least as many as its calls ask for (`Call.least`). Where that is
more than two megabytes a new stretch begins.

Calls between launches that do not need each other become launches of several side by side (`beside`).

A gradient of weights is summed in shares of the minibatch (`slots`). A call that makes such sums may be part of a
launch whose threads take whole shares, so that the gradient of an activation comes and goes in a worker's own memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nbnn.kernels.constants import WHOLE_TILES
from nbnn.op import Array, Call, Form

IN_LAUNCH = 1 << 22  # bytes of one example, weights included: a launch that would touch more ends before, and what it
# touched can make room for what comes
IN_STRETCH = 1 << 21  # bytes that a stretch may touch where its least examples touch more: still in a third-level cache
SHARES = 16  # a share is at most that part of the minibatch
IN_SHARE = 4  # examples at a time: calls that ask for more have small pictures, and gain nothing in a launch of shares
FORWARD = 1 << 21  # bytes that a call may touch to be brought forward beside others: a larger one would gain nothing,
# and what lives within one launch cannot share memory
IN_CACHE = 1 << 19  # bytes of activations that a stretch of calls may touch at a time; common second-level caches are
# 0.5 to 2 MiB, and weights and the workers' own room are in there as well


@dataclass(frozen=True)
class Section:
    """The calls that belong to one node in one of the three lists, with the names of the whole net once routed."""

    node: str
    title: str
    calls: tuple[Call, ...]
    direction: str = "forward"


Part = tuple[Section, Call]


@dataclass(frozen=True)
class Launch:
    """Calls that the threads take their shares through, each with its section; a number stands for deep(number), 0 for
    all examples of a share at a time."""

    parts: tuple[Part | int, ...]
    slots: str | None = None  # sums over shares of the examples: the threads take whole shares, `deep` counts them
    beside: bool = False  # calls that do not need each other: the threads share the items of each

    def __str__(self) -> str:
        words = [f"deep({p or 'n'})" if isinstance(p, int) else p[1].kernel for p in self.parts]
        return (" | " if self.beside else "; ").join(words)


def alone(sections: Iterable[Section]) -> tuple[Launch, ...]:
    """Every call by itself."""
    return tuple(Launch(((section, c),)) for section in sections for c in section.calls)


NUMBERS = ("value", "count", "items")  # forms that stand for an argument of the step or for a number


def name_of(operand: object) -> object:
    return operand.name if isinstance(operand, Form) else operand


def array_of(operand: object) -> str | None:
    """The name of the array that an operand is, or None where it is a number."""
    if isinstance(operand, Form):
        return None if operand.kind in NUMBERS else operand.name
    return operand if isinstance(operand, str) else None


class _Group:
    """Parts in their order, with the names of all arrays that they touch and that they fill. The bytes of those touched
    are counted as they come: counting them all for each call would take the square of the calls in time."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.touched: set[str] = set()
        self.filled: set[str] = set()
        self.bytes = 0
        self.least = 1
        self.slots: str | None = None

    def append(self, part: Part, touched: set[str], filled: set[str], fresh: int) -> None:
        """`fresh` are the bytes of what no other part touches."""
        self.parts.append(part)
        self.touched |= touched
        self.filled |= filled
        self.bytes += fresh
        self.least = max(self.least, part[1].least)

    def holds_up(self, touched: set[str], filled: set[str]) -> bool:
        """Whether a call must come after this group: one reads or writes what the other writes."""
        return not (touched.isdisjoint(self.filled) and filled.isdisjoint(self.touched))


class Planner:
    """Puts the calls of one function into launches."""

    def __init__(self, arrays: dict[str, Array], row_bytes: Callable[[int], int], sums: Mapping[str, int]) -> None:
        """`sums` says of how many partial sums each array of them has room."""
        from nbnn.kernels import names

        self.kernels = names()
        self.arrays, self.row_bytes, self.sums = arrays, row_bytes, sums
        self.found: list[Launch] = []
        self.before, self.chain, self.after = _Group(), _Group(), _Group()

    def plan(self, sections: Iterable[Section]) -> tuple[Launch, ...]:
        for section in sections:
            for c in section.calls:
                self.place((section, c))
        self.flush()
        self.found += [Launch((part,)) for part in self.before.parts]
        return tuple(self.beside())

    def beside(self) -> list[Launch]:
        """The launches, but those of one call that follow each other as few of several side by side."""
        found: list[Launch] = []
        single: list[Part] = []
        for launch in self.found:
            if len(launch.parts) > 1:
                found += [*self.side_by_side(single), launch]
                single = []
            else:
                single += [part for part in launch.parts if not isinstance(part, int)]
        return found + self.side_by_side(single)

    def side_by_side(self, parts: Iterable[Part]) -> list[Launch]:
        """As few launches as can be: each call stands in the first one behind all that it needs. One that touches much
        is not brought forward."""
        groups: list[_Group] = []
        for part in parts:
            touched, filled = self.touched(part[1]), self.filled(part[1])
            after = [k for k, g in enumerate(groups) if g.holds_up(touched, filled)]
            place = max(after, default=-1) + 1
            if self.bytes(touched) > FORWARD:
                place = len(groups)
            if place == len(groups):
                groups.append(_Group())
            groups[place].append(part, touched, filled, 0)
        return [Launch(tuple(g.parts), beside=len(g.parts) > 1) for g in groups]

    def place(self, part: Part) -> None:
        touched, filled = self.touched(part[1]), self.filled(part[1])
        late = self.after.holds_up(touched, filled)
        slots = self.slots(part[1])
        together = self.chain.bytes + self.bytes(touched - self.chain.touched)
        if slots and not late and self.fits(slots) and self.chain.holds_up(touched, filled) and together <= IN_LAUNCH:
            self.chain.slots = slots
            group = self.chain
        elif self.by_example(part[1]):
            many = bool(self.chain.slots) and part[1].least > IN_SHARE
            if late or many or (self.chain.parts and together > IN_LAUNCH):
                self.flush()
            group = self.chain
        elif late or self.chain.holds_up(touched, filled):
            group = self.after
        else:
            group = self.before
        group.append(part, touched, filled, self.bytes(touched - group.touched))

    def flush(self) -> None:
        """End the launch. What it does not need of the calls before it waits for the next one: what they fill may be as
        large as all activations."""
        needed, later = [], []
        touched, filled = self.chain.touched | self.after.touched, self.chain.filled | self.after.filled
        for part in reversed(self.before.parts):
            reads, fills = self.touched(part[1]), self.filled(part[1])
            if reads.isdisjoint(filled) and fills.isdisjoint(touched):
                later.append(part)
            else:
                needed.append(part)
                touched, filled = touched | reads, filled | fills
        self.found += [Launch((part,)) for part in reversed(needed)]
        if self.chain.parts:
            self.found.append(Launch(self.stretches(), self.chain.slots))
        self.found += [Launch((part,)) for part in self.after.parts]
        self.before, self.chain, self.after = _Group(), _Group(), _Group()
        for part in reversed(later):
            self.before.append(part, self.touched(part[1]), self.filled(part[1]), 0)

    def slots(self, c: Call) -> str | None:
        """The sums over shares of the minibatch that a call makes."""
        return min(self.filled(c) & set(self.sums), default=None)

    def fits(self, slots: str) -> bool:
        """Whether a call with these sums can go with the chain: there are as many shares as for others in it, enough of
        them for many threads, and no call wants more examples at a time than a share may have."""
        here, together = self.arrays[slots], self.arrays[self.chain.slots or slots]
        alike = (self.sums[slots], here.share) == (self.sums[self.chain.slots or slots], together.share)
        return alike and self.sums[slots] >= SHARES and max(here.share, self.chain.least) <= IN_SHARE

    def stretches(self) -> tuple[Part | int, ...]:
        """The calls of the launch, with how many examples go through each stretch of them at a time."""
        if self.chain.slots:
            return (1, *self.chain.parts)
        if len(self.chain.parts) == 1:
            return tuple(self.chain.parts)
        stretches: list[_Group] = []
        for part in self.chain.parts:
            touched = set(filter(self.batched, self.touched(part[1])))
            last = stretches[-1] if stretches else _Group()
            fresh = self.bytes(touched - last.touched)
            if not stretches or max(last.least, part[1].least) * max(last.bytes + fresh, 1) > IN_STRETCH:
                last, fresh = _Group(), self.bytes(touched)
                stretches.append(last)
            last.append(part, touched, set(), fresh)
        parts: list[Part | int] = []
        for stretch in stretches:
            several = len(stretch.parts) > 1
            unit = WHOLE_TILES if any(self.kernels[c.kernel].grain > 1 for _, c in stretch.parts) else 1
            fitting = IN_CACHE // max(stretch.bytes, 1) // unit * unit
            parts += [max(stretch.least, fitting) if several else 0, *stretch.parts]
        return tuple(parts)

    def bytes(self, names: Iterable[str]) -> int:
        """Of these arrays: of one example where they are a minibatch, of all where they are weights."""
        memories = (self.arrays[n].memory for n in names if n in self.arrays)
        sides = ((m[1:] if m[0] == "n" else m) or (1,) for m in memories if m[0] not in ("slots", "workers"))
        return sum(math.prod(outer) * self.row_bytes(row) for *outer, row in sides)

    def touched(self, c: Call) -> set[str]:
        """The names of all that a call reads or fills, labels and other values of the step as well."""
        return {name for o in c.operands if isinstance(name := name_of(o), str)}

    def filled(self, c: Call) -> set[str]:
        return {str(name_of(c.operands[k])) for k in self.kernels[c.kernel].outputs}

    def batched(self, name: str) -> bool:
        return name in self.arrays and self.arrays[name].memory[0] == "n"

    def by_example(self, c: Call) -> bool:
        kernel = self.kernels[c.kernel]
        operand = c.operands[[p.name for p in kernel.parameters].index(kernel.each)]
        if isinstance(operand, Form) and operand.kind == "value":
            return operand.name == "labels"
        return kernel.axis == 0 and self.batched(str(name_of(operand)))
