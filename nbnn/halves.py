"""Which convolutions go by halves, and what they call (the kernels are in `kernels/halves.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nbnn.kernels.constants import PARTS
from nbnn.op import Array, Call, Form, Shape, call, padded
from nbnn.ops import NARROW, Conv

FORWARD = "conv_forward_halves"
# Measured on AVX2, to the weights and forward, beside the direct way:
LEAST_WINDOW = 5  # 3x3 windows have sums that are too short: 0.9 of the direct way's speed with 3 channels
LEAST_SUM = 128  # cells times channels of the window: 1.1 times as fast with 75, 1.3 and 1.4 with 147
LEAST_SAVING = 1.3  # products over ours, with whole tiles: 1.0 times as fast with 1.27, 1.2 with 1.56
MOST_SUM = 4096  # cells of all parts times channels: 1.2 and 1.6 times as fast with 64 of 5x5, 0.8 and 1.4 with 256
MOST_ROOM = 1 << 20  # numbers of the parts of a picture, and of a window
TILE_ROWS = 8  # of the multiply, on the processors that have more of them
NEAR = 3 << 15  # numbers of the parts of dy that a worker holds: 384 KiB in float32, of a second-level cache of 512


@dataclass(frozen=True)
class HalvedConv(Conv):
    """A Conv of stride 1, dilation 1 to pictures of even sides, by even and odd rows and columns"""

    dense_input: ClassVar[bool] = False

    @classmethod
    def of(cls, conv: Conv, *shapes: Shape) -> HalvedConv | None:
        """The convolution done this way, or None where that is impossible or would not pay."""
        if (conv.stride, conv.dilation, conv.groups) != (1, 1, 1) or min(conv.window) < LEAST_WINDOW:
            return None
        op, (channels, *sides) = conv.become(cls), shapes[0]
        framed = [side + 2 * conv.pad for side in sides]
        pays = op._pays(channels, conv.filters, framed, op.shape(*shapes)[1:])
        return op if pays else None

    def _pays(self, channels: int, filters: int, sides: list[int], out: Shape) -> bool:
        """Whether a convolution of pictures with these sides, frames and all, to pictures `out` is faster this way."""
        cells, places = math.prod(self.window), math.prod(out)
        tiles = -(-places // TILE_ROWS), -(-places // 4 // TILE_ROWS)
        return (
            not any(side % 2 for side in out)
            and cells * channels >= LEAST_SUM
            and self._all_cells * channels <= MOST_SUM
            and cells * tiles[0] >= LEAST_SAVING * self._all_cells * tiles[1]
            and max(self._all_cells * channels * filters, PARTS * channels * math.prod(sides) // 4) <= MOST_ROOM
        )

    @property
    def _all_cells(self) -> int:
        """The cells of the nine parts of the window."""
        return math.prod(size + (size + 1) // 2 for size in self.window)

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Halved')} by halves"

    def multiply_adds(self, *shapes: Shape) -> int:
        """The products that are left of them."""
        return math.prod(self.shape(*shapes)) // 4 * self._all_cells * shapes[0][0]

    def _framed(self, sides: Shape) -> list[int]:
        """The sides of dy in the frame that the way back to the input reads."""
        return [side + size - 1 for side, size in zip(sides, self.window, strict=True)]

    def _data_by_halves(self, *shapes: Shape) -> bool:
        """Whether the way back to the input is by halves, too: it is the same from dy in a frame, with the window
        flipped."""
        channels, sides = shapes[0][0], shapes[0][1:]
        square = self.window[0] == self.window[1]
        fits = square and self.pad < self.window[0] and channels > NARROW
        return fits and self._pays(self.filters, channels, self._framed(sides), sides)

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        channels, sides = shapes[0][0], shapes[0][1:]
        filters, (_, height, width) = self.filters, self.shape(*shapes)
        cells = math.prod((size + 1) // 2 for size in self.window)
        rows = max(1, min(height // 2, NEAR // (PARTS * (width // 2) * filters)))

        def parts(columns: int, tall: int, wide: int) -> Array:
            """Of a picture of so many channels; behind the last channel a whole register is written."""
            return Array(("workers", PARTS, tall // 2, wide // 2 * columns + 16), apart=True)

        return {
            **super().scratch(*shapes),
            "pieces": Array((PARTS, cells * channels, filters)),
            "pieces_turned": Array((PARTS, cells * filters, channels)),
            "no_bias": Array((channels,)),
            "kept": Array(("workers", 4, 256)),  # four tiles
            "halves_x": parts(channels, *(side + 2 * self.pad for side in sides)),
            "halves_framed": parts(filters, *self._framed(sides)),
            "halves_dy": Array(("workers", PARTS, rows * (width // 2), filters), apart=True),
            "sums": Array(("workers", PARTS, cells * channels, filters)),
        }

    def forward(self, *shapes: Shape) -> list[Call]:
        return [
            call("halve_weights", "w", "pieces"),
            call(FORWARD, padded("x", self.pad), "pieces", "b", *self.window, "y", "kept", "halves_x"),
        ]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        room = ("halves_x", "halves_dy", "sums")
        return [
            call("conv_backward_weights_halves", padded("x", self.pad), "dy", "parts_w", "parts_b", *room),
            *super().backward_params(*shapes)[1:],
        ]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        if not self._data_by_halves(*shapes):
            return super().backward_input(*shapes)
        dy, room = padded("dy", self.window[0] - 1 - self.pad), ("kept", "halves_framed")
        return [
            call("turn", Form("cells", "w"), Form("cells", "turned")),
            call("halve_weights", Form("flipped", "turned"), "pieces_turned"),
            call(FORWARD, dy, "pieces_turned", "no_bias", *self.window, "dx", *room),
        ]
