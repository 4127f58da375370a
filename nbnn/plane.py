"""Which convolutions take neighbouring places for the lanes of a register, and what they call (the kernels are in
`kernels/plane.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nbnn.op import Array, Call, Shape, call, padded
from nbnn.ops import Conv

MOST_FILTERS = 6  # of the 6 or 8 rows of a tile
MOST_LANES = LEAST_PLACES = 16  # of a register, and so of a row of y
# Measured on AVX2 with rows of 24 and 26 places, forward and to the weights, beside the direct way. (With 17 places, a
# register and a bit, it loses to the weights what it gains forward.)
LEAST_CELLS = 16  # of a window: 1.8 and 1.6 times as fast with 5x5, 1.7 and 0.8 with 3x3
MOST_CELLS = 512  # of which a worker keeps the sums lane by lane: 256 KiB in float32
MOST_PICTURE = 1 << 20  # places, which may have to be copied
NEAR = 640  # places of dy that a worker holds, with 6 filters half of a first-level cache


@dataclass(frozen=True)
class PlaneConv(Conv):
    """A Conv of stride 1 from one channel to few filters, by rows of places"""

    @classmethod
    def of(cls, conv: Conv, *shapes: Shape) -> PlaneConv | None:
        """The convolution done this way, or None where that is impossible or would not pay."""
        if shapes[0][0] != 1 or conv.stride != 1 or conv.filters > MOST_FILTERS:
            return None
        op = conv.become(cls)
        fits = op.shape(*shapes)[2] >= LEAST_PLACES and math.prod(op._framed(*shapes)) <= MOST_PICTURE
        return op if fits and LEAST_CELLS <= math.prod(op.window) <= MOST_CELLS else None

    def _framed(self, *shapes: Shape) -> list[int]:
        """The sides of x with its padding."""
        return [side + 2 * self.pad for side in shapes[0][1:]]

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Plane')} by rows of places"

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        (_, height, width), cells = self.shape(*shapes), math.prod(self.window)
        line = -(-width // MOST_LANES) * MOST_LANES
        return {
            **super().scratch(*shapes),
            "plane": Array(("workers", *self._framed(*shapes))),
            "turned_dy": Array(("workers", MOST_LANES, max(1, min(height, NEAR // line)) * line), apart=True),
            "lane_sums": Array(("workers", 1, (cells // 2 + 2) * 16 * MOST_LANES)),  # tiles: two cells each, the bias
        }

    def forward(self, *shapes: Shape) -> list[Call]:
        return [call("conv_forward_plane", padded("x", self.pad), "w", "b", self.dilation, "y", "plane")]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        x, room = padded("x", self.pad), ("plane", "turned_dy", "lane_sums")
        return [
            call("conv_backward_weights_plane", x, "dy", self.dilation, "parts_w", "parts_b", *room),
            *super().backward_params(*shapes)[1:],
        ]
