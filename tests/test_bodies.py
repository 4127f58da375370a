"""Kernels that are missing on disk are compiled by several processes, each by one of them; a step finds them all."""

import gc
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import threading

import kept
import numpy as np
import pytest
from numba import njit, types
from numba.core import ir
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import TypingError
from numba.core.inline_closurecall import InlineWorker
from soak import times

import nbnn
from nbnn import Affine, Graph, Tanh, cache, compiling
from nbnn.eager import Eager
from nbnn.kernels import bodies, inlining, names
from nbnn.kernels.engine import TOOLS
from nbnn.kernels.jit import BARE, OPTIONS
from nbnn.step import Step

GRAPH = Graph([Affine(4), Tanh(), Affine(3)], input=(8,), loss="softmax")
MISSING = ("affine_backward_weights", "affine_forward", "gather", "gather_labels", "square_sums", "update")
NET = f"""
    import numpy as np, nbnn, os, sys, time
    from nbnn.kernels import bodies, jit
    from nbnn import *
    graph = {GRAPH!r}
    r = np.random.default_rng(0)
    x, y = r.standard_normal((6, 8)).astype("float32"), r.integers(0, 3, 6)
"""


def run(code, folder, **environment):
    program = textwrap.dedent(NET) + textwrap.dedent(code)
    env = {**os.environ, "NBNN_CACHE_DIR": str(folder), **environment}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=300)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_helpers_compile_a_part_and_the_next_process_compiles_nothing(tmp_path):
    kept.give(tmp_path, GRAPH, MISSING)
    code = """
        compiled = []
        bodies.PER_HELPER = 3
        locks = nbnn.cache.folder(nbnn.cache.fingerprint()) / "locks"
        before = set(locks.glob("*.float32.kept"))
        whole = jit.compiled_for
        def watched(kinds, function, name, wait=True, **options):
            before = nbnn.compiling.is_kept(name)
            found = whole(kinds, function, name, wait, **options)
            compiled.extend([name] if name.endswith(".float32") and found is not None and not before else [])
            return found
        jit.compiled_for = watched
        os.sched_getaffinity = lambda process: {0, 1, 2}
        started = []
        popen = bodies.subprocess.Popen
        bodies.subprocess.Popen = lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
        supply = bodies.supply
        def after_a_helper():  # on a busy machine this process could be done before a helper has started
            end = time.monotonic() + 60
            while started and set(locks.glob("*.float32.kept")) == before and time.monotonic() < end:
                time.sleep(0.02)
            supply()
        bodies.supply = after_a_helper
        model = nbnn.compile(graph, seed=0)
        model.train_steps(x, y)
        assert {one.returncode for one in started} <= {0}
        print(len(started), len(compiled), len(set(locks.glob("*.float32.kept")) - before))
    """
    helpers, mine, all_of_them = map(int, run(code, tmp_path))
    assert helpers == 2 and mine < all_of_them >= len(MISSING), (helpers, mine, all_of_them)
    assert list(map(int, run(code, tmp_path))) == [0, 0, 0]


def test_a_start_from_disk_imports_nothing_that_only_compiling_needs(tmp_path):
    """And what others compile afterwards finds all that Numba has."""
    kept.give(tmp_path, GRAPH, ())
    code = """
        model = nbnn.compile(graph, seed=0)
        model.train_steps(x, y)
        modules = ("core.inline_closurecall", "np.arraymath", "np.arrayobj", "np.linalg", "typed.typeddict")
        print(*(name for name in modules if f"numba.{name}" in sys.modules))
        import numba
        print(numba.njit(lambda a: a.T.copy().sum() + len([1, 2]) + len({3: 4}))(np.ones((2, 3))))
        model.train_steps(x, y)
    """
    run(code, tmp_path)  # compiles what is not kept
    assert run(code, tmp_path) == ["9.0"]


@pytest.mark.parametrize(
    "broken", ["sys.executable = '/bin/false'", "sys.executable = '/nowhere'", "sys.executable = None"][: times(1, 3)]
)
def test_without_helpers_one_process_does_it_all(broken, tmp_path):
    kept.give(tmp_path, GRAPH, MISSING)
    code = f"""
        bodies.PER_HELPER = 3
        os.sched_getaffinity = lambda process: {{0, 1}}
        {broken}
        model = nbnn.compile(graph, seed=0)
        print(float(model.train_steps(x, y)[0]) > 0)
    """
    assert run(code, tmp_path) == ["True"]


def test_a_helper_of_another_state_of_the_code_does_nothing(tmp_path):
    code = """
        bodies.help_with(["another", "relu_forward.float32"])
        print(nbnn.compiling.is_kept("relu_forward.float32"))
    """
    assert run(code, tmp_path) == ["False"]


