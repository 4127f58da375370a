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
    net = _Net(scope)
    makers = net.makers(training)
    few = CHEAP * WAYS * sum(products.values())
    cheap = {
        name: c
        for name, (node, c) in makers.items()
        if c.kernel == "conv_forward" and name_of(c.operands[0]) == INPUT and products[node] <= few
    }
    passes = {name: c for name, (_, c) in makers.items() if c.kernel in REMADE}
    for with_makers in (_Passes(net, passes, backward).with_makers, _Convolutions(net, cheap).with_makers):
        backward = [replace(s, calls=tuple(one for c in s.calls for one in with_makers(c))) for s in backward]
    return list(backward)


class _Net:
    """Who touches what."""

    def __init__(self, scope: Scope) -> None:
        from nbnn.kernels import names

        self.scope, self.kernels = scope, names()

    def makers(self, sections: Iterable[Section]) -> dict[str, tuple[str, Call]]:
        """Who makes an array, node and call; only of those that one call makes: a sum of three is filled twice."""
        fills = [(name, (s.node, c)) for s in sections for c in s.calls for name in self.filled(c)]
        count = Counter(name for name, _ in fills)
        return {name: maker for name, maker in fills if count[name] == 1}

    def filled(self, c: Call) -> list[str]:
        return self.arrays(c.operands[k] for k in self.kernels[c.kernel].outputs)

    def touched(self, c: Call) -> list[str]:
        """The arrays that a call reads or fills, each once."""
        return self.arrays(c.operands)

    def arrays(self, operands: Iterable[object]) -> list[str]:
        found = dict.fromkeys(map(array_of, operands))
        return [name for name in found if name is not None and name in self.scope.arrays]

    def make(self, maker: Call, name: str, words: dict[str, str]) -> Call:
        """The call that makes it once more, as what `words` then says."""
        words[name] = self.scope.declare(f"{name}_again", *self.scope.owners[name], self.scope.arrays[name])
        return maker.renamed(words)


class _Convolutions:
    """From its first reader on all read what was made once more."""

    def __init__(self, net: _Net, makers: Mapping[str, Call]) -> None:
        self.net, self.makers = net, makers
        self.words: dict[str, str] = {}

    def with_makers(self, c: Call) -> Iterator[Call]:
        for name in self.net.touched(c):
            if name in self.makers and name not in self.words:
                yield self.net.make(self.makers[name], name, self.words)
        yield c.renamed(self.words)


class _Passes:
    """A call that makes a gradient of weights is the only one that reads what is made once more for it."""

    def __init__(self, net: _Net, makers: Mapping[str, Call], backward: Iterable[Section]) -> None:
        self.net, self.makers = net, makers
        self.readers = Counter(name for s in backward for c in s.calls for name in net.touched(c))
        self.settled: set[str] = set()  # made once more, or what something else is made of

    def with_makers(self, c: Call) -> Iterator[Call]:
        words: dict[str, str] = {}
        if any(self.net.scope.arrays[name].memory[0] == "slots" for name in self.net.filled(c)):
            for name in self.net.touched(c):
                chain = self.chain(name) if self.readers[name] == 1 else []
                self.readers[name] -= bool(chain)
                for made in chain:
                    self.settled |= set(self.net.touched(self.makers[made]))
                    yield self.net.make(self.makers[made], made, words)
        yield c.renamed(words)

    def chain(self, name: str) -> list[str]:
        """What must be made for it, itself last; nothing where that cannot be."""
        if name not in self.makers or name in self.settled:
            return []
        found: list[str] = []
        for read in self.net.touched(self.makers[name]):
            if read != name and self.net.scope.owners[read][1] == "value" and not self.readers[read]:
                norm = read in self.makers and self.makers[read].kernel == "norm_forward"
                before = self.chain(read) if norm else []
                if not before:
                    return []
                found += before
        return [*found, name]
