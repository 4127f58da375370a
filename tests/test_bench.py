"""The bench tells the truth: who is wrong gets no time, who is absent is named, and its tables are its own."""

import json
import math
import os
import pathlib
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from bench import contest, cost, layers, naive, report
from bench.__main__ import main
from bench.nets import LAYERS, NETS, graph_of
from bench.numpy_peer import Im2col
from bench.ours import Ours
from bench.runner import CONTESTANTS, Task
from nbnn import Affine, Conv, Graph, MaxPool, ReLU


def tiny() -> Task:
    """Every op of the im2col code, at sizes that differ from each other."""
    nodes = [Conv(5, 3, stride=2, pad=1), ReLU(), Conv(4, 3), MaxPool(2), Affine(7), ReLU(), Affine(3)]
    return Task(Graph(nodes, input=(2, 11, 11), loss="softmax"), 6)


@pytest.fixture
def options(tmp_path):
    return contest.Options(threads=1, quick=True, nets=["mlp"], folder=tmp_path)


@pytest.fixture
def table():
    return report.Table("title", contest.COLUMNS)


# ---- verdicts


def test_a_geometric_mean_is_of_those_that_are_there():
    assert report.geometric_mean([2.0, None, 8.0]) == pytest.approx(4)
    assert report.geometric_mean([None]) is None


@pytest.mark.parametrize(
    "found, said",
    [
        (report.verdict(True, report.least(3.1, 3), report.most(0.4, 0.5)), "ok"),
        (report.verdict(True, report.least(2.9, 3)), "short of 3"),
        (report.verdict(True, report.least(2.9, 3), report.most(0.6, 0.5)), "short of 3, over 0.5"),
        (report.verdict(True, report.least(math.nan, 3)), "short of 3"),
        (report.verdict(True, report.most(math.nan, 3)), "over 3"),
        (report.verdict(True, report.least(None, 3)), "no peer"),
        (report.verdict(True, report.most(None, 3), report.least(None, None)), "no peer"),
        (report.verdict(False, report.least(9, 3)), "WRONG"),
    ],
)
def test_a_verdict_names_what_is_missed(found, said):
    assert found == said


@pytest.mark.parametrize("slip", [1.001, math.nan, 0.0])
def test_losses_that_differ_are_found(slip):
    losses = {"ours": [2.0, 3.0], "torch": [2.0, 3.0], "jax": [2.0, 3.0 * slip]}
    assert contest.wrong_ones(losses)[1] == ["jax"]
    assert contest.wrong_ones({**losses, "jax": [2.0, 3.00001]}) == (pytest.approx(3.3e-6, rel=0.1), [])


# ---- contestants


class Made:
    """Stands for a process: a contestant with given losses that needs a second for each step."""

    def __init__(self, losses):
        self.losses = losses

    def ask(self, method, **keywords):
        if self.losses is None:
            raise contest.PeerError(self, "ModuleNotFoundError: No module named 'jax'")
        return {"losses": self.losses, "first": 2.0} if method == "start" else 1.0

    def close(self):
        pass


@pytest.mark.parametrize(
    "seconds, asked",
    [
        ([9.0, 0.7], [1, 1]),
        ([0.12, 5e-3, 5e-3], [1, 1, 20]),
        ([3e-3, 3e-3, 7e-4, 7e-4], [1, 1, 34, 143]),
        ([1e-3, 1e-3, 1e-5], [1, 1, 100, 1000]),
    ],
    ids=["long steps", "a cold first one", "a cold second one", "tiny ones"],
)
def test_a_sample_has_as_many_steps_as_it_needs(monkeypatch, seconds, asked):
    monkeypatch.setattr(contest, "PAUSE", 0.0)
    questions, answers = [], iter([*seconds, *[seconds[-1]] * 9])

    def sample(steps):
        questions.append(steps)
        return next(answers)

    assert contest.long_enough(sample) == (asked[-1], seconds[-1])
    assert questions == asked


def rows_with(monkeypatch, table, options, **losses):
    made = iter(losses.values())
    monkeypatch.setattr(contest, "Child", lambda *a, **k: Made(next(made)))
    return contest.net_row(table, "mlp", 8, options, list(losses), {})


