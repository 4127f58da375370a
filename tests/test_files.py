"""Model files and the cache of compiled code: whole or not at all, and a plain sentence for whatever is wrong."""

import errno
import json
import os
import pathlib
import stat
import subprocess
import sys
import textwrap
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as as_safetensors

import nbnn
from nbnn import Affine, BatchNorm, Conv, Dropout, Graph, MaxPool, ReLU, Softmax, cache, compiling, files, step
from nbnn.files import FileError

GRAPH = Graph(
    [Conv(3, 3, pad=1, name="a"), BatchNorm(momentum=0.5), ReLU(), MaxPool(2), Dropout(0.3), Affine(4)],
    input=(2, 5, 4),
    loss=Softmax(0.1),
)
SMALL = Graph([Affine(4), BatchNorm(), ReLU(), Affine(3)], input=5, loss="softmax")


def data(graph, count=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *graph.input)), rng.integers(0, graph.output_shape[0], count)


def trained(graph=GRAPH, **options):
    model = nbnn.compile(graph, **options)
    model.train_steps(*data(graph), steps=5)
    return model


def same(model, other):
    return all(np.array_equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.fixture
def small(tmp_path):
    """A saved model, with its file."""
    model = nbnn.compile(SMALL, backend="numpy", seed=3)
    model.save(tmp_path / "net.safetensors")
    return model, tmp_path / "net.safetensors"


def load(path):
    return nbnn.load(path, backend="numpy")


# ---- there and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_as_it_was(tmp_path, dtype):
    model = trained(dtype=dtype, seed=7)
    path = tmp_path / "net.safetensors"
    assert model.save(path) is None
    back = nbnn.load(str(path))
    assert (back.graph, back.dtype, back.seed, back.steps_taken) == (GRAPH, dtype, 7, 5)
    assert list(back.params) == list(model.params)
    assert same(model, back)
    x, y = data(GRAPH, seed=1)
    assert back.loss(x).tobytes() == model.loss(x).tobytes()
    assert back.predict(x).tobytes() == model.predict(x).tobytes()
    assert back.loss(x, y)[0] == model.loss(x, y)[0]  # dropout goes on with the same masks
    back.save(tmp_path / "again.safetensors")
    assert same(nbnn.load(tmp_path / "again.safetensors"), back)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".safetensors"]


def test_any_backend_and_dtype_can_load(tmp_path):
    model = trained()
    model.save(tmp_path / "net")
    x, _ = data(GRAPH, seed=1)
    plain = nbnn.load(tmp_path / "net", backend="numpy")
    assert plain.backend == "numpy"
    assert same(model, plain)
    assert np.allclose(plain.loss(x), model.loss(x), rtol=1e-4, atol=1e-5)
    double = nbnn.load(tmp_path / "net", backend="numpy", dtype="float64")
    assert double.dtype == "float64"
    assert same(model, double)
    double.save(tmp_path / "double")
    assert load(tmp_path / "double").dtype == "float64"
    assert same(nbnn.load(tmp_path / "double", backend="numpy", dtype="float32"), model)


def test_the_file_is_plain_safetensors(tmp_path):
    model = trained(seed=2**63 - 1, backend="numpy")
    model.save(tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="numpy") as file:
        header = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert json.loads(header["graph"]) == GRAPH.to_dict()
    assert {k: v for k, v in header.items() if k not in ("graph", "checksum")} == {
        "format": "nbnn 1",
        "dtype": "float32",
        "seed": str(2**63 - 1),
        "steps": "5",
    }
    assert set(arrays) == {
        "a.w",
        "a.b",
        "bn1.gamma",
        "bn1.beta",
        "bn1.mean",
        "bn1.var",
        "affine1.w",
        "affine1.b",
    }
    for name, value in model.state_dict().items():
        assert arrays[name].dtype == np.float32
        assert np.array_equal(arrays[name], value)


def test_a_graph_without_loss_and_without_parameters(tmp_path):
    model = nbnn.compile(Graph([ReLU()], input=3), backend="numpy")
    model.save(tmp_path / "net")
    back = load(tmp_path / "net")
    assert back.graph == model.graph
    assert back.predict([[-1, 0, 2]]).tolist() == [[0, 0, 2]]


# ---- saving: the old file or the new one, never a part


NOT_WRITTEN = "the model is still in memory, and an older file of that name is as it was"


