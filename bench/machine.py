"""The least that a step can take: its multiply-adds at the speed of the machine's registers."""

from __future__ import annotations

from nbnn import Graph
from nbnn.graph import INPUT
from nbnn.lower import lower


class Machine:
    """In a child."""

    def gflops(self) -> float:
        """Of one core."""
        from bench import limit

        return max(limit.gflops() for _ in range(3))


def products(graph: Graph) -> int:
    """Multiply-adds of a training step for one example: forward, to the weights, and to the input where anything before
    it learns; Winograd's products where a step goes that way."""
    net = lower(graph, lanes=16, stop="choose")
    total, learns = 0, {INPUT: False}
    for name, op in net.ops.items():
        shapes = graph.input_shapes(op)
        before = any(learns[source] for source in op.inputs or ())
        learns[name] = before or bool(op.params(*shapes))
        total += op.multiply_adds(*shapes) * (2 + before)
    return total
