"""A planned net as the source text of two functions: predict and gradients. The text is meant to be read.

Each node becomes a section: a line that says what it is, the views of memory it needs, and its kernel calls. The same
text runs jitted on the kernels and plainly on their NumPy references; only its import line differs. So it is with
`train`, which is the same for all nets and is given the `gradients` of one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from nbnn.buffers import Buffer, seen
from nbnn.kernels.constants import AGE, AVERAGE, BLOCK, RATE, TIME
from nbnn.kernels.engine import TOOLS
from nbnn.launches import Launch, Section
from nbnn.lower import Lowered
from nbnn.op import LENGTHS, Form

WIDTH = 120

PREDICT = (
    "threads",
    "n",
    "cap",
    "held",
    "data",
    "code",
    "indices",
    "params",
    "state",
    "acts",
    "work",
    "space",
    "own_acts",
)
TARGETS = ("all_labels", "labels", "target_data", "target_code")
ARENAS = ("params", "grads", "state", "acts", "work", "space", "own_acts")
GRADIENTS = (*PREDICT[:7], *TARGETS, *ARENAS, "losses", "out", "squares", "seed", "step")
RULE = ("rule", "settings", "rates", "reg", "clip", "m", "v", "averaged")
TRAIN = ("net", "steps", "weights", *GRADIENTS, *RULE, "of_weights", "kept", "norms", "skip")
PROFILED = (*GRADIENTS, "rule", "weights", "settings", "m", "v", "norms", "times")
TRAIN_KERNELS = ("add_l2", "add_total", "average", "clip_norm", "copy", "square_sums", "update")
FUNCTIONS = ("predict", "gradients")


def source_text(net: Lowered) -> str:
    """The module of one net."""
    parts = [_head(net), _predict(net), _gradients(net)]
    return "\n\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _head(net: Lowered, *more: str) -> list[str]:
    """What the text is, and its imports; `more` names kernels that no call of the net names."""
    table = [part for line in str(net.graph).splitlines() for part in _fold(line, "    ")]
    note = (
        f"{net.dtype}, registers of {net.lanes}. n examples of the capacity cap; indices say which examples of "
        "the data they are. An activation is an array (example, row, column, channel); "
        "view(arena, start, shape, strides) counts elements, and own(...) is for each worker an array of its own for "
        "the few examples, at most `held`, that it takes at a time. A picture that only affine layers read comes as a "
        "vector."
    )
    return [
        '"""One compiled net.',
        "",
        *table,
        "",
        *textwrap.wrap(note, WIDTH),
        '"""',
        *_imports(engine(net), sorted({*_kernels(net), *more})),
    ]


def engine(net: Lowered) -> str:
    """The name by which a text imports its kernels: those of a dtype, or their references."""
    return "reference" if net.lanes == 1 else net.dtype


def _imports(engine: str, names: Sequence[str] = (), more: Iterable[str] = ()) -> list[str]:
    kernels = []
    if names:
        left, right = ", ".join(names), ", ".join(f'"{name}"' for name in names)
        kernels = textwrap.fill(f"({left})", WIDTH - 11, subsequent_indent=" ").splitlines()
        kernels[-1] += " = kernels("
        kernels += textwrap.wrap(f"{right})", WIDTH, initial_indent="    ", subsequent_indent="    ")
    tools = textwrap.fill(f"({', '.join(TOOLS)}) = kernels.tools", WIDTH, subsequent_indent=" ")
    return ["", *more, f"from nbnn.kernels.engine import {engine} as kernels", "", *kernels, *tools.splitlines()]


def profiled_text(net: Lowered) -> tuple[str, list[str]]:
    """`profiled`, a whole step of a net whose calls are apart: times[k] is when part k began, and behind the last part
    when it ended. And the titles of the parts."""
    writer = _Writer(net, ticks=True)
    _write_gradients(writer)
    writer.lines.append("    launch(update(rule, weights, settings, grads, params, m, v, squares, norms))")
    writer.tick("end")
    lines = [
        *_head(net, "update"),
        "tick = kernels.tick",
        "",
        "",
        *_function("profiled", PROFILED, "A step; times learns when each of its parts begins.", "called"),
        "    allow_threads(threads)",
        "    squares[:] = -1.0  # no sum is known",
        *writer.lines,
    ]
    return "\n".join(lines) + "\n", writer.titles[:-1]


def _kernels(net: Lowered) -> list[str]:
    """The names of all kernels that the step calls."""
    found = {c.kernel for s in (*net.training, *net.inference, *net.backward) for c in s.calls}
    always = {"gather", "gather_labels", "add_total"}
    return sorted(found | always | ({"trust"} if "lengths" in found else set()))


def _fold(text: str, hang: str) -> list[str]:
    """A comment or a row of a table in lines of at most WIDTH."""
    return [text] if len(text) <= WIDTH else textwrap.wrap(text, WIDTH, subsequent_indent=hang)


