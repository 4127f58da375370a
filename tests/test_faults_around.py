"""Faults that broke other libraries, each under its number: threads, processes, caches, files, and what outlives a run.

The second half of `test_faults.py`, which says what this is.
"""

import concurrent.futures
import errno
import gzip
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import numba
import numpy as np
import pytest
from numba import njit, types
from soak import SOAKING, tell
from test_faults import PICTURES, VECTORS, everything, examples, parts, pictures, vectors  # noqa: F401 (fixtures)
from test_files import child, joined
from test_files import parts as parts_of
from test_readers import Runs, hostile
from training import outcome

import nbnn
from nbnn import Affine, BatchNorm, Conv, Dropout, Graph, GraphError, MaxPool, ReLU, Solver, cache, formats, kernels
from nbnn.codegen import _kernels
from nbnn.compiling import import_text, numba_folder
from nbnn.files import FileError
from nbnn.kernels import launch
from nbnn.kernels.jit import OPTIONS
from nbnn.lower import lower

HERE = pathlib.Path(__file__).parent
ON_PATH = os.pathsep.join([str(HERE), str(HERE.parent)])
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, affinities and signals of Linux")
SMALL = Graph([Affine(4), BatchNorm(), ReLU(), Affine(3)], input=5, loss="softmax")


def digest(threads=None, count=256):
    """All that three steps of PICTURES leave, for children; the launches are large enough to be shared."""
    before = numba.get_num_threads()
    numba.set_num_threads(threads or before)
    try:
        model = nbnn.compile(PICTURES)
        x, y = examples(PICTURES, count)
        losses = model.train_steps(x, y, steps=3, reg=1e-3, clip=5.0)
        loss, grads = model.loss(x, y)
        return [losses.tolist(), loss, *map(hash_of, [model.predict_proba(x), *grads.values()]), *everything(model)]
    finally:
        numba.set_num_threads(before)


def hash_of(array):
    return np.frombuffer(array.tobytes(), np.uint32).sum(dtype=np.uint64).item()


@pytest.fixture(scope="module")
def wanted():
    return digest(1)


@pytest.fixture
def small(tmp_path):
    """A saved model with its file."""
    model = nbnn.compile(SMALL, backend="numpy", seed=3)
    path = tmp_path / "model" / "net.safetensors"
    path.parent.mkdir()
    model.save(path)
    return model, path


def load(path):
    return nbnn.load(path, backend="numpy")


def solver_of(model, **options):
    settings = {"update_rule": "adam", "schedule": "cosine", "batch_size": 20, "num_epochs": 6, "verbose": False}
    return Solver(model, parts(200), **{**settings, **options})


# ---- threads


def test_fault_25_any_number_of_threads_gives_the_same_bytes(wanted):
    """The same numbers, sums over the batch among them, whether 1, 2, 3 or 5 threads share the work."""
    assert 256 * np.prod(PICTURES.shapes["conv1"]) * 4 > 4 * launch.SERIAL_BELOW
    found = child("""
        from nbnn import step
        from test_faults_around import digest
        step.cores = lambda: 5
        found = [digest(threads) for threads in (1, 2, 3, 5)]
        assert all(one == found[0] for one in found)
        print(found[0])
        """, NUMBA_NUM_THREADS="5", PYTHONPATH=ON_PATH)  # fmt: skip
    assert found.stdout.strip() == str(wanted), found.stderr


def test_fault_26_the_places_of_shares_are_whole_numbers_with_a_sign():
    """Numba takes prange's own variable for an unsigned number, and makes a float of it beside a signed one."""
    compiled = njit([types.void(*[types.int64] * 6)], parallel=True, **OPTIONS)(launch._launch)
    (overload,) = compiled.overloads.values()
    kinds = {name.split(".")[0]: kind for name, kind in overload.type_annotation.typemap.items()}
    assert {str(kinds[name]) for name in ("workers", "grains", "first", "last")} == {"int64"}
    assert not any(isinstance(kind, types.Float) for kind in kinds.values())
    for name, kernel in kernels.names().items():
        whole = [k for p, k in zip(kernel.parameters, kernel.types("float32"), strict=True) if p.annotation is int]
        assert {str(k) for k in whole} <= {"int64"}, name


