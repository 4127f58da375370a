"""Checkpoints: going on to the same bits, what is refused, what is kept, and disks that fail."""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save
from training import COMMON, KINDS, Counter, outcome, pictures, solver_of, vectors

import nbnn
from nbnn import Affine, Dropout, Graph, Solver, cache
from nbnn.checkpoints import Checkpoint, differences, to_bytes
from nbnn.files import FileError

COMPILED = [(kind, "numba") for kind in ("pictures", "vectors")]  # the course's net is NumPy's in any case
LAST = 12 * COMMON["num_epochs"]  # 200 examples in minibatches of 16


class Stop:
    """A log that keeps the lines and presses Ctrl-C at one of them."""

    def __init__(self, at=None):
        self.lines, self.at = [], at

    def __call__(self, line):
        self.lines.append(line)
        if self.at and line.startswith(self.at):
            self.at = None
            signal.raise_signal(signal.SIGINT)


def at(iteration):
    return f"(Iteration {iteration} /"


def names(folder):
    return sorted(p.name for p in pathlib.Path(folder).iterdir() if p.name[0] != ".")


@functools.cache
def undisturbed(kind, backend="numpy"):
    """A training that was never stopped, and its lines."""
    solver = solver_of(kind, log=Stop(), backend=backend)
    solver.train()
    return solver, solver.log.lines


@pytest.fixture(scope="module")
def whole():
    return {kind: undisturbed(kind) for kind in KINDS}


def stopped(kind, folder, iteration, **options):
    solver = solver_of(kind, folder, log=Stop(at(iteration)), **options)
    solver.train()
    return solver


# ---- there and back


@pytest.mark.parametrize("iteration", [1, 2, 29, LAST])
@pytest.mark.parametrize(("kind", "backend"), [*((kind, "numpy") for kind in KINDS), *COMPILED])
def test_a_training_goes_on_to_the_same_bits(kind, backend, iteration, tmp_path):
    first = stopped(kind, tmp_path, iteration, backend=backend)
    path = first._keeper.folder.newest_first()[0]
    assert first.log.lines[-1].startswith(f"Stopped by Ctrl-C after iteration {first.iteration} of {LAST}; ")
    assert first.log.lines[-1].endswith(f"; resume() goes on from {path}")
    second = solver_of(kind, tmp_path, log=Stop(), backend=backend)
    assert second.resume() is True
    assert second.log.lines == [f"Going on from {path}, iteration {first.iteration} of {LAST}"]
    second.train()
    wanted, lines = undisturbed(kind, backend)
    assert outcome(second) == outcome(wanted)
    news = [line for line in first.log.lines + second.log.lines if line.startswith("(")]
    assert news == lines


@pytest.mark.parametrize("kind", KINDS)
def test_train_again_after_a_stop_goes_on_where_it_was(kind, whole, tmp_path):
    """The model holds the best weights meanwhile; the training goes on from the latest."""
    solver = stopped(kind, tmp_path, 40)
    solver.train()
    assert outcome(solver) == outcome(whole[kind][0])


def test_weights_that_were_changed_after_a_stop_are_trained_on(tmp_path):
    solver = stopped("vectors", tmp_path, 40)
    solver.model.params["affine1.w"] = 0 * solver.model.params["affine1.w"]
    solver.callbacks.append(lambda s: seen.append(s.model.params["affine1.w"].copy()))
    seen = []
    before = solver.trainee.steps
    solver.trainee.steps = lambda *a: (seen.append(solver.model.params["affine1.w"].copy()), before(*a))[1]
    solver.train()
    assert not seen[0].any()


def test_a_training_that_has_ended_is_not_begun_anew(tmp_path):
    first = solver_of("vectors", tmp_path, log=Stop())
    first.train()
    second = solver_of("vectors", tmp_path, log=Stop())
    second.resume()
    second.train()
    assert second.log.lines[1:] == [] and outcome(second) == outcome(first)
    second.train()  # and once more trains more
    assert second.iteration == 2 * LAST


