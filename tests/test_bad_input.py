"""What is said when a model is used wrongly: the whole sentence, word for word."""

from types import SimpleNamespace

import numpy as np
import pytest
from soak import tell

import nbnn
from nbnn import Affine, Conv, Graph, ReLU
from nbnn import model as model_module
from nbnn.lower import lower

N = 6
PICTURES = Graph([Conv(3, 3), ReLU(), Affine(4)], input=(2, 5, 4), loss="softmax")
VECTORS = Graph([Affine(7), ReLU(), Affine(3)], input=(5,), loss="softmax")
NUMBERS = Graph(VECTORS.given, input=5, loss="mse")
NO_LOSS = Graph(VECTORS.given, input=5)


def compiled(graph, **options):
    return nbnn.compile(graph, **{"backend": "numpy", **options})


@pytest.fixture
def use():
    """Models, examples and labels that are right, for the rows below to spoil."""
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        pictures=compiled(PICTURES),
        vectors=compiled(VECTORS),
        numbers=compiled(NUMBERS),
        no_loss=compiled(NO_LOSS),
        x=rng.standard_normal((N, 2, 5, 4)),
        y=rng.integers(0, 4, N),
        v=rng.standard_normal((N, 5)),
        k=np.array([0, 1, 2, 0, 1, 2]),
        t=rng.standard_normal((N, 3)),
        rows=rng.integers(0, N, (2, 3)),
    )


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def read(path, name, value):
    """A row for params: the assignment of one value."""
    return lambda u: getattr(u.vectors, path).__setitem__(name, value)


def remove(arrays, name):
    del arrays[name]


X_WANTED = "X must have shape (N, 2, 5, 4), got "
ADAM_HAS = "it has learning_rate, beta1, beta2, epsilon"
RULES = "sgd, sgd_momentum, sgd_nesterov_momentum, rmsprop, adam, adamw, lion"
NO_LOSS_TEXT = (
    "this graph has no loss, so it can only predict; "
    'build it with loss="softmax", "svm" or "mse" to train it'
)  # fmt: skip
NEEDS_CLASSES = "predict_proba needs a net with the softmax or the svm loss; predict gives the output itself"
LOST = "remove or replace it, for instance with np.nan_to_num"
RAGGED = [[1.0], [1.0, 2.0]]
MASKED = np.ma.array(np.zeros((N, 5)), mask=np.eye(N, 5))

