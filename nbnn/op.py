"""What an op is: the base class of all ops, and the few words in which an op speaks of its arrays and kernel calls.

An operand of a call is a number, or the name of an array as seen from the node:

    x, y, dx, dy     the input, the output, their gradients (x0, x1 ... where an op has several inputs)
    w, dw, mean ...  a parameter, its gradient, a state or a scratch array of the op

A form around a name asks for another view of the same memory: `padded("x", 1)` with a frame of one zero, `rows("y")` as
one row per example, `flat("dw")` as one run of numbers, `every("mean")` the same row for each example.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

Shape = tuple[int, ...]
Kind = TypeVar("Kind", bound="Op")
MAX_SIZE = 2**48  # no dimension, stride or count beyond this is meant seriously


class Form(NamedTuple):
    """An operand that is another view of a named array."""

    kind: str
    name: str
    settings: tuple = ()


class Call(NamedTuple):
    """One kernel call: the kernel's name and its operands in order. With fewer than `least` examples at a time it would
    read its weights too often."""

    kernel: str
    operands: tuple
    least: int = 1

    def renamed(self, words: Mapping[str, str]) -> Call:
        """The call with its names looked up; numbers and runtime values stay."""

        def one(operand: object) -> object:
            if isinstance(operand, Form) and operand.kind != "value":
                return operand._replace(name=words.get(operand.name, operand.name))
            return words.get(operand, operand) if isinstance(operand, str) else operand

        return self._replace(operands=tuple(map(one, self.operands)))


class Array(NamedTuple):
    """An array that belongs to a node. `memory` is its shape as the kernels see it; the last axis gets room for whole
    registers.

    `axes` turns memory into the shape that people know, after `merged` leading axes have been made one. `decay` says
    that L2 and weight decay apply. A first dimension "n" is the minibatch, "workers" gives each thread room of its own
    during one call, and "slots" is the number of partial sums: at most `slots`, each of at least `share` examples.
    `apart` keeps outer steps off multiples of 1 KiB.
    """

    memory: tuple
    axes: tuple[int, ...] | None = None
    merged: int = 0
    decay: bool = False
    fan: tuple[float, float] = (0.0, 0.0)
    init: str = "zeros"
    slots: int = 16
    share: int = 1
    apart: bool = False

    @property
    def shape(self) -> Shape:
        """The shape that people know."""
        shape = self.memory
        if self.merged:
            shape = (math.prod(shape[: self.merged]), *shape[self.merged :])
        return tuple(shape[a] for a in self.axes) if self.axes else shape


def call(kernel: str, *operands: Any, least: int = 1) -> Call:
    return Call(kernel, operands, least)


def padded(name: str, pad: int) -> Form | str:
    return Form("padded", name, (pad,)) if pad else name


def rows(name: str) -> Form:
    return Form("rows", name)


def flat(name: str) -> Form:
    return Form("flat", name)


def every(name: str) -> Form:
    return Form("every", name)


def is_real(value: Any) -> bool:
    """Whether it is a number of any kind, NumPy's among them; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def real(value: Any) -> float:
    """A number as a float; NaN where it is none, or an int beyond all floats."""
    with contextlib.suppress(OverflowError):
        return float(value) if is_real(value) else math.nan
    return math.nan


def whole(value: Any) -> int:
    """A whole number as an int: 3, 3.0 and NumPy's integers; anything else is an error."""
    if is_real(value):
        with contextlib.suppress(OverflowError, ValueError):  # infinity and NaN
            if int(value) == value:
                return int(value)
    raise ValueError(f"{shown(value)} is not a whole number")


def shown(value: Any) -> str:
    """What was given, for a sentence: one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split("\n"))
    except ValueError:  # Python writes no number of more than 4300 digits
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def need_picture(op: Op, shape: Shape) -> Shape:
    """The shape, refused unless it is that of a picture."""
    if len(shape) != 3:
        op.refuse(
            f"{type(op).__name__} reads pictures (channels, height, width), got the vector {shape}; "
            "put it before Affine, Flatten and GlobalAvgPool, or give the graph pictures as input"
        )
    return shape


def picture(shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of a picture, or of a vector seen as a picture of one place."""
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])


# Scratch of these names, a number for each example: what it adds to the gradient of the op's `w` is no longer than
# their product.
LENGTHS = ("length_x", "length_dy")


