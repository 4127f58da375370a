"""The public picture sets, CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, from files in a folder of yours.

Nothing here is downloaded (`nbnn.fetch` does that), and nothing in a file is ever run (`nbnn.formats` reads them).
A file that is missing is a FileNotFoundError, one that is damaged or of another kind a ValueError; both say which file,
what it is and what to do.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nbnn import words
from nbnn.formats import PICTURE, check_labels, python_pictures, read_cifar10_batch, read_cifar_binary, read_idx

__all__ = [
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "is_complete",
    "mnist",
]

Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # pictures and labels of "train" and "test"


class _Layout(NamedTuple):
    """One way in which a CIFAR set lies in a folder."""

    folder: str
    train: tuple[str, ...]
    test: str
    binary: bool


_CIFAR = {
    "cifar10": (
        _Layout("cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", True),
        _Layout("cifar-10-batches-py", tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch", False),
    ),
    "cifar100": (
        _Layout("cifar-100-binary", ("train.bin",), "test.bin", True),
        _Layout("cifar-100-python", ("train",), "test", False),
    ),
}
_IDX = (
    ("train", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("test", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


def cifar10(
    folder: str | os.PathLike[str],
    *,
    num_validation: int = 1000,
    seed: int | None = None,
    dtype: str = "uint8",
    batches: tuple[int, ...] = (1, 2, 3, 4, 5),
) -> dict[str, np.ndarray]:
    """CIFAR-10 from data_batch_1.bin ... data_batch_5.bin and test_batch.bin, or the python batches of these names.

    They lie in `folder` or in its subfolder cifar-10-batches-bin or cifar-10-batches-py. Returns X_train, y_train,
    X_val, y_val, X_test and y_test; pictures are (N, 3, 32, 32), labels int64. As "uint8", the default, pictures take
    the least memory and a compiled net reads them as they are; as "float32" or "float64" they go from 0 to 1. The
    validation pictures are the last `num_validation` of the training pictures, as in the course's 49000 / 1000; with a
    seed the training pictures are shuffled first. Without a test batch the test part is empty. `batches` names fewer
    training batches, such as (1,).
    """
    chosen = sorted(set(batches)) if isinstance(batches, (tuple, list, range)) else []
    if not chosen or not all(type(k) is int and 1 <= k <= 5 for k in chosen):
        raise ValueError(f"cifar10: batches must be numbers from 1 to 5 such as (1, 2), got {batches!r}")
    _check("cifar10", num_validation, dtype)
    files, _ = _cifar_files("cifar10", folder, chosen)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "test": []}
    for part, path in files:
        parts[part].append(read_cifar10_batch(path))
    return _split("cifar10", {name: _joined(found) for name, found in parts.items()}, num_validation, seed, dtype)


def cifar100(
    folder: str | os.PathLike[str],
    *,
    labels: str = "fine",
    num_validation: int = 1000,
    seed: int | None = None,
    dtype: str = "uint8",
) -> dict[str, np.ndarray]:
    """CIFAR-100 from train.bin and test.bin, or the python batches train and test, with the options of `cifar10`.

    They lie in `folder` or in its subfolder cifar-100-binary or cifar-100-python. `labels` is "fine" for the 100
    classes or "coarse" for their 20 groups.
    """
    if labels not in ("fine", "coarse"):
        raise ValueError(f'cifar100: labels must be "fine" or "coarse", got {labels!r}')
    _check("cifar100", num_validation, dtype)
    files, binary = _cifar_files("cifar100", folder, [1])
    parts = {"train": _joined([]), "test": _joined([])}
    for part, path in files:
        if binary:
            pictures, both = read_cifar_binary(path, label_bytes=2)
            numbers = both[:, 1 if labels == "fine" else 0]
        else:
            pictures, numbers = python_pictures(path, f"{labels}_labels")
        check_labels(path, numbers, 100 if labels == "fine" else 20)
        parts[part] = pictures, numbers
    return _split("cifar100", parts, num_validation, seed, dtype)


def mnist(
    folder: str | os.PathLike[str], *, num_validation: int = 1000, seed: int | None = None, dtype: str = "uint8"
) -> dict[str, np.ndarray]:
    """MNIST from its four idx files, such as train-images-idx3-ubyte, train-images.idx3-ubyte or either with .gz.

    Returns the keys of `cifar10`, whose options it has; pictures are (N, 1, 28, 28).
    """
    return _idx_set("mnist", folder, num_validation, seed, dtype)


def fashion_mnist(
    folder: str | os.PathLike[str], *, num_validation: int = 1000, seed: int | None = None, dtype: str = "uint8"
) -> dict[str, np.ndarray]:
    """Fashion-MNIST: the files, options and keys of `mnist`."""
    return _idx_set("fashion_mnist", folder, num_validation, seed, dtype)


def is_complete(name: str, folder: str | os.PathLike[str], *, test: bool = True) -> bool:
    """Whether a folder has all files of "cifar10", "cifar100", "mnist" or "fashion_mnist", in any layout.

    With `test=False` CIFAR's test pictures may be missing.
    """
    if name not in (*_CIFAR, "mnist", "fashion_mnist"):
        raise ValueError(f"there is no set {name!r}; {words.hint(name, [*_CIFAR, 'mnist', 'fashion_mnist'])}")
    if name in _CIFAR:
        return any(
            all((place / file).is_file() for file in (*layout.train, *([layout.test] if test else [])))
            for layout, place in _places(name, pathlib.Path(folder))
        )
    return all(_idx_path(pathlib.Path(folder), file) for _, *files in _IDX for file in files)


def _places(name: str, folder: pathlib.Path) -> Iterator[tuple[_Layout, pathlib.Path]]:
    """Where a CIFAR set may lie: each layout in the folder itself and in the subfolder of its archive."""
    for layout in _CIFAR[name]:
        yield layout, folder
        yield layout, folder / layout.folder


def _cifar_files(
    name: str, folder: str | os.PathLike[str], chosen: list[int]
) -> tuple[list[tuple[str, pathlib.Path]], bool]:
    """The files of the first place that has all that are chosen, each with its part; and whether they are binary."""
    root = _folder(name, folder)
    begun: tuple[pathlib.Path, list[str]] | None = None
    for layout, place in _places(name, root):
        train = [layout.train[k - 1] for k in chosen]
        missing = [file for file in train if not (place / file).is_file()]
        if not missing:
            test = [("test", place / layout.test)] if (place / layout.test).is_file() else []
            return [*(("train", place / file) for file in train), *test], layout.binary
        if begun is None and any((place / file).is_file() for file in layout.train):
            begun = place, missing
    if begun:
        fewer = "; or name those that are there, as in batches=(1, 2)" if name == "cifar10" else ""
        raise FileNotFoundError(f"{name}: {begun[0]} lacks {', '.join(begun[1])}; put it there{fewer}")
    first, second = _CIFAR[name]
    span = " ... ".join(dict.fromkeys((first.train[0], first.train[-1])))
    raise FileNotFoundError(
        f"{name}: {root} holds none of its files; wanted {span} there or in {first.folder}, or the python batches "
        f'there or in {second.folder}. fetch("{name}") of nbnn.fetch downloads them'
    )


def _folder(name: str, folder: str | os.PathLike[str]) -> pathlib.Path:
    root = pathlib.Path(folder)
    if not root.is_dir():
        what = "is a file; name the folder that holds it" if root.exists() else "is missing"
        raise FileNotFoundError(f'{name}: the folder {root} {what}; fetch("{name}") of nbnn.fetch makes one')
    return root


def _idx_path(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The first of the names under which an idx file is passed on."""
    names = (name, name.replace("-idx", ".idx"))
    found = (folder / (kind + end) for end in ("", ".gz") for kind in names)
    return next((path for path in found if path.is_file()), None)


