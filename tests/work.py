"""What the child processes of test_processes.py do: train one small net in several ways; which bits come out."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import nbnn
from nbnn import Affine, BatchNorm, Conv, Dropout, Graph, MaxPool, ReLU

# its launches are large enough to be shared among threads
GRAPH = Graph(
    [Conv(5, 3, pad=1), BatchNorm(), ReLU(), MaxPool(2), Dropout(0.3), Affine(4)], input=(2, 14, 14), loss="softmax"
)
STEPS = 6


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((48, *GRAPH.input)).astype(np.float32), rng.integers(0, 4, 48)


def bits(model: nbnn.Model, losses: list[np.ndarray]) -> str:
    """A hash of all that training has left behind, and of the scores that follow from it."""
    arrays = [np.concatenate(losses), *model.state_dict().values(), model.loss(data()[0])]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def trained(seed: int = 0) -> str:
    """A plain run."""
    model = nbnn.compile(GRAPH, seed=seed)
    return bits(model, [model.train_steps(*data(), steps=STEPS)])


def trained_step_by_step() -> str:
    """The number of threads changes between steps, in this thread and in another."""
    import numba

    most, done = numba.config.NUMBA_NUM_THREADS, threading.Event()

    def elsewhere() -> None:
        k = 0
        while not done.is_set():
            k += 1
            numba.set_num_threads(1 + k % most)

    other = threading.Thread(target=elsewhere)
    other.start()
    model, losses = nbnn.compile(GRAPH), []
    for step in range(STEPS):
        numba.set_num_threads(1 + step % most)
        losses.append(model.train_steps(*data()))
    done.set()
    other.join()
    numba.set_num_threads(most)
    return bits(model, losses)


def trained_in_threads() -> list[str]:
    """Two models in two threads at once, again and again."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(trained, [0] * 8))


def predicted_in_threads() -> bool:
    """One model asked from four threads: whether all answers are right."""
    model, (x, y) = nbnn.compile(GRAPH), data()
    model.train_steps(x, y)
    wanted = [model.loss(x[:k]).tobytes() for k in range(1, len(x))]
    with ThreadPoolExecutor(4) as pool:
        return [s.tobytes() for s in pool.map(lambda k: model.loss(x[:k]), range(1, len(x)))] == wanted


def everything() -> set[str]:
    """The bits that come out of all of this, which should be those of a plain run alone."""
    found = {trained(), trained_step_by_step(), *trained_in_threads()}
    return found if predicted_in_threads() else {*found, "other answers"}
