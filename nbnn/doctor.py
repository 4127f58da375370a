"""What `nbnn doctor` looks at: versions, the processor, threads, the folder of compiled code, and whether every kernel
computes on this machine what its reference says."""

from __future__ import annotations

import os
import pathlib
import platform
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import NamedTuple

import numpy as np

import nbnn
from nbnn import cache, rules
from nbnn.arrays import arena
from nbnn.check import TOLERANCES, VerifyError, relative_error
from nbnn.graph import Graph
from nbnn.kernels.constants import AGE, AVERAGE, BLOCK, RULES
from nbnn.ops import (
    GELU,
    Add,
    Affine,
    Augment,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Tanh,
)
from nbnn.step import cores

PACKAGES = ("numpy", "numba", "llvmlite", "safetensors", "filelock", "platformdirs")
EXTRAS = ("matplotlib", "pooch")
FEATURES = ("sse4.2", "avx2", "fma", "avx512f", "neon", "sve")  # what decides about registers

# between them they call every kernel
NETS = {
    "pictures": Graph(
        [
            *(
                Augment(1),
                Conv(18, 3, pad=1),
                BatchNorm(),
                ReLU(),
                Conv(20, 3, pad=1, name="a"),
                GroupNorm(2),
                LeakyReLU(0.1),
            ),
            *(Conv(20, 3, pad=1, groups=2, name="b"), Tanh(), Add(inputs=("tanh1", "a")), MaxPool(2)),
            *(
                Conv(17, 3, stride=2, pad=1, name="c"),
                ReLU(name="d"),
                Concat(inputs=("d", "c")),
                Scale(),
                AvgPool(2, stride=1),
            ),
            *(Dropout(0.2), Affine(9), SiLU(), Affine(5)),
        ],
        input=(16, 12, 10),
        loss="softmax",
    ),
    "windows": Graph(
        [
            *(Conv(5, 5, bias=False), MaxPool(3, stride=2), BatchNorm(), ReLU(), Conv(7, 2), Sigmoid()),
            *(Flatten(), Affine(4)),
        ],
        input=(6, 16, 16),
        loss="svm",
    ),
    "wide": Graph([Conv(342, 3, pad=1), Affine(3)], input=(342, 4, 4), loss="softmax"),
    "gray": Graph(
        [Conv(4, 4), Conv(4, 3, pad=1, groups=4), GlobalAvgPool(), Affine(3)], input=(1, 6, 20), loss="softmax"
    ),
    "numbers": Graph([Affine(160), GELU(), LayerNorm(), Affine(33), ReLU(), Affine(3)], input=(120,), loss="mse"),
}
# Large enough for several threads. Within the tower nothing makes threads wait for each other.
TOWER = [node for filters in (16, 48, 24, 64) for node in (Conv(filters, 3, pad=1), ReLU())]
SHARED = {
    "numbers": (Graph([Affine(2500), ReLU(), Affine(3)], input=(40,), loss="softmax"), 12),
    "pictures": (Graph([*TOWER, GlobalAvgPool(), Affine(3)], input=(16, 9, 9), loss="softmax"), 96),
}
STEPS, REPEATS = 4, 10


class Finding(NamedTuple):
    """One line: what was looked at, what was found, and whether that is well."""

    what: str
    found: str
    well: bool = True

    def __str__(self) -> str:
        return f"{self.what:<24}{self.found}{'' if self.well else '   <- not well'}"


def findings() -> Iterator[Finding]:
    """Everything, one after the other as it is found; the first compilation of all kernels takes a minute."""
    yield from about()
    yield compiled_code()
    for dtype in TOLERANCES:
        for name in NETS:
            yield judged(f"{name}, {dtype}", partial(against_reference, name, dtype))
        yield judged(f"update rules, {dtype}", partial(update_rules, dtype))
    yield judged("1 thread and all", same_bits)
    yield threads()


def judged(what: str, check: Callable[[], Finding]) -> Finding:
    """The finding of a check, or the error that ended it."""
    begun = time.perf_counter()
    try:
        found = check()
    except Exception as problem:  # whatever it is, it is a finding
        return Finding(what, f"{type(problem).__name__}: {problem}", False)
    return found._replace(found=f"{found.found}, {time.perf_counter() - begun:.1f} s")


