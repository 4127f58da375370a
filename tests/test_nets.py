"""Whole nets: equal to their reference, right in their gradients, and the same bits for any number of threads."""

import os
import pathlib
import subprocess
import sys
import textwrap

import kept
import numba
import numpy as np
import pytest
from nets import NETS, ROWS, data, graph_of_row
from soak import times

import nbnn
from nbnn import Affine, BatchNorm, Conv, GlobalAvgPool, Graph, ReLU, Tanh, check, rules
from nbnn.lower import lower
from nbnn.ops import OPS


def test_the_nets_hold_every_op():
    used = {type(node).__name__ for net in NETS.values() for node in net.graph.nodes}
    assert used == set(OPS)


def test_every_op_has_a_row():
    assert {type(node).__name__ for nodes in ROWS.values() for node in nodes} == set(OPS)


@pytest.mark.parametrize("row", ROWS)
def test_the_gradients_of_an_op_are_right(row):
    """The reference's gradients against differences, in float64; the kernels are held to the reference elsewhere."""
    model = nbnn.compile(graph_of_row(row), dtype="float64", backend="numpy")
    report = model.verify(batch=3)
    assert {f"gradient of {n}" for n in ("stem.w", "affine1.w")} <= {
        r.what for r in report.rows if r.against == "differences"
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_a_net_equals_its_reference_and_numeric_gradients(name, dtype):
    model = nbnn.compile(NETS[name].graph, dtype=dtype)
    report = model.verify(batch=3)
    assert report.passed
    assert len(report.rows) > 2 + len(model.params)  # most gradients are also held to differences


@pytest.mark.parametrize("slip", ["a slip of 0.1%", "a NaN", "a zero"])
@pytest.mark.parametrize("array", ["conv1.w", "bn1.gamma", "affine1.b"])
def test_verify_rejects_a_planted_slip(monkeypatch, slip, array):
    model = nbnn.compile(NETS["convnet"].graph)
    loss = type(model).loss

    def wrong(self, X, y=None, **options):
        found = loss(self, X, y, **options)
        if y is not None and self is model:
            gradient = found[1][array]
            worst = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
            gradient[worst] = {"a slip of 0.1%": gradient[worst] * 1.001, "a NaN": np.nan, "a zero": 0.0}[slip]
        return found

    monkeypatch.setattr(type(model), "loss", wrong)
    with pytest.raises(check.VerifyError, match="WRONG"):
        model.verify(batch=3)


def test_a_directional_difference_rejects_a_slip():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20)
    gradient = 4 * x**3
    assert check.directional_error(lambda: float(np.sum(x**4)), x, gradient, rng) < 1e-7
    assert check.directional_error(lambda: float(np.sum(x**4)), x, gradient * 1.001, rng) > 1e-4
    assert not check.directional_error(lambda: float(np.sum(x**4)), x, gradient * np.nan, rng) < 1