def test_fault_26_every_example_is_in_one_share(pictures):  # noqa: F811
    x, _ = examples(PICTURES, 150)
    whole = pictures.loss(x)
    for count in (*range(1, 40), 63, 64, 65, 149):
        assert pictures.loss(x[:count]).tobytes() == whole[:count].tobytes()


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_fault_27_random_numbers_are_our_own(backend):
    """Neither NumPy's seed nor Numba's counts, and NumPy's generator stays where it was."""

    def masks(seed=0, shaken=1):
        np.random.seed(shaken)
        before = np.random.get_state()[1].tolist()
        model = nbnn.compile(Graph([Affine(64), Dropout(0.5)], input=2, loss="mse"), backend=backend, seed=seed)
        _, grads = model.loss(np.ones((40, 2)), np.zeros((40, 64)))
        assert np.random.get_state()[1].tolist() == before
        return model.params["affine1.w"].tobytes(), (grads["affine1.b"] != 0).tobytes(), grads["affine1.b"].round(4)

    first = masks()
    assert first[:2] == masks(shaken=2)[:2]
    assert first[0] != masks(seed=1)[0] and not np.array_equal(first[2], masks(seed=1)[2])


def test_fault_27_masks_do_not_depend_on_backend_or_threads(wanted):
    found = []
    for backend in ("numba", "numpy"):
        model = nbnn.compile(Graph([Affine(64, init="zeros"), Dropout(0.5)], input=2, loss="mse"), backend=backend)
        model.params["affine1.b"] = np.ones(64)
        found.append(model.loss(np.ones((40, 2)), np.zeros((40, 64)))[1]["affine1.b"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert digest() == wanted  # with a dropout in it


@LINUX
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_fault_28_children_of_a_process_that_used_threads_train(tmp_path, way, wanted):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import multiprocessing
        from test_faults_around import digest

        if __name__ == "__main__":
            digest()
            with multiprocessing.get_context({way!r}).Pool(1) as pool:
                print(pool.apply_async(digest).get(100))
                digest()
        """)
    )
    found = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": ON_PATH},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (found.stdout.strip(), found.returncode) == (str(wanted), 0), found.stderr


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_fault_29_two_python_threads_train_at_once(layer, wanted):
    found = child("""
        import concurrent.futures
        import threading
        from test_faults_around import digest
        together = threading.Barrier(2)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            def several(_):
                together.wait(60)  # so that both want the same net compiled as well
                return [digest() for _ in range(8)]
            found = sum(pool.map(several, range(2)), [])
        import numba
        assert all(one == found[0] for one in found)
        print(numba.threading_layer(), found[0])
        """, NUMBA_THREADING_LAYER=layer, PYTHONPATH=ON_PATH)  # fmt: skip
    if "No threading layer could be loaded" in found.stderr:
        pytest.skip(f"this machine has no {layer}")
    assert (found.stdout.strip(), found.returncode) == (f"{layer} {wanted}", 0), found.stderr


@LINUX
@pytest.mark.parametrize(("asked", "allowed"), [("64", None), ("2", 1), (None, 1)])
def test_fault_30_no_more_threads_than_cores_that_are_ours(asked, allowed, wanted):
    found = child(f"""
        import os
        if {allowed}:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{allowed}])
        import nbnn
        from test_faults_around import PICTURES, digest
        assert 1 <= nbnn.compile(PICTURES)._step.threads() <= len(os.sched_getaffinity(0))
        print(digest())
        """, PYTHONPATH=ON_PATH, **({"NUMBA_NUM_THREADS": asked} if asked else {}))  # fmt: skip
    assert found.stdout.strip() == str(wanted), found.stderr


def test_fault_30_a_thread_s_own_limit_is_the_one_that_counts(vectors, monkeypatch):  # noqa: F811
    most = numba.config.NUMBA_NUM_THREADS
    monkeypatch.setattr("nbnn.step.cores", lambda: most)

    def limited():
        numba.set_num_threads(1)
        return vectors._step.threads()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(limited).result() == 1
    assert vectors._step.threads() == numba.get_num_threads() == most


@LINUX
def test_fault_31_ctrl_c_ends_a_training_that_can_go_on(tmp_path):
    """The signal comes from outside, at any moment; what was stopped and goes on ends where it would have ended."""
    model, lines = nbnn.compile(VECTORS), []
    handler = signal.getsignal(signal.SIGINT)
    options = {"num_epochs": 3000, "num_val_samples": 10, "num_train_samples": 10}
    solver = solver_of(model, log=lines.append, checkpoint_name=str(tmp_path / "run"), **options)
    solver.trainee.prepare()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    solver.train()
    assert time.monotonic() - begun < 5
    assert 0 < solver.iteration < solver.num_iterations and lines[-1].startswith("Stopped by Ctrl-C after iteration")
    assert signal.getsignal(signal.SIGINT) is handler
    assert np.isfinite(model.predict_proba(parts()["X_val"])).all()
    kept = sorted(tmp_path.iterdir())
    assert kept and all(np.isfinite(value).all() for value in nbnn.load(kept[-1]).state_dict().values())
    before = solver.iteration
    solver.model.load_state_dict(solver.best_params)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    solver.train()
    assert before < solver.iteration == len(solver.loss_history) < solver.num_iterations
    whole = solver_of(nbnn.compile(VECTORS), **options)
    epochs, latest = solver.epoch + 2, []

    def ends(s):
        if s.epoch == epochs:
            s.stop()
            latest.append([value.tobytes() for value in s.weights().values()])

    for one in (solver, whole):
        one.callbacks.append(ends)
        one.train()
    assert whole.iteration == solver.iteration == epochs * whole.iterations_per_epoch
    assert len(latest) == 2 and latest[0] == latest[1]
    assert outcome(solver) == outcome(whole)


# ---- the cache of compiled code

KERNEL = """
    import warnings
    import numpy as np
    from nbnn.kernels import names
    x = np.linspace(-3, 3, 32, dtype=np.float32).reshape(1, 1, 1, 32)
    y = np.zeros_like(x)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        names()["gelu_forward"](x, y)
    print(y.tobytes().hex(), *(w.message for w in told))
