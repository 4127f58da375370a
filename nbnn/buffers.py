"""Where every array of a net lies: its arena, its place there, its strides and its frame of zeros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from nbnn.graph import INPUT
from nbnn.kernels.constants import CACHE_LINE
from nbnn.launches import SHARES, array_of, name_of
from nbnn.memory import NEVER, Sharing, places, share
from nbnn.op import LENGTHS, Array, Call, Form

if TYPE_CHECKING:
    from nbnn.lower import Lowered

SLOT_BYTES = 1 << 25  # partial sums are fewer where together they would need more memory than this
ARENAS = {
    "params": "params",
    "grads": "grads",
    "state": "state",
    "value": "acts",
    "gradient": "acts",
    "part": "acts",
    "target": "acts",
}


@dataclass(frozen=True)
class Buffer:
    """Where an array lies. Offsets, strides and sizes count elements; start and size are multiplied by `per`: "cap",
    the examples that there is room for, "held", those that a worker holds, or "threads" where each array has an arena
    of its own (`eager`)."""

    arena: str  # params, grads, state, acts, work, space, own_acts
    start: int
    shape: tuple  # the first entry may be "n", "slots" or "workers"
    strides: tuple[int, ...]
    size: int  # elements from the first to the end of the room behind the last
    halo: int = 0
    per: str = ""
    slots: int = 0
    share: int = 1


def plan_buffers(net: Lowered) -> Lowered:
    """Lay every array into its arena: parameters and gradients alike (weights first), state, activations by example,
    scratch. Activations and scratch share memory where they can; the reference keeps all apart."""
    sharing = Sharing() if net.lanes == 1 else _sharing(net)
    roots = {name: sharing.roots.get(name, name) for name in net.arrays}
    halos = _halos(net)
    for name, root in roots.items():
        halos[root] = max(halos[root], halos[name])
    used = {name_of(o) for s in (*net.training, *net.inference, *net.backward) for c in s.calls for o in c.operands}
    order = sorted(net.arrays, key=lambda name: not net.arrays[name].decay)  # weights first; otherwise as they come
    buffers: dict[str, Buffer] = {}
    sizes = dict.fromkeys(("params", "grads", "state", "acts", "work", "space", "own_acts"), 0)
    spaces = _spaces(net)
    decayed = 0
    for name in order:
        array, (_, kind) = net.arrays[name], net.owners[name]
        if kind == "scratch" and name not in used:
            continue
        dense = name == INPUT and _dense(net)
        buffer = layout(net, array, halos[roots[name]], dense=dense, slots=net.slots.get(name, 0))
        arena = ARENAS.get(kind, {"cap": "acts", "threads": "space"}.get(buffer.per, "work"))
        if roots[name] in sharing.own:
            arena, buffer = "own_acts", replace(buffer, per="held")
        buffer = replace(buffer, arena=arena, start=spaces[name] if arena == "space" else sizes[arena])
        buffers[name] = buffer
        if arena == "space" or roots[name] not in sharing.lives:
            sizes[arena] = max(sizes[arena], _up(buffer.start + buffer.size, 16))
        if kind == "params" and array.decay:
            decayed = sizes[arena]
    for name, buffer in buffers.items():
        if buffer.arena == "space":
            # One worker's arrays lie together, apart from all of another's, who may be some calls ahead in a launch.
            buffers[name] = replace(buffer, strides=(sizes["space"], *buffer.strides[1:]), per="")
    for arena in ("acts", "work", "own_acts"):
        alone = {n: _up(b.size, 16) for n, b in buffers.items() if b.arena == arena and n in sharing.lives}
        starts = places(alone, sharing.lives, sizes[arena])
        sizes[arena] = max([sizes[arena], *(starts[n] + size for n, size in alone.items())])
        for name, buffer in buffers.items():
            if roots[name] in starts:
                buffers[name] = replace(buffer, start=starts[roots[name]])
    return replace(
        net,
        buffers={name: buffers[name] for name in net.arrays if name in buffers},
        sizes=sizes,
        sharing=sharing,
        decayed=decayed,
    )


def held(net: Lowered, capacity: int) -> int:
    """For how many examples a worker has arrays of its own."""
    return max(-(-capacity // SHARES), net.sharing.together)


class Registers(Protocol):
    """For which registers arrays are laid out: the lanes of one, and what is in them."""

    @property
    def lanes(self) -> int: ...

    @property
    def dtype(self) -> str: ...


def slot_counts(net: Registers, arrays: Mapping[str, Array], calls: Iterable[Call]) -> dict[str, int]:
    """Of how many sums each array of partial sums has room, at most: fewer where they are large, and all that one call
    fills have as many."""
    found: dict[str, int] = {}
    for c in calls:
        names = {str(array_of(o)) for o in c.operands}
        names = {name for name in names if name in arrays and arrays[name].memory[0] == "slots"}
        most = []
        for array in (arrays[name] for name in names):
            size = _strides(net, array, 0, False)[0] * itemsize(net.dtype)
            most.append(max(min(4, array.slots), min(array.slots, SLOT_BYTES // size)))
        for name in names:
            found[name] = min([found.get(name, arrays[name].slots), *most])
    return found


def layout(net: Registers, array: Array, halo: int = 0, *, dense: bool = False, slots: int = 0) -> Buffer:
    """The array at the beginning of an arena that is still to be named; with `slots` partial sums if it has any."""
    strides = _strides(net, array, halo, dense)
    per = {"n": "cap", "workers": "threads"}.get(array.memory[0], "")
    first = slots or (1 if per else array.memory[0])
    size = strides[0] * first if len(strides) > 1 else row_room(net, first)
    return Buffer("", 0, array.memory, strides, size, halo, per, slots, array.share)


def seen(buffer: Buffer, form: Form) -> tuple[tuple, tuple[int, ...], int]:
    """How a form sees a buffer: its shape, its strides, and how far from the buffer's start it begins."""
    shape, strides, offset = tuple(buffer.shape), buffer.strides, 0
    if len(shape) == 4:
        offset = buffer.halo * (strides[1] + strides[2])
    kind, settings = form.kind, form.settings
    if kind == "padded":
        pad = settings[0]
        offset -= pad * (strides[1] + strides[2])
        shape = (shape[0], shape[1] + 2 * pad, shape[2] + 2 * pad, shape[3])
    elif kind == "rows":
        shape, strides = (shape[0], shape[3]), (strides[0], 1)
    elif kind == "channels":
        offset += settings[0]
        shape = (*shape[:3], settings[1])
    elif kind == "flat":
        shape, strides = (("slots", strides[0]), (strides[0], 1)) if buffer.slots else ((buffer.size,), (1,))
    elif kind == "every":
        shape, strides = ("n", *shape), (0, 1)
    elif kind == "cells":
        shape, strides = (shape[0] * shape[1], *shape[2:]), strides[1:]
    elif kind == "lines":
        shape, strides = (shape[0], shape[1] * shape[2], shape[3]), (strides[0], *strides[2:])
    elif kind == "flipped":
        offset += (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1]
        strides = (-strides[0], -strides[1], *strides[2:])
    elif kind == "matrix":
        shape, strides = (1, shape[0] * shape[1] * shape[2], shape[3]), (0, strides[2], 1)
    elif kind == "planes":
        shape, strides = (shape[0], shape[3], *shape[1:3]), (strides[0], 1, *strides[1:3])
    elif kind == "places":
        shape, strides = (shape[1], shape[2], shape[0], shape[3]), (strides[1], strides[2], strides[0], 1)
    return shape, strides, offset


