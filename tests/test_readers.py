"""The public picture sets: every layout gives the same numbers, and no file can do more than fail with a sentence."""

import ast
import gc
import gzip
import lzma
import os
import pathlib
import pickle
import re
import struct
import time
import tracemalloc

import numpy as np
import pytest

import nbnn
from nbnn import batches, formats, readers

SHARED = pathlib.Path(nbnn.__file__).resolve().parent.parent.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real pictures (../shared/data) are not here")
PROTOCOLS = range(6)


def made(count, seed, classes=10):
    """Made pictures in the layout of the files, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count)


def binary(pictures, *labels):
    return np.column_stack([*(k.astype(np.uint8) for k in labels), pictures]).tobytes()


def python2(pictures, labels):
    """A batch as Python 2 wrote CIFAR-10: protocol 2, text as raw bytes, numpy.core."""

    def text(word):
        return b"U" + bytes([len(word)]) + word

    big = pictures.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01"
        + b"M"
        + struct.pack("<H", len(pictures))
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(big))
        + big
        + b"tb"
    )
    numbers = b"]q\x02(" + b"".join(b"K" + bytes([k]) for k in labels) + b"e"
    names = b"](" + b"".join(text(b"cat_%d.png" % k) for k in range(len(labels))) + b"e"
    return (
        b"\x80\x02}q\x01("
        + (text(b"batch_label") + text(b"training batch 1 of 5"))
        + (text(b"labels") + numbers)
        + (text(b"data") + array)
        + (text(b"filenames") + names)
        + b"u."
    )


def python2_text(pictures, labels):
    """The same in protocol 0, where bytes stand between quotes."""
    quoted = repr(pictures.tobytes())[1:].encode()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntS'b'\ntRp5\n(I1\n"
        + b"(I%d\nI3072\nt" % len(pictures)
        + b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntRp6\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS"
        + quoted
        + b"\ntb"
    )
    numbers = b"(lp2\n" + b"".join(b"I%d\na" % k for k in labels)
    return b"(dp1\nS'labels'\n" + numbers + b"sS'data'\n" + array + b"s."


def python3(protocol, keys=str, order="C", as_array=False):
    def write(pictures, labels):
        pictures = np.asarray(pictures, order=order)
        labels = labels if as_array else labels.tolist()
        names = {"data": pictures, "labels": labels, "batch_label": b"one", "filenames": [b"a.png", "b.png"]}
        return pickle.dumps({keys(k): v for k, v in names.items()}, protocol)

    return write


WRITERS = {
    "binary": binary,
    "python2": python2,
    "python2 protocol 0": python2_text,
    **{f"python3 protocol {k}": python3(k) for k in PROTOCOLS},
    **{f"bytes keys, protocol {k}": python3(k, keys=str.encode) for k in PROTOCOLS},
    **{f"columns first, protocol {k}": python3(k, order="F", as_array=True) for k in PROTOCOLS},
}


def cifar10_folder(folder, write=binary, counts=(5, 4, 3, 2, 6), test=7, end=None):
    """Six batches; returns pictures and labels of training and test."""
    folder.mkdir(parents=True, exist_ok=True)
    end = (".bin" if write is binary else "") if end is None else end
    train = [made(count, seed) for seed, count in enumerate(counts)]
    for k, batch in enumerate(train):
        (folder / f"data_batch_{k + 1}{end}").write_bytes(write(*batch))
    last = made(test, 99)
    if test:
        (folder / f"test_batch{end}").write_bytes(write(*last))
    joined = (np.concatenate([b[0] for b in train]).reshape(-1, 3, 32, 32), np.concatenate([b[1] for b in train]))
    return joined, (last[0].reshape(-1, 3, 32, 32), last[1])


def refused(call, *args, **options):
    """The sentence of a ValueError."""
    with pytest.raises(ValueError) as error:
        call(*args, **options)
    return str(error.value)


def absent(call, *args, **options):
    with pytest.raises(FileNotFoundError) as error:
        call(*args, **options)
    return str(error.value)


# ---- sets


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches"])
@pytest.mark.parametrize("name", WRITERS)
def test_cifar10_is_the_same_from_every_layout(tmp_path, name, subfolder):
    write = WRITERS[name]
    where = tmp_path / (subfolder and subfolder + ("-bin" if write is binary else "-py"))
    (x, y), (x_test, y_test) = cifar10_folder(where, write)
    data = readers.cifar10(tmp_path, num_validation=6)
    assert sorted(data) == ["X_test", "X_train", "X_val", "y_test", "y_train", "y_val"]
    for key, wanted in {"X_train": x[:14], "X_val": x[14:], "X_test": x_test}.items():
        assert data[key].dtype == np.uint8 and np.array_equal(data[key], wanted)
    for key, wanted in {"y_train": y[:14], "y_val": y[14:], "y_test": y_test}.items():
        assert data[key].dtype == np.int64 and np.array_equal(data[key], wanted)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in data.values())
    assert readers.is_complete("cifar10", tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_go_from_0_to_1(tmp_path, dtype):
    (x, _), (x_test, _) = cifar10_folder(tmp_path)
    data = readers.cifar10(tmp_path, num_validation=2, dtype=dtype)
    assert data["X_train"].dtype == dtype
    assert np.array_equal(data["X_train"], x[:18].astype(dtype) / 255)
    assert np.array_equal(data["X_test"], x_test.astype(dtype) / 255)


def test_a_seed_shuffles_the_training_pictures_alone(tmp_path):
    (x, y), (x_test, _) = cifar10_folder(tmp_path)
    one, same, other = (readers.cifar10(tmp_path, num_validation=5, seed=seed) for seed in (3, 3, 4))
    order = np.random.default_rng(3).permutation(20)
    assert np.array_equal(one["X_train"], x[order][:15]) and np.array_equal(one["y_val"], y[order][15:])
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["X_train"], other["X_train"])
    assert np.array_equal(one["X_test"], x_test) and np.array_equal(other["X_test"], x_test)


def test_some_batches_and_no_test_batch(tmp_path):
    (x, y), _ = cifar10_folder(tmp_path, test=0)
    (tmp_path / "data_batch_3.bin").unlink()
    data = readers.cifar10(tmp_path, num_validation=0, batches=(4, 2), dtype="float32")
    rows = [5, 6, 7, 8, 12, 13]
    assert np.array_equal(data["y_train"], y[rows])
    assert np.array_equal(data["X_train"], x[rows].astype("float32") / 255)
    assert (data["X_test"].shape, data["X_test"].dtype) == ((0, 3, 32, 32), np.float32)
    assert (data["y_test"].shape, data["y_test"].dtype) == ((0,), np.int64)
    assert (data["X_val"].shape, data["y_val"].shape) == ((0, 3, 32, 32), (0,))


@pytest.mark.parametrize("where", ["", "cifar-100-binary"])
def test_cifar100_binary(tmp_path, where):
    (tmp_path / where).mkdir(exist_ok=True)
    pictures, fine = made(9, 1, 100)
    (tmp_path / where / "train.bin").write_bytes(binary(pictures, fine // 5, fine))
    (tmp_path / where / "test.bin").write_bytes(binary(pictures[:4], fine[:4] // 5, fine[:4]))
    for labels, wanted in (("fine", fine), ("coarse", fine // 5)):
        data = readers.cifar100(tmp_path, labels=labels, num_validation=2)
        assert np.array_equal(data["y_train"], wanted[:7]) and np.array_equal(data["y_test"], wanted[:4])
        assert np.array_equal(data["X_train"], pictures[:7].reshape(-1, 3, 32, 32))
        assert data["y_val"].dtype == np.int64


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cifar100_python(tmp_path, protocol):
    place = tmp_path / "cifar-100-python"
    place.mkdir()
    pictures, fine = made(9, 1, 100)
    batch = {b"data": pictures, b"fine_labels": fine.tolist(), b"coarse_labels": (fine // 5).tolist()}
    (place / "train").write_bytes(pickle.dumps(batch, protocol))
    for labels, wanted in (("fine", fine), ("coarse", fine // 5)):
        data = readers.cifar100(tmp_path, labels=labels, num_validation=2)
        assert np.array_equal(data["y_train"], wanted[:7])
        assert np.array_equal(data["X_val"], pictures[7:].reshape(-1, 3, 32, 32))
        assert data["X_test"].shape == (0, 3, 32, 32)


def idx(array, code=8):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_folder(folder, naming, compressed):
    rng = np.random.default_rng(0)
    written = {}
    for part, count in (("train", 12), ("t10k", 5)):
        written[part] = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        for kind, array in zip(("images-idx3", "labels-idx1"), written[part], strict=True):
            name = f"{part}-{kind}-ubyte".replace("-idx", naming)
            content = idx(array)
            (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    return written


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("naming", ["-idx", ".idx"])
@pytest.mark.parametrize("read", [readers.mnist, readers.fashion_mnist])
def test_mnist(tmp_path, read, naming, compressed):
    written = idx_folder(tmp_path, naming, compressed)
    data = read(tmp_path, num_validation=3)
    (x, y), (x_test, y_test) = written["train"], written["t10k"]
    assert np.array_equal(data["X_train"], x[:9, None]) and np.array_equal(data["X_val"], x[9:, None])
    assert np.array_equal(data["y_train"], y[:9]) and np.array_equal(data["y_val"], y[9:])
    assert np.array_equal(data["X_test"], x_test[:, None]) and np.array_equal(data["y_test"], y_test)
    assert data["X_test"].dtype == np.uint8 and data["y_test"].dtype == np.int64
    assert np.array_equal(read(tmp_path, num_validation=3, dtype="float64")["X_test"], x_test[:, None] / 255)
    assert readers.is_complete(read.__name__, tmp_path)


@needs_shared
@pytest.mark.parametrize(
    ("read", "folder", "counts"),
    [
        (readers.mnist, "mnist", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        (readers.fashion_mnist, "fashion-mnist", [6000] * 10),
    ],
)
def test_the_real_idx_files(read, folder, counts):
    data = read(SHARED / folder, num_validation=10000)
    assert data["X_train"].shape == (50000, 1, 28, 28) and data["X_test"].shape == (10000, 1, 28, 28)
    assert np.bincount(np.concatenate([data["y_train"], data["y_val"]])).tolist() == counts
    if folder == "mnist":
        assert data["y_train"][:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
        assert data["y_test"][:5].tolist() == [7, 2, 1, 0, 4]


@needs_shared
def test_real_cifar10_pictures_through_the_binary_layout(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow, which unpacks the real pictures, is not installed")
    import io

    packed = np.load(io.BytesIO(lzma.decompress((SHARED / "cifar10_train.npz.xz").read_bytes())), allow_pickle=False)
    jpegs, offsets, labels = packed["data"].tobytes(), packed["offsets"], packed["labels"]
    assert np.bincount(labels).tolist() == [5000] * 10
    pictures = [
        np.asarray(image.open(io.BytesIO(jpegs[offsets[k] : offsets[k + 1]]))).transpose(2, 0, 1) for k in range(100)
    ]
    rows = np.stack(pictures).reshape(100, 3072)
    (tmp_path / "data_batch_1.bin").write_bytes(binary(rows, labels[:100]))
    data = readers.cifar10(tmp_path, batches=(1,), num_validation=10)
    assert np.array_equal(data["X_train"], np.stack(pictures[:90]))
    assert data["y_train"][:5].tolist() == [6, 9, 9, 4, 1]  # a frog, two lorries, a deer and a car


# ---- single files


@pytest.mark.parametrize("dtype", ["|u1", "|i1", ">i2", ">i4", ">f4", ">f8"])
def test_idx_of_every_dtype(tmp_path, dtype):
    code = {"|u1": 8, "|i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}[dtype]
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for content in (idx(array, code), gzip.compress(idx(array, code))):
        (tmp_path / "a").write_bytes(content)
        found = formats.read_idx(tmp_path / "a")
        assert np.array_equal(found, array) and found.dtype == np.dtype(dtype).newbyteorder("=")
        assert found.flags.writeable


def test_cifar_binary_by_records(tmp_path):
    pictures, fine = made(3, 0, 100)
    (tmp_path / "a.bin").write_bytes(binary(pictures, fine // 5, fine))
    x, y = formats.read_cifar_binary(tmp_path / "a.bin", label_bytes=2)
    assert np.array_equal(x, pictures.reshape(-1, 3, 32, 32))
    assert np.array_equal(y, np.stack([fine // 5, fine], axis=1)) and y.dtype == np.int64


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_holds_what_was_written(tmp_path, protocol):
    written = {
        "data": np.arange(6, dtype="u1").reshape(2, 3),
        b"labels": [0, 1, 255, 256, 70000, -1, 2**40, -(2**70), True, False, None],
        "names": ["a", "ü", "日本", b"", b"\x00\xff", "line\nbreak \\ 'quote'"],
        "nothing": [],
        "empty": np.empty((0, 3072), np.uint8),
        "turned": np.asfortranarray(np.arange(6, dtype="<i4").reshape(2, 3)),
        "big": np.arange(3, dtype=">f8"),
        "pair": (1, "two"),
        "num_vis": 3072,
        "long": np.arange(200_000, dtype=np.int32),
    }
    (tmp_path / "meta").write_bytes(pickle.dumps(written, protocol))
    found = formats.read_python_batch(tmp_path / "meta")
    assert [*found] == [key if isinstance(key, str) else key.decode() for key in written]
    for key, wanted in written.items():
        value = found[key if isinstance(key, str) else key.decode()]
        if isinstance(wanted, np.ndarray):
            assert value.dtype == wanted.dtype and value.shape == wanted.shape and np.array_equal(value, wanted)
        elif key == "names":
            assert value == ["a", "ü", "日本", "", "\x00\xff", "line\nbreak \\ 'quote'"]
        else:
            assert value == wanted and type(value) is type(wanted)


@pytest.mark.parametrize("write", [python2, python2_text])
def test_what_python_2_wrote_is_what_python_reads(tmp_path, write):
    """The hand-written opcodes are real ones: Python itself reads the same from them."""
    pictures, labels = made(3, 5)
    content = write(pictures, labels)
    by_python = pickle.loads(content, encoding="bytes")
    assert np.array_equal(by_python[b"data"], pictures) and by_python[b"labels"] == labels.tolist()
    (tmp_path / "data_batch_1").write_bytes(content)
    found = formats.read_python_batch(tmp_path / "data_batch_1")
    assert np.array_equal(found["data"], pictures) and found["labels"] == labels.tolist()
    assert write is python2_text or found["filenames"] == ["cat_0.png", "cat_1.png", "cat_2.png"]


# ---- hostile files


class Runs:
    """Pickled, it asks whoever reads it to make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def hostile(path):
    """Every way in which a pickle runs something, each with Python's own word for it."""
    word = str(path).encode()
    text = b"X" + struct.pack("<I", len(word)) + word
    short = b"\x8c" + bytes([len(word)]) + word
    for protocol in PROTOCOLS:
        yield f"protocol {protocol}", pickle.dumps({"data": Runs(path), "labels": []}, protocol)
    yield "GLOBAL and REDUCE", b"cos\nmkdir\n(" + text + b"tR."
    yield "GLOBAL alone", b"cos\nsystem\n."
    yield "INST", b"(" + text + b"ios\nmkdir\n."
    yield "OBJ", b"(cos\nmkdir\n" + text + b"o."
    yield "NEWOBJ", b"\x80\x02cos\nmkdir\n" + text + b"\x85\x81."
    yield "NEWOBJ_EX", b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + short + b"\x85}\x92."
    yield "STACK_GLOBAL", b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + short + b"\x85R."
    yield "BUILD", b"cnumpy\ndtype\nX\x02\0\0\0u1\x89\x88\x87R}X\x05\0\0\0shapeX\x01\0\0\0aub."
    yield "BUILD of a name", b"cnumpy\nndarray\n}X\x01\0\0\0aK\x01sb."
    yield "calling an array", b"cnumpy\nndarray\n(K\x01\x85tR."
    yield "calling what was called", b"cnumpy\ndtype\nX\x02\0\0\0u1\x89\x88\x87R)R."
    yield "a dtype of objects", b"cnumpy\ndtype\nX\x02\0\0\0O8\x89\x88\x87R."
    yield "another codec", b"c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0base64\x86R."
    yield "codecs.lookup", b"c_codecs\nlookup\nX\x04\0\0\0utf8\x85R."
    yield "eval", b"c__builtin__\neval\nX\x03\0\0\0" + b"1+1\x85R."
    yield "getattr", b"cbuiltins\ngetattr\ncnumpy\nndarray\nX\x05\0\0\0shape\x86R."
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0actypeslib.os\x93."
    yield "EXT1", b"\x80\x02\x82\x01)R."
    yield "EXT2", b"\x80\x02\x83\x01\x00)R."
    yield "EXT4", b"\x80\x02\x84\x01\x00\x00\x00)R."
    yield "PERSID", b"Pname\n."
    yield "BINPERSID", b"X\x01\0\0\0aQ."
    yield "NEXT_BUFFER", b"\x80\x05\x97."


