"""Every op: its settings, its equation, its shape rule, its parameters, and the kernels that it calls.

An op is one class. To add one, read `MaxPool` below: `shape` says what comes out of what goes in and refuses in a plain
sentence; `params` and `state` name arrays that outlive a step, `scratch` those that do not; `forward`,
`backward_params` and `backward_input` list kernel calls in the words of `nbnn/op.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nbnn.kernels.constants import BYTE_PLACES, WHOLE_TILES
from nbnn.op import (
    LENGTHS,
    MAX_SIZE,
    Array,
    Call,
    Form,
    Op,
    Shape,
    call,
    every,
    flat,
    need_picture,
    padded,
    picture,
    rows,
    shown,
)
from nbnn.words import times


def slide(op: Conv | _Pool, sides: Sequence[int], reach: Sequence[int], hop: int, most: int) -> list[int]:
    """The places that a window of `reach` has along each side; `most` is the largest pad that the op may have."""
    out = [(side + 2 * op.pad - length) // hop + 1 for side, length in zip(sides, reach, strict=True)]
    if min(out) < 1:
        needed = op.pad + max(-(-(r - s - 2 * op.pad) // 2) for r, s in zip(reach, sides, strict=True))
        op.refuse(
            f"a {times(reach, 'x')} window does not fit its {times(sides, 'x')} input"
            + (f" padded by {op.pad}" if op.pad else "")
            + (f"; pad it by at least {needed} or" if needed <= most else ";")
            + " make the window smaller"
        )
    return out


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """The height and width of a window."""
    return size if isinstance(size, tuple) else (size, size)


NARROW = 8  # channels that leave half of the widest register empty
MOST_COLUMNS = 1 << 15  # numbers that a worker holds on the way back to so few: a part of a second-level cache
PLANES = 4  # channels of pictures that an affine reads plane by plane
LARGE = 64  # weights of an affine for each of its inputs and units, from which their gradient is not looked at
HELD = (128, 4 * WHOLE_TILES)  # examples and features of a block of x: 48 KiB in float32
LEAST_ROWS = 2 * WHOLE_TILES  # a few tiles, which read the same panel of the weights
INITS = ("he", "xavier", "normal", "zeros", "dirac")


@dataclass(frozen=True)
class _Weighted(Op):
    """What ops with a weight matrix share: how the weights begin."""

    bias: bool = dataclasses.field(default=True, kw_only=True)
    init: str = dataclasses.field(default="he", kw_only=True)
    scale: float = dataclasses.field(default=0.01, kw_only=True)

    dense_input: ClassVar[bool] = True

    def check(self) -> None:
        if not isinstance(self.bias, bool):
            self.refuse(f"bias must be True or False, got {shown(self.bias)}")
        self.one_of("init", INITS)
        self.set_share("scale", 0.0, 1e6)

    def bias_params(self, units: int) -> dict[str, Array]:
        return {"b": Array((units,))} if self.bias else {}

    def bias_scratch(self, units: int) -> dict[str, Array]:
        return {} if self.bias else {"b": Array((units,))}  # zeros that nobody writes to


@dataclass(frozen=True)
class Conv(_Weighted):
    """y[n, f, i, j] = b[f] + sum over c, u, v of w[f, c, u, v] * x[n, c, i*stride + u*dilation - pad, j*stride +
    v*dilation - pad]"""

    filters: int
    size: int | tuple[int, int]
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1

    label: ClassVar[str] = "conv"

    @property
    def expands(self) -> bool:
        """Whether its weights are written out with zeros between the groups, as if there were none."""
        return self.groups > 1

    def check(self) -> None:
        super().check()
        self.set_whole("filters", 1)
        self.set_window("size")
        self.set_whole("stride", 1)
        self.set_whole("pad", 0)
        self.set_whole("dilation", 1)
        self.set_whole("groups", 1)
        if self.filters % self.groups:
            self.refuse(
                f"{self.filters} filters do not divide into {self.groups} groups; make filters a multiple of groups"
            )

    @property
    def window(self) -> tuple[int, int]:
        return sides_of(self.size)

    def shape(self, *shapes: Shape) -> Shape:
        channels, *sides = need_picture(self, shapes[0])
        if channels % self.groups:
            self.refuse(f"{channels} channels do not divide into {self.groups} groups; choose groups that divide them")
        reach = [(size - 1) * self.dilation + 1 for size in self.window]
        return (self.filters, *slide(self, sides, reach, self.stride, MAX_SIZE))

    def params(self, *shapes: Shape) -> dict[str, Array]:
        channels = shapes[0][0] // self.groups
        cells = math.prod(self.window)
        fan = (channels * cells, self.filters // self.groups * cells)
        w = Array((*self.window, channels, self.filters), (3, 2, 0, 1), decay=True, fan=fan, init=self.init)
        return {"w": w, **self.bias_params(self.filters)}

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        channels = shapes[0][0]
        found = {
            "turned": Array((*self.window, self.filters, channels)),
            "turned_narrow": Array((self.window[0], self.filters, self.window[1] * channels)),
            "columns": Array(("workers", *self._columns(*shapes))),
            "parts_w": Array(("slots", *self.window, channels, self.filters)),
            "parts_b": Array(("slots", self.filters)),
            **self.bias_scratch(self.filters),
        }
        if self.expands:
            found |= {
                "dense": Array((*self.window, channels, self.filters)),
                "ddense": Array((*self.window, channels, self.filters)),
            }
        return found

    def frame(self, *shapes: Shape) -> int:
        """How many zeros around dy the way back to the input reads."""
        out, frames = self.shape(*shapes), [0]
        for side, size, length in zip(shapes[0][1:], self.window, out[1:], strict=True):
            reach = (size - 1) * self.dilation
            frames += [-(-(reach - self.pad) // self.stride), (side - 1 + self.pad) // self.stride - (length - 1)]
        return max(frames)

    def _columns(self, *shapes: Shape) -> tuple[int, int]:
        """What a worker holds on the way back to few channels: rows of dy with their frames, some tiles' worth of
        them, each place with a row of the window and, behind its last channels, a whole register."""
        (_, height, width), frame = self.shape(*shapes), self.frame(*shapes)
        together = max(1, min(height, 2 * WHOLE_TILES // width))
        return together * (width + frame) + frame, (self.window[1] - 1) * shapes[0][0] + 16

    def multiply_adds(self, *shapes: Shape) -> int:
        return math.prod(self.shape(*shapes)) * math.prod(self.window) * shapes[0][0] // self.groups

    def forward(self, *shapes: Shape) -> list[Call]:
        expand = [call("expand_groups", "w", self.groups, "dense")] if self.expands else []
        return [
            *expand,
            call("conv_forward", padded("x", self.pad), self._weights(), "b", self.stride, self.dilation, "y"),
        ]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        whole_dw = "ddense" if self.expands else "dw"
        calls = [
            call(
                "conv_backward_weights", padded("x", self.pad), "dy", self.stride, self.dilation, "parts_w", "parts_b"
            ),
            call("add_slots", flat("parts_w"), flat(whole_dw)),
        ]
        if self.expands:
            calls.append(call("collect_groups", whole_dw, self.groups, "dw"))
        if self.bias:
            calls.append(call("add_slots", "parts_b", "db"))
        return calls

    def backward_input(self, *shapes: Shape) -> list[Call]:
        frame = self.frame(*shapes)
        settings = (self.stride, self.dilation, self.pad, frame)
        if shapes[0][0] <= NARROW and math.prod(self._columns(*shapes)) <= MOST_COLUMNS:
            return [
                call("turn", Form("lines", self._weights()), "turned_narrow"),
                call("conv_backward_data_narrow", "dy", "turned_narrow", *settings, "dx", "columns"),
            ]
        return [
            call("turn", Form("cells", self._weights()), Form("cells", "turned")),
            call("conv_backward_data", padded("dy", frame), "turned", *settings, "dx"),
        ]

    def _weights(self) -> str:
        return "dense" if self.expands else "w"

    def chosen(self, *shapes: Shape) -> Op:
        from nbnn.depthwise import DepthwiseConv
        from nbnn.halves import HalvedConv
        from nbnn.plane import PlaneConv
        from nbnn.winograd import WinogradConv

        found = (kind.of(self, *shapes) for kind in (WinogradConv, HalvedConv, PlaneConv, DepthwiseConv))
        return next(filter(None, found), self)


@dataclass(frozen=True)
class Affine(_Weighted):
    """y[n, m] = b[m] + sum over d of x[n, d] * w[d, m]; a picture is read as a vector in the order channel, row,
    column"""

    units: int

    label: ClassVar[str] = "affine"
    takes_vectors: ClassVar[bool] = True

    def check(self) -> None:
        super().check()
        self.set_whole("units", 1)

    def shape(self, *shapes: Shape) -> Shape:
        return (self.units,)

    def params(self, *shapes: Shape) -> dict[str, Array]:
        # kept as (channels, height, width, units), so that its first three axes are the D of people's (D, M)
        w = Array(
            (*picture(shapes[0]), self.units),
            merged=3,
            decay=True,
            fan=(math.prod(shapes[0]), self.units),
            init=self.init,
        )
        return {"w": w, **self.bias_params(self.units)}

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        channels, height, width = picture(shapes[0])
        found = {
            "turned": Array((height * width, self.units, channels)),
            "held": Array(("workers", *HELD)),
            **self.bias_scratch(self.units),
        }
        if height * width > 1:
            found["ordered"] = Array((height, width, channels, self.units))
        if self._large(*shapes):
            found |= {name: Array(("n",)) for name in LENGTHS}
        return found

    def multiply_adds(self, *shapes: Shape) -> int:
        return math.prod(shapes[0]) * self.units

    def forward(self, *shapes: Shape) -> list[Call]:
        length = [call("lengths", "x", LENGTHS[0])] if self._large(*shapes) else []
        return [*length, *self.inference(*shapes)]

    def inference(self, *shapes: Shape) -> list[Call]:
        last = ("b", rows("y"))
        if self._vector(*shapes):
            return [call("affine_forward", "x", Form("places", "w"), *last, least=LEAST_ROWS)]
        if shapes[0][0] <= PLANES:
            return [call("affine_forward", Form("planes", "x"), "w", *last, least=LEAST_ROWS)]
        return [self._order(), call("affine_forward", "x", "ordered", *last, least=LEAST_ROWS)]

    def _large(self, *shapes: Shape) -> bool:
        """Whether there are many more weights than numbers of an example on both sides, so that a bound is worth its
        while: it spares `update` the blocks of memory that hold nothing else."""
        features = math.prod(shapes[0])
        return features * self.units >= LARGE * (features + self.units)

    @staticmethod
    def _vector(*shapes: Shape) -> bool:
        return math.prod(shapes[0][1:]) == 1

    @staticmethod
    def _order() -> Call:
        """The weights in the order of x. A picture of few channels is read plane by plane instead, as the weights lie;
        with many, each of its cache lines would be read as often as it has numbers."""
        return call("copy_rows", Form("places", "w"), "ordered")

    def backward_params(self, *shapes: Shape) -> list[Call]:
        features = math.prod(shapes[0])
        calls = [call("affine_backward_weights", "x", rows("dy"), features, Form("places", "dw"), "held")]
        calls += [call("add_slots", rows("dy"), "db")] if self.bias else []
        return [*([call("lengths", "dy", LENGTHS[1])] if self._large(*shapes) else []), *calls]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        data = call("affine_backward_data", rows("dy"), "turned", "dx", least=LEAST_ROWS)
        if self._vector(*shapes):
            return [call("turn", Form("matrix", "w"), "turned"), data]
        order = [self._order()] if shapes[0][0] <= PLANES else []  # else the forward pass has done it
        return [*order, call("turn", Form("cells", "ordered"), "turned"), data]


@dataclass(frozen=True)
class _Pool(Op):
    size: int | tuple[int, int]
    stride: int | None = None
    pad: int = 0

    def check(self) -> None:
        self.set_window("size")
        if self.stride is not None:
            self.set_whole("stride", 1)
        elif isinstance(self.size, tuple):
            self.refuse(f"a {times(self.size, 'x')} window needs a stride: only a square one has its own side for it")
        self.set_whole("pad", 0)
        if 2 * self.pad > min(self.window):
            self.refuse(
                f"pad must be at most {min(self.window) // 2}, half of the window, got {self.pad}; "
                "a larger one leaves windows wholly outside"
            )

    @property
    def window(self) -> tuple[int, int]:
        return sides_of(self.size)

    @property
    def hop(self) -> int:
        return self.window[0] if self.stride is None else self.stride

    def shape(self, *shapes: Shape) -> Shape:
        channels, *sides = need_picture(self, shapes[0])
        return (channels, *slide(self, sides, self.window, self.hop, min(self.window) // 2))


@dataclass(frozen=True)
class MaxPool(_Pool):
    """y[n, c, i, j] = max over u, v of x[n, c, i*stride + u - pad, j*stride + v - pad]; a tie goes to the first"""

    label: ClassVar[str] = "pool"
    rectify: ClassVar[int] = 0  # 1: a relu is part of it

    def check(self) -> None:
        super().check()
        if math.prod(self.window) > 2**24:
            self.refuse(f"a window has at most 2**24 places, got {times(self.window, 'x')}")

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        channels, height, width = self.shape(*shapes)
        room = -(-channels // 4) if math.prod(self.window) <= BYTE_PLACES else channels  # float32 has room for 4 bytes
        return {"places": Array(("n", height, width, room))}

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("max_pool_forward", "x", *self.window, self.hop, self.pad, self.rectify, "y", "places")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("max_pool_backward", "places", "dy", *self.window, self.hop, self.pad, "dx")]


@dataclass(frozen=True)
class AvgPool(_Pool):
    """y[n, c, i, j] = mean over u, v of x[n, c, i*stride + u - pad, j*stride + v - pad]; padding counts as zeros"""

    label: ClassVar[str] = "pool"

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("avg_pool_forward", "x", *self.window, self.hop, self.pad, "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("avg_pool_backward", "dy", *self.window, self.hop, self.pad, "dx")]


@dataclass(frozen=True)
class GlobalAvgPool(Op):
    """y[n, c] = mean over i, j of x[n, c, i, j]"""

    label: ClassVar[str] = "pool"

    def shape(self, *shapes: Shape) -> Shape:
        return need_picture(self, shapes[0])[:1]

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("global_avg_pool_forward", "x", "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("global_avg_pool_backward", "dy", "dx")]


@dataclass(frozen=True)
class _Norm(Op):
    eps: float = dataclasses.field(default=1e-5, kw_only=True)

    rectify: ClassVar[int] = 0  # 1: a relu is part of it

    def check(self) -> None:
        self.set_share("eps", 1e-12, 1.0)

    def params(self, *shapes: Shape) -> dict[str, Array]:
        channels = shapes[0][0]
        return {"gamma": Array((channels,), init="ones"), "beta": Array((channels,))}

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        each = Array(("n", shapes[0][0]))
        return {"means": each, "spreads": each, "sum_dy": each, "sum_dy_xhat": each}

    def backward_params(self, *shapes: Shape) -> list[Call]:
        return [
            call("norm_sums", "x", "dy", *self._figures(), self.rectify, "sum_dy", "sum_dy_xhat"),
            call("affine_gradients", "sum_dy", "sum_dy_xhat", "gamma", "dgamma", "dbeta"),
        ]

    def _seen(self, name: str) -> str | Form:
        return name

    def _figures(self) -> tuple[str | Form, ...]:
        return self._seen("centre"), self._seen("scale"), "gamma", "beta"

    def _normalise(self) -> Call:
        return call("norm_forward", "x", *self._figures(), self.rectify, "y")

    def _finish(self) -> Call:
        means = self._seen("mean_g"), self._seen("mean_g_xhat")
        return call("norm_backward", "x", "dy", *self._figures(), *means, self.rectify, "dx")


@dataclass(frozen=True)
class BatchNorm(_Norm):
    """y = gamma[c] * (x - mean[c]) / sqrt(var[c] + eps) + beta[c], mean and biased variance over examples and places;
    mean and var of the state follow as momentum * old + (1 - momentum) * new and serve outside training; a minibatch
    that is not finite leaves them alone, and a single value has the variance 0, so y = beta"""

    momentum: float = 0.9  # the share of the old figures that is kept

    label: ClassVar[str] = "bn"

    def check(self) -> None:
        super().check()
        self.set_share("momentum", 0.0, 1.0)

    def state(self, *shapes: Shape) -> dict[str, Array]:
        return {"mean": Array((shapes[0][0],)), "var": Array((shapes[0][0],), init="ones")}

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        one = Array((shapes[0][0],))
        return {**super().scratch(*shapes), "centre": one, "scale": one, "mean_g": one, "mean_g_xhat": one}

    def _seen(self, name: str) -> Form:
        return every(name)

    def forward(self, *shapes: Shape) -> list[Call]:
        places = math.prod(shapes[0][1:])
        settings = (places, self.eps, self.momentum, "mean", "var", "centre", "scale")
        if places == 1:  # one number is its own mean, and its spread stays the zero that it begins with
            return [call("batch_statistics", rows("x"), "spreads", *settings), self._normalise()]
        moments = call("channel_moments", "x", "means", "spreads")
        return [moments, call("batch_statistics", "means", "spreads", *settings), self._normalise()]

    def inference(self, *shapes: Shape) -> list[Call]:
        return [
            call("running_statistics", "mean", "var", self.eps, "centre", "scale"),
            self._normalise(),
        ]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        count = Form("count", "y", (math.prod(shapes[0][1:]),))
        return [call("batch_gradients", "dgamma", "dbeta", "gamma", count, "mean_g", "mean_g_xhat"), self._finish()]


@dataclass(frozen=True)
class GroupNorm(_Norm):
    """y = gamma[c] * (x - mean) / sqrt(var + eps) + beta[c], mean and variance over one group of channels of one
    example"""

    groups: int

    label: ClassVar[str] = "gn"

    def check(self) -> None:
        super().check()
        self.set_whole("groups", 1)

    def shape(self, *shapes: Shape) -> Shape:
        if shapes[0][0] % self.groups:
            self.refuse(
                f"{shapes[0][0]} channels do not divide into {self.groups} groups; choose groups that divide them"
            )
        return shapes[0]

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        each = Array(("n", shapes[0][0]))
        return {**super().scratch(*shapes), "centre": each, "scale": each, "mean_g": each, "mean_g_xhat": each}

    def forward(self, *shapes: Shape) -> list[Call]:
        places = math.prod(shapes[0][1:])
        return [
            call("channel_moments", "x", "means", "spreads"),
            call("group_statistics", "means", "spreads", places, self.groups, self.eps, "centre", "scale"),
            self._normalise(),
        ]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        places = math.prod(shapes[0][1:])
        return [
            call("group_gradients", "sum_dy", "sum_dy_xhat", "gamma", places, self.groups, "mean_g", "mean_g_xhat"),
            self._finish(),
        ]


@dataclass(frozen=True)
class LayerNorm(GroupNorm):
    """y = gamma[c] * (x - mean) / sqrt(var + eps) + beta[c], mean and variance over all of one example"""

    groups: int = dataclasses.field(default=1, init=False)

    label: ClassVar[str] = "ln"


@dataclass(frozen=True)
class Dropout(Op):
    """y = x / (1 - p) with probability 1 - p, else 0; outside training y = x. p is the probability of dropping"""

    p: float

    label: ClassVar[str] = "dropout"
    passes: ClassVar[bool] = True

    def check(self) -> None:
        self.set_share("p", 0.0, 1.0)

    def forward(self, *shapes: Shape) -> list[Call]:
        return [self._call("x", "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [self._call("dy", "dx")]

    def _call(self, source: str, target: str) -> Call:
        return call(
            "dropout", source, self.p, Form("value", "seed"), Form("value", "step"), Form("value", "node"), target
        )


@dataclass(frozen=True)
class Augment(Op):
    """y[n, c, i, j] = x[n, c, i + a, j' + b]: each picture moved by random a and b from -shift to shift, zeros coming
    in, and with `flip` mirrored (j' = W - 1 - j) half of the time; outside training y = x"""

    shift: int = 4
    flip: bool = True

    label: ClassVar[str] = "augment"
    passes: ClassVar[bool] = True

    def check(self) -> None:
        self.set_whole("shift", 0)
        if not isinstance(self.flip, bool):
            self.refuse(f"flip must be True or False, got {shown(self.flip)}")

    def shape(self, *shapes: Shape) -> Shape:
        _, height, width = need_picture(self, shapes[0])
        if self.shift >= min(height, width):
            self.refuse(f"shift must be smaller than both sides of its {height}x{width} input, got {self.shift}")
        return shapes[0]

    def forward(self, *shapes: Shape) -> list[Call]:
        return [self._call("x", 0, "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [self._call("dy", 1, "dx")]

    def _call(self, source: str, back: int, target: str) -> Call:
        keys = (Form("value", word) for word in ("seed", "step", "node"))
        return call("augment", source, self.shift, int(self.flip), back, *keys, target)


@dataclass(frozen=True)
class Identity(Op):
    """y = x"""

    label: ClassVar[str] = "identity"
    passes: ClassVar[bool] = True

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("copy", "x", "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("copy", "dy", "dx")]


@dataclass(frozen=True)
class _Elementwise(Op):
    """y = f(x); the kernels are <label>_forward(x, [setting,] y) and <label>_backward(x or y, dy, [setting,] dx)."""

    kernel: ClassVar[str] = ""
    slope_of: ClassVar[str] = "x"  # whether the derivative is taken from the input or the output

    def extra(self) -> tuple:
        return ()

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call(f"{self.kernel}_forward", "x", *self.extra(), "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call(f"{self.kernel}_backward", self.slope_of, "dy", *self.extra(), "dx")]


@dataclass(frozen=True)
class ReLU(_Elementwise):
    """y = max(x, 0)"""

    label: ClassVar[str] = "relu"
    kernel: ClassVar[str] = "relu"
    slope_of: ClassVar[str] = "y"


@dataclass(frozen=True)
class LeakyReLU(_Elementwise):
    """y = x where x > 0, else slope * x"""

    slope: float = 0.01

    label: ClassVar[str] = "relu"
    kernel: ClassVar[str] = "leaky_relu"

    def check(self) -> None:
        self.set_share("slope", 0.0, 1.0)

    def extra(self) -> tuple:
        return (self.slope,)


@dataclass(frozen=True)
class Sigmoid(_Elementwise):
    """y = 1 / (1 + exp(-x))"""

    label: ClassVar[str] = "sigmoid"
    kernel: ClassVar[str] = "sigmoid"
    slope_of: ClassVar[str] = "y"


@dataclass(frozen=True)
class Tanh(_Elementwise):
    """y = tanh(x)"""

    label: ClassVar[str] = "tanh"
    kernel: ClassVar[str] = "tanh"
    slope_of: ClassVar[str] = "y"


@dataclass(frozen=True)
class GELU(_Elementwise):
    """y = x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3)))"""

    label: ClassVar[str] = "gelu"
    kernel: ClassVar[str] = "gelu"


@dataclass(frozen=True)
class SiLU(_Elementwise):
    """y = x / (1 + exp(-x))"""

    label: ClassVar[str] = "silu"
    kernel: ClassVar[str] = "silu"


@dataclass(frozen=True)
class Flatten(Op):
    """y[n, (c*H + i)*W + j] = x[n, c, i, j]"""

    label: ClassVar[str] = "flatten"
    takes_vectors: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("flatten_forward", "x", "y")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("flatten_backward", "dy", "dx")]


@dataclass(frozen=True)
class Scale(Op):
    """y[n, c, i, j] = gamma[c] * x[n, c, i, j]; gamma begins at `start`"""

    start: float = 1.0

    label: ClassVar[str] = "scale"

    def check(self) -> None:
        self.set_share("start", -1e6, 1e6)

    def params(self, *shapes: Shape) -> dict[str, Array]:
        return {"gamma": Array((shapes[0][0],), init=f"constant {self.start!r}")}

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        return {"parts": Array(("n", shapes[0][0]))}

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("scale_forward", "x", "gamma", "y")]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        return [call("scale_backward_weights", "x", "dy", "parts"), call("add_slots", "parts", "dgamma")]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("scale_forward", "dy", "gamma", "dx")]


@dataclass(frozen=True)
class Add(Op):
    """y = x0 + x1 + ..."""

    label: ClassVar[str] = "add"
    several: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        if len(set(shapes)) > 1:
            self.refuse(
                f"its inputs must have one shape, got {', '.join(map(str, shapes))}; "
                "bring them to one shape first, for instance with a Conv of size 1"
            )
        return shapes[0]

    def forward(self, *shapes: Shape) -> list[Call]:
        first = call("add_forward", "x0", "x1", "y")
        return [first, *(call("add_forward", "y", f"x{k}", "y") for k in range(2, len(shapes)))]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("copy", "dy", f"dx{k}") for k in range(len(shapes))]


@dataclass(frozen=True)
class Concat(Op):
    """y = the channels of x0, then those of x1, ..."""

    label: ClassVar[str] = "concat"
    several: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        if len({s[1:] for s in shapes}) > 1 or len({len(s) for s in shapes}) > 1:
            self.refuse(
                f"its inputs must have one height and width, got {', '.join(map(str, shapes))}; "
                "pool or pad some of them first, or Flatten all"
            )
        return (sum(s[0] for s in shapes), *shapes[0][1:])

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("copy_channels", f"x{k}", piece) for k, piece in self._pieces("y", shapes)]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        return [call("copy_channels", piece, f"dx{k}") for k, piece in self._pieces("dy", shapes)]

    @staticmethod
    def _pieces(name: str, shapes: tuple[Shape, ...]) -> list[tuple[int, Form]]:
        starts = itertools.accumulate((shape[0] for shape in shapes), initial=0)
        return [
            (k, Form("channels", name, (start, shape[0])))
            for k, (start, shape) in enumerate(zip(starts, shapes, strict=False))
        ]


OPS: dict[str, Callable[..., Op]] = {
    op.__name__: op
    for op in (
        Conv,
        Affine,
        MaxPool,
        AvgPool,
        GlobalAvgPool,
        BatchNorm,
        LayerNorm,
        GroupNorm,
        Dropout,
        Augment,
        ReLU,
        LeakyReLU,
        Sigmoid,
        Tanh,
        GELU,
        SiLU,
        Flatten,
        Add,
        Concat,
        Scale,
        Identity,
    )
}
