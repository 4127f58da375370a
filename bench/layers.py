"""Single layers: ours and PyTorch's in turn on all threads, and ours on one thread against the machine's limit."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import numpy as np

from bench import naive
from bench.contest import PAUSE, Child, Options, PeerError, child
from bench.nets import LAYERS, QUICK_LAYERS
from bench.report import TOLERANCE, Table, least, ratio, verdict
from bench.timing import in_turn, seconds_of
from nbnn import Conv, MaxPool
from nbnn.op import Op

COLUMNS = {"layer": 32, "direction": 14, "algorithm": 9, "ours": 7, "torch": 7, "ratio": 5, "one thread": 10}
COLUMNS |= {"GFLOP/s": 7, "share": 5, "residual": 8, "verdict": 5}
REPEAT = 3  # calls behind one sample


def layers(options: Options) -> Table:
    title = (
        f"single layers in ms, {options.threads} threads, beside PyTorch's better layout; "
        "GFLOP/s and their share of the limit are those of one thread"
    )
    table = Table(title, COLUMNS).begin()
    limits = []
    for place, layer in list(enumerate(LAYERS))[: QUICK_LAYERS if options.quick else None]:
        for algorithm in layer.shares:
            for row in layer_rows(table, place, algorithm, options):
                limits.append(row.get("limit"))
                table.add(**row)
    table.facts["limit_gflops"] = statistics.median(x for x in limits if x) if any(limits) else None
    table.note(f"limit: {table.facts['limit_gflops'] or float('nan'):.0f} GFLOP/s on one core, in its registers")
    return table


def layer_rows(table: Table, place: int, algorithm: str, options: Options) -> list[dict[str, Any]]:
    """The directions of one layer."""
    layer = LAYERS[place]
    with child("bench.layer_runner:OurLayer", options) as ours, child("bench.layer_runner:TorchLayer", options) as peer:
        try:
            residuals = ours.ask("start", place=place, algorithm=algorithm)
            asked: dict[str, Any] = {
                "one": partial(ours.ask, "sample", threads=1, repeat=REPEAT),
                "all": partial(ours.ask, "sample", threads=options.threads, repeat=REPEAT),
            }
            if started(table, peer, place):
                asked["torch"] = partial(peer.ask, "sample", repeat=REPEAT)
            taken = in_turn(asked, 3 if options.quick else 9, PAUSE)
        except PeerError as problem:
            table.note(f"{layer.name}: {problem}")
            return [{"layer": layer.name, "algorithm": algorithm, "verdict": verdict(False)}]
    limit = statistics.median(t["limit"] for t in taken["one"])
    rows = []
    for direction, residual in residuals.items():
        row = {"layer": layer.name, "direction": direction, "algorithm": algorithm, "residual": residual}
        if not residual <= TOLERANCE:
            rows.append({**row, "verdict": verdict(False)})
            continue
        one, every = (statistics.median(t[direction] for t in taken[k]) for k in ("one", "all"))
        layouts = zip(*taken.get("torch", []), strict=True)
        torch = min((statistics.median(t[direction] for t in layout) for layout in layouts), default=None)
        gflops = layer.flops / one / 1e6 if layer.flops else None
        row |= {"ours": every, "torch": torch, "ratio": ratio(torch, every), "one thread": one, "GFLOP/s": gflops}
        row |= {"share": ratio(gflops, limit), "limit": limit}
        wanted = layer.ratio if algorithm == "auto" else None  # the other algorithm is held to the limit alone
        missed = least(row["ratio"], wanted), share_missed(row["share"], layer.shares[algorithm])
        rows.append({**row, "verdict": verdict(True, *missed)})
    return rows


def share_missed(share: float | None, goal: float | None) -> str | None:
    return f"short of {goal:.0%}" if least(share, goal) else None


def started(table: Table, peer: Child, place: int) -> bool:
    try:
        peer.ask("start", place=place)
    except PeerError as problem:
        table.note(f"torch is absent: {problem}")
        return False
    return True


# ---- the figures of the course

NAIVE_COLUMNS = {"what": 14, "shape": 32, "ours": 7, "naive": 7, "times": 6, "course": 6, "residual": 8, "verdict": 5}
COURSE = {"conv forward": 668, "conv backward": 283, "pool forward": 64, "pool backward": 124}  # on its machine
NAIVE_EXAMPLES = 2


def against_naive(options: Options) -> Table:
    title = (
        f"microseconds for one example: ours of 100, four loops in Python of {NAIVE_EXAMPLES}, and the course's figure"
    )
    table = Table(title, NAIVE_COLUMNS).begin()
    for word, kind in (("conv", Conv), ("pool", MaxPool)):
        place = next(k for k, layer in enumerate(LAYERS) if layer.n == 100 and isinstance(layer.node, kind))
        try:
            for row in naive_rows(word, place, options):
                table.add(**row)
        except PeerError as problem:
            table.note(f"{word}: {problem}")
            table.add(what=word, verdict=verdict(False))
    return table


def naive_rows(word: str, place: int, options: Options) -> list[dict[str, Any]]:
    """Forward and backward, which is all that is to be found at once, of one layer."""
    layer = LAYERS[place]
    with child("bench.layer_runner:OurLayer", options) as ours:
        residuals = ours.ask("start", place=place, algorithm="auto")
        ask = partial(ours.ask, "sample", threads=options.threads, repeat=REPEAT)
        taken = in_turn({"ours": ask}, options.times, PAUSE)["ours"]
    rows = []
    for way, seconds in naive_seconds(layer.node, layer.input).items():
        parts = [d for d in residuals if (d == "forward") == (way == "forward")]
        what, residual = f"{word} {way}", float(np.max([residuals[d] for d in parts]))  # NaN if one is
        row = {"what": what, "shape": layer.name, "course": COURSE[what], "residual": residual}
        right = residual <= TOLERANCE
        if right:
            each = sum(statistics.median(t[d] for t in taken) for d in parts) / layer.n * 1e3
            row |= {"ours": each, "naive": seconds * 1e6, "times": seconds * 1e6 / each}
        rows.append({**row, "verdict": verdict(right)})
    return rows


def naive_seconds(node: Op, shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds for one example, forward and backward."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((NAIVE_EXAMPLES, *shape))
    if isinstance(node, Conv):
        w, b = rng.standard_normal((node.filters, shape[0], node.size, node.size)), np.zeros(node.filters)
        y = naive.conv_forward(x, w, b, node.stride, node.pad)
        calls = {
            "forward": partial(naive.conv_forward, x, w, b, node.stride, node.pad),
            "backward": partial(naive.conv_backward, y, x, w, node.stride, node.pad),
        }
    elif isinstance(node, MaxPool):
        y = naive.pool_forward(x, node.size)
        calls = {
            "forward": partial(naive.pool_forward, x, node.size),
            "backward": partial(naive.pool_backward, y, x, node.size),
        }
    return {name: min(seconds_of(call) for _ in range(3)) / NAIVE_EXAMPLES for name, call in calls.items()}
