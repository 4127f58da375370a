"""Memory safety over random shapes: kernels and ops between guard pages, and arrays of more than 2**31 numbers."""

import collections
import itertools
import json
import math
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
from cases import CODES, RULES, Case, Maker
from hypothesis import given
from hypothesis import strategies as st
from soak import tell, times
from strategies import COUNTS, PICTURES, SHAPES, STATELESS, divisors, often, ops, whole
from test_kernels import DTYPES, KERNELS, _child, again, demand_equal_arguments, expected, guarded, items_of, run

import nbnn
import nbnn.eager
import nbnn.model
from nbnn import Affine, AvgPool, BatchNorm, Conv, Dropout, GlobalAvgPool, Graph, MaxPool, ReLU
from nbnn.kernels import reference
from nbnn.ops import NARROW
from nbnn.plane import LEAST_PLACES, MOST_FILTERS

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for guard pages and sparse maps")
SHAPES_TRIED = times(210, 2100)


# ---- rows of cases.py with other sizes


def windows(draw: Any) -> dict[str, Any]:
    """Examples, their sides, and a window that slides over them."""
    sides = draw(whole(1, 12)), draw(whole(1, 12))
    pad, dilation, n = draw(whole(0, 3)), draw(whole(1, 3)), draw(whole(1, 4))
    return {
        "sides": sides,
        "window": tuple(draw(whole(1, min(5, (side + 2 * pad - 1) // dilation + 1))) for side in sides),
        "n": n,
        "stride": draw(whole(1, 3)),
        "pad": pad,
        "dilation": dilation,
        "slots": draw(whole(1, n)),
    }


def conv(draw: Any) -> list[Case]:
    settings = {
        "channels": draw(whole(1, NARROW) | COUNTS),
        "filters": draw(COUNTS),
        **windows(draw),
        "together": draw(whole(1, 4)),
        "dense": draw(st.booleans()),
    }
    return cases.conv(str(settings), **settings)


def depthwise(draw: Any) -> list[Case]:
    settings = {"channels": draw(COUNTS), **windows(draw)}
    return cases.depthwise(str(settings), **settings)


def winograd(draw: Any) -> list[Case]:
    n, channels = draw(whole(1, 4)), draw(COUNTS)
    settings = {
        "channels": channels,
        "filters": draw(COUNTS),
        "sides": (draw(whole(3, 14)), draw(whole(3, 14))),
        "n": n,
        "slots": draw(whole(1, n)),
        "blocks": draw(st.sampled_from([1, -(-channels // 16)])),
        "together": draw(st.sampled_from([8, 16, 32])),
    }
    return cases.winograd(str(settings), **settings)


def halves(draw: Any) -> list[Case]:
    n = draw(whole(1, 4))
    settings = {
        "channels": draw(COUNTS),
        "filters": draw(COUNTS),
        "out": (2 * draw(whole(1, 6)), 2 * draw(whole(1, 6))),
        "window": (draw(whole(2, 7)), draw(whole(2, 7))),
        "n": n,
        "slots": draw(whole(1, n)),
        "rows": draw(whole(1, 6)),
    }
    return cases.halves(str(settings), **settings)


def plane(draw: Any) -> list[Case]:
    n, rows = draw(whole(1, 4)), draw(whole(1, 6))
    settings = {
        "filters": draw(whole(1, MOST_FILTERS)),
        "out": (draw(whole(1, 8)), draw(whole(LEAST_PLACES, 40))),
        "window": (draw(whole(1, 5)), draw(whole(1, 5))),
        "n": n,
        "dilation": draw(whole(1, 3)),
        "slots": draw(whole(1, n)),
        "rows": rows,
        "dense": draw(st.booleans()),
    }
    return cases.plane(str(settings), **settings)


def affine(draw: Any) -> list[Case]:
    settings = {
        "n": draw(COUNTS),
        "picture": (draw(whole(1, 4)), draw(whole(1, 4)), draw(COUNTS)),
        "units": draw(COUNTS),
        **draw(st.sampled_from([{"dense": True}, {"spare": 0}, {"spare": 1}])),
    }
    return cases.affine(str(settings), **settings)


def pictures(draw: Any) -> tuple[int, int, int, int]:
    return draw(whole(1, 4)), draw(whole(1, 9)), draw(whole(1, 9)), draw(COUNTS)


def activation(draw: Any) -> list[Case]:
    shape, how = pictures(draw), draw(st.sampled_from([{"halo": 0}, {"halo": 2}, {"spare": 1}]))
    found = []
    for name, (reads, settings, *_) in cases.ACTIVATIONS.items():

        def forward(make: Maker, settings: tuple = settings) -> tuple:
            return make.value(*shape, **how), *settings, make.out(*shape, **how)

        def backward(make: Maker, name: str = name, reads: str = reads, settings: tuple = settings) -> tuple:
            x = make.value(*shape, **how)
            if reads == "y":
                getattr(reference, f"{name}_forward")(x.copy(), *settings, x)
            return x, make.grad(*shape, **how), *settings, make.grad_out(*shape, **how)

        label = f"{shape} {how}"
        found += [Case(f"{name}_forward", label, forward), Case(f"{name}_backward", label, backward)]
    return found


def pool(draw: Any) -> list[Case]:
    shape, apart = pictures(draw), draw(st.booleans())
    pad = 0 if apart else draw(whole(0, min(2, *shape[1:3])))
    low = max(1, 2 * pad)
    window = tuple(draw(whole(low, max(low, min(5, side + 2 * pad)))) for side in shape[1:3])
    stride = draw(whole(max(window), 5) if apart else whole(1, 5))
    settings = {"size": window, "stride": stride, "pad": pad, "rectify": draw(whole(0, 1))}
    return cases.pool(f"{shape} {settings}", shape, **settings) + cases.global_pool(str(shape), shape)


def norm(draw: Any) -> list[Case]:
    """Of batches and of groups of channels."""
    shape = pictures(draw)
    rectify, rows = draw(whole(0, 1)), []
    for groups in (0, draw(divisors(shape[3]))):
        settings = {"groups": groups, "rectify": rectify}
        rows += cases.norm(f"{shape} {settings}", shape, **settings)
    # of few numbers some have no spread and are scaled by 316; of many random ones, some products are far above 1
    return [r._replace(size=10.0) if r.kernel == "norm_backward" else r for r in rows] + cases.scale(str(shape), shape)


def augment(draw: Any) -> list[Case]:
    shape = pictures(draw)
    shift, flip, back = draw(whole(0, min(shape[1:3]) - 1)), draw(whole(0, 1)), draw(whole(0, 1))
    return [cases.augment(f"{shape} {shift} {flip}", shape, shift, flip, back, seed=draw(whole(0, 2**63 - 1)))]


def dropout(draw: Any) -> list[Case]:
    settings = {
        "p": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "shape": pictures(draw),
        "seed": draw(whole(0, 2**63 - 1)),
        "gradient": draw(st.booleans()),
    }
    return [cases.dropout(str(settings), **settings)]


def loss(draw: Any) -> list[Case]:
    n, classes, smoothing = draw(COUNTS), draw(COUNTS), draw(st.sampled_from([0.0, 0.1]))
    label = f"{n} of {classes}, {smoothing}"
    return [
        cases.loss("softmax_loss", label, n, classes, smoothing),
        cases.loss("svm_loss", label, n, classes),
        cases.loss("mse_loss", label, n, classes),
        Case("add_total", label, lambda make: (make.rng.standard_normal(n), 0.01, np.array([0.5]))),
    ]


def update(draw: Any) -> list[Case]:
    """Flat arenas: multiples of 16 numbers, around whole blocks."""
    size = 16 * draw(whole(1, 300) | st.sampled_from([k * cases.BLOCK // 16 + d for k in (1, 2) for d in (0, 1)]))
    weights = 16 * draw(whole(0, size // 16))
    label, sums = f"{weights} weights of {size}", -(-size // cases.BLOCK)
    return [
        *(cases.step(rule, label, size, weights) for rule in RULES),
        cases.average(label, size, 5.0),
        Case("add_l2", label, cases._l2(weights)),
        Case("square_sums", label, lambda make: (make.grad(size), make.doubles(sums))),
        cases.trust(label, sums),
        Case("clip_norm", label, lambda make: (make.rng.uniform(1, 2, sums), 0.5, make.grad(size))),
    ]


def gather(draw: Any) -> list[Case]:
    shape = draw(whole(1, 20)), draw(whole(1, 9)), draw(whole(1, 9))
    how: dict[str, Any] = draw(st.sampled_from([{}, {"dense": True}, {"halo": 2}, {"vectors": True}]))
    shape = (math.prod(shape), 1, 1) if "vectors" in how else shape
    rows = draw(whole(1, 20))

    def labels(make: Maker) -> tuple:
        return make.labels(9, 10), make.rng.integers(0, 9, rows), np.full(rows, -1)

    found = [case for dtype in CODES for case in cases.gather(dtype, f"{shape} {how}", shape, **how)]
    return [*found, Case("gather_labels", f"{rows} of 9", labels)]


def move(draw: Any) -> list[Case]:
    n, *sides, channels = shape = pictures(draw)
    halos = [draw(whole(0, 2)) for _ in range(3)]
    spare, first, rows = draw(whole(0, 1)), draw(whole(0, 20)), draw(COUNTS)
    wide = first + channels + draw(whole(0, 20))
    label = f"{shape}, halos {halos}, {spare} spare, {rows} rows, from {first} of {wide}"

    def made(*kernels: tuple[str, Callable[[Maker], tuple]]) -> list[Case]:
        return [Case(name, label, build) for name, build in kernels]

    def add(make: Maker) -> tuple:
        a, x = make.value(*shape, halo=halos[0]), make.value(*shape, halo=halos[1])
        return a, x, make.out(*shape, halo=halos[2])

    def slots(make: Maker) -> tuple:
        return make.grad(n, rows, spare=spare), make.grad_out(rows)

    def copy_rows(make: Maker) -> tuple:
        return make.grad(n, *sides, channels).transpose(1, 2, 0, 3), make.grad_out(*sides, n, channels)

    def piece(make: Maker) -> tuple:
        return make.value(*shape), make.value(*shape[:3], wide)[..., first : first + channels]

    def from_piece(make: Maker) -> tuple:
        return make.grad(*shape[:3], wide)[..., first : first + channels], make.grad_out(*shape)

    return [
        *made(
            ("add_forward", add),
            ("add_slots", slots),
            ("copy_rows", copy_rows),
            ("copy_channels", piece),
            ("lengths", lambda make: (make.value(*shape), make.grad_out(n))),
            ("lengths", lambda make: (make.dense(*shape), make.grad_out(n))),
            ("copy", lambda make: (make.grad(*shape), make.grad_out(*shape, halo=halos[0]))),
            ("clear_frame", lambda make: (halos[0], make.value(*shape))),
            ("turn", lambda make: (make.grad(n, rows, channels), make.grad_out(n, channels, rows))),
        ),
        Case("copy_channels", f"{label}, back", from_piece),
        *cases.flatten(str(shape), *shape),
    ]


def groups(draw: Any) -> list[Case]:
    count = draw(whole(1, 6))
    channels, filters = count * draw(whole(1, 9)), count * draw(whole(1, 9))
    window = draw(whole(1, 3)), draw(whole(1, 3))
    return cases.groups(f"{window}, {channels} to {filters} in {count}", window, channels, filters, count)


FAMILIES = (
    *(conv, depthwise, winograd, halves, plane, affine, activation, pool, norm),
    *(dropout, augment, loss, update, gather, move, groups),
)


# ---- between guard pages


def run_random(count: int, place: Callable[[bool], Callable[[np.ndarray], np.ndarray]] = guarded) -> None:
    """So many random shapes, each for all kernels of a family, in both dtypes, on arrays that end where a page begins
    that nobody may touch, and on arrays that begin where one ends. Says which before it runs it; at last, how often
    each kernel has run."""
    reached: collections.Counter[str] = collections.Counter()
    shapes = 0
    for family in FAMILIES:

        @often(-(-count // len(FAMILIES)))
        @given(st.composite(family)())
        def stay_inside(rows: list[Case]) -> None:
            nonlocal shapes
            shapes += 1
            for row in rows:
                # nearly all of some of the thousands of sums cancels; of the sum whose sign lion takes all would
                case = row._replace(few_digits=row.kernel != "update")
                for dtype in DTYPES:
                    wanted = expected(case, dtype)
                    for at_end in (True, False):
                        side = "ending at" if at_end else "beginning behind"
                        os.write(1, f"{case}, {dtype}, {side} a guard page\n".encode())
                        args = again(cases.arguments(case, dtype), place(at_end))
                        demand_equal_arguments(run(case, dtype, args), wanted, case, dtype)
                    reached[f"{case.kernel} {dtype}"] += 2

        stay_inside()
    os.write(1, json.dumps({"shapes": shapes, **reached}).encode())


def one_short(at_end: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Arrays whose last number lies on the guard page: the slip that must be found."""
    place = guarded(at_end)

    def short(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f" or array.size < 2:
            return place(array)
        return np.lib.stride_tricks.as_strided(place(array.reshape(-1)[:-1]), (array.size,), (array.itemsize,))

    return short


@LINUX
def test_kernels_stay_inside_arrays_of_random_shapes():
    child = _child(f"import test_memory as t; t.run_random({SHAPES_TRIED})")
    *_, line = child.stdout.splitlines() or ["nothing"]
    assert child.returncode == 0, f"ended at: {line} with {child.returncode}\n{child.stderr[-3000:]}"
    reached = json.loads(line)
    shapes = reached.pop("shapes")
    assert shapes >= SHAPES_TRIED
    tell("random shapes of kernels between guard pages", shapes)
    assert set(reached) == {f"{name} {dtype}" for name in KERNELS for dtype in DTYPES}
    assert min(reached.values()) >= SHAPES_TRIED // 20, min(reached.items(), key=lambda r: r[1])
    tell("kernel runs between guard pages", sum(reached.values()))


@LINUX
def test_an_array_one_number_too_short_is_found():
    child = _child("import test_memory as t; t.run_random(12, t.one_short)")
    assert child.returncode == -signal.SIGSEGV
    assert child.stdout.splitlines()[-1].endswith("float32, ending at a guard page")


def demand_gradients(model: Any, x: Any, params: Any, dy: Any, found: Any, tolerance: float) -> None:
    """A convolution is linear in x, in w and in b: along any way r, dy . (y(x + r) - y(x)) is dx . r."""
    given, rng, at = {"x": x, **params}, np.random.default_rng(1), model.loss(x)
    for name, value in given.items():
        way = rng.standard_normal(value.shape)
        moved = {**given, name: value + way}
        model.params.update({key: moved[key.split(".")[1]] for key in model.params})
        wanted, gradient = np.vdot(dy, model.loss(moved["x"]) - at), found[f"d{name}"]
        size = np.linalg.norm(gradient) * np.linalg.norm(way) + np.linalg.norm(dy) * np.linalg.norm(at)
        assert abs(np.vdot(gradient, way) - wanted) <= tolerance * size, name
        model.params.update({key: params[key.split(".")[1]] for key in model.params})


EVEN = st.sampled_from([8, 12, 16])
WIDE = st.tuples(whole(6, 33), EVEN, EVEN)
GRAY = st.tuples(st.just(1), whole(2, 12), whole(18, 34))
# Winograd's way is for many channels and whole tiles, that by halves for even sides, that by rows for one channel.
SHAPES_READ = {
    Conv: PICTURES | st.tuples(whole(16, 33), whole(4, 12), whole(4, 12)) | WIDE | WIDE | GRAY,
    MaxPool: PICTURES,
    AvgPool: PICTURES,
    GlobalAvgPool: PICTURES,
}
# Of 256 numbers a row takes more room than of 260; and values of weights that are too many to be made before.
LARGE = [(Conv(260, 3, pad=1), (256, 5, 5)), (Conv(260, 3, pad=1), (256, 3, 3)), (Conv(346, 3, pad=1), (344, 3, 4))]
EACH_WAY = [  # that chance may leave out among few
    *((Conv(17, 3, pad=1), (16, 6, 7)), (Conv(9, 5, pad=2), (7, 8, 12)), (Conv(5, 4, pad=1), (1, 5, 19))),
    (Conv(11, 3, 2, 1, groups=11), (11, 6, 7)),
]
KINDS = (Conv, Conv, Conv, Conv, Conv, MaxPool, AvgPool, GlobalAvgPool, *STATELESS)


def run_ops(count: int) -> None:
    """So many ops at once on random shapes, every array of theirs between guard pages: the room and the frames that the
    library itself gives to arrays are enough. Forward is held to the reference as well."""
    reached: collections.Counter[str] = collections.Counter()

    def stay_inside(kind: Any, data: Any, at_end: bool, dtype: str, n: int) -> None:
        shape = data.draw(SHAPES_READ.get(kind, SHAPES))
        one(data.draw(ops(shape, (kind,))), shape, at_end, dtype, n)

    def one(op: Any, shape: tuple[int, ...], at_end: bool, dtype: str, n: int) -> None:
        place, rng = guarded(at_end), np.random.default_rng(0)
        nbnn.eager.arena = lambda size, dtype: place(np.zeros(size, dtype))
        side = "ending at" if at_end else "beginning behind"
        os.write(1, f"{op} of {n} x {shape}, {dtype}, {side} a guard page\n".encode())
        eager = nbnn.eager.Eager(op, shape, dtype)
        model = nbnn.compile(Graph([op], input=shape), dtype="float64", backend="numpy")
        params = {name.split(".")[1]: rng.standard_normal(value.shape) for name, value in model.params.items()}
        model.params.update({name: params[name.split(".")[1]] for name in model.params})
        x = rng.standard_normal((n, *shape))
        y, wanted = eager.forward(x, **params), model.loss(x)
        assert np.abs(y - wanted).max() <= (2e-3 if dtype == "float32" else 1e-9) * (1 + np.abs(wanted).max())
        dy = rng.standard_normal(y.shape)
        found = eager.backward(x, dy, **params)
        assert all(np.isfinite(value).all() for value in found.values())
        if isinstance(op, Conv):
            demand_gradients(model, x, params, dy, found, 1e-4 if dtype == "float32" else 1e-10)
        reached[type(eager.op).__name__] += 1

    for (op, shape), at_end, dtype in itertools.product(LARGE + EACH_WAY, (True, False), DTYPES):
        one(op, shape, at_end, dtype, 2)
    for kind, share in collections.Counter(KINDS).items():
        given_kind = given(st.just(kind), st.data(), st.booleans(), st.sampled_from(DTYPES), whole(1, 5))
        often(-(-count * share // len(KINDS)))(given_kind(stay_inside))()
    os.write(1, json.dumps(reached).encode())


@LINUX
def test_ops_stay_inside_the_room_that_the_library_gives_them():
    count = times(200, 4000)
    child = _child(f"import test_memory as t; t.run_ops({count})")
    *_, line = child.stdout.splitlines() or ["nothing"]
    assert child.returncode == 0, f"ended at: {line} with {child.returncode}\n{child.stderr[-3000:]}"
    reached = json.loads(line)
    assert set(reached) == {kind.__name__ for kind in KINDS} | {
        *("WinogradConv", "HalvedConv", "PlaneConv", "DepthwiseConv")
    }
    assert min(reached.values()) >= count // 100, reached
    assert sum(reached.values()) >= count
    tell("random ops between guard pages", sum(reached.values()))


# ---- beyond 2**31 numbers: offsets of 32 bits would come out elsewhere, and end the child

FAR = 2**31 + cases.BLOCK  # numbers; a multiple of every grain
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # pages cost memory when they are touched, not before


def lazy(size: int) -> mmap.mmap:
    """So many bytes of zeros, of which only those cost memory that somebody touches."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)


@pytest.fixture
def room_beyond() -> None:
    """Skips where a process may not even name so much memory."""
    if not sys.platform.startswith("linux"):
        pytest.skip("asks Linux for memory that costs nothing until it is touched")
    try:
        lazy(2**40).close()
    except OSError as problem:
        pytest.skip(f"this machine gives no 2**40 bytes of addresses: {problem}")


def moved_apart(args: tuple) -> tuple:
    """Arrays of two and more axes, the entries of the first one each more than 2**31 numbers from the next; views of
    the same numbers stay that."""
    moved: dict[tuple, np.ndarray] = {}

    def one(a: Any) -> Any:
        if not isinstance(a, np.ndarray) or a.ndim < 2 or not 2 <= len(a) <= 20 or a.strides[0] == 0:
            return a
        key = (a.ctypes.data, a.shape, a.strides)
        if key not in moved:
            step = FAR * a.itemsize
            moved[key] = np.ndarray(a.shape, a.dtype, lazy(len(a) * step), 64, (step, *a.strides[1:]))
            moved[key][...] = a
        return moved[key]

    return tuple(one(a) for a in args)


def moved_behind(case: Case, args: tuple) -> tuple[tuple, int]:
    """The same at the end of data and arenas that begin with 2**31 other numbers; and the first item there."""
    names = [p.name for p in KERNELS[case.kernel].parameters]
    if "rows" in names:  # examples are told by number
        before = -(-FAR // args[0][0].size)
        moved = {"data": lambda a: _behind(a, before), "rows": lambda a: a + before}
        moved["all_labels"] = moved["data"]
        return tuple(moved.get(name, lambda a: a)(a) for name, a in zip(names, args, strict=True)), 0
    blocks = FAR // cases.BLOCK

    def one(name: str, a: Any) -> Any:
        if name == "weights":
            return a + FAR
        if (
            not isinstance(a, np.ndarray)
            or name in ("settings", "norm")
            or (case.kernel, name) == ("clip_norm", "sums")
            or (case.kernel == "trust" and name != "sums")  # it reads a number of every example
        ):
            return a
        return _behind(a, blocks if name in BY_BLOCK else FAR)

    return tuple(map(one, names, args)), blocks if KERNELS[case.kernel].each in BY_BLOCK else FAR


def _behind(a: np.ndarray, before: int) -> np.ndarray:
    """An array that ends with these entries; so many other ones come before them."""
    size = a[0].size if a.size else 1
    found = np.frombuffer(lazy((before + len(a)) * size * a.itemsize), a.dtype).reshape(-1, *a.shape[1:])
    found[before:] = a
    return found


BY_BLOCK = ("sums", "of_w")
FLAT = (
    *("gather", "gather_labels", "gather_lengths", "update", "add_l2", "square_sums", "trust", "clip_norm", "average"),
    *("running_statistics", "batch_gradients"),
)


def run_far_apart(rows_of_each: int) -> None:
    """The first rows of each kernel on arrays of more than 2**31 numbers; says which before it runs it. `add_total`
    alone is left out: it reads all of its one array, which has a number for each example of a minibatch."""
    reached: collections.Counter[str] = collections.Counter()
    for case in cases.CASES:
        for dtype in DTYPES:
            args = again(cases.arguments(case, dtype))
            if case.kernel == "add_total" or reached[f"{case.kernel} {dtype}"] >= rows_of_each:
                continue
            os.write(1, f"{case}, {dtype}\n".encode())
            if case.kernel in FLAT:
                far, first = moved_behind(case, args)
                items = items_of(KERNELS[case.kernel], args)
                found = run(case, dtype, far, [(first, first + items)])
                outputs = KERNELS[case.kernel].outputs
                pairs = enumerate(zip(found, args, strict=True))
                found = tuple(a[len(a) - len(b) :] if k in outputs else b for k, (a, b) in pairs)
            else:
                far = moved_apart(args)
                if all(a is b for a, b in zip(args, far, strict=True)):
                    continue
                found = run(case, dtype, far)
            demand_equal_arguments(found, expected(case, dtype), case, dtype)
            reached[f"{case.kernel} {dtype}"] += 1
    os.write(1, json.dumps(reached).encode())


def test_kernels_count_in_64_bits(room_beyond):
    child = _child(f"import test_memory as t; t.run_far_apart({times(3, 1000)})")
    *_, line = child.stdout.splitlines() or ["nothing"]
    assert child.returncode == 0, f"ended at: {line} with {child.returncode}\n{child.stderr[-3000:]}"
    reached = json.loads(line)
    assert set(reached) == {f"{name} {dtype}" for name in set(KERNELS) - {"add_total"} for dtype in DTYPES}
    tell("kernel runs on arrays beyond 2**31 numbers", sum(reached.values()))


def test_a_step_cut_to_32_bits_is_found(room_beyond):
    case = next(c for c in cases.CASES if c.kernel == "copy")
    far = moved_apart(cases.arguments(case, "float32"))
    cut = tuple(np.lib.stride_tricks.as_strided(a, a.shape, (a.strides[0] % 2**32, *a.strides[1:])) for a in far)
    run(case, "float32", cut)
    with pytest.raises(AssertionError):
        demand_equal_arguments(far, expected(case, "float32"), case, "float32")


def run_far_arena() -> None:
    """A net with room for so many examples that all its activations but the first lie beyond 2**31 numbers."""
    near = nbnn.compile(BEYOND, seed=1)
    starts = [b.start for b in near.lowered.buffers.values() if b.arena == "acts" and b.start > 0]
    nbnn.model.arena = lambda elements, dtype: np.frombuffer(lazy(max(elements, 1) * np.dtype(dtype).itemsize), dtype)
    far = nbnn.compile(BEYOND, seed=1, batch=-(-FAR // min(starts)))
    assert far._acts.size > FAR and len(starts) > 5
    x, y = few_examples()
    for model in (near, far):
        model.losses = model.train_steps(x, y, steps=3, reg=0.1, clip=1.0)
    assert far.losses.tobytes() == near.losses.tobytes()
    assert far.loss(x).tobytes() == near.loss(x).tobytes()
    for name, value in near.state_dict().items():
        assert far.state_dict()[name].tobytes() == value.tobytes(), name
    os.write(1, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024).encode())


BEYOND = Graph(
    [Conv(8, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Dropout(0.2), Affine(3)], input=(4, 16, 16), loss="softmax"
)


def few_examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (8, *BEYOND.input)).astype(np.uint8), rng.integers(0, 3, 8)


def test_an_arena_of_more_than_2_to_the_31_numbers(room_beyond):
    child = _child("import test_memory as t; t.run_far_arena()")
    assert child.returncode == 0, child.stderr[-3000:]
    assert int(child.stdout) < 2000  # MiB: what is not touched costs nothing


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_data_of_more_than_2_to_the_31_numbers(tmp_path, room_beyond, dtype):
    """A file with holes: 2 to 17 GB of zeros that take no room, and at its end the examples that are asked for."""
    x, y = few_examples()
    count = 2**31 // math.prod(BEYOND.input) + len(x)
    path = tmp_path / "x.bin"
    with open(path, "wb") as stream:
        try:
            stream.truncate(count * math.prod(BEYOND.input) * np.dtype(dtype).itemsize)
        except OSError as problem:
            pytest.skip(f"no file of that size: {problem}")
    if path.stat().st_blocks * 512 > 2**30:
        pytest.skip("files have no holes here")
    data = np.memmap(path, dtype, "r+", shape=(count, *BEYOND.input))
    data[-len(x) :], labels = x, np.zeros(count, np.uint8)
    labels[-len(x) :] = y
    assert data.size > 2**31
    rows, found = np.array([[7, 0, 3], [5, 7, 1]]), []
    for X, targets, indices in ((x, y, rows), (data, labels, rows + count - len(x))):
        model = nbnn.compile(BEYOND, seed=1)
        losses = model.train_steps(X, targets, indices=indices)
        found.append(losses.tobytes() + model.loss(X[-5:]).tobytes() + model.params["conv1.w"].tobytes())
    assert found[0] == found[1]


# ---- a mapped file that shrinks


def run_shrunk(path: str, form: str) -> None:
    """Map examples, cut the file, and use them: by now a read behind its end would kill this process."""
    x, y = few_examples()
    size, before = x.nbytes, 3 * mmap.ALLOCATIONGRANULARITY
    with open(path, "wb") as stream:
        stream.write(bytes(before) + x.tobytes())
    if form == "a plain map":
        with open(path, "rb") as stream:
            mapped = np.frombuffer(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ), np.uint8, size, before)
        mapped = mapped.reshape(x.shape)
    else:
        mapped = np.memmap(path, np.uint8, "r", before, x.shape)
    given = mapped[1:][::2] if form == "a piece" else mapped
    model = nbnn.compile(BEYOND)
    model.loss(given), model.loss(given, y[: len(given)])
    os.truncate(path, before + 1)
    for use in (
        lambda: model.loss(given),
        lambda: model.predict(given),
        lambda: model.evaluate(given, y[: len(given)]),
        lambda: model.train_steps(given, y[: len(given)]),
    ):
        with pytest.raises(ValueError) as caught:
            use()
        assert str(caught.value) == (
            f"X is mapped from a file that has become shorter: it needs {before + size:,} bytes, and there are "
            f"{before + 1:,}; write the file again, then map it again"
        )
    with open(path, "r+b") as stream:
        stream.truncate(before + size)
    model.loss(given)  # zeros, but a file that is long enough


@LINUX
@pytest.mark.parametrize("form", ["an array", "a piece", "a plain map"])
def test_a_mapped_file_that_shrinks_is_refused(tmp_path, form):
    child = _child(f"import test_memory as t; t.run_shrunk({str(tmp_path / 'x.bin')!r}, {form!r})")
    assert child.returncode == 0, child.stderr[-3000:]


class Mean:
    """A student's model: scores are a weighted sum."""

    def __init__(self) -> None:
        self.params = {"w": np.zeros((2, 3))}

    def loss(self, x: np.ndarray, y: np.ndarray | None = None) -> Any:
        scores = x.reshape(len(x), 2, -1).mean(axis=2) @ self.params["w"]
        if y is None:
            return scores
        return float(scores.sum()), {"w": np.ones((2, 3))}


def run_shrunk_training(path: str, part: str, kind: str) -> None:
    """Give a Solver one of its four arrays in a mapped file, empty the file, and train and measure."""
    x, y = few_examples()
    vectors = np.zeros((8, 3), np.float32)
    graph = Graph(BEYOND.nodes, input=BEYOND.input, loss="mse" if kind == "targets" else "softmax")
    model = Mean() if kind == "student" else nbnn.compile(graph)
    data = dict.fromkeys(["X_train", "X_val"], x) | dict.fromkeys(
        ["y_train", "y_val"], vectors if kind == "targets" else y
    )
    data[part].tofile(path)
    data[part] = mapped = np.memmap(path, data[part].dtype, "r+", shape=data[part].shape)
    solver = nbnn.Solver(model, data, batch_size=4, num_val_samples=4, verbose=False)
    os.truncate(path, 0)
    sentence = (
        f" is mapped from a file that has become shorter: it needs {mapped.nbytes:,} bytes, and there are 0; write the "
        "file again, then map it again"
    )
    whole = {"X": x, "y": vectors if kind == "targets" else y}
    uses = {part: solver.train, part[0]: lambda: solver.check_accuracy(**{**whole, part[0]: mapped}, num_samples=4)}
    for name, use in uses.items():
        with pytest.raises(ValueError) as caught:
            use()
        assert str(caught.value) == name + sentence
    assert solver.iteration == 0


@LINUX
@pytest.mark.parametrize("kind", ["labels", "targets", "student"])
@pytest.mark.parametrize("part", ["X_train", "y_train", "X_val", "y_val"])
def test_a_training_whose_mapped_file_shrinks_is_refused(tmp_path, part, kind):
    child = _child(f"import test_memory as t; t.run_shrunk_training({str(tmp_path / 'x.bin')!r}, {part!r}, {kind!r})")
    assert child.returncode == 0, child.stderr[-3000:]


def run_shrunk_weights(path: str) -> None:
    """Weights, and arguments of a layer of the course."""
    from nbnn.course.fast_layers import conv_forward_fast

    model = nbnn.compile(BEYOND)
    weights = model.params["conv1.w"]
    weights.tofile(path)
    mapped = np.memmap(path, weights.dtype, "r+", shape=weights.shape)
    os.truncate(path, 0)
    state = model.state_dict() | {"conv1.w": mapped}
    x = np.zeros((2, *BEYOND.input))
    settings = {"stride": 1, "pad": 1}
    for use in (
        lambda: model.params.update({"conv1.w": mapped}),
        lambda: model.load_state_dict(state),
        lambda: conv_forward_fast(x, mapped, np.zeros(8), settings),
        lambda: conv_forward_fast(mapped, weights, np.zeros(8), settings),
    ):
        with pytest.raises(ValueError, match="is mapped from a file that has become shorter: it needs"):
            use()


@LINUX
def test_weights_in_a_mapped_file_that_shrinks_are_refused(tmp_path):
    child = _child(f"import test_memory as t; t.run_shrunk_weights({str(tmp_path / 'x.bin')!r})")
    assert child.returncode == 0, child.stderr[-3000:]
