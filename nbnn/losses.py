"""What is minimised: the mean over the minibatch of a loss of each example. The equations stand in
`kernels/loss.py`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from nbnn.op import Call, Form, Shape, call, is_real, rows, shown
from nbnn.words import hint

LABELS, LOSS_EACH = Form("value", "labels"), Form("value", "losses")  # arguments of the step, not arrays of a node


@dataclass(frozen=True)
class Loss:
    """The base: how a loss is called and what its targets are."""

    word: ClassVar[str] = ""
    classifies: ClassVar[bool] = True  # its targets are class numbers, not arrays like the output

    def check(self, shape: Shape) -> None:
        """Refuse an output that the loss cannot read."""
        if len(shape) != 1:
            raise ValueError(
                f"the {self.word} loss reads one vector for each example, got {shape}; "
                "end the graph with Affine, GlobalAvgPool or Flatten"
            )

    def call(self) -> Call:
        """The kernel call: x the output of the last node, dx its gradient."""
        raise NotImplementedError

    def expected(self, classes: int) -> float:
        """The loss of a net that knows nothing yet: a first loss far from it means a mistake."""
        return math.nan


@dataclass(frozen=True)
class Softmax(Loss):
    """log(sum over k of exp(x[k])) - sum over k of t[k] * x[k], t = (1 - smoothing) * [k is the label] + smoothing /
    K"""

    smoothing: float = 0.0

    word: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        value = self.smoothing
        if not is_real(value) or not 0 <= value < 1:
            raise ValueError(
                f"Softmax: smoothing must be a number from 0 up to, and not including, 1, got {shown(value)}"
            )
        object.__setattr__(self, "smoothing", float(value))

    def call(self) -> Call:
        return call("softmax_loss", rows("x"), LABELS, self.smoothing, LOSS_EACH, rows("dx"))

    def expected(self, classes: int) -> float:
        return math.log(classes)


@dataclass(frozen=True)
class Svm(Loss):
    """sum over k, k not the label, of max(0, x[k] - x[label] + 1)"""

    word: ClassVar[str] = "svm"

    def call(self) -> Call:
        return call("svm_loss", rows("x"), LABELS, LOSS_EACH, rows("dx"))

    def expected(self, classes: int) -> float:
        return classes - 1.0


@dataclass(frozen=True)
class Mse(Loss):
    """mean over k of (x[k] - target[k])**2"""

    word: ClassVar[str] = "mse"
    classifies: ClassVar[bool] = False

    def call(self) -> Call:
        return call("mse_loss", rows("x"), rows("target"), LOSS_EACH, rows("dx"))


LOSSES: dict[str, type[Loss]] = {"softmax": Softmax, "svm": Svm, "mse": Mse}


def as_loss(loss: str | Loss | None) -> Loss | None:
    """A loss from its word, itself, or None."""
    if loss is None or isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    raise ValueError(
        f"loss must be one of {', '.join(map(repr, LOSSES))}, a loss such as Softmax(smoothing=0.1), or None, "
        f"got {shown(loss)}"
    )


def to_plain(loss: Loss | None) -> str | dict | None:
    """The loss as text and numbers: its word, or a dict where it has settings."""
    if loss is None:
        return None
    settings = dataclasses.asdict(loss)
    return {"loss": loss.word, **settings} if loss != LOSSES[loss.word]() else loss.word


def from_plain(plain: str | dict | None) -> Loss | None:
    """The inverse of `to_plain`."""
    if not isinstance(plain, dict):
        return as_loss(plain)
    settings = dict(plain)
    word = settings.pop("loss", None)
    if not isinstance(word, str) or word not in LOSSES:
        raise ValueError(
            f"loss must be one of {', '.join(map(repr, LOSSES))}, or a dict such as "
            f"{{'loss': 'softmax', 'smoothing': 0.1}}, got {shown(plain)}"
        )
    known = [f.name for f in dataclasses.fields(LOSSES[word])]
    for key in settings:
        if key not in known:
            raise ValueError(
                f"the {word} loss has no setting {shown(key)}; {hint(key, known, 'it has') if known else 'remove it'}"
            )
    return LOSSES[word](**settings)