def _idx_set(
    name: str, folder: str | os.PathLike[str], num_validation: int, seed: int | None, dtype: str
) -> dict[str, np.ndarray]:
    _check(name, num_validation, dtype)
    root = _folder(name, folder)
    missing = [file for _, *files in _IDX for file in files if _idx_path(root, file) is None]
    if missing:
        raise FileNotFoundError(
            f'{name}: {root} lacks {", ".join(missing)} (with or without .gz); fetch("{name}") of nbnn.fetch '
            "downloads it"
        )
    parts = {}
    for part, *files in _IDX:
        pictures_path, labels_path = (_idx_path(root, file) or root for file in files)
        pictures, labels = read_idx(pictures_path), read_idx(labels_path)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (28, 28):
            raise ValueError(
                f"{pictures_path} must hold uint8 pictures of shape (N, 28, 28), got {pictures.dtype} of shape "
                f"{pictures.shape}"
            )
        if labels.dtype != np.uint8 or labels.shape != pictures.shape[:1]:
            raise ValueError(
                f"{labels_path} must hold {len(pictures)} uint8 labels, one for each picture, got {labels.dtype} of "
                f"shape {labels.shape}"
            )
        check_labels(labels_path, labels, 10)
        parts[part] = pictures[:, None], labels.astype(np.int64)
    return _split(name, parts, num_validation, seed, dtype)


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not batches:
        return np.empty((0, *PICTURE), np.uint8), np.empty(0, np.int64)
    pictures, labels = zip(*batches, strict=True)
    return np.concatenate(pictures), np.concatenate(labels)


def _split(name: str, parts: Parts, num_validation: int, seed: int | None, dtype: str) -> dict[str, np.ndarray]:
    """Training, validation and test part; the first two are views of one array."""
    (x, y), (x_test, y_test) = parts["train"], parts["test"]
    count = len(x) - num_validation
    if count < 1:
        raise ValueError(
            f"{name}: {num_validation} validation pictures leave none of the {len(x)} to train on; ask for at most "
            f"{max(len(x) - 1, 0)}"
        )
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(x))
        x, y = x[order], y[order]
    x, x_test = _scaled(x, dtype), _scaled(x_test, dtype)
    return {
        "X_train": x[:count],
        "y_train": y[:count],
        "X_val": x[count:],
        "y_val": y[count:],
        "X_test": x_test,
        "y_test": y_test,
    }


def _scaled(pictures: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "uint8":
        return pictures
    scaled = pictures.astype(dtype)
    scaled /= 255
    return scaled


def _check(name: str, num_validation: int, dtype: str) -> None:
    if not isinstance(num_validation, (int, np.integer)) or num_validation < 0:
        raise ValueError(f"{name}: num_validation must be a whole number from 0 up, got {num_validation!r}")
    if dtype not in ("uint8", "float32", "float64"):
        raise ValueError(f'{name}: dtype must be "uint8", "float32" or "float64", got {dtype!r}')