# what is done, the type of the error, and the whole of what it says
ROWS = {
    # ---- examples
    "no batch dimension": (
        lambda u: u.pictures.loss(u.x[0]),
        ValueError,
        X_WANTED + "(2, 5, 4); add the batch dimension: X[None]",
    ),
    "no batch dimension of a vector": (
        lambda u: u.vectors.loss(u.v[0]),
        ValueError,
        "X must have shape (N, 5), got (5,); add the batch dimension: X[None]",
    ),
    "channels last": (
        lambda u: u.pictures.predict(u.x.transpose(0, 2, 3, 1)),
        ValueError,
        X_WANTED + "(6, 5, 4, 2); channels come first: X.transpose(0, 3, 1, 2)",
    ),
    "flattened pictures": (
        lambda u: u.pictures.predict_proba(u.x.reshape(N, -1)),
        ValueError,
        X_WANTED + "(6, 40); give the examples their shape: X.reshape(-1, 2, 5, 4)",
    ),
    "pictures for a net of vectors": (
        lambda u: u.vectors.train_steps(u.v.reshape(N, 5, 1, 1), u.k),
        ValueError,
        "X must have shape (N, 5), got (6, 5, 1, 1); flatten the examples: X.reshape(len(X), -1)",
    ),
    "another number of features": (
        lambda u: u.vectors.evaluate(u.v[:, :4], u.k),
        ValueError,
        "X must have shape (N, 5), got (6, 4)",
    ),
    "another size of pictures": (lambda u: u.pictures.loss(u.x[:, :, :4], u.y), ValueError, X_WANTED + "(6, 2, 4, 4)"),
    "a number for X": (lambda u: u.pictures.loss(3.0), ValueError, X_WANTED + "()"),
    "an empty list": (lambda u: u.pictures.loss([]), ValueError, X_WANTED + "(0,)"),
    "an empty batch": (
        lambda u: u.pictures.loss(u.x[:0], u.y[:0]),
        ValueError,
        "X holds no example: its shape is (0, 2, 5, 4); an empty batch cannot be computed on",
    ),
    "objects": (
        lambda u: u.vectors.loss(u.v.astype(object)),
        TypeError,
        "X must hold real numbers, got dtype object",
    ),
    "nothing": (lambda u: u.vectors.loss(None), TypeError, "X must hold real numbers, got dtype object"),
    "texts": (lambda u: u.vectors.loss([["a"] * 5]), TypeError, "X must hold real numbers, got dtype <U1"),
    "complex numbers": (
        lambda u: u.vectors.loss(u.v + 1j),
        TypeError,
        "X must hold real numbers, got dtype complex128",
    ),
    "dates": (
        lambda u: u.vectors.loss(u.v.astype("datetime64[s]")),
        TypeError,
        "X must hold real numbers, got dtype datetime64[s]",
    ),
    "masked examples": (
        lambda u: u.vectors.loss(MASKED),
        TypeError,
        "X is a masked array; fill its gaps first: X.filled(0)",
    ),
    "ragged examples": (
        lambda u: u.vectors.loss(RAGGED),
        ValueError,
        "X is a list of rows of different lengths; make them equally long",
    ),
    # ---- labels
    "too few labels": (
        lambda u: u.vectors.loss(u.v, u.k[:-1]),
        ValueError,
        "y must have one label for each of the 6 examples, got shape (5,)",
    ),
    "a column of labels": (
        lambda u: u.vectors.loss(u.v, u.k[:, None]),
        ValueError,
        "y must have shape (6,), got (6, 1); use y.ravel()",
    ),
    "one-hot labels": (
        lambda u: u.vectors.train_steps(u.v, np.eye(3)[u.k]),
        ValueError,
        "y must have one label for each of the 6 examples, got shape (6, 3); "
        "turn one-hot rows into class numbers: y.argmax(axis=1)",
    ),
    "a label for all": (
        lambda u: u.vectors.loss(u.v, 1),
        ValueError,
        "y must have one label for each of the 6 examples, got shape ()",
    ),
    "labels as floats": (
        lambda u: u.vectors.evaluate(u.v, u.k.astype(float)),
        TypeError,
        "y must hold class numbers of an integer dtype, got float64; use y.astype(int)",
    ),
    "labels as bools": (
        lambda u: u.vectors.loss(u.v, u.k > 0),
        TypeError,
        "y must hold class numbers of an integer dtype, got bool; use y.astype(int)",
    ),
    "labels as texts": (
        lambda u: u.vectors.loss(u.v, list("abcabc")),
        TypeError,
        "y must hold class numbers of an integer dtype, got <U1",
    ),
    "masked labels": (
        lambda u: u.vectors.loss(u.v, np.ma.array(u.k, mask=u.k == 1)),
        TypeError,
        "y is a masked array; leave its gaps out first",
    ),
    "ragged labels": (
        lambda u: u.vectors.loss(u.v, RAGGED),
        ValueError,
        "y is a list of rows of different lengths; make them equally long",
    ),
    "a negative label": (
        lambda u: u.vectors.loss(u.v, changed(u.k, 4, -1)),
        IndexError,
        "y holds the label -1 (first in example 4), but the net has the 3 classes 0 to 2",
    ),
    "a label that is too large": (
        lambda u: u.vectors.train_steps(u.v, changed(u.k, 3, 255)),
        IndexError,
        "y holds the label 255 (first in example 3), but the net has the 3 classes 0 to 2",
    ),
    "classes counted from 1": (
        lambda u: u.vectors.evaluate(u.v, u.k + 1),
        IndexError,
        "y holds the label 3 (first in example 2), but the net has the 3 classes 0 to 2; classes count from 0",
    ),
    "a label beyond any integer": (
        lambda u: u.vectors.loss(u.v, changed(u.k.astype(np.uint64), 1, 2**64 - 1)),
        IndexError,
        "y holds the label 18446744073709551615 (first in example 1), but the net has the 3 classes 0 to 2",
    ),
    # ---- targets that are numbers
    "targets of another shape": (
        lambda u: u.numbers.loss(u.v, u.t[:, :2]),
        ValueError,
        "y must have the shape of the output, (6, 3), got (6, 2)",
    ),
    "flat targets": (
        lambda u: u.numbers.train_steps(u.v, u.t.ravel()),
        ValueError,
        "y must have the shape of the output, (6, 3), got (18,); use y.reshape(6, -1)",
    ),
    "labels for mse": (
        lambda u: u.numbers.loss(u.v, u.k),
        ValueError,
        "y must have the shape of the output, (6, 3), got (6,)",
    ),
    "texts as targets": (
        lambda u: u.numbers.loss(u.v, [["a"] * 3] * 6),
        TypeError,
        "y must hold real numbers, got dtype <U1",
    ),
    "a NaN among the targets": (
        lambda u: u.numbers.train_steps(u.v, changed(u.t, (5, 1), np.nan)),
        ValueError,
        f"y holds a NaN, first in example 5; {LOST}",
    ),
    # ---- indices and steps
    "one row of indices": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=[0, 1]),
        ValueError,
        "indices must be a two-dimensional array of integers, one row for each minibatch, got shape (2,) of int64",
    ),
    "indices as floats": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=u.rows / 1),
        ValueError,
        "indices must be a two-dimensional array of integers, one row for each minibatch, got shape (2, 3) of float64",
    ),
    "a mask for indices": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=u.rows > 2),
        ValueError,
        "indices must be a two-dimensional array of integers, one row for each minibatch, got shape (2, 3) of bool",
    ),
    "no indices": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=np.zeros((2, 0), int)),
        ValueError,
        "indices must be a two-dimensional array of integers, one row for each minibatch, got shape (2, 0) of int64",
    ),
    "ragged indices": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=[[1], [1, 2]]),
        ValueError,
        "indices is a list of rows of different lengths; make them equally long",
    ),
    "an index too large": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=[[0, 6]]),
        IndexError,
        "indices name example 6, but there are the 6 examples 0 to 5",
    ),
    "a negative index": (
        lambda u: u.vectors.train_steps(u.v, u.k, indices=[[0, -1]]),
        IndexError,
        "indices name example -1, but there are the 6 examples 0 to 5",
    ),
    "no steps": (
        lambda u: u.vectors.train_steps(u.v, u.k, steps=0),
        ValueError,
        "steps must be a whole number of at least 1, got 0",
    ),
    "half a step": (
        lambda u: u.vectors.train_steps(u.v, u.k, steps=0.5),
        ValueError,
        "steps must be a whole number of at least 1, got 0.5",
    ),
    "negative reg": (
        lambda u: u.vectors.train_steps(u.v, u.k, reg=-0.1),
        ValueError,
        "reg must be a number of at least 0, got -0.1",
    ),
    "reg that is no number": (
        lambda u: u.vectors.loss(u.v, u.k, reg=np.nan),
        ValueError,
        "reg must be a number of at least 0, got nan",
    ),
    "reg as text": (
        lambda u: u.vectors.loss(u.v, u.k, reg="0.1"),
        ValueError,
        "reg must be a number of at least 0, got '0.1'",
    ),
    "endless clip": (
        lambda u: u.vectors.train_steps(u.v, u.k, clip=float("inf")),
        ValueError,
        "clip must be a number of at least 0, got inf",
    ),
    "clip for yes": (
        lambda u: u.vectors.train_steps(u.v, u.k, clip=True),
        ValueError,
        "clip must be a number of at least 0, got True",
    ),
    # ---- rules
    "a misspelt rule": (
        lambda u: u.vectors.train_steps(u.v, u.k, update_rule="addam"),
        ValueError,
        "there is no update rule 'addam'; did you mean 'adam'?",
    ),
    "an unknown rule": (
        lambda u: u.vectors.train_steps(u.v, u.k, update_rule="newton"),
        ValueError,
        f"there is no update rule 'newton'; there are {RULES}",
    ),
    "a rule that is no name": (
        lambda u: u.vectors.train_steps(u.v, u.k, update_rule=["adam"]),
        ValueError,
        "there is no update rule ['adam']; did you mean 'adam'?",
    ),
    "a misspelt setting": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config={"learning_rat": 1}),
        ValueError,
        "adam has no setting 'learning_rat'; did you mean 'learning_rate'?",
    ),
    "a setting of another rule": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config={"momentum": 0.9}),
        ValueError,
        f"adam has no setting 'momentum'; {ADAM_HAS}",
    ),
    "a setting that is no name": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config={1: 2}),
        ValueError,
        f"adam has no setting 1; {ADAM_HAS}",
    ),
    "settings that are no dict": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config=0.01),
        TypeError,
        "optim_config must be a dict of settings, got float",
    ),
    "a momentum of 1": (
        lambda u: u.vectors.train_steps(u.v, u.k, update_rule="sgd_momentum", optim_config={"momentum": 1}),
        ValueError,
        "sgd_momentum: momentum must be a number of at least 0 and below 1, got 1",
    ),
    "a negative learning rate": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config={"learning_rate": -1e-3}),
        ValueError,
        "adam: learning_rate must be a number of at least 0, got -0.001",
    ),
    "a learning rate as text": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config={"learning_rate": "1e-3"}),
        ValueError,
        "adam: learning_rate must be a number of at least 0, got '1e-3'",
    ),
    "a NaN for a setting": (
        lambda u: u.vectors.train_steps(u.v, u.k, optim_config={"epsilon": float("nan")}),
        ValueError,
        "adam: epsilon must be a number of at least 0, got nan",
    ),
    # ---- what the graph cannot do
    "loss without a loss": (lambda u: u.no_loss.loss(u.v, u.k), ValueError, NO_LOSS_TEXT),
    "steps without a loss": (lambda u: u.no_loss.train_steps(u.v, u.k), ValueError, NO_LOSS_TEXT),
    "evaluate without a loss": (lambda u: u.no_loss.evaluate(u.v, u.k), ValueError, NO_LOSS_TEXT),
    "probabilities without a loss": (lambda u: u.no_loss.predict_proba(u.v), ValueError, NEEDS_CLASSES),
    "probabilities of mse": (lambda u: u.numbers.predict_proba(u.v), ValueError, NEEDS_CLASSES),
    # ---- compile
    "a list for a graph": (
        lambda u: nbnn.compile([Affine(3)]),
        TypeError,
        "compile takes a Graph, got list; build one with nbnn.Graph([...], input=..., loss=...)",
    ),
    "float16": (
        lambda u: compiled(VECTORS, dtype="float16"),
        ValueError,
        "dtype must be one of 'float32', 'float64', got 'float16'",
    ),
    "big-endian float32": (
        lambda u: compiled(VECTORS, dtype=">f4"),
        ValueError,
        "dtype must be one of 'float32', 'float64', got '>f4'",
    ),
    "no dtype": (
        lambda u: compiled(VECTORS, dtype=None),
        ValueError,
        "dtype must be one of 'float32', 'float64', got None",
    ),
    "an unknown dtype": (
        lambda u: compiled(VECTORS, dtype="(2,f4"),
        ValueError,
        "dtype must be one of 'float32', 'float64', got '(2,f4'",
    ),
    "an unknown backend": (
        lambda u: compiled(VECTORS, backend="torch"),
        ValueError,
        "backend must be one of 'numba', 'numpy', got 'torch'",
    ),
    "an unknown algorithm": (
        lambda u: compiled(VECTORS, algorithm="fast"),
        ValueError,
        "algorithm must be one of 'auto', 'direct', got 'fast'",
    ),
    "a negative seed": (
        lambda u: compiled(VECTORS, seed=-1),
        ValueError,
        "seed must be a whole number of at least 0 and below 2**63, got -1",
    ),
    "too large a seed": (
        lambda u: compiled(VECTORS, seed=2**63),
        ValueError,
        "seed must be a whole number of at least 0 and below 2**63, got 9223372036854775808",
    ),
    "no seed": (
        lambda u: compiled(VECTORS, seed=None),
        ValueError,
        "seed must be a whole number of at least 0 and below 2**63, got None",
    ),
    "a broken seed": (
        lambda u: compiled(VECTORS, seed=0.5),
        ValueError,
        "seed must be a whole number of at least 0 and below 2**63, got 0.5",
    ),
    "an empty minibatch": (
        lambda u: compiled(VECTORS, batch=0),
        ValueError,
        "batch must be a whole number of at least 1, got 0",
    ),
    "a batch as text": (
        lambda u: compiled(VECTORS, batch="all"),
        ValueError,
        "batch must be a whole number of at least 1, got 'all'",
    ),
    # ---- parameters
    "a misspelt parameter": (
        lambda u: u.vectors.params["affine1.W"],
        KeyError,
        "there is no 'affine1.W'; did you mean 'affine1.w'?",
    ),
    "an unknown parameter": (
        lambda u: u.vectors.params["x"],
        KeyError,
        "there is no 'x'; there are affine1.w, affine1.b, affine2.w, affine2.b",
    ),
    "a new parameter": (
        read("params", "affine3.w", np.zeros(3)),
        KeyError,
        "there is no 'affine3.w'; did you mean 'affine2.w'?",
    ),
    "a parameter of another shape": (
        read("params", "affine1.w", np.zeros((7, 5))),
        ValueError,
        "affine1.w must keep its shape (5, 7), got (7, 5)",
    ),
    "a number for an array": (
        read("params", "affine1.b", 0.0),
        ValueError,
        "affine1.b must keep its shape (7,), got ()",
    ),
    "complex weights": (
        read("params", "affine1.b", np.zeros(7, complex)),
        TypeError,
        "affine1.b must be an array of real numbers, got ndarray of dtype complex128",
    ),
    "bools for weights": (
        read("params", "affine1.b", np.zeros(7, bool)),
        TypeError,
        "affine1.b must be an array of real numbers, got ndarray of dtype bool",
    ),
    "masked weights": (
        read("params", "affine1.b", np.ma.zeros(7)),
        TypeError,
        "affine1.b must be an array of real numbers, got MaskedArray of dtype float64",
    ),
    "text for weights": (
        read("params", "affine1.w", "zeros"),
        TypeError,
        "affine1.w must be an array of real numbers, got str",
    ),
    "nothing for weights": (
        read("params", "affine1.w", None),
        TypeError,
        "affine1.w must be an array of real numbers, got NoneType",
    ),
    "ragged weights": (
        read("params", "affine1.w", RAGGED),
        TypeError,
        "affine1.w must be an array of real numbers, got list",
    ),
    "a parameter removed": (
        lambda u: remove(u.vectors.params, "affine1.w"),
        TypeError,
        "affine1.w cannot be removed: the arrays of a model are those of its graph",
    ),
    "arrays of another net": (
        lambda u: u.vectors.load_state_dict({"affine1.w": np.zeros((5, 8)), "affine1.b": np.zeros(7), "c": 1}),
        ValueError,
        "these arrays do not fit the graph: affine2.w is missing; affine2.b is missing; c is unknown; "
        "affine1.w must keep its shape (5, 7), got (5, 8)",
    ),
    "a list of arrays": (
        lambda u: u.vectors.load_state_dict([1, 2]),
        TypeError,
        "load_state_dict takes a dict of arrays by name, got list",
    ),
}


