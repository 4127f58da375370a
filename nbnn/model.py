"""Model: the arenas of a net and its compiled step. `compile` makes one, `load` reads one from a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nbnn import inputs, rules
from nbnn.arrays import Arrays, arena, people_view
from nbnn.buffers import held
from nbnn.codegen import caller_text, engine, train_text
from nbnn.compiling import Lock
from nbnn.graph import Graph
from nbnn.initial import fill_initial
from nbnn.kernels.constants import BLOCK
from nbnn.lower import Lowered, lower
from nbnn.pace import Pace
from nbnn.step import step_of
from nbnn.words import align

ON_NAN = ("raise", "stop", "skip")  # what becomes of a step whose loss or gradient is not finite


def compile(
    graph: Graph,
    *,
    batch: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    backend: str = "numba",
    algorithm: str = "auto",
) -> Model:
    """Turn a graph into a model with fresh weights.

    `batch` is the largest minibatch to make room for at once; larger ones make more room when they come. `seed` fixes
    the weights and dropout. `backend="numpy"` runs the same step on the reference kernels. `algorithm="direct"` rules
    out algorithms that round differently from a plain sum.
    """
    return Model(graph, batch=batch, dtype=dtype, seed=seed, backend=backend, algorithm=algorithm)


class Steps(NamedTuple):
    """What came of some steps: their losses, and bounds of the squares of their gradients' norms."""

    losses: np.ndarray
    norms: np.ndarray

    @classmethod
    def room(cls, count: int) -> Steps:
        return cls(np.zeros(count), np.zeros(count))

    @property
    def finite(self) -> np.ndarray:
        """Which of them were taken."""
        return np.isfinite(self.losses) & np.isfinite(self.norms)

    @property
    def broken(self) -> bool:
        """Whether the last one was not taken."""
        return not self.finite[-1]

    @property
    def what(self) -> str:
        """What was wrong with the last one."""
        loss = self.losses[-1]
        return f"the norm of the gradient is {self.norms[-1]}" if np.isfinite(loss) else f"the loss is {loss}"


