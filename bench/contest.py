"""Contestants in processes of their own, timed in turn.

Each library has its own pool of threads, its own allocator and its own denormal mode, so each gets a process; only one
of them computes at a time. All are told the same number of threads. How long their idle threads spin is left as each
library has it, since both sleep and spin cost somebody: a short pause before each question lets them go to sleep.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.machine import products
from bench.nets import NETS, graph_of
from bench.report import Table, agreed, best, geometric_mean, least, ratio, verdict
from bench.runner import CONTESTANTS
from bench.timing import in_turn

PAUSE = 0.15  # seconds; OpenBLAS spins for up to 100 ms on a slow day, the OpenMP of GCC for about 5
SAMPLE = 0.1  # seconds that one sample should take at least, for the median to stand still
MOST = 1000  # steps of a sample
TORCH = ("torch", "torch last", "torch comp")
JAX = ("jax", "jax NHWC")
WIDTHS = {
    "net": 9,
    "batch": 5,
    "ours": 7,
    **dict.fromkeys(list(CONTESTANTS)[1:], 7),
    "limit": 6,
    "ratio": 5,
    "to jax": 6,
}
COLUMNS = {**WIDTHS, "first s": 7, "residual": 8, "goal": 4, "verdict": 5}
MEAN_GOAL, JAX_GOAL, LEAST_RATIO = 4.0, 5.0, 2.0


class PeerError(Exception):
    """A child that could not do what it was asked, in one line."""

    def __init__(self, child: Any, said: str) -> None:
        super().__init__(said)
        self.child = child


@dataclass(frozen=True)
class Options:
    """What one run measures, and with what."""

    threads: int
    quick: bool
    nets: list[str]
    folder: pathlib.Path  # for what the run throws away
    data: pathlib.Path | None = None  # where CIFAR-10 is

    @property
    def times(self) -> int:
        return 5 if self.quick else 15

    @property
    def budget(self) -> float:
        """Seconds that the samples of one row may take; slow rows get fewer of them, but at least 3."""
        return 4.0 if self.quick else 20.0


class Child:
    """A process that holds one object of `bench.child` and answers questions about it."""

    def __init__(
        self, target: str, options: Options, *, threads: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        told = dict.fromkeys(counts, str(threads or options.threads))
        # what torch.compile keeps goes to a folder of this run, so that its first call is always a first call
        told |= {"TORCHINDUCTOR_CACHE_DIR": str(options.folder / "inductor"), **(env or {})}
        root = str(pathlib.Path(__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        errors, self._errors = tempfile.mkstemp(dir=options.folder)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.child", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **told, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends each child and its helpers
        )
        os.close(errors)
        self.pid = self._process.pid

    def ask(self, method: str, **keywords: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([method, keywords]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise PeerError(self, self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(self, answer["error"])
        return answer["result"]

    def close(self) -> None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.communicate()

    def _last_words(self) -> str:
        self._process.wait()
        said = pathlib.Path(self._errors).read_text(errors="replace").strip().splitlines()
        return f"it ended with {self._process.returncode}{f': {said[-1]}' if said else ''}"


@contextlib.contextmanager
def child(target: str, options: Options, **settings: Any) -> Iterator[Child]:
    one = Child(target, options, **settings)
    try:
        yield one
    finally:
        one.close()


@dataclass
class Entry:
    """A contestant in a row: its process, the seconds of its first call there, and its losses."""

    child: Child
    first: float
    losses: list[float]


def enter(child: Child, name: str, net: str, batch: int) -> Entry:
    """Start a contestant twice where the net draws random numbers: once without them, for losses that must agree."""
    random = graph_of(net)[0] != graph_of(net, dropout=False)[0]
    checked = child.ask("start", name=name, net=net, batch=batch, dropout=False)
    if random:
        child.ask("start", name=name, net=net, batch=batch)
    return Entry(child, checked["first"], checked["losses"])


def long_enough(sample: Callable[[int], float]) -> tuple[int, float]:
    """How many steps make a sample, and the seconds of one of them. A first step alone says little: threads have slept
    and caches are cold, so it may take many times as long as those behind it."""
    time.sleep(PAUSE)
    sample(1)
    steps, enough = 0, 1
    while enough > 1.2 * steps:
        steps = enough
        seconds = sample(steps)
        enough = min(MOST, math.ceil(SAMPLE / seconds))
    return steps, seconds


def sampled(children: Mapping[str, Child], options: Options) -> dict[str, float]:
    """Median seconds of a step of each, in turn."""
    tried = {name: long_enough(lambda steps, c=c: c.ask("sample", steps=steps)) for name, c in children.items()}
    round_takes = sum(steps * seconds + PAUSE for steps, seconds in tried.values())
    times = max(3, min(options.times, int(options.budget / round_takes)))
    asked = {name: (lambda name=name, c=c: c.ask("sample", steps=tried[name][0])) for name, c in children.items()}
    return {name: statistics.median(taken) for name, taken in in_turn(asked, times, PAUSE).items()}


def sampled_or_absent(table: Table, net: str, children: dict[str, Child], options: Options) -> dict[str, float]:
    """The same, begun anew without a peer that ends on the way, as when memory is short; nothing where ours does."""
    while "ours" in children:
        try:
            return sampled(children, options)
        except PeerError as problem:
            name = next(n for n, c in children.items() if c is problem.child)
            table.note(f"{net}: {name} is absent: {problem}")
            del children[name]
    return {}


def wrong_ones(losses: Mapping[str, list[float]]) -> tuple[float, list[str]]:
    """The largest residual of a peer's losses against ours, and whose are too far away."""
    found = {name: agreed(ours, losses[name]) for name in losses if name != "ours" for ours in [losses["ours"]]}
    wrong = [name for name, (_, good) in found.items() if not good]
    residuals = [error for error, _ in found.values()]
    return (found[wrong[0]][0] if wrong else max(residuals, default=float("nan"))), wrong