def told(error):
    """What an error says; str of a KeyError would quote it."""
    return error.args[0] if isinstance(error, KeyError) else str(error)


def assert_told(caught, kind, text):
    assert type(caught.value) is kind
    assert told(caught.value) == text
    assert "numba" not in text.lower().replace("'numba'", "")  # but as the name of a backend
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # nothing else is shown before it


@pytest.mark.parametrize("name", ROWS)
def test_bad_use_gets_a_plain_sentence(use, name):
    action, kind, text = ROWS[name]
    before = [getattr(use, m).state_dict() for m in ("pictures", "vectors", "numbers", "no_loss")]
    with pytest.raises(Exception) as caught:
        action(use)
    assert_told(caught, kind, text)
    after = [getattr(use, m).state_dict() for m in ("pictures", "vectors", "numbers", "no_loss")]
    for old, new in zip(before, after, strict=True):  # and nothing was changed
        assert all(np.array_equal(old[key], new[key]) for key in old)


def test_the_table_is_long():
    assert len(ROWS) >= 80
    tell("bad uses that get an exact sentence, models and data", len(ROWS))


def test_the_same_uses_are_fine_when_they_are_right(use):
    """So that no row above fails for another reason than the one that it is about."""
    for model, x, y in (
        (use.pictures, use.x, use.y),
        (use.vectors, use.v, use.k),
        (use.numbers, use.v, use.t),
    ):
        model.loss(x)
        model.loss(x, y, reg=0.1)
        model.evaluate(x, y)
        model.train_steps(x, y, indices=use.rows, reg=0.1, clip=1.0, optim_config={"learning_rate": 1e-3})
        model.load_state_dict(model.state_dict())
    use.vectors.predict_proba(use.v)
    use.no_loss.predict(use.v)
    compiled(VECTORS, dtype="float64", algorithm="direct", seed=2**63 - 1, batch=3)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "a NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")])
