"""Damaged files of every kind that is read: each loads as what it says, or is refused in the library's own words.

A new kind is one function that makes a `Kind`, and its row in `KINDS`.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import pickle
import random
import re
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
import zlib
from collections import Counter

import fuzzing
import numpy as np
import pytest
from fuzzing import ForeignError, Kind, as_json, as_toml, fuzz, sized, slipped
from soak import tell, times
from test_files import joined, parts
from test_graph import EVERY_OP_TOML, every_op
from test_readers import PROTOCOLS, WRITERS, binary, idx, made
from training import outcome, solver_of

import nbnn
from nbnn import (
    Add,
    Affine,
    BatchNorm,
    Conv,
    Dropout,
    Graph,
    GroupNorm,
    MaxPool,
    ReLU,
    Softmax,
    files,
    formats,
    readers,
)
from nbnn.graph import GraphError

ROOT = pathlib.Path(nbnn.__file__).resolve().parent.parent
GRAPHS = [
    Graph(
        [Conv(3, 3, pad=1, name="a"), BatchNorm(momentum=0.5), ReLU(), MaxPool(2), Dropout(0.3), Affine(4)],
        input=(2, 5, 4),
        loss=Softmax(0.1),
    ),
    Graph([Affine(4), GroupNorm(2), ReLU(name="r"), Affine(4), Add(inputs=("r", "affine2"))], input=5, loss="mse"),
    Graph([Affine(2, bias=False)], input=3),
]


# ---- model files


def model_bytes(graph, /, **meta):
    """The file of a model. It is put together here: safetensors writes the entries of its header in any order, and an
    input must be the same in every process."""
    model = nbnn.compile(graph, backend="numpy", dtype=meta.get("dtype", "float32"), seed=int(meta.get("seed", 0)))
    plain = {"format": "nbnn 1", "dtype": model.dtype, "seed": str(model.seed), "steps": "0"}
    header = {"__metadata__": {**plain, "graph": json.dumps(graph.to_dict()), **meta}}
    body = b""
    for name, value in model.state_dict().items():
        code = {"float32": "F32", "float64": "F64"}[model.dtype]
        place = [len(body), len(body) + value.nbytes]
        header[name] = {"dtype": code, "shape": list(value.shape), "data_offsets": place}
        body += value.tobytes()
    header["__metadata__"]["checksum"] = "0" * 8
    return sealed(joined(header, body))


def sealed(content):
    """With the checksum of what it now holds, so that damage comes as far as the checks behind that; as it is where no
    checksum can be found or made."""
    try:
        header, body = parts(content)
        meta = header.pop("__metadata__")
        found = zlib.crc32("\n".join(sorted(f"{k}={v}" for k, v in meta.items() if k != "checksum")).encode())
        for name in sorted(header):
            begin, end = header[name]["data_offsets"]
            found = zlib.crc32(body[begin:end], zlib.crc32(name.encode(), found))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content
    return re.sub(rb'("checksum": *")[0-9a-f]{8}', rb"\g<1>" + f"{found:08x}".encode(), content, count=1)


def mostly_sealed(damage):
    def change(content, rng):
        found = damage(content, rng)
        return sealed(found) if rng.random() < 0.8 else found

    return change


def in_header(content, rng):
    """A slip in the header: its metadata, or the name, dtype, shape or place of an array."""
    header, body = parts(content)
    return joined_text(as_json(slipped(header, rng)), body)


def joined_text(text, body):
    text = text.encode(errors="surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def in_graph(content, rng):
    header, body = parts(content)
    meta = header["__metadata__"]
    meta["graph"] = as_json(slipped(json.loads(meta["graph"]), rng))
    return joined(header, body)


def other_dtype(content, rng):
    """All arrays, or one, of a dtype that the net does not have; the body fits the new sizes, or is as it was."""
    header, body = parts(content)
    names = [name for name in header if name != "__metadata__"]
    chosen = rng.choice([names, [rng.choice(names)]])
    code, width = rng.choice([("F16", 2), ("BF16", 2), ("F64", 8), ("F32", 4), ("I32", 4), ("I64", 8), ("BOOL", 1)])
    end, fits = 0, rng.random() < 0.8
    for name in names:
        begin, last = header[name]["data_offsets"]
        size = int(np.prod(header[name]["shape"])) * width if name in chosen else last - begin
        header[name]["data_offsets"] = [end, end + size]
        header[name]["dtype"] = code if name in chosen else header[name]["dtype"]
        end += size
    if rng.random() < 0.5:
        header["__metadata__"]["dtype"] = rng.choice(["float64", "float32", "float16", "(2,f4", "O"])
    return joined(header, rng.randbytes(end) if fits else body)


def other_graph(content, rng):
    """Another graph that can be built, with arrays that fit it, so that the model is made."""
    meta = parts(content)[0]["__metadata__"]
    for _ in range(20):
        text = as_json(slipped(json.loads(meta["graph"]), rng))
        with contextlib.suppress(ValueError):
            graph = Graph.from_dict(json.loads(text))
            if graph.parameter_count < 5000:
                return model_bytes(graph, **{**meta, "graph": text})
    return content


def no_number(content, rng):
    """Weights that are NaN, infinite, or as large or small as numbers get."""
    header, body = parts(content)
    form = "<f" if header["__metadata__"].get("dtype") == "float32" else "<d"
    width, found = struct.calcsize(form), bytearray(body)
    for _ in range(rng.choice([1, 1, 5])):
        at = rng.randrange(len(found) // width) * width
        value = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0])
        found[at : at + width] = struct.pack(form, value)
    return joined(header, bytes(found))


def is_the_model(model, content):
    """Graph, settings and weights are those of the file, as a plain reading of safetensors gives them; all finite."""
    header, body = parts(content)
    meta = header.pop("__metadata__")
    assert model.graph == Graph.from_dict(json.loads(meta["graph"]))
    assert (model.dtype, str(model.seed), str(model.steps_taken)) == (meta["dtype"], meta["seed"], meta["steps"])
    arrays = model.state_dict()
    assert sorted(arrays) == sorted(header), "it has other arrays than the file"
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        wanted = np.frombuffer(body[begin:end], {"F32": "<f4", "F64": "<f8"}[entry["dtype"]]).reshape(entry["shape"])
        assert np.isfinite(arrays[name]).all(), f"{name} is not finite"
        assert arrays[name].dtype == wanted.dtype and arrays[name].tobytes() == wanted.tobytes(), f"{name} is another"


def length(content, rng):
    """The length of the header, which comes first, is another."""
    return sized(content[:8], rng)[:8] + content[8:]


SAFETENSORS = (*map(mostly_sealed, (in_header, in_header, other_dtype, no_number)), length)


@functools.cache
def large_models():
    wide = Graph([Affine(300), ReLU(), Affine(5)], input=2500, loss="softmax")
    deep = Graph([Conv(160, 3, pad=1), BatchNorm(), ReLU(), Conv(160, 3)], input=(100, 6, 6))
    return [model_bytes(wide), model_bytes(deep, dtype="float64")]


def model_files(folder):
    return Kind(
        "model file",
        "net.safetensors",
        [model_bytes(graph, seed=str(k), dtype=("float32", "float64")[k % 2]) for k, graph in enumerate(GRAPHS)],
        (*SAFETENSORS, *map(mostly_sealed, (in_graph, in_graph)), other_graph, other_graph, other_graph),
        lambda path: nbnn.load(path, backend="numpy"),
        is_the_model,
        files.FileError,
        large=large_models(),
    )


# ---- checkpoints


def in_position(content, rng):
    header, body = parts(content)
    meta = header["__metadata__"]
    key = rng.choice(["about", "position", "position", "position"])
    meta[key] = as_json(slipped(json.loads(meta[key]), rng))
    return joined(header, body)


LARGE_NET = Graph([Affine(1000), ReLU(), Affine(3)], input=72, loss="svm")


def solver_of_checkpoints(folder=None, *, large=False):
    model = nbnn.compile(LARGE_NET, dtype="float64", backend="numpy") if large else None
    return solver_of("vectors", folder, model=model, num_epochs=1, log=len)


@functools.cache
def written_checkpoints(*, large=False):
    with tempfile.TemporaryDirectory() as folder:
        solver_of_checkpoints(folder, large=large).train()
        found = []
        for path in sorted(pathlib.Path(folder).glob("0*.safetensors")):
            header, body = parts(path.read_bytes())
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # safetensors writes it in any order
            found.append(joined(header, body))
        return found


def checkpoints(folder):
    """Read by one and the same Solver, or by that of the large net: what is refused leaves it as it was."""
    solvers = [solver_of_checkpoints(large=large) for large in (False, True)]

    def read(path):
        reader = solvers[path.stat().st_size > fuzzing.ROOM]
        before = outcome(reader)
        try:
            reader.resume(path)
        except ValueError as problem:
            assert outcome(reader) == before, "what was refused has changed the training"
            if type(problem) is ValueError and f"{path} is of another training: " in str(problem):
                raise files.FileError(str(problem)) from None
            raise
        return reader

    def is_the_checkpoint(found, content):
        header, body = parts(content)
        position = json.loads(header["__metadata__"]["position"])
        assert (found.iteration, found.measured, found.end) == tuple(
            position[k] for k in ("iteration", "measured", "end")
        )
        here = {f"weights/{name}": value for name, value in found.model.state_dict().items()}
        here |= {f"rule/{name}": value for name, value in found.trainee.memory().items()}
        here |= {f"best/{name}": value for name, value in found.best.items()}
        here["history/loss"] = np.array(found.loss_history)
        assert len(here) == len(header) - 3
        for name, value in here.items():
            begin, end = header[name]["data_offsets"]
            assert value.tobytes() == body[begin:end], f"{name} is another"

    damages = (*SAFETENSORS, *map(mostly_sealed, (in_position,) * 4))
    return Kind(
        "checkpoint",
        "00000009.safetensors",
        written_checkpoints(),
        damages,
        read,
        is_the_checkpoint,
        files.FileError,
        large=written_checkpoints(large=True)[-1:],
    )


# ---- graphs


def graph_damages(write):
    """Slips in a graph, written as text."""
    trees = [graph.to_dict() for graph in (*GRAPHS, every_op())]
    return lambda content, rng: write(slipped(rng.choice(trees), rng)).encode(errors="surrogatepass")


def read_graph(parse):
    def read(path):
        try:
            tree = parse(path.read_bytes().decode())
        except (ValueError, RecursionError) as problem:
            raise ForeignError from problem
        return Graph.from_dict(tree)

    return read


def is_a_graph(graph, content):
    """It comes back from its own dict, it prints, its names are there once, and all its sides are in bounds."""
    again = Graph.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert again == graph and hash(again) == hash(graph) and str(graph)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) and list(graph.shapes) == ["input", *names]
    assert all(1 <= side <= 2**48 and type(side) is int for shape in graph.shapes.values() for side in shape)


def graphs_in_json(folder):
    good = [json.dumps(graph.to_dict()).encode() for graph in (*GRAPHS, every_op())]
    damages = (graph_damages(as_json),) * 8
    return Kind("graph in JSON", "net.json", good, damages, read_graph(json.loads), is_a_graph, GraphError, False)


def graphs_in_toml(folder):
    good = [as_toml(graph.to_dict()).encode() for graph in GRAPHS] + [EVERY_OP_TOML.encode()]
    damages = (graph_damages(as_toml),) * 8
    return Kind("graph in TOML", "net.toml", good, damages, read_graph(tomllib.loads), is_a_graph, GraphError, False)


# ---- CIFAR in binary


def other_label(record):
    """A label of any value; in one file in three a record more or less."""

    def damage(content, rng):
        found = bytearray(content)
        found[rng.randrange(len(found) // record) * record + rng.randrange(record - 3072)] = rng.randrange(256)
        return bytes(found[: rng.choice([len(found), len(found), -record])])

    return damage


def is_cifar(record, classes):
    """Pictures and the last label of each record are the bytes of the file."""

    def check(found, content):
        pictures, labels = found
        rows = [content[at : at + record] for at in range(0, len(content), record)]
        assert (pictures.dtype, pictures.shape) == (np.uint8, (len(rows), 3, 32, 32))
        assert pictures.tobytes() == b"".join(row[-3072:] for row in rows)
        assert labels.dtype == np.int64 and labels.tolist() == [row[-3073] for row in rows]
        assert all(0 <= label < classes for label in labels)

    return check


def cifar10_files(folder):
    *good, large = [binary(*made(count, count)) for count in (1, 2, 3, 1000)]
    read, check, damages = formats.read_cifar10_batch, is_cifar(3073, 10), (other_label(3073),) * 3
    return Kind("CIFAR-10 binary", "data_batch_1.bin", good, damages, read, check, ValueError, large=[large])


def read_cifar100(path):
    data = readers.cifar100(path.parent, num_validation=0)
    return data["X_train"], data["y_train"]


def cifar100_files(folder):
    def both(pictures, fine):
        return binary(pictures, fine // 5, fine)

    *good, large = [both(*made(count, count, 100)) for count in (1, 2, 3, 1000)]
    check, damages = is_cifar(3074, 100), (other_label(3074),) * 3
    return Kind("CIFAR-100 binary", "train.bin", good, damages, read_cifar100, check, ValueError, large=[large])


# ---- CIFAR in python batches


OPCODES = [
    b"(",
    b"0",
    b"1",
    b"2",
    b"R",
    b"b",
    b"t",
    b"h\0",
    b"\x940",
    b"}",
    b"]",
    b"e",
    b"s",
    b"u",
    b".",
    b"N",
    b"\x85",
]
OPCODES += [b"i", b"o", b"\x81", b"\x92", b"\x82\1", b"P\n", b"Q", b"\x97", b"\x95" + b"\xff" * 8, b"r\xff\xff\xff\xff"]
OPCODES += [b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x8c\2os\x8c\6system\x93", b"I-1\n", b"\x8a\xff"]
WORDS = [b"numpy", b"ndarray", b"dtype", b"_reconstruct", b"data", b"labels", b"u1", b"i8", b"latin1", b"encode", b"C"]


def with_opcodes(content, rng):
    """One to three opcodes put in, or over others."""
    found = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(found), rng.choice([300, 1 << 60])) or 1)
        found[at : at + rng.randrange(3)] = rng.choice(OPCODES)
    return bytes(found)


def with_words(content, rng):
    """A word replaced by another everywhere, mostly of a wrong length."""
    word = rng.choice([word for word in WORDS if word in content] or [b""])
    other = rng.choice([*WORDS, b"os", b"system", b"../../x", b"O8", b"f8", b"V9999", b"\0", b"x" * 300])
    return content.replace(word, other, rng.choice([1, -1])) if word else content


class Reference(pickle._Unpickler):
    """Python's own reader, which knows no names but those that arrays are made of. It skips the sizes of frames, which
    only say how much to read ahead."""

    dispatch = {**pickle._Unpickler.dispatch, pickle.FRAME[0]: lambda self: self.read(8)}  # noqa: RUF012

    def find_class(self, module, name):
        if module.startswith("numpy"):
            assert name in ("ndarray", "dtype", "_reconstruct", "_frombuffer"), name
        else:
            assert (module, name) in (("_codecs", "encode"), ("builtins", "bytes"), ("__builtin__", "bytes")), name
        if name == "_reconstruct":  # the dtype that it begins with is replaced by that of the state
            return lambda kind, shape, dtype: np.empty(0, np.uint8)
        return super().find_class(module, name)


def is_the_batch(found, content, key="labels", classes=10):
    """Pictures and labels are those that Python itself reads, names of code left out."""
    pictures, labels = found
    by_python = Reference(io.BytesIO(content), encoding="latin1").load()
    named = {word.decode("latin1") if isinstance(word, bytes) else word: value for word, value in by_python.items()}
    assert (pictures.dtype, pictures.shape) == (np.uint8, (len(pictures), 3, 32, 32))
    assert pictures.tobytes() == np.ascontiguousarray(named["data"]).tobytes(), "other pictures"
    assert labels.dtype == np.int64 and labels.tolist() == [int(k) for k in named[key]], "other labels"
    assert len(labels) == len(pictures) and all(0 <= k < classes for k in labels)


BATCH_DAMAGES = (with_opcodes, with_opcodes, with_words, with_words)


@functools.cache
def large_batches():
    """In protocols 0 to 2 bytes are text, which is read in another way."""
    names = ("python2", "python3 protocol 0", "python3 protocol 2", "python3 protocol 4", "columns first, protocol 1")
    return [WRITERS[name](*made(700, place)) for place, name in enumerate(names)]


def python_batches(folder):
    good = [write(*made(1 + place % 2, place)) for place, write in enumerate(WRITERS.values()) if write is not binary]
    read = formats.read_cifar10_batch
    return Kind(
        "python batch", "data_batch_1", good, BATCH_DAMAGES, read, is_the_batch, ValueError, large=large_batches()
    )


def batch_of_100(protocol, count, keys=str):
    """A batch of CIFAR-100 as Python 3 writes it."""
    pictures, fine = made(count, protocol, 100)
    both = {"fine_labels": fine.tolist(), "coarse_labels": (fine // 5).tolist()}
    batch = {"filenames": [b"a.png"] * count, "batch_label": b"one", **both, "data": pictures}
    return pickle.dumps({keys(key): value for key, value in batch.items()}, protocol)


def python_batches_of_100(folder):
    good = [batch_of_100(protocol, 1 + protocol % 2, keys) for protocol in PROTOCOLS for keys in (str, str.encode)]
    check = functools.partial(is_the_batch, key="fine_labels", classes=100)
    large = [batch_of_100(protocol, 700) for protocol in (0, 2)]
    return Kind("CIFAR-100 python batch", "train", good, BATCH_DAMAGES, read_cifar100, check, ValueError, large=large)


# ---- batches that want to run something


class Wants:
    """Pickled, it asks whoever reads it for a call, with all that Python lets `__reduce__` say."""

    def __init__(self, *answer):
        self.answer = answer

    def __reduce_ex__(self, protocol):
        return self.answer


class Wakes:
    """An object of a class: making one needs a class, and filling one runs its method."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        os.mkdir(state["path"])


