"""Graph: named op nodes in order, with the shapes between them. Whatever is wrong with a net is said here, before
anything compiles."""

from __future__ import annotations

import dataclasses
import keyword
import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from nbnn.losses import Loss, as_loss, from_plain, to_plain
from nbnn.op import MAX_SIZE, Form, Op, Shape, shown, whole
from nbnn.ops import OPS
from nbnn.words import align, hint, times

INPUT = "input"
MOST_NODES = 1000  # the deepest published nets have some hundreds; a plan takes the square of it in time
MOST_READ = 2000  # inputs of all nodes together; a chain of 1000 nodes has 1000
LONGEST_NAME = 60  # it stands in tables, sentences and the text of the compiled step


class GraphError(ValueError):
    """A graph that cannot be built; the message names the node."""


class Graph:
    """A net: a list of op nodes, the shape of one example, and a loss.

    A node reads the node before it unless it says `inputs=("a", "b")`; a plain list is a chain. `"input"` names the
    data itself.

    >>> from nbnn import Affine, Graph, ReLU
    >>> Graph([Affine(20), ReLU(), Affine(10)], input=(64,), loss="softmax").output_shape
    (10,)
    """

    def __init__(self, nodes: Iterable[Op], *, input: Shape | int, loss: str | Loss | None = None) -> None:
        self.given = _as_ops(nodes)
        self.input = _as_input(input)
        try:
            self.loss = as_loss(loss)
        except ValueError as problem:
            raise GraphError(str(problem)) from None
        self.nodes = _connect(_name(self.given))
        self.shapes = self._infer()
        self._check_use()

    # ---- what it is

    @property
    def output(self) -> str:
        """The name of the last node."""
        return self.nodes[-1].name or ""

    @property
    def output_shape(self) -> Shape:
        return self.shapes[self.output]

    def input_shapes(self, node: Op) -> tuple[Shape, ...]:
        """The shapes that a node of this graph reads."""
        return tuple(self.shapes[name] for name in node.inputs or ())

    @cached_property
    def parameter_count(self) -> int:
        return sum(math.prod(p.shape) for n in self.nodes for p in n.params(*self.input_shapes(n)).values())

    @cached_property
    def multiply_adds(self) -> int:
        """Of one example, forward."""
        return sum(n.multiply_adds(*self.input_shapes(n)) for n in self.nodes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and (self.nodes, self.input, self.loss) == (
            other.nodes,
            other.input,
            other.loss,
        )

    def __hash__(self) -> int:
        return hash((self.nodes, self.input, self.loss))

    def __repr__(self) -> str:
        nodes = []
        for node in self.given:
            named = {k: getattr(node, k) for k in ("name", "inputs") if getattr(node, k) is not None}
            nodes.append(node.written({**node.settings(), **named}))
        plain = to_plain(self.loss)
        return (
            f"Graph([{', '.join(nodes)}], input={self.input}, loss={self.loss if isinstance(plain, dict) else plain!r})"
        )

    def __str__(self) -> str:
        chain = all(
            n.inputs == (before,) for n, before in zip(self.nodes, [INPUT, *(n.name for n in self.nodes)], strict=False)
        )
        header = ["node", "op", *([] if chain else ["reads"]), "output", "parameters", "multiply-adds"]
        table = [[INPUT, "", *([] if chain else [""]), times(self.input), "", ""]]
        for node in self.nodes:
            shapes = self.input_shapes(node)
            count = sum(math.prod(p.shape) for p in node.params(*shapes).values())
            products = node.multiply_adds(*shapes)
            table.append(
                [
                    node.name or "",
                    str(node),
                    *([] if chain else [", ".join(node.inputs or ())]),
                    times(self.shapes[node.name or ""]),
                    f"{count:,}" if count else "",
                    f"{products:,}" if products else "",
                ]
            )
        table.append(
            [
                "loss",
                self.loss.word if self.loss else "none",
                *([] if chain else [""]),
                "",
                f"{self.parameter_count:,}",
                f"{self.multiply_adds:,}",
            ]
        )
        return align([header, *table], right=(len(header) - 2, len(header) - 1))

    # ---- to and from plain data

    def to_dict(self) -> dict[str, Any]:
        """The graph as lists, texts and numbers, fit for JSON and TOML."""
        nodes = []
        for node in self.given:
            row: dict[str, Any] = {"op": type(node).__name__, **node.settings()}
            if node.name is not None:
                row["name"] = node.name
            if node.inputs is not None:
                row["inputs"] = list(node.inputs)
            nodes.append({k: list(v) if isinstance(v, tuple) else v for k, v in row.items()})
        plain: dict[str, Any] = {"input": list(self.input), "nodes": nodes}
        return plain if self.loss is None else {**plain, "loss": to_plain(self.loss)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Graph:
        """The graph that `to_dict` wrote. Nothing but the ops listed in `nbnn.ops.OPS` can come out of it."""
        if not isinstance(plain, Mapping):
            raise GraphError(f"a graph is a dict with the keys input, nodes and loss, got {shown(plain)}")
        unknown = set(plain) - {"input", "nodes", "loss"}
        missing = {"input", "nodes"} - set(plain)
        if unknown or missing:
            wrong = f"the key {sorted(map(shown, unknown))[0]}" if unknown else f"no {sorted(missing)[0]!r}"
            raise GraphError(f"a graph is a dict with the keys input, nodes and loss; this one has {wrong}")
        if not isinstance(plain["nodes"], (list, tuple)):
            raise GraphError(f"nodes must be a list of dicts, one for each op, got {shown(plain['nodes'])}")
        try:
            loss = from_plain(plain.get("loss"))
        except ValueError as problem:
            raise GraphError(str(problem)) from None
        return cls(
            [_op_from_dict(row, place) for place, row in enumerate(plain["nodes"], 1)], input=plain["input"], loss=loss
        )

    # ---- checks

    def _infer(self) -> dict[str, Shape]:
        shapes = {INPUT: self.input}
        for node in self.nodes:
            name = node.name or ""
            read = tuple(shapes[i] for i in node.inputs or ())
            try:
                shapes[name] = node.shape(*read)
            except ValueError as problem:
                raise GraphError(str(problem)) from None
            for array in _arrays(node, read, shapes[name]):
                if math.prod(array) > MAX_SIZE:
                    raise GraphError(
                        f"{name}: {node} needs an array of {times(array)} numbers, more than 2**48; make it smaller"
                    )
        if self.loss is not None:
            try:
                self.loss.check(shapes[self.output])
            except ValueError as problem:
                raise GraphError(f"{self.output}: {problem}") from None
        return shapes

    def _check_use(self) -> None:
        read = {i for node in self.nodes for i in node.inputs or ()}
        for node in self.nodes[:-1]:
            if node.name not in read:
                raise GraphError(f"{node.name}: no node reads it; name it in the inputs of a later node or remove it")


def _arrays(node: Op, read: tuple[Shape, ...], shape: Shape) -> Iterable[Shape]:
    """What a node needs memory for: its output, its own arrays, and the frames of zeros around what it reads."""
    yield shape
    for array in (*node.params(*read).values(), *node.scratch(*read).values()):
        yield tuple(side for side in array.memory if isinstance(side, int))
    for c in (*node.forward(*read), *node.backward_input(*read)):
        for o in c.operands:
            if isinstance(o, Form) and o.kind == "padded":
                channels, *sides = read[0] if o.name == "x" else shape
                yield (channels, *(side + 2 * o.settings[0] for side in sides))


def _as_ops(nodes: Iterable[Op]) -> tuple[Op, ...]:
    if isinstance(nodes, Op):
        raise GraphError(f"a graph is built from a list of op nodes, got one {type(nodes).__name__}; write [{nodes}]")
    try:
        listed = tuple(nodes)
    except TypeError:
        raise GraphError(
            f"a graph is built from a list of op nodes, got {shown(nodes)}; write for instance [Affine(10)]"
        ) from None
    if not listed:
        raise GraphError("a graph needs at least one node, got an empty list; write for instance [Affine(10)]")
    if len(listed) > MOST_NODES:
        raise GraphError(f"a graph has at most {MOST_NODES} nodes, got {len(listed)}; cut the net into several graphs")
    for place, node in enumerate(listed, 1):
        if isinstance(node, type) and issubclass(node, Op):
            raise GraphError(f"node {place} is the class {node.__name__}; write {node.__name__}(...) with its settings")
        if not isinstance(node, Op):
            raise GraphError(f"node {place} must be an op, got {shown(node)}; the ops are {', '.join(OPS)}")
    return listed


def _as_input(shape: Any) -> Shape:
    try:
        sizes = tuple(whole(s) for s in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise GraphError(
            "input must be (channels, height, width) or (features,), all at least 1 and without the batch, "
            f"got {shown(shape)}"
        )
    if math.prod(sizes) > MAX_SIZE:
        raise GraphError(f"input: {times(sizes)} is more than 2**48 numbers; make it smaller")
    return sizes


def _name(nodes: tuple[Op, ...]) -> tuple[Op, ...]:
    taken = {INPUT: "the data"}
    for place, node in enumerate(nodes, 1):
        name = node.name
        if name is None:
            continue
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
            raise GraphError(
                f"node {place}: {shown(name)} is no name for a node; use letters, digits and _, beginning with a "
                "letter and not a word of Python's own, such as 'conv_a'"
            )
        if len(name) > LONGEST_NAME:
            raise GraphError(f"node {place}: the name {shown(name)} is too long; use at most {LONGEST_NAME} letters")
        if name in taken:
            raise GraphError(f"node {place}: {name!r} is the name of {taken[name]}; give this node another name")
        taken[name] = f"node {place}"
    counts: dict[str, int] = {}
    named = []
    for node in nodes:
        if node.name is None:
            while (automatic := f"{node.label}{counts.setdefault(node.label, 1)}") in taken:
                counts[node.label] += 1
            taken[automatic] = "a node"
            node = dataclasses.replace(node, name=automatic)
        named.append(node)
    return tuple(named)


def _connect(nodes: tuple[Op, ...]) -> tuple[Op, ...]:
    known = {INPUT: None}  # in order
    later = {node.name for node in nodes}
    last, connected = INPUT, []
    if sum(len(node.inputs or "x") for node in nodes) > MOST_READ:
        raise GraphError(f"the nodes of a graph have at most {MOST_READ} inputs together; join fewer of them at a time")
    for node in nodes:
        name = node.name or ""
        if node.inputs is None:
            if node.several:
                raise GraphError(f"{name}: {type(node).__name__} reads several nodes; name them: inputs=(..., ...)")
            node = dataclasses.replace(node, inputs=(last,))
        names = node.inputs or ()
        for i in names:
            if i not in known:
                if i in later:
                    raise GraphError(
                        f"{name}: reads {i!r}, which does not come before it; a node can only read nodes before it"
                    )
                raise GraphError(
                    f"{name}: reads {shown(i)}, but there is no such node; {hint(i, known, 'it can read')}"
                )
        if node.several and len(names) < 2:
            raise GraphError(
                f"{name}: {type(node).__name__} needs at least two inputs, got {len(names)}; name all in inputs="
            )
        if not node.several and len(names) != 1:
            raise GraphError(
                f"{name}: {type(node).__name__} reads one node, got {len(names)} inputs; "
                + ("join them with Add or Concat first" if names else "without inputs= it reads the node before it")
            )
        known[name] = None
        last = name
        connected.append(node)
    return tuple(connected)


def _op_from_dict(row: Any, place: int) -> Op:
    if not isinstance(row, Mapping) or not isinstance(row.get("op"), str):
        raise GraphError(f"node {place} must be a dict with an 'op', such as {{'op': 'ReLU'}}, got {shown(row)}")
    settings = dict(row)
    kind = settings.pop("op")
    if kind not in OPS:
        raise GraphError(f"node {place}: there is no op {shown(kind)}; {hint(kind, OPS)}")
    op = OPS[kind]
    fields = {f.name: f for f in dataclasses.fields(op) if f.init}  # type: ignore[arg-type]
    for key in settings:
        if key not in fields:
            raise GraphError(f"node {place}: {kind} has no setting {shown(key)}; {hint(key, fields, 'it has')}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in settings:
            raise GraphError(f"node {place}: {kind} needs the setting {key!r}; give it a value")
    try:
        return op(**settings)
    except (ValueError, TypeError) as problem:
        raise GraphError(f"node {place}: {problem}") from None