def test_examples_that_are_not_finite_are_named(use, backend, value, what):
    model = compiled(VECTORS, backend=backend)
    before = model.state_dict()
    x = changed(use.v, (4, 2), value)
    for train in (model.loss, model.train_steps):
        with pytest.raises(Exception) as caught:
            train(x, use.k)
        assert_told(caught, ValueError, f"X holds {what}, first in example 4; {LOST}")
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.steps_taken == 0


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_learning_rate_that_is_too_high_ends_the_training(use, backend):
    def fresh():
        return compiled(VECTORS, backend=backend)

    settings = {"update_rule": "adam", "optim_config": {"learning_rate": 1e25}}  # adam's steps are as long as its rate
    model = fresh()
    with pytest.raises(Exception) as caught:
        model.train_steps(use.v, use.k, steps=50, **settings)
    taken = model.steps_taken
    assert 0 < taken < 50
    assert_told(
        caught,
        FloatingPointError,
        f"the loss is nan at step {taken + 1} of this call, beginning with the output of affine2; the parameters are "
        "those of the step before; lower the learning rate, clip the gradient or scale the data",
    )
    assert all(np.isfinite(value).all() for value in model.params.values())
    again = fresh()
    again.train_steps(use.v, use.k, steps=taken, **settings)
    assert all(np.array_equal(value, again.params[name]) for name, value in model.params.items())


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_spoilt_weights_are_named(use, backend):
    model = compiled(VECTORS, backend=backend)
    model.params["affine2.b"] = [0, np.nan, 0]
    for train in (model.loss, model.train_steps):
        with pytest.raises(Exception) as caught:
            train(use.v, use.k)
        assert_told(
            caught,
            FloatingPointError,
            "the loss is nan because affine2.b holds a NaN or an infinity; put good weights back, and if a step has "
            "spoilt these, lower the learning rate or clip the gradient",
        )


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_numbers_beyond_the_dtype_are_no_fault_of_a_learning_rate(use, backend):
    model = compiled(VECTORS, backend=backend)
    with pytest.raises(Exception) as caught:
        model.loss(1e300 * use.v, use.k)
    assert_told(
        caught,
        FloatingPointError,
        "the loss is nan, beginning with the input as float32, though the data and the parameters are finite: the net "
        "multiplies them beyond what float32 can hold; scale the data or make the weights smaller",
    )


