"""The python batches of CIFAR, read as data: no opcode of such a file can import, call or change anything.

A batch is a pickle: a small program for a stack machine. This machine knows the few opcodes that write down numbers,
text, bytes, lists, tuples and a dictionary, and six names that stand for building a NumPy array; all else is refused by
its name. Every declared size is held to the bytes that are there before anything is made, nothing is made twice of the
same bytes, and the number of steps, each of which makes one small thing at most, is held to the size of the file. So a
file costs about twice its size in memory, or a few megabytes if it is small, and is done with at once.
"""

from __future__ import annotations

import codecs
import enum
import io
import math
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["decode"]

# a batch has 3072 pixels for each picture, and takes up to 14 steps for its labels and its name (CIFAR-100 where Python
# 3 has written the names as bytes in protocol 0); the steps that any file may take are enough for a list of names
_FREE_STEPS, _BYTES_A_STEP = 10_000, 150
_FREE_TEXT = 1 << 20  # bytes that texts may take in memory beyond the size of the file: one sign can widen all others
_MOST_MARKS = 64  # things that are begun and not ended; a batch has four at once
_LONGEST_TUPLE = 16  # a dtype's description has eight
_LONG_LINE = 300
_LONG_TEXT = 1 << 16  # text from here on can only be an array's bytes
_CHUNK = 1 << 16
_DTYPES = ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
_ESCAPED = re.compile(rb"(?:[^\\]|\\[\\'\"nrt]|\\x[0-9a-fA-F]{2})*+")  # what Python writes between quotes


class _Refused(ValueError):
    """What is wrong, without the name of the file."""


class _Name(enum.Enum):
    """The names that a batch may mention. Each stands for something done here, never for a thing that is imported."""

    ARRAY = "numpy.ndarray"
    SHELL = "_reconstruct"
    FROM_BYTES = "_frombuffer"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    BYTES = "bytes"


_NAMES = {
    "numpy ndarray": _Name.ARRAY,
    "numpy dtype": _Name.DTYPE,
    "numpy.core.multiarray _reconstruct": _Name.SHELL,
    "numpy._core.multiarray _reconstruct": _Name.SHELL,
    "numpy.core.numeric _frombuffer": _Name.FROM_BYTES,
    "numpy._core.numeric _frombuffer": _Name.FROM_BYTES,
    "_codecs encode": _Name.ENCODE,
    "__builtin__ bytes": _Name.BYTES,
    "builtins bytes": _Name.BYTES,
}


@dataclass(slots=True)
class _LongText:
    """A long text as Latin-1 bytes, which is what it will turn out to be: protocol 0 to 2 write bytes that way."""

    content: bytes


@dataclass(slots=True)
class _Dtype:
    code: str
    order: str = "|"


@dataclass(slots=True)
class _Array:
    """An array that is built by a later opcode."""

    value: np.ndarray | None = None


_SCALARS = (int, str, bytes, type(None))  # True and False are ints


def decode(content: bytes) -> dict[str, Any]:
    """The dictionary that a batch holds: numbers, text, lists and tuples of them, arrays. Keys and bytes come as text.

    Raises ValueError with a sentence that says what the file does and a batch does not.
    """
    try:
        found = _Machine(content).run()
    except (UnicodeError, struct.error, OverflowError, MemoryError):
        raise _Refused("its text or numbers are damaged") from None
    if not isinstance(found, dict):
        raise _Refused(f"it holds {_kind(found)} where a batch holds a dictionary")
    seen: dict[int, Any] = {}
    batch = {_text(key): _plain(value, seen) for key, value in found.items()}
    if len(batch) < len(found):
        raise _Refused("it holds a key twice")
    return batch


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """The value for people. What stands in several places is made once, so that no file can grow by that."""
    if id(value) not in seen:
        seen[id(value)] = _made_plain(value, seen)
    return seen[id(value)]


def _made_plain(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused("it begins an array and does not fill it")
        return value.value
    if isinstance(value, bytes) and len(value) <= _LONG_TEXT:
        return value.decode("latin1")
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, seen) for item in value)
    if isinstance(value, (int, str, type(None))):
        return value
    raise _Refused(f"it holds {_kind(value)} where a batch holds lists, numbers, names and arrays")


