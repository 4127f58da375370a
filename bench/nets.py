"""The nets and the single layers that are measured. One training step takes the minibatch, forward, softmax loss,
backward, Adam."""

from nbnn import Affine, BatchNorm, Conv, Dropout, Graph, MaxPool, ReLU


def _cbr(filters: int) -> list:
    return [Conv(filters, 3, pad=1), BatchNorm(), ReLU()]


def _fc(units: int) -> list:
    return [Affine(units), ReLU()]


# name -> (nodes, input, batch)
NETS = {
    "course7x7": ([Conv(32, 7, pad=3), ReLU(), MaxPool(2), *_fc(100), Affine(10)], (3, 32, 32), 50),
    "course3x3": ([Conv(64, 3, pad=1), ReLU(), MaxPool(2), *_fc(500), Affine(10)], (3, 32, 32), 1000),
    "vgg": (
        [
            *_cbr(32),
            *_cbr(32),
            MaxPool(2),
            *_cbr(64),
            *_cbr(64),
            MaxPool(2),
            *_cbr(128),
            *_cbr(128),
            MaxPool(2),
            Dropout(0.3),
            *_fc(256),
            Affine(10),
        ],
        (3, 32, 32),
        128,
    ),
    "lenet": (
        [Conv(6, 5), ReLU(), MaxPool(2), Conv(16, 5), ReLU(), MaxPool(2), *_fc(120), *_fc(84), Affine(10)],
        (1, 28, 28),
        128,
    ),
    "fcnet": (
        [n for _ in range(4) for n in (Affine(100), BatchNorm(), ReLU(), Dropout(0.25))] + [Affine(10)],
        (3, 32, 32),
        100,
    ),
    "mlp": ([*_fc(256), *_fc(256), Affine(10)], (784,), 64),
}

# examples, channels, side, filters, window, stride, pad
CONVS = [
    (64, 64, 32, 64, 3, 1, 1),
    (64, 128, 16, 128, 3, 1, 1),
    (64, 256, 8, 256, 3, 1, 1),
    (128, 32, 32, 32, 3, 1, 1),
    (50, 3, 32, 32, 7, 1, 3),
    (64, 3, 32, 64, 3, 1, 1),
    (100, 3, 31, 25, 3, 2, 0),
]

# examples, features, units
AFFINES = [(512, 1024, 512)]


def graph_of(name: str) -> tuple[Graph, int]:
    """A net of the table and its batch."""
    nodes, shape, batch = NETS[name]
    return Graph(nodes, input=shape, loss="softmax"), batch
