"""What training costs beside the time of a step: memory, threads, batches, the start; and where a step's time goes."""

from __future__ import annotations

import contextlib
import statistics
import tempfile

from bench.contest import JAX, PAUSE, Entry, Options, PeerError, child, enter, long_enough, sampled, wrong_ones
from bench.nets import NETS
from bench.report import Table, best, least, most, ratio, verdict
from bench.timing import in_turn

RUNNER = "bench.runner:Runner"


def _first_batch(net: str) -> int:
    return next(iter(NETS[net].goals))


# ---- memory

MEMORY_NETS = ("course3x3", "vgg", "resnet9", "mlp")
MEMORY_GOAL = 0.5


def memory(options: Options) -> Table:
    """Without dropout, so that the losses show that both did the same; its masks would be PyTorch's burden alone."""
    names = ("ours", "torch", "torch last")
    columns = {"net": 9, "batch": 5, **dict.fromkeys(names, 10), "share": 5, "residual": 8, "verdict": 5}
    table = Table("peak memory of a training process in MiB above its imports, compiled code cached", columns).begin()
    for net in [n for n in MEMORY_NETS if n in options.nets]:
        batch = _first_batch(net)
        with child(RUNNER, options) as earlier, contextlib.suppress(PeerError):
            earlier.ask("start", name="ours", net=net, batch=batch, dropout=False)  # fills the cache
        found, losses = {}, {}
        for name in names:
            with child(RUNNER, options) as one:
                try:
                    losses[name] = one.ask("start", name=name, net=net, batch=batch, dropout=False)["losses"]
                    found[name] = one.ask("peak")
                except PeerError as problem:
                    table.note(f"{net}: {name} is absent: {problem}")
        if "ours" not in found:
            table.add(net=net, batch=batch, verdict=verdict(False))
            continue
        residual, wrong = wrong_ones(losses)
        share = ratio(found["ours"], best(found, names[1:]))
        numbers = {} if wrong else {**found, "share": share}
        table.add(
            net=net, batch=batch, **numbers, residual=residual, verdict=verdict(not wrong, most(share, MEMORY_GOAL))
        )
    return table


# ---- threads

TWO_THREADS_GOAL = 1.85
LEAST_STEP = 1.0  # ms; shorter steps have too little to share


def threads(options: Options) -> Table:
    one, every = "1 thread", f"{options.threads} threads"
    columns = {"net": 9, "batch": 5, one: 9, every: 9, "times": 5, "verdict": 5}
    table = Table(f"one training step in ms, 1 and {options.threads} threads", columns).begin()
    if options.threads < 2:
        table.note("there is one thread only")
        return table
    goal = TWO_THREADS_GOAL if options.threads == 2 else None  # none is set for more
    for net in options.nets:
        batch = _first_batch(net)
        with child(RUNNER, options, threads=1) as few, child(RUNNER, options) as many:
            try:
                entries = {one: enter(few, "ours", net, batch), every: enter(many, "ours", net, batch)}
                seconds = sampled({name: e.child for name, e in entries.items()}, options)
            except PeerError as problem:
                table.note(f"{net}: {problem}")
                table.add(net=net, batch=batch, verdict=verdict(False))
                continue
        ms = {name: s * 1e3 for name, s in seconds.items()}
        if not equal(entries):
            table.add(net=net, batch=batch, verdict=verdict(False))
        elif ms[one] <= LEAST_STEP:
            table.add(net=net, batch=batch, **ms, verdict=f"under {LEAST_STEP:g} ms")
        else:
            times = ms[one] / ms[every]
            table.add(net=net, batch=batch, **ms, times=times, verdict=verdict(True, least(times, goal)))
    return table


def equal(entries: dict[str, Entry]) -> bool:
    """Whether the losses are the same numbers, not near ones: no result may depend on the threads."""
    return len({tuple(e.losses) for e in entries.values()}) == 1


# ---- batches

BATCHES = (32, 64, 128, 256, 512, 1024)
BATCH_GOAL = 0.1


