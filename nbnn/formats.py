"""The files of the public picture sets, one at a time: idx, binary CIFAR, and python batches, which are never run.

A file that is missing is a FileNotFoundError, one that is damaged or of another kind a ValueError; both say which file,
what it is and what to do.
"""

from __future__ import annotations

import math
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from nbnn import batches

__all__ = ["read_cifar10_batch", "read_cifar_binary", "read_idx", "read_python_batch"]

PICTURE = (3, 32, 32)  # of CIFAR
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_SIDES = 8
_LARGEST_UNPACKED = 1 << 30  # bytes that a gzip file may become: twenty times MNIST
_MOST_DEFLATED = 1032  # no gzip file becomes more times as long as it is
_PIECE = 1 << 16
_PIXELS = 3072


def read_cifar10_batch(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as uint8 (N, 3, 32, 32) and labels as int64 of one batch: binary if its name ends in .bin, or python."""
    file = pathlib.Path(path)
    pictures, labels = read_cifar_binary(file) if file.suffix == ".bin" else python_pictures(file, "labels")
    check_labels(file, labels, 10)
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
    pictures = np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, *PICTURE)
    labels = records[:, :label_bytes].astype(np.int64)
    return pictures, labels[:, 0] if label_bytes == 1 else labels


def read_python_batch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary of a python batch of CIFAR, or of its batches.meta, read as data: nothing in the file is run.

    Keys and names come as text, whichever Python wrote them; arrays are for reading only, so copy what you change.
    Pickles of other things, and batches of newer opcodes than protocol 5's, are a ValueError.
    """
    file = _existing(path)
    try:
        return batches.decode(_content(file))
    except ValueError as problem:
        raise ValueError(
            f"{file} is no python batch of CIFAR: {problem}; nothing in it was run. Download the batch anew, or take "
            "the binary version"
        ) from None


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an idx file, MNIST's format, compressed by gzip or not; in the dtype that it declares."""
    file = _existing(path)
    content: bytes | bytearray = _content(file)
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
    return values.astype(dtype.newbyteorder("="), copy=not packed)  # what was unpacked is ours already


def _unpacked(file: pathlib.Path, content: bytes | bytearray, most: int, *, whole: bool = False) -> bytearray:
    """At most so many bytes of what a gzip file holds; as a whole it must end well, with the right checksum."""
    stream = zlib.decompressobj(wbits=31)  # with the header and the checksum of gzip
    found, at = bytearray(), 0
    rest: bytes | bytearray = b""
    try:
        while len(found) < most and not stream.eof:  # piece by piece, so that no more is made than there is
            if not rest:
                rest, at = content[at : at + _PIECE], at + _PIECE
            piece = stream.decompress(rest, min(most - len(found), _PIECE))
            if not rest and not piece:
                break
            found += piece
            rest = stream.unconsumed_tail
    except zlib.error as problem:
        raise ValueError(f"{file} is a damaged gzip file ({problem}); download it anew") from None
    if whole and len(found) < most and not stream.eof:
        raise ValueError(f"{file} is a gzip file that is cut off; download it anew")
    if whole and stream.eof and (stream.unused_data.strip(b"\0") or content[at:].strip(b"\0")):
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


def python_pictures(path: pathlib.Path, key: str) -> tuple[np.ndarray, np.ndarray]:
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
    return np.ascontiguousarray(pictures).reshape(-1, *PICTURE), np.asarray(labels, np.int64)


def check_labels(path: pathlib.Path, labels: np.ndarray, classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise ValueError(f"{path} holds the label {wrong}, but its classes are 0 to {classes - 1}; download it anew")
