"""nbnn beside PyTorch: same weights, same data. Scores and gradients of every op, losses of ten steps of three nets."""

import numpy as np
import pytest
from nets import NETS, ROWS, data, graph_of_row

import nbnn
from bench.nets import graph_of
from nbnn import GELU, Add, Affine, BatchNorm, Conv, GlobalAvgPool, Graph, MaxPool, ReLU
from nbnn.check import relative_error
from nbnn.data import synthetic

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0 (the CPU build)")

# float64 on both sides, so that only real differences show; sums of a few thousand products
TOLERANCE = 1e-11


def both(graph: Graph, loss=None):
    """(scores, loss, gradients) of ours and of PyTorch's."""
    from bench.torch_peer import Net

    rng = np.random.default_rng(3)
    model = nbnn.compile(graph, dtype="float64")
    x, y = rng.standard_normal((6, *graph.input)), rng.integers(0, graph.output_shape[0], 6)
    net = Net(model)
    wanted = net.loss(torch.from_numpy(x), torch.from_numpy(y)) if loss is None else loss(net, x, y)
    wanted.backward()
    found, grads = model.loss(x, y)
    return found, wanted.item(), grads, {name: w.grad.numpy() for name, w in net.params.items()}


@pytest.mark.parametrize("row", ROWS)
def test_an_op_agrees(row):
    found, wanted, grads, wanted_grads = both(graph_of_row(row))
    assert found == pytest.approx(wanted, rel=TOLERANCE)
    assert list(grads) == list(wanted_grads)
    largest = max(np.abs(g).max() for g in wanted_grads.values())
    for name, gradient in grads.items():
        # a bias before a batchnorm has the gradient 0, of which both sides find some rounding: compare with the others
        error = relative_error(np.append(gradient, largest), np.append(wanted_grads[name], largest))
        assert error <= TOLERANCE, name


def test_label_smoothing_agrees():
    def smooth(net, x, y):
        return torch.nn.functional.cross_entropy(
            net.scores(torch.from_numpy(x)), torch.from_numpy(y), label_smoothing=0.2
        )

    found, wanted, grads, wanted_grads = both(Graph([Affine(5)], input=(12,), loss=nbnn.Softmax(0.2)), smooth)
    assert found == pytest.approx(wanted, rel=TOLERANCE)
    assert relative_error(grads["affine1.w"], wanted_grads["affine1.w"]) <= TOLERANCE


@pytest.mark.parametrize("word", ["svm", "mse"])
def test_other_losses_agree(word):
    def loss(net, x, y):
        scores = net.scores(torch.from_numpy(x))
        if word == "svm":
            return torch.nn.functional.multi_margin_loss(scores, torch.from_numpy(y)) * scores.shape[1]
        return torch.nn.functional.mse_loss(scores, torch.from_numpy(np.eye(5)[y]))

    graph = Graph([Affine(5)], input=(12,), loss=word)
    model = nbnn.compile(graph, dtype="float64")
    from bench.torch_peer import Net

    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 12)), rng.integers(0, 5, 6)
    net = Net(model)
    wanted = loss(net, x, y)
    wanted.backward()
    found, grads = model.loss(x, y if word == "svm" else np.eye(5)[y])
    assert found == pytest.approx(wanted.item(), rel=TOLERANCE)
    assert relative_error(grads["affine1.w"], net.params["affine1.w"].grad.numpy()) <= TOLERANCE


def test_batchnorm_outside_training_agrees():
    """Running figures after training steps: ours keep the biased variance, its the unbiased one; used alike."""
    from bench.torch_peer import Net

    model = nbnn.compile(NETS["convnet"].graph, dtype="float64")
    x, y = data(NETS["convnet"], "float64")
    model.train_steps(x, y, steps=3)
    assert not np.allclose(model.state["bn1.mean"], 0)
    scores = Net(model).scores(torch.from_numpy(x), training=False).detach().numpy()
    assert relative_error(model.loss(x), scores) <= TOLERANCE


def graphs():
    course, _ = graph_of("course7x7")
    convnet = Graph(
        [Conv(20, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Conv(33, 3, stride=2, pad=1), GELU(), Affine(10)],
        input=(3, 12, 12),
        loss="softmax",
    )
    residual = Graph(
        [
            *[
                Conv(16, 3, pad=1),
                BatchNorm(),
                ReLU(name="a"),
                Conv(16, 3, pad=1),
                BatchNorm(),
                Add(inputs=("a", "bn2")),
            ],
            *[ReLU(), GlobalAvgPool(), Affine(10)],
        ],
        input=(3, 10, 10),
        loss="softmax",
    )
    return {"course7x7": course, "convnet": convnet, "residual": residual}


def losses_of_both(graph: Graph, x: np.ndarray, y: np.ndarray, indices: np.ndarray) -> tuple[list, list]:
    """The losses of the same Adam steps from the same weights, in this process: `bench.torch_peer.Torch` would change
    how it treats denormals."""
    from bench.torch_peer import Net

    model = nbnn.compile(graph)
    net = Net(model)
    adam = torch.optim.Adam(list(net.params.values()), lr=1e-3)
    wanted = []
    for row in indices:
        loss = net.loss(torch.from_numpy(x[row]), torch.from_numpy(y[row]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        wanted.append(loss.item())
    return list(model.train_steps(x, y, indices=indices)), wanted


@pytest.mark.parametrize("name", ["course7x7", "convnet", "residual"])
def test_ten_steps_follow_the_same_losses(name):
    """float32 on both sides, Adam: losses within 1e-5 relative, ten steps long."""
    graph = graphs()[name]
    pictures = synthetic(num_train=64, num_val=1, num_test=1, shape=graph.input)
    x, y = pictures["X_train"] / 4, pictures["y_train"]
    found, wanted = losses_of_both(graph, x, y, np.random.default_rng(0).integers(0, 64, (10, 32)))
    assert len(found) == 10
    assert wanted[0] - wanted[-1] > 0.1  # it learns, so the updates count
    assert found == pytest.approx(wanted, rel=1e-5)