def test_a_number_of_threads_and_a_backend_may_change(tmp_path, whole):
    """Any of them goes on with the other's files; bits are the same within one backend."""
    stopped("pictures", tmp_path, 30, backend="numba")
    second = solver_of("pictures", tmp_path, log=Stop())
    assert second.resume()
    second.train()
    wanted = whole["pictures"][0]
    assert np.allclose(second.loss_history, wanted.loss_history, rtol=1e-2)
    assert second.loss_history != wanted.loss_history


def test_resume_where_there_is_nothing(tmp_path):
    solver = solver_of("vectors", tmp_path / "new", log=Stop())
    assert solver.resume() is False
    assert solver.log.lines == [] and not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError, match="^there is no file or folder "):
        solver.resume(tmp_path / "none")
    with pytest.raises(
        ValueError, match="^resume needs a file, or the folder that the Solver was given as checkpoint="
    ):
        solver_of("vectors").resume()


def test_a_file_of_another_folder_can_be_gone_on_from(tmp_path, whole):
    first = stopped("vectors", tmp_path / "a", 20)
    for path, folder in ((first._keeper.folder.newest_first()[0], tmp_path / "b"), (tmp_path / "a", None)):
        second = solver_of("vectors", folder, log=Stop())
        assert second.resume(path)
        second.train()
        assert outcome(second) == outcome(whole["vectors"][0])


def test_callbacks_see_each_measurement_and_may_stop(tmp_path):
    seen = []

    def enough(solver):
        seen.append((solver.iteration, len(solver.val_acc_history)))
        if solver.epoch == 2:
            solver.stop()

    solver = solver_of("vectors", tmp_path, log=Stop(), callbacks=[enough])
    solver.train()
    assert seen == [(1, 1), (12, 2), (24, 3)]
    again = solver_of("vectors", tmp_path, log=Stop(), callbacks=[enough])
    assert again.resume()
    again.train()
    assert again.iteration == 24  # it had ended there


# ---- what is kept


def test_the_last_few_and_the_best_model_are_kept(tmp_path):
    solver = solver_of("pictures", tmp_path, keep=2, log=Stop())
    solver.train()
    assert names(tmp_path) == [f"{LAST - 2:08d}.safetensors", f"{LAST:08d}.safetensors", "best.safetensors"]
    best = nbnn.load(tmp_path / "best.safetensors", backend="numpy")
    assert all(np.array_equal(best.params[name], solver.model.params[name]) for name in best.params)
    assert all(np.array_equal(best.state[name], solver.model.state[name]) for name in best.state)


def test_a_checkpoint_comes_with_each_measurement_where_nothing_else_is_said(tmp_path):
    solver = solver_of("vectors", tmp_path, keep=100, checkpoint_every=None, log=Stop())
    solver.train()
    wanted = [1, *range(12, LAST + 1, 12)]
    assert names(tmp_path) == [*(f"{i:08d}.safetensors" for i in wanted), "best.safetensors"]


def test_a_new_training_leaves_the_checkpoints_of_another_alone(tmp_path):
    stopped("vectors", tmp_path, 20)
    before = names(tmp_path)
    with pytest.raises(FileExistsError) as caught:
        solver_of("vectors", tmp_path).train()
    assert str(caught.value) == (
        f"{tmp_path} holds checkpoints of an earlier training, the newest {before[-2]}; "
        "call resume() before train() to go on with it, or name another folder"
    )
    assert names(tmp_path) == before


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path):
    for name in (".00000012.safetensors.abc", ".best.safetensors.xyz", ".notes"):
        (tmp_path / name).write_bytes(b"half")
    solver_of("vectors", tmp_path, num_epochs=1, log=Stop()).train()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] == ".") == [".lock", ".notes"]