class Model:
    """A net that computes. Its arrays are views on flat buffers: `params`, `grads`, and `state` (running
    statistics)."""

    def __init__(
        self,
        graph: Graph,
        *,
        batch: int | None = None,
        dtype: str = "float32",
        seed: int = 0,
        backend: str = "numba",
        algorithm: str = "auto",
        draw: bool = True,
        apart: bool = False,
    ) -> None:
        """`draw=False` leaves the weights at zero, for who writes them next; `apart=True` makes each call of a kernel a
        launch of its own."""
        if not isinstance(graph, Graph):
            raise TypeError(
                f"compile takes a Graph, got {type(graph).__name__}; "
                "build one with nbnn.Graph([...], input=..., loss=...)"
            )
        for name, value, allowed in (
            ("dtype", _dtype_name(dtype), ("float32", "float64")),
            ("backend", backend, ("numba", "numpy")),
            ("algorithm", algorithm, ("auto", "direct")),
        ):
            inputs.choice(value, allowed, name)
        self.graph, self.dtype, self.seed = graph, str(np.dtype(dtype)), inputs.seed(seed)
        self.backend, self.algorithm = backend, algorithm
        self.lowered: Lowered = lower(
            graph, dtype=self.dtype, lanes=1 if backend == "numpy" else None, algorithm=algorithm, apart=apart
        )
        self._step = step_of(self.lowered.source, jitted=backend == "numba")
        self._caller, self._trainer = (
            step_of(text(engine(self.lowered)), jitted=backend == "numba") for text in (caller_text, train_text)
        )
        kinds = ("params", "grads", "state")
        self._params, self._grads, self._state = self._arenas(*kinds)
        self._sums = np.zeros((2, -(-len(self._grads) // BLOCK)))  # of squares, block by block of the arenas
        self.params, self.grads, self.state = map(self._named, kinds, (self._params, self._grads, self._state))
        if draw:
            try:
                fill_initial(graph, self.seed, {**self.params, **self.state})
            except MemoryError:
                raise self._too_large() from None
        self.steps_taken = 0  # also what dropout's random numbers of the next step are keyed by
        self._memory = rules.Memory()
        self._pace = Pace()
        self._lock = Lock()  # arenas are shared: one call at a time
        self._capacity = 0
        if batch is not None:
            self._make_room(inputs.positive(batch, "batch"))

    # ---- what it is

    def source(self) -> str:
        """The generated step, as it is compiled: the functions of this net, and `train`, which is the same for all."""
        return f"{self.lowered.source}\n\n{self._trainer.source}"

    def summary(self) -> str:
        """The graph with its shapes, parameters and multiply-adds, and the bytes that the model takes."""
        sizes = self.lowered.sizes
        width = np.dtype(self.dtype).itemsize
        rows = [
            ["bytes", ""],
            ["parameters", f"{sizes['params'] * width:,}"],
            ["gradients", f"{sizes['grads'] * width:,}"],
            ["state", f"{sizes['state'] * width:,}"],
            ["scratch", f"{sizes['work'] * width:,}"],
            ["room of one thread", f"{sizes['space'] * width:,}"],
            ["activations and gradients of one example", f"{sizes['acts'] * width:,}"],
            ["of one that a thread holds", f"{sizes['own_acts'] * width:,}"],
        ]
        return f"{self.graph}\n\n{align(rows, right=(1,))}"

    def __repr__(self) -> str:
        size = f"{len(self.graph.nodes)} nodes, {self.graph.parameter_count:,} parameters"
        return f"<nbnn.Model of {size}, {self.dtype}, {self.backend}>"

    def twin(self, **changes: Any) -> Model:
        """Another model of the same net, weights, statistics and random numbers, but for these options."""
        options = {"dtype": self.dtype, "seed": self.seed, "backend": self.backend, "algorithm": self.algorithm}
        found = Model(self.graph, **{**options, "draw": False, **changes})
        found.load_state_dict(self.state_dict())
        found.steps_taken = self.steps_taken
        return found

    # ---- computing

    def prepare(self) -> None:
        """Compile, or read from disk, everything now instead of at first use. Nothing else of the model changes."""
        x = np.zeros((1, *self.graph.input), self.dtype)
        self._make_room(1)
        arguments, train = {"predict": self._predict_arguments(x, np.arange(1))}, None
        if self.graph.loss is not None:
            given = (
                np.zeros(1, np.int64)
                if self.graph.loss.classifies
                else np.zeros((1, *self.graph.output_shape), self.dtype)
            )
            memory, rows = rules.Memory(), np.zeros((1, 1), np.int64)
            memory.use("sgd", None, self._params)
            arguments["gradients"] = self._gradient_arguments(1, x, given, rows, np.zeros(1))
            train = self._train_arguments(1, memory, x, given, rows, np.zeros(1), Steps.room(1), 0.0, 0.0, False)
        for name, args in arguments.items():  # first what is compiled for this net alone: it waits for no kernel
            self._step.handle(name, args)
        for name, args in arguments.items():
            self._compile(name, args)
        if train is not None:
            self._compile_train(train)

    def loss(self, X: Any, y: Any = None, *, reg: float = 0.0) -> Any:
        """`loss(X)` gives the scores outside training; `loss(X, y)` gives (loss, gradients by name) of X as one
        minibatch.

        With y the net is in training: batchnorm uses and follows the minibatch, dropout drops. The masks are those of
        the next step, so that asking twice gives the same answer. `reg` adds 0.5 * reg * sum(w * w) over the weights.
        X holds uint8, float32 or float64 as they are, or other real numbers; each is cast once to the dtype of the net
        and never scaled.
        """
        x, reg = inputs.examples(X, self.graph), inputs.amount(reg, "reg")
        if y is None:
            return self._scores(x)
        with self._lock:
            return self._loss_and_gradients(x, self._targets(y, len(x)), reg)

    def _loss_and_gradients(self, x: np.ndarray, given: np.ndarray, reg: float) -> tuple[float, dict[str, np.ndarray]]:
        value = self._gradients(x, given, np.arange(len(x)))
        if reg:
            decayed = self.lowered.decayed
            weights = self._params[:decayed]
            value += 0.5 * reg * float(np.dot(weights, weights))
            self._grads[:decayed] += np.asarray(reg, self.dtype) * weights
        return value, self.grads.copies()

    def predict(self, X: Any) -> np.ndarray:
        """The class of each example; the output itself where the loss does not classify."""
        scores = self._scores(inputs.examples(X, self.graph))
        loss = self.graph.loss
        return scores.argmax(axis=1) if loss is not None and loss.classifies else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """The softmax of the scores: the probability of each class."""
        if self.graph.loss is None or not self.graph.loss.classifies:
            raise ValueError(
                "predict_proba needs a net with the softmax or the svm loss; predict gives the output itself"
            )
        scores = self._scores(inputs.examples(X, self.graph))
        with np.errstate(over="ignore"):  # scores farther apart than numbers go: exp(-infinity) is the 0 that is meant
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def evaluate(self, X: Any, y: Any) -> dict[str, float]:
        """The mean loss over all of X outside training, and the accuracy where the loss classifies."""
        from nbnn.check import loss_of_scores

        x = inputs.examples(X, self.graph)
        given = self._targets(y, len(x))
        scores = self._scores(x)
        found = {"loss": loss_of_scores(self.graph, scores, given)}
        if self._needed_loss().classifies:
            found["accuracy"] = float((scores.argmax(axis=1) == given).mean())
        return found

    def train_steps(
        self,
        X: Any,
        y: Any,
        *,
        update_rule: str = "adam",
        optim_config: dict[str, Any] | None = None,
        reg: float = 0.0,
        indices: Any = None,
        steps: int = 1,
        clip: float = 0.0,
        on_nan: str = "raise",
    ) -> np.ndarray:
        """Take steps in compiled code and return their losses.

        Each row of `indices` is a minibatch; without it each of `steps` steps takes all of X. The rule's memory lives
        on from call to call until another rule is named. `clip` holds the norm of the whole gradient to that length.
        A step whose loss or gradient is not finite changes nothing: `on_nan` says whether that raises an error, ends
        the call ("stop"), or leaves the step out ("skip": its loss is NaN).
        """
        inputs.choice(on_nan, ON_NAN, "on_nan")
        x = inputs.examples(X, self.graph)
        given = self._targets(y, len(x))
        if indices is None:
            rows = np.tile(np.arange(len(x)), (inputs.positive(steps, "steps"), 1))
        elif steps != 1:
            raise ValueError(f"steps goes without indices, whose rows are the steps; got steps={steps!r} and indices")
        else:
            rows = inputs.minibatches(indices, len(x))
        reg, clip = inputs.amount(reg, "reg"), inputs.amount(clip, "clip")
        memory = self._memory
        memory.use(update_rule, optim_config, self._params)
        rates = np.full(len(rows), memory.rate)
        found = self._train(memory, x, given, rows, rates, reg=reg, clip=clip, skip=on_nan == "skip")
        if found.broken and on_nan == "raise":
            raise self._explain(x, found.what, len(found.losses), given, rows[len(found.losses) - 1])
        return found.losses

    def verify(self, **options: Any) -> Any:
        """Hold this net to its reference and to numeric gradients; see `nbnn.check.verify`."""
        from nbnn.check import verify

        return verify(self, **options)

    def profile(self, X: Any, y: Any, *, update_rule: str = "adam", repeat: int = 20) -> Any:
        """The time of each node, forward and backward, and of the update, with X as one minibatch; see
        `nbnn.profile`."""
        from nbnn.profile import profile

        return profile(self, X, y, update_rule=update_rule, repeat=repeat)

    # ---- keeping

    def save(self, path: Any) -> None:
        """Write weights, running statistics and the graph into one safetensors file, atomically."""
        from nbnn.files import save

        save(self, path)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and running statistics by name."""
        return {**self.params.copies(), **self.state.copies()}

    def load_state_dict(self, arrays: dict[str, Any]) -> None:
        """Take parameters and running statistics from a dict; every name must be there, with its shape. All are
        taken, or none."""
        if not isinstance(arrays, Mapping):
            raise TypeError(f"load_state_dict takes a dict of arrays by name, got {type(arrays).__name__}")
        homes = {name: kind for kind in (self.params, self.state) for name in kind}
        problems = [f"{name} is missing" for name in homes if name not in arrays]
        problems += [f"{name} is unknown" for name in arrays if name not in homes]
        fitting = {}
        for name, value in arrays.items():
            if name not in homes:
                continue
            try:
                fitting[name] = np.array(homes[name].fitting(name, value))  # it may be a view of ours
            except (TypeError, ValueError) as problem:
                problems.append(str(problem))
        if problems:
            raise ValueError(f"these arrays do not fit the graph: {'; '.join(problems)}")
        with self._lock:
            # the room between the arrays as well: a step that overflowed may have left a NaN there
            self._params[:] = self._state[:] = 0
            for name, value in fitting.items():
                homes[name][name] = value
            self._memory.heal(self._params)

    def __deepcopy__(self, memo: dict) -> Model:
        """A model of its own: same graph, weights, statistics and number of steps; the rule's memory is empty."""
        return self.twin()

    def __copy__(self) -> Model:
        return self.__deepcopy__({})

    def __reduce__(self) -> Any:
        raise TypeError("a model is not pickled, since loading a pickle can run any code; use model.save and nbnn.load")

    def __setattr__(self, name: str, value: Any) -> None:
        """`model.params = {...}` writes into the arrays, like `model.params[name] = ...` for each of them."""
        if name in ("params", "grads", "state") and name in self.__dict__ and value is not self.__dict__[name]:
            if not isinstance(value, Mapping):
                raise TypeError(f"{name} must be a dict of arrays by name, got {type(value).__name__}")
            self.__dict__[name].update(value)
            return
        super().__setattr__(name, value)

    # ---- the compiled step

    def _compile(self, name: str, args: tuple) -> tuple:
        """Compile a function of the net, and how Python calls it; the arguments for that."""
        args = (self._step.handle(name, args), *args)
        self._caller.compile(name, args)
        self._step.supply(name)
        return args

    def _compile_train(self, args: tuple) -> None:
        self._trainer.compile("train", args)
        self._step.supply("gradients")

    def _call(self, name: str, args: tuple) -> None:
        """`predict` or `gradients` of the net with these arguments."""
        self._caller(name, *self._compile(name, args))

    def _named(self, kind: str, buffer: np.ndarray) -> Arrays:
        """The arrays in an arena that is laid out like the parameters, their gradients, or the state."""
        found = {}
        for node in self.graph.nodes:
            shapes = self.graph.input_shapes(node)
            for local in (node.state if kind == "state" else node.params)(*shapes):
                routed = self.lowered.names[node.name or "", f"d{local}" if kind == "grads" else local]
                found[f"{node.name}.{local}"] = people_view(
                    buffer, self.lowered.buffers[routed], self.lowered.arrays[routed]
                )
        return Arrays(found)

    def _arenas(self, *kinds: str) -> list[np.ndarray]:
        try:
            return [arena(size, self.dtype) for kind, size in self._sizes().items() if kind in kinds]
        except MemoryError:
            raise self._too_large() from None

    def _sizes(self) -> dict[str, int]:
        """Of the arenas that do not grow with the minibatch, in elements."""
        sizes = self.lowered.sizes
        kept = {kind: sizes[kind] for kind in ("params", "grads", "state", "work")}
        return {**kept, "space": sizes["space"] * self._step.most_threads()}

    def _too_large(self) -> MemoryError:
        needed = sum(self._sizes().values()) * np.dtype(self.dtype).itemsize
        return MemoryError(
            f"this net needs {needed / 2**30:.1f} GiB for its parameters, their gradients and scratch; "
            "make its widest nodes smaller"
        )

    def _make_room(self, count: int) -> None:
        """Activations for so many examples; with the first of them scratch, which can be far more than the parameters
        and is nothing that loading a file should pay for."""
        if count <= self._capacity:
            return
        if not self._capacity:
            self._work, self._space = self._arenas("work", "space")
        own = min(self._step.most_threads(), count) * held(self.lowered, count) * self.lowered.sizes["own_acts"]
        needed = (count * self.lowered.sizes["acts"] + own) * np.dtype(self.dtype).itemsize
        try:
            acts = arena(count * self.lowered.sizes["acts"], self.dtype)
            own_acts = arena(own, self.dtype)
            labels, losses = np.zeros(count, np.int64), np.zeros(count)
        except MemoryError:
            raise MemoryError(
                f"a batch of {count} needs {needed / 2**30:.1f} GiB for activations and gradients; use a smaller batch"
            ) from None
        self._acts, self._own_acts, self._labels, self._losses, self._capacity = acts, own_acts, labels, losses, count

    def _scores(self, x: np.ndarray) -> np.ndarray:
        with self._lock:
            scores = self._forward(x)
        if not np.isfinite(scores).all():
            bad = ~np.isfinite(scores.reshape(len(x), -1)).all(axis=1)
            raise self._explain(x, "the scores are not finite", 0, None, np.flatnonzero(bad)[:1])
        return scores

    def _forward(self, x: np.ndarray) -> np.ndarray:
        self._make_room(min(len(x), max(self._capacity, 128)))
        buffer = self.lowered.buffers[self.lowered.aliases.get(self.graph.output, self.graph.output)]
        scores = np.empty((len(x), *self.graph.output_shape), self.dtype)
        for first in range(0, len(x), self._capacity):
            rows = np.arange(first, min(first + self._capacity, len(x)))
            self._call("predict", self._predict_arguments(x, rows))
            start = buffer.start * self._capacity + buffer.halo * (buffer.strides[1] + buffer.strides[2])
            found = np.lib.stride_tricks.as_strided(
                self._acts[start:], (len(rows), *buffer.shape[1:]), [s * self._acts.itemsize for s in buffer.strides]
            )
            scores[rows] = found.transpose(0, 3, 1, 2).reshape(len(rows), *self.graph.output_shape)
        return scores

    def _predict_arguments(self, x: np.ndarray, rows: np.ndarray) -> tuple:
        arenas = self._params, self._state, self._acts, self._work, self._space, self._own_acts
        sizes = len(rows), self._capacity, held(self.lowered, self._capacity)
        return (self._step.threads(), *sizes, *self._step.data(x), rows, *arenas)

    def gradient_arguments(self, X: Any, y: Any) -> tuple:
        """What the compiled `gradients` takes for X as one minibatch, checked."""
        x = inputs.examples(X, self.graph)
        rows, threads = np.arange(len(x)), self._step.threads()
        return self._gradient_arguments(threads, x, self._targets(y, len(x)), rows, np.zeros(1))

    def _gradient_arguments(
        self, threads: int, x: np.ndarray, given: np.ndarray, rows: np.ndarray, out: np.ndarray
    ) -> tuple:
        batch = rows.shape[-1]
        self._make_room(batch)
        if self._needed_loss().classifies:
            targets = (given, self._labels[:batch], 0 if self.backend == "numba" else None, 0)
        else:
            targets = (self._labels[:0], self._labels[:batch], *self._step.data(given))
        return (
            threads,
            batch,
            self._capacity,
            held(self.lowered, self._capacity),
            *self._step.data(x),
            rows.reshape(-1),
            *targets,
            self._params,
            self._grads,
            self._state,
            self._acts,
            self._work,
            self._space,
            self._own_acts,
            self._losses[:batch],
            out,
            self._sums[0],
            self.seed,
            self.steps_taken,
        )

    def _gradients(self, x: np.ndarray, given: np.ndarray, rows: np.ndarray) -> float:
        out, state = np.zeros(1), self._state.copy()
        threads = self._step.threads()
        self._call("gradients", self._gradient_arguments(threads, x, given, rows, out))
        with np.errstate(over="ignore"):
            found = Steps(out, np.array([np.dot(self._grads, self._grads)], float))
        if np.isfinite(self._grads).all():  # a square that overflows would hurt a rule, nobody else
            found.norms[:] = 0
        if found.broken:
            self._state[:] = state
            raise self._explain(x, found.what, 0, given, rows)
        return float(out[0])

    def _train(
        self,
        memory: rules.Memory,
        x: np.ndarray,
        given: np.ndarray,
        rows: np.ndarray,
        rates: np.ndarray,
        *,
        reg: float,
        clip: float,
        skip: bool = False,
    ) -> Steps:
        """Checked arrays in, losses out; without `skip` it ends at a step that is not finite, which is then the last
        one."""
        found, taken = Steps.room(len(rows)), 0
        with self._lock:
            while taken < len(rows):
                threads, steps = self._pace.plan(self._step.threads(), len(rows) - taken, rows.shape[1])
                part = slice(taken, taken + steps)
                out = Steps(found.losses[part], found.norms[part])
                arguments = self._train_arguments(
                    threads, memory, x, given, rows[part], rates[part], out, reg, clip, skip
                )
                self._compile_train(arguments)
                begun = time.perf_counter()
                done = int(self._trainer("train", *arguments))
                self._pace.learn(threads, steps * rows.shape[1], time.perf_counter() - begun)
                taken += done
                self.steps_taken += done
                if done < steps:
                    break
        found = Steps(found.losses[: taken + 1], found.norms[: taken + 1])
        if skip:
            found.losses[~found.finite] = np.nan  # also of a finite loss whose gradient was not
        return found

    def _train_arguments(
        self,
        threads: int,
        memory: rules.Memory,
        x: np.ndarray,
        given: np.ndarray,
        rows: np.ndarray,
        rates: np.ndarray,
        out: Steps,
        reg: float,
        clip: float,
        skip: bool,
    ) -> tuple:
        gradients = self._gradient_arguments(threads, x, given, rows, out.losses)
        self._trainer.expect("train")
        net = self._step.handle("gradients", gradients), len(rows), self.lowered.decayed
        rule = memory.code, memory.settings, np.asarray(rates, np.float64), float(reg), float(clip)
        arenas = memory.m, memory.v, memory.averaged
        blocks = -(-self.lowered.decayed // BLOCK)
        room = self._sums[1, :blocks], arena(len(self._state), self.dtype)
        return (*net, *gradients, *rule, *arenas, *room, out.norms, int(skip))

    def _needed_loss(self) -> Any:
        if self.graph.loss is None:
            raise ValueError(
                "this graph has no loss, so it can only predict; "
                'build it with loss="softmax", "svm" or "mse" to train it'
            )
        return self.graph.loss

    def _targets(self, y: Any, count: int) -> np.ndarray:
        return (inputs.labels if self._needed_loss().classifies else inputs.targets)(y, count, self.graph)

    def _explain(
        self, x: np.ndarray, what: str, step: int | None, y: np.ndarray | None, rows: np.ndarray
    ) -> FloatingPointError | ValueError:
        """Why a result of these rows is not finite: the data, or the parameters, or a step that was too long; and where
        it began. Step 0 is no step, None one that the caller names."""
        from nbnn.blame import first_not_finite

        found = inputs.not_finite(x, "X") or (None if y is None else inputs.not_finite(y, "y"))
        if found:
            return ValueError(found)
        for name, view in self.params.items():
            if not np.isfinite(view).all():
                return FloatingPointError(
                    f"{what} because {name} holds a NaN or an infinity; put good weights back, and if a "
                    "step has spoilt these, lower the learning rate or clip the gradient"
                )
        node = first_not_finite(self, x, y, rows)
        began = f", beginning with {node}" if node else ""
        if step == 0:
            return FloatingPointError(
                f"{what}{began}, though the data and the parameters are finite: the net multiplies them beyond "
                f"what {self.dtype} can hold; scale the data or make the weights smaller"
            )
        at, rest = (
            (f" at step {step} of this call", "; the parameters are those of the step before") if step else ("", "")
        )
        return FloatingPointError(
            f"{what}{at}{began}{rest}; lower the learning rate, clip the gradient or scale the data"
        )


def _dtype_name(dtype: Any) -> Any:
    """What NumPy takes for one of our dtypes, by its name; all else as it was given."""
    if dtype is None:  # which NumPy takes for float64
        return dtype
    try:
        name = str(np.dtype(dtype))
    except (TypeError, ValueError, SyntaxError):  # NumPy parses texts such as "(2,3)f4"
        return dtype
    return name if name in ("float32", "float64") else dtype


def load(path: Any, *, backend: str = "numba", dtype: str | None = None) -> Model:
    """The model that `save` wrote: graph, weights and running statistics."""
    from nbnn.files import load as load_file

    return load_file(path, backend=backend, dtype=dtype)