def test_what_another_process_compiles_is_waited_for(tmp_path):
    """A lock held elsewhere: asked not to wait, there is no body; then it comes."""
    code = """
        import subprocess, time
        from nbnn.kernels import names
        folder = nbnn.cache.folder(nbnn.cache.fingerprint()) / "locks"
        folder.mkdir()
        hold = "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]).acquire(); "
        hold += "print(1, flush=True); time.sleep(2)"
        command = [sys.executable, "-c", hold, str(folder / "relu_forward.float32")]
        other = subprocess.Popen(command, stdout=subprocess.PIPE)
        other.stdout.readline()
        kernel = names()["relu_forward"]
        print(kernel.body("float32", wait=False))
        begun = time.perf_counter()
        print(kernel.body("float32") is not None, time.perf_counter() - begun > 0.5)
        other.wait()
        other.stdout.close()
    """
    assert run(code, tmp_path) == ["None", "True", "True"]


def test_numba_s_settings_are_as_before_when_a_block_ends():
    from numba.core import config

    before = config.CACHE_DIR, config.OPT
    with compiling.numba_folder("settings"):
        assert pathlib.Path(config.CACHE_DIR) == cache.folder(cache.fingerprint()) / "numba" / "settings"
        assert config.OPT == cache.OPTIMISATION and not gc.isenabled()
    assert before == (config.CACHE_DIR, config.OPT) and gc.isenabled()


def test_two_threads_that_compile_two_nets_do_not_wait_for_each_other(tmp_path):
    """One imports a step, which asks for cells, while the other fills cells."""
    kept.give(tmp_path, GRAPH, MISSING)
    code = """
        import threading
        bodies.PER_HELPER = 3
        os.sched_getaffinity = lambda process: {0, 1}
        found = []
        def work(units):
            graph = Graph([Affine(units), Tanh(), Affine(3)], input=(8,), loss="softmax")
            found.append(float(nbnn.compile(graph, seed=0).train_steps(x, y)[0]) > 0)
        threads = [threading.Thread(target=work, args=(units,), daemon=True) for units in (4, 5, 6)]
        [thread.start() for thread in threads]
        [thread.join(120) for thread in threads]
        print(*found)
    """
    assert run(code, tmp_path) == ["True"] * 3


# many helpers within helpers, a loop of its own, and what has none; in a soak all
QUICK = ("affine_backward_weights", "max_pool_forward", "norm_forward", "clip_norm")


@pytest.mark.parametrize("name", QUICK[: times(len(QUICK), 0)] or sorted(names()))
def test_quick_inlining_changes_no_instruction(name, monkeypatch):
    kernel = names()[name]
    kinds = (*kernel.types("float32"), *[types.int64] * len(kernel.share))
    texts = []
    monkeypatch.setattr(inlining, "_of_numba", lambda *words: texts.append(words[1]) or of_numba(*words))

    def instructions(**options):
        texts.clear()
        (text,) = njit(types.void(*kinds), **BARE, **options)(kernel.function).inspect_asm().values()
        return re.sub(r"_ZN\w+(\.\w+)*", "name", text), list(texts)

    of_numba = InlineWorker.run_untyped_passes
    quick, once = instructions(**OPTIONS)
    monkeypatch.setattr(InlineWorker, "run_untyped_passes", inlining._of_numba)
    plain, again = instructions(**{key: value for key, value in OPTIONS.items() if key != "pipeline_class"})
    assert quick == plain
    assert len(once) == len(set(once)) and set(once) == set(again)
    assert len(once) < len(again) or name not in QUICK[:2]


def test_numba_is_changed_while_its_lock_is_held_and_no_longer(monkeypatch):
    held, whole = [], inlining.quick_inlining

    def watched(helpers):
        held.append(global_compiler_lock.is_locked())
        return whole(helpers)

    def as_it_was():
        return InlineWorker.run_untyped_passes is inlining._of_numba and "__deepcopy__" not in vars(ir.Scope)

    monkeypatch.setattr(inlining, "quick_inlining", watched)
    assert as_it_was()
    njit("int64(int64)", **OPTIONS)(lambda x: x + 1)
    assert as_it_was()
    with pytest.raises(TypingError):
        njit("int64(int64)", **OPTIONS)(lambda x: x.nothing)
    assert as_it_was()
    assert held == [True, True]