def test_two_trainings_do_not_share_a_folder(tmp_path):
    told = []

    def meanwhile(solver):
        if not told:
            other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
            told.append(other.stderr.splitlines()[-1])

    code = f"import training; training.solver_of('vectors', {str(tmp_path)!r}).train()"
    solver_of("vectors", tmp_path, num_epochs=1, log=Stop(), callbacks=[meanwhile]).train()
    assert told == [
        f"RuntimeError: another process trains into {tmp_path}; name another folder, or wait until it has ended"
    ]


def test_wrong_options_are_refused_in_a_sentence(tmp_path):
    for options, sentence in (
        ({"checkpoint_every": 5}, 'checkpoint_every needs a folder to write to, such as checkpoint="run"'),
        ({"checkpoint": tmp_path, "keep": 0}, "keep must be a whole number of at least 1, got 0"),
        ({"on_nan": "ignore"}, "on_nan must be one of 'raise', 'stop', 'skip', got 'ignore'"),
    ):
        with pytest.raises(ValueError) as caught:
            solver_of("vectors", **options)
        assert str(caught.value) == sentence
    with pytest.raises(TypeError, match="^callbacks must be functions that take the Solver, got int$"):
        solver_of("vectors", callbacks=[3])
    with pytest.raises(ValueError, match='^a checkpoint needs a folder to write to, such as checkpoint="run"$'):
        solver_of("vectors").write_checkpoint()
    counter = Counter()
    counter.state_dict = lambda: {"seen": {1, 2}}
    with pytest.raises(TypeError, match=r"^the state_dict\(\) of Counter cannot go into a checkpoint: .* set is not"):
        solver_of("vectors", tmp_path, callbacks=[counter], log=Stop()).train()


# ---- what is refused


def changed_data(name, place):
    data = pictures()
    data[name] = data[name].copy()
    data[name][place] += 1 if name[0] == "X" else -data[name][place] + (data[name][place] + 1) % 3
    return data


def graph(*nodes, loss="softmax"):
    return nbnn.compile(
        Graph([*KINDS["pictures"][0](backend="numpy").graph.given[:-2], *nodes], input=(2, 6, 6), loss=loss),
        seed=1,
        backend="numpy",
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data": changed_data("X_train", (7, 0, 1, 1))}, "X_train holds other data"),
        ({"data": changed_data("y_val", 3)}, "y_val holds other data"),
        ({"batch_size": 20, "seed": 6}, "batch_size was 16 and is 20; seed was 5 and is 6"),
        ({"num_epochs": 7}, "num_epochs was 6 and is 7"),
        ({"optim_config": {"learning_rate": 1e-3}}, "optim_config was {'learning_rate': 0.005, 'beta1': 0.9, "),
        ({"callbacks": []}, "callbacks was ['Counter'] and is []"),
        (lambda: {"model": graph(Dropout(0.2), Affine(3))}, "node 6 of the graph was Dropout(p=0.3"),
        (lambda: {"model": graph(Affine(3))}, "node 6 of the graph was Dropout("),
        (lambda: {"model": graph(Dropout(0.3), Affine(3), loss="svm")}, "loss of the graph was 'softmax' and is 'svm'"),
        (
            lambda: {"model": KINDS["pictures"][0](backend="numpy", dtype="float64")},
            "dtype was 'float32' and is 'float64'",
        ),
        (
            lambda: {"model": nbnn.compile(KINDS["pictures"][0](backend="numpy").graph, backend="numpy")},
            "model seed was 1 and is 0",
        ),
    ],
)
def test_another_training_is_refused(options, sentence, tmp_path):
    options = options() if callable(options) else options
    path = stopped("pictures", tmp_path, 20)._keeper.folder.newest_first()[0]
    solver = solver_of("pictures", tmp_path, log=Stop(), **options)
    before = outcome(solver)
    with pytest.raises(ValueError) as caught:
        solver.resume()
    told = str(caught.value)
    assert told.startswith(f"{path} is of another training: {sentence}")
    assert told.endswith("; resume(path, force=True) goes on all the same")
    assert outcome(solver) == before


