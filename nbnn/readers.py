"""The public picture sets, CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, from files in a folder of yours.

Nothing here is downloaded (`nbnn.fetch` does that) and nothing in a file is ever run: python batches are read as data.
A file that is missing is a FileNotFoundError, one that is damaged or of another kind a ValueError; both say which file,
what it is and what to do.
"""

from __future__ import annotations

import math
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nbnn import batches as python_batches
from nbnn import words

__all__ = [
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "is_complete",
    "mnist",
    "read_cifar10_batch",
    "read_cifar_binary",
    "read_idx",
    "read_python_batch",
]

_PICTURE = (3, 32, 32)
_PIXELS = 3072
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_SIDES = 8
_LARGEST_UNPACKED = 1 << 30  # bytes that a gzip file may become: twenty times MNIST
_MOST_DEFLATED = 1032  # no gzip file becomes more times as long as it is

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
            pictures, numbers = _python_pictures(path, f"{labels}_labels")
        _check_labels(path, numbers, 100 if labels == "fine" else 20)
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


# ---- files


def read_cifar10_batch(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as uint8 (N, 3, 32, 32) and labels as int64 of one batch: binary if its name ends in .bin, or python."""
    file = pathlib.Path(path)
    pictures, labels = read_cifar_binary(file) if file.suffix == ".bin" else _python_pictures(file, "labels")
    _check_labels(file, labels, 10)
    return pictures, labels


def read_cifar_binary(path: str | os.PathLike[str], label_bytes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as uint8 (N, 3, 32, 32) and labels as int64 from records of `label_bytes` bytes and 3072 pixels.

    Labels are (N,), or (N, 2) with the coarse and the fine one where a record begins with two bytes as in CIFAR-100.
    """
    if label_bytes not in (1, 2):
        raise ValueError(f"read_cifar_binary: label_bytes must be 1 or 2, got {label_bytes!r}")
    file = _existing(path)
    record, size = label_bytes + _PIXELS, file.stat().st_size
    if size == 0 or size % record:
        raise ValueError(
            f"{file} is no CIFAR file of records of {record} bytes: it has {size} bytes, and {size % record} are left "
            f"over; download it anew, or read it with label_bytes={3 - label_bytes}"
            if size
            else f"{file} is empty; download it anew"
        )
    records = np.frombuffer(_content(file), np.uint8).reshape(-1, record)
    pictures = np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, *_PICTURE)
    labels = records[:, :label_bytes].astype(np.int64)
    return pictures, labels[:, 0] if label_bytes == 1 else labels


def read_python_batch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary of a python batch of CIFAR, or of its batches.meta, read as data: nothing in the file is run.

    Keys and names come as text, whichever Python wrote them; arrays are for reading only, so copy what you change.
    Pickles of other things, and batches of newer opcodes than protocol 5's, are a ValueError.
    """
    file = _existing(path)
    try:
        return python_batches.decode(_content(file))
    except ValueError as problem:
        raise ValueError(
            f"{file} is no python batch of CIFAR: {problem}; nothing in it was run. Download the batch anew, or take "
            "the binary version"
        ) from None


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an idx file, MNIST's format, compressed by gzip or not; in the dtype that it declares."""
    file = _existing(path)
    content = _content(file)
    packed = content.startswith(b"\x1f\x8b")
    head = _unpacked(file, content, 4 + 4 * _MOST_SIDES) if packed else content[: 4 + 4 * _MOST_SIDES]
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_DTYPES or not 1 <= head[3] <= _MOST_SIDES:
        raise ValueError(
            f"{file} is no idx file: it begins with {head[:4].hex(' ') or 'nothing'}, where MNIST has 00 00 08 03 or "
            "00 00 08 01; download it anew"
        )
    dtype, begin = np.dtype(_IDX_DTYPES[head[2]]), 4 + 4 * head[3]
    if len(head) < begin:
        raise ValueError(f"{file} is cut off within its first {begin} bytes; download it anew")
    shape = tuple(int(side) for side in np.frombuffer(head, ">u4", head[3], 4))
    wanted = begin + math.prod(shape) * dtype.itemsize
    if math.prod(max(side, 1) for side in shape) >= 2**40:
        raise ValueError(f"{file} announces an array of shape {shape}, which no file holds; download it anew")
    if packed and wanted > min(_LARGEST_UNPACKED, _MOST_DEFLATED * len(content) + 1024):
        raise ValueError(
            f"{file} announces {wanted} bytes (shape {shape}), which its {len(content)} compressed bytes cannot give, "
            f"or more than {_LARGEST_UNPACKED}; download it anew"
        )
    if packed:
        content = _unpacked(file, content, wanted + 1, whole=True)
    if len(content) != wanted:
        there = f"more than {wanted}" if packed and len(content) > wanted else str(len(content))
        raise ValueError(f"{file} announces {wanted} bytes (shape {shape}), but {there} are there; download it anew")
    values = np.frombuffer(content, dtype, offset=begin).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _unpacked(file: pathlib.Path, content: bytes, most: int, *, whole: bool = False) -> bytes:
    """At most so many bytes of what a gzip file holds; as a whole it must end well, with the right checksum."""
    stream = zlib.decompressobj(wbits=31)  # with the header and the checksum of gzip
    try:
        found = stream.decompress(content, most)
    except zlib.error as problem:
        raise ValueError(f"{file} is a damaged gzip file ({problem}); download it anew") from None
    if whole and len(found) < most and not stream.eof:
        raise ValueError(f"{file} is a gzip file that is cut off; download it anew")
    if whole and stream.unused_data.strip(b"\0"):
        raise ValueError(f"{file} goes on after the end of its gzip data; download it anew")
    return found


def _existing(path: str | os.PathLike[str]) -> pathlib.Path:
    file = pathlib.Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name a file in it")
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}; unpack or download it first")
    if not file.is_file():
        raise ValueError(f"{file} is no ordinary file; name one")
    return file


def _content(file: pathlib.Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise OSError(problem.errno, f"{file} could not be read ({problem.strerror})") from None


# ---- sets


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


def _python_pictures(path: pathlib.Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of a python batch."""
    batch = read_python_batch(path)
    for wanted in ("data", key):
        if wanted not in batch:
            raise ValueError(f"{path} has no {wanted!r}; it has {', '.join(map(repr, [*batch][:8])) or 'nothing'}")
    pictures, labels = batch["data"], batch[key]
    if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8 or pictures.shape[1:] != (_PIXELS,):
        got = f"{pictures.dtype} of shape {pictures.shape}" if isinstance(pictures, np.ndarray) else "something else"
        raise ValueError(f"{path} must hold pictures as uint8 of shape (N, {_PIXELS}), got {got}")
    whole = isinstance(labels, (list, tuple)) and all(type(k) is int and abs(k) < 2**31 for k in labels)
    whole = whole or (isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu")
    if not whole or len(labels) != len(pictures):
        raise ValueError(f"{path} must hold {len(pictures)} whole numbers as {key!r}, one for each picture")
    return np.ascontiguousarray(pictures).reshape(-1, *_PICTURE), np.asarray(labels, np.int64)


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
        _check_labels(labels_path, labels, 10)
        parts[part] = pictures[:, None], labels.astype(np.int64)
    return _split(name, parts, num_validation, seed, dtype)


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not batches:
        return np.empty((0, *_PICTURE), np.uint8), np.empty(0, np.int64)
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


def _check_labels(path: pathlib.Path, labels: np.ndarray, classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise ValueError(f"{path} holds the label {wrong}, but its classes are 0 to {classes - 1}; download it anew")
