"""Which convolutions take neighbouring places for the lanes of a register, and what they call (the kernels are in
`kernels/plane.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nbnn.op import Array, Call, Shape, call, padded
from nbnn.ops import Conv

# Measured on AVX2, forward and to the weights, beside the direct way:
MOST_FILTERS = 6  # a tile has no more rows, on processors that have fewer of them
LEAST_PLACES = 16  # of a row of y: as many as the widest register has lanes
LEAST_CELLS = 16  # of a window: 1.8 and 1.6 times as fast with 5x5, 1.7 and 0.8 with 3x3
MOST_LANES = 16
NEAR = 640  # places of dy that a worker holds, with 6 filters half of a first-level cache


@dataclass(frozen=True)
class PlaneConv(Conv):
    """A Conv of stride 1 from one channel to few filters, by rows of places"""

    @classmethod
    def of(cls, conv: Conv, *shapes: Shape) -> PlaneConv | None:
        """The convolution done this way, or None where that is impossible or would not pay."""
        op = conv.become(cls)
        fits = shapes[0][0] == conv.stride == 1 and conv.filters <= MOST_FILTERS
        pays = op.shape(*shapes)[2] >= LEAST_PLACES and math.prod(conv.window) >= LEAST_CELLS
        return op if fits and pays else None

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Plane')} by rows of places"

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        (_, height, width), cells = self.shape(*shapes), math.prod(self.window)
        line = -(-width // MOST_LANES) * MOST_LANES
        tall, wide = (side + 2 * self.pad for side in shapes[0][1:])
        return {
            **super().scratch(*shapes),
            "plane": Array(("workers", tall, wide)),
            "turned_dy": Array(("workers", MOST_LANES, max(1, min(height, NEAR // line)) * line), apart=True),
            "lane_sums": Array(("workers", cells // 2 + 2, 16 * MOST_LANES)),  # a tile for two cells, one for the bias
        }

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("conv_forward_plane", padded("x", self.pad), "w", "b", self.dilation, "y", "plane")]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        room = ("plane", "turned_dy", "lane_sums")
        x = padded("x", self.pad)
        return [
            call("conv_backward_weights_plane", x, "dy", self.dilation, "parts_w", "parts_b", *room),
            *super().backward_params(*shapes)[1:],
        ]