def test_a_save_that_fails_leaves_the_old_file(small, monkeypatch):
    model, path = small
    before = path.read_bytes()
    model.params["affine1.b"] += 1

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=NOT_WRITTEN) as caught:
            model.save(path)
    assert str(caught.value) == (
        f"[Errno {errno.ENOSPC}] {path} could not be written (No space left on device); {NOT_WRITTEN}"
    )
    assert caught.value.__suppress_context__
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    model.save(path)
    assert same(load(path), model)


def test_a_save_that_is_interrupted_leaves_the_old_file(small, monkeypatch):
    model, path = small
    before = path.read_bytes()

    def stopped(handle):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stopped)
        with pytest.raises(KeyboardInterrupt):
            model.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def child(code, **environment):
    """Run code in a child process, which sees this checkout."""
    root = pathlib.Path(nbnn.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes there")
def test_a_disk_that_fills_up_leaves_the_old_file(small):
    _, path = small
    before = path.read_bytes()
    found = child(
        """
        import resource
        import nbnn
        model = nbnn.load(PATH, backend="numpy")
        model.params["affine1.b"] += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        try:
            model.save(PATH)
        except OSError as problem:
            print(problem)
        """.replace("PATH", repr(str(path)))
    )
    assert len(before) > 500
    assert found.stderr == ""
    told = f"[Errno {errno.EFBIG}] {path} could not be written ({os.strerror(errno.EFBIG)}); {NOT_WRITTEN}"
    assert found.stdout.strip() == told
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_kill_while_saving_leaves_a_whole_file(small):
    """Killed at a random moment while it saves again and again: what lies there loads, and is one of the two models."""
    _, path = small
    root = pathlib.Path(nbnn.__file__).parent.parent
    code = f"""
import nbnn
model = nbnn.load({str(path)!r}, backend="numpy")
print("ready", flush=True)
while True:
    model.params["affine1.b"] = 1 - model.params["affine1.b"]
    model.save({str(path)!r})
"""
    rng = np.random.default_rng(0)
    for wait in 0.02 * rng.random(3):
        running = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE
        )
        running.stdout.readline()
        time.sleep(0.05 + wait)
        running.kill()
        running.wait()
        running.stdout.close()
        found = load(path).params["affine1.b"]
        assert (found == 0).all() or (found == 1).all()


def test_saving_where_nothing_can_be_saved(small, tmp_path):
    model, path = small
    with pytest.raises(FileNotFoundError) as caught:
        model.save(tmp_path / "none" / "net.safetensors")
    target = tmp_path / "none" / "net.safetensors"
    assert str(caught.value) == f"{target} cannot be written: there is no folder {target.parent}"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        model.save(tmp_path / "folder")
    folder = tmp_path / "folder"
    assert str(caught.value) == f"{folder} is a folder; name a file in it, such as {folder / 'net.safetensors'}"
    assert sorted(os.listdir(tmp_path)) == ["folder", path.name]


# ---- loading: a model, or a sentence