@pytest.mark.parametrize("name", [name for name, _ in hostile("x")])
def test_nothing_in_a_batch_is_ever_run(tmp_path, name):
    content = dict(hostile(tmp_path / "made by a batch"))[name]
    for whole in (content, b"}X\x04\0\0\0data" + content[:-1] + b"s."):
        (tmp_path / "data_batch_1").write_bytes(whole)
        sentence = refused(formats.read_python_batch, tmp_path / "data_batch_1")
        assert sentence.startswith(f"{tmp_path / 'data_batch_1'} is no python batch of CIFAR: ")
        assert sentence.endswith("; nothing in it was run. Download the batch anew, or take the binary version")
        assert [p.name for p in tmp_path.iterdir()] == ["data_batch_1"]


def test_the_hostile_files_are_real(tmp_path):
    """Python's own reader runs them: so a reader that ran anything would be found."""
    for name in ("protocol 2", "GLOBAL and REDUCE", "INST", "OBJ", "STACK_GLOBAL"):
        pickle.loads(dict(hostile(tmp_path / name))[name])
        assert (tmp_path / name).is_dir()


def test_the_sentence_names_what_was_asked_for():
    assert (
        refused(batches.decode, b"cos\nsystem\nX\x02\0\0\0ls\x85R.") == "it asks for os.system, which data never need"
    )
    assert (
        refused(batches.decode, b"(X\x02\0\0\0lsios\nsystem\n.")
        == "byte 8 asks for code to be run (INST), which data never need"
    )