def about() -> Iterator[Finding]:
    from llvmlite import binding

    from nbnn.kernels.simd import lanes_of

    yield Finding("nbnn", f"{nbnn.__version__} in {pathlib.Path(nbnn.__file__).parent}")
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        yield Finding(package, version(package), version(package) != "absent")
    yield Finding("extras", ", ".join(f"{package} {version(package)}" for package in EXTRAS))
    has = binding.get_host_cpu_features()
    known = [feature for feature in FEATURES if has.get(feature)]
    yield Finding(
        "processor", f"{binding.get_host_cpu_name()} with {', '.join(known) or 'none of ' + ', '.join(FEATURES)}"
    )
    yield Finding("registers", f"{lanes_of('float32')} numbers of float32, {lanes_of('float64')} of float64")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def compiled_code() -> Finding:
    """Where compiled code is kept, and whether that is private and can be written to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = cache.folder(cache.fingerprint())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    if caught:
        return Finding("compiled code", str(caught[0].message), False)
    private = os.name == "nt" or not stat.S_IMODE(folder.stat().st_mode) & 0o077
    return Finding(
        "compiled code", f"{size:.0f} MiB in {folder}, {'private' if private else 'open to others'}", private
    )


def threads() -> Finding:
    """Found last: Numba decides about the layer at the first launch."""
    import numba

    layer = numba.threading_layer()
    said = f"{numba.get_num_threads()} of layer {layer}, {cores()} processors may be used"
    if layer == "workqueue":
        said += "; its launches take 100 microseconds instead of 2, an OpenMP runtime would be faster"
    return Finding("threads", said)


def against_reference(name: str, dtype: str) -> Finding:
    """A net against its reference and numeric differences: the worst error, relative to its tolerance."""
    try:
        report = nbnn.compile(NETS[name], dtype=dtype, seed=1).verify(batch=5)
    except VerifyError as problem:
        wrong = [line for line in str(problem).splitlines() if "WRONG" in line]
        return Finding(f"{name}, {dtype}", f"computes something else: {'; '.join(wrong)}", False)
    worst = max(row.error / row.tolerance for row in report.rows)
    return Finding(f"{name}, {dtype}", f"{len(report.rows)} comparisons, at most {worst:.0%} of what is allowed")


def update_rules(dtype: str) -> Finding:
    """One step by each rule on random numbers and the average of its weights, here and by its reference."""
    from nbnn.kernels import names, reference

    worst, size = 0.0, BLOCK + 48
    for rule in rules.DEFAULTS:
        rng = np.random.default_rng(0)
        ours = [arena(size, dtype) for _ in range(4)]  # dw, w, m, v
        for array in ours:
            array[:] = np.abs(rng.standard_normal(size))
        ours += [np.full(-(-size // BLOCK), -1.0), np.zeros(1)]  # no sum is known
        theirs = [array.copy() for array in ours]
        settings = rules.settings_of(rule, rules.config_of(rule, None), 3.0)
        settings[[AVERAGE, AGE]] = 0.1, 3.0
        for kernels, (dw, w, *rest) in ((names(), ours), (vars(reference), theirs)):
            kernels["update"](RULES.index(rule), 80, settings, dw, w, *rest)
            kernels["average"](w, settings, dw)  # any numbers are a mean
        worst = max(worst, *map(relative_error, ours, theirs))
    share = worst / TOLERANCES[dtype]
    found = f"{len(rules.DEFAULTS)} rules, at most {share:.0%} of what is allowed"
    return Finding(f"update rules, {dtype}", found, bool(share <= 1))


def same_bits() -> Finding:
    """The same nets on one thread and, again and again, on all."""
    import numba

    nets = {name: compiled(graph, batch) for name, (graph, batch) in SHARED.items()}
    several = [trained(*net) for _ in range(REPEATS) for net in nets.values()]
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = [trained(*net) for net in nets.values()]
    finally:
        numba.set_num_threads(before)
    equal = several == one * REPEATS
    return Finding("1 thread and all", "the same bits" if equal else "other bits", equal)


def compiled(graph: Graph, batch: int) -> tuple[nbnn.Model, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((batch, *graph.input)), rng.integers(0, graph.output_shape[0], batch)
    return nbnn.compile(graph, batch=batch, seed=1), x, y


def trained(model: nbnn.Model, x: np.ndarray, y: np.ndarray) -> list[bytes]:
    """Scores before and parameters after a few steps of a rule without memory, from the same start each time."""
    start = model.params.copies()
    scores = model.loss(x)
    model.train_steps(x, y, update_rule="sgd", steps=STEPS, reg=0.01, clip=1.0)
    found = [scores.tobytes(), *(array.tobytes() for array in model.params.values())]
    model.params.update(start)
    return found
