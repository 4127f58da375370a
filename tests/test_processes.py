"""Several processes, threads, forks and a cache that is damaged or foreign: nothing crashes, hangs or changes a bit.

Every child process has a time after which it counts as hanging, and says which bits its training left behind: those of
a plain run, or the test fails.
"""

import collections
import contextlib
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time

import kept
import numpy as np
import pytest
import work
from soak import tell, times

from nbnn import cache

HERE = pathlib.Path(__file__).parent
LIMIT = 240  # seconds after which a child hangs; a loaded machine compiles the net of work.py in half of that
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")

# put before all modules of a child and of its helpers: a line for each function that is compiled and would be kept
SPY = """
import os
from numba.core import event

class Spy(event.Listener):
    def on_start(self, what):
        one = what.data["dispatcher"]
        if type(one._cache).__name__ != "NullCache":
            line = f"{one.py_func.__name__} {what.data['args']}\\n".encode()
            log = os.open(os.environ["NBNN_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, line)
            os.close(log)

    def on_end(self, what):
        pass

event.register("numba:compile", Spy())
"""


def start(code, folder=None, log=None, **environment):
    """Run code in a child process with a cache folder, by default that of the user."""
    path = [str(HERE), str(HERE.parent)]
    if folder is not None:
        environment["NBNN_CACHE_DIR"] = str(folder)
    if log is not None:
        spy = pathlib.Path(log).parent / "spy"
        spy.mkdir(exist_ok=True)
        (spy / "sitecustomize.py").write_text(SPY)
        environment["NBNN_TEST_LOG"] = str(log)
        path.insert(0, str(spy))
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(child):
    """Kill a child with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def lines(child, limit=LIMIT):
    """What a child printed, once it has ended well and in time."""
    try:
        found, problems = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(child)
        pytest.fail(f"a child process hangs: {child.args[-1]}")
    assert child.returncode == 0, f"exit status {child.returncode}: {problems}"
    return found.splitlines()


def run(code, folder=None, log=None, **environment):
    return lines(start(code, folder, log, **environment))


def compiled(log):
    """How often each function was compiled for each types."""
    path = pathlib.Path(log)
    return collections.Counter(path.read_text().splitlines()) if path.exists() else collections.Counter()


PLAIN = "import work; print(work.trained())"


@pytest.fixture(scope="module")
def plain():
    """The bits of a plain run in one thread."""
    (bits,) = run(PLAIN, NUMBA_NUM_THREADS="1")
    return bits


# ---- one compile, whoever asks


NEW = ("conv_forward", "relu_forward", "add_slots", "square_sums")  # kernels to compile beside the net's own step


class Crowd:
    """Processes that compile the same new net at the same moment."""

    def __init__(self, where, size):
        self.folder, self.log = where / "cache", where / "log"
        kept.give(self.folder, work.GRAPH, missing=NEW)
        now = time.time() + 3
        code = f"import work, time; time.sleep(max(0, {now} - time.time())); print(work.trained())"
        children = [start(code, self.folder, self.log) for _ in range(size)]
        self.bits = [lines(child) for child in children]
        self.compiled = compiled(self.log)
        self.copy = where / "copy"
        shutil.copytree(self.folder, self.copy)

    def restore(self):
        """All as it was, in the same place: Numba notes where the source of a step is."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.copy, self.folder)
        return self.folder


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    return Crowd(tmp_path_factory.mktemp("crowd"), times(4, 8))


def test_processes_that_compile_the_same_new_net_at_once_compile_it_once(crowd, plain):
    assert crowd.bits == [[plain]] * len(crowd.bits)
    assert {"_launch", "_walk", "train", "conv_forward"} <= {line.split()[0] for line in crowd.compiled}
    assert max(crowd.compiled.values()) == 1, crowd.compiled
    names = [path.stem for path in crowd.folder.glob("*/locks/*.kept")]
    assert len(names) == len(set(names)) > 20
    assert not list(crowd.folder.glob("*/locks/*.holder"))
    tell("processes that compiled one new net at once", len(crowd.bits))


def test_afterwards_nothing_is_compiled(crowd, plain, tmp_path):
    assert run(PLAIN, crowd.restore(), tmp_path / "log") == [plain]
    assert compiled(tmp_path / "log") == {}


