"""What single decisions of the engine give: one net compiled with and without each of them, timed in turn."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

import nbnn
from bench.contest import Options, PeerError, child
from bench.nets import graph_of
from bench.report import Table, agreed, verdict
from nbnn import buffers, codegen, halves, launches, lower, memory, model, ops, plane, remade, winograd
from nbnn.launches import alone
from nbnn.op import Call, call
from nbnn.pace import Pace

Change = Callable[[], contextlib.AbstractContextManager]


def _tiles(forward: int, back: int) -> Change:
    return lambda: mock.patch.multiple(winograd, TOGETHER=forward, TOGETHER_BACK=back)


@contextlib.contextmanager
def _points_in_step() -> Iterator[None]:
    """Winograd's points a multiple of 1 KiB apart, where their sizes are."""
    scratch = winograd.WinogradConv.scratch

    def plain(self: Any, *shapes: Any) -> dict:
        return {name: array._replace(apart=False) for name, array in scratch(self, *shapes).items()}

    with mock.patch.object(winograd.WinogradConv, "scratch", plain):
        yield


def _rows_in_step(net: lower.Lowered, columns: int, period: int = 0) -> int:
    return -(-columns // net.lanes) * net.lanes


@contextlib.contextmanager
def _loss_alone() -> Iterator[None]:
    """Nobody looks at the gradient. Room for lengths is left, so that all arrays lie where they lay."""
    gradients, train = codegen._gradients, codegen.train_text

    def no_lengths(net: lower.Lowered) -> list[str]:
        return gradients(replace(net, launches={k: tuple(map(_no_lengths, v)) for k, v in net.launches.items()}))

    def unseen(engine: str) -> str:
        text = train(engine).replace("squares[:] = -1.0", "squares[:] = 0.0")
        return re.sub(r"launch\(copy\(.*", "pass", text)

    with (
        mock.patch.multiple(codegen, _gradients=no_lengths, _trust=lambda writer: None),
        mock.patch.object(model, "train_text", unseen),
    ):
        yield


def _no_lengths(launch: launches.Launch) -> launches.Launch:
    parts = [p for p in launch.parts if isinstance(p, int) or p[1].kernel != "lengths"]
    return replace(launch, parts=tuple(p if isinstance(p, int) else (p[0], _plain(p[1])) for p in parts))


def _plain(c: Call) -> Call:
    return call("gather", *c.operands[:-1]) if c.kernel == "gather_lengths" else c


# What is done without the decision, and on which nets it shows, with a batch where it is not their first one.
DECISIONS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "Winograd": (lambda: mock.patch.object(winograd.WinogradConv, "of", lambda *a: None), ("vgg", "resnet9")),
    "Winograd: points off multiples of 1 KiB": (_points_in_step, ("vgg",)),
    "Winograd: 48 and 64 tiles held, not 8 and 8": (_tiles(8, 8), ("vgg",)),
    "Winograd: 48 and 64 tiles held, not 96 and 128": (_tiles(96, 128), ("vgg",)),
    "Winograd: wide layers without all values": (
        lambda: mock.patch.object(winograd, "WIDE_TILES", 0),
        ("resnet9",),
    ),
    "convolution by halves": (
        lambda: mock.patch.object(halves.HalvedConv, "of", lambda *a: None),
        ("course7x7",),
    ),
    "convolution of one channel by rows of places": (
        lambda: mock.patch.object(plane.PlaneConv, "of", lambda *a: None),
        ("lenet",),
    ),
    "x held in blocks of 128 x 96, not 1024 x 48": (
        lambda: mock.patch.object(ops, "HELD", (1024, 48)),
        ("course3x3", "mlp"),
    ),
    "rows off multiples of 1 KiB": (
        lambda: mock.patch.multiple(buffers, row_room=_rows_in_step),
        ("vgg", "course3x3", "mlp"),
    ),
    "relu in the norm or the pool beside it": (
        lambda: mock.patch.object(lower, "fuse", lambda graph, ops: dict(ops)),
        ("vgg", "course3x3", "course7x7", "fcnet"),
    ),
    "arrays share memory": (
        lambda: mock.patch.object(buffers, "_sharing", lambda net: memory.Sharing()),
        ("vgg", "course3x3"),
    ),
    "sums and first convolutions made once more": (
        lambda: mock.patch.multiple(remade, REMADE=("norm_forward",), CHEAP=0.0),
        ("resnet9",),
    ),
    "calls joined into launches": (
        lambda: mock.patch.object(launches.Planner, "plan", lambda self, sections: alone(sections)),
        ("vgg", "lenet", "mlp"),
    ),
    "gradients that are not finite are noticed": (_loss_alone, ("vgg", "course7x7", "lenet", "fcnet", "mlp")),
    "calls that do not need each other side by side": (
        lambda: mock.patch.object(launches.Planner, "beside", lambda self: self.found),
        ("vgg", "lenet", "lenet 16", "fcnet", "mlp", "mlp 8"),
    ),
    "lengths of examples from the gather": (
        lambda: mock.patch.object(lower, "_measured", lambda sections: sections),
        ("fcnet", "mlp"),
    ),
    "512 KiB of examples at a time, not all": (
        lambda: mock.patch.object(launches, "IN_CACHE", 1 << 40),
        ("vgg", "lenet"),
    ),
    "512 KiB of examples at a time, not 64": (
        lambda: mock.patch.object(launches, "IN_CACHE", 1 << 16),
        ("vgg", "lenet"),
    ),
}
ROUNDS, SAMPLE, PIECES, LEAST_PIECES = 9, 0.5, 20, 5
COLUMNS = {"decision": 46, "net": 9, "with": 6, "without": 7, "gain": 5, "residual": 8, "verdict": 5}