class Keeps(pickle.Pickler):
    """Writes a name that the reader must look up itself."""

    def persistent_id(self, found):
        return found.path if isinstance(found, Wakes) else None


UNUSED = "xml.dom.pulldom"  # a module that nothing here imports


MARKER = "made by a batch"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """What is run would leave its marker here; no path of this machine is in an input."""
    monkeypatch.chdir(tmp_path)


def hostile():
    """Pickles by Python's own pickler at every protocol: each callable in each place that a pickle has for one."""
    path, (data, labels) = MARKER, made(1, 0)
    calls = {
        "os.mkdir": (os.mkdir, (path,)),
        "os.system": (os.system, (f"mkdir '{path}'",)),
        "eval": (eval, (f"__import__('os').mkdir({path!r})",)),
        "exec": (exec, (f"import os; os.mkdir({path!r})",)),
        "open": (open, (path, "w")),
        "Path.mkdir": (pathlib.Path.mkdir, (pathlib.Path(path),)),
        "import": (__import__, (UNUSED,)),
        "partial": (functools.partial(os.mkdir, path), ()),
        "getattr": (getattr, (pathlib.Path(path), "mkdir")),
    }
    batches = {"an object": {"data": Wakes(path)}, "an array of objects": {"data": np.array([Wakes(path)], object)}}
    for name, call in calls.items():
        run = Wants(*call)
        batches |= {
            name: run,
            f"{name} as data": {"data": run, "labels": [1]},
            f"{name} as labels": {"data": data, "labels": [run]},
            f"{name} in a tuple": {"data": data, "labels": (1, (run,))},
            f"{name} as a key": {call[0]: 1, "data": data, "labels": [1]},
            f"{name} as a state": {"data": Wants(bytes, (), run)},
            f"{name} as what sets a state": {"data": Wants(bytes, (), path, None, None, call[0])},
            f"{name} as an item": {"data": Wants(list, (), None, iter([run]))},
            f"{name} as a pair": {"data": Wants(dict, (), None, None, iter([("a", run)]))},
            f"{name} as a dtype": {"data": Wants(np.dtype, (run,))},
            f"{name} behind the data": {"data": data, "labels": labels.tolist(), "filenames": run},
        }
    for name, batch in batches.items():
        for protocol in PROTOCOLS:
            if protocol < 2 and "what sets" in name:
                continue  # these protocols have no place for it
            yield f"{name}, protocol {protocol}", pickle.dumps(batch, protocol)
    for protocol in PROTOCOLS:
        stream = io.BytesIO()
        Keeps(stream, protocol).dump({"data": Wakes(path)})
        yield f"a name to look up, protocol {protocol}", stream.getvalue()