COPY = 'from nbnn.kernels import names; print(names()["copy"].body("float32") is not None)'


def test_two_compiles_would_be_seen(tmp_path):
    for folder in ("a", "b"):
        assert run(COPY, tmp_path / folder, tmp_path / "log") == ["True"]
    assert list(compiled(tmp_path / "log").values()) == [2]


def test_two_dtypes_at_once_do_not_take_each_other_s_code(tmp_path):
    """Numba keeps all types of a function in one index, and two processes that change it at once lose a part of it or
    mix it up. So each dtype has a folder of its own."""
    code = """
        import sys, time
        import numpy as np
        from nbnn.kernels import names
        time.sleep(max(0, MOMENT - time.time()))
        for name in ("copy", "add_slots"):
            names()[name].body("DTYPE")
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 16)).astype("DTYPE")
        y = np.zeros_like(x)
        names()["copy"](x, y)
        print((x == y).all())
    """
    for _ in range(times(1, 10)):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        at = code.replace("MOMENT", str(time.time() + 2))
        both = [start(at.replace("DTYPE", name), tmp_path / "cache") for name in ("float32", "float64")]
        assert [lines(child) for child in both] == [["True"]] * 2
        for name in ("float32", "float64"):
            (tmp_path / "log").unlink(missing_ok=True)
            assert run(code.replace("MOMENT", "0").replace("DTYPE", name), tmp_path / "cache", tmp_path / "log")
            assert compiled(tmp_path / "log") == {}, "something was lost"


# ---- a process that holds a lock and does not go on

HOLDER = """
    import sys, time
    from numba.core import event
    from nbnn import compiling
    from nbnn.kernels import names
    compiling.BEAT = 0.1
    class Stuck(event.Listener):
        def on_start(self, what):
            if what.data["name"].startswith("native_lowering "):
                print("in the middle", flush=True)
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    WAITS
        def on_end(self, what):
            pass
    event.register("numba:run_pass", Stuck())
    names()["copy"].body("float32")
    print("done")
"""
WAITER = """
    import time, warnings
    import numpy as np
    from nbnn import compiling
    from nbnn.kernels import names
    compiling.BEAT, compiling.PATIENCE = 0.1, 1.5
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 16)).astype("float32")
    y = np.zeros_like(x)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        begun = time.monotonic()
        names()["copy"](x, y)
        names()["copy"](x, y)
    print((x == y).all(), round(time.monotonic() - begun, 2))
    for one in told:
        print(one.message)
"""


@contextlib.contextmanager
def holder(folder, waits="time.sleep(0.01)", seconds=600):
    """A process in the middle of compiling a kernel, for so many seconds."""
    code = textwrap.dedent(HOLDER).replace("WAITS", waits).replace("SECONDS", str(seconds))
    child = start(code, folder)
    try:
        assert child.stdout.readline() == "in the middle\n"
        while not any(path.stat().st_size for path in folder.glob("*/locks/copy.float32.holder")):
            time.sleep(0.01)  # until it has given its first sign of life
        yield child
    finally:
        end(child)


def is_kept(folder):
    return bool(list(folder.glob("*/locks/copy.float32.kept")))


@SIGNALS
def test_a_process_without_a_sign_of_life_is_not_waited_for(tmp_path):
    """One that was stopped, and one that hangs."""
    with holder(tmp_path / "stopped") as stopped, holder(tmp_path / "hangs") as hangs:
        os.kill(stopped.pid, signal.SIGSTOP)
        children = {child: start(WAITER, tmp_path / name) for name, child in (("stopped", stopped), ("hangs", hangs))}
        for child, waiter in children.items():
            right, warning = lines(waiter)
            assert right.startswith("True ")
            assert float(right.split()[1]) >= 1.5
            assert warning.startswith(f"copy.float32 is compiled for this run alone: process {child.pid} on ")
            assert "/locks/copy.float32 and has shown no sign of life for 1.5 seconds; end that process" in warning
        assert not is_kept(tmp_path / "stopped") and not is_kept(tmp_path / "hangs")
    (right,) = run(WAITER, tmp_path / "stopped")
    assert right.startswith("True ")
    assert is_kept(tmp_path / "stopped"), "once that process is gone the kernel is kept"