def _function(name: str, arguments: Iterable[str], doc: str, way: str = "compiled") -> list[str]:
    return [f"@{way}", *_wrap(f"def {name}(", list(arguments), "):", 0), f'    """{doc}"""']


def _wrap(head: str, words: list[str], tail: str, indent: int) -> list[str]:
    """head + words + tail in lines of at most WIDTH, later lines under the opening bracket or indented by 8."""
    text = " " * indent + head + ", ".join(words) + tail
    if len(text) <= WIDTH:
        return [text]
    hang = " " * (len(head) + indent if len(head) < 40 else indent + 8)
    return textwrap.wrap(text, WIDTH, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)


class _Writer:
    """The lines of one function, with each view defined where it is first used; `ticks` take the time between them."""

    def __init__(self, net: Lowered, *, ticks: bool = False) -> None:
        self.net = net
        self.ticks = ticks
        self.titles: list[str] = []
        self.lines: list[str] = []
        self.names: dict[Form, str] = {}  # the variable that holds each view
        self.taken = {*PROFILED, *TOOLS, *FUNCTIONS, *_kernels(net), "kernels", "profiled", "tick", "update"}

    def tick(self, title: str) -> None:
        if self.ticks:
            self.lines.append(f"    tick(times, {len(self.titles)})")
            self.titles.append(title)

    def launch(self, launch: Launch) -> None:
        """The views that it needs and the launch; a comment for each node in it."""
        parts = []
        for part in launch.parts:
            if not isinstance(part, int):
                section, c = part
                parts.append((_comment(section), f"{c.kernel}(", [self.operand(o) for o in c.operands]))
            elif part != 0 or len(parts):
                parts.append(("", "deep(", [str(part) if part else "n"]))
        if len(parts) == 1:
            ((_, head, words),) = parts
            self.lines += _wrap(f"launch({head}", words, "))", 4)
            return
        way = "launch_shares" if launch.slots else "launch_beside" if launch.beside else "launch"
        self.lines.append(f"    {way}(")
        if launch.slots:
            self.lines.append(f"        {_slots(self.net.buffers[launch.slots])},")
            self.lines.append("        n,")
        last = ""
        for comment, head, words in parts:
            if comment not in ("", last):
                self.lines += _fold(f"        # {comment}", "        #     ")
                last = comment
            self.lines += _wrap(head, words, "),", 8)
        self.lines.append("    )")

    def launches(self, launches: Iterable[Launch]) -> None:
        last = ""
        for launch in launches:
            if len(launch.parts) == 1 and not isinstance(launch.parts[0], int):
                section = launch.parts[0][0]
                comment = _comment(section)
                if comment != last:
                    self.lines += ["", *_fold(f"    # {comment}", "    #     ")]
                    self.tick(f"{section.node} {section.direction}".strip())
                last = comment
            else:
                self.lines.append("")
                last = ""
            self.launch(launch)

    def operand(self, operand: object) -> str:
        """The text of an operand; writes the view that it names if this is its first use."""
        form = operand if isinstance(operand, Form) else Form("", operand) if isinstance(operand, str) else None
        if form is None:
            return repr(operand)
        if form.kind == "value":
            return form.name
        if form.kind == "count":
            return _times("n", form.settings[0])
        if form.kind == "items":
            return _times(_slots(self.net.buffers[form.name]), form.settings[0])
        if form not in self.names:
            name = "_".join([form.name, *([form.kind] if form.kind else []), *map(str, form.settings)])
            while name in self.taken:  # a node may be called n, view or conv1_rows
                name += "_"
            self.taken.add(name)
            self.names[form] = name
            buffer = self.net.buffers[form.name]
            words = [_view(buffer, form)]
            if buffer.per == "held":
                words.append(f"{self.net.sizes['own_acts']} * held")
            self.lines += _wrap(f"{name} = {'own' if buffer.per == 'held' else 'view'}(", words, ")", 4)
        return self.names[form]


def _times(text: str, factor: int) -> str:
    return text if factor == 1 else f"{text} * {factor}"


def _slots(buffer: Buffer) -> str:
    """How many partial sums a minibatch of n examples is cut into."""
    if buffer.slots == 1:
        return "1"
    return f"slots(n, {buffer.share}, {buffer.slots})"


def _comment(section: Section) -> str:
    way = "" if section.direction in ("", "forward") else f", {section.direction}"
    return f"{section.node} = {section.title}{way}"


def _view(buffer: Buffer, form: Form) -> str:
    """The arguments of `view`: arena, start, shape, strides."""
    shape, strides, offset = seen(buffer, form)
    start = " + ".join([f"{buffer.start} * {buffer.per}", *([str(offset)] if offset else [])])
    if not buffer.per:
        start = str(buffer.start + offset)
    named = {"n": "n", "slots": _slots(buffer), "workers": "threads"}
    sides = [named.get(s, str(s)) for s in shape]
    return f"{buffer.arena}, {start}, ({', '.join(sides)}{',' if len(sides) == 1 else ''}), {strides}"