def test_right_losses_get_times(monkeypatch, table, options):
    monkeypatch.setattr(contest, "PAUSE", 0.0)
    row = rows_with(monkeypatch, table, options, ours=[1.0, 2.0], torch=[1.0, 2.0])
    assert (row["ours"], row["torch"], row["ratio"], row["to jax"]) == (1e3, 1e3, 1.0, None)
    assert row["residual"] == 0 and "verdict" not in row


@pytest.mark.parametrize("wrong", [[1.0, 2.1], [1.0, math.nan]])
def test_a_wrong_contestant_gets_no_time(monkeypatch, table, options, wrong):
    row = rows_with(monkeypatch, table, options, ours=[1.0, 2.0], torch=wrong)
    assert row["verdict"] == "WRONG"
    assert not {"ours", "torch", "ratio"} & set(row)
    assert table.notes == ["mlp: the losses of torch differ from ours"]


def test_an_absent_peer_is_named(monkeypatch, table, options):
    monkeypatch.setattr(contest, "PAUSE", 0.0)
    row = rows_with(monkeypatch, table, options, ours=[1.0], jax=None)
    assert row["ours"] == 1e3 and "jax" not in row
    assert table.notes == ["mlp: jax is absent: ModuleNotFoundError: No module named 'jax'"]


def test_a_peer_that_ends_while_it_is_timed_is_left_out(monkeypatch, table, options):
    monkeypatch.setattr(contest, "PAUSE", 0.0)

    class Ending(Made):
        def ask(self, method, **keywords):
            if method == "sample":
                raise contest.PeerError(self, "it ended with -9")
            return super().ask(method, **keywords)

    made = iter([Made([1.0]), Ending([1.0])])
    monkeypatch.setattr(contest, "Child", lambda *a, **k: next(made))
    row = contest.net_row(table, "mlp", 8, options, ["ours", "jax"], {})
    assert row["ours"] == 1e3 and "jax" not in row
    assert table.notes == ["mlp: jax is absent: it ended with -9"]


def first_losses(contestant, net):
    """The losses that a child would give, computed in this process."""
    task = Task(graph_of(net, dropout=False)[0], 8)
    return contestant(task).steps(np.concatenate([task.rows(1), task.rows(3)]), NETS[net].checked_rate)


def test_a_child_answers_and_says_why_it_cannot(options):
    """A real process: a failure is one line, and the child lives on; its end is told as well."""
    with contest.child("bench.runner:Runner", options) as one:
        with pytest.raises(contest.PeerError, match="^NotImplementedError: MLPClassifier is an MLP$|No module named"):
            one.ask("start", name="sklearn", net="course7x7", batch=2)
        found = one.ask("start", name="numpy", net="mlp", batch=8)
        assert len(found["losses"]) == 4 and report.agreed(found["losses"], first_losses(Ours, "mlp"))[1]
        assert one.ask("sample", steps=2) > 0
        assert one.ask("peak") > 1
        os.kill(one.pid, signal.SIGKILL)
        with pytest.raises(contest.PeerError, match="it ended with -9"):
            one.ask("peak")


def test_im2col_follows_ours():
    ours, theirs, rows = Ours(tiny()), Im2col(tiny()), tiny().rows(6)
    found, wanted = ours.steps(rows), theirs.steps(rows)
    assert report.agreed(found, wanted)[1]
    assert found[0] != found[-1]
    theirs.params["conv1.w"] *= 1.01
    assert not report.agreed(ours.steps(rows), theirs.steps(rows))[1]


@pytest.mark.parametrize("name", ["torch", "torch last", "jax", "jax NHWC", "sklearn"])
def test_a_peer_follows_ours(options, name):
    """In a process of its own; an MLP for scikit-learn, batchnorm for one of JAX's layouts."""
    net = {"sklearn": "mlp", "jax NHWC": "fcnet"}.get(name, "course7x7")
    with contest.child("bench.runner:Runner", options) as one:
        try:
            entry = contest.enter(one, name, net, 8)
        except contest.PeerError as problem:
            pytest.skip(str(problem))
    assert report.agreed(entry.losses, first_losses(Ours, net))[1]


# ---- what is measured


