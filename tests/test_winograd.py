"""Winograd's convolution beside the direct one: exact matrices, bounded errors, the same training."""

import numpy as np
import pytest
from cases import room
from numpy.lib.stride_tricks import sliding_window_view

import nbnn
from nbnn import Add, Affine, BatchNorm, Conv, GlobalAvgPool, Graph, MaxPool, ReLU, Scale
from nbnn.kernels import conv, winograd
from nbnn.kernels.reference import winograd as exact
from nbnn.lower import lower


def test_the_written_out_sums_are_the_exact_matrices():
    scale = exact.numbers([exact.weights_of_points()])
    for rule, matrix in (
        (winograd.values_of_x, exact.numbers(exact.data_matrix())),
        (winograd.values_of_w, exact.numbers(exact.evaluation(3)) / scale.T),
        (winograd.places_of_y, exact.numbers(exact.evaluation(4)).T),
        (winograd.values_of_dy, exact.numbers(exact.evaluation(4))),
        (winograd.places_of_dw, (exact.numbers(exact.evaluation(3)) / scale.T).T),
    ):
        found = np.array(rule(list(np.eye(matrix.shape[1]))))
        np.testing.assert_allclose(found, matrix, rtol=0, atol=1e-15, err_msg=rule.__name__)


def test_the_matrices_make_a_convolution():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(6), rng.standard_normal(3)
    products = np.array(winograd.values_of_x(list(x))) * np.array(winograd.values_of_w(list(w)))
    np.testing.assert_allclose(winograd.places_of_y(list(products)), np.correlate(x, w, "valid"), atol=1e-14)


CHOSEN = [
    ("the usual", Conv(32, 3, pad=1), (16, 8, 8), True),
    ("no padding", Conv(32, 3), (16, 10, 10), True),
    ("padding of two", Conv(32, 3, pad=2), (16, 8, 8), True),
    ("padding of three: dy has no frame to take away", Conv(32, 3, pad=3), (16, 8, 8), False),
    ("few channels, as in a first layer", Conv(32, 3, pad=1), (3, 32, 32), False),
    ("few filters", Conv(8, 3, pad=1), (16, 32, 32), False),
    ("a stride", Conv(32, 3, stride=2, pad=1), (16, 8, 8), False),
    ("a dilation", Conv(32, 3, dilation=2, pad=2), (16, 8, 8), False),
    ("groups", Conv(32, 3, pad=1, groups=2), (16, 8, 8), False),
    ("another window", Conv(32, 5, pad=2), (16, 8, 8), False),
    ("a lying window", Conv(32, (1, 3), pad=1), (16, 8, 8), False),
    ("2x2 places: a tile is mostly edge", Conv(32, 3, pad=1), (16, 2, 2), False),
    ("5x5 places", Conv(32, 3, pad=1), (16, 5, 5), True),
]


@pytest.mark.parametrize(("conv", "shape", "wanted"), [pytest.param(*row[1:], id=row[0]) for row in CHOSEN])
def test_which_convolutions_go_this_way(conv, shape, wanted):
    demand_way(conv, shape, "winograd", wanted)


def test_wide_layers_on_small_pictures_make_their_values_as_they_go(monkeypatch):
    """And so to the bit what comes of values that are made before; there are more examples than a worker takes."""
    graph = Graph([Conv(352, 3, pad=1), ReLU(), Conv(344, 3, pad=1), Affine(5)], input=(16, 4, 4), loss="softmax")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, *graph.input)).astype(np.float32), rng.integers(0, 5, 70)
    found = []
    for tiles in (1, 0):
        monkeypatch.setattr(nbnn.winograd, "WIDE_TILES", tiles)
        model = nbnn.compile(graph, seed=1)
        assert model.source().count("conv_winograd_wide(") == (3 if tiles else 0)  # to predict, forward, to the input
        losses = model.train_steps(x, y, steps=2)
        found.append([a.tobytes() for a in (losses, model.loss(x), *model.params.values())])
        model.verify(batch=3)
    assert found[0] == found[1]