def batches(options: Options) -> Table:
    columns = {"batch": 5, "step ms": 8, "example us": 10, "off": 6, "verdict": 5}
    net, sizes = ("vgg" if "vgg" in options.nets else options.nets[0]), BATCHES[:3] if options.quick else BATCHES
    table = Table(
        f"{net}: a step against its batch; off is how far an example's time is from the median", columns
    ).begin()
    with child(RUNNER, options) as one:
        try:
            one.ask("start", name="ours", net=net, batch=sizes[-1])
            steps = {b: long_enough(lambda steps, b=b: one.ask("sample", steps=steps, batch=b))[0] for b in sizes}
            asked = {str(b): (lambda b=b: one.ask("sample", steps=steps[b], batch=b)) for b in sizes}
            taken = in_turn(asked, max(3, options.times // 3), PAUSE)
        except PeerError as problem:
            table.note(str(problem))
            table.add(batch="all", verdict=verdict(False))
            return table
    each = {b: statistics.median(taken[str(b)]) / b for b in sizes}
    middle = statistics.median(each.values())
    for b, seconds in each.items():
        off = seconds / middle - 1
        row = {"batch": b, "step ms": seconds * b * 1e3, "example us": seconds * 1e6, "off": f"{off:+.1%}"}
        table.add(**row, deviation=off, verdict=verdict(True, most(abs(off), BATCH_GOAL)))
    return table


# ---- the start

START_GOALS = {"vgg": 8.0, "course7x7": None}
WARM_GOAL = 1.0


def start(options: Options) -> Table:
    peers = ("torch comp", *JAX)
    columns = {"net": 9, "cold": 6, "new net": 7, "warm": 6, "numba": 6, **dict.fromkeys(peers, 10), "verdict": 5}
    table = Table(
        "seconds to the first step: compiled from nothing; of a new net of kernels that are there; from a warm cache, "
        "both without Numba's import; peers' first call",
        columns,
    ).begin()
    for net in [n for n in START_GOALS if n in options.nets]:
        row: dict = {"net": net}
        with tempfile.TemporaryDirectory(dir=options.folder) as empty:
            env = {"NBNN_CACHE_DIR": empty}
            try:
                with child(RUNNER, options, env=env) as one:
                    row["cold"] = one.ask("start", name="ours", net=net, batch=_first_batch(net))["first"]
                warm = []
                for _ in range(3):
                    with child("bench.startup:Startup", options, env=env) as one:
                        warm.append(one.ask("first_step", net=net))
                with child("bench.startup:Startup", options, env=env) as one:
                    row["new net"] = one.ask("first_step", net=net, another=True)["nbnn"]
            except PeerError as problem:
                table.note(f"{net}: {problem}")
                table.add(net=net, verdict=verdict(False))
                continue
        row |= {
            "warm": statistics.median(w["nbnn"] for w in warm),
            "numba": statistics.median(w["numba"] for w in warm),
        }
        for name in peers[1:2] if options.quick else peers:
            with (
                tempfile.TemporaryDirectory(dir=options.folder) as empty,
                child(RUNNER, options, env={"TORCHINDUCTOR_CACHE_DIR": empty}) as one,
            ):
                try:
                    row[name] = one.ask("start", name=name, net=net, batch=_first_batch(net))["first"]
                except PeerError as problem:
                    table.note(f"{net}: {name} is absent: {problem}")
        table.add(**row, verdict=verdict(True, most(row["cold"], START_GOALS[net]), most(row["warm"], WARM_GOAL)))
    return table


# ---- shares

SHOWN = 5


def shares(options: Options) -> Table:
    columns = {"net": 9, "batch": 5, "part": 24, "ms": 7, "share": 6, "verdict": 5}
    table = Table(f"where a step's time goes: the {SHOWN} largest parts of each net", columns).begin()
    for net in options.nets:
        batch = _first_batch(net)
        with child(RUNNER, options) as one:
            try:
                one.ask("start", name="ours", net=net, batch=batch)
                parts = one.ask("profile", repeat=options.times)
            except PeerError as problem:
                table.note(f"{net}: {problem}")
                table.add(net=net, batch=batch, verdict=verdict(False))
                continue
        total = sum(parts.values())
        largest = sorted(parts, key=lambda part: -parts[part])[:SHOWN]
        for place, part in enumerate(largest):
            kept = {"parts": parts} if place == 0 else {}  # whole in the JSON
            row = {"net": net, "batch": batch, "part": part, "ms": parts[part], "share": f"{parts[part] / total:.1%}"}
            table.add(**row, verdict="ok", **kept)
    return table