@dataclass(frozen=True)
class Op:
    """The base of every op: a name and the names of its inputs, both optional."""

    name: str | None = dataclasses.field(default=None, kw_only=True)
    inputs: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)

    several: ClassVar[bool] = False  # takes two or more inputs
    passes: ClassVar[bool] = False  # outside training its output is its input
    merged: ClassVar[bool] = False  # so it is in training
    takes_vectors: ClassVar[bool] = False  # a picture is to it the vector (channel, row, column)
    dense_input: ClassVar[bool] = (
        False  # reads its input one number at a time, so the input needs no room behind its channels
    )
    label: ClassVar[str] = ""  # automatic names begin with it

    def __post_init__(self) -> None:
        if isinstance(self.inputs, str):
            object.__setattr__(self, "inputs", (self.inputs,))
        elif self.inputs is not None:
            names = tuple(self.inputs) if isinstance(self.inputs, Iterable) else (None,)
            if not all(isinstance(name, str) for name in names):
                self.refuse(f"inputs must be names of nodes, such as ('conv1', 'bn2'), got {shown(self.inputs)}")
            object.__setattr__(self, "inputs", names)
        self.check()

    def check(self) -> None:
        """Refuse impossible settings."""

    def refuse(self, sentence: str) -> None:
        raise ValueError(f"{self.name or type(self).__name__}: {sentence}")

    def set_whole(self, field: str, least: int) -> None:
        """Hold a setting to a whole number of at least `least`."""
        value = getattr(self, field)
        try:
            number = whole(value)
        except ValueError:
            number = -1
        if not least <= number <= MAX_SIZE:
            wanted = f"a whole number of at least {least}" if number < least else "at most 2**48"
            self.refuse(f"{field} must be {wanted}, got {shown(value)}")
        object.__setattr__(self, field, number)

    def set_window(self, field: str) -> None:
        """Hold a setting to the side of a square window, or to the (height, width) of one that is not square."""
        value = getattr(self, field)
        pair = isinstance(value, (tuple, list))
        try:
            window = tuple(whole(side) for side in (value if pair else (value, value)))
        except ValueError:
            window = ()
        if len(window) != 2 or not all(1 <= side <= MAX_SIZE for side in window):
            self.refuse(
                f"{field} must be a whole number from 1 to 2**48, or two of them (height, width), got {shown(value)}"
            )
        object.__setattr__(self, field, window if window[0] != window[1] else window[0])

    def set_share(self, field: str, low: float, high: float) -> None:
        """Hold a setting to a number from low to high."""
        value = getattr(self, field)
        if not is_real(value) or not low <= value <= high:
            self.refuse(f"{field} must be a number from {low:g} to {high:g}, got {shown(value)}")
        object.__setattr__(self, field, float(value))

    def one_of(self, field: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if not isinstance(value, str) or value not in allowed:
            self.refuse(f"{field} must be one of {', '.join(map(repr, allowed))}, got {shown(value)}")

    def settings(self) -> dict[str, Any]:
        """The settings that are not at their default, name and inputs left out, in the order of the constructor."""
        found = {}
        for field in sorted(dataclasses.fields(self), key=lambda field: bool(field.kw_only)):
            value = getattr(self, field.name)
            if field.name not in ("name", "inputs") and value != field.default:
                found[field.name] = value
        return found

    def __str__(self) -> str:
        return self.written(self.settings())

    def written(self, settings: Mapping[str, Any]) -> str:
        """The op as Python text, with these settings."""
        positional = [f.name for f in dataclasses.fields(self) if f.default is dataclasses.MISSING]
        words = [f"{v!r}" if k in positional else f"{k}={v!r}" for k, v in settings.items()]
        return f"{type(self).__name__}({', '.join(words)})"

    def become(self, kind: type[Kind]) -> Kind:
        """The same settings, name and inputs as an op of another kind."""
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init})

    # what an op says about itself; `shapes` are those of its inputs

    def chosen(self, *shapes: Shape) -> Op:
        """The op that stands for this one in a compiled step: itself, or one that does the same by faster kernels."""
        return self

    def shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def params(self, *shapes: Shape) -> dict[str, Array]:
        return {}

    def state(self, *shapes: Shape) -> dict[str, Array]:
        return {}

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        return {}

    def multiply_adds(self, *shapes: Shape) -> int:
        """Of one example, forward."""
        return 0

    def forward(self, *shapes: Shape) -> list[Call]:
        raise NotImplementedError

    def inference(self, *shapes: Shape) -> list[Call]:
        """The forward pass outside training."""
        return self.forward(*shapes)

    def backward_params(self, *shapes: Shape) -> list[Call]:
        """Gradients of the parameters, and whatever `backward_input` needs of them."""
        return []

    def backward_input(self, *shapes: Shape) -> list[Call]:
        raise NotImplementedError
