"""CIFAR-10 in the course's layouts, against the course's own arithmetic on made batches."""

import pathlib
import pickle

import numpy as np
import pytest

from nbnn.course import data_utils
from nbnn.course.data_utils import get_CIFAR10_data, load_CIFAR10, load_CIFAR_batch

BATCHES = [f"data_batch_{k}" for k in range(1, 6)]


def made(folder, binary=False, counts=(4, 4, 4, 4, 4), test=3):
    """Batches in a folder; all pictures in the layout of the files, and labels, of training and test."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, count in zip([*BATCHES, "test_batch"], [*counts, test], strict=True):
        x, y = rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, 10, count)
        if binary:
            (folder / f"{name}.bin").write_bytes(np.column_stack([y.astype(np.uint8), x]).tobytes())
        elif count:
            (folder / name).write_bytes(pickle.dumps({b"data": x, b"labels": y.tolist()}, 2))
        parts.append((x, y))
    train = [np.concatenate(arrays) for arrays in zip(*parts[:5], strict=True)]
    return *train, *parts[5]


def course_layout(x):
    """What the course's load_CIFAR_batch does with the rows of a file."""
    return x.reshape(len(x), 3, 32, 32).transpose(0, 2, 3, 1).astype("float")


@pytest.mark.parametrize("binary", [False, True])
def test_load(tmp_path, binary):
    x, y, x_test, y_test = made(tmp_path, binary)
    first, labels = load_CIFAR_batch(str(tmp_path / f"data_batch_1{'.bin' if binary else ''}"))
    assert first.shape == (4, 32, 32, 3) and first.dtype == np.float64 and labels.dtype.kind == "i"
    assert np.array_equal(first, course_layout(x[:4])) and np.array_equal(labels, y[:4])
    for found, wanted in zip(
        load_CIFAR10(str(tmp_path)), (course_layout(x), y, course_layout(x_test), y_test), strict=True
    ):
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
        assert found.flags.c_contiguous and found.flags.writeable


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("subtract_mean", [True, False])
def test_get_data(tmp_path, binary, subtract_mean):
    x, y, x_test, y_test = made(tmp_path, binary)
    data = get_CIFAR10_data(str(tmp_path), 12, 5, 2, subtract_mean)
    parts = {"train": (x[:12], y[:12]), "val": (x[12:17], y[12:17]), "test": (x_test[:2], y_test[:2])}
    assert sorted(data) == ["X_test", "X_train", "X_val", "y_test", "y_train", "y_val"]
    mean = course_layout(x[:12]).mean(axis=0) if subtract_mean else 0
    for part, (xs, ys) in parts.items():
        wanted = (course_layout(xs) - mean).transpose(0, 3, 1, 2)
        assert data[f"X_{part}"].dtype == np.float64 and data[f"X_{part}"].flags.c_contiguous
        assert np.array_equal(data[f"X_{part}"], wanted) and np.array_equal(data[f"y_{part}"], ys)
    if subtract_mean:
        assert np.abs(data["X_train"].mean(axis=0)).max() < 1e-12


def test_without_a_test_batch_the_test_part_is_empty(tmp_path):
    made(tmp_path, test=0)
    data = get_CIFAR10_data(tmp_path, 15, 5)
    assert data["X_test"].shape == (0, 3, 32, 32) and data["y_test"].shape == (0,)
    assert load_CIFAR10(tmp_path)[2].shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("folder", "binary"),
    [
        ("cs231n/datasets/cifar-10-batches-py", False),
        ("datasets/cifar-10-batches-py", False),
        ("cs231n/datasets/cifar-10-batches-bin", True),
        ("cifar-10-batches-py", False),
        ("fetched/cifar10/cifar-10-batches-bin", True),
    ],
)
def test_the_folder_is_found_where_the_course_puts_it(tmp_path, monkeypatch, folder, binary):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBNN_DATA_DIR", "fetched")
    _, y, _, _ = made(tmp_path / folder, binary)
    assert np.array_equal(get_CIFAR10_data(num_training=20, num_validation=0, num_test=3)["y_train"], y)


def test_what_cannot_be_found_or_is_too_much(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBNN_DATA_DIR", "fetched")
    with pytest.raises(FileNotFoundError) as error:
        get_CIFAR10_data()
    assert str(error.value) == (
        "get_CIFAR10_data: there is no cifar-10-batches-py in cs231n/datasets, in datasets or here, and none in "
        f"{pathlib.Path('fetched/cifar10')}; name its folder with cifar10_dir, or download it with "
        'fetch("cifar10") of nbnn.fetch'
    )
    made(tmp_path)
    for options, sentence in (
        (
            {},
            "49000 training and 1000 validation pictures were asked for, but . holds 20; ask for fewer with "
            "num_training and num_validation",
        ),
        ({"num_training": 0}, "num_training must be a whole number from 1 up, got 0"),
        ({"num_test": -1}, "num_test must be a whole number from 0 up, got -1"),
        (
            {"num_training": 10, "num_validation": 2},
            "1000 test pictures were asked for, but . holds 3; ask for fewer with num_test",
        ),
    ):
        with pytest.raises(ValueError) as error:
            get_CIFAR10_data(**options)
        assert str(error.value) == f"get_CIFAR10_data: {sentence}"


def test_the_public_names_are_explained():
    assert all(getattr(data_utils, name).__doc__ for name in data_utils.__all__)
