"""From a list of kernel calls to launches: what goes through together, and how many examples at a time.

Most kernels work on each example alone. Calls of such kernels that follow each other become one launch: the threads
meet once, and each takes its share of the examples through all of the calls while they are in its cache. Calls that
need all examples (a sum over the batch, a layout of weights) stand between launches, on the side where they are due:

    before   what needs nothing of the launch, such as weights turned for the way back
    after    what gathers, such as gradients of weights; a launch ends only where one of its calls waits for that

Within a launch a stretch of calls goes through `deep(k)` examples at a time: as many as fit into half a megabyte, and
at least as many as its calls ask for (`Call.least`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nbnn.op import Array, Call, Form

IN_CACHE = 1 << 19  # bytes of activations that a stretch of calls may touch at a time; common second-level caches are
# 1 to 2 MiB, and weights and the workers' own room are in there as well


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

    def __str__(self) -> str:
        return "; ".join(f"deep({p or 'n'})" if isinstance(p, int) else p[1].kernel for p in self.parts)


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


class Planner:
    """Puts the calls of one function into launches."""

    def __init__(self, arrays: dict[str, Array], row_bytes: Callable[[int], int]) -> None:
        from nbnn.kernels import names

        self.kernels = names()
        self.arrays, self.row_bytes = arrays, row_bytes
        self.found: list[Launch] = []
        self.before: list[Part] = []
        self.chain: list[Part] = []
        self.after: list[Part] = []

    def plan(self, sections: Iterable[Section]) -> tuple[Launch, ...]:
        for section in sections:
            for c in section.calls:
                self.place((section, c))
        self.flush()
        return tuple(self.found)

    def place(self, part: Part) -> None:
        if self.by_example(part[1]):
            if self.depends(part, self.after):
                self.flush()
            self.chain.append(part)
        elif self.depends(part, [*self.chain, *self.after]):
            self.after.append(part)
        else:
            self.before.append(part)

    def depends(self, part: Part, earlier: list[Part]) -> bool:
        """Whether it must come after them: one reads or writes what the other writes."""
        filled, touched = self.filled([part]), self.touched([part])
        return bool(touched & self.filled(earlier) or filled & self.touched(earlier))

    def flush(self) -> None:
        """End the launch."""
        self.found += [Launch((part,)) for part in self.before]
        if self.chain:
            self.found.append(Launch(self.stretches()))
        self.found += [Launch((part,)) for part in self.after]
        self.before, self.chain, self.after = [], [], []

    def stretches(self) -> tuple[Part | int, ...]:
        """The calls of the launch, with how many examples go through each stretch of them at a time."""
        if len(self.chain) == 1:
            return tuple(self.chain)
        stretches: list[list[Part]] = []
        for part in self.chain:
            if stretches and self.least([*stretches[-1], part]) * self.bytes([*stretches[-1], part]) <= IN_CACHE:
                stretches[-1].append(part)
            else:
                stretches.append([part])
        parts: list[Part | int] = []
        for stretch in stretches:
            together = max(self.least(stretch), IN_CACHE // self.bytes(stretch)) if len(stretch) > 1 else 0
            parts += [together, *stretch]
        return tuple(parts)

    @staticmethod
    def least(parts: list[Part]) -> int:
        return max(c.least for _, c in parts)

    def bytes(self, parts: list[Part]) -> int:
        """Of what the parts touch of one example."""
        memories = (self.arrays[n].memory for n in self.touched(parts) if self.batched(n))
        return sum(math.prod(memory[1:-1]) * self.row_bytes(memory[-1]) for memory in memories) or 1

    def touched(self, parts: Iterable[Part]) -> set[str]:
        return {name for _, c in parts for o in c.operands if (name := array_of(o))}

    def filled(self, parts: Iterable[Part]) -> set[str]:
        return {str(name_of(c.operands[k])) for _, c in parts for k in self.kernels[c.kernel].outputs}

    def batched(self, name: str) -> bool:
        return name in self.arrays and self.arrays[name].memory[0] == "n"

    def by_example(self, c: Call) -> bool:
        kernel = self.kernels[c.kernel]
        operand = c.operands[[p.name for p in kernel.parameters].index(kernel.each)]
        if isinstance(operand, Form) and operand.kind == "value":
            return operand.name == "labels"
        return kernel.axis == 0 and self.batched(str(name_of(operand)))