def test_force_goes_on_all_the_same(tmp_path):
    stopped("pictures", tmp_path, 20)
    for options in (
        {"data": changed_data("X_train", (7, 0, 1, 1))},
        {"num_epochs": 7, "batch_size": 20},
        {"model": graph(Dropout(0.2), Affine(3))},
        {"model": KINDS["pictures"][0](backend="numpy", dtype="float64")},
        {"update_rule": "sgd"},
        {"callbacks": []},
    ):
        solver = solver_of("pictures", tmp_path / "other", log=Stop(), **{"optim_config": None, **options})
        assert solver.resume(tmp_path, force=True)
        assert solver.iteration == 20
        solver.train()
        assert solver.iteration == solver.num_iterations
        for path in (tmp_path / "other").glob("*.safetensors"):
            path.unlink()
    wider = nbnn.compile(Graph([Affine(5)], input=(2, 6, 6), loss="softmax"), backend="numpy")
    with pytest.raises(FileError, match="its arrays do not fit this training: .*best/conv1.w is unknown"):
        solver_of("pictures", log=Stop(), model=wider).resume(tmp_path, force=True)


# ---- damage


@pytest.fixture
def written(tmp_path):
    """A folder with checkpoints, newest first."""
    return stopped("vectors", tmp_path, 27)._keeper.folder.newest_first()


def test_the_newest_whole_checkpoint_is_found(written, whole):
    """A damaged one is named and the one before it taken; both ways lead to the same bits."""
    content = written[0].read_bytes()
    for damaged in (content[:-3], content[:20], b"", content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]):
        written[0].write_bytes(damaged)
        solver = solver_of("vectors", written[0].parent, log=Stop())
        assert solver.resume()
        assert solver.log.lines[0].startswith(f"{written[0]} is damaged")
        assert solver.log.lines[1] == f"Going on from {written[1]}, iteration 25 of {LAST}"
    solver.train()
    assert outcome(solver) == outcome(whole["vectors"][0])


def test_only_damaged_checkpoints_are_an_error(written):
    for path in written:
        path.write_bytes(path.read_bytes()[:-1])
    solver = solver_of("vectors", written[0].parent, log=Stop())
    with pytest.raises(FileError, match=re.escape(f"{written[0]} is damaged")):
        solver.resume()
    assert len(solver.log.lines) == len(written)


def rewritten(path, change):
    """The checkpoint changed, with a hash that fits."""
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
    checkpoint = Checkpoint(json.loads(header["about"]), json.loads(header["position"]), load_file(path))
    change(checkpoint)
    path.write_bytes(to_bytes(checkpoint))


def put(where, key, value):
    def change(checkpoint):
        part = getattr(checkpoint, where)
        if value is None:
            del part[key]
        else:
            part[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("position", "iteration", -1), "the position in its header is damaged: iteration"),
        (put("position", "iteration", 2.0), "the position in its header is damaged: iteration"),
        (put("position", "iteration", 10**9), "history/loss must have shape (1000000000,), got (27,)"),
        (put("position", "measured", 28), "the position in its header is damaged: measured"),
        (put("position", "end", True), "the position in its header is damaged: end"),
        (put("position", "best", 1), "the position in its header is damaged: best"),
        (put("position", "best_val_acc", "0.5"), "the position in its header is damaged: best_val_acc"),
        (put("position", "best_val_acc", 10**400), "the position in its header is damaged: best_val_acc"),
        (put("position", "counts", {"updates": 1.5}), "the position in its header is damaged: counts"),
        (put("position", "counts", {}), "the position in its header is damaged: counts"),
        (put("position", "callbacks", []), "the position in its header is damaged: callbacks"),
        (put("position", "measurements", None), "the position in its header is damaged: measurements"),
        (put("arrays", "weights/affine1.w", None), "weights/affine1.w is missing"),
        (put("arrays", "rule/m/affine1.w", np.zeros(3)), "rule/m/affine1.w must have shape (72, 12), got (3,)"),
        (put("arrays", "best/affine1.b", np.zeros(12, np.float32)), "best/affine1.b must be float64, got float32"),
        (put("arrays", "weights/../../x", np.zeros(3)), "weights/../../x is unknown"),
        (put("arrays", "weights/affine1.b", np.full(12, np.nan)), "weights/affine1.b holds a NaN or an infinity"),
    ],
)
def test_a_checkpoint_that_was_made_up_gets_a_plain_sentence(change, sentence, written):
    for path in written[1:]:
        path.unlink()
    rewritten(written[0], change)
    solver = solver_of("vectors", written[0].parent, log=Stop())
    before = outcome(solver)
    with pytest.raises(FileError) as caught:
        solver.resume()
    assert str(caught.value).startswith(f"{written[0]}: ") and sentence in str(caught.value)
    assert outcome(solver) == before