def _kind(value: Any) -> str:
    if isinstance(value, _Name):
        return f"the name {value.value}"
    names = {
        _Array: "an array",
        _Dtype: "a dtype",
        _LongText: "a long text",
        bytes: "bytes",
        type(None): "None",
        int: "an int",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise _Refused(f"it has {_kind(value)} where a name belongs")


class _Machine:
    """The stack machine: `run` reads opcode after opcode until the one that ends the file."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.encoded = 0  # bytes that were made of texts
        self.texts = 0  # bytes that texts take in memory

    def run(self) -> Any:
        most = _FREE_STEPS + len(self.content) // _BYTES_A_STEP
        for _ in range(most):
            code = self.content[self.at : self.at + 1]
            if code == b".":
                if self.at + 1 < len(self.content):
                    raise _Refused(f"it goes on after its end at byte {self.at}")
                return self.pop()
            if code not in _OPCODES:
                self.refuse_opcode(code)
            self.at += 1
            _OPCODES[code](self)
        raise _Refused(f"it takes more than {most} steps, and no batch of its size takes as many")

    def refuse_opcode(self, code: bytes) -> None:
        if not code:
            raise _Refused("it ends too early: the file is cut off")
        name = _RUNNING.get(code)
        if name:
            raise _Refused(f"byte {self.at} asks for code to be run ({name}), which data never need")
        raise _Refused(f"byte {self.at} is {code!r}, an opcode that no batch has")

    # ---- reading the file

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise _Refused(
                f"byte {self.at} announces {count} more bytes, but only {len(self.content) - self.at} are left"
            )
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line_end(self, most: int | None = None) -> int:
        end = self.content.find(b"\n", self.at, None if most is None else self.at + most)
        if end < 0:
            raise _Refused(f"the line at byte {self.at} has no end")
        return end

    def line(self) -> bytes:
        end = self.line_end(_LONG_LINE)
        start, self.at = self.at, end + 1
        return self.content[start:end]

    def decimal(self, end: bytes = b"") -> int:
        line = self.line().removesuffix(end)
        if not re.fullmatch(rb"[+-]?(?:0|[1-9][0-9]{0,39})", line):  # 010 is 8 to one Python and nothing to another
            raise _Refused(f"{line[:40]!r} is no whole number")
        return int(line)

    def text(self, end: int, coding: str) -> str | _LongText:
        """The text up to `end`; a long one piece by piece, so that it is never there more than once."""
        start, self.at = self.at, end
        if end - start <= _LONG_TEXT:
            found = codecs.decode(self.content[start:end], coding)
            self.texts += sys.getsizeof(found)
            if self.texts > len(self.content) + _FREE_TEXT:
                raise _Refused("its texts take more memory than the file has bytes")
            return found
        return _LongText(self.latin1(start, end, coding))

    def latin1(self, start: int, end: int, coding: str) -> bytes:
        decoder, out = codecs.getincrementaldecoder(coding)(), io.BytesIO()
        for at in range(start, end, _CHUNK):
            piece = self.content[at : min(at + _CHUNK, end)]
            out.write(decoder.decode(piece, at + _CHUNK >= end).encode("latin1"))
        return out.getvalue()

    # ---- the stack

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Refused(f"byte {self.at} takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.marks) >= _MOST_MARKS:
            raise _Refused(f"it is nested more than {_MOST_MARKS} deep")
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise _Refused(f"byte {self.at} ends something that was never begun")
        height = self.marks.pop()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def remember(self, key: int) -> None:
        if key < 0:
            raise _Refused(f"byte {self.at} stores a value under {key}")
        self.memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise _Refused(f"byte {self.at} recalls value {key}, which was never stored")
        self.push(self.memo[key])

    # ---- opcodes that need more than a line

    def protocol(self) -> None:
        if (number := self.number("B")) > 5:
            raise _Refused(f"it is of protocol {number}; 0 to 5 are known")

    def frame(self) -> None:
        size = self.number("<Q")
        if size > len(self.content) - self.at:
            raise _Refused(f"it announces {size} more bytes, but only {len(self.content) - self.at} are left")

    def integer(self) -> None:
        truth = {b"00": False, b"01": True}.get(self.content[self.at : self.at + 2])
        if truth is not None and self.content[self.at + 2 : self.at + 3] == b"\n":
            self.at += 3
            self.push(truth)
        else:
            self.push(self.decimal())

    def quoted(self) -> None:
        end = self.line_end()
        start = self.at + 1
        quote = self.content[self.at : start]
        if quote not in (b"'", b'"') or end - 1 < start or self.content[end - 1 : end] != quote:
            raise _Refused(f"the text at byte {self.at} is not between quotes")
        match = _ESCAPED.match(self.content, start, end - 1)
        if match is None or match.end() != end - 1:
            raise _Refused(f"the text at byte {self.at} holds an escape that Python does not write")
        self.push(self.latin1(start, end - 1, "unicode_escape"))
        self.at = end + 1

    def unicode_line(self) -> None:
        self.push(self.text(self.line_end(), "raw_unicode_escape"))
        self.at += 1

    def counted_text(self, form: str) -> None:
        size = self.number(form)
        if size > len(self.content) - self.at:
            raise _Refused(f"a text claims {size} bytes, but only {len(self.content) - self.at} are left")
        self.push(self.text(self.at + size, "utf-8"))

    def make_tuple(self, values: list[Any]) -> None:
        """A short tuple of values and of flat tuples: what an array's description needs."""
        if len(values) > _LONGEST_TUPLE:
            raise _Refused(f"it has a tuple of {len(values)} values; a batch's tuples are short")
        for value in values:
            if isinstance(value, (list, dict)) or (isinstance(value, tuple) and any(type(v) is tuple for v in value)):
                raise _Refused("it nests lists and tuples deeper than a batch does")
        self.push(tuple(values))

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise _Refused(f"it appends to {_kind(target)}")
        for value in values:
            if not isinstance(value, _SCALARS):
                raise _Refused(f"it puts {_kind(value)} into a list; a batch's lists hold numbers and text")
        target.extend(values)

    def make_list(self) -> None:
        values = self.since_mark()
        self.push([])
        self.extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict):
            raise _Refused(f"it sets items of {_kind(target)}")
        if len(values) % 2:
            raise _Refused("it sets a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, bytes)):
                raise _Refused(f"it has {_kind(key)} as a key; a batch's keys are names")
            if isinstance(value, dict):
                raise _Refused("it has a dictionary in a dictionary")
            target[key] = value

    def make_dict(self) -> None:
        values = self.since_mark()
        self.push({})
        self.update(values)

    def append(self) -> None:
        value = self.pop()
        self.extend([value])

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.update([key, value])

    def name(self, module: str, word: str) -> None:
        full = f"{module} {word}"
        if full not in _NAMES:
            shown = ascii(f"{module}.{word}")[1:-1][:80]
            raise _Refused(f"it asks for {shown}, which data never need")
        self.push(_NAMES[full])

    def global_lines(self) -> None:
        module, word = self.line(), self.line()
        self.name(module.decode("latin1"), word.decode("latin1"))

    def global_stacked(self) -> None:
        word, module = self.pop(), self.pop()
        if not isinstance(word, str) or not isinstance(module, str):
            raise _Refused("it asks for a name that is no text")
        self.name(module, word)

    def call(self) -> None:
        """A "call" of one of the six names: what it would give is made here."""
        given, what = self.pop(), self.pop()
        if not isinstance(what, _Name) or not isinstance(given, tuple):
            raise _Refused(f"it calls {_kind(what)}")
        match what, given:
            case _Name.SHELL, (_Name.ARRAY, (0,), _):
                self.push(_Array())
            case _Name.DTYPE, (str() | bytes() as code, bool() | 0 | 1, bool() | 0 | 1):
                self.push(_dtype(_text(code)))
            case _Name.FROM_BYTES, (payload, dtype, shape, "C" | "F" as order):
                self.push(_Array(_array(shape, dtype, order, payload)))
            case _Name.ENCODE, (_LongText(content), "latin1" | "latin-1"):
                self.push(content)
            case _Name.ENCODE, (str() as text, "latin1" | "latin-1"):
                self.encoded += len(text)
                if self.encoded > len(self.content):
                    raise _Refused("it makes more bytes of a text than the file has")
                self.push(text.encode("latin1"))
            case _Name.BYTES, ():
                self.push(b"")
            case _:
                raise _Refused(f"it calls {what.value} with arguments that no batch has")

    def build(self) -> None:
        """What an array or a dtype is filled with."""
        state = self.pop()
        match self.top(), state:
            case _Dtype() as dtype, (3, str() | bytes() as order, None, None, None, -1, -1, 0):
                if _text(order) not in tuple("<>|="):
                    raise _Refused(f"it has a dtype with the byte order {_text(order)[:20]!r}")
                dtype.order = _text(order)
            case _Array(None) as array, (1, shape, dtype, bool() | 0 | 1 as columns, payload):
                array.value = _array(shape, dtype, "F" if columns else "C", payload)
            case target, _:
                raise _Refused(f"it changes {_kind(target)} in a way that no batch does")


def _dtype(code: str) -> _Dtype:
    if code not in _DTYPES:
        raise _Refused(f"it has an array of dtype {code[:40]!r}; a batch's arrays hold plain numbers")
    return _Dtype(code)


def _array(shape: Any, dtype: Any, order: Any, payload: Any) -> np.ndarray:
    """The array over `payload` itself, not a copy: hence it is for reading only."""
    if not isinstance(dtype, _Dtype) or not isinstance(payload, bytes) or not isinstance(shape, tuple):
        raise _Refused("it describes an array in a way that no batch does")
    possible = all(type(side) is int and 0 <= side < 2**40 for side in shape) and len(shape) <= 8
    if not possible or math.prod(max(side, 1) for side in shape) >= 2**40:
        raise _Refused("it has an array of an impossible shape")
    kind = np.dtype((dtype.order if dtype.code[1] != "1" else "|") + dtype.code)
    wanted = math.prod(shape) * kind.itemsize
    if wanted != len(payload):
        raise _Refused(f"an array of shape {shape} has {wanted} bytes, but the file has {len(payload)} for it")
    return np.frombuffer(payload, kind).reshape(shape, order=order)


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"0": lambda m: m.pop(),
    b"1": _Machine.since_mark,
    b"2": lambda m: m.push(m.top()),
    # constants and numbers
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Machine.integer,
    b"L": lambda m: m.push(m.decimal(b"L")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    # bytes: those of Python 2, then those of Python 3
    b"S": _Machine.quoted,
    b"U": lambda m: m.push(m.take(m.number("B"))),
    b"T": lambda m: m.push(m.take(m.number("<I"))),
    b"C": lambda m: m.push(m.take(m.number("B"))),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"\x8e": lambda m: m.push(m.take(m.number("<Q"))),
    b"\x96": lambda m: m.push(m.take(m.number("<Q"))),
    # text
    b"V": _Machine.unicode_line,
    b"\x8c": lambda m: m.counted_text("B"),
    b"X": lambda m: m.counted_text("<I"),
    b"\x8d": lambda m: m.counted_text("<Q"),
    # what holds others
    b")": lambda m: m.make_tuple([]),
    b"\x85": lambda m: m.make_tuple([m.pop()]),
    b"\x86": lambda m: m.make_tuple([m.pop(), m.pop()][::-1]),
    b"\x87": lambda m: m.make_tuple([m.pop(), m.pop(), m.pop()][::-1]),
    b"t": lambda m: m.make_tuple(m.since_mark()),
    b"]": lambda m: m.push([]),
    b"l": _Machine.make_list,
    b"a": _Machine.append,
    b"e": lambda m: m.extend(m.since_mark()),
    b"}": lambda m: m.push({}),
    b"d": _Machine.make_dict,
    b"s": _Machine.set_item,
    b"u": lambda m: m.update(m.since_mark()),
    # the memo
    b"p": lambda m: m.remember(m.decimal()),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(m.decimal()),
    b"h": lambda m: m.recall(m.number("B")),
    b"j": lambda m: m.recall(m.number("<I")),
    # arrays
    b"c": _Machine.global_lines,
    b"\x93": _Machine.global_stacked,
    b"R": _Machine.call,
    b"b": _Machine.build,
}
_RUNNING = {
    b"i": "INST",
    b"o": "OBJ",
    b"\x81": "NEWOBJ",
    b"\x92": "NEWOBJ_EX",
    b"\x82": "EXT1",
    b"\x83": "EXT2",
    b"\x84": "EXT4",
    b"P": "PERSID",
    b"Q": "BINPERSID",
    b"\x97": "NEXT_BUFFER",
    b"\x98": "READONLY_BUFFER",
}
