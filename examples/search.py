"""A coarse-to-fine search among settings, and the best net trained: the aim is to beat 66.8 % on CIFAR-10."""

# %% [markdown]
# # Coarse to fine
#
# Many short trainings with settings drawn at random, then more of them around the best, then one long training. A net
# is compiled once for each dropout, which is part of the graph; learning rate and weight decay are not.

# %%
import time

import common

import nbnn
from nbnn import Affine, BatchNorm, Conv, Dropout, MaxPool, ReLU, plots
from nbnn.course.model_selection import log_uniform, random_search

run = common.Run("search", __doc__)
data = run.pictures()
width = 4 if run.small else 32


def graph(drop):
    """Three pairs of convolutions, each half as large and twice as wide as the one before."""
    nodes = []
    for filters in (width, 2 * width, 4 * width):
        for _ in range(2):
            nodes += [Conv(filters, 3, pad=1, bias=False), BatchNorm(), ReLU()]
        nodes.append(MaxPool(2))
    nodes += [Dropout(drop), Affine(8 * width), BatchNorm(), ReLU(), Dropout(drop), Affine(10)]
    return nbnn.Graph(nodes, input=(3, 32, 32), loss="softmax")


def train(learning_rate, weight_decay, drop, *, epochs, pictures, **options):
    """A Solver after its training."""
    solver = nbnn.Solver(
        nbnn.compile(graph(drop), seed=0),
        pictures,
        update_rule="adamw",
        optim_config={"learning_rate": learning_rate, "weight_decay": weight_decay},
        schedule={"schedule": "one_cycle"},
        sampling="epoch",
        batch_size=100,
        num_epochs=epochs,
        **options,
    )
    solver.train()
    return solver


# %% [markdown]
# ## Short trainings on a part of the pictures

# %%
few = {**data, "X_train": data["X_train"][:5000], "y_train": data["y_train"][:5000]}


def evaluate(**settings):
    try:
        return train(**settings, epochs=1 if run.small else 3, pictures=few, verbose=False).best_val_acc
    except FloatingPointError:  # a learning rate that was too large
        return float("nan")


begun = time.perf_counter()
ranges = {"learning_rate": log_uniform(1e-4, 1e-1), "weight_decay": log_uniform(1e-4, 1e-1), "drop": [0.0, 0.2, 0.4]}
trials = random_search(evaluate, ranges, num=2 if run.small else 8, rounds=2)
print(f"{len(trials)} trainings in {time.perf_counter() - begun:.0f} s; the best: {trials[0]}")
rates = sorted((t.settings["learning_rate"], t.score) for t in trials)
series = {"each training": ([rate for rate, _ in rates], [score for _, score in rates])}
run.figure(
    plots.lines(series, run.out / "search.png", title="Short trainings", x="learning rate", y="val acc", log="x")
)

# %% [markdown]
# ## The best settings on all pictures

# %%
begun = time.perf_counter()
solver = train(**trials[0].settings, epochs=1 if run.small else 10, pictures=data, print_every=200)
print(f"best val acc {solver.best_val_acc:.3f} in {time.perf_counter() - begun:.0f} s; the course's best is 0.668")
run.figure(plots.curves(solver, run.out / "curves.png"))
run.figure(plots.filters(solver.model.params["conv1.w"], run.out / "filters.png"))
predicted = solver.model.predict(data["X_val"])
run.figure(plots.confusion(data["y_val"], predicted, run.out / "confusion.png", common.CLASSES))
