"""Graphs: what is refused and in which words, what comes out of what, how a graph prints, travels and compares."""

import ast
import dataclasses
import inspect
import json
import math
import random
import sys
import tomllib
from fractions import Fraction

import numpy as np
import pytest
from soak import tell

import nbnn
from nbnn import (
    GELU,
    Add,
    Affine,
    Augment,
    AvgPool,
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
    LeakyReLU,
    MaxPool,
    Mse,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Svm,
    Tanh,
)
from nbnn.ops import OPS

# ---- what is refused

ALL_OPS = (
    "Conv, Affine, MaxPool, AvgPool, GlobalAvgPool, BatchNorm, LayerNorm, GroupNorm, Dropout, Augment, "
    "ReLU, LeakyReLU, Sigmoid, Tanh, GELU, SiLU, Flatten, Add, Concat, Scale, Identity"
)
INPUT = "input must be (channels, height, width) or (features,), all at least 1 and without the batch, got "
NAME = (
    " is no name for a node; use letters, digits and _, beginning with a letter and not a word of Python's "
    "own, such as 'conv_a'"
)
PICTURES = "; put it before Affine, Flatten and GlobalAvgPool, or give the graph pictures as input"
LOSS = "loss must be one of 'softmax', 'svm', 'mse', a loss such as Softmax(smoothing=0.1), or None, got "
SIZE = "size must be a whole number from 1 to 2**48, or two of them (height, width), got "
INIT = "init must be one of 'he', 'xavier', 'normal', 'zeros', 'dirac', got "
TOO_LARGE = " numbers, more than 2**48; make it smaller"