def test_resnet9_has_its_shape():
    graph, batch = graph_of("resnet9")
    assert batch == 64
    assert graph.parameter_count == pytest.approx(6.5e6, rel=0.02)
    adds = [n for n in graph.nodes if type(n).__name__ == "Add"]
    assert [graph.shapes[n.name] for n in adds] == [(128, 16, 16), (512, 4, 4)]
    assert [graph.shapes[n.inputs[0]] for n in adds] == [(128, 16, 16), (512, 4, 4)]
    assert sum(isinstance(n, Conv) for n in graph.nodes) == 8
    assert [tuple(s) for s in graph.input_shapes(graph.nodes[-1])] == [(512, 1, 1)]


def test_without_dropout_nothing_else_is_left_out():
    for name in NETS:
        whole, checked = graph_of(name)[0], graph_of(name, dropout=False)[0]
        kept = [type(n).__name__ for n in whole.nodes if type(n).__name__ != "Dropout"]
        assert kept == [type(n).__name__ for n in checked.nodes]
        assert whole.parameter_count == checked.parameter_count


def test_layers_have_names_of_their_own():
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)
    assert {len(layer.shares) for layer in LAYERS} == {1, 2}


def test_the_naive_loops_are_right():
    """A comparison with something wrong would be worth nothing."""
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 3, 7, 7)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    y = naive.conv_forward(x, w, b, 2, 1)
    dy = rng.standard_normal(y.shape)
    dx, dw, db = naive.conv_backward(dy, x, w, 2, 1)
    step = 1e-6
    for array, gradient in ((x, dx), (w, dw), (b, db)):
        direction = rng.standard_normal(array.shape)
        array += step * direction
        above = naive.conv_forward(x, w, b, 2, 1)
        array -= step * direction
        assert ((above - y) * dy).sum() / step == pytest.approx((gradient * direction).sum(), rel=1e-4)
    x = rng.standard_normal((2, 3, 6, 6))
    y = naive.pool_forward(x, 2)
    assert np.array_equal(y, x.reshape(2, 3, 3, 2, 3, 2).max((3, 5)))
    dx = naive.pool_backward(np.ones_like(y), x, 2)
    assert np.array_equal(dx != 0, x == y.repeat(2, 2).repeat(2, 3))


# ---- reports

TOLD = {
    "date": "2026-01-01",
    "machine": "a processor",
    "cores": 2,
    "threads": 2,
    "versions": {"numba": "1", "jax": "absent"},
    "limit_gflops": 117.4,
    "sections": {
        "nets": {
            "title": "steps",
            "columns": {"net": 5, "ours": 3, "verdict": 5},
            "rows": [{"net": "mlp", "ours": 1.2345, "verdict": "ok"}, {"net": "vgg", "verdict": "WRONG"}],
            "notes": ["jax is absent"],
        }
    },
}


def test_the_readme_writer_replaces_what_is_between_the_marks(tmp_path):
    path, told = tmp_path / "README.md", tmp_path / "bench.json"
    told.write_text(json.dumps(TOLD))
    path.write_text(f"above\n\n{report.BEGIN}\nold\n{report.END}\n\nbelow\n")
    for _ in range(2):  # writing again changes nothing
        assert main(["--readme", str(told), "--text", str(path)]) == 0
        text = path.read_text()
        assert text.startswith(
            f"above\n\n{report.BEGIN}\nPrinted on 2026-01-01 with 2 threads on 2 cores of a processor; "
        )
        assert text.endswith(f"```\n{report.END}\n\nbelow\n")
    assert "old" not in text and "absent 1" not in text and "117 GFLOP/s" in text
    assert "mlp  1.23  ok\nvgg     -  WRONG\njax is absent\n" in text


@pytest.mark.parametrize("text", ["no marks", f"{report.END}\n{report.BEGIN}", report.BEGIN * 2 + report.END])
def test_a_text_without_its_marks_is_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="needs one line"):
        report.rewrite(path, TOLD)
    assert path.read_text() == text


def test_the_readme_has_the_marks():
    text = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_an_unknown_word_is_refused():
    with pytest.raises(SystemExit, match="there is no vggg, netz; sections: nets, layers"):
        main(["netz", "--nets", "vggg"])