def hostile_batches(folder):
    marker, good = folder / MARKER, python3_batch()
    bad = [content for _, content in hostile()]

    def one_of_them(content, rng):
        return rng.choice(bad)

    def damaged_one(content, rng):
        return rng.choice((with_opcodes, with_words, *fuzzing.ANY))(rng.choice(bad), rng)

    for write in WRITERS.values():  # so that all codecs are imported
        (folder / "data_batch_1").write_bytes(write(*made(1, 0)))
        formats.read_python_batch(folder / "data_batch_1") if write is not binary else None
    modules = set(sys.modules)
    return Kind(
        "batch that wants to run something",
        "data_batch_1",
        [good],
        (one_of_them, *[damaged_one] * 12),
        formats.read_cifar10_batch,
        is_the_batch,
        ValueError,
        harmless=lambda: not marker.exists() and set(sys.modules) == modules,
    )


def python3_batch():
    return WRITERS["python3 protocol 4"](*made(1, 0))


# ---- idx


def other_shape(content, rng):
    """Another dtype, number of sides, or sides: huge, zero, or of the same product."""
    count = content[3] if len(content) > 3 else 0
    sides = list(struct.unpack(f">{count}I", content[4 : 4 + 4 * count])) if len(content) >= 4 + 4 * count else []
    code = rng.choice([8, 8, 8, 9, 11, 12, 13, 14, rng.randrange(256)])
    body = content[4 + 4 * count :]
    match rng.randrange(5):
        case 0 if sides:
            sides[rng.randrange(len(sides))] = rng.choice([0, 1, 2**16, 2**31, 2**32 - 1])
        case 1:
            sides = [2**32 - 1] * rng.choice([1, 2, 8]) + [0] * rng.choice([0, 1])
        case 2:
            rng.shuffle(sides)
        case 3:
            sides = [1] * rng.randrange(9) + [len(body) // rng.choice([1, 2, 4, 8])]
    count = rng.choice([len(sides)] * 4 + [0, 9, 255])
    return bytes([0, 0, code, count]) + struct.pack(f">{len(sides)}I", *(side % 2**32 for side in sides)) + body


def is_the_array(found, content):
    """Dtype, shape and numbers are those of the bytes."""
    dtype = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[content[2]]
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    wanted = np.frombuffer(content[4 + 4 * content[3] :], dtype).reshape(shape)
    assert (found.dtype, found.shape) == (wanted.dtype.newbyteorder("="), shape)
    assert found.astype(dtype).tobytes() == wanted.tobytes()


def idx_arrays():
    rng = np.random.default_rng(0)
    yield idx(rng.integers(0, 256, (3, 28, 28), np.uint8))
    yield idx(rng.integers(0, 10, 40, np.uint8))
    for code, dtype in ((9, "|i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")):
        yield idx(rng.integers(-9, 9, (2, 3, 4)).astype(dtype), code)


@functools.cache
def large_idx_arrays():
    """One that gzip cannot make smaller, and one that it can."""
    rng = np.random.default_rng(0)
    wide = np.arange(600_000, dtype=">i4").reshape(10, 100, 600) % 10
    return [idx(rng.integers(0, 256, (3000, 28, 28), np.uint8)), idx(wide.astype(">i4"), 12)]


def packed(content, level=1):
    """A gzip file without the time at which it was made."""
    return gzip.compress(content, level, mtime=0)


def idx_files(folder):
    damages, good, large = (other_shape,) * 4, list(idx_arrays()), large_idx_arrays()
    return Kind("idx", "a-idx3-ubyte", good, damages, formats.read_idx, is_the_array, ValueError, large=large)


def unpacked(content):
    """All that a gzip file holds: of a damaged one what comes before the damage."""
    stream, found = zlib.decompressobj(wbits=31), bytearray()
    try:
        for at in range(0, len(content), 64):
            found += stream.decompress(content[at : at + 64])
    except zlib.error:
        pass
    return bytes(found)


def packed_size(content):
    """What it takes to read a packed file: its own bytes, and those that it announces as far as it has them."""
    head = unpacked(content)
    if len(head) < 4 or len(head) < 4 + 4 * head[3]:
        return len(content)
    width = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}.get(head[2], 0)
    sides = struct.unpack(f">{head[3]}I", head[4 : 4 + 4 * head[3]])
    return len(content) + min(len(head), 4 + 4 * head[3] + width * int(np.prod(sides, dtype=object)))


