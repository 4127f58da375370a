"""Hypothesis strategies that several tests share: ops that fit a shape, and whole graphs."""

import dataclasses
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from soak import SOAKING

from nbnn import (
    GELU,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Graph,
    GroupNorm,
    Identity,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from nbnn.op import Op, Shape

whole = st.integers
# Registers hold 2 to 16 numbers: counts around those, and any others.
COUNTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33]) | whole(1, 40)


def often(count: int, **others: Any) -> settings:
    """So many examples: the same ones each time in `make test`, new ones in `make soak`."""
    return settings(
        max_examples=count,
        derandomize=not SOAKING,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **others,
    )


def without_shrinking() -> tuple[Phase, ...]:
    """For examples that take a second each: the first that fails is shown as it is."""
    return (Phase.explicit, Phase.generate)


def divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([k for k in range(1, number + 1) if number % k == 0])


@st.composite
def convs(draw: Any, shape: Shape) -> Conv:
    channels, *sides = shape
    way = draw(st.sampled_from(["Winograd's", "by halves", "by rows", "each alone", "any"]))
    if way == "Winograd's" and min(sides) > 3:  # that, where there are channels enough
        return Conv(draw(whole(16, 20)), 3, pad=draw(whole(0, 2)), bias=draw(st.booleans()))
    if way == "by halves" and min(sides) > 5:  # where there are enough and the sides are even
        window = (draw(st.sampled_from([5, 5, 5, 6])), draw(st.sampled_from([5, 5, 5, 6])))
        return Conv(draw(whole(1, 20)), window, pad=draw(whole(0, 6)), bias=draw(st.booleans()))
    if way == "by rows" and channels == 1 and sides[1] > 4:  # where a row is long enough
        window = draw(whole(min(4, sides[0] + 2), min(5, sides[0] + 2))), draw(whole(4, 5))
        return Conv(draw(whole(1, 6)), window, pad=draw(whole(1, 3)), bias=draw(st.booleans()))
    pad, dilation = draw(whole(0, 3)), draw(whole(1, 3))
    groups = channels if way == "each alone" else draw(divisors(channels))
    window = tuple(draw(whole(1, min(5, (side + 2 * pad - 1) // dilation + 1))) for side in sides)
    return Conv(
        groups if way == "each alone" else groups * draw(whole(1, max(1, 20 // groups))),
        window,
        stride=draw(whole(1, 3)),
        pad=pad,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )


@st.composite
def pools(draw: Any, kind: Any, shape: Shape) -> Op:
    sides = shape[1:]
    pad = draw(whole(0, 2))
    low = max(1, 2 * pad)
    if min(sides) + 2 * pad < low:
        pad, low = 0, 1
    window = tuple(draw(whole(low, max(low, min(5, side + 2 * pad)))) for side in sides)
    return kind(window, draw(whole(1, 4)), pad)


STATELESS: tuple[Any, ...] = (ReLU, Sigmoid, Tanh, GELU, SiLU, Flatten, Scale, LeakyReLU, LayerNorm, GroupNorm, Affine)


@st.composite
def ops(draw: Any, shape: Shape, kinds: tuple[Any, ...]) -> Op:
    """An op of one of these kinds that can read the shape."""
    picture = len(shape) == 3
    kind = draw(st.sampled_from([k for k in kinds if picture or k not in (Conv, MaxPool, AvgPool, GlobalAvgPool)]))
    if kind is Conv:
        return draw(convs(shape))
    if kind in (MaxPool, AvgPool):
        return draw(pools(kind, shape))
    settings_of = {
        Affine: lambda: (draw(COUNTS),),
        GroupNorm: lambda: (draw(divisors(shape[0])),),
        Dropout: lambda: (draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),),
        LeakyReLU: lambda: (draw(st.sampled_from([0.0, 0.1, 1.0])),),
        Scale: lambda: (draw(st.sampled_from([1.0, -0.7, 2.0])),),
    }
    return kind(*settings_of.get(kind, tuple)())


PICTURES = st.tuples(COUNTS, whole(1, 9), whole(1, 9))
SHAPES = st.tuples(COUNTS) | PICTURES
_PICTURE = st.tuples(whole(1, 4), whole(1, 9), whole(1, 9))
_SMALL = st.one_of(_PICTURE, _PICTURE, _PICTURE, st.tuples(whole(1, 20)))
# Those that end a picture come last: Hypothesis likes the first.
_KINDS = (*[Conv, MaxPool, AvgPool, BatchNorm, Dropout] * 3, *STATELESS[::-1], Identity, GlobalAvgPool)


@st.composite
def graphs(draw: Any, losses: tuple[Any, ...] = ("softmax", Softmax(0.1), "svm", "mse")) -> Graph:
    """A valid graph of a few nodes: any ops, skips and joins, and one of the losses."""
    shapes: dict[str, Shape] = {"input": draw(_SMALL)}
    nodes: list[Op] = []

    def put(node: Op, *read: str) -> None:
        name = f"n{len(nodes) + 1}"
        nodes.append(dataclasses.replace(node, name=name, inputs=read))
        shapes[name] = node.shape(*(shapes[r] for r in read))

    for _ in range(draw(whole(1, 6))):
        last = list(shapes)[-1]
        equal = [n for n, s in shapes.items() if s == shapes[last]]
        beside = [n for n, s in shapes.items() if s[1:] == shapes[last][1:] and len(s) == len(shapes[last])]
        join = draw(st.sampled_from([None, None, None, None, None, (Add, equal), (Concat, beside)]))
        if join:
            read = (last, *draw(st.lists(st.sampled_from(join[1]), min_size=1, max_size=2)))
            put(join[0](inputs=read), *read)
        else:
            put(draw(ops(shapes[last], _KINDS)), last)
    loss = draw(st.sampled_from(losses))
    last = list(shapes)[-1]
    if loss is not None and len(shapes[last]) == 3:
        put(draw(st.sampled_from([Affine(3), Flatten(), GlobalAvgPool()])), last)
    return Graph(nodes, input=shapes["input"], loss=loss)
