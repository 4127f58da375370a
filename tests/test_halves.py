"""Convolution by halves beside the direct one: which take it, the same numbers, the same errors, the same training."""

import numpy as np
import pytest
from test_winograd import both_ways, demand_agreement, demand_the_same_training, demand_way, relative_rms

from nbnn import Affine, BatchNorm, Conv, MaxPool, ReLU, Scale
from nbnn.eager import Eager
from nbnn.halves import HalvedConv
from nbnn.op import Op

CHOSEN = [
    ("the course's first layer", Conv(32, 7, pad=3), (3, 32, 32), True),
    ("5x5, more channels, no padding", Conv(16, 5), (6, 16, 16), True),
    ("an oblong window", Conv(16, (6, 5)), (8, 17, 16), True),
    ("3x3: Winograd's, or direct", Conv(32, 3, pad=1), (16, 8, 8), False),
    ("few products in a sum", Conv(32, 5, pad=2), (3, 32, 32), False),
    ("many channels: a column of the pieces is too long", Conv(32, 5, pad=2), (65, 16, 16), False),
    ("many channels and filters: the pieces are too many", Conv(257, 5, pad=2), (64, 16, 16), False),
    ("large pictures: their parts are too large", Conv(8, 7, pad=3), (3, 400, 400), False),
    ("few places: a quarter of them are half a tile", Conv(32, 7, pad=3), (3, 4, 4), False),
    ("10x10 places, as in lenet", Conv(16, 5), (6, 14, 14), False),
    ("an odd side", Conv(32, 7, pad=3), (3, 32, 31), False),
    ("a stride", Conv(32, 7, stride=2, pad=3), (3, 32, 32), False),
    ("a dilation", Conv(32, 7, dilation=2, pad=6), (3, 32, 32), False),
    ("groups", Conv(32, 7, pad=3, groups=4), (4, 32, 32), False),
]


@pytest.mark.parametrize(("conv", "shape", "wanted"), [pytest.param(*row[1:], id=row[0]) for row in CHOSEN])
def test_which_convolutions_go_this_way(conv, shape, wanted):
    demand_way(conv, shape, "halves", wanted)


# windows odd, even and oblong; to the input this way, and not: few filters, sides odd, an oblong window, padding as
# wide as the window, few channels
@pytest.mark.parametrize(
    ("channels", "filters", "sides", "window", "pad"),
    [
        (9, 16, (8, 12), 5, 2),
        (17, 33, (10, 12), 7, 2),
        (9, 4, (8, 12), 5, 2),
        (9, 20, (13, 11), 6, 1),
        (9, 7, (10, 16), (5, 7), 1),
        (9, 16, (12, 12), 5, 5),
        (3, 70, (12, 12), 7, 3),
    ],
)
def test_both_ways_agree(channels, filters, sides, window, pad):
    # Scale stands before it so that the gradient of the input is asked for, bias=False takes the other bias
    nodes = [Scale(), Conv(filters, window, pad=pad, bias=pad != 1), Affine(3)]
    rng = np.random.default_rng(0)
    models = both_ways(nodes, (channels, *sides), dtype="float64")
    assert "conv_forward_halves" in models[0].source()
    for count in (1, 5):
        demand_agreement(models, rng.standard_normal((count, channels, *sides)), rng.standard_normal((count, 3)))


def three_runs(kind: type[Conv], op: Op, shape: tuple, monkeypatch) -> list[Eager]:
    """The op as `kind` does it and directly, and directly in float64."""
    auto = Eager(op, shape, "float32")
    assert type(auto.op) is kind
    with monkeypatch.context() as patch:
        patch.setattr(kind, "of", lambda *given: None)
        return [auto, *(Eager(op, shape, dtype) for dtype in ("float32", "float64"))]


# nothing is multiplied by anything but 1 and -1: measured here, errors are at most 1.5 times those of the direct way
@pytest.mark.parametrize("shape", [(3, 32, 32), (16, 16, 16), (64, 8, 8)], ids=str)
def test_errors_in_float32_are_those_of_the_direct_way(shape, monkeypatch):
    op, rng = Conv(32, 7 if shape[0] == 3 else 5, pad=3 if shape[0] == 3 else 2), np.random.default_rng(1)
    x, b = rng.standard_normal((8, *shape)).astype(np.float32), np.zeros(32, np.float32)
    w = rng.standard_normal(op.params(shape)["w"].shape).astype(np.float32)
    dy = rng.standard_normal((8, *op.shape(shape))).astype(np.float32)
    runs = three_runs(HalvedConv, op, shape, monkeypatch)
    found = [{"y": run.forward(x, w=w, b=b), **run.backward(x, dy, w=w, b=b)} for run in runs]
    for name, wanted in found[2].items():
        error, direct = (relative_rms(f[name], wanted) for f in found[:2])
        assert 1e-8 < error < min(2 * direct, 2e-6), (name, error, direct)


def test_a_nan_is_in_all_that_reads_it():
    x, op = np.zeros((1, 3, 16, 16)), Conv(8, 7, pad=3)
    x[0, 1, 9, 4] = np.nan
    run = Eager(op, (3, 16, 16), "float32")
    params = {"w": np.ones((8, 3, 7, 7)), "b": np.zeros(8)}
    assert np.isnan(run.forward(x, **params)[0, :, 6:13, 1:8]).all()
    assert np.isnan(run.backward(x, np.ones((1, 8, 16, 16)), **params)["dw"][:, 1]).all()


def test_training_follows_the_direct_way():
    nodes = [Conv(16, 7, pad=3), BatchNorm(), ReLU(), MaxPool(2), Conv(16, 5, pad=2), ReLU(), MaxPool(2), Affine(10)]
    demand_the_same_training(nodes, rate=5e-4, steps=30, least=0.8)