def inside(damage):
    """The damage is done to what is packed."""
    return lambda content, rng: packed(damage(unpacked(content), rng), rng.choice([0, 1, 9]))


def bomb(content, rng):
    """Megabytes of zeros behind what is announced, or announced and missing."""
    inner = bytearray(unpacked(content))
    if rng.random() < 0.5 and len(inner) > 8:
        inner[4:8] = struct.pack(">I", rng.choice([2**20, 2**24, 2**30, 2**32 - 1]))
    return packed(bytes(inner) + bytes(rng.choice([0, 10**6, 3 * 10**6])))


def two_members(content, rng):
    return content + rng.choice([content, packed(b""), b"\0" * 9, b"\x1f\x8b"])


def idx_gz_files(folder):
    good, large = ([packed(content) for content in contents] for contents in (idx_arrays(), large_idx_arrays()))
    damages = (*(inside(d) for d in (other_shape, *fuzzing.ANY)), bomb, two_members)
    read = formats.read_idx

    def check(found, content):
        is_the_array(found, gzip.decompress(content))

    name = "a-idx3-ubyte.gz"
    return Kind("packed idx", name, good, damages, read, check, ValueError, size=packed_size, large=large)


# ---- the table: what makes the kind, inputs in `make test`, inputs in `make soak`

