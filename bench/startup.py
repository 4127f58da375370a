"""From `import nbnn` to the first step done, in a process that has imported nothing of ours or of Numba yet: hence no
import of either at the top of this file."""

import time
from dataclasses import replace


class Startup:
    """Asked once in a fresh process."""

    def first_step(self, net: str, another: bool = False) -> dict[str, float]:
        """Seconds of Numba's own import, and of everything from `import nbnn` to the end of the first step; of
        `another` net than before that calls the same kernels."""
        begun = time.perf_counter()
        import numba  # noqa: F401
        import numpy as np

        numba_is_there = time.perf_counter()
        import nbnn
        from bench.nets import graph_of

        graph, batch = graph_of(net)
        if another:
            first, *rest = graph.given
            graph = nbnn.Graph([replace(first, name="another"), *rest], input=graph.input, loss=graph.loss)
        model = nbnn.compile(graph, batch=batch)
        x, y = np.zeros((batch, *graph.input), np.float32), np.zeros(batch, np.int64)
        model.train_steps(x, y)
        return {"numba": numba_is_there - begun, "nbnn": time.perf_counter() - numba_is_there}