BROKEN = [
    # settings of ops, before there is a graph
    ("Conv(0, 3)", "Conv: filters must be a whole number of at least 1, got 0"),
    ("Conv(-1, 3)", "Conv: filters must be a whole number of at least 1, got -1"),
    ("Conv(2.5, 3)", "Conv: filters must be a whole number of at least 1, got 2.5"),
    ("Conv(True, 3)", "Conv: filters must be a whole number of at least 1, got True"),
    ('Conv("3", 3)', "Conv: filters must be a whole number of at least 1, got '3'"),
    ("Conv(None, 3)", "Conv: filters must be a whole number of at least 1, got None"),
    ('Conv(float("nan"), 3)', "Conv: filters must be a whole number of at least 1, got nan"),
    ('Conv(float("inf"), 3)', "Conv: filters must be a whole number of at least 1, got inf"),
    (
        "Conv(Fraction(10**400, 3), 3)",
        "Conv: filters must be a whole number of at least 1, got "
        "Fraction(1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000...",
    ),
    ("Conv(2**63, 3)", "Conv: filters must be at most 2**48, got 9223372036854775808"),
    ("Conv(10**5000, 3)", "Conv: filters must be at most 2**48, got a very long int"),
    ("Conv(8, 0)", "Conv: " + SIZE + "0"),
    ("Conv(8, (3, 0))", "Conv: " + SIZE + "(3, 0)"),
    ("Conv(8, (3, 3, 3))", "Conv: " + SIZE + "(3, 3, 3)"),
    ('Conv(8, "33")', "Conv: " + SIZE + "'33'"),
    ("Conv(8, 2**63)", "Conv: " + SIZE + "9223372036854775808"),
    ("Conv(8, 3, stride=0)", "Conv: stride must be a whole number of at least 1, got 0"),
    ("Conv(8, 3, stride=(2, 2))", "Conv: stride must be a whole number of at least 1, got (2, 2)"),
    ("Conv(8, 3, pad=-1)", "Conv: pad must be a whole number of at least 0, got -1"),
    ('Conv(8, 3, pad="same")', "Conv: pad must be a whole number of at least 0, got 'same'"),
    ("Conv(8, 3, dilation=0)", "Conv: dilation must be a whole number of at least 1, got 0"),
    ("Conv(8, 3, groups=0)", "Conv: groups must be a whole number of at least 1, got 0"),
    ("Conv(8, 3, groups=3)", "Conv: 8 filters do not divide into 3 groups; make filters a multiple of groups"),
    ("Conv(8, 3, bias=1)", "Conv: bias must be True or False, got 1"),
    ('Conv(8, 3, init="He")', "Conv: " + INIT + "'He'"),
    ("Conv(8, 3, init=[1, 2])", "Conv: " + INIT + "[1, 2]"),
    ("Conv(8, 3, scale=-0.1)", "Conv: scale must be a number from 0 to 1e+06, got -0.1"),
    ('Conv(8, 3, name="first", stride=0)', "first: stride must be a whole number of at least 1, got 0"),
    ("Conv(8, 3, inputs=5)", "Conv: inputs must be names of nodes, such as ('conv1', 'bn2'), got 5"),
    (
        "Conv(8, 3, inputs=Conv(4, 1))",
        "Conv: inputs must be names of nodes, such as ('conv1', 'bn2'), got Conv(name=None, inputs=None, "
        "bias=True, init='he', scale=0.01, filters=4, size=1, stride=1, pad=0...",
    ),
    ("Affine(0)", "Affine: units must be a whole number of at least 1, got 0"),
    ('Affine(10, init="orthogonal")', "Affine: " + INIT + "'orthogonal'"),
    (
        "MaxPool((2, 3))",
        "MaxPool: a 2x3 window needs a stride: only a square one has its own side for it",
    ),
    ("MaxPool(5000)", "MaxPool: a window has at most 2**24 places, got 5000x5000"),
    (
        "MaxPool((2, 3, 4), 2)",
        "MaxPool: size must be a whole number from 1 to 2**48, or two of them (height, width), got (2, 3, 4)",
    ),
    ("MaxPool(0)", "MaxPool: size must be a whole number from 1 to 2**48, or two of them (height, width), got 0"),
    ("MaxPool(2, stride=0)", "MaxPool: stride must be a whole number of at least 1, got 0"),
    ("MaxPool(2, pad=-1)", "MaxPool: pad must be a whole number of at least 0, got -1"),
    (
        "MaxPool(2, pad=2)",
        "MaxPool: pad must be at most 1, half of the window, got 2; a larger one leaves windows wholly outside",
    ),
    (
        "AvgPool(3, pad=2)",
        "AvgPool: pad must be at most 1, half of the window, got 2; a larger one leaves windows wholly outside",
    ),
    ("BatchNorm(momentum=1.5)", "BatchNorm: momentum must be a number from 0 to 1, got 1.5"),
    ("BatchNorm(eps=0)", "BatchNorm: eps must be a number from 1e-12 to 1, got 0"),
    ("GroupNorm(0)", "GroupNorm: groups must be a whole number of at least 1, got 0"),
    ("Dropout(-0.1)", "Dropout: p must be a number from 0 to 1, got -0.1"),
    ("Dropout(1.5)", "Dropout: p must be a number from 0 to 1, got 1.5"),
    ('Dropout(float("nan"))', "Dropout: p must be a number from 0 to 1, got nan"),
    (
        "Dropout(10**400)",
        "Dropout: p must be a number from 0 to 1, got "
        "1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000...",
    ),
    ('Dropout("0.5")', "Dropout: p must be a number from 0 to 1, got '0.5'"),
    ("Dropout(True)", "Dropout: p must be a number from 0 to 1, got True"),
    ("Augment(-1)", "Augment: shift must be a whole number of at least 0, got -1"),
    ("Augment(2, flip=1)", "Augment: flip must be True or False, got 1"),
    ("LeakyReLU(2)", "LeakyReLU: slope must be a number from 0 to 1, got 2"),
    ('Scale(start=float("inf"))', "Scale: start must be a number from -1e+06 to 1e+06, got inf"),
    ("Softmax(smoothing=1)", "Softmax: smoothing must be a number from 0 up to, and not including, 1, got 1"),
    ('Softmax(smoothing="0.1")', "Softmax: smoothing must be a number from 0 up to, and not including, 1, got '0.1'"),
    # the list
    ("Graph([], input=4)", "a graph needs at least one node, got an empty list; write for instance [Affine(10)]"),
    ("Graph(5, input=4)", "a graph is built from a list of op nodes, got 5; write for instance [Affine(10)]"),
    ("Graph(ReLU(), input=4)", "a graph is built from a list of op nodes, got one ReLU; write [ReLU()]"),
    ("Graph([ReLU], input=4)", "node 1 is the class ReLU; write ReLU(...) with its settings"),
    ('Graph([ReLU(), "relu"], input=4)', "node 2 must be an op, got 'relu'; the ops are " + ALL_OPS),
    ("Graph([ReLU(), None], input=4)", "node 2 must be an op, got None; the ops are " + ALL_OPS),
    ('Graph("relu", input=4)', "node 1 must be an op, got 'r'; the ops are " + ALL_OPS),
    # the input
    ("Graph([ReLU()], input=0)", INPUT + "0"),
    ("Graph([ReLU()], input=())", INPUT + "()"),
    ("Graph([ReLU()], input=(3, 32))", INPUT + "(3, 32)"),
    ("Graph([ReLU()], input=(128, 3, 32, 32))", INPUT + "(128, 3, 32, 32)"),
    ("Graph([ReLU()], input=(3, -32, 32))", INPUT + "(3, -32, 32)"),
    ("Graph([ReLU()], input=(3, 32.5, 32))", INPUT + "(3, 32.5, 32)"),
    ("Graph([ReLU()], input=(True, 32, 32))", INPUT + "(True, 32, 32)"),
    ('Graph([ReLU()], input="64")', INPUT + "'64'"),
    ("Graph([ReLU()], input=None)", INPUT + "None"),
    ("Graph([ReLU()], input=2**63)", "input: 9223372036854775808 is more than 2**48 numbers; make it smaller"),
    (
        "Graph([ReLU()], input=(2**30, 2**30, 2**30))",
        "input: 1073741824 x 1073741824 x 1073741824 is more than 2**48 numbers; make it smaller",
    ),
    # names
    ('Graph([ReLU(name="a b")], input=4)', "node 1: 'a b'" + NAME),
    ('Graph([ReLU(name="")], input=4)', "node 1: ''" + NAME),
    ('Graph([ReLU(name="class")], input=4)', "node 1: 'class'" + NAME),
    ("Graph([ReLU(), ReLU(name=7)], input=4)", "node 2: 7" + NAME),
    ('Graph([ReLU(name="x\\nimport os")], input=4)', "node 1: 'x\\nimport os'" + NAME),
    ('Graph([ReLU(name="é")], input=4)', "node 1: 'é'" + NAME),
    ('Graph([ReLU(name="input")], input=4)', "node 1: 'input' is the name of the data; give this node another name"),
    (
        'Graph([ReLU(name="a"), Tanh(name="a")], input=4)',
        "node 2: 'a' is the name of node 1; give this node another name",
    ),
    # who reads whom
    (
        'Graph([ReLU(), Tanh(inputs="relu2")], input=4)',
        "tanh1: reads 'relu2', but there is no such node; did you mean 'relu1'?",
    ),
    (
        'Graph([ReLU(), Tanh(inputs="sigmoid")], input=4)',
        "tanh1: reads 'sigmoid', but there is no such node; it can read input, relu1",
    ),
    (
        'Graph([ReLU(inputs="tanh1"), Tanh()], input=4)',
        "relu1: reads 'tanh1', which does not come before it; a node can only read nodes before it",
    ),
    (
        'Graph([ReLU(inputs="relu1")], input=4)',
        "relu1: reads 'relu1', which does not come before it; a node can only read nodes before it",
    ),
    (
        'Graph([ReLU(), Tanh(inputs=("relu1", "input"))], input=4)',
        "tanh1: Tanh reads one node, got 2 inputs; join them with Add or Concat first",
    ),
    (
        "Graph([ReLU(), Tanh(inputs=())], input=4)",
        "tanh1: Tanh reads one node, got 0 inputs; without inputs= it reads the node before it",
    ),
    ("Graph([ReLU(), Add()], input=4)", "add1: Add reads several nodes; name them: inputs=(..., ...)"),
    ("Graph([ReLU(), Concat()], input=4)", "concat1: Concat reads several nodes; name them: inputs=(..., ...)"),
    (
        'Graph([ReLU(), Add(inputs="relu1")], input=4)',
        "add1: Add needs at least two inputs, got 1; name all in inputs=",
    ),
    (
        'Graph([ReLU(), Concat(inputs=("relu1",))], input=4)',
        "concat1: Concat needs at least two inputs, got 1; name all in inputs=",
    ),
    (
        'Graph([ReLU(), Tanh(inputs="input")], input=4)',
        "relu1: no node reads it; name it in the inputs of a later node or remove it",
    ),
    # shapes that do not meet
    (
        "Graph([Affine(8), Conv(8, 3)], input=(3, 8, 8))",
        "conv1: Conv reads pictures (channels, height, width), got the vector (8,)" + PICTURES,
    ),
    (
        "Graph([MaxPool(2)], input=16)",
        "pool1: MaxPool reads pictures (channels, height, width), got the vector (16,)" + PICTURES,
    ),
    (
        "Graph([Flatten(), AvgPool(2)], input=(3, 8, 8))",
        "pool1: AvgPool reads pictures (channels, height, width), got the vector (192,)" + PICTURES,
    ),
    (
        "Graph([GlobalAvgPool(), GlobalAvgPool()], input=(3, 8, 8))",
        "pool2: GlobalAvgPool reads pictures (channels, height, width), got the vector (3,)" + PICTURES,
    ),
    (
        "Graph([Conv(8, 3, groups=2)], input=(3, 8, 8))",
        "conv1: 3 channels do not divide into 2 groups; choose groups that divide them",
    ),
    (
        "Graph([GroupNorm(4)], input=(6, 8, 8))",
        "gn1: 6 channels do not divide into 4 groups; choose groups that divide them",
    ),
    (
        "Graph([Augment(4)], input=(1, 5, 4), loss=None)",
        "augment1: shift must be smaller than both sides of its 5x4 input, got 4",
    ),
    (
        "Graph([Conv(8, 3), Conv(8, 7)], input=(3, 7, 7))",
        "conv2: a 7x7 window does not fit its 5x5 input; pad it by at least 1 or make the window smaller",
    ),
    (
        "Graph([Conv(8, (3, 9), pad=1)], input=(3, 8, 6))",
        "conv1: a 3x9 window does not fit its 8x6 input padded by 1; pad it by at least 2 or make the window smaller",
    ),
    (
        "Graph([Conv(8, 3, dilation=4)], input=(3, 8, 8))",
        "conv1: a 9x9 window does not fit its 8x8 input; pad it by at least 1 or make the window smaller",
    ),
    (
        "Graph([MaxPool(8), MaxPool(2)], input=(3, 8, 8))",
        "pool2: a 2x2 window does not fit its 1x1 input; pad it by at least 1 or make the window smaller",
    ),
    (
        "Graph([AvgPool(9)], input=(3, 8, 8))",
        "pool1: a 9x9 window does not fit its 8x8 input; pad it by at least 1 or make the window smaller",
    ),
    (
        "Graph([MaxPool(13, pad=2)], input=(3, 8, 8))",
        "pool1: a 13x13 window does not fit its 8x8 input padded by 2; pad it by at least 3 or make the window smaller",
    ),
    (
        "Graph([MaxPool(13, pad=1)], input=(3, 2, 2))",
        "pool1: a 13x13 window does not fit its 2x2 input padded by 1; pad it by at least 6 or make the window smaller",
    ),
    (
        'Graph([Conv(8, 1, name="a"), Add(inputs=("input", "a"))], input=(3, 8, 8))',
        "add1: its inputs must have one shape, got (3, 8, 8), (8, 8, 8); "
        "bring them to one shape first, for instance with a Conv of size 1",
    ),
    (
        'Graph([Conv(8, 3, name="a"), Concat(inputs=("input", "a"))], input=(3, 8, 8))',
        "concat1: its inputs must have one height and width, got (3, 8, 8), (8, 6, 6); "
        "pool or pad some of them first, or Flatten all",
    ),
    (
        'Graph([Affine(8, name="a"), Concat(inputs=("input", "a"))], input=(3, 8, 8))',
        "concat1: its inputs must have one height and width, got (3, 8, 8), (8,); "
        "pool or pad some of them first, or Flatten all",
    ),
    # sizes beyond all memory
    (
        "Graph([Affine(2**48)], input=2)",
        "affine1: Affine(281474976710656) needs an array of 2 x 1 x 1 x 281474976710656" + TOO_LARGE,
    ),
    (
        "Graph([Conv(2**40, 3)], input=(2**10, 8, 8))",
        "conv1: Conv(1099511627776, 3) needs an array of 3 x 3 x 1024 x 1099511627776" + TOO_LARGE,
    ),
    (
        'Graph([Concat(inputs=("input", "input"))], input=2**48)',
        "concat1: Concat() needs an array of 562949953421312" + TOO_LARGE,
    ),
    (
        "Graph([Conv(1, 1, stride=2**26, pad=2**25)], input=(1, 1, 1))",
        "conv1: Conv(1, 1, stride=67108864, pad=33554432) needs an array of 1 x 67108865 x 67108865" + TOO_LARGE,
    ),
    (
        "Graph([Conv(2**42, 2, dilation=2**20)], input=(9, 2**20 + 1, 2**20 + 1))",
        "conv1: Conv(4398046511104, 2, dilation=1048576) needs an array of 4398046511104 x 2097153 x 2097153"
        + TOO_LARGE,
    ),
    (
        "Graph([Conv(2**26, 1, groups=2**26)], input=(2**26, 1, 1))",
        "conv1: Conv(67108864, 1, groups=67108864) needs an array of 1 x 1 x 67108864 x 67108864" + TOO_LARGE,
    ),
    # more than any net has
    (
        'Graph([ReLU(name="x" * 61)], input=4)',
        "node 1: the name '" + "x" * 61 + "' is too long; use at most 60 letters",
    ),
    ("Graph([ReLU()] * 1001, input=4)", "a graph has at most 1000 nodes, got 1001; cut the net into several graphs"),
    (
        'Graph([ReLU(), Add(inputs=("relu1",) * 2000)], input=4)',
        "the nodes of a graph have at most 2000 inputs together; join fewer of them at a time",
    ),
    (
        'Graph([*[ReLU()] * 40, Add(inputs=("relu1", "b"))], input=4)',
        "add1: reads 'b', but there is no such node; it can read input, "
        + ", ".join(f"relu{k}" for k in range(1, 30))
        + " and 11 more",
    ),
    # the loss
    (
        'Graph([Conv(8, 3)], input=(3, 8, 8), loss="softmax")',
        "conv1: the softmax loss reads one vector for each example, got (8, 6, 6); "
        "end the graph with Affine, GlobalAvgPool or Flatten",
    ),
    (
        'Graph([ReLU()], input=(3, 8, 8), loss="mse")',
        "relu1: the mse loss reads one vector for each example, got (3, 8, 8); "
        "end the graph with Affine, GlobalAvgPool or Flatten",
    ),
    ('Graph([ReLU()], input=4, loss="softmx")', LOSS + "'softmx'"),
    ("Graph([ReLU()], input=4, loss=Softmax)", LOSS + "<class 'nbnn.losses.Softmax'>"),
    ("Graph([ReLU()], input=4, loss=3)", LOSS + "3"),
    # plain data
    ("Graph.from_dict([])", "a graph is a dict with the keys input, nodes and loss, got []"),
    ('Graph.from_dict({"input": 4})', "a graph is a dict with the keys input, nodes and loss; this one has no 'nodes'"),
    (
        'Graph.from_dict({"nodes": []})',
        "a graph is a dict with the keys input, nodes and loss; this one has no 'input'",
    ),
    (
        'Graph.from_dict({"input": 4, "nodes": [], "lose": "mse"})',
        "a graph is a dict with the keys input, nodes and loss; this one has the key 'lose'",
    ),
    (
        'Graph.from_dict({"input": 4, "nodes": {"op": "ReLU"}})',
        "nodes must be a list of dicts, one for each op, got {'op': 'ReLU'}",
    ),
    ('Graph.from_dict({"input": 4, "nodes": "ReLU"})', "nodes must be a list of dicts, one for each op, got 'ReLU'"),
    (
        'Graph.from_dict({"input": 4, "nodes": []})',
        "a graph needs at least one node, got an empty list; write for instance [Affine(10)]",
    ),
    ('Graph.from_dict({"input": {"a": 1}, "nodes": [{"op": "ReLU"}]})', INPUT + "{'a': 1}"),
    (
        'Graph.from_dict({"input": 4, "nodes": ["ReLU"]})',
        "node 1 must be a dict with an 'op', such as {'op': 'ReLU'}, got 'ReLU'",
    ),
    ('read({"op": ["ReLU"]})', "node 1 must be a dict with an 'op', such as {'op': 'ReLU'}, got {'op': ['ReLU']}"),
    ('read({"op": "Relu"})', "node 1: there is no op 'Relu'; there are " + ALL_OPS),
    ('read({"op": "os.system"})', "node 1: there is no op 'os.system'; there are " + ALL_OPS),
    (
        'read({"op": "Conv" * 1000})',
        f"node 1: there is no op '{('Conv' * 25)[:96]}...; there are {ALL_OPS}",
    ),
    ('read({"op": "Conv", "filter": 8, "size": 3})', "node 1: Conv has no setting 'filter'; did you mean 'filters'?"),
    ('read({"op": "Conv", "filters": 8})', "node 1: Conv needs the setting 'size'; give it a value"),
    ('read({"op": "LayerNorm", "groups": 2})', "node 1: LayerNorm has no setting 'groups'; it has name, inputs, eps"),
    ('read({"op": "ReLU", "__class__": "int"})', "node 1: ReLU has no setting '__class__'; it has name, inputs"),
    (
        'read({"op": "ReLU"}, {"op": "Affine", "units": "__import__(\'os\').abort()"})',
        "node 2: Affine: units must be a whole number of at least 1, got \"__import__('os').abort()\"",
    ),
    ('read({"op": "Affine", "units": [10]})', "node 1: Affine: units must be a whole number of at least 1, got [10]"),
    ('read({"op": "Affine", "units": {}})', "node 1: Affine: units must be a whole number of at least 1, got {}"),
    ('read({"op": "Affine", "units": 1e308})', "node 1: Affine: units must be at most 2**48, got 1e+308"),
    ('read({"op": "ReLU", "name": {"a": 1}})', "node 1: {'a': 1}" + NAME),
    ('read({"op": "ReLU", "name": "a\\"\\"\\"b"})', 'node 1: \'a"""b\'' + NAME),
    (
        'read({"op": "ReLU", "inputs": 5})',
        "node 1: ReLU: inputs must be names of nodes, such as ('conv1', 'bn2'), got 5",
    ),
    (
        'read({"op": "ReLU", "inputs": [["input"]]})',
        "node 1: ReLU: inputs must be names of nodes, such as ('conv1', 'bn2'), got [['input']]",
    ),
    ('read({"op": "ReLU"}, loss="entropy")', LOSS + "'entropy'"),
    (
        'read({"op": "ReLU"}, loss={"loss": ["softmax"]})',
        "loss must be one of 'softmax', 'svm', 'mse', or a dict such as {'loss': 'softmax', 'smoothing': "
        "0.1}, got {'loss': ['softmax']}",
    ),
    (
        'read({"op": "ReLU"}, loss={"smoothing": 0.1})',
        "loss must be one of 'softmax', 'svm', 'mse', or a dict such as {'loss': 'softmax', 'smoothing': "
        "0.1}, got {'smoothing': 0.1}",
    ),
    (
        'read({"op": "ReLU"}, loss={"loss": "softmax", "smoothing": 0.1, "zeta": 1})',
        "the softmax loss has no setting 'zeta'; it has smoothing",
    ),
    ('read({"op": "ReLU"}, loss={"loss": "svm", "margin": 2})', "the svm loss has no setting 'margin'; remove it"),
    (
        'read({"op": "ReLU"}, loss={"loss": "softmax", "smoothing": [0.1]})',
        "Softmax: smoothing must be a number from 0 up to, and not including, 1, got [0.1]",
    ),
]


