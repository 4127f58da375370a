"""Nodes that one pass over memory computes together: a relu becomes part of the norm before it or the pool behind it.

The maximum of rectified numbers is the rectified maximum, to the bit and with the same gradients; so a relu before a
pool need not touch the large picture at all. A node that has become part of another one is `Merged`: its tensor is that
of its input, and it calls nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nbnn.graph import Graph
from nbnn.op import Call, Op, Shape
from nbnn.ops import BatchNorm, GroupNorm, Identity, LayerNorm, MaxPool, ReLU


class Merged(Identity):
    """y is x, in training as well."""

    merged: ClassVar[bool] = True

    def forward(self, *shapes: Shape) -> list[Call]:
        return []

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return []


class _Rectified(Op):
    rectify: ClassVar[int] = 1

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Rectified')} and ReLU"


class RectifiedBatchNorm(_Rectified, BatchNorm):
    """BatchNorm, then ReLU"""


class RectifiedGroupNorm(_Rectified, GroupNorm):
    """GroupNorm, then ReLU"""


class RectifiedLayerNorm(_Rectified, LayerNorm):
    """LayerNorm, then ReLU"""


class RectifiedMaxPool(_Rectified, MaxPool):
    """ReLU and MaxPool in either order"""


NORMS: dict[type[Op], type[Op]] = {
    BatchNorm: RectifiedBatchNorm,
    GroupNorm: RectifiedGroupNorm,
    LayerNorm: RectifiedLayerNorm,
}


def fuse(graph: Graph, ops: Mapping[str, Op]) -> dict[str, Op]:
    """The ops of a graph with every relu merged that can be."""
    readers: dict[str, list[str]] = {name: [] for name in graph.shapes}
    for name, op in ops.items():
        for source in op.inputs or ():
            readers[source].append(name)
    found = dict(ops)
    for name, op in ops.items():
        if type(op) is not ReLU or name == graph.output:
            continue
        (source,) = op.inputs or ()
        before, behind = found.get(source), [found[reader] for reader in readers[name]]
        if before is not None and type(before) in NORMS and readers[source] == [name]:
            found[source] = before.become(NORMS[type(before)])
        elif len(behind) == 1 and type(behind[0]) is MaxPool:
            found[readers[name][0]] = behind[0].become(RectifiedMaxPool)
        else:
            continue
        found[name] = Merged(name=op.name, inputs=op.inputs)
    return found
