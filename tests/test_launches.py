"""What goes through together: the bits of a step do not depend on how its calls are joined."""

import itertools

import numpy as np
import pytest
from nets import NETS, data
from soak import times

import nbnn
from nbnn import Affine, BatchNorm, Conv, GlobalAvgPool, Graph, GroupNorm, LeakyReLU, MaxPool, ReLU, launches
from nbnn.kernels.constants import BLOCK
from nbnn.kernels.engine import TOOLS
from nbnn.kernels.launch import beginning
from nbnn.lower import lower
from nbnn.memory import share
from nbnn.op import Array, call
from nbnn.step import Step


def gradients(net, **options):
    model = nbnn.compile(net.graph, seed=3).twin(**options)
    x, y = data(net, count=net.batch)
    loss, grads = model.loss(x, y)
    scores = model.loss(x)
    return {"loss": np.array(loss), "scores": scores, **grads, **model.state.copies()}


@pytest.mark.parametrize("name", times(["fcnet", "convnet", "several readers", "residual", "winograd"], list(NETS)))
def test_calls_together_and_alone_give_the_same_bytes(name, monkeypatch):
    net = NETS[name]
    together = gradients(net)
    one_by_one = gradients(net, apart=True)
    monkeypatch.setattr(launches, "IN_CACHE", 1)  # as few examples at a time as there may be
    few_at_a_time = gradients(net)
    others = [one_by_one, few_at_a_time]
    monkeypatch.setattr(launches, "IN_STRETCH", 1)  # each call a stretch by itself
    others += [gradients(net)] if times(False, True) else []
    for key, value in together.items():
        for found in others:
            assert value.tobytes() == found[key].tobytes(), key


def shown(nodes, shape, function="gradients", **options):
    return [
        str(launch)
        for launch in lower(Graph(nodes, input=shape, loss="softmax"), lanes=16, **options).launches[function]
    ]


def test_a_net_that_mixes_no_examples_is_one_launch_to_the_first_gradient():
    found = shown([Conv(7, 5), ReLU(), MaxPool(2), Affine(10)], (1, 28, 28))
    assert found[:2] == ["copy_rows", "turn"]  # what weights become comes first, and one is made of the other
    assert found[2].startswith("deep(4); gather; conv_forward; max_pool_forward; deep")
    assert found[2].endswith("softmax_loss; affine_backward_data; deep(n); max_pool_backward")
    assert found[3:] == ["affine_backward_weights | add_slots | conv_backward_weights", "add_slots | add_slots"]


def test_calls_that_do_not_need_each_other_go_side_by_side():
    nodes = [node for _ in range(2) for node in (Affine(16), BatchNorm(), ReLU())]
    found = [launch for launch in shown([*nodes, Affine(10)], (48,)) if not launch.startswith("deep")]
    assert found == [
        "batch_statistics",
        "batch_statistics | turn",  # of the last weights, for the way back
        "affine_backward_weights | add_slots | affine_gradients | turn",
        "batch_gradients",
        "affine_backward_weights | add_slots | affine_gradients",
        "batch_gradients",
        "norm_backward",
        "affine_backward_weights | add_slots",
    ]