def test_a_batch_that_needs_more_memory_than_there_is(use, monkeypatch):
    model = compiled(VECTORS, batch=4)
    wanted = model.loss(use.v[:4])
    example = model.lowered.sizes["acts"] * 4

    def full(elements, dtype):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(model_module, "arena", full)
        with pytest.raises(Exception) as caught:
            model.loss(use.v, use.k)
    needed = 6 * example / 2**30
    assert_told(
        caught,
        MemoryError,
        f"a batch of 6 needs {needed:.1f} GiB for activations and gradients; use a smaller batch",
    )
    assert model.loss(use.v[:4]).tobytes() == wanted.tobytes()  # smaller batches still work
    assert model.loss(use.v, use.k)[0] > 0


@pytest.mark.parametrize("batch", [10**13, 10**18, 10**40])
def test_a_batch_that_no_machine_has_room_for(batch):
    with pytest.raises(Exception) as caught:
        compiled(VECTORS, batch=batch)
    needed = batch * compiled(VECTORS).lowered.sizes["acts"] * 4 / 2**30
    text = f"a batch of {batch} needs {needed:.1f} GiB for activations and gradients; use a smaller batch"
    assert_told(caught, MemoryError, text)


def test_a_net_that_no_machine_has_room_for():
    graph = Graph([Affine(2**44)], input=2, loss="softmax")
    with pytest.raises(Exception) as caught:
        compiled(graph)
    needed = sum(size for arena, size in lower(graph, lanes=1).sizes.items() if arena != "acts") * 4 / 2**30
    assert needed >= 2 * 4 * 2**44 * 3 / 2**30  # weights and biases, and their gradients
    assert_told(
        caught,
        MemoryError,
        f"this net needs {needed:.1f} GiB for its parameters, their gradients and scratch; "
        "make its widest nodes smaller",
    )