KINDS = {
    model_files: (150, 5000),
    checkpoints: (120, 4000),
    graphs_in_json: (150, 3500),
    graphs_in_toml: (150, 2500),
    cifar10_files: (80, 1500),
    cifar100_files: (80, 1500),
    python_batches: (200, 4000),
    python_batches_of_100: (80, 1500),
    hostile_batches: (150, 3000),
    idx_files: (120, 2000),
    idx_gz_files: (120, 2000),
}
EACH_KIND = pytest.mark.parametrize("make", [pytest.param(make, id=make.__name__) for make in KINDS])


@EACH_KIND
def test_a_damaged_file_loads_as_what_it_says_or_is_refused(tmp_path, make):
    """In a process of its own: the memory of all threads is counted, and pytest has some."""
    count = times(*KINDS[make])
    found = child(FUZZ, make.__name__, str(count), str(tmp_path))
    assert (found.returncode, found.stderr) == (0, ""), found.stderr[-3000:]
    outcomes = Counter(json.loads(found.stdout))
    kind = make(tmp_path)
    assert outcomes["loaded"] > count / 100 and outcomes["refused"] > count / 5, outcomes
    assert outcomes["large"] >= (count // 200 if kind.large else 0), outcomes
    tell(f"damaged inputs read, {kind.name}", count)
    if kind.large:
        tell(f"damaged inputs larger than a megabyte, {kind.name}", outcomes["large"])


FUZZ = """
import json, pathlib, sys, test_fuzz
make, count, folder = sys.argv[1:]
folder = pathlib.Path(folder)
print(json.dumps(test_fuzz.fuzz(getattr(test_fuzz, make)(folder), folder, int(count))))
"""


def test_there_are_enough_inputs():
    assert sum(full for _, full in KINDS.values()) >= 20_000


# ---- the checks can fail


def arrays_of_idx(folder, read, **changes):
    """The kind "idx" with another reader."""
    return dataclasses.replace(idx_files(folder), read=read, **changes)


def wasteful(path):
    np.empty(len(path.read_bytes()) * 2 + fuzzing.ROOM + 1000, np.uint8)
    return formats.read_idx(path)


def greedy(path):
    """It takes more than twice the file: what a small file has room for."""
    found = formats.read_idx(path)
    np.empty(3 * found.nbytes, np.uint8)
    return found


def slow(path):
    time.sleep(0.06)
    return formats.read_idx(path)


def leaking(path):
    """As if a dict were asked for what the file has not."""
    try:
        return formats.read_idx(path)
    except ValueError:
        raise KeyError("shape") from None


def of_a_subclass(path):
    try:
        return formats.read_idx(path)
    except ValueError as problem:
        raise UnicodeError(str(problem)) from None


def nameless(path):
    try:
        return formats.read_idx(path)
    except ValueError:
        raise ValueError("the file is damaged") from None


def raw(path):
    try:
        return formats.read_idx(path)
    except ValueError as problem:
        raise ValueError(f"{problem}\x1b[2J") from None


def one_off(path):
    found = formats.read_idx(path)
    found.flat[-1:] += 1
    return found


def other_order(path):
    found = formats.read_idx(path)
    return found.astype(found.dtype.newbyteorder()) if found.dtype.itemsize > 1 else found


PLANTED = {
    wasteful: "it allocated ",
    greedy: "it allocated ",
    slow: "it took 0.0",
    leaking: "KeyError instead of ValueError: 'shape'",
    of_a_subclass: "UnicodeError instead of ValueError: ",
    nameless: "the sentence does not name the file: the file is damaged",
    raw: "this is no plain sentence: ",
    one_off: "",
    other_order: "",
}


@pytest.mark.parametrize("read", [pytest.param(read, id=read.__name__) for read in PLANTED])
def test_a_planted_fault_is_found(tmp_path, read):
    kind = arrays_of_idx(tmp_path, read)
    if read in (one_off, other_order):  # found among the good files already
        with pytest.raises(AssertionError):
            fuzz(kind, tmp_path, 1)
        return
    with pytest.raises(AssertionError) as caught:
        fuzz(kind, tmp_path, 300, seconds=0.05 if read is slow else 1.0)
    where, what = re.fullmatch(r"idx, seed 0, input (\d+) \(\d+ bytes\): (.*)", str(caught.value), re.DOTALL).groups()
    assert what.startswith(PLANTED[read])
    again = fuzzing.damaged(kind, 0, int(where))  # the message is enough to have the input again
    assert len(again) > fuzzing.ROOM or read is not greedy
    assert again == (tmp_path / kind.file).read_bytes() == fuzzing.damaged(idx_files(tmp_path), 0, int(where))


def test_a_loader_that_lets_a_nan_through_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "np", Blind())
    with pytest.raises(AssertionError, match=r"^model file, seed 0, input \d+ .*: .* is not finite"):
        fuzz(model_files(tmp_path), tmp_path, 2000)


