"""From graph to source text: every stage against its golden text, and what must hold for any net.

The golden texts of two nets lie in tests/golden; `pytest --rewrite-golden` writes them anew.
"""

import ast
import dataclasses
import hashlib
import itertools
import keyword
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import nbnn
from nbnn import (
    Add,
    Affine,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Graph,
    GraphError,
    GroupNorm,
    Identity,
    LayerNorm,
    MaxPool,
    ReLU,
    Scale,
    Tanh,
)
from nbnn import lower as lowering
from nbnn.buffers import held
from nbnn.codegen import caller_text, profiled_text, train_text
from nbnn.kernels import names
from nbnn.kernels.constants import BLOCK
from nbnn.kernels.engine import TOOLS, reference
from nbnn.lower import PASSES, lower
from nbnn.memory import HELD
from nbnn.op import Call, Form

STAGES = [step.__name__ for step in PASSES]
WIDTH = 120


def chain():
    nodes = [Conv(8, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Dropout(0.25), Affine(128)]
    return Graph(nodes, input=(3, 8, 8), loss="softmax")


def dag():
    return Graph(
        [
            Conv(8, 3, pad=1, groups=2, name="stem"),
            ReLU(),
            Conv(8, 3, stride=2, pad=1),
            Conv(8, 1, stride=2, bias=False, inputs="relu1", name="short"),
            Add(inputs=("conv1", "short")),
            MaxPool(2, inputs="relu1"),
            Concat(inputs=("add1", "pool1")),
            LayerNorm(),
            Affine(5),
        ],
        input=(4, 6, 6),
        loss="mse",
    )


def wide():
    """Long names and many inputs: lines that must be folded."""
    names = [f"a_rather_long_name_for_a_branch_{k}" for k in range(12)]
    branches = [Conv(3, 1, inputs="input", name=name) for name in names]
    joined = [
        Concat(inputs=names),
        Add(inputs=[names[0], *names], name="sum"),
        Flatten(inputs="concat1"),
        Flatten(inputs="sum"),
    ]
    return Graph([*branches, *joined, Concat(inputs=("flatten1", "flatten2")), Affine(2)], input=(4, 5, 5), loss="svm")


def head_first():
    """Ops without parameters stand between the input and the first weights."""
    nodes = [ReLU(), Dropout(0.5), BatchNorm(), Identity(), Scale(), GroupNorm(1), Add(inputs=("gn1", "input"))]
    return Graph([*nodes, Conv(4, (1, 3), dilation=2), Affine(3)], input=(2, 9, 9), loss="softmax")


def winograd():
    """Convolutions that go Winograd's way: workers have room of their own."""
    nodes = [Conv(20, 3, pad=1), ReLU(), Conv(130, 3), ReLU(), Conv(16, 3, pad=2), Affine(3)]
    return Graph(nodes, input=(16, 9, 9), loss="softmax")


def no_loss():
    return Graph([Affine(7), Tanh(), Dropout(0.1)], input=5)


GRAPHS = {make.__name__: make() for make in (chain, dag, wide, head_first, winograd, no_loss)}
EACH_GRAPH = pytest.mark.parametrize("graph", [pytest.param(graph, id=name) for name, graph in GRAPHS.items()])


# ---- the stages


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["chain", "dag"])
def test_a_stage_reads_as_its_golden_text(name, stage, golden):
    net = lower(GRAPHS[name], dtype="float32", lanes=16, stop=stage)
    assert net.stage == stage
    golden(f"{name}.{stage}", str(net))


def test_what_is_the_same_for_all_nets_reads_as_its_golden_text(golden):
    golden("caller", caller_text("float32"))
    golden("train", train_text("float32"))


def test_a_profile_reads_as_its_golden_text(golden):
    golden("chain.profile", profiled_text(lower(GRAPHS["chain"], dtype="float32", lanes=16, apart=True))[0])