def decisions(options: Options) -> Table:
    table = Table("a step in ms with and without single decisions of the engine", COLUMNS).begin()
    for name, (_, nets) in DECISIONS.items():
        for net in [n for n in nets if n.split()[0] in options.nets]:
            with child("bench.decisions:Both", options) as both:
                try:
                    losses = both.ask("start", decision=name, net=net)
                    taken = [both.ask("sample") for _ in range(3 if options.quick else ROUNDS)]
                except PeerError as problem:
                    table.note(f"{name}, {net}: {problem}")
                    table.add(decision=name, net=net, verdict=verdict(False))
                    continue
            residual, right = agreed(losses["without"], losses["with"])
            row: dict[str, Any] = {"decision": name, "net": net, "residual": residual}
            if right:
                row |= {k: statistics.median(pair[k] for pair in taken) * 1e3 for k in ("with", "without")}
                row["gain"] = statistics.median(pair["without"] / pair["with"] for pair in taken)
            table.add(**row, verdict=verdict(right))
    return table


class AllThreads(Pace):
    """No number of threads is tried out while others are measured."""

    def plan(self, threads: int, left: int, batch: int) -> tuple[int, int]:
        return threads, left


class Both:
    """In a child: the net as it is, and as it would be."""

    def start(self, decision: str, net: str) -> dict[str, list[float]]:
        """The losses of the first steps."""
        name, *batch = net.split()
        graph, self.batch = graph_of(name, dropout=False)
        self.batch = int(batch[0]) if batch else self.batch
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((2 * self.batch, *graph.input), np.float32)
        self.y = rng.integers(0, 10, len(self.x))
        self.rows = rng.integers(0, len(self.x), (3, self.batch))
        self.graph, self.without = graph, DECISIONS[decision][0]
        models = {which: self._model(which) for which in ("with", "without")}
        if models["with"].source() == models["without"].source():
            raise RuntimeError(f"{net} is the same without it")
        lowered = [m.lowered for m in models.values()]
        self.same_places = lowered[0].buffers == lowered[1].buffers and lowered[0].sizes == lowered[1].sizes
        config = {"learning_rate": 2e-5}
        losses = {
            k: m.train_steps(self.x, self.y, indices=self.rows, optim_config=config).tolist() for k, m in models.items()
        }
        self._seconds(models["with"], 1)
        seconds = self._seconds(models["with"], 1)
        self.steps = max(1, round(SAMPLE / PIECES / seconds))
        self.pieces = min(PIECES, max(LEAST_PIECES, round(SAMPLE / seconds)))  # of long steps there are fewer
        return losses

    def sample(self) -> dict[str, float]:
        """Seconds of a step both ways, piece by piece in turn, at their lower quartiles. The models are made anew,
        since where their memory lies moves a step by several percent; so both ways take the same memory where all
        arrays lie at the same places in it."""
        ways = {which: self._model(which) for which in ("with", "without")}
        steps = {which: (way._step, way._trainer) for which, way in ways.items()}
        if self.same_places:
            ways["without"] = ways["with"]
        taken: dict[str, list[float]] = {"with": [], "without": []}
        for k in range(self.pieces + 1):
            for which in list(ways)[:: (-1) ** k]:
                ways[which]._step, ways[which]._trainer = steps[which]
                seconds = self._seconds(ways[which], self.steps if k else 1)
                if k:
                    taken[which].append(seconds)
        return {which: sorted(found)[self.pieces // 4] for which, found in taken.items()}

    def _model(self, which: str) -> nbnn.Model:
        with contextlib.nullcontext() if which == "with" else self.without():
            model = nbnn.compile(self.graph, seed=0)
        model._pace = AllThreads()
        return model

    def _seconds(self, model: nbnn.Model, steps: int) -> float:
        rows = np.resize(self.rows, (steps, self.batch))
        begun = time.perf_counter()
        model.train_steps(self.x, self.y, indices=rows)
        return (time.perf_counter() - begun) / steps
