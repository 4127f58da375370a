"""The convolutional net of the course."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn import inputs
from nbnn.course import conv_layer_utils, conv_layers, fast_layers, fc_net
from nbnn.course.conv_layer_utils import *  # noqa: F403 - the course's module brings all layers along
from nbnn.course.conv_layers import *  # noqa: F403
from nbnn.course.fast_layers import *  # noqa: F403
from nbnn.course.fc_net import *  # noqa: F403
from nbnn.course.nets import Net
from nbnn.op import Op
from nbnn.ops import Affine, Conv, MaxPool, ReLU

__all__ = ["ThreeLayerConvNet"]
__all__ += fc_net.__all__
__all__ += conv_layers.__all__
__all__ += fast_layers.__all__
__all__ += conv_layer_utils.__all__


class ThreeLayerConvNet(Net):
    """conv, relu, 2x2 max pool, affine, relu, affine, softmax; parameters W1 b1 W2 b2 W3 b3. With `use_batchnorm` a
    batchnorm lies behind the convolution and the first affine: gamma1 beta1 gamma2 beta2."""

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (3, 32, 32),
        num_filters: int = 32,
        filter_size: int = 7,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
        dtype: Any = np.float32,
        use_batchnorm: bool = False,
    ) -> None:
        channels, height, width = map(int, input_dim)
        given = {"num_filters": num_filters, "filter_size": filter_size, "hidden_dim": hidden_dim}
        num_filters, filter_size, hidden_dim, num_classes = (
            inputs.positive(value, name) for name, value in {**given, "num_classes": num_classes}.items()
        )
        super().__init__((channels, height, width), reg, dtype)
        self.use_batchnorm, self.filter_size = use_batchnorm, filter_size
        self._filters, self._units = num_filters, (hidden_dim, num_classes)
        pooled = num_filters * (height // 2) * (width // 2)
        self._add_weights(1, "conv1", weight_scale, num_filters, channels, filter_size, filter_size)
        if use_batchnorm:
            self._add_norm(1, num_filters)
        self._add_weights(2, "affine1", weight_scale, pooled, hidden_dim)
        if use_batchnorm:
            self._add_norm(2, hidden_dim)
        self._add_weights(3, "affine2", weight_scale, hidden_dim, num_classes)

    def _nodes(self) -> list[Op]:
        hidden, classes = self._units
        norms = [[self._batchnorm(place)] if self.use_batchnorm else [] for place in (0, 1)]
        return [
            Conv(self._filters, self.filter_size, pad=(self.filter_size - 1) / 2, name="conv1"),  # type: ignore[arg-type]
            *norms[0],
            ReLU(name="relu1"),
            MaxPool(2, name="pool1"),
            Affine(hidden, name="affine1"),
            *norms[1],
            ReLU(name="relu2"),
            Affine(classes, name="affine2"),
        ]
