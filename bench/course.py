"""The course's experiments on real pictures, and what its fast functions cost."""

from __future__ import annotations

import statistics
import tempfile
from typing import Any, NamedTuple

import numpy as np

from bench.contest import PAUSE, Options, PeerError, child
from bench.report import Table, least, most, ratio, verdict
from bench.timing import in_turn

COMPARED = 50  # losses that must be PyTorch's
TOLERANCE = 1e-3  # relative
RUNNER = "bench.course_runner"


class Experiment(NamedTuple):
    """A ThreeLayerConvNet and how it is trained; `examples` of the training pictures, or all of them. What one epoch
    comes to depends on the seed, so the median of several `seeds` counts."""

    name: str
    net: dict[str, Any]
    examples: int | None
    batch: int
    epochs: int
    published: str
    goal: dict[str, float]  # what it must reach: train, val, times
    rate: float = 1e-3
    seeds: int = 1


EXPERIMENTS = (
    Experiment("100 pictures", {"weight_scale": 1e-2, "reg": 0.0}, 100, 50, 10, "train 0.69", {"train": 0.69}),
    Experiment(
        "7x7, one epoch",
        {"hidden_dim": 500, "reg": 1e-3, "weight_scale": 1e-3},
        None,
        50,
        1,
        "val 0.472",
        {"val": 0.47},
        seeds=5,
    ),
    Experiment(
        "3x3, 15 epochs",
        {"num_filters": 64, "filter_size": 3, "hidden_dim": 500, "reg": 1e-3, "weight_scale": 1e-3},
        None,
        1000,
        15,
        "val 0.668",
        {"val": 0.63, "times": 6.0},
    ),
)
LAST_STEPS = {False: 1000, True: 50}  # that PyTorch takes at most, whether few


def prepare(options: Options) -> None:
    """The pictures as files that each process maps: 49000 and 1000, their mean picture subtracted, float32."""
    from nbnn.course.data_utils import get_CIFAR10_data

    data = get_CIFAR10_data(str(options.data), num_test=0)
    for part in ("X_train", "y_train", "X_val", "y_val"):
        array = data[part]
        np.save(options.folder / f"{part}.npy", array.astype(np.float32 if part.startswith("X") else np.int64))


def course(options: Options) -> Table:
    columns = {
        "experiment": 14,
        "published": 10,
        "train": 6,
        "val": 6,
        "torch val": 9,
        "ours s": 7,
        "torch s": 7,
        "times": 5,
        "f64": 8,
        "ours f32": 8,
        "torch f32": 9,
        "verdict": 5,
    }
    title = (
        "the course's experiments on CIFAR-10: best accuracies, PyTorch's at the end of its steps with the first seed "
        "where it took them all; seconds of training and measuring accuracies, "
        "PyTorch's from the median of its steps in its better layout; how far the first "
        f"{COMPARED} losses are apart (relative): ours and PyTorch's in float64, and each one's in float32 from its "
        "own in float64"
    )
    table = Table(title, columns).begin()
    if options.data is None:
        table.note("no pictures: name the folder of CIFAR-10 with --data")
        return table
    prepare(options)
    for place, experiment in enumerate(EXPERIMENTS[:2] if options.quick else EXPERIMENTS):
        row = {"experiment": experiment.name, "published": experiment.published}
        words = {"place": place, "folder": str(options.folder)}
        try:
            with child(f"{RUNNER}:Ours", options) as one:
                losses = {d: one.ask("first", **words, most=COMPARED, dtype=d) for d in ("float32", "float64")}
            runs = []
            for seed in range(experiment.seeds):
                with child(f"{RUNNER}:Ours", options) as one:
                    runs.append(one.ask("train", **words, seed=seed))
        except PeerError as problem:
            table.note(f"{experiment.name}: {problem}")
            table.add(**row, verdict=verdict(False))
            continue
        ours = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row |= {"train": ours["train"], "val": ours["val"], "ours s": ours["seconds"]}
        if len(runs) > 1:
            every = ", ".join(f"{run['val']:.3f}" for run in runs)
            table.note(f"{experiment.name}: median of {len(runs)} seeds; val {every}")
        row["ours f32"] = apart(losses["float32"], losses["float64"])
        right = True
        try:
            peer = by_torch(options, words, options.quick or experiment.batch > 500)
            row["torch s"] = peer["step"] * ours["steps"] + peer["accuracies"]["seconds"] * ours["measured"]
            if peer["taken"] == ours["steps"]:
                row["torch val"] = peer["accuracies"]["val"]
            row["times"] = ratio(row["torch s"], ours["seconds"])
            row["f64"] = apart(losses["float64"], peer["float64"])
            row["torch f32"] = apart(peer["float32"], peer["float64"])
            right = row["f64"] <= TOLERANCE
        except PeerError as problem:
            table.note(f"{experiment.name}: PyTorch is absent: {problem}")
        missed = [least(row.get(key), goal) for key, goal in experiment.goal.items()]
        table.add(**row, verdict=verdict(right, *missed))
    return table