def test_another_file_is_no_checkpoint(tmp_path, written):
    path = tmp_path / "00000099.safetensors"
    path.write_bytes(save({"a": np.zeros(3)}))
    solver = solver_of("vectors", log=Stop())
    with pytest.raises(FileError, match="is a safetensors file, but no checkpoint of nbnn$"):
        solver.resume(path)
    with pytest.raises(ValueError, match="is of another training: node 1 of the graph was Affine"):
        solver_of("course", log=Stop()).resume(written[0])


def test_differences_are_told_in_words():
    assert differences({"a": 1, "data": {"X_train": "1"}}, {"a": 1, "data": {"X_train": "1"}}) == []
    assert differences({"a": 1}, {"b": 2}) == ["a was 1 and is None", "b was None and is 2"]
    many = {"graph": {"nodes": [{"op": "ReLU"}], "input": [3]}}
    more = {"graph": {"nodes": [{"op": "ReLU"}, {"op": "Tanh"}], "input": [3]}}
    assert differences(many, more) == ["the graph had 1 nodes and has 2"]
    assert differences(many, {"graph": {"nodes": [{"op": "ReLU"}], "input": [4]}}) == [
        "input of the graph was [3] and is [4]"
    ]


# ---- disks that fail, signals


def environment():
    roots = [str(pathlib.Path(__file__).parent), str(pathlib.Path(nbnn.__file__).parent.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])}


def child(code):
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment()
    )
    assert found.stderr == "", found.stderr
    return found.stdout.splitlines()