def test_the_reader_imports_nothing_that_could_run_a_batch():
    for module in (batches, formats, readers):
        names = set()
        for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
            assert not (isinstance(node, ast.Name) and node.id in ("getattr", "setattr", "__import__", "importlib"))
        allowed = {"__future__", "codecs", "collections", "dataclasses", "enum", "io", "math", "nbnn", "numpy", "os"}
        assert names <= allowed | {"pathlib", "re", "struct", "sys", "typing", "zlib"}


TEXT = b"X\xff\xff\x00\x00" + b"a" * 65535
BOMBS = {
    "empty": b"",
    "no dictionary": b"]q\x00.",
    "more behind its end": pickle.dumps({}) + b"K\x01.",
    "huge bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge text": b"\x80\x04\x8d\x00\x00\x00\x00\x01\x00\x00\x00.",
    "huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff}.",
    "negative string": b"T\xff\xff\xff\xffabc.",
    "protocol 6": b"\x80\x06}.",
    "many lists": b"]" * 1_000_000,
    "deep marks": b"(" * 1_000_000,
    "deep tuples": b")" + b"\x85" * 1_000_000 + b".",
    "many steps": b"]0" * 1_000_000 + b".",
    "many memos": b"]\x940" * 500_000 + b".",
    "many numbers": b"}X\x01\0\0\0a(" + b"M\x01\x02" * 900_000 + b"ls.",
    "wide texts": b"(" + (b"X\x04\x01\0\0" + b"a" * 256 + "😀".encode()) * 20_000 + b"l.",
    "wide tuples": b"K\x01" + b"2" * 10_000 + b"(" + b"K\x01" * 100 + b"t.",
    "a list in itself": b"}X\x01\0\0\0a]q\x00h\x00as.",
    "a dictionary in itself": b"}q\x00X\x01\0\0\0ah\x00s.",
    "texts again and again": b"c_codecs\nencode\nq\x00" + TEXT + b"q\x01" + b"h\x00h\x01X\x06\0\0\0latin1\x86R" * 1000,
    "a huge number": b"I" + b"9" * 100_000 + b"\n.",
    "a number that begins with 0": b"}S'a'\nI010\ns.",
    "a number with the end of a long one": b"}S'a'\nI5L\ns.",
    "a memo below 0": b"}p-5\n.",
    "a dtype of odd settings": b"}X\1\0\0\0acnumpy\ndtype\nX\x02\0\0\0u1K\x06\x88\x87Rs.",
    "an endless line": b"S'" + b"a" * 1_000_000,
    "an escape": b"}S'a\\q'\nNs.",
    "an octal escape": b"}S'\\101'\nNs.",
    "bad UTF-8": b"}X\x01\0\0\0\xffNs.",
    "a surrogate": b"}V\\ud800\\uzzzz\nNs.",
    "not Latin-1": b"c_codecs\nencode\nX\x02\0\0\0\xc4\x80X\x06\0\0\0latin1\x86R.",
    "the empty stack": b"}0.",
    "below the mark": b"}(s.",
    "no mark": b"}u.",
    "no memo": b"}h\x07.",
    "odd items": b"}(K\x01u.",
    "a number as key": b"}K\x01K\x02s.",
    "the same key twice": b"}X\x01\0\0\0aNsU\x01aNs.",
    "an array's shell": b"}X\x04\0\0\0datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87Rs.",
    "a name as value": b"}X\x04\0\0\0datacnumpy\nndarray\ns.",
    "a float": b"}X\x01\0\0\0aG?\xf0\0\0\0\0\0\0s.",
}
FROM_BYTES = b"\x80\x05}\x8c\x04data\x8c\x12numpy.core.numeric\x8c\x0b_frombuffer\x93(C\x04abcd"
U1 = b"cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R"
BOMBS |= {
    "an array larger than the file": FROM_BYTES + U1 + b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x8c\x01CtRs.",
    "an array of negative sides": FROM_BYTES + U1 + b"J\xfe\xff\xff\xffJ\xfe\xff\xff\xff\x86\x8c\x01CtRs.",
    "an array of nothing, many times": FROM_BYTES.replace(b"C\x04abcd", b"C\0")
    + U1
    + b"K\0J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87\x8c\x01CtRs.",
    "an array without a dtype": FROM_BYTES + b"NK\x04\x85\x8c\x01CtRs.",
    "an array over text": FROM_BYTES.replace(b"C\x04", b"\x8c\x04") + U1 + b"K\x04\x85\x8c\x01CtRs.",
    "an array of a wrong order": FROM_BYTES + U1 + b"K\x04\x85\x8c\x01KtRs.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name):
    gc.freeze()  # many lists make Python look through all that the tests before have left, which can take a second
    try:
        content, begun = BOMBS[name], time.perf_counter()
        sentence = refused(batches.decode, content)
        seconds = time.perf_counter() - begun
    finally:
        gc.unfreeze()
    tracemalloc.start()  # makes it several times as slow
    try:
        assert refused(batches.decode, content) == sentence
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sentence[0].islower() and len(sentence) < 200 and sentence.isprintable()
    assert seconds < 1
    assert peak < 2 * len(content) + 4_000_000


def test_memory_is_twice_the_file_at_most():
    pictures, labels = made(2000, 0)
    for write in (python2, python2_text, *map(python3, PROTOCOLS)):
        content = write(pictures, labels)
        tracemalloc.start()
        found = batches.decode(content)
        peak = tracemalloc.get_traced_memory()[1]  # with the content, which is there already, twice the file
        tracemalloc.stop()
        assert np.array_equal(found["data"], pictures)
        assert peak < 1.2 * len(content) + 1_000_000


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """200 MB of zeros that claim to be 10 labels, and 4 GB that are only claimed."""
    path = tmp_path / "a.gz"
    header = bytes([0, 0, 8, 1]) + struct.pack(">I", 10)
    path.write_bytes(gzip.compress(header + bytes(200_000_000), 1))
    size = path.stat().st_size
    tracemalloc.start()
    sentence = refused(formats.read_idx, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sentence == f"{path} announces 18 bytes (shape (10,)), but more than 18 are there; download it anew"
    assert peak < 3 * size + 1_000_000
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + b"\xff\xff\xff\xff" + bytes(1000)))
    assert re.search(r" announces 4294967303 bytes .* compressed bytes cannot give", refused(formats.read_idx, path))