"""


def in_a_child(code, root=HERE.parent, **environment):
    """What the code prints where the package lies there."""
    found = child(f"import sys; sys.path.insert(0, {str(root)!r})\n{textwrap.dedent(code)}", **environment)
    assert (found.stderr, found.returncode) == ("", 0)
    return found.stdout.removesuffix("\n")


def kernel_in_a_child(**there):
    return in_a_child(KERNEL, **there).strip()


@pytest.mark.parametrize("home", ["/dev/null", "/nowhere/at/all"])
def test_fault_32_without_a_home_code_is_compiled_and_not_kept(home, tmp_path):
    (tmp_path / "temporary").mkdir()
    outside = {
        "HOME": home,
        "XDG_CACHE_HOME": f"{home}/cache",
        "NBNN_CACHE_DIR": "",
        "TMPDIR": str(tmp_path / "temporary"),
    }
    if home != "/dev/null":  # there nobody may make a folder; elsewhere not even root
        outside["XDG_CACHE_HOME"] = str(HERE / "test_faults.py" / "cache")
    found = kernel_in_a_child(**outside)
    assert found.count("compiled code is not kept: the cache folder cannot be used (") == 1
    assert "set NBNN_CACHE_DIR to a folder that you may write to" in found
    assert list((tmp_path / "temporary").iterdir()) == []  # gone with the process


INSTALLED = """
    import ctypes, os, pathlib, struct, warnings
    import numpy as np
    if hasattr(os, "getuid") and os.getuid() == 0:  # whom permissions bind only without the right to override them
        version, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
        assert ctypes.CDLL(None).capget(version, sets) == 0
        kept, *rest = struct.unpack("6I", sets)
        assert ctypes.CDLL(None).capset(version, struct.pack("6I", kept & ~2, *rest)) == 0
    import nbnn, nbnn.data
    home = pathlib.Path(nbnn.__file__).parent
    for path in (home / "data.py", home / "new", home.parent / "new"):
        try:
            path.open("ab")
            print(path, "can be written")
        except PermissionError:
            pass
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        x, y = nbnn.data.digits()["X_train"][:20], nbnn.data.digits()["y_train"][:20]
        graph = nbnn.Graph([nbnn.Flatten(), nbnn.Affine(10)], input=x.shape[1:], loss="softmax")
        model = nbnn.compile(graph, backend="numpy")
        model.train_steps(x, y, steps=100)
        model.save("net.safetensors")
        compiled = nbnn.load("net.safetensors")
        print(model.predict(x).tolist() == compiled.predict(x).tolist())
    print(home)
    print(*(w.message for w in told))