FAILS = """
import json, os, pathlib, resource, shutil
import training
folder = pathlib.Path({folder!r})
solver = training.solver_of("vectors", folder, log=lambda line: None)
def content():
    return {{p.name: p.read_bytes().hex() for p in folder.iterdir() if p.name != ".lock"}}
def harm(s):
    if s.epoch == 2 and not before:
        before.append(content())
        {harm}
before = []
solver.callbacks.insert(0, harm)
try:
    solver.train()
except OSError as problem:
    print(problem)
{mend}
print(json.dumps([*before, content()]))
print(solver.iteration)
shutil.copytree(folder, str(folder) + "-then")
solver.train()
print(training.outcome(solver))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and users as Linux has them")
@pytest.mark.parametrize(
    ("harm", "mend", "why"),
    [
        pytest.param(
            "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))",
            "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
            "File too large",
            id="a full disk",
        ),
        pytest.param(
            "folder.rename(str(folder) + '-gone')",
            "os.rename(str(folder) + '-gone', folder)",
            "No such file or directory",
            id="a folder that has vanished",
        ),
        pytest.param(
            "folder.chmod(0o555); os.geteuid() or os.seteuid(65534)",
            "os.getuid() or os.seteuid(0); folder.chmod(0o700)",
            "Permission denied",
            id="a folder that cannot be written to",
        ),
    ],
)
def test_a_failing_disk_ends_in_a_sentence_and_loses_nothing(harm, mend, why, whole):
    """The sentence, every file as it was and no other beside them, and to the same bits both train() once more and
    another Solver that goes on from the last good file."""
    with tempfile.TemporaryDirectory() as outer:  # pytest's folders are closed to other users
        os.chmod(outer, 0o755)
        check_a_failing_disk(harm, mend, why, whole, pathlib.Path(outer) / "run")


def check_a_failing_disk(harm, mend, why, whole, folder):
    told, files, iteration, found = child(FAILS.format(folder=str(folder), harm=harm, mend=mend))
    target = folder / "00000024.safetensors"
    there = folder / "00000020.safetensors"
    known = {"No such file or directory": "no checkpoint is found there"}.get(
        why, f"the newest checkpoint there is {there}"
    )
    rest = f"could not be written ({why}); the training is still in memory, and train() goes on with it; {known}"
    assert told.endswith(f"{target} {rest}")
    before, after = json.loads(files)
    assert after == before
    assert sorted(after) == [*(f"{i:08d}.safetensors" for i in (12, 15, 20)), "best.safetensors"]
    assert iteration == "24"
    assert found == outcome(whole["vectors"][0])
    second = solver_of("vectors", f"{folder}-then", log=Stop())
    assert second.resume() and second.iteration == 20
    second.train()
    assert outcome(second) == outcome(whole["vectors"][0])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"could not be written \(Not a directory\); the training is still in memory"):
        solver_of("vectors", tmp_path / "file" / "run").train()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint(number, backend, tmp_path):
    code = f"""
        import training
        options = {{"backend": {backend!r}, "checkpoint_every": 1000000, "log": lambda line: print(line, flush=True)}}
        solver = training.solver_of("vectors", {str(tmp_path)!r}, **options)
        solver.callbacks.append(lambda s: __import__("time").sleep(0.3 if s.epoch == 2 else 0))
        solver.train()
    """
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    for line in running.stdout:
        if line.startswith("(Epoch 2 "):
            running.send_signal(number)
            break
    last = running.stdout.readlines()[-1]
    running.stdout.close()
    assert running.wait(60) == (-number if number == signal.SIGTERM else 0)
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert last.startswith(f"Stopped by {name} after iteration ")
    solver = solver_of("vectors", tmp_path, log=Stop(), checkpoint_every=None, backend=backend)
    assert solver.resume()
    assert f"resume() goes on from {solver._keeper.folder.newest_first()[0]}" in last
    solver.train()
    assert outcome(solver) == outcome(undisturbed("vectors", backend)[0])


def test_an_interrupted_measurement_is_made_up_for(tmp_path, whole, monkeypatch):
    """A second Ctrl-C may come anywhere: what was written before is gone on from."""
    solver = solver_of("vectors", tmp_path, log=Stop())
    check = solver.check_accuracy

    def interrupted(*args, **more):
        if solver.epoch == 2:
            raise KeyboardInterrupt
        return check(*args, **more)

    monkeypatch.setattr(solver, "check_accuracy", interrupted)
    solver.train()
    assert solver.iteration == 24 and len(solver.val_acc_history) == 2
    second = solver_of("vectors", tmp_path, log=Stop())
    assert second.resume()
    second.train()
    assert outcome(second) == outcome(whole["vectors"][0])


def test_what_was_half_done_is_not_written(tmp_path, whole):
    """A Ctrl-C inside of a step: nobody knows what of it has happened, so the checkpoint before it counts."""
    solver = solver_of("course", tmp_path, log=Stop())
    steps, calls = solver.trainee.steps, []

    def half(*args):
        calls.append(1)
        found = steps(*args)
        if solver.iteration > 30:
            raise KeyboardInterrupt
        return found

    solver.trainee.steps = half
    solver.train()
    assert "resume()" not in solver.log.lines[-1]
    second = solver_of("course", tmp_path, log=Stop())
    assert second.resume()
    second.train()
    assert outcome(second) == outcome(whole["course"][0])


def test_a_power_failure_finds_either_file(tmp_path, monkeypatch):
    """The new name comes after the content is on disk, and the folder is written as well."""
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(cache.os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(cache.os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    cache.write_atomically(tmp_path / "a", b"content")
    assert order == ["sync", "replace", "sync"]


def test_the_data_may_be_of_any_kind(tmp_path):
    """Also integers and memory maps have fingerprints."""
    data = vectors()
    np.save(tmp_path / "x.npy", (40 * data["X_train"]).astype(np.uint8))
    data["X_train"] = np.load(tmp_path / "x.npy", mmap_mode="r")
    Solver(KINDS["vectors"][0](backend="numpy"), data, checkpoint=tmp_path / "run", num_epochs=1, verbose=False).train()


# ---- checkpoints that somebody asks for


def test_a_checkpoint_that_is_asked_for_is_of_the_training_not_of_the_best_weights(tmp_path, whole):
    solver = stopped("vectors", tmp_path / "a", 40)
    kept = solver._keeper.folder.newest_first()[0]
    before = kept.read_bytes()
    assert solver.write_checkpoint() == kept and kept.read_bytes() == before
    elsewhere = stopped("vectors", None, 40)
    elsewhere._keeper.folder = solver._keeper.folder.__class__(tmp_path / "b", 1)
    for one in (solver_of("vectors", tmp_path / "a", log=Stop()), solver_of("vectors", tmp_path / "b", log=Stop())):
        if one._keeper.folder.path.name == "b":
            elsewhere.write_checkpoint()
        assert one.resume()
        one.train()
        assert outcome(one) == outcome(whole["vectors"][0])


def test_a_checkpoint_that_is_asked_for_does_not_mix_trainings(tmp_path):
    stopped("vectors", tmp_path, 20)
    before = names(tmp_path)
    with pytest.raises(FileExistsError, match="holds checkpoints of an earlier training"):
        solver_of("vectors", tmp_path, seed=6).write_checkpoint()
    assert names(tmp_path) == before


def test_a_training_that_has_gone_back_puts_later_checkpoints_aside(tmp_path, whole):
    """Else they would take the places of its own, and be gone on from next time."""
    paths = stopped("vectors", tmp_path, 27)._keeper.folder.newest_first()
    paths[0].write_bytes(b"damaged")
    solver = solver_of("vectors", tmp_path, keep=1, log=Stop(at(26)))
    assert solver.resume()
    solver.train()
    assert names(tmp_path) == ["00000026.safetensors", "00000027.later", "best.safetensors"]
    again = solver_of("vectors", tmp_path, log=Stop())
    assert again.resume() and again.iteration == 26
    again.train()
    assert outcome(again) == outcome(whole["vectors"][0])


def test_an_end_in_mid_epoch_is_an_end():
    solver = solver_of("vectors", log=Stop(), callbacks=[lambda s: s.stop() if s.iteration == 1 else None])
    solver.train()
    assert solver.iteration == 1
    solver.train()
    assert solver.iteration == solver.end == solver.measured == 1 + LAST


def test_another_rule_begins_with_an_empty_memory(tmp_path):
    """What one rule calls v is not what another one does."""
    stopped("course", tmp_path, 20)
    solver = solver_of("course", log=Stop(), update_rule="rmsprop", optim_config=None)
    assert solver.resume(tmp_path, force=True)
    memory = solver.trainee.memory()
    assert not any(value.any() for name, value in memory.items() if not name.startswith("averaged"))
    assert solver.trainee.counts()["updates"] == 0


@pytest.mark.parametrize("kind", ["pictures", "vectors"])
def test_averaging_may_begin_or_end_where_a_resume_is_forced(kind, tmp_path):
    """The rule's memory stays, and the average begins with the weights of the checkpoint."""
    stopped(kind, tmp_path, 20)
    average = 0.0 if kind == "vectors" else 0.9
    solver, same = (solver_of(kind, log=Stop(), average=a) for a in (average, KINDS[kind][2].get("average", 0.0)))
    for one in (solver, same):
        assert one.resume(tmp_path, force=True)
    kept = same.trainee.memory()
    for name, value in solver.trainee.memory().items():
        assert name.startswith("averaged/") or np.array_equal(value, kept[name])
    assert solver.trainee.counts()["updates"] == same.trainee.counts()["updates"] > 0
    assert solver.trainee.counts()["averaged"] == (0 if average else same.trainee.counts()["averaged"])
    before = solver.trainee.copy()
    with solver.trainee.averaged():
        assert all(np.array_equal(value, before[name]) for name, value in solver.trainee.copy().items())