def test_without_stop_all_passes_run():
    assert lower(chain(), lanes=16) == lower(chain(), lanes=16, stop=STAGES[-1])


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError) as caught:
        lower(chain(), lanes=16, stop="fuse")
    assert str(caught.value) == f"there is no pass 'fuse'; the passes are {', '.join(STAGES)}"


def test_a_stage_leaves_the_one_before_as_it_was():
    before, texts = lowering.Lowered(dag(), "float32", 16), []
    stages = [before]
    for step in PASSES:
        texts.append(str(stages[-1]))
        stages.append(step(stages[-1]))
    assert [str(stage) for stage in stages[:-1]] == texts


# ---- buffers


@EACH_GRAPH
@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 16), ("float64", 4), ("float64", 1)])
def test_nobody_reads_what_another_array_has_overwritten(graph, dtype, lanes):
    """Goes through the calls as they will run and keeps book of whose numbers lie where."""
    net = lower(graph, dtype=dtype, lanes=lanes, stop="plan_buffers")
    kernels = names()
    shared = {name: b for name, b in net.buffers.items() if b.arena in ("acts", "work", "own_acts")}
    own = {name for name, b in shared.items() if b.arena == "own_acts"}
    over = {
        a: {
            b
            for b, y in shared.items()
            if x.arena == y.arena and max(x.start, y.start) < min(x.start + x.size, y.start + y.size)
        }
        for a, x in shared.items()
    }
    assert all(
        b.start % 16 == 0 and b.start + b.size <= net.sizes[b.arena] for b in net.buffers.values() if b.arena != "space"
    )
    for function, launches in net.launches.items():
        # zeros that nobody fills, and what is filled in part, must stay for good: they overlap with nobody
        lying = {name for name in shared if over[name] == {name}}
        for launch in launches:
            here, written, few = set(), set(), False
            lying -= own
            for part in launch.parts:
                if isinstance(
                    part, int
                ):  # a worker's own arrays hold a few examples, which are gone with the next ones
                    lying, few = lying - own, launch.slots is not None or 0 < part <= HELD
                    continue
                call = part[1]
                numbers = ("value", "count", "items")
                operands = [
                    (None if o.kind in numbers else o.name) if isinstance(o, Form) else o for o in call.operands
                ]
                filled = {operands[k] for k in kernels[call.kernel].outputs} & set(shared)
                touched = {o for o in operands if isinstance(o, str)} & set(shared)
                place = {(shared[n].start, shared[n].strides) for n in filled}
                assert few or not touched & own, f"{function}: {call.kernel} takes more examples than a worker holds"
                for name in touched - filled:
                    assert name in lying, f"{function}: {call.kernel} reads {name}, which is no longer there"
                for name in filled:
                    if call.kernel not in ("clear_frame", "add_forward"):
                        lying -= over[name] - {name}
                    lying.add(name)
                if launch.beside:  # nobody says which call comes first
                    others = {other for name in here for other in over[name]}
                    behind = {other for name in written for other in over[name]}
                    assert not (filled & others or touched & behind), f"{function}: {call.kernel} needs its neighbours"
                written |= filled
                # others of the launch may still be at their next examples: only the very same place may be taken over
                for name in touched - own:
                    for other in here & over[name]:
                        assert other == name or (shared[other].start, shared[other].strides) in place | {
                            (shared[name].start, shared[name].strides)
                        }, f"{function}: {name} over {other} in one launch"
                here |= touched
        if function == "predict":
            lying -= own
            assert net.aliases.get(graph.output, graph.output) in lying


