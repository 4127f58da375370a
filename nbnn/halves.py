"""Which convolutions go by halves, and what they call (the kernels are in `kernels/halves.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nbnn.kernels.constants import PARTS
from nbnn.op import Array, Call, Form, Shape, call, padded
from nbnn.ops import NARROW, Conv

FORWARD = "conv_forward_halves"
LEAST_WINDOW = 5  # sides below this leave sums that are too short
LEAST_SUM = 128  # and so do few channels: cells times channels of the window
NEAR = 3 << 15  # numbers of the parts of dy that a worker holds: three quarters of a second-level cache of 512 KiB


@dataclass(frozen=True)
class HalvedConv(Conv):
    """A Conv of stride 1, dilation 1 to pictures of even sides, by even and odd rows and columns"""

    dense_input: ClassVar[bool] = False

    @classmethod
    def of(cls, conv: Conv, *shapes: Shape) -> HalvedConv | None:
        """The convolution done this way, or None where that is impossible or would not pay."""
        if (conv.stride, conv.dilation, conv.groups) != (1, 1, 1) or min(conv.window) < LEAST_WINDOW:
            return None
        if math.prod(conv.window) * shapes[0][0] < LEAST_SUM:
            return None
        op = conv.become(cls)
        return None if any(side % 2 for side in op.shape(*shapes)[1:]) else op

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Halved')} by halves"

    def multiply_adds(self, *shapes: Shape) -> int:
        """The products that are left of them."""
        _, *sides = self.shape(*shapes)
        each = (side // 2 * (size + (size + 1) // 2) for side, size in zip(sides, self.window, strict=True))
        return math.prod(each) * shapes[0][0] * self.filters

    def _data_by_halves(self, *shapes: Shape) -> bool:
        """Whether the way back to the input is by halves, too."""
        channels, *sides = shapes[0]
        square = self.window[0] == self.window[1]
        return square and self.pad < self.window[0] and channels > NARROW and not any(side % 2 for side in sides)

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        channels, *sides = shapes[0]
        filters, (_, height, width) = self.filters, self.shape(*shapes)
        cells = math.prod((size + 1) // 2 for size in self.window)
        rows = max(1, min(height // 2, NEAR // (PARTS * width // 2 * filters)))

        def parts(columns: int, *of: int) -> Array:
            """Of a picture of so many channels; behind the last channel a whole register is written."""
            tall, wide = (side // 2 for side in of)
            return Array(("workers", PARTS, tall, wide * columns + 16), apart=True)

        framed = [side + size - 1 for side, size in zip(sides, self.window, strict=True)]
        return {
            **super().scratch(*shapes),
            "pieces": Array((PARTS, cells * channels, filters)),
            "pieces_turned": Array((PARTS, cells * filters, channels)),
            "no_bias": Array((channels,)),
            "parts_x": parts(channels, *(side + 2 * self.pad for side in sides)),
            "parts_framed": parts(filters, *framed),
            "parts_dy": Array(("workers", PARTS, rows * (width // 2), filters), apart=True),
            "kept": Array(("workers", 4, 256)),  # four tiles
            "sums": Array(("workers", PARTS, cells * channels, filters)),
        }

    def forward(self, *shapes: Shape) -> list[Call]:
        return [
            call("halve_weights", "w", "pieces"),
            call(FORWARD, padded("x", self.pad), "pieces", "b", *self.window, "y", "parts_x", "kept"),
        ]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        room = ("parts_x", "parts_dy", "sums")
        return [
            call("conv_backward_weights_halves", padded("x", self.pad), "dy", "parts_w", "parts_b", *room),
            *super().backward_params(*shapes)[1:],
        ]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        if not self._data_by_halves(*shapes):
            return super().backward_input(*shapes)
        dy, room = padded("dy", self.window[0] - 1 - self.pad), ("parts_framed", "kept")
        return [
            call("turn", Form("cells", "w"), Form("cells", "turned")),
            call("halve_weights", Form("flipped", "turned"), "pieces_turned"),
            call(FORWARD, dy, "pieces_turned", "no_bias", *self.window, "dx", *room),
        ]
