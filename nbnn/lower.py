"""From a graph to a list of kernel calls on planned memory: passes in one tuple, of which any can be the last.

    infer         the graph as it is: nodes and shapes
    choose        each node's op, or one that does the same by faster kernels
    list_calls    each node's kernel calls, in the node's own words
    route         words become arrays of the whole net: who reads whose output, where gradients meet, who needs none
    join          calls become launches: what the threads take their examples through together
    plan_buffers  every array gets its place in an arena, its strides and its frame of zeros
    emit          the source text of the step (see `codegen`)

Every pass takes a `Lowered` and returns a new one; `str` of it shows the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from nbnn.graph import INPUT, Graph
from nbnn.launches import Launch, Planner, Section, alone, name_of
from nbnn.losses import to_plain
from nbnn.memory import Sharing, places, share
from nbnn.op import Array, Call, Form, Op, Shape, call, picture
from nbnn.words import align, times

TO_WEIGHTS, TO_INPUT = "to the weights", "to the input"  # directions of a backward section
SLOT_BYTES = 1 << 25  # partial sums are fewer where together they would need more memory than this


@dataclass(frozen=True)
class Buffer:
    """Where an array lies. Offsets, strides and sizes count elements; start and size are multiplied by `per`: "cap",
    the examples that there is room for, or "threads"."""

    arena: str  # params, grads, state, acts, work, space
    start: int
    shape: tuple  # the first entry may be "n", "slots" or "workers"
    strides: tuple[int, ...]
    size: int  # elements from the first to the end of the room behind the last
    halo: int = 0
    per: str = ""
    slots: int = 0
    share: int = 1


@dataclass(frozen=True)
class Lowered:
    """A net on its way to source text. Later passes fill more of it."""

    graph: Graph
    dtype: str
    lanes: int
    algorithm: str = "auto"
    stage: str = "graph"
    ops: dict[str, Op] = field(default_factory=dict)  # node -> the op that computes it
    training: tuple[Section, ...] = ()
    inference: tuple[Section, ...] = ()
    backward: tuple[Section, ...] = ()
    launches: dict[str, tuple[Launch, ...]] = field(default_factory=dict)  # of predict and of gradients
    arrays: dict[str, Array] = field(default_factory=dict)  # routed name -> what it is
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)  # routed name -> (node, kind of array)
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # (node, its own word) -> routed name
    aliases: dict[str, str] = field(default_factory=dict)  # outside training: output -> the tensor that it is
    buffers: dict[str, Buffer] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # arena -> elements (acts: per example)
    sharing: Sharing = field(default_factory=Sharing)
    decayed: int = 0  # the first so many parameters are weights
    source: str = ""

    def __str__(self) -> str:
        if self.source:
            return self.source
        if not self.training:
            return str(self.graph)
        lines = []
        for title, sections in (
            ("training", self.training),
            ("inference", self.inference),
            ("backward", self.backward),
        ):
            lines += [f"{title}:", *(f"    {s.node}: {_show(c)}" for s in sections for c in s.calls)]
        for name, launches in self.launches.items():
            lines += [f"launches of {name}:", *(f"    {launch}" for launch in launches)]
        if self.buffers:
            table = [["array", "arena", "start", "shape", "strides", "frame"]]
            table += [
                [
                    name,
                    b.arena,
                    f"{b.start}{f' * {b.per}' if b.per else ''}",
                    str(b.shape),
                    str(b.strides),
                    str(b.halo or ""),
                ]
                for name, b in self.buffers.items()
            ]
            lines += ["", align(table, right=(2,))]
        return "\n".join(lines)


def _show(c: Call) -> str:
    words = [f"{o.name}:{o.kind}{list(o.settings) or ''}" if isinstance(o, Form) else str(o) for o in c.operands]
    return f"{c.kernel}({', '.join(words)})"


def infer(net: Lowered) -> Lowered:
    """Names and shapes: the graph has found and checked them when it was made."""
    return net


def choose(net: Lowered) -> Lowered:
    """Find the op that computes each node. The reference and algorithm="direct" take every node at its word."""
    plain = net.lanes == 1 or net.algorithm == "direct"
    ops = {n.name or "": n if plain else n.chosen(*net.graph.input_shapes(n)) for n in net.graph.nodes}
    return replace(net, ops=ops)


def list_calls(net: Lowered) -> Lowered:
    """Ask each op for its kernel calls."""
    training: list[Section] = []
    inference: list[Section] = []
    backward: list[Section] = []
    for node in net.ops.values():
        shapes = net.graph.input_shapes(node)
        title = f"{node}   {_arrow(net.graph, node)}"
        training.append(Section(node.name or "", title, tuple(node.forward(*shapes))))
        inference.append(Section(node.name or "", title, () if node.passes else tuple(node.inference(*shapes))))
        backward[:0] = [
            Section(node.name or "", title, tuple(node.backward_params(*shapes)), TO_WEIGHTS),
            Section(node.name or "", title, tuple(node.backward_input(*shapes)), TO_INPUT),
        ]
    return replace(net, training=tuple(training), inference=tuple(inference), backward=tuple(backward))


def _arrow(graph: Graph, node: Op) -> str:
    read = " + ".join(times(s, "x") for s in graph.input_shapes(node))
    return f"{read} -> {times(graph.shapes[node.name or ''], 'x')}"


def route(net: Lowered) -> Lowered:
    """Give the arrays of all nodes their names in the net, and lead gradients to where they are needed."""
    graph = net.graph
    scope = _Scope(graph, net.ops)
    needs = {INPUT: False}  # whether any parameter lies at or before a tensor: only then somebody wants its gradient
    for node in graph.nodes:
        needs[node.name or ""] = bool(node.params(*graph.input_shapes(node))) or any(
            needs[i] for i in node.inputs or ()
        )
    training = tuple(replace(s, calls=scope.rename(s.node, s.calls)) for s in net.training)
    inference = tuple(replace(s, calls=scope.rename(s.node, s.calls)) for s in net.inference if s.calls)
    data = tuple(Form("value", word) for word in ("data", "code", "indices"))
    start = Section(INPUT, times(graph.input, "x"), (call("gather", *data, INPUT),), "")
    backward = []
    reached: set[str] = set()
    if graph.loss is not None:
        words = {"x": graph.output, "dx": scope.gradient(graph.output)}
        if graph.loss.classifies:
            targets = call("gather_labels", *(Form("value", word) for word in ("all_labels", "indices", "labels")))
        else:
            words["target"] = scope.declare("target", graph.output, "target", _tensor(graph.output_shape))
            data = tuple(Form("value", word) for word in ("target_data", "target_code", "indices"))
            targets = call("gather", *data, words["target"])
        backward.append(Section("loss", repr(to_plain(graph.loss)), (targets, _rename(graph.loss.call(), words)), ""))
        reached.add(graph.output)
        for section in net.backward:
            node = scope.nodes[section.node]
            if needs[section.node]:
                calls = scope.route_back(node, section, needs, reached)
                backward += [replace(section, calls=tuple(calls))] if calls else []
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        if node.passes:
            source = (node.inputs or ())[0]
            aliases[node.name or ""] = aliases.get(source, source)
    inference = tuple(replace(s, calls=tuple(_rename(c, aliases) for c in s.calls)) for s in inference)
    forward = (start, *training)
    return replace(
        net,
        training=_with_frames(forward, set()),
        inference=_with_frames((start, *inference), set()),
        backward=_with_frames(tuple(backward), _framed(forward)),
        arrays=scope.arrays,
        owners=scope.owners,
        names=scope.names,
        aliases=aliases,
    )


def _framed(sections: Iterable[Section]) -> set[tuple[str, int]]:
    """The frames that somebody reads: the array and the width."""
    forms = (o for s in sections for c in s.calls for o in c.operands if isinstance(o, Form) and o.kind == "padded")
    return {(form.name, form.settings[0]) for form in forms if form.name != INPUT}


def _with_frames(sections: tuple[Section, ...], ready: set[tuple[str, int]]) -> tuple[Section, ...]:
    """Clear each frame before it is first read, other than those that are ready."""
    found = []
    for section in sections:
        calls: list[Call] = []
        for c in section.calls:
            wanted = _framed([replace(section, calls=(c,))]) - ready
            calls += [call("clear_frame", pad, Form("padded", name, (pad,))) for name, pad in sorted(wanted)]
            calls.append(c)
            ready = ready | wanted
        found.append(replace(section, calls=tuple(calls)))
    return tuple(found)


def _tensor(shape: Shape) -> Array:
    channels, height, width = picture(shape)
    return Array(("n", height, width, channels))


def _rename(c: Call, words: dict[str, str]) -> Call:
    """The call with its names looked up; numbers and runtime values stay."""

    def one(operand: object) -> object:
        if isinstance(operand, Form) and operand.kind != "value":
            return operand._replace(name=words.get(operand.name, operand.name))
        return words.get(operand, operand) if isinstance(operand, str) else operand

    return c._replace(operands=tuple(one(o) for o in c.operands))


class _Scope:
    """The names of all arrays of a net, found while its nodes are walked."""

    def __init__(self, graph: Graph, ops: dict[str, Op]) -> None:
        self.graph = graph
        self.nodes = ops
        self.arrays: dict[str, Array] = {}
        self.owners: dict[str, tuple[str, str]] = {}
        self.words: dict[str, dict[str, str]] = {}
        self.gradients: dict[str, str] = {}
        self.names: dict[tuple[str, str], str] = {}
        for name, shape in graph.shapes.items():
            self.declare(name, name, "value", _tensor(shape))
        for name, node in self.nodes.items():
            shapes = graph.input_shapes(node)
            words = {"y": name}
            for k, source in enumerate(node.inputs or ()):
                words |= {f"x{k}": source} | ({"x": source} if k == 0 else {})
            for kind, found in (
                ("params", node.params(*shapes)),
                ("state", node.state(*shapes)),
                ("scratch", node.scratch(*shapes)),
            ):
                for local, array in found.items():
                    words[local] = self.declare(f"{name}_{local}", name, kind, array)
                    if kind == "params":
                        words[f"d{local}"] = self.declare(f"{name}_d{local}", name, "grads", array)
            self.words[name] = words
            self.names |= {(name, local): routed for local, routed in words.items()}

    def gradient(self, tensor: str) -> str:
        """The name of the gradient of a tensor, declared when it is first asked for."""
        if tensor not in self.gradients:
            array = _tensor(self.graph.shapes[tensor])
            self.gradients[tensor] = self.declare(f"d_{tensor}", tensor, "gradient", array)
        return self.gradients[tensor]

    def declare(self, name: str, node: str, kind: str, array: Array) -> str:
        while name in self.arrays:  # a node may be called conv1_w
            name += "_"
        self.arrays[name] = array
        self.owners[name] = (node, kind)
        return name

    def rename(self, node: str, calls: tuple[Call, ...]) -> tuple[Call, ...]:
        return tuple(self.numbered(node, calls, self.words[node]))

    def numbered(self, node: str, calls: tuple[Call, ...], words: dict[str, str]) -> list[Call]:
        """The calls with their names looked up; dropout's random numbers are keyed by the place of its node."""
        index = list(self.nodes).index(node) + 1
        found = [_rename(c, words) for c in calls]
        return [
            c._replace(operands=tuple(index if o == Form("value", "node") else o for o in c.operands)) for c in found
        ]

    def route_back(self, node: Op, section: Section, needs: dict[str, bool], reached: set[str]) -> list[Call]:
        """The calls of a backward section. The first gradient that reaches a tensor is written there, later ones are
        added to it."""
        name, graph = node.name or "", self.graph
        words = {**self.words[name], "dy": self.gradient(name)}
        if section.direction == TO_WEIGHTS:
            return self.numbered(name, section.calls, words)
        sums, unwanted = [], set()
        for k, source in enumerate(node.inputs or ()):
            if not needs[source]:
                unwanted.add(f"dx{k}")
                continue
            target = gradient = self.gradient(source)
            if source in reached:
                target = self.declare(f"{gradient}_by_{name}", source, "part", _tensor(graph.shapes[source]))
                sums.append(call("add_forward", gradient, target, gradient))
            reached.add(source)
            words |= {f"dx{k}": target} | ({"dx": target} if k == 0 else {})
        if len(unwanted) == len(node.inputs or ()):
            return []
        wanted = tuple(c for c in section.calls if not unwanted & set(map(str, c.operands)))
        return self.numbered(name, wanted, words) + sums


