"""Checks shipped to users: a net against its reference, gradients against differences. A NaN never passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnn.graph import Graph
from nbnn.op import Form
from nbnn.ops import BatchNorm, GroupNorm
from nbnn.words import align

if TYPE_CHECKING:
    from nbnn.model import Model

# Largest accepted error, relative to the largest number of the array. float32 keeps 7 digits and sums of thousands of
# products lose two of them; float64 likewise has 16. Differences of a loss in float64 keep about 8 digits.
TOLERANCES = {"float32": 2e-4, "float64": 1e-9}
GRADIENT_TOLERANCE = 1e-5
STEP = 1e-6  # of a difference: so short that it seldom steps over the kink of a relu
LONG_STEPS = (1e-4, 1e-3)  # of differences that see a thousand times more of small gradients
# Beside the largest gradient of the net this is 0: terms that cancel, as of a bias before a batchnorm. All that anybody
# computes of it is rounding, times what norms of channels without spread make of that. So is what is below the rounding
# of float64, beside the gradients of the scores that add up to it.
VANISHED = 1e-10
MOVES = 3  # of the parameters by their last digits, to see what of a loss is rounding


class VerifyError(AssertionError):
    """A net that does not compute what its reference says."""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    against: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.tolerance)  # false for NaN


@dataclass(frozen=True)
class Report:
    """All comparisons of one verification."""

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(r.passed for r in self.rows)

    def __str__(self) -> str:
        table = [["what", "against", "error", "tolerance", "verdict"]]
        table += [
            [r.what, r.against, f"{r.error:.1e}", f"{r.tolerance:.0e}", "ok" if r.passed else "WRONG"]
            for r in self.rows
        ]
        return align(table, right=(2, 3))


def relative_error(found: Any, wanted: Any) -> float:
    """The largest difference over the largest magnitude wanted; NaN where only one side is NaN, or the shapes
    differ."""
    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return float("nan")
    both = ~np.isnan(a)
    a, b = a[both], b[both]
    equal = a == b  # infinities of the same sign
    difference = np.abs(np.where(equal, 0.0, a - np.where(equal, a, b)))
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(difference.max(initial=0.0) / max(scale, 1e-30)) if difference.any() else 0.0


def directional_error(f: Callable[[], float], x: np.ndarray, gradient: np.ndarray, rng: np.random.Generator) -> float:
    """How far a gradient of f is from centred differences of f along a random direction of x. x is changed and put
    back."""
    direction = rng.standard_normal(x.shape)
    direction /= np.linalg.norm(direction)
    before = np.array(x)
    found = float(np.sum(direction * gradient))
    # what such a product usually is, in case this direction is an unlucky one
    usual = float(np.linalg.norm(gradient)) / max(x.size, 1) ** 0.5

    def slope(h: float) -> float:
        x[...] = before + h * direction
        above = f()
        x[...] = before - h * direction
        below = f()
        x[...] = before
        return (above - below) / (2 * h)

    def error(wanted: float) -> float:
        return abs(wanted - found) / max(abs(wanted), abs(found), usual, 1e-30)

    short = error(slope(STEP))
    if short <= GRADIENT_TOLERANCE:
        return short
    # f is rounded, and a short step divides that by little: of a small gradient it sees few digits. Long steps see more
    # of it, once the curvature (a fourth of it in a step of half the length) is taken out.
    return min(short, *(error((4 * slope(h / 2) - slope(h)) / 3) for h in LONG_STEPS))


def verify(model: Model, *, batch: int = 4, seed: int = 0) -> Report:
    """Hold scores, loss and every gradient of a model to the reference in float64, and those to numeric differences.

    The data is random. Raises VerifyError, with the table of all comparisons, when one fails. The model is left as is.
    """
    rng = np.random.default_rng(seed)
    graph = model.graph
    x = rng.standard_normal((batch, *graph.input)).astype(model.dtype)
    exact, rounded = reference_of(model, "float64"), reference_of(model, model.dtype)
    state, grads_before = model.state.copies(), model.grads.copies()
    tolerance = TOLERANCES[model.dtype]
    rows = [Row("scores", "reference", relative_error(model.loss(x), exact.loss(x)), tolerance)]
    if graph.loss is not None:
        classes = graph.loss.classifies
        y = (
            rng.integers(0, graph.output_shape[0], batch)
            if classes
            else rng.standard_normal((batch, *graph.output_shape))
        )
        try:
            loss, grads = model.loss(x, y)
        finally:
            model.state, model.grads = state, grads_before  # type: ignore[assignment]
        exact_loss, exact_grads = exact.loss(x, y)
        rows.append(Row("loss", "reference", relative_error(loss, exact_loss), tolerance))
        largest = max((np.abs(g).max(initial=0.0) for g in exact_grads.values()), default=0.0)
        unit = max(largest, 1 / batch)  # of what adds up to a gradient: those of the scores are about 1 / batch
        rounded_grads = rounded.loss(x, y)[1]
        # in units of the last place; norms of channels without spread multiply by 1 / sqrt(1e-5)
        spread = 1024 if any(isinstance(node, (BatchNorm, GroupNorm)) for node in graph.nodes) else 32
        moved = [_moved(exact, x, y, rng) for _ in range(MOVES)]
        loss_noise = max(abs(value - exact_loss) for value, _ in moved)
        noise, own_noise = _noise(moved[0][1], exact_grads), _noise(_moved(model, x, y, rng)[1], grads)
        coarser = np.finfo(model.dtype).eps / np.finfo(np.float64).eps
        for name, wanted in exact_grads.items():
            size, noisy = np.abs(wanted).max(initial=0.0), 32 * noise[name]
            if size <= max(VANISHED * largest, 4096 * np.finfo(np.float64).eps * unit, noisy):
                error = relative_error(np.append(grads[name], unit), np.append(wanted, unit))
                rounding = max(coarser * noisy, 32 * own_noise[name]) / unit
                vanished = max(spread * float(np.finfo(model.dtype).eps), rounding)
                rows.append(Row(f"gradient of {name}", "zero", error, vanished))
                continue
            scale = max(size, 1e-6 * largest)
            # Where most of it cancels, how much of the rest is rounding the reference in the same dtype tells; it adds
            # in another order, hence the factor.
            rounding = 32 * float(np.abs(rounded_grads[name] - wanted).max(initial=0.0)) / scale
            error = relative_error(np.append(grads[name], scale), np.append(wanted, scale))
            rows.append(
                Row(f"gradient of {name}", "reference", error, max(tolerance, rounding, coarser * noisy / scale))
            )
            error = directional_error(lambda: exact.loss(x, y)[0], exact.params[name], wanted, rng)
            # A loss is rounded as well: gradients that all but cancel, as of a batchnorm before a batchnorm, are too
            # small for differences to see more of them than a few digits.
            usual = float(np.linalg.norm(wanted)) / wanted.size**0.5
            rounded_loss = max(64 * np.finfo(np.float64).eps * max(1.0, abs(exact_loss)), 32 * loss_noise)
            seen = rounded_loss / (max(LONG_STEPS) * usual)
            rows.append(Row(f"gradient of {name}", "differences", error, max(GRADIENT_TOLERANCE, seen, noisy / size)))
    report = Report(tuple(rows))
    if not report.passed:
        raise VerifyError(f"this net does not compute what its reference says:\n{report}")
    return report


def _moved(model: Model, x: Any, y: Any, rng: np.random.Generator) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients with parameters that have moved by their last digits; the model is left as it was."""
    before, state, grads = model.params.copies(), model.state.copies(), model.grads.copies()
    try:
        for value in model.params.values():
            value *= (1 + 4 * np.finfo(model.dtype).eps * rng.standard_normal(value.shape)).astype(model.dtype)
        return model.loss(x, y)
    finally:
        model.params, model.state, model.grads = before, state, grads  # type: ignore[assignment]


