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
    """A ThreeLayerConvNet and how it is trained; `examples` of the training pictures, or all of them."""

    name: str
    net: dict[str, Any]
    examples: int | None
    batch: int
    epochs: int
    published: str
    goal: dict[str, float]  # what it must reach: train, val, times
    rate: float = 1e-3


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
LAST_STEPS = {False: 1000, True: 50}  # that PyTorch takes at most, whether quick


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
        "ours s": 7,
        "torch s": 7,
        "times": 5,
        "losses": 8,
        "verdict": 5,
    }
    title = (
        "the course's experiments on CIFAR-10: best accuracies, seconds of training with its accuracies measured, "
        f"PyTorch's median step times the number of steps, and how far the first {COMPARED} losses are apart (relative)"
    )
    table = Table(title, columns).begin()
    if options.data is None:
        table.note("no pictures: name the folder of CIFAR-10 with --data")
        return table
    prepare(options)
    for place, experiment in enumerate(EXPERIMENTS[:2] if options.quick else EXPERIMENTS):
        words = {"place": place, "folder": str(options.folder)}
        # a step of 1000 pictures takes PyTorch over a second, so one epoch of them must do
        limit = LAST_STEPS[options.quick or experiment.batch > 500]
        row: dict[str, Any] = {"experiment": experiment.name, "published": experiment.published}
        try:
            with child(f"{RUNNER}:Ours", options) as one:
                ours = one.ask("train", **words)
        except PeerError as problem:
            table.note(f"{experiment.name}: {problem}")
            table.add(**row, verdict=verdict(False))
            continue
        row |= {"train": ours["train"], "val": ours["val"], "ours s": ours["seconds"]}
        right = True
        try:
            with child(f"{RUNNER}:Torch", options) as one:
                peer = one.ask("train", **words, most=limit)
            first, wanted = (np.array(losses[:COMPARED]) for losses in (ours["losses"], peer["losses"]))
            row["losses"] = float(np.max(np.abs(first - wanted) / np.abs(wanted)))
            right = row["losses"] <= TOLERANCE
            row |= {"torch s": peer["step"] * ours["steps"], "torch steps": len(peer["losses"])}
            row["times"] = ratio(row["torch s"], ours["seconds"])
        except PeerError as problem:
            table.note(f"{experiment.name}: PyTorch is absent: {problem}")
        missed = [least(row.get(key), goal) for key, goal in experiment.goal.items()]
        table.add(**row, verdict=verdict(right, *missed))
    return table


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
