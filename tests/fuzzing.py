"""Damaged files by the thousand, and the loop that holds every reader to its promise.

The promise: whatever is in a file, its reader gives what the file says or raises the library's own error, in a
sentence that can be printed, within a second and with new memory of at most twice the file's size. `ROOM` comes on top:
whatever Python makes of a file begins with small objects, and the plan of a net of a hundred nodes takes half of it. In
small files the room decides, so one input in fifty is a large file.

Memory is what tracemalloc counts, to which NumPy reports its arrays. Every input follows from the kind of file, a seed
and a number alone; a failure names all three, and `damaged(kind, seed, number)` gives the bytes again.
"""

import contextlib
import copy
import gc
import json
import random
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SECONDS = 1.0
ROOM = 1 << 20
LARGE = 0.02  # of the inputs of a kind that has large files
LONGEST_SENTENCE = 2000  # characters, the name of the file left out
Damage = Callable[[bytes, random.Random], bytes]


class ForeignError(Exception):
    """The standard library's own parser has refused the text before any of our code saw it."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: good ones, what is done to them, how they are read, and what is right. `large` are good ones that
    need more than the room.

    `check(found, content)` asserts that what was loaded is what the bytes say, read in another way. `error` is the one
    type that may be raised, and no subclass of it. `size` is what twice as much memory may be taken of: for a packed
    file what it may rightly unpack to. `harmless` is asked after every input.
    """

    name: str
    file: str
    good: Sequence[bytes]
    damages: Sequence[Damage]
    read: Callable[[Any], Any]
    check: Callable[[Any, bytes], None]
    error: type[Exception]
    names_file: bool = True
    size: Callable[[bytes], int] = len
    harmless: Callable[[], bool] = lambda: True
    large: Sequence[bytes] = ()


def damaged(kind: Kind, seed: int, number: int) -> bytes:
    """Input `number`: a good file after a damage of its kind, and every fourth after another of any kind."""
    rng = random.Random(f"{kind.name} {seed} {number}")
    good = kind.large if kind.large and rng.random() < LARGE else kind.good
    content = rng.choice([*kind.damages, *ANY])(rng.choice(good), rng)
    while rng.random() < 0.25:
        content = rng.choice(ANY)(content, rng)
    return content


def fuzz(kind: Kind, folder: Any, count: int, *, seed: int = 0, seconds: float = SECONDS) -> Counter:
    """Read `count` damaged files, and at last the good ones; returns how many were loaded, how many refused, and how
    many were large. What foreign parsers refuse is not counted, so that every counted input has reached our code."""
    path, whole = folder / kind.file, [*kind.good, *kind.large]
    for content in whole:  # imports what is needed, and shows that the reader refuses nothing good
        path.write_bytes(content)
        kind.check(kind.read(path), content)
    outcomes: Counter = Counter()
    number = 0
    with _counted_memory():
        while outcomes["loaded"] + outcomes["refused"] < count:
            content = damaged(kind, seed, number)
            path.write_bytes(content)
            with _named(f"{kind.name}, seed {seed}, input {number} ({len(content)} bytes)"):
                outcomes[_outcome(kind, path, content, seconds)] += 1
            outcomes["large"] += kind.size(content) > ROOM
            number += 1
        for place, content in enumerate(whole):
            path.write_bytes(content)
            with _named(f"{kind.name}, good file {place} ({len(content)} bytes)"):
                assert _outcome(kind, path, content, seconds) == "loaded", "it was not loaded"
    return outcomes


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as problem:
        raise AssertionError(f"{where}: {problem}") from problem.__cause__


def judged(kind: Kind, path: Any, content: bytes, *, room: int = ROOM) -> str:
    """Hold one file to the promise: "loaded" or "refused"."""
    path.write_bytes(kind.good[0])
    kind.read(path)  # imports what is needed
    path.write_bytes(content)
    with _counted_memory():
        return _outcome(kind, path, content, SECONDS, room)


@contextlib.contextmanager
def _counted_memory() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # so that a collection before each input looks at little
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def _outcome(kind: Kind, path: Any, content: bytes, seconds: float, room: int = ROOM) -> str:
    """ "loaded", "refused" or "foreign"; an AssertionError that says what was wrong."""
    for _ in range(3):  # a machine that is busy with something else is not slow three times
        found, problem, took, peak = _measured(kind, path)
        if took <= seconds:
            break
    else:
        raise AssertionError(f"it took {took:.2f} s")
    if isinstance(problem, ForeignError):
        return "foreign"
    allowed = 2 * kind.size(content) + room
    assert peak <= allowed, f"it allocated {peak:,} bytes; {allowed:,} are twice the file and the room"
    assert kind.harmless(), "something was run"
    if problem is None:
        try:
            kind.check(found, content)
        except AssertionError:
            raise
        except Exception as error:  # the other way of reading cannot read it
            raise AssertionError(f"it loaded, but {error!r}") from error
        return "loaded"
    if type(problem) is not kind.error:
        raise AssertionError(f"{type(problem).__name__} instead of {kind.error.__name__}: {problem}") from problem
    sentence = str(problem)
    if kind.names_file and str(path) not in sentence:
        raise AssertionError(f"the sentence does not name the file: {sentence}") from problem
    if not sentence.isprintable() or len(sentence) > LONGEST_SENTENCE + len(str(path)):
        raise AssertionError(f"this is no plain sentence: {sentence[:LONGEST_SENTENCE]!r}") from problem
    return "refused"