def _noise(moved: Mapping[str, np.ndarray], here: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How much of each gradient is rounding: how far it moves when parameters move by their last digits. Norms of norms
    of channels without spread multiply rounding by 316 each time, until nothing else is left."""
    return {name: float(np.abs(moved[name] - here[name]).max(initial=0.0)) for name in here}


def reference_of(model: Model, dtype: str) -> Model:
    """The same model on the reference kernels."""
    return model.twin(dtype=dtype, backend="numpy", algorithm="auto")


def loss_of_scores(graph: Graph, scores: np.ndarray, given: np.ndarray) -> float:
    """The mean loss of scores that are already there."""
    from nbnn.kernels import reference

    if graph.loss is None:
        raise ValueError("this graph has no loss")
    losses = np.zeros(len(scores))
    words: dict[str, Any] = {
        "x": scores,
        "dx": np.empty_like(scores),
        "labels": given,
        "losses": losses,
        "target": given.astype(scores.dtype) if not graph.loss.classifies else None,
    }
    asked = graph.loss.call()
    operands = [o.name if isinstance(o, Form) else o for o in asked.operands]
    with np.errstate(over="ignore"):  # scores may be farther apart than numbers go
        getattr(reference, asked.kernel)(*(words[o] if isinstance(o, str) else o for o in operands))
    return float(losses.mean())
