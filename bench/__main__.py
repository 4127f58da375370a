"""`python -m bench [--quick]`: layers against the machine's limit, nets against PyTorch; prints the rows and stores
them as JSON."""

import argparse
import json
import pathlib
import platform
import time
from importlib import metadata
from importlib.util import find_spec

import numba
import numpy as np

import nbnn
from bench import limit
from bench.nets import AFFINES, CONVS, NETS, graph_of
from bench.timing import in_turn, median_of
from nbnn import Affine, Conv, Graph
from nbnn.check import relative_error
from nbnn.lower import Lowered, row_room
from nbnn.words import align

LEAST_SHARE = 0.75  # of the limit, for affine and for convolutions whose channels fill registers
TOLERANCE = 1e-4  # of a result in float32 against float64, relative to its largest number


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", help="fewer rows and repetitions")
    parser.add_argument("--out", default="out/bench.json")
    parser.add_argument("--nets", default="course7x7", help="nets to time, separated by commas, or 'all'")
    options = parser.parse_args()
    times = 5 if options.quick else 15
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    peak = limit.gflops()
    rows = layer_rows(peak, times, CONVS[:4] if options.quick else CONVS)
    numba.set_num_threads(before)
    show(f"one core: {peak:.0f} GFLOP/s in its registers; share is of that", rows, "layer")
    names = list(NETS) if options.nets == "all" else options.nets.split(",")
    nets = [net_row(name, times) for name in names]
    show(f"one training step, {before} threads; ratio is PyTorch's best over ours", nets, "net")
    told = {
        "machine": platform.processor() or platform.machine(),
        "threads": before,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {p: _version(p) for p in ("numba", "numpy", "torch")},
        "limit_gflops": peak,
        "layers": rows,
        "nets": nets,
    }
    target = pathlib.Path(options.out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(told, indent=1))
    print(f"\nstored in {target}")
    return 0 if all(r["verdict"] == "ok" for r in (*rows, *nets)) else 1


