"""Random graphs and random data: compiled nets are the reference, gradients are those of differences, files and plain
data bring back what they were made of, and the form in which numbers are handed over changes nothing."""

import json
import pathlib
import signal
import tempfile
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from soak import tell, times
from strategies import graphs, often, whole, without_shrinking
from training import outcome

import nbnn
from nbnn import Affine, Conv, Dropout, Graph, ReLU, Solver, check
from nbnn.model import Model
from nbnn.rules import DEFAULTS

SEEDS = whole(0, 2**63 - 1)
DTYPES = st.sampled_from(["float32", "float64"])


def data_for(graph: Graph, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random examples and targets."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *graph.input)).astype(np.float32)
    if graph.loss is not None and graph.loss.classifies:
        return x, rng.integers(0, graph.output_shape[0], count)
    return x, rng.standard_normal((count, *graph.output_shape)).astype(np.float32)


def bits(*arrays: Any) -> bytes:
    """The bytes of arrays, numbers and dicts of arrays."""
    return b"".join(bits(*a.values()) if isinstance(a, dict) else np.asarray(a).tobytes() for a in arrays)


# ---- gradients


def demand_right(model: Model, batch: int) -> check.Report:
    """Verify, on other data too where that fails: a difference may step over the kink of a relu or of a maximum, which
    is bad luck, but a gradient that is wrong is wrong for any data. Parameters are moved first: biases of exactly 0
    can put a relu exactly on its kink."""
    rng = np.random.default_rng(model.seed)
    for value in model.params.values():
        value += 0.1 * rng.standard_normal(value.shape)
    try:
        return model.verify(batch=batch)
    except check.VerifyError:
        model.verify(batch=batch, seed=1)
        return model.verify(batch=batch, seed=2)


def test_gradients_of_random_graphs_are_those_of_differences():
    rows = 0

    @often(times(40, 2000))
    @given(graphs(), whole(1, 4), SEEDS)
    def right(graph: Graph, batch: int, seed: int) -> None:
        nonlocal rows
        report = demand_right(nbnn.compile(graph, dtype="float64", backend="numpy", seed=seed), batch)
        rows += sum(r.against == "differences" for r in report.rows)

    right()
    assert rows > times(40, 2000)
    tell("gradients of random graphs held to differences", rows)


def test_a_wrong_gradient_is_found(monkeypatch):
    loss = Model.loss

    def wrong(self: Model, X: Any, y: Any = None, **options: Any) -> Any:
        found = loss(self, X, y, **options)
        if y is not None:
            for name, gradient in found[1].items():
                gradient *= 1.001 if name.endswith(".w") else 1
        return found

    @often(60, phases=without_shrinking())
    @given(graphs(), whole(1, 4), SEEDS)
    def right(graph: Graph, batch: int, seed: int) -> None:
        demand_right(nbnn.compile(graph, dtype="float64", backend="numpy", seed=seed), batch)

    monkeypatch.setattr(Model, "loss", wrong)
    with pytest.raises(check.VerifyError, match="WRONG"):
        right()


# ---- compiled


def test_random_graphs_compiled_are_the_reference():
    """Scores, loss and gradients; equal bits for one thread and two, and out of a file."""
    nets, before = 0, numba.get_num_threads()

    @often(times(6, 200), phases=without_shrinking())
    @given(graphs(), whole(2, 5), SEEDS, DTYPES, st.sampled_from(["auto", "direct"]))
    def right(graph: Graph, batch: int, seed: int, dtype: str, algorithm: str) -> None:
        nonlocal nets
        model = nbnn.compile(graph, dtype=dtype, seed=seed, algorithm=algorithm)
        demand_right(model, batch)
        x, y = data_for(graph, batch)
        start, found = model.state_dict(), []
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            model.load_state_dict(start)
            found.append(bits(*model.loss(x, y), model.loss(x)))
        assert set(found) == {found[0]}
        if algorithm == "auto":
            assert bits(back(model).loss(x)) == bits(model.loss(x))
        nets += 1

    try:
        right()
    finally:
        numba.set_num_threads(before)
    tell("random graphs compiled and held to the reference", nets)


# ---- there and back


def back(model: Model) -> Model:
    """The model out of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "net.safetensors")
        model.save(path)
        return nbnn.load(path, backend=model.backend)


def test_a_model_out_of_a_file_is_the_model_that_went_in():
    models = 0

    @often(times(60, 2000))
    @given(graphs(), SEEDS, DTYPES, whole(1, 4), whole(0, 3))
    def same(graph: Graph, seed: int, dtype: str, batch: int, steps: int) -> None:
        nonlocal models
        model = nbnn.compile(graph, dtype=dtype, seed=seed, backend="numpy")
        x, y = data_for(graph, batch)
        sgd = {"update_rule": "sgd", "optim_config": {"learning_rate": 1e-4}}  # sgd remembers nothing
        for _ in range(steps):
            model.train_steps(x, y, **sgd)
        twin = back(model)
        assert (twin.graph, twin.dtype, twin.seed, twin.steps_taken) == (graph, dtype, seed, steps)
        assert twin.state_dict().keys() == model.state_dict().keys()
        assert bits(twin.state_dict()) == bits(model.state_dict())
        found = [bits(m.loss(x), *m.loss(x, y), m.train_steps(x, y, **sgd), m.state_dict()) for m in (model, twin)]
        assert found[0] == found[1]
        models += 1

    same()
    tell("random models out of a file", models)


TRAININGS = st.fixed_dictionaries(
    {
        "update_rule": st.sampled_from(list(DEFAULTS)),
        "optim_config": st.sampled_from([{"learning_rate": 1e-4}, {"learning_rate": 0.03}]),
        "lr_decay": st.sampled_from([1.0, 0.5]),
        "schedule": st.sampled_from([None, "cosine"]),
        "sampling": st.sampled_from(["replacement", "epoch"]),
        "clip": st.sampled_from([0.0, 1.0]),
        "reg": st.sampled_from([0.0, 0.01]),
        "batch_size": whole(1, 6),
        "num_epochs": whole(2, 4),
        "seed": SEEDS,
        "num_train_samples": st.sampled_from([None, 3]),
    }
)


def with_parameters(graph: Graph) -> Graph:
    """A graph that has none gets some."""
    if any(node.params(*graph.input_shapes(node)) for node in graph.nodes):
        return graph
    return Graph([*graph.given, Affine(3)], input=graph.input, loss=graph.loss)


def watched(model: Model, data: dict[str, Any], stop: int = 0, **options: Any) -> tuple[Solver, list[str], list[bytes]]:
    """A Solver that Ctrl-C stops at that iteration; its lines, and what there is at each measurement."""
    lines: list[str] = []
    measured: list[bytes] = []

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith(f"(Iteration {stop} /"):
            signal.raise_signal(signal.SIGINT)

    def measure(s: Solver) -> None:
        measured.append(bits(s.iteration, s.weights(), s.trainee.memory(), s.trainee.counts()))

    settings = {"log": log, "callbacks": [measure], "print_every": 1, "progress": False, "on_nan": "skip"}
    return Solver(model, data, **settings, **options), lines, measured


def how_it_ended(solver: Solver) -> str:
    """Random nets may grow beyond all numbers; then both say so, in the same words."""
    try:
        solver.train()
    except FloatingPointError as problem:
        return str(problem)
    return "well"


def test_a_training_that_goes_on_from_a_checkpoint_is_the_one_that_was_never_stopped():
    """Weights and the rule's memory at each measurement, the best weights, histories, printed lines. Some
    graphs have no parameters: their histories are to be the same."""
    resumed = moved = 0  # trainings; those whose parameters are not as they were drawn

    @often(times(20, 500))
    @given(st.data(), graphs() | graphs().map(with_parameters), SEEDS, DTYPES, TRAININGS, whole(6, 12))
    def same(data: Any, graph: Graph, seed: int, dtype: str, options: dict[str, Any], count: int) -> None:
        nonlocal resumed, moved
        arrays = (*data_for(graph, count), *data_for(graph, 5, 1))
        examples = dict(zip(("X_train", "y_train", "X_val", "y_val"), arrays, strict=True))

        def solver(**more: Any) -> tuple[Solver, list[str], list[bytes]]:
            return watched(nbnn.compile(graph, dtype=dtype, seed=seed, backend="numpy"), examples, **options, **more)

        undisturbed, lines, measured = solver()
        start = bits(dict(undisturbed.model.params))
        end = how_it_ended(undisturbed)
        assume(undisturbed.iteration > 1)
        with tempfile.TemporaryDirectory() as folder:
            first, before, _ = solver(checkpoint=folder, stop=data.draw(whole(1, undisturbed.iteration - 1)))
            first.train()
            assert before[-1].startswith("Stopped by Ctrl-C after iteration ")
            second, after, again = solver(checkpoint=folder)
            assert second.resume() and second.iteration == first.iteration
            assert how_it_ended(second) == end
        assert outcome(second) == outcome(undisturbed)
        assert [line for line in before + after if line[0] == "("] == lines
        assert again and again == measured[-len(again) :]
        resumed += 1
        moved += start != bits(dict(undisturbed.model.params))

    same()
    assert moved >= times(20, 500) / 2
    tell("trainings of random graphs that went on from a checkpoint to the same bits", resumed)
    tell("trainings of random graphs whose parameters moved", moved)


def test_a_graph_out_of_plain_data_is_the_graph_that_went_in():
    seen = 0

    @often(times(200, 5000))
    @given(graphs(losses=("softmax", nbnn.Softmax(0.25), "svm", "mse", None)))
    def same(graph: Graph) -> None:
        nonlocal seen
        plain = graph.to_dict()
        again = Graph.from_dict(json.loads(json.dumps(plain)))
        assert again == graph and hash(again) == hash(graph) and again.shapes == graph.shapes
        assert again.to_dict() == plain
        assert eval(repr(graph), vars(nbnn)) == graph
        seen += 1

    same()
    tell("random graphs out of plain data", seen)


# ---- the form in which numbers come

PICTURES = Graph([Conv(4, 3, pad=1), ReLU(), Dropout(0.2), Affine(3)], input=(2, 3, 4), loss="softmax")
VECTORS = Graph([Affine(5), ReLU(), Affine(3)], input=(7,), loss="softmax")


@st.composite
def strided(draw: Any, plain: np.ndarray) -> np.ndarray:
    """The same numbers at other places of memory: any order of axes, steps forwards and backwards, odd addresses."""
    order = draw(st.permutations(range(plain.ndim)))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in order]
    room = np.zeros([1 + (plain.shape[a] - 1) * abs(s) for a, s in zip(order, steps, strict=True)], plain.dtype)
    if draw(st.booleans()):
        room = np.zeros(room.nbytes + 1, np.uint8)[1:].view(plain.dtype).reshape(room.shape)
    view = room[tuple(slice(None, None, s) for s in steps)].transpose(np.argsort(order))
    view[...] = plain
    if draw(st.booleans()):
        view.flags.writeable = False
    return view


@st.composite
def forms(draw: Any, plain: np.ndarray, kinds: str = "fiu") -> Any:
    """The same whole numbers of 0 to 100 in another dtype, byte order and memory; as a list, or mapped from a file."""
    dtypes = {"f": ["f2", "f4", "f8"], "i": ["i1", "i2", "i4", "i8"], "u": ["u1", "u2", "u4", "u8"]}
    dtype = draw(st.sampled_from([d for kind in kinds for d in dtypes[kind]]))
    array = plain.astype(draw(st.sampled_from("<>")) + dtype)
    way = draw(st.sampled_from(["strided", "strided", "strided", "list", "tuple of arrays", "Fortran", "map"]))
    if way == "strided":
        return draw(strided(array))
    if way == "map":
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(draw(whole(0, 200))) + array.tobytes())
            file.flush()
            offset = file.tell() - array.nbytes
            return np.memmap(file.name, array.dtype, draw(st.sampled_from(["r", "c"])), offset, array.shape)
    return {"list": array.tolist(), "tuple of arrays": tuple(array), "Fortran": np.asfortranarray(array)}[way]


@pytest.fixture(params=["numba", "numpy"])
def models(request):
    return [nbnn.compile(graph, backend=request.param) for graph in (PICTURES, VECTORS)]


def test_the_form_of_numbers_changes_no_bit(models):
    start, seen = [model.state_dict() for model in models], 0

    def answers(k: int, x: Any, y: Any, rows: Any) -> bytes:
        model = models[k]
        model.load_state_dict(start[k])
        model.steps_taken = 0
        losses = model.train_steps(x, y, indices=rows, update_rule="sgd")
        return bits(model.loss(x), *model.loss(x, y), losses, model.predict_proba(x), model.state_dict())

    @often(times(100, 3000))
    @given(st.data(), whole(0, 1), whole(1, 6))
    def same(data: Any, k: int, count: int) -> None:
        nonlocal seen
        shape = (count, *models[k].graph.input)
        x = data.draw(hnp.arrays(np.float32, shape, elements=whole(0, 100)))
        y = data.draw(hnp.arrays(np.int64, count, elements=whole(0, 2)))
        rows = data.draw(hnp.arrays(np.int64, (2, 3), elements=whole(0, count - 1)))
        given_x, given_y, given_rows = data.draw(forms(x)), data.draw(forms(y, "iu")), data.draw(forms(rows, "iu"))
        before = np.array(given_x)
        assert answers(k, given_x, given_y, given_rows) == answers(k, x, y, rows)
        assert np.array_equal(before, given_x)
        seen += 1

    same()
    tell(f"random forms of numbers, {models[0].backend}", seen)
