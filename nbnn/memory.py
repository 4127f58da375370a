"""Which arrays share memory: those that take over the place of their input, those that never live at one time, and
those that no worker needs for more examples than it takes at a time.

A life goes from the first launch that touches an array to the last one, in each of the compiled functions; that of a
worker's own array from the first call to the last one. Arrays that nobody fills (zeros), that are filled in part only,
or that a caller reads keep a place of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nbnn.launches import Launch, array_of
from nbnn.op import Array

Life = tuple[tuple[int, int], ...]  # (first, last) launch in each function; (1, 0) where it is not touched
Stretch = tuple[int, int, int]  # launch, part, examples at a time, in shares of a small minibatch
NEVER = (1, 0)
HELD = 8  # examples: what goes through with more of them at a time is no array of a worker's own
CALLS = 1 << 20  # more than a launch has


@dataclass(frozen=True)
class Sharing:
    """`roots` says whose place an array takes, itself at first; `lives` has a life for each root that may share. Roots
    in `own` lie in each worker's own memory; their lives are counted in calls, those of others in launches. There a
    worker has at most `together` examples at a time, or a sixteenth of the minibatch where that is more."""

    roots: dict[str, str] = field(default_factory=dict)
    lives: dict[str, Life] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    together: int = 0

    def apart(self, one: str, other: str) -> bool:
        """Whether two arrays may overlap: one took the other's place, or they never live at one time."""
        a, b = self.roots.get(one, one), self.roots.get(other, other)
        alike = a in self.lives and b in self.lives and (a in self.own) == (b in self.own)
        return a == b or (alike and not meet(self.lives[a], self.lives[b]))


class _Touched:
    """When each array is touched in one function, and by what it is filled."""

    def __init__(self, launches: Iterable[Launch], arrays: Mapping[str, Array]) -> None:
        from nbnn.kernels import names

        self.first: dict[str, tuple[int, int]] = {}
        self.last: dict[str, tuple[int, int]] = {}
        self.whole: dict[str, bool] = {}  # filled whole by the call that touches it first
        self.stretch: dict[str, set[Stretch | None]] = {}  # None: of more examples at a time than HELD
        self.over: list[tuple[str, str, tuple[int, int]]] = []  # (output, the input that it may lie on, when)
        kernels = names()
        for k, launch in enumerate(launches):
            stretch: Stretch | None = None
            for j, part in enumerate(launch.parts):
                if isinstance(part, int):
                    if launch.slots:  # so many are still one share: `share` each would not do for two
                        stretch = (k, j, 2 * arrays[launch.slots].share - 1)
                    else:
                        stretch = (k, j, part) if 0 < part <= HELD else None
                    continue
                call, kernel = part[1], kernels[part[1].kernel]
                filled = {array_of(call.operands[place]) for place in kernel.outputs}
                for operand in call.operands:
                    name = array_of(operand)
                    if name is not None and name in arrays:
                        self.whole.setdefault(name, name in filled and kernel.whole)
                        self.first.setdefault(name, (k, j))
                        self.last[name] = (k, j)
                        self.stretch.setdefault(name, set()).add(stretch)
                if kernel.over and not launch.beside:  # there another call may still read what lies below
                    place = [p.name for p in kernel.parameters].index(kernel.over)
                    under, output = call.operands[place], call.operands[kernel.outputs[0]]
                    if isinstance(under, str) and isinstance(output, str):
                        self.over.append((output, under, (k, j)))


def share(
    functions: Mapping[str, Iterable[Launch]], arrays: Mapping[str, Array], kept: set[str], read: tuple[str, str]
) -> Sharing:
    """Find who may share. `kept` keep a place of their own; `read` names a function and an array that is read when the
    function has ended."""
    touched = {name: _Touched(launches, arrays) for name, launches in functions.items()}
    if read[1] in touched[read[0]].last:
        touched[read[0]].last[read[1]] = (1 << 30, 0)
    kept = kept | {n for t in touched.values() for n, whole in t.whole.items() if not whole}
    own = {name for name in arrays if name not in kept | {read[1]} and all(_passing(t, name) for t in touched.values())}
    own &= {name for name, array in arrays.items() if array.memory[0] == "n" and name in touched["gradients"].first}
    members = {name: [name] for name in arrays}
    roots = {name: name for name in arrays}
    for output, under, _ in touched["gradients"].over:
        root = roots[under]
        if {output, under} & kept or arrays[output].memory != arrays[under].memory or roots[output] == root:
            continue
        if (output in own) != (under in own):
            continue
        if all(_in_place(t, members[root], output, under) for t in touched.values()):
            members[root] += members.pop(roots[output])
            roots |= dict.fromkeys(members[root], root)
    lives = {}
    for root, group in members.items():
        if not kept & set(group) and any(name in t.first for t in touched.values() for name in group):
            lives[root] = tuple(_life(t, group, root in own) for t in touched.values())
    own &= set(lives)
    stretches = (s for t in touched.values() for root in own for name in members[root] for s in t.stretch.get(name, ()))
    return Sharing(roots, lives, frozenset(own), max((s[2] for s in stretches if s), default=0))


def _passing(t: _Touched, name: str) -> bool:
    """Whether in one function an array comes and goes while a worker has a few examples in its hands."""
    stretches = t.stretch.get(name, {(0, 0, 0)})
    return len(stretches) == 1 and None not in stretches


def _in_place(t: _Touched, group: list[str], output: str, under: str) -> bool:
    """Whether in one function the output begins where all that lies under it ends."""
    if output not in t.first:
        return True
    last = max((t.last[name] for name in group if name in t.last), default=None)
    return (output, under, t.first[output]) in t.over and last == t.first[output]


def _life(t: _Touched, group: list[str], in_calls: bool) -> tuple[int, int]:
    known = [name for name in group if name in t.first]
    if not known:
        return NEVER
    (k, i), (m, j) = min(t.first[n] for n in known), max(t.last[n] for n in known)
    return (k * CALLS + i, m * CALLS + j) if in_calls else (k, m)


def meet(a: Life, b: Life) -> bool:
    """Whether two arrays live at one time in any function."""
    return any(max(p[0], q[0]) <= min(p[1], q[1]) for p, q in zip(a, b, strict=True))


def places(sizes: Mapping[str, int], lives: Mapping[str, Life], start: int) -> dict[str, int]:
    """Where each array begins, from `start` on: the largest first, each in the first gap among those that it meets."""
    order = sorted(sizes, key=lambda name: -sizes[name])
    found: dict[str, int] = {}
    times = np.array([lives[name] for name in order] or np.zeros((0, 1, 2), int))
    begins, ends = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
    for k, name in enumerate(order):
        firsts, lasts = times[:k, :, 0], times[:k, :, 1]
        met = (np.maximum(firsts, times[k, :, 0]) <= np.minimum(lasts, times[k, :, 1])).any(axis=1)
        at = start
        for begin, end in sorted(zip(begins[:k][met].tolist(), ends[:k][met].tolist(), strict=True)):
            if begin - at >= sizes[name]:
                break
            at = max(at, end)
        found[name] = begins[k] = at
        ends[k] = at + sizes[name]
    return {name: int(at) for name, at in found.items()}