def show(title: str, rows: list[dict], kind: str) -> None:
    header = list(rows[0])
    table = [header, *([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    print(f"\n{title}\n\n{align(table, right=tuple(range(1, len(header) - 1)))}", flush=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def layer_rows(peak: float, times: int, convs: list) -> list[dict]:
    """Forward, backward to the input and backward to the weights of single layers, one core."""
    found = []
    for n, c, side, f, size, stride, pad in convs:
        graph = Graph([Conv(f, size, stride=stride, pad=pad)], input=(c, side, side))
        flops = 2 * n * graph.multiply_adds
        name = f"conv {n}x{c}x{side}x{side} {size}x{size} -> {f}{f' /{stride}' if stride > 1 else ''}"
        least = LEAST_SHARE if c >= 32 else 0.0
        for part in conv_parts(n, c, side, f, size, stride, pad):
            found.append(layer_row(name, *part, flops, peak, times, least))
    for n, d, m in AFFINES:
        flops = 2 * n * Graph([Affine(m)], input=(d,)).multiply_adds
        for part in affine_parts(n, d, m):
            found.append(layer_row(f"affine {n}x{d} -> {m}", *part, flops, peak, times, LEAST_SHARE))
    return found


def layer_row(layer, direction, run, result, exact, flops, peak, times, least=0.0) -> dict:
    run()
    error = relative_error(result(), exact)
    good = error <= TOLERANCE
    seconds = median_of(run, times) if good else float("nan")  # a wrong result has no time
    gflops = flops / seconds / 1e9
    return {
        "layer": layer,
        "direction": direction,
        "ms": seconds * 1e3,
        "GFLOP/s": gflops,
        "share": gflops / peak,
        "residual": error,
        "verdict": verdict(good, gflops / peak >= least),
    }


def verdict(right: bool, fast: bool) -> str:
    """What a row comes to; a wrong result has no time, so it cannot be fast."""
    return "WRONG" if not right else "ok" if fast else "slow"


def room(shape: tuple, rng=None, halo: int = 0) -> np.ndarray:
    """A float32 array laid out as in a compiled net: room behind the channels, a frame of zeros; the inner view of
    it."""
    from nbnn.kernels.simd import lanes_of

    net = Lowered(None, "float32", lanes_of("float32"))  # type: ignore[arg-type]
    *sides, channels = shape
    if halo:
        sides[1:3] = [s + 2 * halo for s in sides[1:3]]
    whole = np.zeros((*sides, row_room(net, channels)), np.float32)[..., :channels]
    inner = whole[:, halo : whole.shape[1] - halo, halo : whole.shape[2] - halo] if halo else whole
    if rng is not None:
        inner[...] = rng.standard_normal(inner.shape, np.float32)
    return inner


def framed(inner: np.ndarray, pad: int) -> np.ndarray:
    """The view with its frame of zeros."""
    start = inner.ctypes.data - pad * (inner.strides[1] + inner.strides[2]) - inner.base.ctypes.data
    shape = (inner.shape[0], inner.shape[1] + 2 * pad, inner.shape[2] + 2 * pad, inner.shape[3])
    base = inner.base
    while base.base is not None:
        base = base.base
    start = (inner.ctypes.data - pad * (inner.strides[1] + inner.strides[2]) - base.ctypes.data) // 4
    return np.lib.stride_tricks.as_strided(base.reshape(-1)[start:], shape, inner.strides)


def conv_parts(n, c, side, f, size, stride, pad):
    from nbnn.kernels import arrays, conv

    rng = np.random.default_rng(0)
    out = (side + 2 * pad - size) // stride + 1
    halo = max(0, -(-(size - 1 - pad) // stride), (side - 1 + pad) // stride - (out - 1))
    x, y, dx = room((n, side, side, c), rng, pad), room((n, out, out, f)), room((n, side, side, c))
    dy = room((n, out, out, f), rng, halo)
    w, b = room((size, size, c, f), rng), room((1, f))[0]
    slots = min(n, 16)
    dw, db, turned = room((slots, size, size, c, f)), room((slots, f)), room((size, size, f, c))
    cells = np.lib.stride_tricks.as_strided
    arrays.turn(cells(w, (size * size, c, f), w.strides[1:]), cells(turned, (size * size, f, c), turned.strides[1:]))
    x_framed, dy_framed = framed(x, pad), framed(dy, halo)
    some = slice(0, 4)  # enough examples to know that it is right
    exact_y, exact_dx, exact_dw = (
        np.zeros((4, out, out, f)),
        np.zeros((4, side + 2 * pad, side + 2 * pad, c)),
        np.zeros((size, size, c, f)),
    )
    for u in range(size):
        for v in range(size):
            seen = (
                slice(None),
                slice(u, u + (out - 1) * stride + 1, stride),
                slice(v, v + (out - 1) * stride + 1, stride),
            )
            exact_y += x_framed[some].astype(float)[seen] @ w[u, v].astype(float)
            exact_dx[seen] += dy[some].astype(float) @ w[u, v].astype(float).T
            exact_dw[u, v] = np.tensordot(x_framed[seen].astype(float), dy.astype(float), ([0, 1, 2], [0, 1, 2]))
    return [
        ("forward", lambda: conv.conv_forward(x_framed, w, b, stride, 1, y), lambda: y[some], exact_y),
        (
            "to the input",
            lambda: conv.conv_backward_data(dy_framed, turned, stride, 1, pad, halo, dx),
            lambda: dx[some],
            exact_dx[:, pad : pad + side, pad : pad + side],
        ),
        (
            "to the weights",
            lambda: conv.conv_backward_weights(x_framed, dy, stride, 1, dw, db),
            lambda: dw.sum(axis=0),
            exact_dw,
        ),
    ]


def affine_parts(n, d, m):
    from nbnn.kernels import affine, arrays

    rng = np.random.default_rng(0)
    x, w, dy = room((n, 1, 1, d), rng), room((1, 1, d, m), rng), room((n, m), rng)
    y, dx, dw, turned, b = room((n, m)), room((n, 1, 1, d)), room((1, 1, d, m)), room((1, m, d)), room((1, m))[0]
    x2, w2 = x[:, 0, 0].astype(float), w[0, 0].astype(float)

    def to_input():
        arrays.turn(w[0], turned)
        affine.affine_backward_data(dy, turned, dx)

    return [
        ("forward", lambda: affine.affine_forward(x, w, b, y), lambda: y, x2 @ w2),
        ("to the input", to_input, lambda: dx[:, 0, 0], dy.astype(float) @ w2.T),
        (
            "to the weights",
            lambda: affine.affine_backward_weights(x, dy, dw[0, 0, :, 0], dw),
            lambda: dw[0, 0],
            x2.T @ dy.astype(float),
        ),
    ]


def net_row(name: str, times: int) -> dict:
    """A training step of a net beside PyTorch's, in turn; the first ten losses must agree where nothing is random."""
    graph, batch = graph_of(name)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * batch, *graph.input)).astype(np.float32)
    y = rng.integers(0, graph.output_shape[0], 2 * batch)
    steps = 4
    indices = rng.integers(0, len(x), (steps, batch))
    begun = time.perf_counter()
    model = nbnn.compile(graph, batch=batch)
    calls = {"ours": lambda: model.train_steps(x, y, indices=indices)}
    error, good = float("nan"), True
    if find_spec("torch"):
        from bench import torch_peer

        found, wanted = losses_of_both(graph, x, y, indices)
        error = relative_error(found, wanted)
        good = error <= TOLERANCE or any(type(n).__name__ == "Dropout" for n in graph.nodes)
        calls |= {
            "eager": torch_peer.stepper(model, x, y, indices),
            "channels_last": torch_peer.stepper(model, x, y, indices, channels_last=True),
        }
    calls["ours"]()
    first = time.perf_counter() - begun
    seconds = in_turn(calls, times) if good else dict.fromkeys(calls, float("nan"))
    ms = {k: v / steps * 1e3 for k, v in seconds.items()}
    peers = [v for k, v in ms.items() if k != "ours"]
    return {
        "net": name,
        "batch": batch,
        "ms": ms["ours"],
        "eager": ms.get("eager", "absent"),
        "channels_last": ms.get("channels_last", "absent"),
        "ratio": min(peers) / ms["ours"] if peers else "absent",
        "first s": first,
        "residual": error,
        "verdict": verdict(good, not peers or ms["ours"] <= ms["eager"]),
    }


def losses_of_both(graph: Graph, x: np.ndarray, y: np.ndarray, indices: np.ndarray) -> tuple[list, list]:
    """The losses of the same Adam steps from the same weights."""
    import torch

    from bench.torch_peer import Net

    model = nbnn.compile(graph)
    net = Net(model)
    adam = torch.optim.Adam(list(net.params.values()), lr=1e-3)
    wanted = []
    for row in indices:
        loss = net.loss(torch.from_numpy(x[row]), torch.from_numpy(y[row]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        wanted.append(loss.item())
    return list(model.train_steps(x, y, indices=indices)), wanted


if __name__ == "__main__":
    raise SystemExit(main())