def apart(found: list[float], wanted: list[float]) -> float:
    """The largest relative difference of the first losses."""
    one, other = (np.array(losses[:COMPARED]) for losses in (found, wanted))
    return float(np.max(np.abs(one - other) / np.abs(other)))


def by_torch(options: Options, words: dict[str, Any], few: bool) -> dict[str, Any]:
    """The same by PyTorch: losses in both dtypes, seconds of a step and of measuring accuracies, in its better
    layout."""
    found: dict[str, Any] = {"step": float("inf")}
    for last in (False, True):
        with child(f"{RUNNER}:Torch", options) as one:
            one.ask("start", **words, dtype="float32", last=last)
            taken = one.ask("steps", most=LAST_STEPS[few])
            if taken["step"] < found["step"]:
                found |= {"step": taken["step"], "float32": taken["losses"], "taken": len(taken["losses"])}
                found["accuracies"] = one.ask("accuracies")
    with child(f"{RUNNER}:Torch", options) as one:
        one.ask("start", **words, dtype="float64", last=False)
        found["float64"] = one.ask("steps", most=COMPARED)["losses"]
    return found


SHAPES = (3, 16, 5, 24, 7, 32, 9, 40, 11, 48)  # channels, each another shape


def shapes(options: Options) -> Table:
    columns = {"cache": 6, "first s": 8, "second s": 8, "other ms": 8, "verdict": 5}
    table = Table(
        f"conv_forward_fast and conv_backward_fast with {len(SHAPES)} shapes: seconds of the first, of the first that "
        "goes Winograd's way, and the median of all others in ms",
        columns,
    ).begin()
    with tempfile.TemporaryDirectory(dir=options.folder) as empty:
        for cache in ("empty", "kept"):
            try:
                with child(f"{RUNNER}:Layers", options, env={"NBNN_CACHE_DIR": empty}) as one:
                    first, second, *others = one.ask("first", shapes=SHAPES)
            except PeerError as problem:
                table.note(str(problem))
                table.add(cache=cache, verdict=verdict(False))
                continue
            row = {"first s": first, "second s": second, "other ms": statistics.median(others) * 1e3}
            table.add(cache=cache, **row, verdict="ok")
    return table


KNN_MEMORY = 1024.0


def neighbours(options: Options) -> Table:
    columns = {"what": 30, "ours ms": 7, "numpy ms": 8, "times": 5, "MiB": 5, "residual": 8, "verdict": 5}
    table = Table("nearest neighbours without loops, beside the usual NumPy lines", columns).begin()
    with child(f"{RUNNER}:Neighbours", options) as one:
        try:
            residual = one.ask("start")
            asked = {way: (lambda way=way: one.ask("sample", way=way)) for way in ("ours", "numpy")}
            taken = in_turn(asked, options.times, PAUSE)
            needed = one.ask("needed")
        except PeerError as problem:
            table.note(str(problem))
            table.add(what="500 x 5000 rows", verdict=verdict(False))
            return table
    ours, numpy = (statistics.median(taken[way]) * 1e3 for way in ("ours", "numpy"))
    missed = least(numpy / ours, 1.0), most(needed, KNN_MEMORY)
    row = {"ours ms": ours, "numpy ms": numpy, "times": numpy / ours, "MiB": needed, "residual": residual}
    table.add(what="500 x 5000 rows of 3072", **row, verdict=verdict(residual < 1e-6, *missed))
    return table
