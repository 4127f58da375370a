"""The nets that whole-graph tests share: small, odd in size, and between them every op and loss."""

from typing import NamedTuple

import numpy as np

from nbnn import (
    GELU,
    Add,
    Affine,
    Augment,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Graph,
    GroupNorm,
    Identity,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)


class Net(NamedTuple):
    """A graph and why it is here."""

    graph: Graph
    batch: int
    reason: str


NETS = {
    "linear": Net(Graph([Affine(3)], input=(5,), loss="softmax"), 7, "the smallest net there is"),
    "mlp": Net(
        Graph([Affine(40), ReLU(), Affine(33), Tanh(), Affine(10)], input=(50,), loss="svm"),
        9,
        "units that fill no register",
    ),
    "fcnet": Net(
        Graph(
            [Affine(20), BatchNorm(), ReLU(), Dropout(0.25), Affine(17), LayerNorm(), SiLU(), Affine(4)],
            input=(3, 5, 5),
            loss="softmax",
        ),
        11,
        "pictures into a dense layer; norms of vectors; dropout",
    ),
    "convnet": Net(
        Graph(
            [
                Augment(2),
                Conv(20, 3, pad=1),
                BatchNorm(),
                ReLU(),
                MaxPool(2),
                Conv(33, 3, stride=2, pad=1),
                GELU(),
                Dropout(0.5),
                Affine(10),
            ],
            input=(3, 11, 11),
            loss=Softmax(0.1),
        ),
        7,
        "the usual order of ops, an odd side, label smoothing",
    ),
    "several readers": Net(
        Graph(
            [
                Affine(90, name="whole"),
                Conv(5, 3, inputs=("input",), name="part"),
                Affine(70, name="parts"),
                Concat(inputs=("whole", "parts")),
                ReLU(),
                Affine(128),
                Affine(4),
            ],
            input=(3, 9, 8),
            loss="svm",
        ),
        6,
        "a picture that both an affine and a convolution read; weights whose gradient is bounded",
    ),
    "residual": Net(
        Graph(
            [
                Conv(16, 3, pad=1, bias=False),
                BatchNorm(),
                ReLU(name="a"),
                Conv(16, 3, pad=1),
                GroupNorm(4),
                Scale(0.5),
                Add(inputs=("a", "scale1"), name="sum"),
                LeakyReLU(0.1),
                Conv(9, 3, stride=2, pad=1, name="left"),
                AvgPool(3, 2, 1, inputs="relu1", name="right"),
                Concat(inputs=("left", "right")),
                Sigmoid(),
                Identity(),
                GlobalAvgPool(),
                Affine(5),
            ],
            input=(4, 8, 6),
            loss="softmax",
        ),
        5,
        "branches, sums and joins; a tensor read three times; a picture that is not square",
    ),
    "winograd": Net(
        Graph(
            [Conv(70, 3), SiLU(), Conv(33, 3, pad=2, bias=False), MaxPool(2), Affine(3)], input=(17, 7, 6), loss="svm"
        ),
        6,
        "Winograd convolutions: from the input on, over blocks of channels, with tiles over the edge",
    ),
    "grouped": Net(
        Graph(
            [
                Conv(12, 3, groups=2, pad=1),
                Tanh(),
                Conv(12, (3, 1), groups=12),
                Conv(6, 2, stride=3, dilation=2),
                Flatten(),
                Affine(2),
            ],
            input=(4, 13, 9),
            loss="mse",
        ),
        3,
        "groups, depthwise, dilation with stride, a window that is not square, targets that are numbers",
    ),
    "wide": Net(
        Graph(
            [Conv(40, 5, pad=2), MaxPool(3, 2), Conv(40, 1), ReLU(), Conv(10, 4), Flatten()],
            input=(1, 10, 10),
            loss="softmax",
        ),
        17,
        "overlapping pools, 1x1, and a window as large as its picture",
    ),
}


# one op at a time, between a convolution and an affine layer so that its input has a gradient that somebody wants
STEM = Conv(8, 3, pad=1, name="stem")
ROWS: dict[str, list] = {
    "Conv": [Conv(6, 3, stride=2, pad=1)],
    "Conv dilated": [Conv(6, 3, dilation=2, pad=3)],
    "Conv in groups": [Conv(8, (3, 1), groups=4)],
    "Conv depthwise": [Conv(8, 3, groups=8, pad=1, bias=False)],
    "Affine": [Affine(7)],
    "MaxPool": [MaxPool(2)],
    "MaxPool overlapping": [MaxPool(3, 2, 1)],
    "MaxPool, oblong": [MaxPool((2, 3), 2)],
    "AvgPool": [AvgPool(3, 2, 1)],
    "GlobalAvgPool": [GlobalAvgPool()],
    "BatchNorm": [BatchNorm()],
    "BatchNorm of vectors": [Affine(9), BatchNorm(eps=1e-3)],
    "LayerNorm": [LayerNorm()],
    "LayerNorm of vectors": [Affine(9), LayerNorm()],
    "GroupNorm": [GroupNorm(4)],
    "Dropout that drops nothing": [Dropout(0.0)],
    "Augment that moves nothing": [Augment(0, flip=False)],
    "ReLU": [ReLU()],
    "LeakyReLU": [LeakyReLU(0.2)],
    "Sigmoid": [Sigmoid()],
    "Tanh": [Tanh()],
    "GELU": [GELU()],
    "SiLU": [SiLU()],
    "Flatten": [Flatten()],
    "Add": [ReLU(name="r"), Add(inputs=("stem", "r", "r"))],
    "Concat": [Conv(5, 3, pad=1, name="c"), Concat(inputs=("stem", "c"))],
    "Scale": [Scale(1.5)],
    "Identity": [Identity()],
}


def graph_of_row(row: str) -> Graph:
    """The small net around one op."""
    return Graph([STEM, *ROWS[row], Affine(5)], input=(3, 8, 7), loss="softmax")


def data(net: Net, dtype: str = "float32", seed: int = 0, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Random examples and targets."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *net.graph.input)).astype(dtype)
    loss, shape = net.graph.loss, net.graph.output_shape
    if loss is not None and loss.classifies:
        return x, rng.integers(0, shape[0], count)
    return x, rng.standard_normal((count, *shape)).astype(dtype)