@SIGNALS
def test_a_process_that_works_is_waited_for(tmp_path):
    with holder(tmp_path / "cache", waits="pass", seconds=4):
        (right,) = run(WAITER, tmp_path / "cache")
        assert right.startswith("True ")
        assert is_kept(tmp_path / "cache")


@SIGNALS
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    with holder(tmp_path / "cache") as child:
        os.kill(child.pid, signal.SIGKILL)
        (right,) = run(WAITER, tmp_path / "cache")
    assert right.startswith("True ")
    assert is_kept(tmp_path / "cache")


@SIGNALS
def test_a_helper_that_does_not_end_is_killed():
    """Nothing is left for it to do when all bodies are there."""
    code = """
        import os, signal, subprocess, sys
        from nbnn.kernels import bodies
        bodies.FAREWELL = 0.2
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os.kill(helper.pid, signal.SIGSTOP)
        bodies._helpers.append(helper)
        bodies.supply()
        print(helper.returncode == -signal.SIGKILL)
    """
    assert run(code) == ["True"]


# ---- a cache that is damaged

CHEAP = ("add_slots", "add_total", "copy_rows", "gather_labels", "relu", "running", "turn", "square_sums", "walk")


def truncated(path, others, rng):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path, others, rng):
    path.write_bytes(b"")


def overwritten(path, others, rng):
    path.write_bytes(rng.bytes(path.stat().st_size))


def flipped(path, others, rng):
    """A few bits in the middle, where machine code is."""
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content) // 4, 3 * len(content) // 4, 32):
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def exchanged(path, others, rng):
    """Another kernel's file."""
    path.write_bytes(next(other.read_bytes() for other in others if other.read_bytes() != path.read_bytes()))


def removed(path, others, rng):
    """An index then points to nowhere."""
    path.unlink()


def a_folder(path, others, rng):
    path.unlink()
    path.mkdir()


def a_link(path, others, rng):
    """What is linked to may be changed by others."""
    target = next(p for p in path.parents if p.name in ("numba", "locks")).parent / f"{path.name}.elsewhere"
    path.rename(target)
    path.symlink_to(target)


DAMAGES = [truncated, emptied, overwritten, flipped, exchanged, removed, a_folder, a_link]


def whose(path):
    """The name by which a file is kept."""
    folder = next(p for p in path.parents if p.name in ("numba", "locks"))
    return path.relative_to(folder).parts[0].removesuffix(".kept")


def functions(names, folder):
    """The compiled functions of things that are kept by these names."""
    found = {name.split(".")[0] for name in names if not name.startswith("nbnn_step")}
    for name in names:
        for path in folder.glob(f"*/{name.removeprefix('nbnn_')}.py"):
            of_a_net = "@compiled" in path.read_text()  # Python asks nobody's gradients here
            found |= (
                {"predict", "gradients"} if of_a_net else {"train" if "def train(" in path.read_text() else "predict"}
            )
    return {{"walk": "_walk", "launch": "_launch", "go": "_go"}.get(name, name) for name in found}


@pytest.mark.parametrize("damages", times([DAMAGES], [[one] for one in DAMAGES]), ids=lambda d: f"{len(d)} kinds")
def test_damaged_files_are_compiled_again(crowd, plain, damages, tmp_path):
    """Every kind of file with every damage. Numba alone runs flipped bits as they are, or ends with an error."""
    rng = np.random.default_rng(DAMAGES.index(damages[0]))
    kinds = "*/numba/**/*.nbi", "*/numba/**/*.nbc", "*/locks/*.kept"
    for turn in range(times(1, 6)):
        folder, log, hit = crowd.restore(), tmp_path / f"log{turn}", set()
        for k, damage in enumerate(damages):
            for pattern in kinds if times(0, 1) else [kinds[k % 3]]:
                files = [path for path in sorted(folder.glob(pattern)) if whose(path) not in hit]
                likely = files if times(0, 1) else [path for path in files if whose(path).startswith(CHEAP)]
                path = likely[rng.integers(len(likely))]
                damage(path, files, rng)
                hit.add(whose(path))
        for source in sorted(folder.glob("*/step_*.py")):
            (emptied if turn % 2 else a_folder)(source, [], rng)  # it is written again, and costs no compile
        assert run(PLAIN, folder, log) == [plain]
        assert {line.split()[0] for line in compiled(log)} == functions(hit, folder)
        log.unlink()
        assert run(PLAIN, folder, log) == [plain]
        assert compiled(log) == {}, "it is whole again"
    for damage in damages:
        tell(f"files of compiled code {damage.__name__.replace('_', ' ')}", len(kinds) * times(1, 6))