class Ordered:
    """A student's model whose loss runs over its parameters, with numbers of other kinds."""

    def __init__(self, breaks=0):
        rng = np.random.default_rng(0)
        self.params = {name: rng.standard_normal(72) for name in ("z", "b", "a")}
        self.params["half"], self.params["one"] = np.zeros(3, np.float16), np.array(1.0)
        self.calls, self.breaks = 0, breaks

    def loss(self, X, y=None):
        if y is None:
            return X.reshape(len(X), -1)[:, :3]
        self.calls += 1
        if self.calls == self.breaks:
            raise KeyError("broken")
        total = 0.0
        for value in self.params.values():
            total += 0.1 * float((value.astype(float) ** 2).sum())
        return total + X.mean(), {name: 0.2 * value for name, value in self.params.items()}


def student(folder=None, **options):
    settings = {"batch_size": 16, "num_epochs": 3, "verbose": False, "clip": 1.0, "log": Stop(), **options}
    return Solver(
        settings.pop("model", None) or Ordered(), vectors(), checkpoint=folder, update_rule="sgd_momentum", **settings
    )


def test_a_students_model_goes_on_in_its_own_order(tmp_path):
    wanted, stops = student(), [lambda s: signal.raise_signal(signal.SIGINT) if s.epoch == 1 else None]
    wanted.train()
    student(tmp_path, callbacks=stops).train()
    solver = student(tmp_path)
    assert solver.resume() and list(solver.model.params) == ["z", "b", "a", "half", "one"]
    solver.train()
    assert solver.loss_history == wanted.loss_history