"""


def listing(folder):
    """Everything in it, with its mode, its size and the time of its last change."""
    about = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {path: (found.st_mode, found.st_size, found.st_mtime_ns) for path, found in about.items()}


def installed(folder):
    """A copy of the package, as it lies in a checkout."""
    source = pathlib.Path(nbnn.__file__).parent.parent
    for name in ("nbnn", "kernels"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "pyproject.toml", folder)


@LINUX
@pytest.mark.parametrize("cache_folder", ["elsewhere", "beneath the package"])
def test_fault_32_a_read_only_install_works_and_stays_as_it_is(tmp_path, monkeypatch, cache_folder):
    root, work = tmp_path / "install", tmp_path / "work"
    place = tmp_path / "cache" if cache_folder == "elsewhere" else root / "nbnn" / "cache"
    work.mkdir()
    installed(root)
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = listing(root)
    monkeypatch.chdir(work)
    right, home, warned = in_a_child(INSTALLED, root, NBNN_CACHE_DIR=str(place)).split("\n")
    assert (right, home) == ("True", str(root / "nbnn"))
    assert listing(root) == before and os.listdir(work) == ["net.safetensors"]
    if cache_folder == "elsewhere":
        assert warned == "" and len(list(place.rglob("*.nbc"))) > 3
    else:
        assert warned.count("compiled code is not kept: the cache folder cannot be used (") == 1


def test_fault_33_a_number_or_helper_changed_in_another_file_is_compiled_anew(tmp_path):
    installed(tmp_path)
    there = {"root": tmp_path, "NBNN_CACHE_DIR": str(tmp_path / "cache")}
    x = np.linspace(-3, 3, 32)
    for file, old, new, cube in (
        ("constants.py", "GELU_CUBE = 0.044715", "GELU_CUBE = 0.5", 0.044715),
        ("activation.py", "return e / (e + 2.0)", "return e * 0.0", 0.5),  # tanh, a helper of gelu
        (None, None, None, None),
    ):
        found = np.frombuffer(bytes.fromhex(kernel_in_a_child(**there)), np.float32)
        wanted = x / 2 * (1 + (np.tanh(np.sqrt(2 / np.pi) * (x + cube * x**3)) if cube else 0))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        if file:
            path = tmp_path / "kernels" / file
            assert path.read_text().count(old) == 1
            path.write_text(path.read_text().replace(old, new))


def test_fault_33_whatever_compiled_code_depends_on_is_in_the_name_of_its_folder(tmp_path, monkeypatch):
    names = {cache.fingerprint()}
    shutil.copytree(pathlib.Path(kernels.__file__).parent, tmp_path / "kernels")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels" / "__init__.py"))
    assert cache.fingerprint.__wrapped__() in names
    files = sorted((tmp_path / "kernels").glob("*.py"))
    for path in files:
        path.write_text(path.read_text() + "\n")
        names.add(cache.fingerprint.__wrapped__())
    for setting in ("CPU_NAME", "CPU_FEATURES", "BOUNDSCHECK"):
        monkeypatch.setattr(numba.core.config, setting, "another")
        names.add(cache.fingerprint.__wrapped__())
    assert len(names) == 1 + len(files) + 3
    monkeypatch.setattr(cache, "folder", lambda name: tmp_path)
    assert [import_text(f"answer = {k}\n", jitted=False).answer for k in (1, 2, 1)] == [1, 2, 1]


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_fault_34_a_cut_file_of_the_cache_is_a_missing_one(tmp_path, monkeypatch, kind, share):
    monkeypatch.setattr(cache, "folder", lambda name: tmp_path)

    def doubled():
        found = {}
        with numba_folder("test"):
            exec(compile(FUNCTION, str(tmp_path / "function.py"), "exec"), found)
        return found["double"]

    (tmp_path / "function.py").write_text(FUNCTION)
    (tmp_path / "locks").mkdir()
    assert doubled()(21) == 42
    (path,) = (tmp_path / "numba").rglob(f"*.{kind}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert doubled()(21) == 42
    assert len(path.read_bytes()) > 0.9 * len(whole)  # written again
    again = doubled()
    assert again(21) == 42 and sum(again.stats.cache_hits.values()) == 1


FUNCTION = """
from numba import njit
@njit("int64(int64)", cache=True)
def double(x):
    return 2 * x