def test_a_whole_cache_of_damaged_files(crowd, plain):
    """All of them, each in another way; only in `make soak`, since all is compiled again."""
    if times(0, 1) == 0:
        pytest.skip("compiles a whole net: only in `make soak`")
    rng = np.random.default_rng(0)
    folder = crowd.restore()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)  # locks are empty
    for path in files:
        with contextlib.suppress(StopIteration):  # no other file to take
            DAMAGES[rng.integers(len(DAMAGES))](path, [p for p in files if p.is_file()], rng)
    assert run(PLAIN, folder) == [plain]
    tell("files of a cache that were damaged at once", len(files))


def test_a_cache_that_is_removed_meanwhile(tmp_path):
    code = f"""
        import shutil, numpy as np
        from nbnn.kernels import names
        x = np.ones((2, 3, 4, 16), "float32")
        for name in ("copy", "flatten_forward"):
            y = np.zeros(x.shape if name == "copy" else (2, 1, 1, 192), "float32")
            names()[name](x, y)
            print((y == 1).all())
            shutil.rmtree({str(tmp_path / "cache")!r})
    """
    assert run(code, tmp_path / "cache") == ["True", "True"]


# ---- a cache that is foreign


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The function `folder`, asked for the first time in this process, about a cache in tmp_path."""
    monkeypatch.setattr(cache, "_warned", [])
    monkeypatch.setattr(cache, "own_folder", lambda: tmp_path)
    monkeypatch.setenv("NBNN_CACHE_DIR", str(tmp_path / "cache"))
    return cache.folder.__wrapped__


ROOT = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
UNIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners there")


def refused(fresh, tmp_path, reason):
    with pytest.warns(UserWarning, match="^compiled code is not kept: the cache folder cannot be used") as told:
        assert fresh("steps") == tmp_path / "steps"
    assert f"({reason});" in str(told[0].message)


@UNIX
def test_what_another_user_has_made_is_not_used(fresh, tmp_path, monkeypatch):
    """Seen by another user: the folder in which ours would lie is not theirs."""
    (tmp_path / "cache").mkdir()
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    mine = tmp_path / "cache" / "steps" if me == 0 else tmp_path / "cache"
    refused(fresh, tmp_path, f"{mine} belongs to another user")


@ROOT
@pytest.mark.parametrize("place", ["cache", "cache/steps"])
def test_a_folder_that_belongs_to_another_user_is_not_used(fresh, tmp_path, place):
    (tmp_path / "cache" / "steps").mkdir(parents=True)
    os.chown(tmp_path / place, 12345, 12345)
    refused(fresh, tmp_path, f"{tmp_path / place} belongs to another user")
    assert not list((tmp_path / "cache" / "steps").iterdir())


@ROOT
def test_in_a_folder_for_all_only_our_own_is_used(fresh, tmp_path):
    """As in /tmp, which may belong to anybody, since nobody there can move what belongs to others."""
    root = tmp_path / "cache"
    root.mkdir()
    os.chown(root, 12345, 12345)
    root.chmod(0o1777)
    assert fresh("steps") == root / "steps"
    assert stat.S_IMODE((root / "steps").stat().st_mode) == 0o700
    assert stat.S_IMODE(root.stat().st_mode) == 0o1777
    os.chown(root / "steps", 12345, 12345)
    refused(fresh, tmp_path, f"{root / 'steps'} belongs to another user")


@UNIX
def test_a_link_is_not_used(fresh, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "cache" / "steps").symlink_to(tmp_path / "elsewhere")
    refused(fresh, tmp_path, f"{tmp_path / 'cache' / 'steps'} is a link")
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755


@UNIX
def test_the_root_may_be_a_link_to_a_folder_of_ours(fresh, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    assert fresh("steps") == tmp_path / "cache" / "steps"


@UNIX
def test_nobody_else_may_write(fresh, tmp_path):
    (tmp_path / "cache" / "steps").mkdir(parents=True)
    (tmp_path / "cache").chmod(0o777)
    (tmp_path / "cache" / "steps").chmod(0o770)
    fresh("steps")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "cache" / "steps").stat().st_mode) == 0o700


@UNIX
def test_a_new_cache_is_private_from_its_root_on(fresh, tmp_path):
    before = os.umask(0)
    try:
        fresh("steps")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / p).stat().st_mode) for p in ("cache", "cache/steps")] == [0o700] * 2


@ROOT
def test_files_of_another_user_are_compiled_again(crowd, plain, tmp_path):
    folder, log = crowd.restore(), tmp_path / "log"
    path = next(folder.glob("*/numba/add_total.float32/*/*.nbc"))  # there is one for each place that nbnn lies in
    os.chown(path, 12345, 12345)
    (other,) = folder.glob("*/numba/turn.float32")
    os.chown(other, 12345, 12345)
    assert run(PLAIN, folder, log) == [plain]
    assert {line.split()[0] for line in compiled(log)} == {"add_total", "turn"}
    assert all(path.stat().st_uid == 0 for path in folder.rglob("*"))


@FORKS
def test_a_temporary_cache_outlives_a_forked_child(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    (tmp_path / "temporary").mkdir()
    code = """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from nbnn.kernels import names
        names()["copy"].body("float32")
        child = os.fork()
        if child == 0:
            sys.exit(0)  # with all that is done at the end of a process
        assert os.waitpid(child, 0)[1] == 0
        names()["add_slots"].body("float32")
        print(len(os.listdir(os.environ["TMPDIR"])))
    """
    assert run(code, tmp_path / "cache", TMPDIR=str(tmp_path / "temporary")) == ["1"]
    assert os.listdir(tmp_path / "temporary") == []


# ---- threads, their number, and what runs them

LAYERS = {
    "usual": {},
    "one thread": {"NUMBA_NUM_THREADS": "1"},
    "more threads than cores": {"NUMBA_NUM_THREADS": str(4 * (os.cpu_count() or 1) + 1)},
    "workqueue": {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "3"},
    "OMP_NUM_THREADS": {"OMP_NUM_THREADS": "1"},
    "OMP_THREAD_LIMIT": {"OMP_THREAD_LIMIT": "1", "OMP_DYNAMIC": "true", "NUMBA_NUM_THREADS": "4"},
}


EVERYTHING = "import work; print(*[bits for _ in range(TIMES) for bits in work.everything()])"
ONE_CORE = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"


@contextlib.contextmanager
def together(children):
    """Children that were started at once, by name."""
    try:
        yield children
    finally:
        for child in children.values():
            end(child)


@pytest.fixture(scope="module")
def layers(plain):
    code = EVERYTHING.replace("TIMES", str(times(1, 50)))
    with together({layer: start(code, **environment) for layer, environment in LAYERS.items()}) as children:
        yield children


@pytest.mark.parametrize("layer", LAYERS)
def test_threads_change_no_bit(layer, layers, plain):
    """A plain run, two models in two threads, one model asked by four, and a number of threads that changes."""
    (found,) = lines(layers[layer], times(1, 5) * LIMIT)
    assert set(found.split()) == {plain}
    tell(f"trainings in threads at once, {layer}", 10 * times(1, 50))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
@pytest.mark.parametrize("before", [f"{ONE_CORE}; import work", f"import work; work.trained(); {ONE_CORE}"])
def test_one_core_for_many_threads(before, plain):
    assert run(f"import os; {before}; print(*work.everything())", NUMBA_NUM_THREADS="4") == [plain]


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_the_launches_of_the_net_use_threads():
    """Else nothing here would be tested."""
    code = "import os, work; work.trained(); print(len(os.listdir('/proc/self/task')) > 2)"
    assert run(code, NUMBA_NUM_THREADS="4") == ["True"]


# ---- forks and pools of processes

POOLS = {
    "fork": "*in_pool('fork'), *in_executor('fork')",
    "spawn": "*in_pool('spawn')",
    "forkserver": "*in_executor('forkserver')",
    "joblib's processes": "*in_joblib('loky')",
    "joblib's forks and threads": "*in_joblib('multiprocessing'), *in_joblib('threading')",
}
IN_POOLS = """
    import concurrent.futures, multiprocessing, work
    def in_pool(method):
        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(work.trained, [0] * 4, chunksize=1)
    def in_executor(method):
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            return list(pool.map(work.trained, [0] * 4))
    def in_joblib(backend):
        import joblib
        return joblib.Parallel(2, backend=backend)(joblib.delayed(work.trained)() for _ in range(4))
    print(work.trained(), FOUND, work.trained())