# ---- sentences


def test_missing_files_are_named(tmp_path):
    folder = tmp_path / "none"
    assert absent(readers.cifar10, folder) == (
        f'cifar10: the folder {folder} is missing; fetch("cifar10") of nbnn.fetch makes one'
    )
    folder.mkdir()
    assert absent(readers.cifar10, folder) == (
        f"cifar10: {folder} holds none of its files; wanted data_batch_1.bin ... data_batch_5.bin there or in "
        'cifar-10-batches-bin, or the python batches there or in cifar-10-batches-py. fetch("cifar10") of nbnn.fetch '
        "downloads them"
    )
    assert absent(readers.cifar100, folder) == (
        f"cifar100: {folder} holds none of its files; wanted train.bin there or in cifar-100-binary, or the python "
        'batches there or in cifar-100-python. fetch("cifar100") of nbnn.fetch downloads them'
    )
    assert absent(readers.mnist, folder) == (
        f"mnist: {folder} lacks train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        't10k-labels-idx1-ubyte (with or without .gz); fetch("mnist") of nbnn.fetch downloads it'
    )
    cifar10_folder(folder / "cifar-10-batches-py", python2)
    (folder / "cifar-10-batches-py" / "data_batch_2").unlink()
    (folder / "cifar-10-batches-py" / "data_batch_4").unlink()
    assert absent(readers.cifar10, folder) == (
        f"cifar10: {folder / 'cifar-10-batches-py'} lacks data_batch_2, data_batch_4; put it there; or name those that "
        "are there, as in batches=(1, 2)"
    )
    assert not readers.is_complete("cifar10", folder)
    assert absent(formats.read_idx, folder / "a") == f"there is no file {folder / 'a'}; unpack or download it first"
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert absent(readers.mnist, file) == (
        f'mnist: the folder {file} is a file; name the folder that holds it; fetch("mnist") of nbnn.fetch makes one'
    )
    with pytest.raises(IsADirectoryError) as error:
        formats.read_python_batch(folder)
    assert str(error.value) == f"{folder} is a folder; name a file in it"


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(3073 + 5))
    assert refused(formats.read_cifar_binary, path) == (
        f"{path} is no CIFAR file of records of 3073 bytes: it has 3078 bytes, and 5 are left over; download it anew, "
        "or read it with label_bytes=2"
    )
    path.write_bytes(b"")
    assert refused(formats.read_cifar_binary, path) == f"{path} is empty; download it anew"
    path.write_bytes(b"\x0c" + bytes(3072))
    assert refused(readers.cifar10, tmp_path, batches=(1,)) == (
        f"{path} holds the label 12, but its classes are 0 to 9; download it anew"
    )
    path.write_bytes(b"hello")
    assert refused(formats.read_idx, path) == (
        f"{path} is no idx file: it begins with 68 65 6c 6c, where MNIST has 00 00 08 03 or 00 00 08 01; download "
        "it anew"
    )
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3]))
    assert refused(formats.read_idx, path) == (
        f"{path} announces 18 bytes (shape (2, 3)), but 15 are there; download it anew"
    )
    batch = tmp_path / "data_batch_1"
    path.unlink()
    for content, sentence in (
        ({"a": 1}, f"{batch} has no 'data'; it has 'a'"),
        (
            {"data": np.zeros((2, 5), "u1"), "labels": [1]},
            f"{batch} must hold pictures as uint8 of shape (N, 3072), got uint8 of shape (2, 5)",
        ),
        ({"data": "x", "labels": []}, f"{batch} must hold pictures as uint8 of shape (N, 3072), got something else"),
        (
            {"data": np.zeros((2, 3072), "u1"), "labels": [1]},
            f"{batch} must hold 2 whole numbers as 'labels', one for each picture",
        ),
        (
            {"data": np.zeros((1, 3072), "u1"), "labels": [-3]},
            f"{batch} holds the label -3, but its classes are 0 to 9; download it anew",
        ),
    ):
        batch.write_bytes(pickle.dumps(content))
        assert refused(readers.cifar10, tmp_path, batches=(1,), num_validation=0) == sentence