def join(net: Lowered) -> Lowered:
    """Put the calls into launches; the reference runs them one by one."""
    functions = {"predict": net.inference, "gradients": (*net.training, *net.backward)}
    if net.lanes == 1:
        return replace(net, launches={name: alone(sections) for name, sections in functions.items()})

    def row_bytes(columns: int) -> int:
        return row_room(net, columns) * _itemsize(net.dtype)

    plans = {name: Planner(net.arrays, row_bytes).plan(sections) for name, sections in functions.items()}
    return replace(net, launches=plans)


ARENAS = {
    "params": "params",
    "grads": "grads",
    "state": "state",
    "value": "acts",
    "gradient": "acts",
    "part": "acts",
    "target": "acts",
}


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
    sizes = dict.fromkeys(("params", "grads", "state", "acts", "work", "space"), 0)
    spaces = _spaces(net)
    decayed = 0
    for name in order:
        array, (_, kind) = net.arrays[name], net.owners[name]
        if kind == "scratch" and name not in used:
            continue
        halo, per = halos[roots[name]], {"n": "cap", "workers": "threads"}.get(array.memory[0], "")
        arena = ARENAS.get(kind, {"cap": "acts", "threads": "space"}.get(per, "work"))
        strides = _strides(net, array, halo, dense=name == INPUT and _dense(net))
        slots = 0
        if array.memory[0] == "slots":
            slots = max(min(4, array.slots), min(array.slots, SLOT_BYTES // (strides[0] * _itemsize(net.dtype))))
        first = slots or (1 if per else array.memory[0])
        size = strides[0] * first if len(strides) > 1 else row_room(net, array.memory[0])
        start = spaces[name] if arena == "space" else sizes[arena]
        buffers[name] = Buffer(arena, start, array.memory, strides, size, halo, per, slots, array.share)
        if arena == "space" or roots[name] not in sharing.lives:
            sizes[arena] = max(sizes[arena], _up(start + size, 16))
        if kind == "params" and array.decay:
            decayed = sizes[arena]
    for arena in ("acts", "work"):
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


def _sharing(net: Lowered) -> Sharing:
    shared = ("value", "gradient", "part", "scratch")
    kept = {n for n, (_, kind) in net.owners.items() if kind not in shared or net.arrays[n].memory[0] == "workers"}
    # add_slots reads whole rows, and a kernel fills the registers that it needs: a spare one must stay zero
    kept |= {
        n
        for n, a in net.arrays.items()
        if a.memory[0] == "slots" and row_room(net, a.memory[-1]) != _up(a.memory[-1], net.lanes)
    }
    output = net.aliases.get(net.graph.output, net.graph.output)
    return share(net.launches, net.arrays, kept | {INPUT}, ("predict", output))


def _spaces(net: Lowered) -> dict[str, int]:
    """Where the workers' own arrays begin: side by side within a call, over those of all other calls."""
    found: dict[str, int] = {}
    for section in (*net.training, *net.inference, *net.backward):
        for c in section.calls:
            names = [n for n in map(name_of, c.operands) if n in net.arrays and net.arrays[n].memory[0] == "workers"]
            size = {n: _up(_strides(net, net.arrays[n], 0, False)[0], 16) for n in names}
            at = max((found[n] + size[n] for n in names if n in found), default=0)
            for n in names:
                if n not in found:
                    found[n] = at
                    at += size[n]
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


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 8


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def row_room(net: Lowered, columns: int) -> int:
    """The elements from one row of `columns` numbers to the next: whole registers, and one more where rows would be a
    multiple of 1 KiB apart: such rows fall into the same few cache sets (measured: the multiply loses up to half of its
    speed)."""
    if net.lanes == 1:
        return columns
    room = _up(columns, net.lanes)
    return room + net.lanes if room * _itemsize(net.dtype) % 1024 == 0 else room


def _strides(net: Lowered, array: Array, halo: int, dense: bool) -> tuple[int, ...]:
    memory = array.memory
    sides = list(memory)
    if len(memory) == 4 and memory[0] == "n":
        sides[1:3] = [s + 2 * halo for s in memory[1:3]]
    strides = [1]
    step = memory[-1] if dense else row_room(net, memory[-1])
    for side in reversed(sides[:-1]):
        strides.insert(0, step)
        step *= side if isinstance(side, int) else 1
        if array.apart:
            step = row_room(net, step)
    if memory[0] in ("n", "workers"):
        strides[0] = row_room(net, _up(strides[0], 16))
    return tuple(strides) if len(memory) > 1 else (1,)


def emit(net: Lowered) -> Lowered:
    """Write the step as source text."""
    from nbnn.codegen import source_text

    return replace(net, source=source_text(net))


PASSES: tuple[Callable[[Lowered], Lowered], ...] = (infer, choose, list_calls, route, join, plan_buffers, emit)


def lower(
    graph: Graph,
    *,
    dtype: str = "float32",
    lanes: int | None = None,
    algorithm: str = "auto",
    stop: str | None = None,
) -> Lowered:
    """Run the passes; `stop` names the last one. `lanes` is the register width in elements, that of this machine by
    default; `algorithm="direct"` rules out algorithms that round differently from a plain sum."""
    names = [p.__name__ for p in PASSES]
    if stop is not None and stop not in names:
        raise ValueError(f"there is no pass {stop!r}; the passes are {', '.join(names)}")
    if lanes is None:
        from nbnn.kernels.simd import lanes_of

        lanes = lanes_of(dtype)
    net = Lowered(graph, dtype, lanes, algorithm)
    for step in PASSES:
        net = verify(replace(step(net), stage=step.__name__))
        if step.__name__ == stop:
            break
    return net


def verify(net: Lowered) -> Lowered:
    """Hold a stage to what must be true of it; names the pass that broke it."""

    def broken(what: str) -> None:
        raise AssertionError(f"after {net.stage}: {what}")

    if net.stage in ("route", "plan_buffers", "emit"):
        for section in (*net.training, *net.inference, *net.backward):
            for c in section.calls:
                for o in c.operands:
                    name = name_of(o)
                    runtime = isinstance(o, Form) and o.kind == "value"
                    if isinstance(name, str) and not runtime and name not in net.arrays:
                        broken(f"{section.node}: {c.kernel} reads {name!r}, which is no array")
    if net.stage in ("join", "plan_buffers", "emit"):
        for name, sections in (("predict", net.inference), ("gradients", (*net.training, *net.backward))):
            parts = [p for launch in net.launches[name] for p in launch.parts if not isinstance(p, int)]
            if sorted(map(repr, parts)) != sorted(repr((s, c)) for s in sections for c in s.calls):
                broken(f"the launches of {name} do not make each call once")
    if net.stage in ("plan_buffers", "emit"):
        for arena in ("params", "grads", "state", "acts", "work"):
            placed = sorted((b.start, b.start + b.size, n) for n, b in net.buffers.items() if b.arena == arena)
            for k, (_, end, name) in enumerate(placed):
                if end > net.sizes[arena]:
                    broken(f"the arena {arena} of {net.sizes[arena]} elements is too small")
                for start, _, other in placed[k + 1 :]:
                    if start >= end:
                        break
                    if not net.sharing.apart(name, other):
                        broken(f"{name} and {other} overlap at {start} of {arena}")
    return net