"""


@pytest.fixture(scope="module")
def pools(plain):
    with together({name: start(IN_POOLS.replace("FOUND", found)) for name, found in POOLS.items()}) as children:
        yield children


@FORKS
@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_processes_change_no_bit(pool, pools, plain):
    (found,) = lines(pools[pool])
    assert set(found.split()) == {plain}
    assert len(found.split()) in (6, 10)


CHILDREN = """
    import os, select, signal, sys, threading, time
    import numpy as np
    import nbnn, work
    def forked(work, seconds=100):
        # what a forked child prints of its work, or that it hangs
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, str(work()).encode())
            finally:
                os._exit(0)
        os.close(writing)
        ready = select.select([reading], [], [], seconds)[0]
        found = os.read(reading, 1000).decode() if ready else "hangs"
        os.close(reading)
        os.kill(child, signal.SIGKILL) if not ready else None
        status = os.waitpid(child, 0)[1]
        return found if status == 0 else f"{found}, status {status}"
"""


@FORKS
@pytest.mark.parametrize("layer", ["usual", "workqueue"])
def test_a_fork_while_a_thread_is_in_a_step(layer, plain):
    """The child has all locks as they were, and no thread that would ever release them; the model of that thread is
    where it was, and can be used."""
    code = """
    model, (x, y), done = nbnn.compile(work.GRAPH), work.data(), threading.Event()
    def busy():
        while not done.is_set():
            model.train_steps(x, y, steps=300)
    thread = threading.Thread(target=busy)
    thread.start()
    while model.steps_taken == 0:
        time.sleep(0.01)
    def child():
        model.predict(x)
        model.train_steps(x, y)
        return work.trained()
    print(*[forked(child) for _ in range(TIMES)])
    done.set()
    thread.join()
    print(work.trained())
    """
    count = times(4, 200)
    inside, after = run(textwrap.dedent(CHILDREN) + textwrap.dedent(code).replace("TIMES", str(count)), **LAYERS[layer])
    assert inside.split() == [plain] * count
    assert after == plain
    tell(f"forks while a thread trains, {layer}", count)


@FORKS
def test_a_fork_while_a_thread_compiles(crowd, plain):
    """Numba's and LLVM's locks are held then: the fork waits."""
    code = """
    from numba.core import event
    from nbnn.kernels import names
    begun = threading.Event()
    class Begin(event.Listener):
        def on_start(self, what):
            begun.set()
        def on_end(self, what):
            pass
    event.register("numba:compile", Begin())
    kernel = names()["gelu_forward"]
    thread = threading.Thread(target=kernel.body, args=("float64",))
    thread.start()
    begun.wait()
    print(forked(work.trained))
    thread.join()
    print(forked(lambda: kernel.body("float64") is not None))
    """
    assert run(textwrap.dedent(CHILDREN) + textwrap.dedent(code), crowd.restore()) == [plain, "True"]


@FORKS
def test_a_child_of_a_child(plain):
    code = """
    work.trained()
    print(forked(lambda: forked(work.trained) + " " + work.trained()))
    """
    assert run(textwrap.dedent(CHILDREN) + textwrap.dedent(code))[0].split() == [plain] * 2


@FORKS
def test_a_fork_after_somebody_else_s_threads(plain):
    """The parent has used Numba's threads, and nbnn for nothing yet but its import."""
    code = """
    import os, numba, numpy as np, nbnn
    @numba.njit(parallel=True)
    def total(x):
        found = 0.0
        for k in numba.prange(len(x)):
            found += x[k]
        return found
    assert total(np.ones(1000)) == 1000
    child = os.fork()
    if child == 0:
        import work
        print(work.trained(), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    assert run(code) == [plain]