@EACH_GRAPH
@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 16), ("float64", 4), ("float64", 1)])
def test_no_view_leaves_its_buffer(graph, dtype, lanes):
    """Every view in the text, for a full and for a small minibatch, lies inside an array of the plan."""
    net = lower(graph, dtype=dtype, lanes=lanes)
    slots = dict(zip(TOOLS, reference.tools, strict=True))["slots"]
    calls = [
        c for c in ast.walk(ast.parse(net.source)) if isinstance(c, ast.Call) and ast.unparse(c.func) in ("view", "own")
    ]
    assert calls
    for call, (n, cap, threads) in itertools.product(calls, [(1, 1, 1), (3, 7, 2), (40, 40, 5)]):
        arena = ast.unparse(call.args[0])
        own = held(net, cap) if ast.unparse(call.func) == "own" else n  # so many examples come through at a time
        known = {"n": own, "cap": cap, "slots": slots, "threads": threads, "held": held(net, cap)}
        start, shape, strides, *apart = (eval(ast.unparse(a), {}, known) for a in call.args[1:])
        assert apart in ([], [net.sizes["own_acts"] * held(net, cap)])
        assert min(shape) >= 1
        reach = [(side - 1) * stride for side, stride in zip(shape, strides, strict=True)]
        least, last = start + sum(min(r, 0) for r in reach), start + sum(max(r, 0) for r in reach)
        if arena == "squares":  # a number for each block of the parameters
            assert last < -(-net.sizes["params"] // BLOCK)
            continue
        around = []
        for name, b in net.buffers.items():
            times = {"cap": cap, "held": held(net, cap), "": 1}[b.per]
            end = b.start + b.size + (b.strides[0] * (threads - 1) if b.arena == "space" else 0)
            if b.arena == arena and b.start * times <= least and last < end * times:
                around.append(name)
        assert around, ast.unparse(call)


@pytest.mark.parametrize("size", [0, 1, 16, 896])
def test_train_keeps_all_of_the_state_and_no_more(size):
    calls = [c for c in ast.walk(ast.parse(train_text("float32"))) if isinstance(c, ast.Call)]
    views = [c for c in calls if ast.unparse(c.func) == "view"]
    assert [ast.unparse(view.args[0]) for view in views] == ["state", "kept"]
    for view in views:
        start, shape, strides = (eval(ast.unparse(a), {}, {"size": size}) for a in view.args[1:])
        reach = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        assert (start, reach) == (0, size - 1)


def test_the_workers_arrays_of_a_call_lie_side_by_side():
    net = lower(winograd(), lanes=16, stop="plan_buffers")
    seen = 0
    for section in (*net.training, *net.inference, *net.backward):
        for call in section.calls:
            rooms = [net.buffers[o] for o in call.operands if isinstance(o, str) and net.buffers[o].arena == "space"]
            ends = sorted((b.start, b.start + b.size) for b in rooms)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
            # each worker has a room of its own, so it may be at another call of a launch than the others
            assert all(b.start + b.size <= net.sizes["space"] == b.strides[0] for b in rooms)
            seen += len(rooms)
    # forward, to the weights, to the input, inference; the affine
    assert seen == 3 * 3 + 3 * 4 + 2 * (1 + 3) + 3 * 3 + 1


SHARED = Graph(
    [*(Conv(64, 3, pad=1), BatchNorm(), ReLU()), *(Conv(64, 3, pad=1), BatchNorm(), ReLU()), Affine(10)],
    input=(16, 16, 16),
    loss="softmax",
)


@pytest.mark.parametrize("graph", [SHARED, *GRAPHS.values()], ids=["tiles of 4 examples", *GRAPHS])
def test_a_worker_has_room_for_its_whole_share(graph):
    """A share of a minibatch that is too small for two of them is nearly twice as large as one has to be."""
    net = lower(graph, lanes=16)
    launches = [launch for launch in net.launches["gradients"] if launch.slots]
    assert launches or graph is not SHARED
    for launch, cap in itertools.product(launches, range(1, 80)):
        sums = net.buffers[launch.slots]
        for n in range(1, cap + 1):
            assert -(-n // min(max(n // sums.share, 1), sums.slots)) <= held(net, cap), (str(launch), n, cap)


def test_small_minibatches_in_shares_of_several_examples():
    nbnn.compile(SHARED, seed=1).verify(batch=7)


def residual(blocks: int, side: int = 8, inputs: tuple[str, ...] = ()) -> Graph:
    """x0, x1 ... are what goes from block to block; `inputs` are added as well in each."""

    def layer(name: str | None = None) -> list:
        return [Conv(16, 3, pad=1), BatchNorm(), ReLU(name=name)]

    nodes = layer("x0")
    for k in range(blocks):
        nodes += [*layer(), *layer(f"f{k}"), Add(inputs=(f"x{k}", f"f{k}", *inputs), name=f"x{k + 1}")]
    return Graph([*nodes, GlobalAvgPool(), Affine(10)], input=(3, side, side), loss="softmax")


def made_again(graph: Graph) -> set[str]:
    return {name.removesuffix("_again") for name in lower(graph, lanes=16).arrays if name.endswith("_again")}


def test_sums_of_a_norm_and_what_is_kept_are_made_once_more():
    """x2 from x1, which therefore is kept; x0, which nobody needs for that, like all norms that only weights need."""
    found = made_again(residual(3))
    assert {"x2", "bn5", "bn1"} <= found
    assert found.isdisjoint({"x1", "x3"})
    assert made_again(residual(3, inputs=("x0",))).isdisjoint({"x1", "x2", "x3"})  # three are added in two calls


def test_a_tensor_that_is_added_to_itself_is_made_once_more_once():
    layer = [Conv(16, 3, pad=1), BatchNorm(), ReLU(name="b")]  # bn1 and b are one tensor
    nodes = [*layer, Add(inputs=("b", "b"), name="s"), Conv(16, 3, pad=1), GlobalAvgPool(), Affine(10)]
    graph = Graph(nodes, input=(3, 8, 8), loss="softmax")
    assert made_again(graph) == {"bn1", "s"}


def cheap(filters: int) -> Graph:
    """A first convolution of 3 products for each of its numbers, and one that has many."""
    rest = [BatchNorm(), ReLU(), Conv(64, 3, pad=1), BatchNorm(), ReLU(), GlobalAvgPool(), Affine(10)]
    return Graph([Conv(filters, 1), *rest], input=(3, 8, 8), loss="softmax")


def test_first_convolutions_are_made_once_more_where_that_is_a_hundredth_of_the_step():
    assert "conv1" in made_again(cheap(4))
    assert "conv1" not in made_again(residual(3))


@pytest.mark.parametrize("graph", [residual(2), cheap(4)], ids=["norms and sums", "a convolution"])
def test_what_is_made_once_more_is_the_same(graph, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, *graph.input)).astype(np.float32), rng.integers(0, 10, 9)
    found = []
    for _ in range(2):
        model = nbnn.compile(graph, seed=1)
        losses = model.train_steps(x, y, steps=3)
        found.append((model.source().count("_again"), [a.tobytes() for a in (losses, *model.state_dict().values())]))
        monkeypatch.setattr(lowering, "made_once_more", lambda scope, training, backward, products: backward)
    assert found[0][0] > 0 == found[1][0]
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(
    ("conv", "shape", "held"),
    [(Conv(16, 5), (6, 12, 12), True), (Conv(8, (1, 16)), (8, 1, 40), True), (Conv(8, (1, 400)), (8, 1, 16000), False)],
)
def test_rows_of_wide_windows_are_not_held(conv, shape, held):
    """The way back to few channels holds a row of the window for each place of a row of dy: too much, sometimes."""
    net = lower(Graph([Scale(), conv, GlobalAvgPool(), Affine(2)], input=shape, loss="softmax"), lanes=8)
    assert ("conv_backward_data_narrow" in net.source) == held
    assert net.sizes["space"] <= 1 << 17


def test_parameters_and_gradients_lie_alike_and_weights_come_first():
    net = lower(dag(), lanes=16)
    for node in net.graph.nodes:
        for local, array in node.params(*net.graph.input_shapes(node)).items():
            p, g = (net.buffers[net.names[node.name, word]] for word in (local, f"d{local}"))
            assert dataclasses.replace(p, arena="") == dataclasses.replace(g, arena="")
            assert (p.start + p.size <= net.decayed) == array.decay
    assert net.sizes["params"] == net.sizes["grads"]


# ---- the text


@EACH_GRAPH
@pytest.mark.parametrize("lanes", [16, 1])
def test_the_text_compiles_and_keeps_to_the_width(graph, lanes):
    text = lower(graph, lanes=lanes).source
    compile(text, "<step>", "exec")
    assert text.isascii() and text.endswith("\n") and "\t" not in text
    assert [line for line in text.splitlines() if len(line) > WIDTH or line != line.rstrip()] == []


def test_the_same_graph_gives_the_same_text_in_any_process():
    program = (
        "import hashlib; from nbnn import *; from nbnn.lower import lower; "
        f"print(hashlib.sha256(lower({dag()!r}, lanes=16).source.encode()).hexdigest())"
    )
    wanted = hashlib.sha256(lower(dag(), lanes=16).source.encode()).hexdigest()
    for seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert child.stdout.strip() == wanted


@EACH_GRAPH
def test_nobody_computes_the_gradient_of_the_input(graph):
    net = lower(graph, lanes=16, stop="plan_buffers")
    assert "d_input" not in net.arrays and "d_input" not in str(net)
    weights = [node.name for node in graph.nodes if node.params(*graph.input_shapes(node))]
    first = next((s for s in reversed(net.backward)), None)
    if graph.loss is not None:
        assert first.node == weights[0], "the way back ends at the first parameters"
        assert not any(c.kernel in ("conv_backward_data", "affine_backward_data", "norm_backward") for c in first.calls)


@EACH_GRAPH
def test_every_parameter_gets_its_gradient(graph):
    net = lower(graph, lanes=16, stop="route")
    operands = {o for section in net.backward for c in section.calls for o in c.operands}
    named = {o.name if isinstance(o, Form) else o for o in operands}
    for node in graph.nodes:
        for local in node.params(*graph.input_shapes(node)):
            assert (net.names[node.name, f"d{local}"] in named) == (graph.loss is not None)


def test_outside_training_nothing_is_dropped_or_copied():
    net = lower(head_first(), lanes=16, stop="route")
    assert {c.kernel for s in net.training for c in s.calls} >= {"dropout", "copy", "batch_statistics"}
    assert not {c.kernel for s in net.inference for c in s.calls} & {"dropout", "copy", "batch_statistics"}


# ---- names


PLACES = (1, 7)  # of the node with a name of its own: before or after most others


def branched(name, place, loss="softmax"):
    """A net with one node of that name; the others are called as they would be by themselves."""
    nodes = [Conv(4, 3, pad=1, name="conv1"), BatchNorm(name="bn1"), ReLU(name="relu1"), MaxPool(2, name="pool1")]
    nodes += [Conv(4, 2, groups=2, name="conv2"), LayerNorm(name="ln1"), Add(inputs=("ln1", "conv2"), name="add1")]
    nodes.insert(place, LayerNorm(name=name))
    return Graph([*nodes, Affine(3, name="affine1")], input=(2, 6, 6), loss=loss)


def words_of_the_text():
    """Every name in the generated text or the plan, and more: any may be somebody's name for a node."""
    found = {"node", "value", "x", "y", "dx", "x0", "self", "np", "numba", "print", "True", "lambda", "input_padded_2"}
    for loss in ("softmax", "mse"):
        net = lower(branched("guest", 1, loss), lanes=16)
        found |= {*net.arrays}
        for node in ast.walk(ast.parse(net.source)):
            names = [getattr(node, key, None) for key in ("id", "arg", "name", "attr")]
            found |= {name for name in names if isinstance(name, str) and name.isidentifier()}
    return sorted(found)


def result(graph):
    """The loss and all gradients of one step, in the order of the graph, on the reference kernels."""
    model = nbnn.compile(graph, backend="numpy", dtype="float64")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, *graph.input))
    loss, grads = model.loss(x, np.array([0, 2, 1]) if graph.loss.classifies else rng.standard_normal((3, 3)))
    return [np.asarray(loss), *grads.values(), model.loss(x)]


