"""What is measured: the nets with their batches and goals, and the single layers. One training step of a net takes the
minibatch, forward, softmax loss, backward, Adam."""

from __future__ import annotations

from dataclasses import dataclass

from nbnn import Add, Affine, BatchNorm, Conv, Dropout, Flatten, Graph, MaxPool, ReLU, Scale
from nbnn.op import Op
from nbnn.words import times

LEARNING_RATE = 1e-3


def _cbr(filters: int) -> list[Op]:
    return [Conv(filters, 3, pad=1), BatchNorm(), ReLU()]


def _fc(units: int) -> list[Op]:
    return [Affine(units), ReLU()]


def _residual(filters: int, before: str) -> list[Op]:
    """Two convolutions whose result is added to what the node `before` hands them."""
    last = f"{before}_twice"
    return [*_cbr(filters), *_cbr(filters)[:2], ReLU(name=last), Add(inputs=(before, last))]


@dataclass(frozen=True)
class Net:
    """Nodes, the shape of one example, and for each batch the ratio to PyTorch's best that is wanted.

    Losses are compared at `checked_rate`. Adam's first steps look at the signs of gradients alone, and rounding turns
    those of small ones: at 1e-3 vgg overshoots, and by the third loss PyTorch's two layouts differ from each other by
    5e-4; at 1e-4 by 2e-5, but those of resnet9 still by 2e-4.
    """

    nodes: list[Op]
    input: tuple[int, ...]
    goals: dict[int, float]
    checked_rate: float = LEARNING_RATE


NETS = {
    "course7x7": Net([Conv(32, 7, pad=3), ReLU(), MaxPool(2), *_fc(100), Affine(10)], (3, 32, 32), {50: 3}),
    "course3x3": Net([Conv(64, 3, pad=1), ReLU(), MaxPool(2), *_fc(500), Affine(10)], (3, 32, 32), {1000: 6}),
    "vgg": Net(
        [
            *[*_cbr(32), *_cbr(32), MaxPool(2)],
            *[*_cbr(64), *_cbr(64), MaxPool(2)],
            *[*_cbr(128), *_cbr(128), MaxPool(2)],
            *[Dropout(0.3), *_fc(256), Affine(10)],
        ],
        (3, 32, 32),
        {128: 3},
        checked_rate=2e-5,
    ),
    "resnet9": Net(
        [
            *[*_cbr(64), *_cbr(128), MaxPool(2, name="half"), *_residual(128, "half")],
            *[*_cbr(256), MaxPool(2), *_cbr(512), MaxPool(2, name="eighth"), *_residual(512, "eighth")],
            *[MaxPool(4), Affine(10)],
        ],
        (3, 32, 32),
        {64: 3},
        checked_rate=2e-5,
    ),
    "lenet": Net(
        [Conv(6, 5), ReLU(), MaxPool(2), Conv(16, 5), ReLU(), MaxPool(2), *_fc(120), *_fc(84), Affine(10)],
        (1, 28, 28),
        {128: 6, 16: 6},
    ),
    "fcnet": Net(
        [*[n for _ in range(4) for n in (Affine(100), BatchNorm(), ReLU(), Dropout(0.25))], Affine(10)],
        (3, 32, 32),
        {100: 4},
    ),
    "mlp": Net([*_fc(256), *_fc(256), Affine(10)], (784,), {64: 2.5, 8: 4}),
}


def graph_of(name: str, *, dropout: bool = True) -> tuple[Graph, int]:
    """A net of the table and its first batch. Without dropout two programs must agree, whatever they draw."""
    net = NETS[name]
    nodes = [n for n in net.nodes if dropout or not isinstance(n, Dropout)]
    return Graph(nodes, input=net.input, loss="softmax"), next(iter(net.goals))


@dataclass(frozen=True)
class Layer:
    """One node on n examples. `ratio` to PyTorch's better layout is wanted on all threads; `shares`, by algorithm, of
    the machine's limit on one thread."""

    n: int
    input: tuple[int, ...]
    node: Op
    ratio: float | None
    shares: dict[str, float | None]

    @property
    def name(self) -> str:
        node, sizes = self.node, times((self.n, *self.input), "x")
        if isinstance(node, Conv):
            stride, groups = f" /{node.stride}" * (node.stride > 1), f" in {node.groups}" * (node.groups > 1)
            return f"conv {sizes} {node.size}x{node.size} -> {node.filters}{stride}{groups}"
        return f"affine {sizes} -> {node.units}" if isinstance(node, Affine) else f"max pool {sizes} 2x2"

    @property
    def first(self) -> bool:
        """Whether nets begin with it, so that it reads the pictures themselves, with no room behind their channels."""
        return isinstance(self.node, Conv) and self.input[0] <= 3

    def graph(self, *, before: bool) -> Graph:
        """The layer as a compiled step holds it: a loss behind it, and with `before` something that wants its gradient
        before it."""
        flat = [] if isinstance(self.node, Affine) else [Flatten()]
        return Graph([*([Scale()] if before else []), self.node, *flat], input=self.input, loss="mse")

    @property
    def flops(self) -> int:
        return 2 * self.n * Graph([self.node], input=self.input).multiply_adds


def _wide(n: int, channels: int, side: int) -> Layer:
    """A 3x3 convolution whose channels fill registers: direct, and with whatever algorithm a step chooses."""
    shares = {"auto": 1.8, "direct": 0.85}
    return Layer(n, (channels, side, side), Conv(channels, 3, pad=1), 2, shares)


LAYERS = [
    _wide(64, 64, 32),
    Layer(50, (3, 32, 32), Conv(32, 7, pad=3), 1.2, {"auto": None}),
    Layer(512, (1024,), Affine(512), None, {"auto": 0.85}),
    Layer(100, (3, 32, 32), MaxPool(2), 1.5, {"auto": None}),
    _wide(64, 128, 16),
    _wide(64, 256, 8),
    _wide(128, 32, 32),
    Layer(64, (3, 32, 32), Conv(64, 3, pad=1), 1.2, {"auto": None}),
    Layer(100, (3, 31, 31), Conv(25, 3, stride=2, pad=1), 1.2, {"auto": None}),
    Layer(1000, (64, 16, 16), Affine(500), None, {"auto": 0.85}),
    Layer(128, (256,), Affine(256), None, {"auto": 0.85}),
    Layer(128, (64, 32, 32), MaxPool(2), 1.5, {"auto": None}),
    Layer(64, (64, 32, 32), Conv(64, 3, pad=1, groups=64), None, {"auto": None, "direct": None}),
]
QUICK_LAYERS = 4  # the first so many show each kind once