def net_row(
    table: Table, net: str, batch: int, options: Options, names: list[str], env: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """One net: who can enters, who agrees is timed."""
    with contextlib.ExitStack() as stack:
        entries = {}
        for name in names:
            one = stack.enter_context(child("bench.runner:Runner", options, env=env.get(name, {})))
            try:
                entries[name] = enter(one, name, net, batch)
            except PeerError as problem:
                table.note(f"{net}: {name} is absent: {problem}")
        row: dict[str, Any] = {"net": net, "batch": batch, "first calls s": {n: e.first for n, e in entries.items()}}
        row["losses"] = {n: e.losses for n, e in entries.items()}
        if "ours" not in entries:
            return {**row, "verdict": verdict(False)}
        row |= {"first s": entries["ours"].first}
        row["residual"], wrong = wrong_ones(row["losses"])
        if wrong:
            table.note(f"{net}: the losses of {', '.join(wrong)} differ from ours")
            return {**row, "verdict": verdict(False)}
        seconds = sampled_or_absent(table, net, {name: e.child for name, e in entries.items()}, options)
    if "ours" not in seconds:
        return {**row, "verdict": verdict(False)}
    ms: dict[str, float | None] = {name: s * 1e3 for name, s in seconds.items()}
    row |= {**ms, "ratio": ratio(best(ms, TORCH), ms["ours"]), "to jax": ratio(best(ms, JAX), ms["ours"])}
    return row


def contestants_of(net: str, options: Options) -> list[str]:
    """Those worth starting; the NumPy code is the courses', MLPClassifier an MLP."""
    left_out = {"numpy"} if not net.startswith("course") else set()
    left_out |= {"sklearn"} if net != "mlp" else set()
    left_out |= {"torch comp", "jax NHWC"} if options.quick else set()
    return [name for name in CONTESTANTS if name not in left_out]


def nets(options: Options) -> Table:
    title = (
        f"one training step in ms, {options.threads} threads; ratio is PyTorch's best over ours, to jax JAX's best; "
        "limit: its multiply-adds at the speed of the registers"
    )
    table = Table(title, COLUMNS).begin()
    with child("bench.machine:Machine", options) as machine:
        gflops = machine.ask("gflops") * options.threads
    for net in options.nets:
        for batch, goal in list(NETS[net].goals.items())[: 1 if options.quick else None]:
            row = net_row(table, net, batch, options, contestants_of(net, options), {})
            row["limit"] = 2 * batch * products(graph_of(net)[0]) / gflops / 1e6
            table.add(**{"goal": goal, "verdict": verdict(True, least(row.get("ratio"), goal)), **row})
    for key, peer, goal in (("ratio", "PyTorch's best", MEAN_GOAL), ("to jax", "JAX's best", JAX_GOAL)):
        mean = geometric_mean(row.get(key) for row in table.rows)
        if mean is not None:
            table.note(f"geometric mean against {peer}: {mean:.2f}, {verdict(True, least(mean, goal))}")
    under = [f"{r['net']} ({r['batch']})" for r in table.rows if r.get("ratio") and least(r["ratio"], LEAST_RATIO)]
    if under:
        table.note(f"ratio under {LEAST_RATIO:g}: {', '.join(under)}")
    return table


AVX2_TORCH = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
AVX2 = {"ours": {"NUMBA_CPU_NAME": "haswell"}, **dict.fromkeys(TORCH, AVX2_TORCH)}
AVX2_GOAL = 2.0


def avx2(options: Options) -> Table:
    names = ["ours", "torch", "torch last"]
    columns = {c: w for c, w in COLUMNS.items() if c not in set(CONTESTANTS) - set(names) | {"to jax", "goal", "limit"}}
    table = Table("the same step with both sides held to AVX2", columns).begin()
    for net in options.nets:
        for batch in list(NETS[net].goals)[: 1 if options.quick else None]:
            row = net_row(table, net, batch, options, names, AVX2)
            table.add(**{"verdict": verdict(True), **row})
    mean = geometric_mean(row.get("ratio") for row in table.rows)
    if mean is not None:
        table.note(f"geometric mean: {mean:.2f}, {verdict(True, least(mean, AVX2_GOAL))}")
    return table