def test_a_node_may_have_any_name_that_the_text_uses():
    """The net computes the same whatever its nodes are called; the few names that cannot be are refused."""
    words = words_of_the_text()
    assert {"n", "params", "view", "labels", "out", "conv_forward", "conv1_w", "input_padded_1"} <= set(words)
    losses = ("softmax", "mse")
    wanted = {(place, loss): result(branched("guest", place, loss)) for place in PLACES for loss in losses}
    refused = set()
    for number, (place, word) in enumerate(itertools.product(PLACES, words)):
        loss = losses[number % 2]
        try:
            graph = branched(word, place, loss)
        except GraphError as problem:
            refused.add(word)
            assert re.search(r"is no name for a node|is the name of .*; give this node another name$", str(problem))
            continue
        for found, right in zip(result(graph), wanted[place, loss], strict=True):
            np.testing.assert_array_equal(found, right, err_msg=word)
    nodes = set(branched("guest", 1).shapes) - {"guest"}
    assert refused == {word for word in words if word in nodes or keyword.iskeyword(word)}


# ---- the checks between the passes


def broken_route(net):
    return dataclasses.replace(lowering.route(net), arrays={})


def broken_overlap(net):
    net = lowering.plan_buffers(net)
    name, buffer = list(net.buffers.items())[1]
    return dataclasses.replace(net, buffers={**net.buffers, name: dataclasses.replace(buffer, start=buffer.start - 1)})


