"""What a model computes and keeps: scores, losses, gradients, steps, and the views on its arrays."""

import concurrent.futures
import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import nbnn
from nbnn import Affine, Augment, BatchNorm, Conv, Dropout, Flatten, Graph, MaxPool, ReLU, cache
from nbnn.rules import DEFAULTS

PICTURES = Graph(
    [Conv(3, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Affine(4)],
    input=(2, 5, 4),
    loss="softmax",
)
VECTORS = Graph([Affine(7), ReLU(), Affine(3)], input=(5,), loss="softmax")

# The largest error allowed, relative to the largest number: what is left of 7 and of 16 digits after sums of dozens.
CLOSE = {"float32": 1e-5, "float64": 1e-10}


def examples(graph, count, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *graph.input)).astype(dtype)
    return x, rng.integers(0, graph.output_shape[0], count)


def assert_close(found, wanted, dtype="float32"):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    assert np.isfinite(wanted).all()
    error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
    assert error <= CLOSE[dtype], error  # false for NaN


def as_double(arrays):
    return {name: np.array(value, np.float64) for name, value in arrays.items()}


# ---- the two nets by hand, in float64


def conv_by_hand(x, w, b):
    """3 x 3, padded by 1."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    y = np.zeros((len(x), len(w), height, width)) + b[:, None, None]
    for u in range(3):
        for v in range(3):
            y += np.einsum("ncij,fc->nfij", padded[:, :, u : u + height, v : v + width], w[:, :, u, v])
    return y


def conv_gradients_by_hand(x, dy):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    dw = np.zeros((dy.shape[1], x.shape[1], 3, 3))
    for u in range(3):
        for v in range(3):
            dw[:, :, u, v] = np.einsum("ncij,nfij->fc", padded[:, :, u : u + height, v : v + width], dy)
    return dw, dy.sum(axis=(0, 2, 3))


def softmax_by_hand(scores, y):
    """The mean loss and its gradient."""
    rows = np.arange(len(y))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances = powers / powers.sum(axis=1, keepdims=True)
    loss = -np.log(chances[rows, y]).mean()
    chances[rows, y] -= 1
    return loss, chances / len(y)


def svm_by_hand(scores, y):
    rows = np.arange(len(y))
    margins = np.maximum(scores - scores[rows, y][:, None] + 1, 0)
    margins[rows, y] = 0
    gradient = (margins > 0).astype(float)
    gradient[rows, y] = -gradient.sum(axis=1)
    return margins.sum() / len(y), gradient / len(y)


def mse_by_hand(scores, y):
    return ((scores - y) ** 2).mean(), 2 * (scores - y) / scores.size


def pictures_by_hand(p, state, x, y=None):
    """(scores, state) outside training; with labels (loss, gradients, state) in training."""
    p, state, x = as_double(p), as_double(state), x.astype(np.float64)
    maps = conv_by_hand(x, p["conv1.w"], p["conv1.b"])
    mean, var = state["bn1.mean"], state["bn1.var"]
    if y is not None:
        mean, var = maps.mean(axis=(0, 2, 3)), maps.var(axis=(0, 2, 3))
        state = {
            "bn1.mean": 0.9 * state["bn1.mean"] + 0.1 * mean,
            "bn1.var": 0.9 * state["bn1.var"] + 0.1 * var,
        }
    over = (slice(None), None, None)
    scale = 1 / np.sqrt(var + 1e-5)
    xhat = (maps - mean[over]) * scale[over]
    normed = xhat * p["bn1.gamma"][over] + p["bn1.beta"][over]
    cells = np.maximum(normed, 0)[:, :, :4].reshape(len(x), 3, 2, 2, 2, 2)  # (n, c, i, u, j, v): the fifth row is left
    pooled = cells.max(axis=(3, 5))
    flat = pooled.reshape(len(x), 12)  # channel, row, column
    scores = flat @ p["affine1.w"] + p["affine1.b"]
    if y is None:
        return scores, state
    loss, dscores = softmax_by_hand(scores, y)
    dpooled = (dscores @ p["affine1.w"].T).reshape(len(x), 3, 2, 1, 2, 1)
    dnormed = np.zeros_like(normed)
    chosen = (cells == pooled[:, :, :, None, :, None]) & (cells > 0)
    dnormed[:, :, :4] = (chosen * dpooled).reshape(len(x), 3, 4, 4)
    count = maps.size / 3
    dgamma, dbeta = (dnormed * xhat).sum(axis=(0, 2, 3)), dnormed.sum(axis=(0, 2, 3))
    spread = dnormed - dbeta[over] / count - xhat * dgamma[over] / count
    dw, db = conv_gradients_by_hand(x, spread * (p["bn1.gamma"] * scale)[over])
    grads = {
        "conv1.w": dw,
        "conv1.b": db,
        "bn1.gamma": dgamma,
        "bn1.beta": dbeta,
        "affine1.w": flat.T @ dscores,
        "affine1.b": dscores.sum(axis=0),
    }
    return loss, grads, state


def vectors_by_hand(p, x, y=None, loss_by_hand=softmax_by_hand):
    p, x = as_double(p), x.astype(np.float64)
    hidden = np.maximum(x @ p["affine1.w"] + p["affine1.b"], 0)
    scores = hidden @ p["affine2.w"] + p["affine2.b"]
    if y is None:
        return scores
    loss, dscores = loss_by_hand(scores, y)
    dhidden = (dscores @ p["affine2.w"].T) * (hidden > 0)
    return loss, {
        "affine1.w": x.T @ dhidden,
        "affine1.b": dhidden.sum(axis=0),
        "affine2.w": hidden.T @ dscores,
        "affine2.b": dscores.sum(axis=0),
    }


def assert_grads(found, wanted, dtype="float32"):
    assert list(found) == list(wanted)
    floor = 1e-2 * max(np.abs(g).max() for g in wanted.values())  # a bias before a batchnorm has the gradient 0
    for name, gradient in wanted.items():
        assert found[name].shape == gradient.shape
        assert_close(np.append(found[name], floor), np.append(gradient, floor), dtype)


def unsettled(model, seed=3):
    """Parameters and state that are neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    for arrays in (model.params, model.state):
        for name in arrays:
            arrays[name] = arrays[name] + 0.2 * rng.random(arrays[name].shape)
    return model