def test_only_a_wrong_row_fails_the_bench(monkeypatch, tmp_path, capsys):
    def section(said):
        return lambda options: report.Table("t", {"verdict": 5}, rows=[{"verdict": said}])

    monkeypatch.setattr("bench.__main__.SECTIONS", {"slow": section("short of 3"), "wrong": section("WRONG")})
    out = tmp_path / "out" / "bench.json"
    assert main(["slow", "--out", str(out)]) == 0
    assert main(["slow", "wrong", "--out", str(out)]) == 1
    assert json.loads(out.read_text())["sections"]["slow"]["rows"] == [{"verdict": "short of 3"}]


def test_a_layer_with_a_wrong_direction_has_no_time_there(monkeypatch, options):
    times = {"forward": 1.0, "to the input": 2.0, "limit": 100.0}

    def ask(self, method, **keywords):
        residuals = {"forward": 1e-6, "to the input": math.nan}
        return residuals if method == "start" else times if "threads" in keywords else [times]

    monkeypatch.setattr(
        contest, "Child", lambda *a, **k: SimpleNamespace(ask=lambda *a, **k: ask(None, *a, **k), close=int)
    )
    monkeypatch.setattr(layers, "PAUSE", 0.0)
    forward, to_input = layers.layer_rows(report.Table("t", layers.COLUMNS), 0, "auto", options)
    assert forward["ours"] == 1.0 and forward["ratio"] == 1.0
    assert to_input["verdict"] == "WRONG" and not {"ours", "torch", "ratio", "share"} & set(to_input)


def test_threads_must_give_equal_losses_not_near_ones():
    one = contest.Entry(None, 1.0, [1.0, 2.0])
    assert cost.equal({"1 thread": one, "2 threads": contest.Entry(None, 1.0, [1.0, 2.0])})
    assert not cost.equal({"1 thread": one, "2 threads": contest.Entry(None, 1.0, [1.0, math.nextafter(2.0, 3.0)])})


def test_a_batch_off_the_line_is_named(monkeypatch, options):
    class Stepped:
        """0.1 s for each example, a quarter more at 128."""

        def ask(self, method, **keywords):
            batch = keywords["batch"]
            return None if method == "start" else 0.1 * batch * (1.25 if batch == 128 else 1.0)

        def close(self):
            pass

    monkeypatch.setattr(contest, "Child", lambda *a, **k: Stepped())
    monkeypatch.setattr(cost, "PAUSE", 0.0)
    rows = cost.batches(options).rows
    assert [(row["batch"], row["verdict"]) for row in rows] == [(32, "ok"), (64, "ok"), (128, "over 0.1")]
    assert rows[2]["deviation"] == pytest.approx(0.25)


def test_every_contestant_has_a_column():
    assert set(CONTESTANTS) < set(contest.COLUMNS)


def test_the_course_s_experiments_are_the_same_in_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from bench.course import TOLERANCE, apart
    from bench.course_runner import PARTS, Ours, Torch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rng, threads = np.random.default_rng(0), torch.get_num_threads()
    for part in PARTS:
        count = 120 if part.endswith("train") else 20
        shape = (count, 3, 32, 32) if part.startswith("X") else (count,)
        drawn = 50 * rng.standard_normal(shape) if part.startswith("X") else rng.integers(0, 10, shape)
        np.save(tmp_path / f"{part}.npy", drawn.astype(np.float32 if part.startswith("X") else np.int64))
    words = {"place": 0, "folder": str(tmp_path)}
    peer = Torch()
    try:
        peer.start(**words, dtype="float64", last=False)
        wanted = peer.steps(most=5)["losses"]
        assert set(peer.accuracies()) == {"seconds", "val"}
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    found = Ours().first(**words, most=5, dtype="float64")
    assert len(found) == len(wanted) == 5 and apart(found, wanted) < 1e-12
    assert apart([*found[:4], found[4] * (1 + 2 * TOLERANCE)], wanted) > TOLERANCE
    trained = Ours().train(**words, seed=0)
    assert trained["steps"] == 20 and trained["measured"] == 11 and trained["train"] > 0.2


def test_the_course_s_calls_are_right():
    from bench.course_runner import Layers, Neighbours

    assert len(Layers().first([3, 4])) == 2
    neighbours = Neighbours()
    assert neighbours.start() < 1e-6
    assert neighbours.sample("ours") > 0 and neighbours.sample("numpy") > 0 and neighbours.needed() < 1024