def demand_way(conv, shape, way, wanted):
    """Whether the convolution goes this way, unless it must be direct; the reference is a plain sum."""
    graph = Graph([conv], input=shape)
    for options, answer in (({}, wanted), ({"algorithm": "direct"}, False)):
        assert (f"conv_forward_{way}" in lower(graph, lanes=16, **options).source) == answer
    assert way not in lower(graph, lanes=1).source


def both_ways(nodes, shape, **options):
    graph = Graph(nodes, input=shape, loss="mse")
    return [nbnn.compile(graph, algorithm=a, **options) for a in ("auto", "direct")]


def demand_agreement(models, x, y):
    """The same loss, gradients and scores, to rounding in float64."""
    (loss, grads), (loss_direct, grads_direct) = [m.loss(x, y) for m in models]
    assert loss == pytest.approx(loss_direct, rel=1e-12)
    for name, wanted in grads_direct.items():
        np.testing.assert_allclose(grads[name], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max(), err_msg=name)
    np.testing.assert_allclose(models[0].loss(x), models[1].loss(x), rtol=0, atol=1e-12 * min(1.0, loss))


# sides of 4 k, k + 1, 2, 3; all paddings; channels and filters that fill registers and that do not
@pytest.mark.parametrize(
    ("channels", "filters", "sides", "pad"),
    [(16, 16, (8, 8), 1), (17, 40, (9, 13), 0), (70, 33, (10, 7), 2), (40, 17, (11, 5), 1), (16, 70, (6, 12), 2)],
)
def test_both_ways_agree_on_ragged_sizes(channels, filters, sides, pad):
    # Scale stands before it so that the gradient of the input is asked for, bias=False takes the other bias
    nodes = [Scale(), Conv(filters, 3, pad=pad, bias=pad != 1), GlobalAvgPool()]
    rng = np.random.default_rng(0)
    models = both_ways(nodes, (channels, *sides), dtype="float64")
    for count in (1, 5):
        demand_agreement(models, rng.standard_normal((count, channels, *sides)), rng.standard_normal((count, filters)))


def nhwc(values, halo=0):
    """The numbers in float32 with room behind the channels, and a frame of zeros."""
    shape = [*values.shape]
    shape[1:3] = [s + 2 * halo for s in shape[1:3]]
    found = room(tuple(shape), "float32")
    (found[:, halo:-halo, halo:-halo] if halo else found)[...] = values
    return found


def space(*shape):
    """Room for one worker."""
    return room((1, *shape), "float32")


def relative_rms(found, wanted):
    return np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())