# ---- what it computes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_picture_net_computes_what_is_worked_out_by_hand(backend, dtype):
    model = unsettled(nbnn.compile(PICTURES, dtype=dtype, backend=backend))
    for count in (6, 1, 2, 9, 3, 40, 1, 131):  # other sizes each time, and growing
        x, y = examples(PICTURES, count, seed=count, dtype=dtype)
        scores, _ = pictures_by_hand(model.params, model.state, x)
        found = model.loss(x)
        assert found.dtype == dtype
        assert_close(found, scores, dtype)
        loss, grads, state = pictures_by_hand(model.params, model.state, x, y)
        found_loss, found_grads = model.loss(x, y)
        assert type(found_loss) is float
        assert_close(found_loss, loss, dtype)
        assert_grads(found_grads, grads, dtype)
        for name, value in state.items():
            assert_close(model.state[name], value, dtype)


@pytest.mark.parametrize("name", ["softmax", "svm", "mse"])
def test_each_loss_is_what_is_worked_out_by_hand(name):
    graph = Graph(VECTORS.given, input=5, loss=name)
    model = unsettled(nbnn.compile(graph))
    x, y = examples(graph, 8)
    if name == "mse":
        y = np.random.default_rng(1).standard_normal((8, 3))
    by_hand = {"softmax": softmax_by_hand, "svm": svm_by_hand, "mse": mse_by_hand}[name]
    scores = vectors_by_hand(model.params, x)
    loss, grads = vectors_by_hand(model.params, x, y, by_hand)
    found_loss, found = model.loss(x, y)
    assert_close(found_loss, loss)
    assert_grads(found, grads)
    figures = model.evaluate(x, y)
    assert_close(figures["loss"], loss)
    if name == "mse":
        assert list(figures) == ["loss"]
        assert_close(model.predict(x), scores)
    else:
        assert figures["accuracy"] == (scores.argmax(axis=1) == y).mean()
        assert model.predict(x).tolist() == scores.argmax(axis=1).tolist()
        powers = np.exp(scores)
        assert_close(model.predict_proba(x), powers / powers.sum(axis=1, keepdims=True))


def test_a_graph_without_a_loss_predicts():
    model = nbnn.compile(Graph(VECTORS.given, input=5), backend="numpy")
    x, _ = examples(VECTORS, 6)
    assert_close(model.predict(x), vectors_by_hand(model.params, x))
    assert_close(model.loss(x), model.predict(x))


def test_many_examples_in_several_chunks_equal_one_chunk():
    x, _ = examples(PICTURES, 300)
    wanted = nbnn.compile(PICTURES, batch=300).loss(x)
    for batch in (None, 1, 7, 299):
        model = nbnn.compile(PICTURES, batch=batch)
        assert model.loss(x).tobytes() == wanted.tobytes()
        assert model.predict(x).tolist() == wanted.argmax(axis=1).tolist()
    assert_close(wanted, pictures_by_hand(model.params, model.state, x)[0])


