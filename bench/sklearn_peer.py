"""The same net in scikit-learn, where it is an MLP."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from bench.nets import LEARNING_RATE
from bench.runner import Task

NODES = {"Affine", "ReLU"}


class Sklearn:
    """`partial_fit` takes one Adam step on what it is given. Its epsilon is added before the variance is corrected, so
    that gradients near 1e-8 move otherwise than ours: losses of batches of 4 differ by 2e-4, of 8 and more by 1e-5."""

    def __init__(self, task: Task) -> None:
        weights = [w for name, w in task.params.items() if name.endswith(".w")]
        if {type(n).__name__ for n in task.graph.nodes} != NODES or task.x.ndim != 2:
            raise NotImplementedError("MLPClassifier is an MLP")
        self.task = task
        self.net = MLPClassifier(
            [w.shape[1] for w in weights[:-1]],
            alpha=0.0,
            batch_size=task.batch,
            learning_rate_init=LEARNING_RATE,
            shuffle=False,
        )
        self.classes = np.arange(weights[-1].shape[1])
        self._begin(weights, [b for name, b in task.params.items() if name.endswith(".b")])

    def steps(self, rows: np.ndarray, rate: float = LEARNING_RATE) -> list[float]:
        self.net._optimizer.learning_rate_init = rate
        losses = []
        for row in rows:
            self.net.partial_fit(self.task.x[row], self.task.y[row], classes=self.classes)
            losses.append(float(self.net.loss_))
        return losses

    def _begin(self, weights: list[np.ndarray], biases: list[np.ndarray]) -> None:
        """A first step makes the arrays; ours are written into them, and Adam forgets that step."""
        few = slice(0, self.task.batch)
        self.net.partial_fit(self.task.x[few], self.task.y[few], classes=self.classes)
        for held, wanted in zip([*self.net.coefs_, *self.net.intercepts_], [*weights, *biases], strict=True):
            held[...] = wanted
        adam = self.net._optimizer
        adam.t = 0
        for sums in (*adam.ms, *adam.vs):
            sums[...] = 0