def _predict(net: Lowered) -> list[str]:
    writer = _Writer(net)
    writer.launches(net.launches["predict"])
    return [
        *_function("predict", PREDICT, "Forward outside training; the scores are left in acts."),
        "    allow_threads(threads)",
        *writer.lines,
    ]


def _gradients(net: Lowered) -> list[str]:
    writer = _Writer(net)
    _write_gradients(writer)
    doc = "Gather a minibatch, forward, loss into out[0], backward into grads; squares learns what is finite."
    return [*_function("gradients", GRADIENTS, doc), "    allow_threads(threads)", *writer.lines]


def _write_gradients(writer: _Writer) -> None:
    """The lines of `gradients`; what it does about all of the loss and the gradient counts with the update."""
    net = writer.net
    writer.launches(net.launches["gradients"])
    writer.tick("update")
    if net.graph.loss is not None:
        writer.lines += ["", "    out[0] = 0.0", "    launch(add_total(losses, 1.0 / n, out))"]
    _trust(writer)


def _trust(writer: _Writer) -> None:
    """The launches that spare `update` the gradients of which a bound is known."""
    net = writer.net
    # Adam must hold the square of each number, with room for what rounding takes from lengths; and blocks have a sum
    limit = {"float32": "2.0**126", "float64": "2.0**990"}[net.dtype]
    said = "    # no number of a large gradient that is within a bound need be looked at"
    for node in net.ops:
        found = [net.names.get((node, word), "") for word in LENGTHS]
        if all(name in net.buffers for name in found):
            writer.lines += [] if said in writer.lines else ["", said]
            lengths, gradient = map(writer.operand, found), net.buffers[net.names[node, "dw"]]
            first, last = -(-gradient.start // BLOCK), (gradient.start + gradient.size) // BLOCK
            sums = f"view(squares, {first}, ({last - first},), (1,))"
            writer.lines.append(f"    launch(trust({', '.join(lengths)}, {limit}, {sums}))")


def caller_text(engine: str) -> str:
    """The module by which Python calls the functions of any net."""
    lines = ['"""How Python calls the functions of a net, whichever it is."""', *_imports(engine)]
    for name, words in (("predict", PREDICT), ("gradients", GRADIENTS)):
        head = _function(name, ("net", *words), f"The `{name}` of a net.", "called")
        lines += ["", "", *head, *_wrap("call(net, ", list(words), ")", 4)]
    return "\n".join(lines) + "\n"


def train_text(engine: str) -> str:
    """The module of `train`. `settings` are those of the update rule; their places are named in
    `kernels/constants.py`."""
    words = [
        {"indices": "indices[k * n:(k + 1) * n]", "out": "out[k:k + 1]", "step": "step + k"}.get(a, a)
        for a in GRADIENTS
    ]
    row = "0, (1, 1, 1, size), (size, size, size, 1)"
    lines = [
        '"""Training by the `gradients` of any net."""',
        *_imports(engine, TRAIN_KERNELS, ["from math import isfinite", ""]),
        "",
        "",
        *_function(
            "train",
            TRAIN,
            "Take `steps` steps; out[k] is the loss of step k, norms[k] a bound of the square of its gradient's norm.",
            "called",
        ),
        "    allow_threads(threads)",
        "    size = state.shape[0]",
        f"    running = view(state, {row})",
        f"    before = view(kept, {row})",
        "    for k in range(steps):",
        "        launch(copy(running, before))",
        "        squares[:] = -1.0  # no sum is known",
        *_wrap("call(net, ", words, ")", 8),
        "        if reg != 0.0:  # the loss gains 0.5 * reg * sum(w * w) over the weights",
        "            launch(add_l2(params[:weights], reg, grads[:weights], of_weights, squares))",
        "            launch(add_total(of_weights, 0.5 * reg, out[k:k + 1]))",
        "        taken = isfinite(out[k])",
        "        if taken:",
        "            if clip > 0.0:",
        "                launch(square_sums(grads, squares))",
        "                launch(clip_norm(squares, clip, grads))",
        f"            settings[{RATE}] = rates[k]",
        f"            settings[{TIME}] += 1.0",
        "            launch(update(rule, weights, settings, grads, params, m, v, squares, norms[k:k + 1]))",
        "            taken = isfinite(norms[k])",
        "            if not taken:",
        f"                settings[{TIME}] -= 1.0",
        f"            elif settings[{AVERAGE}] > 0.0:",
        f"                settings[{AGE}] += 1.0",
        "                launch(average(params, settings, averaged))",
        "        if not taken:  # nothing of this step stays",
        "            launch(copy(before, running))",
        "            if not skip:",
        "                return k",
        "    return steps",
    ]
    return "\n".join(lines) + "\n"