def test_a_small_batch_after_a_large_one_finds_nothing_left_over():
    x, y = examples(PICTURES, 50)
    used, fresh = nbnn.compile(PICTURES), nbnn.compile(PICTURES)
    used.loss(100 * x, y)
    used.load_state_dict(fresh.state_dict())
    (loss, grads), (wanted_loss, wanted) = used.loss(x[:3], y[:3]), fresh.loss(x[:3], y[:3])
    assert loss == wanted_loss
    assert all(grads[name].tobytes() == wanted[name].tobytes() for name in wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numpy_backend_equals_the_compiled_one(dtype):
    x, y = examples(PICTURES, 30, dtype=dtype)
    jitted, plain = (unsettled(nbnn.compile(PICTURES, dtype=dtype, backend=b)) for b in ("numba", "numpy"))
    assert_close(jitted.loss(x), plain.loss(x), dtype)
    (loss, grads), (plain_loss, plain_grads) = jitted.loss(x, y, reg=0.1), plain.loss(x, y, reg=0.1)
    assert_close(loss, plain_loss, dtype)
    assert_grads(grads, plain_grads, dtype)
    rows = np.random.default_rng(0).integers(0, 30, (5, 8))
    settings = {"indices": rows, "update_rule": "sgd_momentum", "reg": 0.01, "clip": 0.5}
    assert_close(jitted.train_steps(x, y, **settings), plain.train_steps(x, y, **settings), dtype)
    for name, value in plain.state_dict().items():
        assert_close(jitted.state_dict()[name], value, dtype)
    assert jitted.steps_taken == plain.steps_taken == 5


# ---- what people hand in


PLAIN = np.random.default_rng(0).integers(0, 10, (6, *PICTURES.input)).astype(np.float32)


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    assert not raw.flags.aligned
    return raw


OTHER_FORMS = {
    "uint8": lambda x: x.astype(np.uint8),
    "int8": lambda x: x.astype(np.int8),
    "int64": lambda x: x.astype(np.int64),
    "uint64": lambda x: x.astype(np.uint64),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "longdouble": lambda x: x.astype(np.longdouble),
    "big-endian float32": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "big-endian int16": lambda x: x.astype(">i2"),
    "Fortran order": np.asfortranarray,
    "channels last in memory": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "negative strides": lambda x: x[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
    "every other one": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "read-only": read_only,
    "unaligned": unaligned,
    "a list": lambda x: x.tolist(),
    "a list of arrays": list,
}


@pytest.fixture(scope="module")
def picture_model():
    return nbnn.compile(PICTURES)


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_every_form_of_the_same_numbers_gives_the_same_answer(picture_model, form):
    y = np.array([0, 1, 2, 3, 0, 1])
    given = OTHER_FORMS[form](PLAIN)
    before = np.array(given)
    assert picture_model.loss(given).tobytes() == picture_model.loss(PLAIN).tobytes()
    assert picture_model.loss(given, y)[0] == picture_model.loss(PLAIN, y)[0]
    assert np.array_equal(given, before)


def test_bools_are_zeros_and_ones(picture_model):
    found = picture_model.loss(PLAIN > 4)
    assert found.tobytes() == picture_model.loss((PLAIN > 4).astype(np.float32)).tobytes()


def test_a_memory_mapped_file_is_read_in_place(picture_model, tmp_path):
    np.save(tmp_path / "x.npy", PLAIN)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert picture_model.loss(mapped).tobytes() == picture_model.loss(PLAIN).tobytes()


def test_numbers_that_float32_rounds_reach_a_float64_net_whole():
    model = nbnn.compile(VECTORS, dtype="float64", backend="numpy")
    x, _ = examples(VECTORS, 4)
    x = np.round(x * 1e6) + 2**30  # whole numbers of more than 24 bits
    wanted = model.loss(x)
    for given in (x.astype(np.int64), x.astype(np.longdouble), x.astype(">f8")):
        assert model.loss(given).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("form", ["uint8", "int8", "big-endian", "read-only", "unaligned", "every other one", "a list"])
def test_labels_and_indices_in_every_form(form):
    change = {
        "uint8": lambda a: a.astype(np.uint8),
        "int8": lambda a: a.astype(np.int8),
        "big-endian": lambda a: a.astype(">i8"),
        "read-only": read_only,
        "unaligned": unaligned,
        "every other one": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        "a list": lambda a: a.tolist(),
    }[form]
    x, y = examples(VECTORS, 9)
    rows = np.random.default_rng(0).integers(0, 9, (3, 4))
    model, other = nbnn.compile(VECTORS), nbnn.compile(VECTORS)
    wanted = model.train_steps(x, y, indices=rows)
    found = other.train_steps(read_only(x), change(y), indices=change(rows))
    assert found.tobytes() == wanted.tobytes()
    model.train_steps(read_only(x), change(y), indices=change(rows))
    for step, function in ((model._step, "gradients"), (model._trainer, "train")):
        assert len(step.compile(function, ()).signatures) == 1  # nothing was compiled a second time


# ---- parameters as people see them


def test_arrays_have_the_shapes_that_people_know():
    for backend in ("numba", "numpy"):
        model = nbnn.compile(PICTURES, backend=backend)
        wanted = {
            "conv1.w": (3, 2, 3, 3),
            "conv1.b": (3,),
            "bn1.gamma": (3,),
            "bn1.beta": (3,),
            "affine1.w": (12, 4),
            "affine1.b": (4,),
        }
        assert {name: value.shape for name, value in model.params.items()} == wanted
        assert {name: value.shape for name, value in model.grads.items()} == wanted
        assert {name: value.shape for name, value in model.state.items()} == {"bn1.mean": (3,), "bn1.var": (3,)}
        assert len(model.params) == 6
    assert repr(model.state) == "{'bn1.mean': (3,), 'bn1.var': (3,)}"


def test_an_affine_reads_a_picture_in_the_order_channel_row_column():
    model = nbnn.compile(Graph([Affine(24, bias=False, init="dirac")], input=(2, 3, 4)))
    x = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    assert np.array_equal(model.loss(x), x.reshape(2, 24))
    model = nbnn.compile(Graph([Flatten()], input=(2, 3, 4)), backend="numpy")
    assert np.array_equal(model.loss(x), x.reshape(2, 24))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_writing_takes_effect_in_the_next_loss(backend):
    model = nbnn.compile(PICTURES, backend=backend)
    rng = np.random.default_rng(0)
    x, _ = examples(PICTURES, 5)
    for name in model.params:
        before = model.loss(x)
        model.params[name] += 0.5 * rng.random(model.params[name].shape)
        found = model.loss(x)
        assert not np.array_equal(found, before)
        assert_close(found, pictures_by_hand(model.params, model.state, x)[0])
        model.params[name] = rng.standard_normal(model.params[name].shape)
        assert_close(model.loss(x), pictures_by_hand(model.params, model.state, x)[0])
        model.params[name][..., 0] = 1.5
        assert_close(model.loss(x), pictures_by_hand(model.params, model.state, x)[0])
    for name in model.state:
        model.state[name] = 0.5 + rng.random(3)
        assert_close(model.loss(x), pictures_by_hand(model.params, model.state, x)[0])


def test_assignment_copies_what_it_is_given():
    model = nbnn.compile(VECTORS, backend="numpy")
    given = np.ones((5, 7))
    model.params["affine1.w"] = given
    given[...] = 9
    assert (model.params["affine1.w"] == 1).all()
    model.params["affine1.b"] = [1, 2, 3, 4, 5, 6, 7]
    assert model.params["affine1.b"].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_reshaping_a_view_in_place_leaves_the_model_alone():
    model = nbnn.compile(VECTORS, backend="numpy")
    x, _ = examples(VECTORS, 4)
    wanted = model.loss(x)
    view = model.params["affine1.w"]
    view.shape = (35,)
    assert model.params["affine1.w"].shape == (5, 7)
    assert model.loss(x).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_returned_gradients_and_state_are_copies(backend):
    model = nbnn.compile(PICTURES, backend=backend)
    x, y = examples(PICTURES, 6)
    _, grads = model.loss(x, y)
    kept = {name: value.copy() for name, value in grads.items()}
    held = model.state_dict()
    kept_state = {name: value.copy() for name, value in held.items()}
    model.loss(2 * x, y)
    model.train_steps(x, y, steps=3)
    for name in grads:
        assert not np.shares_memory(grads[name], model.grads[name])
        assert np.array_equal(grads[name], kept[name])
    for name, value in held.items():
        assert np.array_equal(value, kept_state[name])
        assert not np.array_equal(value, model.state_dict()[name])
    for value in (*grads.values(), *held.values()):
        assert value.flags.c_contiguous
        assert value.flags.owndata


def test_a_state_dict_puts_everything_back():
    model = nbnn.compile(PICTURES)
    x, y = examples(PICTURES, 6)
    model.train_steps(x, y, steps=2)
    held, scores = model.state_dict(), model.loss(x)
    model.train_steps(x, y, steps=2)
    assert model.loss(x).tobytes() != scores.tobytes()
    model.load_state_dict(held)
    assert model.loss(x).tobytes() == scores.tobytes()


def test_a_state_dict_is_taken_whole_or_not_at_all():
    model = nbnn.compile(VECTORS, backend="numpy")
    before = model.state_dict()
    wrong = {name: value + 1 for name, value in before.items()}
    wrong["affine2.b"] = np.array(["a", "b", "c"])
    with pytest.raises(ValueError, match=r"affine2\.b must be an array of real numbers"):
        model.load_state_dict(wrong)
    assert all(np.array_equal(model.params[name], before[name]) for name in before)


# ---- batchnorm's state


def test_running_figures_follow_training_alone():
    model = nbnn.compile(PICTURES)
    x, y = examples(PICTURES, 9)
    assert model.state["bn1.mean"].tolist() == [0, 0, 0]
    assert model.state["bn1.var"].tolist() == [1, 1, 1]
    model.loss(x)
    model.predict(x)
    model.evaluate(x, y)
    assert model.state["bn1.mean"].tolist() == [0, 0, 0]
    p = as_double(model.params)
    maps = conv_by_hand(x, p["conv1.w"], p["conv1.b"])
    mean, var = maps.mean(axis=(0, 2, 3)), maps.var(axis=(0, 2, 3))
    model.loss(x, y)
    assert_close(model.state["bn1.mean"], 0.1 * mean)
    assert_close(model.state["bn1.var"], 0.9 + 0.1 * var)
    model.loss(x, y)
    assert_close(model.state["bn1.mean"], 0.9 * 0.1 * mean + 0.1 * mean)
    assert_close(model.loss(x), pictures_by_hand(p, model.state, x)[0])  # and they serve outside training


@pytest.mark.parametrize(("momentum", "kept"), [(0.0, 0.0), (0.75, 0.75), (1.0, 1.0)])
def test_momentum_is_the_share_that_is_kept(momentum, kept):
    model = nbnn.compile(Graph([BatchNorm(momentum=momentum)], input=3, loss="softmax"), backend="numpy")
    x, y = examples(model.graph, 20)
    model.state["bn1.mean"], model.state["bn1.var"] = [1, 2, 3], [4, 5, 6]
    model.loss(x, y)
    assert_close(model.state["bn1.mean"], kept * np.array([1, 2, 3]) + (1 - kept) * x.mean(axis=0))
    assert_close(model.state["bn1.var"], kept * np.array([4, 5, 6]) + (1 - kept) * x.var(axis=0))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_batch_with_a_nan_changes_nothing_that_stays(backend):
    model = nbnn.compile(PICTURES, backend=backend)
    x, y = examples(PICTURES, 6)
    model.train_steps(x, y, steps=2)
    before = model.state_dict()
    x[3, 1, 2, 2] = np.nan
    for train in (model.loss, model.train_steps):
        with pytest.raises(ValueError, match="first in example 3"):
            train(x, y)
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.steps_taken == 2
    model.train_steps(x[:3], y[:3])
    assert all(np.isfinite(value).all() for value in model.state_dict().values())


# ---- dropout

UNITS = 4096


def dropped(p, *, backend="numba", seed=0):
    """A net whose loss and gradient of the bias show the mask: scores 1, targets 0."""
    graph = Graph([Affine(UNITS, init="zeros"), Dropout(p)], input=1, loss="mse")
    model = nbnn.compile(graph, backend=backend, seed=seed)
    model.params["affine1.b"] = np.ones(UNITS)
    return model


def mask(model):
    """1 where a unit was kept: the gradient is 2 / UNITS * mask / (1 - p)**2."""
    _, grads = model.loss(np.zeros((1, 1)), np.zeros((1, UNITS)))
    return grads["affine1.b"] > 0


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_dropout_drops_a_share_p_and_keeps_the_mean(backend):
    model = dropped(0.25, backend=backend)
    loss, grads = model.loss(np.zeros((1, 1)), np.zeros((1, UNITS)))
    kept = (grads["affine1.b"] > 0).mean()
    assert abs(kept - 0.75) < 0.03  # more than four standard deviations
    assert_close(loss, kept / 0.75**2)
    assert_close(np.unique(grads["affine1.b"]), [0, 2 / UNITS / 0.75**2])
    assert abs(np.sqrt(loss * kept) - 1) < 0.04  # mean(y) = kept / (1 - p)
    assert (model.loss(np.zeros((3, 1))) == 1).all()  # outside training nothing is dropped


def test_masks_belong_to_the_seed_and_the_step():
    model = dropped(0.25)
    first = mask(model)
    assert np.array_equal(mask(model), first)  # asked twice, the same
    assert np.array_equal(mask(dropped(0.25)), first)
    assert np.array_equal(mask(dropped(0.25, backend="numpy")), first)
    assert not np.array_equal(mask(dropped(0.25, seed=1)), first)
    model.train_steps(np.zeros((1, 1)), np.zeros((1, UNITS)), update_rule="sgd", optim_config={"learning_rate": 0.0})
    second = mask(model)
    agree = (second == first).mean()
    assert abs(agree - (0.75**2 + 0.25**2)) < 0.04  # no more than by chance
    model.steps_taken = 0
    assert np.array_equal(mask(model), first)


def test_each_example_has_its_own_mask():
    model = dropped(0.25)
    _, both = model.loss(np.zeros((2, 1)), np.zeros((2, UNITS)))
    values = np.unique(both["affine1.b"])
    assert len(values) == 3  # kept in neither, one, or both


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(("p", "loss", "gradient"), [(0, 1, 2 / UNITS), (1, 0, 0)])
def test_dropout_of_nothing_and_of_everything(backend, p, loss, gradient):
    model = dropped(p, backend=backend)
    found, grads = model.loss(np.zeros((1, 1)), np.zeros((1, UNITS)))
    assert found == loss
    assert (grads["affine1.b"] == np.float32(gradient)).all()
    assert (model.loss(np.zeros((1, 1))) == 1).all()


# ---- steps


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_reg_pulls_at_weights_alone(backend):
    model = unsettled(nbnn.compile(PICTURES, dtype="float64", backend=backend))
    x, y = examples(PICTURES, 6)
    loss, grads = model.loss(x, y)
    found, found_grads = model.loss(x, y, reg=0.3)
    weights = [name for name in model.params if name.endswith(".w")]
    assert weights == ["conv1.w", "affine1.w"]
    assert_close(found, loss + 0.15 * sum((model.params[name] ** 2).sum() for name in weights), "float64")
    for name in weights:
        grads[name] += 0.3 * model.params[name]
    assert_grads(found_grads, grads, "float64")
    before = as_double(model.params)
    losses = model.train_steps(x, y, reg=0.3, update_rule="sgd", optim_config={"learning_rate": 0.5})
    assert_close(losses, [found], "float64")
    for name in before:
        assert_close(model.params[name], before[name] - 0.5 * grads[name], "float64")


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_clip_holds_the_norm_of_the_whole_gradient(backend):
    model = unsettled(nbnn.compile(PICTURES, dtype="float64", backend=backend))
    x, y = examples(PICTURES, 6)
    _, grads = model.loss(x, y)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    for clip, share in ((0.25 * norm, 0.25), (2 * norm, 1.0), (0, 1.0)):
        before = model.state_dict()
        old = as_double(model.params)
        model.train_steps(x, y, clip=clip, update_rule="sgd", optim_config={"learning_rate": 0.5})
        for name in old:
            assert_close(model.params[name], old[name] - 0.5 * share * grads[name], "float64")
        model.load_state_dict(before)


def rule_by_hand(rule, config, w, dw, memory, decays):
    """The rules as their papers and the course have them; memory is a dict that is changed."""
    rate, t = config["learning_rate"], memory.setdefault("t", 0) + 1
    m, v = memory.setdefault("m", 0 * w), memory.setdefault("v", 0 * w)
    pull = rate * config.get("weight_decay", 0) * w if decays else 0
    if rule == "sgd":
        w = w - rate * dw
    elif rule == "sgd_momentum":
        v = config["momentum"] * v - rate * dw
        w = w + v
    elif rule == "sgd_nesterov_momentum":
        old, v = v, config["momentum"] * v - rate * dw
        w = w - config["momentum"] * old + (1 + config["momentum"]) * v
    elif rule == "rmsprop":
        v = config["decay_rate"] * v + (1 - config["decay_rate"]) * dw**2
        w = w - rate * dw / (np.sqrt(v) + config["epsilon"])
    elif rule in ("adam", "adamw"):
        m = config["beta1"] * m + (1 - config["beta1"]) * dw
        v = config["beta2"] * v + (1 - config["beta2"]) * dw**2
        unbiased = m / (1 - config["beta1"] ** t), v / (1 - config["beta2"] ** t)
        w = w - pull - rate * unbiased[0] / (np.sqrt(unbiased[1]) + config["epsilon"])
    elif rule == "lion":
        way = np.sign(config["beta1"] * m + (1 - config["beta1"]) * dw)
        m = config["beta2"] * m + (1 - config["beta2"]) * dw
        w = w - pull - rate * way
    memory.update(t=t, m=m, v=v)
    return w


OTHER_SETTINGS = {
    "learning_rate": 0.05,
    "momentum": 0.8,
    "decay_rate": 0.7,
    "beta1": 0.6,
    "beta2": 0.8,
    "epsilon": 1e-3,
    "weight_decay": 0.1,
}


@pytest.mark.parametrize("given", ["its defaults", "other settings"])
@pytest.mark.parametrize("rule", DEFAULTS)
def test_a_rule_takes_the_steps_that_are_worked_out_by_hand(rule, given):
    model = unsettled(nbnn.compile(VECTORS, dtype="float64"))
    x, y = examples(VECTORS, 8)
    chosen = None if given == "its defaults" else {k: v for k, v in OTHER_SETTINGS.items() if k in DEFAULTS[rule]}
    config = {**DEFAULTS[rule], **(chosen or {})}
    memories = {name: {} for name in model.params}
    for step in range(3):
        loss, grads = model.loss(x, y)
        wanted = {
            name: rule_by_hand(rule, config, as_double(model.params)[name], dw, memories[name], name.endswith(".w"))
            for name, dw in grads.items()
        }
        losses = model.train_steps(x, y, update_rule=rule, optim_config=chosen)
        assert losses.shape == (1,)
        assert_close(losses[0], loss, "float64")
        for name, value in wanted.items():
            assert_close(model.params[name], value, "float64")
            assert not np.array_equal(grads[name], 0 * grads[name])
        assert model.steps_taken == step + 1


def test_the_defaults_are_those_of_the_course():
    assert DEFAULTS["sgd"] == {"learning_rate": 1e-2}
    assert DEFAULTS["sgd_momentum"] == DEFAULTS["sgd_nesterov_momentum"] == {"learning_rate": 1e-2, "momentum": 0.9}
    assert DEFAULTS["rmsprop"] == {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8}
    assert DEFAULTS["adam"] == {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def test_several_steps_in_one_call_are_the_same_steps():
    x, y = examples(PICTURES, 20)
    rows = np.random.default_rng(0).integers(0, 20, (6, 5))
    together, apart, one = (nbnn.compile(PICTURES) for _ in range(3))
    losses = together.train_steps(x, y, indices=rows)
    assert losses.dtype == np.float64
    halves = [apart.train_steps(x, y, indices=part) for part in (rows[:1], rows[1:4], rows[4:])]
    picked = [one.train_steps(x[row], y[row])[0] for row in rows]
    assert losses.tolist() == np.concatenate(halves).tolist() == picked
    for other in (apart, one):
        assert all(np.array_equal(v, together.state_dict()[k]) for k, v in other.state_dict().items())
    whole = nbnn.compile(PICTURES)
    assert whole.train_steps(x, y, steps=3).shape == (3,)
    assert whole.steps_taken == 3


def test_training_learns():
    model = nbnn.compile(VECTORS)
    x, _ = examples(VECTORS, 60)
    y = x[:, :3].argmax(axis=1)
    before = model.evaluate(x, y)
    losses = model.train_steps(x, y, steps=300, optim_config={"learning_rate": 0.03})
    assert losses[-1] < 0.1 < losses[0]
    assert model.evaluate(x, y)["accuracy"] > max(0.98, before["accuracy"])


def test_another_rule_forgets_and_the_same_rule_remembers():
    x, y = examples(VECTORS, 8)
    used, fresh = (nbnn.compile(VECTORS, dtype="float64") for _ in range(2))
    used.train_steps(x, y, steps=3)
    used.train_steps(x, y, update_rule="sgd_momentum")
    fresh.load_state_dict(used.state_dict())
    assert used.train_steps(x, y).tobytes() == fresh.train_steps(x, y).tobytes()
    assert all(np.array_equal(fresh.params[k], v) for k, v in used.params.items())
    held = used.state_dict()
    used.train_steps(x, y, optim_config={"learning_rate": 0.5})  # other settings, but the same rule
    other = nbnn.compile(VECTORS, dtype="float64")
    other.load_state_dict(held)
    other.train_steps(x, y, optim_config={"learning_rate": 0.5})
    assert not np.array_equal(used.params["affine1.w"], other.params["affine1.w"])


@pytest.mark.parametrize("loss", ["softmax", "mse", None])
def test_prepare_compiles_everything_and_changes_nothing(loss):
    graph = Graph(VECTORS.given, input=5, loss=loss)
    prepared, other = nbnn.compile(graph), nbnn.compile(graph)
    x, y = examples(VECTORS, 6)
    if loss == "mse":
        y = np.random.default_rng(1).standard_normal((6, 3))
    if loss is not None:
        for model in (prepared, other):
            model.train_steps(x, y, steps=2)
    prepared.prepare()
    assert all(np.array_equal(value, other.state_dict()[name]) for name, value in prepared.state_dict().items())
    for name in ("predict", "gradients")[: 1 if loss is None else 2]:
        assert len(prepared._step.compile(name, ()).signatures) == 1
    assert loss is None or len(prepared._trainer.compile("train", ()).signatures) == 1
    assert prepared.loss(x).tobytes() == other.loss(x).tobytes()
    if loss is not None:
        assert prepared.train_steps(x, y, steps=2).tobytes() == other.train_steps(x, y, steps=2).tobytes()
        assert prepared.steps_taken == other.steps_taken == 4


# ---- how it begins, and what it says of itself


def test_the_seed_is_the_beginning():
    first, same, other = (nbnn.compile(PICTURES, seed=s, backend="numpy") for s in (5, 5, 6))
    double = nbnn.compile(PICTURES, seed=5, dtype="float64", backend="numpy")
    for name, value in first.state_dict().items():
        assert value.tobytes() == same.state_dict()[name].tobytes()
        assert np.array_equal(value, double.state_dict()[name].astype(np.float32))
    for name in ("conv1.w", "affine1.w"):
        assert not np.array_equal(first.params[name], other.params[name])
    assert nbnn.compile(PICTURES, seed=2**63 - 1, backend="numpy").seed == 2**63 - 1


def test_the_largest_seed_trains():
    model = dropped(0.25, seed=2**63 - 1)
    assert np.array_equal(mask(model), mask(dropped(0.25, backend="numpy", seed=2**63 - 1)))


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("he", np.sqrt(2 / 400)), ("xavier", np.sqrt(2 / 700)), ("normal", 0.05), ("zeros", 0)],
)
def test_weights_begin_as_wide_as_their_init_says(init, deviation):
    model = nbnn.compile(Graph([Affine(300, init=init, scale=0.05)], input=400), backend="numpy")
    w = model.params["affine1.w"]
    assert abs(w.std() - deviation) <= 0.02 * deviation
    assert abs(w.mean()) <= 4 * deviation / np.sqrt(w.size)
    assert (model.params["affine1.b"] == 0).all()


def test_the_fan_of_a_convolution_is_its_window_times_its_channels():
    model = nbnn.compile(Graph([Conv(64, 5, groups=2, init="he")], input=(32, 5, 5)), backend="numpy")
    assert abs(model.params["conv1.w"].std() - np.sqrt(2 / (16 * 25))) < 0.02 * np.sqrt(2 / (16 * 25))


def test_dirac_hands_the_input_on():
    graph = Graph([Conv(2, 3, pad=1, init="dirac"), Affine(24, init="dirac")], input=(2, 3, 4))
    model = nbnn.compile(graph, backend="numpy")
    x = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    assert np.array_equal(model.loss(x), x.reshape(2, 24))


def test_summary_holds_the_numbers():
    model = nbnn.compile(PICTURES, backend="numpy")
    lines = model.summary().splitlines()
    # 3*2*9 + 3, 2*3, 12*4 + 4; 3*9*2 products at each of 20 places, and 12 * 4
    assert next(line for line in lines if line.startswith("conv1")).split()[-2:] == ["57", "1,080"]
    assert next(line for line in lines if line.startswith("bn1")).split()[-1] == "6"
    assert next(line for line in lines if line.startswith("affine1")).split()[-2:] == ["52", "48"]
    assert next(line for line in lines if line.startswith("loss")).split() == ["loss", "softmax", "115", "1,128"]
    told = next(line for line in lines if line.startswith("parameters"))
    assert int(told.split()[-1].replace(",", "")) >= 115 * 4
    assert {"gradients", "state", "scratch", "activations"} <= {line.split()[0] for line in lines if line}
    assert repr(model) == "<nbnn.Model of 5 nodes, 115 parameters, float32, numpy>"


def test_source_is_the_text_of_the_file_that_was_compiled():
    model = nbnn.compile(VECTORS)
    model.loss(examples(VECTORS, 2)[0])
    files = cache.folder(cache.fingerprint()).glob("step_*.py")
    assert [path.read_text() for path in files].count(model.lowered.source) == 1
    assert model.source().startswith(model.lowered.source) and "def train(" in model.source()
    assert str(VECTORS).splitlines()[0] in model.source()


# ---- copies, threads, and recovery


def small(**options):
    graph = nbnn.Graph([nbnn.Affine(40), nbnn.ReLU(), nbnn.Affine(3)], input=(10,), loss="softmax")
    return nbnn.compile(graph, **options)


def numbers(count=30):
    rng = np.random.default_rng(5)
    return rng.standard_normal((count, 10)).astype(np.float32), rng.integers(0, 3, count)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_model_of_its_own(copied):
    model = small()
    x, y = numbers()
    model.train_steps(x, y, steps=2)
    twin = copied(model)
    assert twin.loss(x).tobytes() == model.loss(x).tobytes()
    before = model.loss(x)
    twin.params["affine1.w"] *= 0
    assert not np.allclose(twin.loss(x), before)
    assert np.array_equal(model.loss(x), before)


def test_a_model_is_not_pickled():
    with pytest.raises(TypeError, match=r"^a model is not pickled, .*; use model.save and nbnn.load$"):
        pickle.dumps(small())


def test_assigning_params_writes_into_them():
    """The course's own Solver ends with `model.params = best_params`."""
    model, other = small(), small(seed=1)
    x, _ = numbers()
    model.params = dict(other.params)
    assert np.array_equal(model.loss(x), other.loss(x))
    with pytest.raises(TypeError, match="^params must be a dict of arrays by name, got list$"):
        model.params = []
    with pytest.raises(KeyError):
        model.params = {"affine9.w": np.zeros(3)}


def test_one_model_may_be_used_from_several_threads():
    model = small()
    parts = [numbers(k)[0] for k in range(1, 200)]
    wanted = [model.loss(x).tobytes() for x in parts]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [s.tobytes() for s in pool.map(model.loss, parts)] == wanted


def test_good_weights_put_back_train_as_if_nothing_had_happened():
    """After an overflow neither the rule's memory nor the room between the arrays remembers it."""
    x, y = numbers()
    wanted = small().train_steps(x, y, steps=20, reg=1e-2)
    model = small()
    good = model.state_dict()
    with pytest.raises(FloatingPointError), np.errstate(all="ignore"):
        for _ in range(20):
            model.params["affine1.w"] *= 1e30
            model.train_steps(x, y, steps=5, reg=1e-2)
    model._params[:] = np.nan  # the worst that a step could leave, the room included
    model.load_state_dict(good)
    model.steps_taken = 0
    assert model.train_steps(x, y, steps=20, reg=1e-2).tobytes() == wanted.tobytes()


def test_scores_that_are_not_finite_are_explained():
    model = small()
    x, _ = numbers()
    model.params["affine2.b"][1] = np.nan
    with pytest.raises(FloatingPointError, match="^the scores are not finite because affine2.b holds a NaN"):
        model.predict(x)
    with pytest.raises(ValueError, match="^X holds a NaN, first in example 3; remove or replace it"):
        small().predict(np.where(np.arange(30)[:, None] == 3, np.nan, x))


def test_steps_and_indices_exclude_each_other():
    x, y = numbers()
    with pytest.raises(
        ValueError, match="^steps goes without indices, whose rows are the steps; got steps=2 and indices$"
    ):
        small().train_steps(x, y, steps=2, indices=[[0, 1]])


def test_without_the_jit_the_sentence_says_what_to_do():
    code = "import nbnn; nbnn.compile(nbnn.Graph([nbnn.Affine(2)], input=3)).predict([[1.0, 2, 3]])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert found.stderr.strip().endswith(
        'RuntimeError: NUMBA_DISABLE_JIT is set, so nothing can be compiled; use backend="numpy" instead'
    )