def test_a_small_gradient_beside_a_large_loss_is_still_held_to_differences():
    """Of 1 + 1e-9 x**4 a step of 1e-6 sees a digit or two."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20)
    gradient = 4e-9 * x**3
    errors = [check.directional_error(lambda: 1 + 1e-9 * float(np.sum(x**4)), x, gradient * k, rng) for k in (1, 1.01)]
    assert errors[0] < 1e-4 and errors[1] > 1e-3


def test_a_gradient_that_vanishes_is_held_to_zero(monkeypatch):
    """A bias before a batchnorm does nothing; what a wrong kernel would say of it is not forgiven as rounding."""
    graph = Graph([Affine(5, name="a"), BatchNorm(), ReLU(), Affine(3)], input=(4,), loss="softmax")
    model = nbnn.compile(graph, backend="numpy")
    loss = type(model).loss
    rows = {row.what: row.against for row in model.verify().rows}
    assert rows["gradient of a.b"] == "zero" and rows["gradient of a.w"] == "differences"

    def wrong(self, X, y=None, **options):
        found = loss(self, X, y, **options)
        if y is not None and self is model:
            found[1]["a.b"] += 1e-3
        return found

    monkeypatch.setattr(type(model), "loss", wrong)
    with pytest.raises(check.VerifyError, match=r"gradient of a\.b +zero .* WRONG"):
        model.verify()


def train(name: str, threads: int, dtype: str = "float32") -> bytes:
    """Everything that 20 steps leave behind, as bytes."""
    net = NETS[name]
    x, y = data(net, dtype)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        model = nbnn.compile(net.graph, dtype=dtype)
        indices = np.random.default_rng(1).integers(0, len(x), (20, net.batch))
        losses = model.train_steps(x, y, indices=indices, reg=1e-3, clip=5.0)
    finally:
        numba.set_num_threads(before)
    return losses.tobytes() + b"".join(a.tobytes() for a in model.state_dict().values())


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine has one thread")
@pytest.mark.parametrize("name", NETS)
def test_bits_do_not_depend_on_threads(name):
    assert train(name, 1) == train(name, 2)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine has one thread")
def test_threads_at_different_calls_of_a_launch_have_room_of_their_own():
    """Nothing but the launch's end makes them wait for each other, and each layer wants another amount of room."""
    tower = [node for filters in (16, 48, 24, 64) for node in (Conv(filters, 3, pad=1), ReLU())]
    graph = Graph([*tower, GlobalAvgPool(), Affine(3)], input=(16, 9, 9), loss="softmax")
    assert lower(graph, lanes=16).source.count("conv_forward_winograd(") > 8
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((96, 16, 9, 9), np.float32), rng.integers(0, 3, 96)
    model, before = nbnn.compile(graph, batch=96), numba.get_num_threads()

    def found() -> bytes:
        loss, grads = model.loss(x, y)
        return np.float64(loss).tobytes() + b"".join(g.tobytes() for g in (model.loss(x), *grads.values()))

    try:
        numba.set_num_threads(1)
        alone = found()
        numba.set_num_threads(2)
        assert all(found() == alone for _ in range(times(30, 300)))
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("size", [3, 5])
def test_sums_of_which_there_are_fewer_than_sixteen(size):
    """Where 16 partial sums of a convolution's weights would be too large there are fewer, of its bias as many,
    whatever lay in their memory before."""
    convs = [node for f in (160, 258 if size == 5 else 400) for node in (Conv(f, size, pad=size // 2), Tanh())]
    graph = Graph([*convs, GlobalAvgPool(), Affine(10)], input=(160, 5, 5), loss="softmax")
    model, exact = (nbnn.compile(graph, batch=20, backend=b) for b in ("numba", "numpy"))
    slots = {b.slots for n, b in model.lowered.buffers.items() if "parts" in n}
    assert len(slots) == (1 if size == 3 else 2) and min(slots) < 16
    rng = np.random.default_rng(0)
    for _ in range(2):
        x, y = rng.standard_normal((20, 160, 5, 5), np.float32), rng.integers(0, 10, 20)
        found, wanted = (m.loss(x, y)[1] for m in (model, exact))
        for name, gradient in wanted.items():
            assert check.relative_error(found[name], gradient) < 1e-4, name


def test_bits_do_not_depend_on_threads_when_every_launch_is_shared(tmp_path):
    """The same in a child process that launches even the smallest work over threads, for 1, 2 and 3 of them."""
    names = times(["residual", "winograd"], list(NETS))
    code = f"""
        from nbnn import step
        from nbnn.kernels import launch
        launch.SERIAL_BELOW = 0
        step.cores = lambda: 3  # more threads than cores change no bit either
        from test_nets import train
        for name in {names}:
            assert train(name, 1) == train(name, 2) == train(name, 3), name
        print("equal")
    """
    for name in names:
        kept.give(tmp_path, NETS[name].graph)
    found = run(code, NUMBA_NUM_THREADS="3", NBNN_CACHE_DIR=str(tmp_path))  # what is changed is not kept for others
    assert found.stdout.strip() == "equal", found.stderr


def test_the_serial_shells_give_the_same_bits():
    """A forked child never launches: its bits are those of the parent."""
    code = """
        import os
        from test_nets import train
        wanted = train("convnet", 2)
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, b"equal" if train("convnet", 2) == wanted else b"other")
            os._exit(0)
        os.close(writing)
        print(os.read(reading, 5).decode())
    """
    found = run(code)
    assert found.stdout.strip() == "equal", found.stderr


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a child process, in this folder."""
    here = pathlib.Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_profile_names_each_node_and_changes_nothing(backend):
    net = NETS["convnet"]
    model = nbnn.compile(net.graph, backend=backend)
    x, y = data(net, count=net.batch)
    before = {name: a.tobytes() for name, a in model.state_dict().items()}
    profile = model.profile(x, y, repeat=3)
    forward = [f"{name} forward" for name, op in model.lowered.ops.items() if not op.merged]
    backward = [f"{s.node} {s.direction}" for s in model.lowered.backward if s.node != "loss"]
    assert list(profile.parts) == ["input", *forward, "loss", *backward, "update"]
    assert all(ms > 0 for ms in profile.parts.values())
    assert (
        "conv2 to the weights" in str(profile)
        and "conv2 to the input" in backward
        and "conv1 to the input" not in backward
    )
    assert "conv2 forward" in str(profile) and f"{profile.total:.3f}" in str(profile)
    assert before == {name: a.tobytes() for name, a in model.state_dict().items()}


def test_a_profile_takes_any_rule_and_any_names():
    names = ("rule", "m", "v", "norms", "update", "weights", "settings", "times", "tick", "profiled")
    graph = Graph([Affine(3, name=name) for name in names], input=2, loss="svm")
    model = nbnn.compile(graph, backend="numpy", seed=1)
    x, y = np.ones((2, 2), np.float32), [0, 1]
    found = model.train_steps(x, y, steps=2)
    grads = {name: a.tobytes() for name, a in model.grads.items()}
    for rule in rules.DEFAULTS:
        assert "norms to the weights" in model.profile(x, y, update_rule=rule, repeat=1).parts
    with pytest.raises(ValueError, match="there is no update rule 'adamm'; did you mean 'adam'"):
        model.profile(x, y, update_rule="adamm")
    assert grads == {name: a.tobytes() for name, a in model.grads.items()} and model.steps_taken == 2
    again = nbnn.compile(graph, backend="numpy", seed=1)
    steps = np.concatenate([found, model.train_steps(x, y, steps=2)])
    assert np.array_equal(again.train_steps(x, y, steps=4), steps)


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect is asked for with Linux's numbers")
@pytest.mark.parametrize("end", [True, False], ids=["ending at a guard page", "beginning behind one"])
def test_whole_nets_stay_inside_their_arenas(end):
    """Every arena of a model lies between guard pages: a read or write outside ends the child, which says where."""
    code = f"""
        import ctypes, mmap
        import numpy as np
        import nbnn.model
        from test_nets import NETS, data
        protect, page, kept = ctypes.CDLL(None).mprotect, mmap.PAGESIZE, []

        def arena(elements, dtype):
            size = elements * np.dtype(dtype).itemsize
            pages = max(1, -(-size // page))
            memory = mmap.mmap(-1, (pages + 2) * page)
            kept.append(memory)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            for guard in (address, address + (pages + 1) * page):
                assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
            return np.frombuffer(memory, dtype, elements, (pages + 1) * page - size if {end} else page)

        nbnn.model.arena = arena
        for name, net in NETS.items():
            for dtype in ("float32", "float64"):
                print(name, dtype, flush=True)
                x, y = data(net, dtype)
                model = nbnn.compile(net.graph, dtype=dtype)
                for n in (1, 3, len(x), 2):
                    model.loss(x[:n], y[:n])
                    model.loss(x[:n])
                    model.train_steps(x[:n], y[:n], steps=2, reg=0.01, clip=1.0)
        print("all inside")
    """
    found = run(code)
    assert found.stdout.strip().endswith("all inside"), found.stdout[-200:] + found.stderr[-2000:]
