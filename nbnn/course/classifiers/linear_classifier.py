"""Linear classifiers trained by plain gradient descent on minibatches."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnn.course.classifiers.linear_svm import svm_loss_vectorized
from nbnn.course.classifiers.softmax import softmax_loss_vectorized
from nbnn.course.row_layers import floats

__all__ = ["LinearClassifier", "LinearSVM", "Softmax"]


class LinearClassifier:
    """Scores X @ W. Its subclasses say what the loss is."""

    def __init__(self) -> None:
        self.W: np.ndarray | None = None

    def train(
        self,
        X: Any,
        y: Any,
        learning_rate: float = 1e-3,
        reg: float = 1e-5,
        num_iters: int = 100,
        batch_size: int = 200,
        verbose: bool = False,
    ) -> list[float]:
        """Take steps on minibatches drawn with replacement by NumPy's legacy generator; the losses. Called again it
        goes on with the W that there is."""
        (X,), y = floats(X), np.asarray(y)
        if self.W is None:
            self.W = 0.001 * np.random.randn(X.shape[1], int(y.max()) + 1)
        losses = []
        for iteration in range(num_iters):
            rows = np.random.choice(len(X), batch_size)
            value, gradient = self.loss(X[rows], y[rows], reg)
            losses.append(value)
            self.W = self.W - learning_rate * gradient
            if verbose and iteration % 100 == 0:
                print(f"iteration {iteration} / {num_iters}: loss {value:f}")
        return losses

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row."""
        if self.W is None:
            raise ValueError(f"{type(self).__name__} has no weights yet; train it first")
        (X,) = floats(X)
        return np.argmax(X @ self.W, axis=1)

    def loss(self, X_batch: Any, y_batch: Any, reg: float) -> tuple[float, np.ndarray]:
        """The loss of a minibatch and its gradient in the shape of W."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: use LinearSVM or Softmax, or write a subclass")


class LinearSVM(LinearClassifier):
    """With the multiclass hinge loss."""

    def loss(self, X_batch: Any, y_batch: Any, reg: float) -> tuple[float, np.ndarray]:
        return svm_loss_vectorized(self.W, X_batch, y_batch, reg)


class Softmax(LinearClassifier):
    """With the cross-entropy loss."""

    def loss(self, X_batch: Any, y_batch: Any, reg: float) -> tuple[float, np.ndarray]:
        return softmax_loss_vectorized(self.W, X_batch, y_batch, reg)