"""


def test_fault_34_two_processes_fill_an_empty_cache(tmp_path):
    there = {**os.environ, "NBNN_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": ON_PATH}
    code = [sys.executable, "-c", textwrap.dedent(KERNEL)]
    both = [subprocess.Popen(code, env=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    found = [one.communicate(timeout=200) for one in both]
    assert found[0] == found[1] and found[0][1] == b"" and len(found[0][0]) > 250
    assert len(list((tmp_path / "cache").rglob("*.nbi"))) == len(list((tmp_path / "cache").rglob("*.nbc"))) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp.*"))


# ---- files


@pytest.mark.parametrize("name", ["protocol 0", "protocol 4", "GLOBAL and REDUCE", "STACK_GLOBAL"])
def test_fault_35_no_file_can_run_anything(tmp_path, name):
    content = dict(hostile(tmp_path / "made"))[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    for read, kind in ((load, FileError), (formats.read_python_batch, ValueError), (formats.read_idx, ValueError)):
        with pytest.raises(kind, match=re.escape(str(path))):
            read(path)
    np.savez(tmp_path / "file.npz", a=np.array([Runs(tmp_path / "made")], object))
    with pytest.raises(FileError):
        load(tmp_path / "file.npz")
    assert not (tmp_path / "made").exists()
    pickle.loads(content)  # for Python's own reader it is no empty threat
    assert (tmp_path / "made").is_dir()


def rewrite(path, metadata=None, **graph):
    """The file with other entries in its header, the checksum made right again."""
    header, body = parts_of(path.read_bytes())
    told = {**header["__metadata__"], **(metadata or {})}
    told["graph"] = json.dumps({**json.loads(told["graph"]), **graph})
    from nbnn.files import checksum

    told["checksum"] = checksum(told, load(path).state_dict())
    path.write_bytes(joined({**header, "__metadata__": told}, body))


@pytest.mark.parametrize("name", ["innocent_module.Op", "innocent_module", "os.system", "builtins.exec", "Op", "_Pool"])
def test_fault_36_names_in_a_graph_import_nothing(small, tmp_path, monkeypatch, name):
    (tmp_path / "innocent_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"op": name, "module": "innocent_module", "class_name": "Op"}
    before = set(sys.modules)
    for row in (node, {"op": name}):
        with pytest.raises(GraphError, match=rf"^node 1: there is no op '{name}'; "):
            Graph.from_dict({"input": 4, "nodes": [row]})
    with pytest.raises(GraphError, match="^loss must be one of"):
        Graph.from_dict({"input": 4, "nodes": [{"op": "ReLU"}], "loss": name})
    _, path = small
    rewrite(path, nodes=[node])
    with pytest.raises(FileError, match=f"the graph in its header is damaged: node 1: there is no op '{name}'"):
        load(path)
    assert set(sys.modules) == before


def peak_of(use):
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        use()
        return tracemalloc.get_traced_memory()[1], time.perf_counter() - begun
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["arrays", "graph", "both", "header"])
def test_fault_37_a_small_file_that_declares_gigabytes_is_refused_before_room_is_made(small, kind):
    _, path = small
    if kind in ("graph", "both"):
        rewrite(path, nodes=[{"op": "Affine", "units": 2**33}, *SMALL.to_dict()["nodes"][1:]])
    content = path.read_bytes()
    header, body = parts_of(content)
    if kind in ("arrays", "both"):
        header["affine1.w"]["shape"] = [5, 2**33]
    if kind == "both":
        header["affine1.w"]["data_offsets"] = [0, 5 * 2**33 * 4]
    content = (2**40).to_bytes(8, "little") + content[8:] if kind == "header" else joined(header, body)
    path.write_bytes(content)

    def use():
        with pytest.raises(FileError):
            load(path)

    peak, seconds = peak_of(use)
    assert peak < 2e6 and seconds < 2


def test_fault_37_a_gzip_bomb_is_unpacked_as_far_as_its_header_says(tmp_path):
    path = tmp_path / "images.gz"
    sides = b"".join(n.to_bytes(4, "big") for n in (1, 28, 28))
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + sides + bytes(100_000_000), 1))

    def use():
        with pytest.raises(ValueError, match=re.escape(str(path))):
            formats.read_idx(path)

    peak, seconds = peak_of(use)
    assert peak < 20e6 and seconds < 5


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "file:secret"])
def test_fault_38_a_model_file_refers_to_nothing_outside(small, tmp_path, target):
    model, path = small
    nbnn.compile(SMALL, backend="numpy", seed=4).save(tmp_path / "secret")
    content = path.read_bytes()
    rewrite(path, {"external_data": target, "location": target})
    assert everything(load(path)) == everything(model)
    header, body = parts_of(content)
    header["affine1.b"].update(external_data=target, location=target)
    path.write_bytes(joined(header, body))
    assert everything(load(path)) == everything(model)
    header[target] = header.pop("affine1.b")
    path.write_bytes(joined(header, body))
    with pytest.raises(FileError, match=f"affine1.b is missing; {re.escape(repr(target))} is unknown"):
        load(path)
    with pytest.raises(GraphError, match="^node 1: Affine has no setting 'external_data'; "):
        Graph.from_dict({"input": 4, "nodes": [{"op": "Affine", "units": 3, "external_data": target}]})


@pytest.mark.parametrize("name", ["__class__", "__post_init__", "shape", "forward", "refuse", "passes", "label"])
def test_fault_39_names_in_a_file_set_no_attributes(small, name):
    model, path = small
    with pytest.raises(GraphError, match=rf"^node 1: ReLU has no setting '{name}'; it has name, inputs"):
        Graph.from_dict({"input": 4, "nodes": [{"op": "ReLU", name: "x"}]})
    with pytest.raises(GraphError, match="this one has the key"):
        Graph.from_dict({"input": 4, "nodes": [{"op": "ReLU"}], name: 1})
    rewrite(path, {name: "1", "_params": "1", "steps_taken": "7", "backend": "numba", "save": "1"})
    back = load(path)
    assert vars(back).keys() == vars(model).keys() and type(back) is nbnn.Model
    assert (back.steps_taken, back.backend) == (0, "numpy") and callable(back.save)
    assert everything(back) == everything(model)


def test_fault_40_every_cut_and_every_turned_bit_is_refused(tmp_path):
    """Cut behind every byte, and every single bit turned; in a soak every byte takes each of its other 255 values. What
    still loads has another kind of space behind its header, and is the same model."""
    model, path = nbnn.compile(Graph([Affine(3)], input=2), backend="numpy", seed=3), tmp_path / "net.safetensors"
    model.save(path)
    whole = path.read_bytes()
    wanted, changes = everything(model), range(1, 256) if SOAKING else [1 << k for k in range(8)]
    cuts = [whole[:place] for place in range(len(whole))]
    turned = [
        whole[:place] + bytes([byte ^ change]) + whole[place + 1 :]
        for place, byte in enumerate(whole)
        for change in changes
    ]
    assert len({whole, *cuts, *turned}) == 1 + len(cuts) + len(turned) == 1 + len(whole) * (1 + len(changes))
    for content in [*cuts, *turned]:
        path.write_bytes(content)
        try:
            back = load(path)
        except FileError as problem:
            assert str(problem).startswith(str(path))
        else:
            differ = [(a, b) for a, b in zip(whole, content, strict=True) if a != b]
            assert all(a == ord(" ") and b in b"\t\n\r" for a, b in differ), differ
            assert everything(back) == wanted and back.graph == model.graph and back.seed == 3
    tell("model files cut or with one byte changed", len(cuts) + len(turned))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_fault_41_a_kill_while_saving_leaves_the_last_file(small, moment):
    model, path = small
    found = child(f"""
        import os, signal
        import nbnn
        model = nbnn.load({str(path)!r}, backend="numpy")
        model.params["affine1.b"] += 1
        os.{moment} = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
        model.save({str(path)!r})
        """)  # fmt: skip
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert everything(load(path)) == everything(model)


def test_fault_41_a_full_disk_leaves_the_last_file(small, monkeypatch):
    model, path = small
    before, calls = path.read_bytes(), []
    model.params["affine1.b"] += 1
    for name in ("fsync", "replace"):

        def full(*words, name=name):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="an older file of that name is as it was$"):
                model.save(path)
        assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *words, name=name, real=real: (calls.append(name), real(*words)))
    model.save(path)
    assert calls[:2] == ["fsync", "replace"]  # the new file is whole on disk before it takes the place of the old one
    assert everything(load(path)) == everything(model)


def test_fault_42_arrays_are_told_apart_by_name_and_shape():
    model, other = nbnn.compile(SMALL, backend="numpy"), nbnn.compile(SMALL, backend="numpy", seed=1)
    arrays = other.state_dict()
    before = everything(model)
    wrong = {**arrays, "affine1.w": arrays["affine1.w"].T, "affine2.w": arrays["affine2.w"].ravel(), "extra": 1}
    del wrong["bn1.var"]
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(wrong)
    assert str(caught.value) == (
        "these arrays do not fit the graph: bn1.var is missing; extra is unknown; "
        "affine1.w must keep its shape (5, 4), got (4, 5); affine2.w must keep its shape (4, 3), got (12,)"
    )
    assert everything(model) == before
    model.load_state_dict(dict(reversed(arrays.items())))  # their order means nothing
    assert everything(model) == everything(other)


def test_fault_42_a_file_is_held_to_name_shape_and_dtype(small):
    _, path = small
    header, body = parts_of(path.read_bytes())
    header["affine1.w"]["shape"] = [4, 5]
    header["bn1.scale"] = header.pop("bn1.gamma")
    header["affine2.b"].update(dtype="I32")
    path.write_bytes(joined(header, body))
    with pytest.raises(FileError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: its arrays do not fit its graph: affine1.w must have shape (5, 4), got (4, 5); bn1.gamma is missing; "
        "affine2.b must be float32, got I32; bn1.scale is unknown"
    )


# ---- what outlives a run


def test_fault_43_a_resumed_training_is_the_one_that_was_never_stopped(tmp_path):
    """Moments, steps taken, place in the schedule, masks and minibatches: bit for bit."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()

    def stop(line):
        if line.startswith("(Epoch 3 "):
            raise KeyboardInterrupt

    options = {"verbose": True, "print_every": 1000, "optim_config": {"learning_rate": 0.01}}
    whole = solver_of(nbnn.compile(VECTORS), checkpoint=tmp_path / "whole", log=lambda line: None, **options)
    whole.train()
    stopped = solver_of(nbnn.compile(VECTORS), checkpoint=tmp_path / "stopped", log=stop, **options)
    stopped.train()
    assert 0 < stopped.iteration < whole.iteration
    again = solver_of(nbnn.compile(VECTORS), checkpoint=tmp_path / "stopped", log=lambda line: None, **options)
    again.resume()
    assert 0 < again.iteration < whole.iteration
    again.train()
    assert everything(again.model) == everything(whole.model)
    assert again.loss_history == whole.loss_history and again.val_acc_history == whole.val_acc_history