class Blind:
    """NumPy, to which every number is finite."""

    def __getattr__(self, name):
        return (lambda found: np.ones_like(found, bool)) if name == "isfinite" else getattr(np, name)


def test_a_reader_that_runs_what_it_reads_is_found(tmp_path):
    def trusting(path):
        if b"mkdir" in path.read_bytes():
            pickle.loads(path.read_bytes())
        return formats.read_cifar10_batch(path)

    kind = hostile_batches(tmp_path)
    bad = dict(hostile())["os.mkdir as data, protocol 2"]
    kind = dataclasses.replace(kind, read=trusting, damages=[lambda content, rng: bad] * 50)
    with pytest.raises(AssertionError, match=r", input \d+ .*: something was run$"):
        fuzz(kind, tmp_path, 20)


def test_every_damage_damages(tmp_path):
    """Of each kind, most inputs are new files, and no two numbers or seeds give the same ones."""
    for make in KINDS:
        kind = make(tmp_path)
        first = [fuzzing.damaged(kind, 0, number) for number in range(60)]
        assert first == [fuzzing.damaged(kind, 0, number) for number in range(60)]
        assert first != [fuzzing.damaged(kind, 1, number) for number in range(60)]
        assert len({*first} - {*kind.good, *kind.large}) > 40
        for damage in (*kind.damages, *fuzzing.ANY):
            rng = random.Random(0)
            assert any(damage(rng.choice(kind.good), rng) not in kind.good for _ in range(20))