def test_what_a_students_model_has_done_before_it_broke_counts():
    wanted, solver = student(), student(model=Ordered(breaks=11))
    wanted.train()
    with pytest.raises(KeyError, match="broken"):
        solver.train()
    assert solver.iteration == 10
    solver.train()
    assert solver.loss_history == wanted.loss_history


def test_what_a_callback_does_to_a_course_net_is_kept(tmp_path):
    def change(solver):
        if solver.epoch == 2:
            solver.model.params["W1"] = 0 * solver.model.params["W1"]

    whole, first = (solver_of("course", f, log=Stop(), callbacks=[change]) for f in (None, tmp_path))
    whole.train()
    first.log.at = at(30)
    first.train()
    second = solver_of("course", tmp_path, log=Stop(), callbacks=[change])
    assert second.resume()
    second.train()
    assert outcome(second) == outcome(whole)


def test_another_reg_of_a_course_net_is_refused(tmp_path):
    stopped("course", tmp_path, 20)
    solver = solver_of("course", tmp_path, log=Stop())
    solver.model.reg = 0.9
    with pytest.raises(ValueError, match="is of another training: reg was 0.001 and is 0.9; resume"):
        solver.resume()


def test_best_weights_that_are_changed_in_place_stay_the_best():
    solver = stopped("course", None, 40)
    best = {name: value.copy() for name, value in solver.best_params.items()}
    solver.model.params["W1"][:] = 0
    assert all(np.array_equal(value, best[name]) for name, value in solver.best_params.items())