def test_a_kernel_refuses_what_it_cannot_take():
    """It is called by its address, so nobody else would."""
    copy, x, y = names()["copy"], np.ones((2, 1, 1, 8), np.float32), np.zeros((2, 1, 1, 8), np.float32)
    fixed, shifted = y.copy(), np.zeros(65, np.uint8)[1:].view(np.float32).reshape(y.shape)
    fixed.flags.writeable = False
    wanted = r"^copy wants an aligned, writable array of float32, 4 axes; got "
    for bad, got in (
        (y.astype(">f4"), ">f4, 4"),
        (y.astype(np.float64), "<f8, 4"),
        (y[0], "<f4, 3"),
        (fixed, "<f4, 4"),
        (shifted, "<f4, 4"),
        (y.tolist(), "list"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"{wanted}{got}$"):
            copy.body("float32")(x, bad, 0, 2)
    with pytest.raises(TypeError, match="^copy takes 4 arguments, got 3$"):
        copy.body("float32")(x, y, 0)
    with pytest.raises(TypeError, match="float"):
        copy.body("float32")(x, y, 0, 2.7)
    with pytest.raises(OverflowError, match="^copy takes numbers of 64 bits, got 18446744073709551616$"):
        copy.body("float32")(x, y, 0, 2**64)
    copy(x, y)
    np.testing.assert_array_equal(x, y)


WRONG = """
from nbnn.kernels.engine import float32 as kernels
copy, trust = kernels("copy", "trust")
{tools} = kernels.tools

@called
def run(a, sums):
    {wrong}
"""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "launch(copy(view(a, 0, (2, 16), (16, 1)), view(a, 0, (1, 1, 1, 32), (32, 32, 32, 1))))",
            "copy wants array(float32, 4d, A) for x, got view(float32, 2)",
        ),
        (
            "launch(trust(view(a, 0, (2,), (1,)), view(a, 0, (2,), (1,)), 1.0, view(a, 0, (2,), (1,))))",
            "trust wants array(float64, 1d, A) for sums, got view(float32, 1)",
        ),
        (
            "launch(trust(view(a, 0, (2,), (1,)), view(a, 0, (2,), (1,)), view(sums, 0, (2,), (1,)), sums))",
            "trust wants float64 for largest, got view(float64, 1)",
        ),
    ],
)
def test_a_step_that_hands_over_a_wrong_view_does_not_compile(wrong, said):
    """Nobody would notice when it runs: a kernel reads as much of a block as it expects."""
    step = Step(WRONG.format(wrong=wrong, tools=", ".join(TOOLS)), jitted=True)
    with pytest.raises(TypingError) as caught:
        step("run", np.zeros(64, np.float32), np.zeros(4))
    assert said in str(caught.value)


def test_a_start_that_is_interrupted_can_be_made_again(tmp_path):
    kept.give(tmp_path, GRAPH, ())
    code = """
        from nbnn.kernels import launch
        whole, asked = launch.compiled_for, []
        def interrupted(kinds, function, name, **options):
            asked.append(name)
            if asked == ["walk", "launch"]:
                raise KeyboardInterrupt
            return whole(kinds, function, name, **options)
        launch.compiled_for = interrupted
        model = nbnn.compile(graph, seed=0)
        try:
            model.predict(x)
        except KeyboardInterrupt:
            print("interrupted")
        print(len(model.predict(x)), len(asked))
    """
    assert run(code, tmp_path) == ["interrupted", "6", "5"]


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_threads_may_begin_with_single_ops(layer, tmp_path):
    """Nothing is there yet, not even what says whether launches must take turns."""
    kept.give(tmp_path, GRAPH, ())
    code = """
        import threading
        from nbnn.eager import Eager
        z = r.standard_normal((64, 32, 32, 32)).astype("float32")
        ready, found = threading.Barrier(4), []
        def work():
            ready.wait()
            found.append(Eager(Tanh(), z.shape[1:], "float32").forward(z).tobytes())
        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len(found), len(set(found)))
    """
    assert run(code, tmp_path, NUMBA_THREADING_LAYER=layer) == ["4", "1"]


def test_who_has_all_kernels_does_not_wait_for_what_others_compile(monkeypatch):
    x = np.zeros((6, 8), np.float32)
    model, op = nbnn.compile(GRAPH), Eager(Tanh(), (8,), "float32")
    model.prepare()
    op.forward(x)
    locked, done = threading.Event(), threading.Event()

    def compiles():
        with compiling.one_at_a_time():
            locked.set()
            done.wait(60)

    monkeypatch.setattr(bodies, "_waiting", [(names()["copy"], "float32")])
    other = threading.Thread(target=compiles)
    other.start()
    locked.wait()
    mine = threading.Thread(target=lambda: [model.predict(x), model.train_steps(x, np.zeros(6, int)), op.forward(x)])
    mine.start()
    mine.join(30)
    waits = mine.is_alive()
    done.set()
    other.join()
    mine.join()
    assert not waits


def test_helpers_that_have_ended_keep_nobody_from_helping(monkeypatch):
    class Ended:
        def poll(self):
            return 0

    started = []
    monkeypatch.setattr(bodies, "_helpers", [Ended()])
    monkeypatch.setattr(bodies, "_waiting", [(kernel, "float32") for kernel in list(names().values())[:20]])
    monkeypatch.setattr(compiling, "is_kept", lambda name: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or Ended())
    bodies.send_for_help()
    assert len(started) == 1 and len(bodies._helpers) == 1


def test_a_net_that_only_predicts_compiles_no_way_back(tmp_path):
    kept.give(tmp_path, GRAPH, ("affine_backward_weights", "softmax_loss", "update", "gather", "gather_lengths"))
    code = """
        nbnn.compile(graph, seed=0).predict(x)
        names = "affine_backward_weights", "softmax_loss", "update", "affine_forward", "gather"
        print(*(nbnn.compiling.is_kept(f"{name}.float32") for name in names))
    """
    assert run(code, tmp_path) == ["False", "False", "False", "True", "True"]