def test_an_input_is_the_same_in_every_process(tmp_path):
    found = child(DIGEST, str(tmp_path))
    assert (found.stdout.split(), found.stderr) == ([digest(tmp_path)], "")


def digest(folder):
    """Of the first inputs of all kinds."""
    contents = [fuzzing.damaged(kind, 0, k) for kind in (make(folder) for make in KINDS) for k in range(40)]
    return hashlib.sha256(b"".join(contents)).hexdigest()


DIGEST = """
import pathlib, sys, test_fuzz
print(test_fuzz.digest(pathlib.Path(sys.argv[1])))
"""


def child(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=times(120, 600),
    )


# ---- nothing in a batch is run


def test_no_pickle_runs_anything(tmp_path):
    """Every callable in every place at every protocol; test_readers.py has the opcodes that no pickler writes."""
    path = tmp_path / "data_batch_1"
    kind, count, before = hostile_batches(tmp_path), 0, os.getcwd()
    for name, content in hostile():
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            formats.read_cifar10_batch(path)
        assert type(caught.value) is ValueError, name
        assert str(caught.value).startswith(f"{path} is no python batch of CIFAR: "), name
        assert "; nothing in it was run. " in str(caught.value), name
        assert kind.harmless() and sorted(p.name for p in tmp_path.iterdir()) == ["data_batch_1"], name
        count += 1
    assert count > 500 and os.getcwd() == before
    tell("hostile pickles, of which none ran anything", count)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["os.mkdir as data", "os.system as labels", "eval", "exec in a tuple", "an object"])