# ---- augmentation


def moved(backend, seed=0, shift=2, flip=True, count=64):
    """What a training step makes of pictures whose places are numbered: the gradient of a weight on each place."""
    graph = Graph([Augment(shift, flip=flip), Affine(1, bias=False, init="zeros")], input=(1, 5, 4), loss="mse")
    model = nbnn.compile(graph, backend=backend, seed=seed)
    x = np.arange(1, 21).reshape(1, 1, 5, 4) * np.ones((count, 1, 1, 1))
    found = []
    for n in range(count):  # one target of -1 at a time: the gradient is 2 / count times that example as it was seen
        y = np.zeros((count, 1))
        y[n] = -1
        found.append(model.loss(x, y)[1]["affine1.w"].reshape(5, 4) * count / 2)
    return np.round(found).astype(int), model


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_pictures_are_moved_and_mirrored(backend):
    """Each is one of the 2 * 25 that there can be, most of them come, and about half are mirrored."""
    picture = np.arange(1, 21).reshape(5, 4)
    wide = np.pad(picture, 2)
    there = {}
    for a in range(5):
        for b in range(5):
            cut = wide[a : a + 5, b : b + 4]
            there[cut.tobytes()] = "plain"
            there[cut[:, ::-1].copy().tobytes()] = "mirrored"
    found, model = moved(backend)
    kinds = [there[one.tobytes()] for one in found]
    assert len({one.tobytes() for one in found}) > 25
    assert 16 < kinds.count("mirrored") < 48
    assert {there[one.tobytes()] for one in moved(backend, flip=False)[0]} == {"plain"}
    x = np.arange(20.0).reshape(1, 1, 5, 4)
    model.params["affine1.w"] = np.eye(20, 1)
    assert model.loss(x)[0, 0] == 0 and model.loss(x + 1)[0, 0] == 1  # outside training pictures stay as they are


def test_moves_belong_to_the_seed_and_the_step():
    (a, model), (b, _), (c, _) = moved("numba"), moved("numpy"), moved("numba", seed=1)
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    x, y = np.arange(20.0).reshape(1, 1, 5, 4) * np.ones((8, 1, 1, 1)), np.ones((8, 1))
    before = model.loss(x, y)[1]["affine1.w"]
    model.steps_taken += 1
    assert not np.array_equal(model.loss(x, y)[1]["affine1.w"], before)


def test_a_picture_is_larger_than_its_move():
    with pytest.raises(
        nbnn.GraphError, match="^augment1: shift must be smaller than both sides of its 5x4 input, got 4$"
    ):
        Graph([Augment(), Affine(1)], input=(1, 5, 4), loss="mse")
    with pytest.raises(nbnn.GraphError, match="^augment1: Augment reads pictures"):
        Graph([Augment(), Affine(1)], input=20, loss="mse")