def broken_rooms(net):
    net = lowering.plan_buffers(net)
    held = net.buffers["affine1_held"]
    held = dataclasses.replace(held, strides=(held.strides[0] - 16, *held.strides[1:]))
    return dataclasses.replace(net, buffers={**net.buffers, "affine1_held": held})


def broken_shares(net):
    net = lowering.plan_buffers(net)
    fewer = dataclasses.replace(net.buffers["conv1_parts_w"], slots=8)
    return dataclasses.replace(net, buffers={**net.buffers, "conv1_parts_w": fewer})


def broken_size(net):
    net = lowering.plan_buffers(net)
    return dataclasses.replace(net, sizes={**net.sizes, "params": net.sizes["params"] // 2})


def broken_emit(net):
    section = lowering.Section("pool1", "", (Call("relu_forward", ("pool1", "nobody")),))
    return dataclasses.replace(net, training=(section,))


@pytest.mark.parametrize(
    ("stage", "broken", "sentence"),
    [
        ("route", broken_route, "after route: input: gather reads 'input', which is no array"),
        ("plan_buffers", broken_overlap, "after plan_buffers: affine1_length_dy and conv1 overlap at 335 of acts"),
        ("plan_buffers", broken_size, "after plan_buffers: the arena params of 2544 elements is too small"),
        (
            "plan_buffers",
            broken_rooms,
            "after plan_buffers: affine1_held of one worker reaches into the room of the next",
        ),
        (
            "plan_buffers",
            broken_shares,
            "after plan_buffers: the sums of one launch are over other shares: conv1_parts_b, conv1_parts_w",
        ),
        ("emit", broken_emit, "after emit: pool1: relu_forward reads 'nobody', which is no array"),
    ],
)
def test_a_broken_pass_is_named(stage, broken, sentence, monkeypatch):
    sentence = sentence.replace("2544", str(lower(chain(), lanes=16).sizes["params"] // 2))
    broken.__name__ = stage
    monkeypatch.setattr(lowering, "PASSES", tuple(broken if p.__name__ == stage else p for p in PASSES))
    with pytest.raises(AssertionError) as caught:
        lower(chain(), lanes=16)
    assert str(caught.value) == sentence