# the bounds that are promised: 3e-6 forward and to the input, 1e-5 to the weights; measured here 0.6-1.9e-6 and 1-4e-6,
# where the direct way has 0.2-0.5e-6 and 0.1-0.5e-6
@pytest.mark.parametrize("shape", [(8, 16, 32, 32), (8, 64, 32, 64), (8, 128, 16, 128), (8, 256, 8, 256)], ids=str)
def test_errors_in_float32_stay_within_the_bounds(shape):
    count, channels, side, filters = shape
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, channels, side, side))
    w = rng.standard_normal((filters, channels, 3, 3)) / np.sqrt(9 * channels)
    dy = rng.standard_normal((count, filters, side, side))
    x, w, dy = (a.astype(np.float32).astype(np.float64) for a in (x, w, dy))
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    y = np.einsum("ncijuv,fcuv->nfij", windows, w, optimize=True)
    windows_dy = sliding_window_view(np.pad(dy, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    dx = np.einsum("nfijuv,fcuv->ncij", windows_dy, w[:, :, ::-1, ::-1], optimize=True)
    dw_exact = np.einsum("ncijuv,nfij->fcuv", windows, dy, optimize=True)
    x_framed, dy_framed = (nhwc(a.transpose(0, 2, 3, 1), halo=1) for a in (x, dy))
    w_in, w_back = nhwc(w.transpose(2, 3, 1, 0)), nhwc(w.transpose(2, 3, 0, 1))
    u, u_back = room((36, channels, filters), "float32"), room((36, filters, channels), "float32")
    winograd.winograd_weights(w_in, u)
    winograd.winograd_weights(w_back[::-1, ::-1], u_back)
    zeros, patch = room((1, max(channels, filters)), "float32")[0], space(6, 6, max(channels, filters))
    held, tiles, products = (space(36, 32, k) for k in (channels, filters, max(channels, filters)))
    sums = space(36, channels, filters)
    dw, db = room((2, 3, 3, channels, filters), "float32"), room((2, filters), "float32")
    inner = dy_framed[:, 1:-1, 1:-1]
    y_auto, y_direct = (room((count, side, side, filters), "float32") for _ in range(2))
    dx_auto, dx_direct = (room((count, side, side, channels), "float32") for _ in range(2))
    winograd.conv_forward_winograd(x_framed, u, zeros[:filters], y_auto, held, products, patch)
    winograd.conv_forward_winograd(dy_framed, u_back, zeros[:channels], dx_auto, tiles, products, patch)
    winograd.conv_backward_weights_winograd(x_framed, inner, 2, dw, db, held, tiles, sums, patch)
    dw_auto = dw.sum(axis=0)
    conv.conv_forward(x_framed, w_in, zeros[:filters], 1, 1, y_direct)
    conv.conv_backward_data(dy_framed, w_back, 1, 1, 1, 1, dx_direct)
    conv.conv_backward_weights(x_framed, inner, 1, 1, dw, db)
    exact_ones = y.transpose(0, 2, 3, 1), dx.transpose(0, 2, 3, 1), dw_exact.transpose(2, 3, 1, 0)
    autos = [relative_rms(a, b) for a, b in zip((y_auto, dx_auto, dw_auto), exact_ones, strict=True)]
    directs = [relative_rms(a, b) for a, b in zip((y_direct, dx_direct, dw.sum(axis=0)), exact_ones, strict=True)]
    for error, direct, bound in zip(autos, directs, (3e-6, 3e-6, 1e-5), strict=True):
        assert 1e-8 < direct < error < bound, (autos, directs)


def test_training_follows_the_direct_way():
    nodes = [
        *(Conv(16, 3, pad=1), BatchNorm(), ReLU(name="a")),
        *(Conv(16, 3, pad=1), BatchNorm(), ReLU(), Conv(16, 3, pad=1, name="b")),
        *(Add(inputs=("a", "b")), ReLU(), MaxPool(2), Affine(10)),
    ]
    demand_the_same_training(nodes, rate=2e-3, steps=40, least=0.7)


def demand_the_same_training(nodes, rate, steps, least, channels=3):
    """Losses that follow those of the direct way, and end below `least` times the first."""
    graph = Graph(nodes, input=(channels, 16, 16), loss="softmax")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((256, channels, 16, 16)).astype(np.float32), rng.integers(0, 10, 256)
    indices = rng.integers(0, 256, (steps, 32))
    # not Adam: it makes a whole step of a gradient that is rounding alone, whichever way that is rounded
    how = {"update_rule": "sgd_momentum", "optim_config": {"learning_rate": rate, "momentum": 0.9}}
    auto, direct = (
        nbnn.compile(graph, algorithm=a).train_steps(x, y, indices=indices, **how) for a in ("auto", "direct")
    )
    assert direct[-1] < least * direct[0]
    np.testing.assert_allclose(auto[:10], direct[:10], rtol=1e-5)
    np.testing.assert_allclose(auto, direct, rtol=1e-3)
    assert not np.array_equal(auto, direct)  # else the test would compare a thing with itself
