"""What is computed once more on the way back, right before its first reader there, for an array that need not live from
forward to backward. The calls and their inputs are the same, so no bit changes.

    norms and sums    what only a gradient of weights reads, of inputs that others on the way back read as well: a pass
                      over memory that is mostly read at that time anyway
    convolutions      of the minibatch, where they are less than CHEAP of the step's products; their output is often of
                      full size
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from nbnn.graph import INPUT
from nbnn.launches import Section, array_of, name_of
from nbnn.op import Array, Call

REMADE = ("norm_forward", "add_forward")
CHEAP = 0.01
WAYS = 3  # forward, to the weights and to the input have as many products each


class Scope(Protocol):
    """The arrays of a net: what each is, and of which node and kind."""

    arrays: dict[str, Array]
    owners: dict[str, tuple[str, str]]

    def declare(self, name: str, node: str, kind: str, array: Array) -> str: ...


def made_once_more(
    scope: Scope, training: Iterable[Section], backward: Iterable[Section], products: Mapping[str, int]
) -> list[Section]:
    """The way back with what is computed once more. `products` are those of each node, forward."""
    makers = _makers(scope, training)
    few = CHEAP * WAYS * sum(products.values())
    cheap = {
        name: c
        for name, (node, c) in makers.items()
        if c.kernel == "conv_forward" and name_of(c.operands[0]) == INPUT and products[node] <= few
    }
    passes = {name: c for name, (_, c) in makers.items() if c.kernel in REMADE}
    return _Convolutions(scope, cheap).within(_Passes(scope, passes, backward).within(backward))


def _makers(scope: Scope, sections: Iterable[Section]) -> dict[str, tuple[str, Call]]:
    """Who makes an array, node and call; only of those that one call makes: a sum of three is filled twice."""
    fills = [(name, (s.node, c)) for s in sections for c in s.calls for name in _filled(scope, c)]
    count = Counter(name for name, _ in fills)
    return {name: maker for name, maker in fills if count[name] == 1}


def _filled(scope: Scope, c: Call) -> list[str]:
    from nbnn.kernels import names

    found = (str(name_of(c.operands[k])) for k in names()[c.kernel].outputs)
    return [name for name in found if name in scope.arrays]


def _touched(scope: Scope, c: Call) -> list[str]:
    """The arrays that a call reads or fills, each once."""
    return [name for name in dict.fromkeys(map(array_of, c.operands)) if name is not None and name in scope.arrays]


class _Remaking:
    """Goes through the way back and puts calls before their readers."""

    def __init__(self, scope: Scope, makers: Mapping[str, Call]) -> None:
        self.scope, self.makers = scope, makers

    def within(self, backward: Iterable[Section]) -> list[Section]:
        return [replace(s, calls=tuple(one for c in s.calls for one in self.before(c))) for s in backward]

    def before(self, c: Call) -> Iterator[Call]:
        """The call, with what it needs made before it."""
        raise NotImplementedError

    def make(self, name: str, words: dict[str, str]) -> Call:
        """The call that makes it once more, as what `words` then says."""
        words[name] = self.scope.declare(f"{name}_again", *self.scope.owners[name], self.scope.arrays[name])
        return self.makers[name].renamed(words)


class _Convolutions(_Remaking):
    """From its first reader on all read what was made once more."""

    def __init__(self, scope: Scope, makers: Mapping[str, Call]) -> None:
        super().__init__(scope, makers)
        self.words: dict[str, str] = {}

    def before(self, c: Call) -> Iterator[Call]:
        for name in _touched(self.scope, c):
            if name in self.makers and name not in self.words:
                yield self.make(name, self.words)
        yield c.renamed(self.words)


class _Passes(_Remaking):
    """A call that makes a gradient of weights is the only one that reads what is made once more for it."""

    def __init__(self, scope: Scope, makers: Mapping[str, Call], backward: Iterable[Section]) -> None:
        super().__init__(scope, makers)
        self.readers = Counter(name for s in backward for c in s.calls for name in _touched(scope, c))
        self.settled: set[str] = set()  # made once more, or what something else is made of

    def before(self, c: Call) -> Iterator[Call]:
        words: dict[str, str] = {}
        if any(self.scope.arrays[name].memory[0] == "slots" for name in _filled(self.scope, c)):
            for name in _touched(self.scope, c):
                chain = self.chain(name) if self.readers[name] == 1 else []
                self.readers[name] -= bool(chain)
                for made in chain:
                    self.settled |= set(_touched(self.scope, self.makers[made]))
                    yield self.make(made, words)
        yield c.renamed(words)

    def chain(self, name: str) -> list[str]:
        """What must be made for it, itself last; nothing where that cannot be."""
        if name not in self.makers or name in self.settled:
            return []
        found: list[str] = []
        for read in _touched(self.scope, self.makers[name]):
            if read != name and self.scope.owners[read][1] == "value" and not self.readers[read]:
                norm = read in self.makers and self.makers[read].kernel == "norm_forward"
                before = self.chain(read) if norm else []
                if not before:
                    return []
                found += before
        return [*found, name]