def read(*nodes, loss=None):
    """A graph from plain nodes on four features."""
    return Graph.from_dict({"input": 4, "nodes": list(nodes), "loss": loss})


def build(text):
    """What the text says, in Python with the public names of nbnn."""
    public = {name: getattr(nbnn, name) for name in nbnn.__all__}
    return eval(text, {**public, "Fraction": Fraction, "read": read})


@pytest.mark.parametrize(("text", "sentence"), BROKEN, ids=[text for text, _ in BROKEN])
def test_what_is_broken_is_refused_in_plain_words(text, sentence):
    with pytest.raises(ValueError) as caught:
        build(text)
    assert str(caught.value) == sentence
    assert isinstance(caught.value, GraphError) == text.startswith(("Graph", "read"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "a second traceback would be shown"


def test_the_table_says_each_thing_once_and_nothing_about_the_machinery():
    assert len({text for text, _ in BROKEN}) == len(BROKEN) >= 40
    tell("bad uses that get an exact sentence, graphs", len(BROKEN))
    for _, sentence in BROKEN:
        assert "\n" not in sentence and len(sentence) < 350
        assert not any(word in sentence.lower() for word in ("numba", "traceback", "nonetype", "dataclass", "kernel"))


def test_the_table_reaches_every_refusal_in_the_source():
    modules = [
        sys.modules[f"nbnn.{name}"] for name in ("graph", "losses", "op", "ops") if f"nbnn.{name}" in sys.modules
    ]
    wanted = set()
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            raised = isinstance(node, ast.Raise) and "NotImplementedError" not in ast.dump(node)
            refused = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refuse"
            if raised or refused:
                wanted.add((module.__file__, node.lineno))
    reached = set()

    def watch(frame, event, _):
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        for text, _ in BROKEN:
            with pytest.raises(ValueError):
                build(text)
    finally:
        sys.settrace(before)
    assert len(wanted) > 30
    assert wanted <= reached


def test_an_op_of_one_s_own_is_held_to_the_same_checks():
    @dataclasses.dataclass(frozen=True)
    class Half(nbnn.ops.Op):
        label = "half"

        def shape(self, *shapes):
            if shapes[0][0] % 2:
                self.refuse(f"{shapes[0][0]} is odd")
            return (shapes[0][0] // 2, *shapes[0][1:])

        def forward(self, *shapes):
            return []

        def backward_input(self, *shapes):
            return []

    assert Graph([Half(), Half()], input=8).output_shape == (2,)
    with pytest.raises(GraphError, match=r"^half2: 3 is odd$"):
        Graph([Half(), Half()], input=6)


# ---- what comes out

PICTURE = (6, 9, 7)
SHAPES = [
    (Conv(8, 3), [PICTURE], (8, 7, 5)),
    (Conv(8, 1), [PICTURE], (8, 9, 7)),
    (Conv(8, 3, pad=1), [PICTURE], (8, 9, 7)),
    (Conv(8, 3, pad=2), [PICTURE], (8, 11, 9)),
    (Conv(8, 3, stride=2), [PICTURE], (8, 4, 3)),
    (Conv(8, 3, stride=2, pad=1), [PICTURE], (8, 5, 4)),
    (Conv(8, 3, stride=100), [PICTURE], (8, 1, 1)),
    (Conv(8, (9, 7)), [PICTURE], (8, 1, 1)),
    (Conv(8, (1, 7)), [PICTURE], (8, 9, 1)),
    (Conv(8, (5, 1), stride=3), [PICTURE], (8, 2, 3)),
    (Conv(8, 3, dilation=3), [PICTURE], (8, 3, 1)),
    (Conv(8, (2, 4), dilation=2, stride=2, pad=1), [PICTURE], (8, 5, 2)),
    (Conv(8, 3, groups=2), [PICTURE], (8, 7, 5)),
    (Conv(6, 3, groups=6), [PICTURE], (6, 7, 5)),
    (Affine(5), [PICTURE], (5,)),
    (Affine(5), [(11,)], (5,)),
    (MaxPool(2), [PICTURE], (6, 4, 3)),
    (MaxPool(3, stride=2, pad=1), [PICTURE], (6, 5, 4)),
    (MaxPool(3, stride=1), [PICTURE], (6, 7, 5)),
    (AvgPool(7), [PICTURE], (6, 1, 1)),
    (AvgPool(2, pad=1), [PICTURE], (6, 5, 4)),
    (Augment(6), [PICTURE], PICTURE),
    (GlobalAvgPool(), [PICTURE], (6,)),
    (Flatten(), [PICTURE], (378,)),
    (Flatten(), [(11,)], (11,)),
    (Add(), [PICTURE, PICTURE, PICTURE], PICTURE),
    (Add(), [(11,), (11,)], (11,)),
    (Concat(), [PICTURE, (1, 9, 7), (2, 9, 7)], (9, 9, 7)),
    (Concat(), [(11,), (5,)], (16,)),
    *(
        (op, [shape], shape)
        for shape in (PICTURE, (12,))
        for op in (
            BatchNorm(),
            LayerNorm(),
            GroupNorm(3),
            Dropout(0.5),
            ReLU(),
            LeakyReLU(),
            Sigmoid(),
            Tanh(),
            GELU(),
            SiLU(),
            Scale(),
            Identity(),
        )
    ),
]


@pytest.mark.parametrize(("op", "read", "wanted"), SHAPES, ids=[f"{op} of {read}" for op, read, _ in SHAPES])
def test_shapes(op, read, wanted):
    assert op.shape(*read) == wanted
    if not op.several:
        graph = Graph([op], input=read[0])
        assert graph.output_shape == wanted
        assert graph.input_shapes(graph.nodes[0]) == tuple(read)


def test_the_table_of_shapes_has_every_op():
    assert {type(op).__name__ for op, _, _ in SHAPES} == set(OPS)


def test_a_window_fits_exactly_when_it_finds_a_place():
    """The shape rule against counting the places one by one."""
    rng = random.Random(0)
    for _ in range(300):
        side, size, stride, pad, dilation = (
            rng.randint(low, high) for low, high in [(1, 9), (1, 5), (1, 4), (0, 3), (1, 3)]
        )
        reach = (size - 1) * dilation + 1
        places = sum(start + reach <= side + 2 * pad for start in range(0, side + 2 * pad, stride))
        op = Conv(2, (size, 1), stride=stride, pad=pad, dilation=dilation)
        wide = (1, side, 50)
        if places:
            assert op.shape(wide)[1] == places
        else:
            with pytest.raises(ValueError, match="does not fit"):
                op.shape(wide)


def test_whole_numbers_of_any_kind_are_taken():
    exact = Graph([Conv(8, 3, stride=2, pad=1), MaxPool(2), Affine(10)], input=(3, 8, 8))
    for number in (float, np.float32, np.int64, Fraction):
        n = {k: number(k) for k in (1, 2, 3, 8, 10)}
        nodes = [Conv(n[8], n[3], stride=n[2], pad=n[1]), MaxPool(n[2]), Affine(n[10])]
        found = Graph(nodes, input=(n[3], n[8], n[8]))
        assert found == exact and hash(found) == hash(exact) and repr(found) == repr(exact)
        json.dumps(found.to_dict())
    assert Conv(8, [3.0, 5]).size == (3, 5)
    assert Conv(8, (3, 3)) == Conv(8, 3)
    assert Dropout(np.float32(0.5)) == Dropout(0.5) == Dropout(Fraction(1, 2))
    assert Softmax(np.float32(0.5)) == Softmax(0.5)


def test_the_input_may_be_a_number_or_a_list():
    assert Graph([ReLU()], input=64).input == (64,) == Graph([ReLU()], input=[64.0]).input
    assert Graph([ReLU()], input=[3, 8, 8]).input == (3, 8, 8)


# ---- names and edges


def test_automatic_names_count_by_kind_and_step_around_given_ones():
    nodes = [Conv(4, 3), BatchNorm(), ReLU(), Conv(4, 3, name="conv2"), LeakyReLU(), Conv(4, 3), MaxPool(2), AvgPool(1)]
    graph = Graph([*nodes, GlobalAvgPool(), Affine(3), Affine(2)], input=(3, 16, 16))
    assert [node.name for node in graph.nodes] == [
        *("conv1", "bn1", "relu1", "conv2", "relu2", "conv3", "pool1", "pool2", "pool3", "affine1", "affine2"),
    ]
    labels = {op.label for op in OPS.values()}
    assert labels == {
        *("conv", "affine", "pool", "bn", "ln", "gn", "dropout", "augment", "relu", "sigmoid", "tanh", "gelu", "silu"),
        *("flatten", "add", "concat", "scale", "identity"),
    }


def test_a_node_reads_the_one_before_it_unless_it_says_otherwise():
    graph = dag()
    assert {node.name: node.inputs for node in graph.nodes} == {
        "stem": ("input",),
        "relu1": ("stem",),
        "conv1": ("relu1",),
        "short": ("relu1",),
        "add1": ("conv1", "short"),
        "pool1": ("relu1",),
        "concat1": ("add1", "pool1", "add1"),
        "affine1": ("concat1",),
    }
    assert graph.output == "affine1"
    assert graph.shapes["concat1"] == (20, 4, 4)


def test_one_op_may_stand_in_a_list_several_times():
    relu = ReLU()
    graph = Graph([relu, relu, relu], input=4)
    assert [node.name for node in graph.nodes] == ["relu1", "relu2", "relu3"]
    assert relu.name is None and relu.inputs is None


# ---- printing


def chain():
    nodes = [Conv(8, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Dropout(0.25), Affine(10)]
    return Graph(nodes, input=(3, 8, 8), loss="softmax")


def dag():
    return Graph(
        [
            Conv(8, (3, 1), pad=1, groups=2, name="stem"),
            ReLU(),
            Conv(6, 3, stride=2, pad=1),
            Conv(6, 1, stride=2, bias=False, inputs="relu1", name="short"),
            Add(inputs=("conv1", "short")),
            MaxPool(3, stride=2, pad=1, inputs="relu1"),
            Concat(inputs=("add1", "pool1", "add1")),
            Affine(3, init="xavier"),
        ],
        input=(4, 8, 6),
        loss=Mse(),
    )


CHAIN_TEXT = """\
node      op                 output     parameters  multiply-adds
-----------------------------------------------------------------
input                        3 x 8 x 8
conv1     Conv(8, 3, pad=1)  8 x 8 x 8         224         13,824
bn1       BatchNorm()        8 x 8 x 8          16
relu1     ReLU()             8 x 8 x 8
pool1     MaxPool(2)         8 x 4 x 4
dropout1  Dropout(0.25)      8 x 4 x 4
affine1   Affine(10)         10              1,290          1,280
loss      softmax                            1,530         15,104"""

DAG_TEXT = """\
node     op                                reads              output      parameters  multiply-adds
---------------------------------------------------------------------------------------------------
input                                                         4 x 8 x 6
stem     Conv(8, (3, 1), pad=1, groups=2)  input              8 x 8 x 8           56          3,072
relu1    ReLU()                            stem               8 x 8 x 8
conv1    Conv(6, 3, stride=2, pad=1)       relu1              6 x 4 x 4          438          6,912
short    Conv(6, 1, stride=2, bias=False)  relu1              6 x 4 x 4           48            768
add1     Add()                             conv1, short       6 x 4 x 4
pool1    MaxPool(3, stride=2, pad=1)       relu1              8 x 4 x 4
concat1  Concat()                          add1, pool1, add1  20 x 4 x 4
affine1  Affine(3, init='xavier')          concat1            3                  963            960
loss     mse                                                                   1,505         11,712"""


def test_a_chain_prints_as_a_table():
    assert str(chain()) == CHAIN_TEXT


def test_a_graph_with_branches_also_says_who_reads_whom():
    assert str(dag()) == DAG_TEXT


def test_a_graph_without_a_loss_says_so():
    assert str(Graph([ReLU()], input=4)).splitlines()[-1].split() == ["loss", "none", "0", "0"]


# ---- plain data


def every_op():
    """A graph with every op, most settings and both kinds of names."""
    return Graph(
        [
            Augment(2, flip=False),
            Conv(8, (3, 5), stride=2, pad=2, dilation=1, groups=2, bias=False, init="dirac", name="stem"),
            BatchNorm(momentum=0.5, eps=1e-3),
            ReLU(),
            Conv(8, 3, pad=2, dilation=2, init="normal", scale=0.02),
            GroupNorm(4),
            LeakyReLU(0.2),
            Add(inputs=("relu2", "relu1")),
            Scale(0.5),
            AvgPool(2, stride=1),
            MaxPool(3, pad=1, inputs="scale1"),
            GELU(),
            SiLU(),
            Identity(name="left"),
            GlobalAvgPool(inputs="pool1"),
            Flatten(inputs="left"),
            Dropout(0.25),
            Affine(8, init="xavier"),
            LayerNorm(),
            Concat(inputs=("ln1", "pool3")),
            Tanh(),
            Sigmoid(),
            Affine(3, bias=False, init="zeros"),
        ],
        input=(4, 12, 12),
        loss=Softmax(0.1),
    )


EVERY_OP_TOML = """
input = [4, 12, 12]

[loss]
loss = "softmax"
smoothing = 0.1

[[nodes]]
op = "Augment"
shift = 2
flip = false

[[nodes]]
op = "Conv"
filters = 8
size = [3, 5]
stride = 2
pad = 2
groups = 2
bias = false
init = "dirac"
name = "stem"

[[nodes]]
op = "BatchNorm"
momentum = 0.5
eps = 1e-3

[[nodes]]
op = "ReLU"

[[nodes]]
op = "Conv"
filters = 8
size = 3
pad = 2
dilation = 2
init = "normal"
scale = 0.02

[[nodes]]
op = "GroupNorm"
groups = 4

[[nodes]]
op = "LeakyReLU"
slope = 0.2

[[nodes]]
op = "Add"
inputs = ["relu2", "relu1"]

[[nodes]]
op = "Scale"
start = 0.5

[[nodes]]
op = "AvgPool"
size = 2
stride = 1

[[nodes]]
op = "MaxPool"
size = 3
pad = 1
inputs = ["scale1"]

[[nodes]]
op = "GELU"

[[nodes]]
op = "SiLU"

[[nodes]]
op = "Identity"
name = "left"

[[nodes]]
op = "GlobalAvgPool"
inputs = "pool1"

[[nodes]]
op = "Flatten"
inputs = "left"

[[nodes]]
op = "Dropout"
p = 0.25

[[nodes]]
op = "Affine"
units = 8
init = "xavier"

[[nodes]]
op = "LayerNorm"

[[nodes]]
op = "Concat"
inputs = ["ln1", "pool3"]

[[nodes]]
op = "Tanh"

[[nodes]]
op = "Sigmoid"

[[nodes]]
op = "Affine"
units = 3
bias = false
init = "zeros"
"""

GRAPHS = {"chain": chain, "dag": dag, "every op": every_op, "no loss": lambda: Graph([ReLU(), Tanh()], input=4)}
EACH_GRAPH = pytest.mark.parametrize("graph", [pytest.param(make(), id=name) for name, make in GRAPHS.items()])


def test_the_graph_with_every_op_has_every_op():
    assert {type(node).__name__ for node in every_op().nodes} == set(OPS)


@EACH_GRAPH
def test_a_graph_survives_dict_and_json(graph):
    plain = graph.to_dict()
    for again in (Graph.from_dict(plain), Graph.from_dict(json.loads(json.dumps(plain)))):
        assert again == graph and hash(again) == hash(graph)
        assert str(again) == str(graph) and again.to_dict() == plain and again.shapes == graph.shapes


def test_a_graph_is_read_from_toml():
    assert Graph.from_dict(tomllib.loads(EVERY_OP_TOML)) == every_op()


def test_plain_data_holds_only_what_differs_from_the_default():
    assert chain().to_dict() == {
        "input": [3, 8, 8],
        "nodes": [
            {"op": "Conv", "filters": 8, "size": 3, "pad": 1},
            {"op": "BatchNorm"},
            {"op": "ReLU"},
            {"op": "MaxPool", "size": 2},
            {"op": "Dropout", "p": 0.25},
            {"op": "Affine", "units": 10},
        ],
        "loss": "softmax",
    }


def test_random_plain_data_gives_a_graph_or_a_plain_refusal():
    """No value in a file, of whatever type, gets past the checks as another error."""
    rng = random.Random(0)
    junk = [
        None,
        True,
        -1,
        0,
        2,
        2.5,
        1e300,
        float("nan"),
        2**70,
        "",
        "relu1",
        "input",
        [],
        [1, "a"],
        {},
        {"op": "ReLU"},
    ]
    kept = 0
    for _ in range(1000):
        plain = every_op().to_dict() if rng.random() < 0.5 else chain().to_dict()
        place = rng.choice([plain, rng.choice(plain["nodes"])])
        place[rng.choice([*place, "extra"])] = rng.choice(junk)
        try:
            again = Graph.from_dict(json.loads(json.dumps(plain)))
        except GraphError:
            continue
        kept += 1
        assert Graph.from_dict(again.to_dict()) == again
    assert kept > 10, "some junk is harmless"


@EACH_GRAPH
def test_repr_is_python_that_builds_the_graph_again(graph):
    again = build(repr(graph))
    assert again == graph and repr(again) == repr(graph)


# ---- comparing


def test_graphs_compare_by_what_they_are():
    assert chain() == chain() and len({chain(), chain(), dag()}) == 2
    assert chain() != dag() and chain() != "chain" and chain() != chain().to_dict()
    base = Graph([Affine(4), ReLU()], input=8, loss="softmax")
    assert base == Graph([Affine(4, name="affine1"), ReLU(inputs="affine1")], input=(8,), loss=Softmax())
    assert base == Graph((op for op in (Affine(4.0), ReLU())), input=8, loss=Softmax(0))
    for other in (
        Graph([Affine(5), ReLU()], input=8, loss="softmax"),
        Graph([Affine(4), ReLU()], input=9, loss="softmax"),
        Graph([Affine(4), ReLU()], input=(8, 1, 1), loss="softmax"),
        Graph([Affine(4), ReLU()], input=8, loss=Softmax(0.1)),
        Graph([Affine(4), ReLU()], input=8, loss=Svm()),
        Graph([Affine(4), ReLU()], input=8),
        Graph([Affine(4), ReLU(name="last")], input=8, loss="softmax"),
        Graph([Affine(4), LeakyReLU()], input=8, loss="softmax"),
    ):
        assert other != base


def test_nothing_changes_a_graph():
    graph = every_op()
    before = (hash(graph), str(graph), repr(graph), graph.to_dict(), dict(graph.shapes))
    given = tuple(graph.given)
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.nodes[0].filters = 9
    model = nbnn.compile(graph, backend="numpy", dtype="float64")
    rng = np.random.default_rng(0)
    model.loss(rng.standard_normal((3, *graph.input)), np.array([0, 1, 2]))
    nbnn.lower.lower(graph, lanes=8)
    assert (hash(graph), str(graph), repr(graph), graph.to_dict(), dict(graph.shapes)) == before
    assert graph == every_op() and graph.given == given


# ---- counting


def lenet():
    nodes = [
        Conv(6, 5, pad=2),
        Tanh(),
        AvgPool(2),
        Conv(16, 5),
        Tanh(),
        AvgPool(2),
        Affine(120),
        Tanh(),
        Affine(84),
        Tanh(),
    ]
    return Graph([*nodes, Affine(10)], input=(1, 28, 28), loss="softmax")


def alexnet():
    nodes = [Conv(64, 11, stride=4, pad=2), MaxPool(3, 2), Conv(192, 5, pad=2), MaxPool(3, 2), Conv(384, 3, pad=1)]
    nodes += [Conv(256, 3, pad=1), Conv(256, 3, pad=1), MaxPool(3, 2), Affine(4096), Affine(4096), Affine(1000)]
    return Graph(nodes, input=(3, 224, 224), loss="softmax")


def vgg16():
    nodes = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        nodes += [*[Conv(filters, 3, pad=1), ReLU()] * count, MaxPool(2)]
    return Graph([*nodes, Affine(4096), Affine(4096), Affine(1000)], input=(3, 224, 224), loss="softmax")


def resnet18():
    nodes = [Conv(64, 7, stride=2, pad=3, bias=False), BatchNorm(), ReLU(), MaxPool(3, stride=2, pad=1, name="block0")]
    for block in range(1, 9):
        filters, stride, before = 32 * 2 ** ((block + 1) // 2), 2 if block in (3, 5, 7) else 1, f"block{block - 1}"
        nodes += [Conv(filters, 3, stride=stride, pad=1, bias=False, inputs=before), BatchNorm(), ReLU()]
        nodes += [Conv(filters, 3, pad=1, bias=False), BatchNorm(name=f"long{block}")]
        if stride == 2:
            nodes += [Conv(filters, 1, stride=2, bias=False, inputs=before), BatchNorm(name=f"short{block}")]
        nodes += [Add(inputs=(f"long{block}", f"short{block}" if stride == 2 else before)), ReLU(name=f"block{block}")]
    return Graph([*nodes, GlobalAvgPool(), Affine(1000)], input=(3, 224, 224), loss="softmax")


@pytest.mark.parametrize(
    ("make", "parameters", "multiply_adds"),
    [  # the parameters as torchvision and LeCun count them
        (lenet, 61_706, 416_520),
        (alexnet, 61_100_840, 714_188_480),
        (vgg16, 138_357_544, 15_470_264_320),
        (resnet18, 11_689_512, 1_814_073_344),
    ],
)
def test_known_nets_have_their_known_sizes(make, parameters, multiply_adds):
    graph = make()
    assert graph.parameter_count == parameters
    assert graph.multiply_adds == multiply_adds
    assert str(graph).splitlines()[-1].split()[2:] == [f"{parameters:,}", f"{multiply_adds:,}"]


def test_multiply_adds_are_those_of_the_plain_loops():
    op, (channels, height, width) = Conv(6, (3, 2), stride=2, pad=1, dilation=2, groups=3), (9, 11, 8)
    filters, rows, columns = op.shape((channels, height, width))
    assert op.multiply_adds((channels, height, width)) == filters * rows * columns * (channels // 3) * 3 * 2
    assert math.prod(op.params((channels, height, width))["w"].shape) == filters * (channels // 3) * 3 * 2