def test_fault_44_running_statistics_belong_to_the_best_weights(vectors):  # noqa: F811
    measured = []

    def note(line):
        if line.startswith("(Epoch"):
            measured.append(vectors.state_dict())

    settings = {"lr_decay": 3.0, "schedule": None, "optim_config": {"learning_rate": 0.02}, "num_epochs": 8}
    solver = solver_of(vectors, verbose=True, log=note, **settings)
    solver.train()
    best = int(np.argmax(solver.val_acc_history))
    assert best < len(measured) - 1
    for name, value in vectors.state_dict().items():
        assert np.array_equal(value, measured[best][name]), name
        assert not np.array_equal(value, measured[-1][name]), name
    found = vectors.evaluate(solver.X_val, solver.y_val)
    assert found["accuracy"] == solver.best_val_acc == solver.val_acc_history[best]


def text_of(filters, window, side):
    nodes = [Conv(filters, window, pad=window // 2), BatchNorm(), ReLU(), MaxPool(2), Conv(filters, window), Affine(10)]
    return Graph(nodes, input=(3, side, side), loss="softmax")


def test_fault_45_the_text_of_a_step_does_not_grow_with_its_sizes():
    """Loops lie in the kernels, which are compiled once for all graphs; a step is a straight list of calls."""
    lines = [lower(text_of(*sizes), algorithm="direct").source.splitlines() for sizes in ((8, 5, 16), (2048, 31, 256))]
    calls = [[re.findall(r"\w+(?=\()", line) for line in text if "#" not in line] for text in lines]
    assert sum(line.count("conv_forward") for line in calls[0]) == 4  # twice in predict, twice in gradients
    assert len(lines[1]) - len(lines[0]) <= 4  # lines that were too long for one; the small net also goes by shares
    depths = [Graph([Affine(5), ReLU()] * k, input=5, loss="softmax") for k in (10, 20, 40)]
    short, middle, long = (len(lower(graph).source.splitlines()) for graph in depths)
    assert long - middle == pytest.approx(2 * (middle - short), rel=0.1)


def kernels_kept():
    """The names of the kernels on disk."""
    paths = (cache.folder(cache.fingerprint()) / "locks").glob("*.kept")
    return {path.name for path in paths if not path.name.startswith("nbnn_step")}


def test_fault_45_a_net_of_large_windows_compiles_like_any_other():
    seconds = []
    for filters, window in ((16, 5), (96, 9)):
        model = nbnn.compile(text_of(filters, window, 32), algorithm="direct")
        if filters == 96:  # no kernel will be compiled for these sizes
            assert {f"{kernel}.float32.kept" for kernel in _kernels(model.lowered)} <= kernels_kept()
        begun = time.perf_counter()
        model.prepare()
        seconds.append(time.perf_counter() - begun)
    assert seconds[1] < max(3 * seconds[0], 20)


# ---- the list


def test_every_row_of_the_list_has_a_test():
    text = "".join((HERE / name).read_text(encoding="utf-8") for name in ("test_faults.py", "test_faults_around.py"))
    found = {int(number) for number in re.findall(r"^def test_fault_(\d\d)_", text, re.MULTILINE)}
    assert found == set(range(1, 46))