def test_python_itself_runs_these_pickles(tmp_path, name, protocol):
    pickle.loads(dict(hostile())[f"{name}, protocol {protocol}"])
    assert (tmp_path / MARKER).is_dir()


# ---- small files that announce much


def depthwise(folder):
    """160 KB of weights, for which the kernels would like 20,000 x 20,000 numbers of scratch several times over."""
    graph = Graph([Conv(20_000, 1, groups=10_000, bias=False)], input=(20_000, 1, 1))
    return model_files, model_bytes(graph)


def of_model(change):
    def make(folder):
        header, body = parts(model_files(folder).good[2])
        meta = header["__metadata__"]
        change(header, meta, json.loads(meta["graph"]))
        return model_files, joined(header, body)

    return make


def with_tree(**entries):
    return of_model(lambda header, meta, tree: meta.update(graph=json.dumps({**tree, **entries})))


ANNOUNCES = {
    "scratch of gigabytes": depthwise,
    "a header of 2**62 bytes": lambda folder: (model_files, (2**62).to_bytes(8, "little") + b"{}" * 100),
    "a layer of petabytes": with_tree(nodes=[{"op": "Affine", "units": 2**44, "bias": False}]),
    "an input of petabytes": with_tree(input=[2**16, 2**16, 2**15], nodes=[{"op": "ReLU"}]),
    "an array of petabytes": of_model(lambda header, meta, tree: header["affine1.w"].update(shape=[2**30, 2**20])),
    "more nodes than a net has": with_tree(nodes=[{"op": "ReLU"}] * 50_000),
    "half a megabyte of nothing": with_tree(nodes=[[]] * 130_000),
    "more inputs than a net has": with_tree(nodes=[{"op": "ReLU"}, {"op": "Concat", "inputs": ["relu1"] * 50_000}]),
    "an array of 2**32 labels": lambda folder: (idx_files, bytes([0, 0, 8, 1]) + b"\xff" * 4 + bytes(100)),
    "eight sides of 2**32": lambda folder: (idx_files, bytes([0, 0, 14, 8]) + b"\xff" * 32 + bytes(100)),
    "a packed array of 2**32 labels": lambda folder: (
        idx_gz_files,
        packed(bytes([0, 0, 8, 1]) + b"\xff" * 4 + bytes(100)),
    ),
    "bytes of 2**63": lambda folder: (python_batches, b"\x80\x04}\x8c\1a\x8e" + b"\xff" * 7 + b"\x7f."),
    "a memo of 2**32": lambda folder: (python_batches, b"\x80\x02}r\xff\xff\xff\xff."),
    "lists and lists": lambda folder: (python_batches, b"]" * 100_000),
}


# what a graph's text may become before its nodes are counted: a hundred bytes for three, of half a megabyte of text
LARGEST_GRAPH = 32 << 20


@pytest.mark.parametrize("name", ANNOUNCES)
def test_a_small_file_that_announces_much_costs_little(tmp_path, name):
    make, content = ANNOUNCES[name](tmp_path)
    kind = make(tmp_path)
    room = LARGEST_GRAPH if name in ("half a megabyte of nothing", "more inputs than a net has") else fuzzing.ROOM
    outcome = fuzzing.judged(kind, tmp_path / kind.file, content, room=room)
    assert outcome == ("loaded" if name == "scratch of gigabytes" else "refused")


@pytest.mark.skipif(sys.platform != "linux", reason="no limit on memory there")
def test_nor_does_it_with_all_memory_counted(tmp_path):
    """What tracemalloc does not see, such as safetensors' own: a child that may take 64 MiB more reads them all."""
    found = child(CHILD, str(tmp_path))
    assert (found.stdout.split(), found.stderr) == ([str(len(ANNOUNCES))], "")


CHILD = """
import pathlib, resource, sys, test_fuzz
folder, cases = pathlib.Path(sys.argv[1]), []
for name, row in test_fuzz.ANNOUNCES.items():
    make, content = row(folder)
    kind = make(folder)
    (folder / kind.file).write_bytes(kind.good[0])
    kind.read(folder / kind.file)
    cases.append((name, kind, content))
taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20),) * 2)
for name, kind, content in cases:
    (folder / kind.file).write_bytes(content)
    try:
        kind.read(folder / kind.file)
    except kind.error:
        continue
    assert name == "scratch of gigabytes", name
print(len(cases))
"""
