"""Relus that are part of a norm or of a pool: which, and that nothing else changes."""

import numpy as np
import pytest

import nbnn
import nbnn.lower as lowering
from nbnn import (
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Graph,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
)


def merged(*nodes, shape=(3, 8, 8)):
    net = lowering.lower(Graph([*nodes, Affine(4)], input=shape, loss="softmax"), lanes=16, stop="choose")
    return [name for name, op in net.ops.items() if op.merged]


@pytest.mark.parametrize(
    "nodes",
    [
        [Conv(4, 3), BatchNorm(), ReLU()],
        [Conv(4, 3), GroupNorm(2), ReLU(), AvgPool(2)],
        [Conv(4, 3), LayerNorm(), ReLU(), MaxPool(2)],
        [Conv(4, 3), ReLU(), MaxPool(3, stride=2, pad=1)],
        [ReLU(), MaxPool(2)],
        [Dropout(0.5), ReLU(), MaxPool(2)],
        [
            Conv(4, 3, name="c"),
            ReLU(),
            MaxPool(2, name="p"),
            Conv(4, 2, 2, inputs="c", name="s"),
            Add(inputs=("p", "s")),
        ],
    ],
)
def test_a_relu_beside_a_norm_or_a_pool_is_part_of_it(nodes):
    assert merged(*nodes) == ["relu1"]


@pytest.mark.parametrize(
    "nodes",
    [
        [Conv(4, 3), ReLU(), AvgPool(2)],
        [Conv(4, 3), LeakyReLU(), MaxPool(2)],
        [Conv(4, 3), ReLU(), Dropout(0.1), MaxPool(2)],
        [Conv(4, 3), BatchNorm(name="b"), ReLU(name="r"), Add(inputs=("b", "r"))],
        [Conv(4, 3), ReLU(name="r"), MaxPool(3, stride=1, pad=1, name="p"), Add(inputs=("p", "r"))],
    ],
)
def test_a_relu_that_others_need_stays(nodes):
    assert merged(*nodes) == []


def test_the_output_of_a_net_is_never_merged():
    graph = Graph([Affine(4), BatchNorm(), ReLU()], input=(5,), loss="softmax")
    assert not any(op.merged for op in lowering.lower(graph, lanes=16, stop="choose").ops.values())


NETS = {
    "pools": [Conv(5, 3, pad=1), ReLU(), MaxPool(2), Conv(6, 3), ReLU(), MaxPool(2, stride=1), Affine(4)],
    "norms": [Conv(5, 3), BatchNorm(), ReLU(), Conv(6, 3), GroupNorm(3), ReLU(), MaxPool(2), Affine(4)],
    "a relu on the input": [ReLU(), MaxPool(2), Affine(4)],
    "a branch before the relu": [
        *(Conv(4, 3, name="c"), ReLU(), MaxPool(2, name="p")),
        *(Conv(4, 2, stride=2, inputs="c", name="side"), Add(inputs=("p", "side")), Affine(4)),
    ],
}


@pytest.mark.parametrize("name", NETS)
def test_merging_changes_no_bit(name, monkeypatch):
    """Whole steps, outside training and in it: the same bits as with every relu a pass of its own."""
    r = np.random.default_rng(3)
    x, y = r.standard_normal((7, 3, 9, 9)).astype(np.float32), r.integers(0, 4, 7)
    graph = Graph(NETS[name], input=x.shape[1:], loss="softmax")

    def trained():
        model = nbnn.compile(graph, seed=1)
        losses = [float(model.train_steps(x, y)[0]) for _ in range(3)]
        return losses, model.predict_proba(x).tobytes(), [g.tobytes() for g in model.loss(x, y)[1].values()]

    found = trained()
    monkeypatch.setattr(lowering, "fuse", lambda graph, ops: ops)
    assert found == trained()
