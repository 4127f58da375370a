"""Which convolutions take each channel alone, and what they call (the kernels are in `kernels/depthwise.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nbnn.op import Array, Call, Shape, call, padded
from nbnn.ops import Conv


@dataclass(frozen=True)
class DepthwiseConv(Conv):
    """A Conv with as many groups as channels and filters"""

    dense_input: ClassVar[bool] = False

    @classmethod
    def of(cls, conv: Conv, *shapes: Shape) -> DepthwiseConv | None:
        """The convolution done this way, or None where that is impossible."""
        return conv.become(cls) if 1 < conv.groups == conv.filters == shapes[0][0] else None

    @property
    def expands(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Depthwise')} channel by channel"

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        return {**super().scratch(*shapes), "parts_w": Array(("slots", *self.window, 1, self.filters))}

    def forward(self, *shapes: Shape) -> list[Call]:
        x = padded("x", self.pad)
        return [call("conv_forward_depthwise", x, "w", "b", self.stride, self.dilation, "y")]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        x, settings = padded("x", self.pad), (self.stride, self.dilation)
        return [
            call("conv_backward_weights_depthwise", x, "dy", *settings, "parts_w", "parts_b"),
            *super().backward_params(*shapes)[1:],
        ]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        frame = self.frame(*shapes)
        settings = (self.stride, self.dilation, self.pad, frame)
        return [call("conv_backward_data_depthwise", padded("dy", frame), "w", *settings, "dx")]
