"""Which node was the first to make a number that is not finite: the same step once more on the reference, which keeps
every array apart, and a look at each of them in the order in which they were filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbnn.check import reference_of
from nbnn.graph import INPUT
from nbnn.launches import Section, name_of

if TYPE_CHECKING:
    from nbnn.model import Model


def first_not_finite(model: Model, x: np.ndarray, given: np.ndarray | None, rows: np.ndarray) -> str | None:
    """The array of a step on these rows of x, or of a prediction where there are no targets, that is the first to hold
    a NaN or an infinity. None where it is the loss itself, where the reference makes none (it adds in another order),
    or where there is no room for it."""
    from nbnn.kernels import names

    try:
        twin = reference_of(model, model.dtype)
        losses = _run(twin, x, given, rows)
    except MemoryError:
        return None
    net, kernels = twin.lowered, names()
    words = {routed: (node, local) for (node, local), routed in net.names.items()}

    def search(sections: tuple[Section, ...]) -> str | None:
        for c in (c for section in sections for c in section.calls):
            for name in (str(name_of(c.operands[k])) for k in kernels[c.kernel].outputs):
                node, kind = net.owners.get(name, ("", ""))
                if kind in ("value", "gradient", "grads") and not _finite(twin, name):
                    return _said(node, kind, words.get(name, ("", ""))[1], model.dtype)
        return None

    if given is None:
        return search(net.inference)
    return search(net.training) or (search(net.backward) if np.isfinite(losses).all() else None)


def _run(twin: Model, x: np.ndarray, given: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """The step, and the losses of its examples."""
    if given is None:
        twin._make_room(len(rows))
        twin._call("predict", twin._predict_arguments(x, rows))
        return np.zeros(0)
    twin._call("gradients", twin._gradient_arguments(1, x, given, rows, np.zeros(1)))
    return twin._losses[: len(rows)]


def _finite(twin: Model, name: str) -> bool:
    where = twin.lowered.buffers[name]
    times = twin._capacity if where.per else 1
    memory = {"acts": twin._acts, "grads": twin._grads}[where.arena]
    return bool(np.isfinite(memory[where.start * times : (where.start + where.size) * times]).all())


def _said(node: str, kind: str, local: str, dtype: str) -> str:
    if kind == "value":
        return f"the input as {dtype}" if node == INPUT else f"the output of {node}"
    return f"the gradient of {node}.{local[1:]}" if kind == "grads" else f"the gradient of the output of {node}"