def _sharing(net: Lowered) -> Sharing:
    shared = ("value", "gradient", "part", "scratch")
    kept = {n for n, (_, kind) in net.owners.items() if kind not in shared or net.arrays[n].memory[0] == "workers"}
    kept |= {name for (_, word), name in net.names.items() if word in LENGTHS}  # read at the end
    output = net.aliases.get(net.graph.output, net.graph.output)
    return share(net.launches, net.arrays, kept | {INPUT}, ("predict", output))


def _spaces(net: Lowered) -> dict[str, int]:
    """Where the arrays of a worker begin in its room: side by side within a call, over those of all other calls."""
    calls: dict[str, list[list[str]]] = {}  # of each node: what each of its calls has there
    for section in (*net.training, *net.inference, *net.backward):
        for c in section.calls:
            names = [n for n in map(name_of, c.operands) if n in net.arrays and net.arrays[n].memory[0] == "workers"]
            if names:
                calls.setdefault(net.owners[names[0]][0], []).append(names)
    found: dict[str, int] = {}
    for those in calls.values():
        sizes = {n: _up(_strides(net, net.arrays[n], 0, False)[0], 16) for names in those for n in names}
        lives = {n: tuple((0, 0) if n in names else NEVER for names in those) for n in sizes}
        found |= places(sizes, lives, 0)
    return found


def _halos(net: Lowered) -> dict[str, int]:
    """The frame of zeros of each tensor: as much as its greediest reader asks for."""
    halos = dict.fromkeys(net.arrays, 0)
    for section in (*net.training, *net.inference, *net.backward):
        for c in section.calls:
            for operand in c.operands:
                if isinstance(operand, Form) and operand.kind == "padded":
                    halos[operand.name] = max(halos[operand.name], operand.settings[0])
    return halos


def _dense(net: Lowered) -> bool:
    """Whether the input can do without room behind its channels: all who read it read it number by number."""
    return all(op.dense_input for op in net.ops.values() if INPUT in (op.inputs or ()))


def itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 8


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def row_room(net: Registers, columns: int, period: int = 1024) -> int:
    """The elements from one row of `columns` numbers to the next: whole registers, and a cache line more where rows
    would be a multiple of `period` bytes apart: such rows fall into the same few cache sets (measured: the multiply
    loses up to half of its speed; a tenth with half a line, one register of AVX2, because pairs of registers then lie
    across two lines)."""
    if net.lanes == 1:
        return columns
    room, line = _up(columns, net.lanes), CACHE_LINE // itemsize(net.dtype)
    return room + line if room * itemsize(net.dtype) % period == 0 else room


def _strides(net: Registers, array: Array, halo: int, dense: bool) -> tuple[int, ...]:
    memory = array.memory
    if len(memory) == 1:
        return (1,)
    sides = list(memory)
    if len(memory) == 4 and memory[0] == "n":
        sides[1:3] = [s + 2 * halo for s in memory[1:3]]
    strides = [1]
    # Weights of 128 filters gain a quarter from it; in activations it would cost more memory than it gives speed.
    step = memory[-1] if dense else row_room(net, memory[-1], 1024 if memory[0] == "n" else 512)
    for side in reversed(sides[:-1]):
        strides.insert(0, step)
        step *= side if isinstance(side, int) else 1
        if array.apart:
            step = row_room(net, step)
    if memory[0] in ("n", "workers"):
        strides[0] = row_room(net, _up(strides[0], 16))
    return tuple(strides)
