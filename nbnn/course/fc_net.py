"""Fully connected nets of the course."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from nbnn import inputs
from nbnn.course import layer_utils, layers
from nbnn.course.layer_utils import *  # noqa: F403 - the course's module brings all layers along, as notebooks expect
from nbnn.course.layers import *  # noqa: F403
from nbnn.course.nets import Net
from nbnn.op import Op
from nbnn.ops import Affine, LayerNorm, ReLU

__all__ = ["FullyConnectedNet", "TwoLayerNet"]
__all__ += layers.__all__
__all__ += layer_utils.__all__


class TwoLayerNet(Net):
    """affine, relu, affine, softmax; parameters W1 b1 W2 b2, float64. C147 says hidden_dims for hidden_dim."""

    def __init__(
        self,
        input_dim: int = 3 * 32 * 32,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
        *,
        hidden_dims: int | None = None,
    ) -> None:
        input_dim = inputs.positive(input_dim, "input_dim")
        units = {"hidden_dim": hidden_dim} if hidden_dims is None else {"hidden_dims": hidden_dims}
        (hidden_dim,) = (inputs.positive(value, name) for name, value in units.items())
        num_classes = inputs.positive(num_classes, "num_classes")
        super().__init__((input_dim,), reg, np.float64)
        self._units = hidden_dim, num_classes
        self._add_weights(1, "affine1", weight_scale, input_dim, hidden_dim)
        self._add_weights(2, "affine2", weight_scale, hidden_dim, num_classes)

    def _nodes(self) -> list[Op]:
        hidden, classes = self._units
        return [Affine(hidden, name="affine1"), ReLU(name="relu1"), Affine(classes, name="affine2")]


class FullyConnectedNet(Net):
    """{affine, norm, relu, dropout} for each hidden layer, affine, softmax; parameters Wi bi, gammai betai where there
    is a norm. `normalization` is None, "batchnorm" or "layernorm"; `dropout_keep_ratio` is the probability of keeping.

    Also with the older names, by position or by keyword: dropout (1 or 0: none) and use_batchnorm.
    """

    def __init__(
        self,
        hidden_dims: Iterable[int],
        input_dim: int = 3 * 32 * 32,
        num_classes: int = 10,
        dropout_keep_ratio: float = 1,
        normalization: str | bool | None = None,
        reg: float = 0.0,
        weight_scale: float = 1e-2,
        dtype: Any = np.float32,
        seed: int | None = None,
        *,
        dropout: float | None = None,
        use_batchnorm: bool = False,
    ) -> None:
        input_dim = inputs.positive(input_dim, "input_dim")
        super().__init__((input_dim,), reg, dtype)
        try:
            hidden_dims = list(hidden_dims)
        except TypeError:
            raise TypeError(f"hidden_dims must be a list of sizes, such as [100, 50], got {hidden_dims!r}") from None
        keep = dropout_keep_ratio if dropout is None else dropout
        if not 0 <= keep <= 1:
            raise ValueError(f"FullyConnectedNet: the probability of keeping must be from 0 to 1, got {keep!r}")
        if isinstance(normalization, bool) or normalization is None:  # use_batchnorm stood in that place
            normalization = "batchnorm" if normalization or use_batchnorm else None
        if normalization not in (None, "batchnorm", "layernorm"):
            raise ValueError(
                f"FullyConnectedNet: normalization must be None, 'batchnorm' or 'layernorm', got {normalization!r}"
            )
        self.normalization, self.use_batchnorm = normalization, normalization == "batchnorm"
        self.use_dropout = 0 < keep < 1
        self.num_layers = 1 + len(hidden_dims)
        self._units = [
            *(inputs.positive(units, f"hidden_dims[{k}]") for k, units in enumerate(hidden_dims)),
            inputs.positive(num_classes, "num_classes"),
        ]
        if self.use_dropout:
            self.dropout_param = {"mode": "train", "p": keep, **({} if seed is None else {"seed": seed})}
        for layer, (columns, units) in enumerate(itertools.pairwise([input_dim, *self._units]), start=1):
            self._add_weights(layer, f"affine{layer}", weight_scale, columns, units)
            if normalization and layer < self.num_layers:
                self._add_norm(layer, units, batch=self.use_batchnorm)

    def _nodes(self) -> list[Op]:
        nodes: list[Op] = []
        for layer, units in enumerate(self._units, start=1):
            nodes.append(Affine(units, name=f"affine{layer}"))
            if layer == self.num_layers:
                break
            if self.normalization == "batchnorm":
                nodes.append(self._batchnorm(layer - 1))
            elif self.normalization == "layernorm":
                nodes.append(LayerNorm(name=f"norm{layer}"))
            nodes.append(ReLU(name=f"relu{layer}"))
            if self.use_dropout:
                nodes.append(self._dropout(f"dropout{layer}"))
        return nodes
