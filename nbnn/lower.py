"""From a graph to a list of kernel calls on planned memory: passes in one tuple, of which any can be the last.

    infer         nodes and shapes: those of the graph, but for a picture that is only taken for a vector
    choose        each node's op, or one that does the same by faster kernels; what can be part of another node is
    list_calls    each node's kernel calls, in the node's own words
    route         words become arrays of the whole net: who reads whose output, where gradients meet, who needs none
    join          calls become launches: what the threads take their examples through together
    plan_buffers  every array gets its place in an arena, its strides and its frame of zeros
    emit          the source text of the step (see `codegen`)

Every pass takes a `Lowered` and returns a new one; `str` of it shows the stage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from nbnn.buffers import Buffer, itemsize, plan_buffers, row_room, slot_counts
from nbnn.fused import fuse
from nbnn.graph import INPUT, Graph
from nbnn.launches import Launch, Planner, Section, alone, array_of, name_of
from nbnn.losses import to_plain
from nbnn.memory import Sharing
from nbnn.op import Array, Call, Form, Op, Shape, call, picture
from nbnn.remade import made_once_more
from nbnn.words import align, times

TO_WEIGHTS, TO_INPUT = "to the weights", "to the input"  # directions of a backward section


@dataclass(frozen=True)
class Lowered:
    """A net on its way to source text. Later passes fill more of it."""

    graph: Graph
    dtype: str
    lanes: int
    algorithm: str = "auto"
    apart: bool = False
    stage: str = "graph"
    ops: dict[str, Op] = field(default_factory=dict)  # node -> the op that computes it
    training: tuple[Section, ...] = ()
    inference: tuple[Section, ...] = ()
    backward: tuple[Section, ...] = ()
    launches: dict[str, tuple[Launch, ...]] = field(default_factory=dict)  # of predict and of gradients
    slots: dict[str, int] = field(default_factory=dict)  # of how many sums an array of partial sums has room
    arrays: dict[str, Array] = field(default_factory=dict)  # routed name -> what it is
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)  # routed name -> (node, kind of array)
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # (node, its own word) -> routed name
    aliases: dict[str, str] = field(default_factory=dict)  # outside training: output -> the tensor that it is
    buffers: dict[str, Buffer] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # arena -> elements (acts: per example; own_acts: of one held)
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
    """Names and shapes: the graph has found and checked them when it was made. A picture that is only ever taken for a
    vector comes as one: so it lies in the data, and so do the weights that it meets. The reference takes the graph at
    its word."""
    graph = net.graph
    if net.lanes == 1 or not all(n.takes_vectors for n in graph.nodes if INPUT in (n.inputs or ())):
        return net
    return replace(net, graph=Graph(graph.nodes, input=(math.prod(graph.input),), loss=graph.loss))


def choose(net: Lowered) -> Lowered:
    """Find the op that computes each node. The reference takes every node at its word, algorithm="direct" every sum."""
    if net.lanes == 1:
        return replace(net, ops={n.name or "": n for n in net.graph.nodes})
    direct = net.algorithm == "direct"
    ops = {n.name or "": n if direct else n.chosen(*net.graph.input_shapes(n)) for n in net.graph.nodes}
    return replace(net, ops=fuse(net.graph, ops))


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
            words["target"] = scope.declare("target", graph.output, "target", tensor_array(graph.output_shape))
            data = tuple(Form("value", word) for word in ("target_data", "target_code", "indices"))
            targets = call("gather", *data, words["target"])
        backward.append(Section("loss", repr(to_plain(graph.loss)), (targets, graph.loss.call().renamed(words)), ""))
        reached.add(graph.output)
        for section in net.backward:
            node = scope.nodes[section.node]
            if needs[section.node] and not node.merged:
                calls = scope.route_back(node, section, needs, reached)
                backward += [replace(section, calls=tuple(calls))] if calls else []
    aliases: dict[str, str] = {}
    for node in net.ops.values():
        if node.passes:
            source = (node.inputs or ())[0]
            aliases[node.name or ""] = aliases.get(source, source)
    inference = tuple(replace(s, calls=tuple(c.renamed(aliases) for c in s.calls)) for s in inference)
    forward = _measured((start, *training))
    if net.lanes > 1:
        products = {name: op.multiply_adds(*graph.input_shapes(op)) for name, op in net.ops.items()}
        backward = made_once_more(scope, training, backward, products)
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


def _measured(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    """Where a node wants the lengths of the examples of the minibatch, the gather finds them as well: those that the
    first such node wants."""
    calls = (c for s in sections for c in s.calls)
    lengths = next((c for c in calls if c.kernel == "lengths" and c.operands[0] == INPUT), None)
    if lengths is None:
        return sections
    start, *rest = sections
    both = call("gather_lengths", *start.calls[0].operands, lengths.operands[1])
    rest = [replace(s, calls=tuple(c for c in s.calls if c is not lengths)) for s in rest]
    return replace(start, calls=(both,)), *rest


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


def tensor_array(shape: Shape) -> Array:
    """The output of a node, as the kernels see it."""
    channels, height, width = picture(shape)
    return Array(("n", height, width, channels))


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
        self.merged: dict[str, str] = {}  # output of a merged node -> the tensor that it is
        for name, node in ops.items():
            if node.merged:
                self.merged[name] = self.tensor((node.inputs or ())[0])
        for name, shape in graph.shapes.items():
            if name not in self.merged:
                self.declare(name, name, "value", tensor_array(shape))
        for name, node in self.nodes.items():
            shapes = graph.input_shapes(node)
            words = {"y": self.tensor(name)}
            for k, source in enumerate(map(self.tensor, node.inputs or ())):
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

    def tensor(self, name: str) -> str:
        """The tensor that the output of a node is."""
        return self.merged.get(name, name)

    def gradient(self, name: str) -> str:
        """The name of the gradient of a tensor, declared when it is first asked for."""
        tensor = self.tensor(name)
        if tensor not in self.gradients:
            array = tensor_array(self.graph.shapes[tensor])
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
        found = [c.renamed(words) for c in calls]
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
        for k, source in enumerate(map(self.tensor, node.inputs or ())):
            if not needs[source]:
                unwanted.add(f"dx{k}")
                continue
            target = gradient = self.gradient(source)
            if source in reached:
                target = self.declare(f"{gradient}_by_{name}", source, "part", tensor_array(graph.shapes[source]))
                sums.append(call("add_forward", gradient, target, gradient))
            reached.add(source)
            words |= {f"dx{k}": target} | ({"dx": target} if k == 0 else {})
        if len(unwanted) == len(node.inputs or ()):
            return []
        wanted = tuple(c for c in section.calls if not unwanted & set(map(str, c.operands)))
        return self.numbered(name, wanted, words) + sums


def join(net: Lowered) -> Lowered:
    """Put the calls into launches; the reference runs them one by one, and so does who wants to see them apart."""
    functions = {"predict": net.inference, "gradients": (*net.training, *net.backward)}
    slots = slot_counts(net, net.arrays, (c for sections in functions.values() for s in sections for c in s.calls))
    if net.lanes == 1 or net.apart:
        return replace(net, slots=slots, launches={name: alone(sections) for name, sections in functions.items()})

    def row_bytes(columns: int) -> int:
        return row_room(net, columns) * itemsize(net.dtype)

    plans = {name: Planner(net.arrays, row_bytes, slots).plan(sections) for name, sections in functions.items()}
    return replace(net, slots=slots, launches=plans)


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
    apart: bool = False,
    stop: str | None = None,
) -> Lowered:
    """Run the passes; `stop` names the last one. `lanes` is the register width in elements, that of this machine by
    default; `algorithm="direct"` rules out algorithms that round differently from a plain sum; `apart` makes each call
    a launch of its own."""
    names = [p.__name__ for p in PASSES]
    if stop is not None and stop not in names:
        raise ValueError(f"there is no pass {stop!r}; the passes are {', '.join(names)}")
    if lanes is None:
        from nbnn.kernels.simd import lanes_of

        lanes = lanes_of(dtype)
    net = Lowered(graph, dtype, lanes, algorithm, apart)
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
            wanted = Counter((s.node, s.direction, c) for s in sections for c in s.calls)
            if Counter((s.node, s.direction, c) for s, c in parts) != wanted:
                broken(f"the launches of {name} do not make each call once")
    if net.stage in ("plan_buffers", "emit"):
        for name, b in net.buffers.items():
            if b.arena == "space" and not b.start + b.size <= net.sizes["space"] == b.strides[0]:
                broken(f"{name} of one worker reaches into the room of the next")
        for launch in (launch for launches in net.launches.values() for launch in launches):
            calls = [p[1] for p in launch.parts if not isinstance(p, int)]
            touched = {str(array_of(o)) for c in calls for o in c.operands} if launch.slots else set()
            sums = {name: net.buffers[name] for name in touched if name in net.buffers and net.buffers[name].slots}
            if len({(b.slots, b.share) for b in sums.values()}) > 1:
                broken(f"the sums of one launch are over other shares: {', '.join(sorted(sums))}")
        for arena in ("params", "grads", "state", "acts", "work", "own_acts"):
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