def _measured(kind: Kind, path: Any) -> tuple[Any, Exception | None, float, int]:
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    found, problem, begun = None, None, time.perf_counter()
    try:
        found = kind.read(path)
    except Exception as error:
        problem = error
    took = time.perf_counter() - begun
    return found, problem, took, tracemalloc.get_traced_memory()[1] - before


# ---- damages of any bytes


def spot(content: bytes, rng: random.Random) -> int:
    """A place: half of the time among the first bytes, where headers are."""
    return rng.randrange(min(len(content), rng.choice([16, 400, 1 << 60, 1 << 60])) or 1)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: -rng.randrange(1, 20)] if rng.random() < 0.3 else content[: spot(content, rng)]


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One to five bits."""
    found = bytearray(content or b"\0")
    for _ in range(rng.randrange(1, 6)):
        found[spot(found, rng)] ^= 1 << rng.randrange(8)
    return bytes(found)


def dropped(content: bytes, rng: random.Random) -> bytes:
    at = spot(content, rng)
    return content[:at] + content[at + rng.choice([1, 4, 8, rng.randrange(1, len(content) + 2)]) :]


def repeated(content: bytes, rng: random.Random) -> bytes:
    """A piece twice, or a short one many times."""
    at = spot(content, rng)
    piece = content[at : at + rng.choice([1, 8, 64, len(content)])]
    times = rng.choice([1, 1, 2, 1000 // len(piece) if piece else 1])
    return content[:at] + piece * times + content[at:]


def strewn(content: bytes, rng: random.Random) -> bytes:
    """Random bytes, or signs that mean something in a text, over others or between them."""
    at, width = spot(content, rng), rng.randrange(1, 9)
    piece = (
        rng.randbytes(width) if rng.random() < 0.4 else bytes(rng.choices(b"0123456789{}[]\",:.=#\\'-+eE \n", k=width))
    )
    return content[:at] + piece + content[at + rng.choice([0, width]) :]


def sized(content: bytes, rng: random.Random) -> bytes:
    """A number of 1 to 8 bytes that is huge, negative, zero, or nearly right."""
    at, width = spot(content, rng), rng.choice([1, 2, 4, 4, 8, 8])
    top = 256**width
    number = rng.choice([0, 1, top - 1, top // 2, top // 2 - 1, len(content), len(content) - at, rng.randrange(top)])
    return content[:at] + (number % top).to_bytes(width, rng.choice(["big", "little"])) + content[at + width :]


DIGITS = [b"0", b"-1", b"1", b"00", b"1e999", b"NaN", b"-Infinity", b"inf", b"0.5", b"9" * 30, b"9" * 400, b"9" * 5000]
DIGITS += [str(2**k + j).encode() for k in (31, 32, 48, 63, 64) for j in (-1, 0)]


def numbered(content: bytes, rng: random.Random) -> bytes:
    """A number that is written in digits replaced by another."""
    found = list(re.finditer(rb"-?[0-9]+(?:\.[0-9]+)?", content[:4000]))
    if not found:
        return sized(content, rng)
    number = rng.choice(found)
    return content[: number.start()] + rng.choice(DIGITS) + content[number.end() :]


ANY: tuple[Damage, ...] = (cut, flipped, dropped, repeated, strewn, sized, numbered)


# ---- damages of trees, such as JSON holds


NAMES = [
    "",
    "input",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\x",
    "C:\\x",
    "~",
    "a\0b",
    "a\nb\x1b[2J",
    "x" * 3000,
    "\ud800",
]
NAMES += ["__class__", "os.system", "a.w", "affine1", "é", "__metadata__", "import", "F64", "BF16", "softmax"]
VALUES = [None, True, False, -1, 0, 1, 3, 1.5, 2**31, 2**48, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e308]
VALUES += [float("nan"), float("inf"), [], {}, [[]], [1, 2], [-1, 2**40], [0] * 50, {"op": "ReLU"}, ["input"] * 40]
TWIN = "\u2063twin"  # takes a key past the dict that it is a second time in


def slipped(tree: Any, rng: random.Random) -> Any:
    """The tree with one to three slips: another value or name, something missing, moved, twice, or under two keys."""
    root = [copy.deepcopy(tree)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        holder, key = rng.choice(list(_places(root)))
        value, other = holder[key], rng.choice(list(_places(root)))
        match rng.randrange(6):
            case 0:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
            case 1:
                holder[key] = rng.choice(NAMES)
            case 2 if holder is not root:
                del holder[key]
            case 3:
                holder[key] = copy.deepcopy(other[0][other[1]])
            case 4 if isinstance(holder, dict):
                holder[rng.choice(NAMES)] = holder.pop(key)
            case 5 if isinstance(holder, dict):
                holder[f"{key}{TWIN}"] = copy.deepcopy(rng.choice([value, *VALUES]))
            case _ if isinstance(holder, list) and holder is not root:
                holder.insert(key, copy.deepcopy(value))
    return root[0]


def _places(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _places(tree[key])


def as_json(tree: Any) -> str:
    """JSON text, in which a twin has the same key as the other."""
    return json.dumps(tree).replace(json.dumps(TWIN)[1:-1], "")


def as_toml(tree: Any) -> str:
    """TOML text of a dict."""
    rows = tree.items() if isinstance(tree, dict) else [("nodes", tree)]
    return "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in rows if value is not None).replace(
        json.dumps(TWIN)[1:-1], ""
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value if v is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