def test_wrong_idx_sets_are_named(tmp_path):
    written = idx_folder(tmp_path, "-idx", False)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(idx(written["train"][1][:-1]))
    assert refused(readers.mnist, tmp_path) == (
        f"{path} must hold 12 uint8 labels, one for each picture, got uint8 of shape (11,)"
    )
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(written["train"][0][:, :, :27]))
    assert refused(readers.mnist, tmp_path) == (
        f"{path} must hold uint8 pictures of shape (N, 28, 28), got uint8 of shape (12, 28, 27)"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batches": (1, 6)}, "cifar10: batches must be numbers from 1 to 5 such as (1, 2), got (1, 6)"),
        ({"batches": ()}, "cifar10: batches must be numbers from 1 to 5 such as (1, 2), got ()"),
        ({"batches": 1}, "cifar10: batches must be numbers from 1 to 5 such as (1, 2), got 1"),
        ({"num_validation": -1}, "cifar10: num_validation must be a whole number from 0 up, got -1"),
        (
            {"num_validation": 20},
            "cifar10: 20 validation pictures leave none of the 20 to train on; ask for at most 19",
        ),
        ({"dtype": "int8"}, 'cifar10: dtype must be "uint8", "float32" or "float64", got \'int8\''),
    ],
)
def test_wrong_options(tmp_path, options, sentence):
    cifar10_folder(tmp_path)
    assert refused(readers.cifar10, tmp_path, **options) == sentence


def test_other_wrong_options(tmp_path):
    assert refused(readers.cifar100, tmp_path, labels="rough") == (
        'cifar100: labels must be "fine" or "coarse", got \'rough\''
    )
    assert refused(formats.read_cifar_binary, tmp_path, label_bytes=3) == (
        "read_cifar_binary: label_bytes must be 1 or 2, got 3"
    )
    assert refused(readers.is_complete, "minst", tmp_path) == "there is no set 'minst'; did you mean 'mnist'?"


def test_the_public_names_are_there_and_explained():
    for module in (readers, batches):
        for name in module.__all__:
            assert (getattr(module, name).__doc__ or "").strip(), name
