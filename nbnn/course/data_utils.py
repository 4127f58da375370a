"""CIFAR-10 as the courses load it: python batches or binary files, without running what the batches say.

data = get_CIFAR10_data()       # X_train (49000, 3, 32, 32) and so on, the mean picture subtracted
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from nbnn import fetch, formats, readers

__all__ = ["get_CIFAR10_data", "load_CIFAR10", "load_CIFAR_batch"]

_COURSE_FOLDERS = ("cs231n/datasets", "datasets", ".")  # each with its subfolder cifar-10-batches-py


def load_CIFAR_batch(filename: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """One batch: X (N, 32, 32, 3) in float64 from 0 to 255, Y whole numbers. A name that ends in .bin is binary."""
    x, y = formats.read_cifar10_batch(filename)
    return _rows_first(x), y


def load_CIFAR10(ROOT: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Xtr, Ytr, Xte, Yte of all five batches, in the layout of `load_CIFAR_batch`; no test batch is an empty Xte."""
    data = readers.cifar10(ROOT, num_validation=0)
    return _rows_first(data["X_train"]), data["y_train"], _rows_first(data["X_test"]), data["y_test"]


def get_CIFAR10_data(
    cifar10_dir: str | os.PathLike[str] | None = None,
    num_training: int = 49000,
    num_validation: int = 1000,
    num_test: int = 1000,
    subtract_mean: bool = True,
) -> dict[str, np.ndarray]:
    """The course's split: X_train, y_train, X_val, y_val, X_test, y_test; pictures (N, 3, 32, 32) in float64.

    The training pictures are the first ones, the validation pictures those behind them. The mean picture of the
    training part is subtracted from all. Without `cifar10_dir` the folders are searched where the courses put the set,
    below the working folder, and then that of `nbnn.fetch`. Without a test batch the test part is empty.
    """
    folder = _found() if cifar10_dir is None else pathlib.Path(cifar10_dir)
    numbers = {"num_training": num_training, "num_validation": num_validation, "num_test": num_test}
    for word, number in numbers.items():
        least = 1 if word == "num_training" else 0
        if not isinstance(number, (int, np.integer)) or number < least:
            raise ValueError(f"get_CIFAR10_data: {word} must be a whole number from {least} up, got {number!r}")
    data = readers.cifar10(folder, num_validation=0)
    there, there_test = len(data["X_train"]), len(data["X_test"])
    if num_training + num_validation > there:
        raise ValueError(
            f"get_CIFAR10_data: {num_training} training and {num_validation} validation pictures were asked for, but "
            f"{folder} holds {there}; ask for fewer with num_training and num_validation"
        )
    if 0 < there_test < num_test:
        raise ValueError(
            f"get_CIFAR10_data: {num_test} test pictures were asked for, but {folder} holds {there_test}; ask for "
            "fewer with num_test"
        )
    until = num_training + num_validation
    split = {"train": slice(0, num_training), "val": slice(num_training, until), "test": slice(0, num_test)}
    course: dict[str, np.ndarray] = {}
    for part, rows in split.items():
        source = "test" if part == "test" else "train"
        course[f"X_{part}"] = data[f"X_{source}"][rows].astype(np.float64)
        course[f"y_{part}"] = data[f"y_{source}"][rows]
    if subtract_mean:
        mean = course["X_train"].mean(axis=0)
        for part in split:
            course[f"X_{part}"] -= mean
    return course


def _rows_first(x: np.ndarray) -> np.ndarray:
    return np.array(x.transpose(0, 2, 3, 1), np.float64, order="C")


def _found() -> pathlib.Path:
    fetched = fetch.default_folder("cifar10")
    for place in (*map(pathlib.Path, _COURSE_FOLDERS), fetched):
        if readers.is_complete("cifar10", place, test=False):
            return place
    raise FileNotFoundError(
        f"get_CIFAR10_data: there is no cifar-10-batches-py in cs231n/datasets, in datasets or here, and none in "
        f'{fetched}; name its folder with cifar10_dir, or download it with fetch("cifar10") of nbnn.fetch'
    )
