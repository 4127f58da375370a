"""Download the public picture sets once; every file is held to the checksum that its makers published.

    from nbnn import fetch, readers
    data = readers.cifar10(fetch.fetch("cifar10"))

Downloading needs pooch: pip install 'nbnn[data]'. Who has the files already puts them into a folder instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import tarfile
import tempfile
import zlib
from typing import NamedTuple

from nbnn import readers, words

__all__ = ["default_folder", "fetch"]

_MISSING = "fetch downloads through pooch, which is not installed: pip install 'nbnn[data]'"


class _Source(NamedTuple):
    """What is downloaded for a set: files with their MD5, from the first mirror that gives them."""

    files: dict[str, str]
    mirrors: tuple[str, ...]
    members: dict[str, int] | None = None  # what is taken from the archive: name -> bytes


_TORONTO = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
)
_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_SOURCES = {
    "cifar10": _Source(
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        _TORONTO,
        {f"cifar-10-batches-bin/{name}": 10_000 * 3073 for name in _BATCHES},
    ),
    "cifar100": _Source(
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        _TORONTO,
        {"cifar-100-binary/train.bin": 50_000 * 3074, "cifar-100-binary/test.bin": 10_000 * 3074},
    ),
    "mnist": _Source(
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "fashion_mnist": _Source(
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
}


def default_folder(name: str) -> pathlib.Path:
    """Where `fetch` keeps a set: in NBNN_DATA_DIR, or else in the user's folder for data."""
    import platformdirs

    root = os.environ.get("NBNN_DATA_DIR") or platformdirs.user_data_path("nbnn", appauthor=False)
    return pathlib.Path(root) / name


def fetch(name: str, folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Make sure that a folder holds "cifar10", "cifar100", "mnist" or "fashion_mnist", and return it for `readers`.

    A set that is there is left as it is, without the network. An archive that was put there by hand is unpacked.
    """
    if name not in _SOURCES:
        raise ValueError(f"there is no set {name!r} to fetch; {words.hint(name, _SOURCES)}")
    source = _SOURCES[name]
    place = default_folder(name) if folder is None else pathlib.Path(folder)
    if readers.is_complete(name, place):
        return place
    place.mkdir(parents=True, exist_ok=True)
    for file, md5 in source.files.items():
        path = place / file
        ours = not (path.is_file() and _md5(path) == md5)
        if ours:
            _download(name, file, md5, place)
        if source.members:
            _unpack(path, source.members, place)
            if ours:
                path.unlink()
    return place


def _download(name: str, file: str, md5: str, place: pathlib.Path) -> None:
    """One file from the first mirror that has it, right to the last bit."""
    source = _SOURCES[name]
    by_hand = f"To do it by hand, put {' and '.join(source.files)} from {source.mirrors[0]} into {place} and call again"
    try:
        import pooch
    except ImportError:
        raise ImportError(f"{_MISSING}. {by_hand}") from None
    problems = []
    for mirror in source.mirrors:
        try:
            pooch.retrieve(mirror + file, known_hash=f"md5:{md5}", fname=file, path=place)
        except (OSError, ValueError) as problem:  # no connection, no such file; a wrong checksum
            problems.append(f"{mirror}: {_short(problem)}")
        else:
            return
    raise OSError(f"{name}: {file} could not be downloaded ({'; '.join(problems)}). {by_hand}")


def _short(problem: Exception) -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _unpack(archive: pathlib.Path, members: dict[str, int], place: pathlib.Path) -> None:
    """The members that we know, and no others, each to the place that we give it and of the size that it must have."""
    left = dict(members)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                size = left.pop(member.name, None)
                if size is None:
                    continue
                stream = tar.extractfile(member) if member.isreg() and member.size == size else None
                if stream is None:
                    raise ValueError(f"{archive} has a {member.name} that is no file of {size} bytes; fetch it anew")
                path = place / member.name
                path.parent.mkdir(exist_ok=True)
                handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
                try:
                    with stream, os.fdopen(handle, "wb") as target:
                        shutil.copyfileobj(stream, target)
                    os.chmod(temporary, 0o644)
                    os.replace(temporary, path)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary)
                    raise
    except (tarfile.TarError, EOFError, zlib.error) as problem:
        raise ValueError(f"{archive} is damaged ({_short(problem)}); remove it and fetch it anew") from None
    if left:
        raise ValueError(f"{archive} lacks {', '.join(left)}; remove it and fetch it anew")


def _md5(path: pathlib.Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
