"""nbnn as a contestant."""

import numba
import numpy as np

import nbnn
from bench.nets import LEARNING_RATE
from bench.runner import Task
from nbnn.kernels import names

# What belongs to imports happens here, where no clock runs and no memory is counted, as with the other contestants'
# libraries: the kernels, and the part of Numba (40 MiB) that it loads when it first compiles anything.
names()
numba.njit(lambda: 0)()


class Ours:
    """K steps in one call of compiled code."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = nbnn.compile(task.graph, batch=task.batch)

    def steps(self, rows: np.ndarray, rate: float = LEARNING_RATE) -> list[float]:
        config = {"learning_rate": rate}
        return self.model.train_steps(self.task.x, self.task.y, indices=rows, optim_config=config).tolist()

    def profile(self, repeat: int) -> dict[str, float]:
        """Milliseconds of the parts of a step."""
        few = slice(0, self.task.batch)
        return self.model.profile(self.task.x[few], self.task.y[few], repeat=repeat).parts
