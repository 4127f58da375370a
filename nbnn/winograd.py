"""Which convolutions go Winograd's way, and what they call (the kernels are in `kernels/winograd.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nbnn.kernels.constants import POINTS, TILE, TILE_READS, WHOLE_TILES, WIDE
from nbnn.op import Array, Call, Form, Shape, call, padded
from nbnn.ops import Conv

LEAST_CHANNELS = 16  # below this the transforms cost more than the products save
LEAST_SAVING = 1.5  # products of the direct way over ours; ragged edges take a part of the 4
TOGETHER = 2 * WHOLE_TILES  # tiles that a worker holds at a time: measured 8 ... 128
TOGETHER_BACK = 64  # the same on the way to the weights, where a product adds them up
CHANNELS_BACK = 64  # channels whose sums a worker holds at a time, on the way to the weights: whole registers
ITEMS_BACK = 16  # slots times blocks of channels
WIDE_VALUES = 1 << 22  # values of weights of which workers make a few at a time, where a picture is WIDE_TILES
WIDE_TILES = 1
WIDE_WAY, WIDE_ROOM = "conv_winograd_wide", ("few_values", "products", "patch", "cells")
SQUARE = 16 * 16  # numbers: as many registers as one has lanes, of the widest


@dataclass(frozen=True)
class WinogradConv(Conv):
    """A Conv of window 3, stride 1, dilation 1 by Winograd's F(4x4, 3x3), F(3x3, 4x4) to the weights"""

    dense_input: ClassVar[bool] = False

    @classmethod
    def of(cls, conv: Conv, *shapes: Shape) -> WinogradConv | None:
        """The convolution done this way, or None where that is impossible or would not pay."""
        if (conv.size, conv.stride, conv.dilation, conv.groups) != (3, 1, 1, 1) or conv.pad > 2:
            return None
        op = conv.become(cls)
        channels, height, width = op.shape(*shapes)
        saving = 9 * height * width / (POINTS**2 * op.tiles(*shapes))
        return op if min(channels, shapes[0][0]) >= LEAST_CHANNELS and saving >= LEAST_SAVING else None

    def __str__(self) -> str:
        return f"{self.written(self.settings()).removeprefix('Winograd')} by Winograd"

    def tiles(self, *shapes: Shape) -> int:
        """Tiles of one picture of y."""
        _, height, width = self.shape(*shapes)
        return -(-height // TILE) * -(-width // TILE)

    def multiply_adds(self, *shapes: Shape) -> int:
        """The products that are left of them."""
        return self.tiles(*shapes) * POINTS**2 * shapes[0][0] * self.filters

    def _blocks(self, channels: int) -> int:
        return -(-channels // CHANNELS_BACK)

    def scratch(self, *shapes: Shape) -> dict[str, Array]:
        channels, filters = shapes[0][0], self.filters
        held = min(channels, CHANNELS_BACK)
        slots = max(1, ITEMS_BACK // self._blocks(channels))
        share = -(-TOGETHER_BACK // self.tiles(*shapes))

        def room(tiles: int, columns: int) -> Array:
            return Array(("workers", POINTS**2, tiles, columns), apart=True)

        if self._wide(*shapes):
            products, together = WIDE, TOGETHER_BACK
        else:
            products, together = max(channels, filters), TOGETHER
        return {
            "values": Array((POINTS**2, channels, filters), apart=True),
            "values_turned": Array((POINTS**2, filters, channels), apart=True),
            "no_bias": Array((channels,)),
            "parts_w": Array(("slots", 3, 3, channels, filters), slots=slots, share=share),
            "parts_b": Array(("slots", filters), slots=slots, share=share),
            "tiles_x": room(together, channels),
            "tiles_dy": room(together, filters),
            "products": room(together, products),
            "few_values": room(max(channels, filters), WIDE),
            "held_x": room(TOGETHER_BACK, held),
            "held_dy": room(TOGETHER_BACK, filters),
            "sums": room(held, filters),
            "cells": Array(("workers", 9, SQUARE)),
            "patch": Array(("workers", TILE_READS, TILE_READS, max(channels, filters))),
            **self.bias_scratch(filters),
        }

    def _wide(self, *shapes: Shape) -> bool:
        return POINTS**2 * shapes[0][0] * self.filters >= WIDE_VALUES and self.tiles(*shapes) <= WIDE_TILES

    def forward(self, *shapes: Shape) -> list[Call]:
        if self._wide(*shapes):
            return [call(WIDE_WAY, padded("x", self.pad), "w", 0, self.filters, "b", "y", "tiles_x", *WIDE_ROOM)]
        room, least = ("tiles_x", "products", "patch"), -(-TOGETHER // self.tiles(*shapes))
        return [
            call("winograd_weights", "w", "values"),
            call("conv_forward_winograd", padded("x", self.pad), "values", "b", "y", *room, least=least),
        ]

    def backward_params(self, *shapes: Shape) -> list[Call]:
        items = Form("items", "parts_w", (self._blocks(shapes[0][0]),))
        room = ("held_x", "held_dy", "sums", "patch")
        kernel = "conv_backward_weights_winograd"
        return [
            call(kernel, padded("x", self.pad), "dy", items, "parts_w", "parts_b", *room),
            *super().backward_params(*shapes)[1:],
        ]

    def backward_input(self, *shapes: Shape) -> list[Call]:
        if self._wide(*shapes):
            w, dy = Form("flipped", "w"), padded("dy", 2 - self.pad)
            return [call(WIDE_WAY, dy, w, 1, shapes[0][0], "no_bias", "dx", "tiles_dy", *WIDE_ROOM)]
        room, least = ("tiles_dy", "products", "patch"), -(-TOGETHER // self.tiles(*shapes))
        return [
            call("winograd_weights_turned", Form("flipped", "w"), "values_turned", "cells"),
            call(
                "conv_forward_winograd",
                padded("dy", 2 - self.pad),
                "values_turned",
                "no_bias",
                "dx",
                *room,
                least=least,
            ),
        ]
