"""Every kernel against its NumPy twin, and the promises that go with it, over the rows of `cases.py`."""

import ctypes
import functools
import inspect
import itertools
import mmap
import os
import pathlib
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import CASES, ELEMENTWISE, EXACT, TOLERANCES, Case, Maker, arguments, dropout, room
from llvmlite import binding
from soak import times

import nbnn
from nbnn.kernels import names, reference
from nbnn.kernels.jit import Kernel, Space3, Space4
from nbnn.kernels.reference.pool import places_of
from nbnn.kernels.simd import lanes_of

DTYPES = ("float32", "float64")
KERNELS = names()
ROWS = pytest.mark.parametrize(("case", "dtype"), [pytest.param(c, d, id=f"{c}, {d}") for c in CASES for d in DTYPES])


# ---- running a row


def owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory a view looks into."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def again(args: tuple, place: Callable[[np.ndarray], np.ndarray] = np.copy) -> tuple:
    """The same arguments on other memory, laid out the same, room included; views of one array stay that."""
    moved: dict[int, np.ndarray] = {}

    def one(a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        whole = owner(a)
        if id(whole) not in moved:
            moved[id(whole)] = place(whole)
        return np.ndarray(a.shape, a.dtype, moved[id(whole)], a.ctypes.data - whole.ctypes.data, a.strides)

    return tuple(one(a) for a in args)


@functools.lru_cache(maxsize=8)
def _made(case: Case, dtype: str) -> tuple:
    return arguments(case, dtype)


def items_of(kernel: Kernel, args: tuple) -> int:
    each = args[[p.name for p in kernel.parameters].index(kernel.each)]
    return each if isinstance(each, int) else each.shape[kernel.axis]


def results(kernel: Kernel, args: tuple) -> tuple:
    """The arguments without the workers' own room: what a kernel leaves there means nothing."""
    return tuple(None if p.annotation in (Space3, Space4) else a for p, a in zip(kernel.parameters, args, strict=True))


def run(case: Case, dtype: str, args: tuple, shares: list[tuple[int, int]] | None = None) -> tuple:
    """Run the compiled body over the shares of its items, by default over all at once; the arguments afterwards. The
    room of the last worker is used first."""
    kernel = KERNELS[case.kernel]
    passed = [
        a.ctypes.data if p.annotation is int and isinstance(a, np.ndarray) else a
        for p, a in zip(kernel.parameters, args, strict=True)
    ]
    for number, share in enumerate(shares or [(0, items_of(kernel, args))]):
        kernel.body(dtype)(*passed, *(*share, (number + 1) % 2)[: len(kernel.share)])
    return results(kernel, args)


def expected(case: Case, dtype: str) -> tuple:
    """The arguments after the reference has run."""
    args = again(_made(case, dtype))
    with np.errstate(all="ignore"):
        getattr(reference, case.kernel)(*args)
    return results(KERNELS[case.kernel], args)


# ---- comparing


def demand_equal(found: np.ndarray, wanted: np.ndarray, case: Case, dtype: str) -> None:
    """NaN and infinities in the same places, all else within the tolerance of the row. Nothing passes by being NaN."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    if case.kernel in EXACT or wanted.dtype.kind in "iu":
        np.testing.assert_array_equal(found, wanted)
        return
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    a, b = found[finite].astype(np.float64), wanted[finite].astype(np.float64)
    largest = np.abs(b).max(initial=0.0)
    sizes = np.abs(b) + min(largest, 1.0) if case.kernel in ELEMENTWISE else max(largest, case.size)
    assert np.isfinite(a).all(), "not finite where the reference is"
    errors = np.abs(a - b)
    assert (errors <= TOLERANCES[dtype] * sizes).all(), f"error {errors.max()} at sizes up to {largest}"


def demand_equal_arguments(found: tuple, wanted: tuple, case: Case, dtype: str) -> None:
    for name, a, b in zip(inspect.signature(KERNELS[case.kernel]).parameters, found, wanted, strict=True):
        if isinstance(b, np.ndarray):
            if name == "places":
                a, b = (np.array(places_of(p, *_window(case, found))) for p in (a, b))
            try:
                demand_equal(a, b, case, dtype)
            except AssertionError as problem:
                raise AssertionError(f"{case}, {dtype}: {name}: {problem}") from None


def _window(case: Case, arguments: tuple) -> tuple[int, int, int]:
    """Sides of the windows of a max pool, and the channels of its result."""
    named = dict(zip(inspect.signature(KERNELS[case.kernel]).parameters, arguments, strict=True))
    return named["tall"], named["wide"], named["y" if "y" in named else "dy"].shape[3]


def width_with_room(array: np.ndarray, case: Case) -> int:
    """How much of a row of channels a kernel may touch: up to where the next one begins."""
    if case.kernel == "copy_channels" or array.dtype.kind != "f":
        return array.shape[-1]
    return min([s for s in array.strides[:-1] if s], default=owner(array).nbytes) // array.itemsize


def rows_in_memory(array: np.ndarray, width: int) -> np.ndarray:
    """A mask over the memory of the array: the first `width` numbers of each of its rows."""
    whole, size = owner(array), array.itemsize
    mask = np.zeros(whole.size, bool)
    start = (array.ctypes.data - whole.ctypes.data) // size
    rows = np.ndarray((*array.shape[:-1], width), bool, mask, start, [s // size for s in array.strides[:-1]] + [1])
    rows[...] = True
    return mask


# ---- the tests


@ROWS
def test_kernel_equals_its_reference(case, dtype):
    demand_equal_arguments(run(case, dtype, again(_made(case, dtype))), expected(case, dtype), case, dtype)


@ROWS
def test_room_and_frames_are_kept(case, dtype):
    """Zeros behind parameters and gradients stay zeros, and nothing outside of the rows of an array changes."""
    before = _made(case, dtype)
    after = run(case, dtype, again(before))
    for name, a, b in zip(inspect.signature(KERNELS[case.kernel]).parameters, before, after, strict=True):
        if not isinstance(b, np.ndarray):
            continue
        old, new = owner(a).reshape(-1), owner(b).reshape(-1)
        touchable = rows_in_memory(a, width_with_room(a, case))
        np.testing.assert_array_equal(new[~touchable], old[~touchable], err_msg=f"{name}: outside of its rows")
        behind = touchable & ~rows_in_memory(a, a.shape[-1])
        if not old[behind].any():
            assert not new[behind].any(), f"{name}: the room is no longer zero"


@pytest.mark.parametrize(
    ("case", "dtype"), [pytest.param(c, d, id=f"{c}, {d}") for c in CASES for d in DTYPES if KERNELS[c.kernel].whole]
)
def test_outputs_are_filled_whatever_was_there_before(case, dtype):
    """An array may lie where another was: what is left of that must not show, nor stay in the room of a gradient."""
    before = _made(case, dtype)
    args, rooms = again(before), []
    for k in KERNELS[case.kernel].outputs:
        a, b = args[k], before[k]
        if any(a is not x and isinstance(x, np.ndarray) and owner(x) is owner(a) for x in args):
            continue  # in place
        lanes = lanes_of(b.dtype) if b.dtype.kind == "f" else 1
        rows = rows_in_memory(b, min(width_with_room(b, case), -(-b.shape[-1] // lanes) * lanes))
        behind = rows & ~rows_in_memory(b, b.shape[-1])
        if not owner(b).reshape(-1)[behind].any():
            rooms.append((a, behind))
        owner(a).reshape(-1)[rows] = np.nan
    demand_equal_arguments(run(case, dtype, args), expected(case, dtype), case, dtype)
    for a, behind in rooms:
        assert not owner(a).reshape(-1)[behind].any(), "junk is left in the room of a gradient"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(name for name in KERNELS if name.startswith("conv_backward_weights")))
def test_partial_sums_are_zero_behind_their_rows(name, dtype):
    """`add_slots` adds whole rows, and before the sums anything may have lain there."""
    case = next(c for c in CASES if c.kernel == name)
    args = [*again(_made(case, dtype))]
    place = [p.name for p in KERNELS[name].parameters].index("dw")
    args[place] = dw = room(args[place].shape, dtype, spare=2)
    owner(dw)[...] = np.nan
    run(case, dtype, tuple(args))
    behind = rows_in_memory(dw, width_with_room(dw, case)) & ~rows_in_memory(dw, dw.shape[-1])
    assert behind.any()
    assert not owner(dw).reshape(-1)[behind].any()


def test_every_kernel_has_rows_and_a_twin_with_the_same_parameters():
    assert set(KERNELS) == set(reference.__all__) == {case.kernel for case in CASES}
    assert set(EXACT | ELEMENTWISE) <= set(KERNELS)
    for name, kernel in KERNELS.items():
        assert list(inspect.signature(kernel).parameters) == list(
            inspect.signature(getattr(reference, name)).parameters
        ), name


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_fills_the_arrays_that_it_says(name):
    changed = set()
    for case in CASES:
        if case.kernel == name:
            before, after = _made(case, "float64"), expected(case, "float64")
            pairs = enumerate(zip(results(KERNELS[name], before), after, strict=True))
            changed |= {k for k, (a, b) in pairs if isinstance(a, np.ndarray) and a.tobytes() != b.tobytes()}
            told = {id(owner(before[k])) for k in KERNELS[name].outputs}
            changed -= {k for k in changed - set(KERNELS[name].outputs) if id(owner(before[k])) in told}  # in place
    assert sorted(changed) == KERNELS[name].outputs


def test_labels_of_rows_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)


def test_the_reference_loads_no_numba():
    code = "import sys, nbnn.kernels.reference; sys.exit('numba' in sys.modules)"
    assert _child(code).returncode == 0


def test_a_kernel_can_be_called_from_python():
    for name in ("conv_forward", "add_total"):
        case = next(c for c in CASES if c.kernel == name)
        args = again(arguments(case, "float64"))
        KERNELS[name](*args)
        demand_equal_arguments(args, expected(case, "float64"), case, "float64")


@ROWS
def test_shares_give_the_same_bytes(case, dtype):
    """Who does which items changes no bit."""
    before = _made(case, dtype)
    kernel = KERNELS[case.kernel]
    items, grain = items_of(kernel, before), kernel.grain
    at_once = run(case, dtype, again(before))
    half = items // 2 // grain * grain
    for cuts in {(grain,), (half,), (grain, 2 * grain), ((items - 1) // grain * grain,)}:
        edges = [0, *(c for c in cuts if 0 < c < items), items]
        if len(edges) > 2:
            shares = list(itertools.pairwise(edges))
            last_first = run(case, dtype, again(before), shares[::-1])
            _demand_same_bytes(last_first, at_once)


# What belongs to one example, in kernels that work on each example alone. Losses divide dx by the number of examples.
_OF_AN_EXAMPLE = {
    "x",
    "y",
    "a",
    "dx",
    "dy",
    "mean",
    "scale",
    "means",
    "spreads",
    "spread",
    "mean_g",
    "mean_g_xhat",
    "sum_dy",
    "sum_dy_xhat",
    "dgamma",
    "losses",
    "labels",
    "rows",
    "target",
    "places",
}
RANDOM = ("dropout", "augment")  # what they do to an example depends on its place in the minibatch
_ALONE = {
    name
    for name, kernel in KERNELS.items()
    if kernel.each in ("x", "y", "dx", "means", "sum_dy", "labels") and kernel.axis == 0 and name not in RANDOM
}


@pytest.mark.parametrize(
    ("case", "dtype"), [pytest.param(c, d, id=f"{c}, {d}") for c in CASES for d in DTYPES if c.kernel in _ALONE]
)
def test_an_example_alone_and_among_others_gives_the_same_bytes(case, dtype):
    before = _made(case, dtype)
    together = run(case, dtype, again(before))
    parameters = list(inspect.signature(KERNELS[case.kernel]).parameters)
    mine = [name in _OF_AN_EXAMPLE and not (name == "dx" and case.kernel.endswith("_loss")) for name in parameters]
    count = before[parameters.index(KERNELS[case.kernel].each)].shape[0]
    for n in {0, count // 2, count - 1}:

        def only(args, n=n):
            return tuple(
                a[n : n + 1] if own and isinstance(a, np.ndarray) else a for a, own in zip(args, mine, strict=True)
            )

        alone = run(case, dtype, only(again(before)))
        _demand_same_bytes(
            [a for a, own in zip(alone, mine, strict=True) if own],
            [a for a, own in zip(only(together), mine, strict=True) if own],
        )


def _demand_same_bytes(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        if isinstance(a, np.ndarray):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_drops_the_same_elements_as_its_reference_and_as_many_as_it_says(dtype):
    case = dropout("many", 0.3, (16, 16, 16, 17))
    found, wanted = run(case, dtype, again(_made(case, dtype)))[-1], expected(case, dtype)[-1]
    assert found.tobytes() == wanted.tobytes()
    share = (found == 0).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / found.size)  # four standard deviations


# ---- the checks can fail


@ROWS
def test_slips_are_noticed(case, dtype):
    """An error of 0.1%, a NaN and a zero in any result of a kernel are each refused."""
    before, wanted = _made(case, dtype), expected(case, dtype)
    for k, (a, b) in enumerate(zip(before, wanted, strict=True)):
        if not isinstance(b, np.ndarray) or not b.size or a.tobytes() == b.tobytes():
            continue  # no result, or one that the kernel rightly left as it was
        magnitudes = np.where(np.isfinite(b), np.abs(b), 0)
        largest = np.unravel_index(magnitudes.argmax(), b.shape)
        slips = [np.nan] if b.dtype.kind == "f" and np.isfinite(b).any() else []
        slips += [b[largest] * 1.001, 0] if magnitudes[largest] > 0 and b.dtype.kind == "f" else []
        for slip in slips:
            place = largest if np.isfinite(b[largest]) else tuple(np.argwhere(np.isfinite(b))[0])
            found = run(case, dtype, again(before))
            found[k][place] = slip
            with pytest.raises(AssertionError):
                demand_equal_arguments(found, wanted, case, dtype)


def test_a_hidden_nan_is_noticed():
    case = next(c for c in CASES if c.label == "a NaN is a maximum")
    found, wanted = again(expected(case, "float32")), expected(case, "float32")
    found[-2][np.isnan(found[-2])] = 1.0
    with pytest.raises(AssertionError):
        demand_equal_arguments(found, wanted, case, "float32")


# ---- in a child process: between guard pages, and on narrower registers


def guarded(at_end: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Copies of arrays that end where a page begins that nobody may touch, or begin where one ends."""
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    page = mmap.PAGESIZE

    def place(array: np.ndarray) -> np.ndarray:
        if not array.nbytes:
            return array.copy()
        pages = -(-array.nbytes // page)
        memory = mmap.mmap(-1, (pages + 2) * page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for fence in (address, address + (pages + 1) * page):
            assert protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0, os.strerror(ctypes.get_errno())
        start = (pages + 1) * page - array.nbytes if at_end else page
        moved = np.frombuffer(memory, array.dtype, array.size, start)
        moved[:] = array.reshape(-1)
        return moved

    return place


def run_rows(
    place: Callable[[np.ndarray], np.ndarray] = np.copy,
    dtypes: tuple[str, ...] = DTYPES,
    intensity: range = range(100),
) -> None:
    """All rows, or those of kernels that compute so much; says which before it runs it, so that a crash has a name."""
    for dtype in dtypes:
        for case in (case for case in CASES if KERNELS[case.kernel].intensity in intensity):
            os.write(1, f"{case}, {dtype}\n".encode())
            demand_equal_arguments(
                run(case, dtype, again(_made(case, dtype), place)), expected(case, dtype), case, dtype
            )
    os.write(1, b"all rows\n")


def _child(code: str, **settings: str) -> subprocess.CompletedProcess:
    here = pathlib.Path(__file__).parent
    roots = [str(here), str(pathlib.Path(nbnn.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots))} | settings
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=900)


def _demand_all_rows(child: subprocess.CompletedProcess) -> None:
    lines = child.stdout.splitlines() or ["nothing"]
    assert child.returncode == 0 and lines[-1] == "all rows", (
        f"ended at: {lines[-1]} with {child.returncode}\n{child.stderr[-2000:]}"
    )


_NEEDS_MPROTECT = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="guard pages are made with Linux's mprotect"
)


@_NEEDS_MPROTECT
@pytest.mark.parametrize("at_end", [True, False], ids=["ending at a guard page", "beginning at a guard page"])
def test_kernels_stay_inside_their_arrays(at_end):
    _demand_all_rows(_child(f"import test_kernels as t; t.run_rows(t.guarded({at_end}))"))


@_NEEDS_MPROTECT
@pytest.mark.parametrize(
    "slip",
    [
        pytest.param("ctypes.c_double.from_address(x.ctypes.data - 8).value", id="one number before"),
        pytest.param("ctypes.c_double.from_address(x.ctypes.data + x.nbytes).value", id="one number behind"),
        pytest.param("t.KERNELS['relu_forward'](x, x.copy())", id="a kernel on an array without room"),
    ],
)
def test_guard_pages_stop_a_slip(slip):
    place = f"t.guarded({'- 8' not in slip})"
    code = f"import ctypes, os, numpy as np, test_kernels as t; x = {place}(np.ones(5)).reshape(1, 1, 1, 5); "
    child = _child(f"{code} os.write(1, b'slips'); {slip}; os.write(1, b' unseen')")
    assert (child.stdout, child.returncode) == ("slips", -signal.SIGSEGV)


_FEATURES = binding.get_host_cpu_features()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names of x86 processors")
@pytest.mark.parametrize(
    ("processor", "lanes", "needs", "dtype"), [("haswell", 8, "avx2", "float32"), ("nehalem", 4, "sse4.2", "float64")]
)
def test_kernels_on_narrower_registers(processor, lanes, needs, dtype):
    """In one dtype each, and those that compute most, among them the multiplies, whose text depends on the number of
    registers: in a soak all, in both dtypes. They are compiled for it."""
    if not _FEATURES.get(needs):
        pytest.skip(f"this processor has no {needs}")
    if lanes_of("float32") == lanes:
        pytest.skip(f"the other tests have run with {lanes} lanes")
    code = f"import test_kernels as t; assert [t.lanes_of(d) for d in t.DTYPES] == {[lanes, lanes // 2]}; "
    code += f"t.run_rows(dtypes={times((dtype,), DTYPES)}, intensity={range(times(8, 0), 100)})"
    _demand_all_rows(_child(code, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=""))


def test_rows_have_the_room_that_they_say():
    """The junk is there and the zeros are: else the tests of the room would see nothing."""
    make = Maker("float32", 0)
    lanes = lanes_of("float32")
    for array, junk in ((make.value(2, 3, 4, 5), True), (make.grad(2, 3, 4, 5), False)):
        assert array.strides[-2] == lanes * 4
        room = owner(array).reshape(2, 3, 4, lanes)[..., 5:]
        assert room.all() if junk else not room.any()