def test_loading_what_is_not_there(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            nbnn.load(path)
        assert str(caught.value) == f"there is no file {path}"


def test_wrong_settings_are_no_fault_of_the_file(small):
    _, path = small
    for options, sentence in (
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'float64', got 'float16'"),
        ({"backend": "torch"}, "backend must be one of 'numba', 'numpy', got 'torch'"),
    ):
        with pytest.raises(ValueError) as caught:
            nbnn.load(path, **options)
        assert type(caught.value) is ValueError
        assert str(caught.value) == sentence


def parts(content):
    """The header and the bytes of the arrays."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header, body):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def with_entry(key, value):
    """A change of one entry of the header; None removes it."""

    def change(content):
        header, body = parts(content)
        header["__metadata__"][key] = value
        if value is None:
            del header["__metadata__"][key]
        return joined(header, body)

    return change


def with_graph(**entries):
    return lambda content: with_entry("graph", json.dumps({**SMALL.to_dict(), **entries}))(content)


def with_arrays(change):
    """The file of the same model with other arrays."""

    def write(content):
        header, _ = parts(content)
        arrays = nbnn.compile(SMALL, backend="numpy").state_dict()
        arrays, told = change(arrays), header["__metadata__"]
        return as_safetensors(arrays, metadata={**told, "checksum": files.checksum(told, arrays)})

    return write


def with_shape(name, shape):
    def change(content):
        header, body = parts(content)
        header[name]["shape"] = shape
        return joined(header, body)

    return change


def spoilt(arrays, name, value):
    arrays[name].flat[-1] = value
    return arrays


OTHER = ": its arrays do not fit its graph: "
COUNT = "in its header must be a whole number of at least 0 and below 2**63, got "
GRAPH_DAMAGED = ": the graph in its header is damaged: "
UNREADABLE = " is damaged or no model file: "  # what safetensors says follows

# what is done to the bytes of a file, and what is said after its name; a text that ends in a space goes on
DAMAGES = {
    "nothing in it": (lambda c: b"", UNREADABLE),
    "cut in the length": (lambda c: c[:5], UNREADABLE),
    "cut in the header": (lambda c: c[:100], UNREADABLE),
    "cut in the arrays": (lambda c: c[:-1], UNREADABLE),
    "a byte too many": (lambda c: c + b"\0", UNREADABLE),
    "random bytes": (lambda c: np.random.default_rng(0).bytes(4000), UNREADABLE),
    "a text": (lambda c: b"net: conv 32, relu, affine 10\n" * 20, UNREADABLE),
    "a pickle": (lambda c: b"\x80\x04\x95" + b"cos\nsystem\n(S'exit'\ntR." * 10, UNREADABLE),
    "a header of 2**63 bytes": (lambda c: (2**63).to_bytes(8, "little") + c[8:], UNREADABLE),
    "an array of 2**80 numbers": (with_shape("affine1.w", [2**40, 2**40]), UNREADABLE),
    "an array of 2**40 numbers": (with_shape("affine1.w", [2**20, 2**20]), UNREADABLE),
    "foreign arrays": (
        lambda c: as_safetensors({"layer.weight": np.zeros((2, 3), np.float32)}, metadata={"format": "pt"}),
        " is a safetensors file, but no model that nbnn has saved",
    ),
    "no metadata": (
        lambda c: as_safetensors({"layer.weight": np.zeros((2, 3), np.float32)}),
        " is a safetensors file, but no model that nbnn has saved",
    ),
    "a later format": (with_entry("format", "nbnn 2"), " is a safetensors file, but no model that nbnn has saved"),
    "no seed": (with_entry("seed", None), f": seed {COUNT}None"),
    "a seed that is no number": (with_entry("seed", "abc"), f": seed {COUNT}'abc'"),
    "a negative seed": (with_entry("seed", "-1"), f": seed {COUNT}'-1'"),
    "no steps": (with_entry("steps", None), f": steps {COUNT}None"),
    "too many steps": (with_entry("steps", str(2**63)), f": steps {COUNT}'{2**63}'"),
    "no dtype": (with_entry("dtype", None), ": dtype in its header must be float32 or float64, got None"),
    "another dtype": (with_entry("dtype", "int8"), ": dtype in its header must be float32 or float64, got 'int8'"),
    "a dtype that is code": (
        with_entry("dtype", "(2,f4"),
        ": dtype in its header must be float32 or float64, got '(2,f4'",
    ),
    "no graph": (with_entry("graph", None), ": its header has no graph"),
    "a graph that is no JSON": (
        with_entry("graph", "[Conv(3)]"),
        f"{GRAPH_DAMAGED}Expecting value: line 1 column 2 (char 1)",
    ),
    "a graph that never ends": (with_entry("graph", "[" * 100_000), GRAPH_DAMAGED),
    "a graph that is no dict": (with_entry("graph", "[1, 2]"), GRAPH_DAMAGED),
    "an unknown op": (with_graph(nodes=[{"op": "os.system"}]), f"{GRAPH_DAMAGED}node 1: there is no op 'os.system'; "),
    "an unknown setting": (with_graph(nodes=[{"op": "Affine", "units": 3, "__class__": 1}]), GRAPH_DAMAGED),
    "a graph of many letters": (
        with_graph(nodes=[{"op": "ReLU"}] * 40_000),
        ": the graph in its header has more than 524288 letters, which no net needs",
    ),
    "a name that is no name": (
        with_arrays(lambda a: {**a, "../\x1b[2J": a["affine1.b"]}),
        f"{OTHER}'../\\x1b[2J' is unknown",
    ),
    "more differences than one reads": (
        with_arrays(lambda a: {f"a{k:02}": a["affine1.b"] for k in range(40)}),
        f"{OTHER}affine1.w is missing; affine1.b is missing; bn1.gamma is missing; bn1.beta is missing; bn1.mean is "
        "missing; bn1.var is missing; affine2.w is missing; affine2.b is missing; a00 is unknown; a01 is unknown; a02 "
        "is unknown; a03 is unknown; and 36 more",
    ),
    "a setting that is a list": (with_graph(nodes=[{"op": "Affine", "units": [1]}]), GRAPH_DAMAGED),
    "an endless number": (with_graph(nodes=[{"op": "Dropout", "p": 10**400}]), GRAPH_DAMAGED),
    "an infinite number": (with_graph(nodes=[{"op": "Affine", "units": float("inf")}]), GRAPH_DAMAGED),
    "a loss that is a list": (with_graph(loss={"loss": []}), GRAPH_DAMAGED),
    "a graph of petabytes": (
        with_graph(nodes=[{"op": "Affine", "units": 2**44}, *SMALL.to_dict()["nodes"][1:]]),
        f"{OTHER}affine1.w must have shape (5, 17592186044416), got (5, 4); "
        "affine1.b must have shape (17592186044416,), got (4,); ",
    ),
    "a missing array": (
        with_arrays(lambda a: {k: v for k, v in a.items() if k != "bn1.var"}),
        f"{OTHER}bn1.var is missing",
    ),
    "an extra array": (with_arrays(lambda a: {**a, "affine3.w": a["affine1.b"]}), f"{OTHER}affine3.w is unknown"),
    "another shape": (
        with_arrays(lambda a: {**a, "affine1.w": a["affine1.w"].T.copy()}),
        f"{OTHER}affine1.w must have shape (5, 4), got (4, 5)",
    ),
    "several differences": (
        with_arrays(lambda a: {"affine1.c" if k == "affine1.b" else k: v[:3].copy() for k, v in a.items()}),
        f"{OTHER}affine1.w must have shape (5, 4), got (3, 4); affine1.b is missing; ",
    ),
    "double precision": (
        with_arrays(lambda a: {**a, "affine1.b": a["affine1.b"].astype(np.float64)}),
        f"{OTHER}affine1.b must be float32, got float64",
    ),
    "half precision": (
        with_arrays(lambda a: {**a, "affine1.b": a["affine1.b"].astype(np.float16)}),
        f"{OTHER}affine1.b must be float32, got F16",
    ),
    "bools": (
        with_arrays(lambda a: {**a, "affine1.b": a["affine1.b"] > 0}),
        f"{OTHER}affine1.b must be float32, got BOOL",
    ),
    "a turned bit of a weight": (
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        " is damaged: its checksum is not that of what it holds",
    ),
    "no checksum": (with_entry("checksum", None), " is damaged: its checksum is not that of what it holds"),
    "another seed": (with_entry("seed", "4"), " is damaged: its checksum is not that of what it holds"),
    "a NaN": (with_arrays(lambda a: spoilt(a, "affine2.w", np.nan)), ": affine2.w holds a NaN or an infinity"),
    "an infinity": (with_arrays(lambda a: spoilt(a, "bn1.var", -np.inf)), ": bn1.var holds a NaN or an infinity"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_gets_a_plain_sentence_at_once(small, damage):
    _, path = small
    change, text = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    begun = time.perf_counter()
    with pytest.raises(FileError) as caught:
        load(path)
    assert time.perf_counter() - begun < 2
    told = str(caught.value)
    goes_on = text.endswith(" ")
    assert told.startswith(f"{path}{text}") if goes_on else told == f"{path}{text}"
    assert len(told) > len(f"{path}{text}") or not goes_on
    assert "numba" not in told.lower()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_dtypes_that_numpy_lacks_are_refused(small):
    _, path = small
    content = path.read_bytes()
    for code, width in (("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)):
        header, _ = parts(content)
        end = 0
        for name in [n for n in header if n != "__metadata__"]:
            size = width * int(np.prod(header[name]["shape"]))
            header[name].update(dtype=code, data_offsets=[end, end + size])
            end += size
        path.write_bytes(joined(header, bytes(end)))
        with pytest.raises(FileError) as caught:
            load(path)
        assert f"affine1.b must be float32, got {code}" in str(caught.value)


def test_an_undamaged_file_loads_after_all_this(small):
    """So that no row above fails for another reason than the one that it is about."""
    model, path = small
    content = path.read_bytes()
    for change in (lambda c: c, lambda c: joined(*parts(c)), with_graph(), with_arrays(lambda a: a)):
        path.write_bytes(change(content))
        assert load(path).graph == model.graph


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axes", [(20, 100_000), (100_000, 20)])
def test_loading_takes_twice_the_file(tmp_path, axes, dtype):
    """Parameters and gradients are each as large as the file. Nothing else is made: no weights to begin with, no array
    twice, and no scratch, which of this net is larger than all of it."""
    model = nbnn.compile(Graph([Affine(axes[1])], input=axes[0]), backend="numpy", dtype=dtype)
    model.save(tmp_path / "net")
    load(tmp_path / "net")
    tracemalloc.start()
    found = load(tmp_path / "net")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same(found, model)
    assert peak < 2 * (tmp_path / "net").stat().st_size + 1_000_000


# ---- the cache of compiled code


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_cache_that_cannot_be_used_costs_one_warning(tmp_path, backend):
    (tmp_path / "cache").write_text("a file where the folder should be")
    (tmp_path / "temporary").mkdir()
    found = child(
        """
        import warnings
        import numpy as np
        import nbnn
        from nbnn import Affine, Graph
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for units in (2, 3):
                model = nbnn.compile(Graph([Affine(units)], input=2, loss="softmax"), backend=BACKEND)
                assert np.isfinite(model.loss(np.eye(2))).all()
        for one in told:
            print(one.category.__name__, one.message)
        """.replace("BACKEND", repr(backend)),
        NBNN_CACHE_DIR=str(tmp_path / "cache"),
        TMPDIR=str(tmp_path / "temporary"),
    )
    assert found.stderr == ""
    (line,) = found.stdout.splitlines()
    assert line.startswith("UserWarning compiled code is not kept: the cache folder cannot be used (")
    assert "; set NBNN_CACHE_DIR to a folder that you may write to. This run uses " in line
    assert (tmp_path / "cache").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_the_cache_folder_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("NBNN_CACHE_DIR", str(tmp_path / "cache"))
    fresh = cache.folder.__wrapped__("steps")
    assert fresh == tmp_path / "cache" / "steps"
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    fresh.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.folder.__wrapped__("steps") == fresh
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    assert list(fresh.iterdir()) == []


def test_a_source_changed_by_hand_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda name: tmp_path)
    text = "answer = 42\n"
    assert compiling.import_text(text, jitted=False).answer == 42
    (path,) = tmp_path.glob("step_*.py")
    for other in ("answer = 0\n", "", "answer = 42\nraise SystemExit\n"):
        path.write_text(other)
        assert compiling.import_text(text, jitted=False).answer == 42
        assert path.read_text() == text
    path.unlink()
    assert compiling.import_text(text, jitted=False).answer == 42


def test_a_compiled_step_changed_by_hand_is_compiled_again(tmp_path, monkeypatch):
    """The jitted step as well: its file is what is compiled, so it must be ours."""
    model = nbnn.compile(SMALL)
    x, _ = data(SMALL)
    wanted = model.loss(x)
    (path,) = [p for p in cache.folder(cache.fingerprint()).glob("step_*.py") if p.read_text() == model.lowered.source]
    path.write_text(model.lowered.source.replace("affine_forward(", "print("))
    step.step_of.cache_clear()  # as in another process
    again = nbnn.compile(SMALL)
    assert again.loss(x).tobytes() == wanted.tobytes()
    assert path.read_text() == model.lowered.source


def test_a_model_with_a_nan_is_not_saved(tmp_path):
    model = nbnn.compile(SMALL, backend="numpy")
    model.params["affine1.b"][0] = np.nan
    with pytest.raises(FileError) as caught:
        model.save(tmp_path / "net.safetensors")
    wanted = "affine1.b holds a NaN or an infinity, so the model is not saved: nothing could be made of it"
    assert str(caught.value) == wanted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no modes and links there")
def test_a_link_stays_a_link_and_a_mode_stays_as_it_is(small, tmp_path):
    model, _ = small
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    model.save(real)
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(real.stat().st_mode) == 0o666 & ~before
    real.chmod(0o640)
    link.symlink_to(real)
    model.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert nbnn.load(real).graph == model.graph