@pytest.mark.parametrize("grain", [1, 4, 16])
def test_the_parts_of_a_call_are_whole_grains_and_as_large_as_each_other(grain):
    for items, units in itertools.product(range(80), range(1, 9)):
        starts = [beginning.py_func(unit, units, items, grain) for unit in range(units + 1)]
        assert starts[0] == 0 and starts[-1] == items and starts == sorted(starts)
        assert all(start % grain == 0 for start in starts[:-1] if start < items)
        counts = [-(-(end - start) // grain) for start, end in itertools.pairwise(starts)]
        assert max(counts) - min(counts) <= 1


def test_nobody_overwrites_what_a_neighbour_may_still_read():
    """A relu would lie over its input, the last reader of which it is; but side by side nobody is the last."""
    section = launches.Section("", "", ())
    reader, relu = call("add_slots", "x", "sums"), call("relu_forward", "x", "y")
    arrays = {name: Array(("n", 1, 1, 8)) for name in ("x", "y")} | {"sums": Array((8,))}
    for beside in (False, True):
        makers = launches.Launch(((section, call("copy_rows", "w", "x")),))
        both = launches.Launch(((section, reader), (section, relu)), beside=beside)
        found = share({"gradients": [makers, both]}, arrays, {"sums"}, ("gradients", "y"))
        assert (found.roots["y"] == "x") == (not beside)


BESIDE = """
from nbnn.kernels.engine import {engine} as kernels
turn, square_sums, add_slots = kernels("turn", "square_sums", "add_slots")
{tools} = kernels.tools

@called
def run(threads, a, b, sums):
    allow_threads(threads)
    w, turned = view(a, 0, (3, 130, 83), (11440, 88, 1)), view(b, 0, (3, 83, 130), (11288, 136, 1))
    partial, total = view(a, 0, (7, 2500), (2512, 1)), view(b, 40000, (2500,), (1,))
    launch_beside(turn(w, turned), add_slots(partial, total), square_sums(a, sums))
"""


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_each_of_several_calls_has_its_own_items_and_its_own_grain(threads):
    """Grains of 1, 16 and 1024; where there are more threads than pieces of one call, some have nothing to do there."""
    rng = np.random.default_rng(0)
    a, sums = rng.standard_normal(40 * BLOCK, np.float32), np.empty((2, 40))
    b = np.zeros((2, 43 * BLOCK), np.float32)
    for k, engine in enumerate(("float32", "reference")):
        args = (threads, a, b[k], sums[k])
        Step(BESIDE.format(engine=engine, tools=", ".join(TOOLS)), jitted=engine == "float32")("run", *args)
    turned = np.lib.stride_tricks.as_strided(b, (2, 3, 83, 130), [s * 4 for s in (b.shape[1], 11288, 136, 1)])
    assert (turned[0] == turned[1]).all() and turned[0].all()
    np.testing.assert_allclose(b[0, 40000:42500], b[1, 40000:42500], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-5)
    assert not b[:, 42512:].any(), "nothing behind the last item"


def test_the_gather_finds_the_lengths_that_the_first_affine_layer_wants():
    """Layers with many more weights than an example has numbers want to know how long examples are."""
    hidden = shown([Affine(256), ReLU(), Affine(256), ReLU(), Affine(10)], (784,))[1]
    assert hidden.startswith("deep(48); gather_lengths; affine_forward; relu_forward; lengths; affine_forward")
    assert "gather; affine_forward" in shown([Affine(256), ReLU(), Affine(10)], (784,), function="predict")[0]


def test_statistics_of_the_batch_are_where_a_launch_ends():
    found = shown([Conv(8, 3), BatchNorm(), ReLU(), Affine(10)], (3, 8, 8))
    first = next(k for k, launch in enumerate(found) if launch.endswith("channel_moments"))
    assert found[first + 1] == "batch_statistics | copy_rows"
    assert any(launch.startswith("deep") and "norm_forward" in launch for launch in found[first + 2 :])
    assert "batch_statistics" not in "".join(shown([Conv(8, 3), GroupNorm(2), ReLU(), Affine(10)], (3, 8, 8)))


def test_sums_over_shares_go_with_what_they_read():
    """The norm's gradient, the picture that it was made of once more, the weights' sums, the way on: the threads take
    whole shares through all of it, and the two pictures are a worker's own."""
    conv = [node for _ in range(2) for node in (Conv(16, 3, pad=1), BatchNorm(), ReLU())]
    graph = Graph([*conv, MaxPool(2), Affine(10)], input=(3, 32, 32), loss="softmax")
    net = lower(graph, lanes=16)
    (found,) = (launch for launch in net.launches["gradients"] if launch.slots and "norm_sums" in str(launch))
    assert str(found) == (
        "deep(1); norm_backward; norm_forward; clear_frame; conv_backward_weights_winograd; clear_frame; "
        "conv_forward_winograd; norm_sums"
    )
    assert {"d_conv1", "d_conv2", "bn1_again"} <= net.sharing.own
    # weights of which a share would be a large part, and pictures so small that a share has too few tiles, stay apart
    tail = [GlobalAvgPool(), Affine(10)]
    for nodes, side in (([*conv, *tail], 8), ([*conv, Conv(2000, 3), *tail], 32)):
        shares = lower(Graph(nodes, input=(300, side, side), loss="softmax"), lanes=16).launches["gradients"]
        assert any("weights_winograd" in str(launch) and not launch.slots for launch in shares)


def test_outside_training_all_of_a_net_is_one_launch():
    found = shown([Conv(8, 3), BatchNorm(), ReLU(), MaxPool(2), Affine(10)], (3, 8, 8), function="predict")
    assert found[:-1] == ["running_statistics | copy_rows"]
    assert found[-1].startswith("deep") and found[-1].endswith("affine_forward")


def test_a_launch_ends_before_it_touches_more_than_its_share():
    """One example of 64 x 64 places and 128 channels is 2 MB: two of them and a third go into launches of their own."""
    nodes = [*(node for _ in range(3) for node in (Conv(128, 1), LeakyReLU())), GlobalAvgPool()]
    found = shown(nodes, (3, 64, 64), function="predict")
    assert [launch.count("conv_forward") for launch in found if "conv" in launch] == [1, 1, 1]
    small = shown(nodes, (3, 16, 16), function="predict")
    assert [launch.count("conv_forward") for launch in small if "conv" in launch] == [3]


def test_the_reference_runs_call_by_call():
    net = lower(NETS["convnet"].graph, lanes=1)
    assert all(len(launch.parts) == 1 for found in net.launches.values() for launch in found)
