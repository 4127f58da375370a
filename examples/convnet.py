"""A convolutional net on CIFAR-10: the three experiments of the course."""

# %% [markdown]
# # ThreeLayerConvNet
#
# conv, relu, 2x2 max pool, affine, relu, affine, softmax.

# %%
import time

import common
import numpy as np

from nbnn import plots
from nbnn.course.cnn import ThreeLayerConvNet
from nbnn.course.solver import Solver

run = common.Run("convnet", __doc__)
data = run.pictures()


def train(net, name, **options):
    """Train, say how long it took, draw the curves."""
    options = {"update_rule": "adam", "optim_config": {"learning_rate": 1e-3}, **options}
    solver = Solver(net, options.pop("data", data), **options)
    begun = time.perf_counter()
    solver.train()
    print(f"{name}: best val acc {solver.best_val_acc:.3f} in {time.perf_counter() - begun:.1f} s")
    run.figure(plots.curves(solver, run.out / f"{name}.png"))
    return solver


# %% [markdown]
# ## 100 pictures: the net can learn them by heart

# %%
np.random.seed(0)
few = {**data, "X_train": data["X_train"][:100], "y_train": data["y_train"][:100]}
solver = train(ThreeLayerConvNet(weight_scale=1e-2), "few", data=few, num_epochs=10, batch_size=50, print_every=1)
print(f"train acc {max(solver.train_acc_history):.2f}, published 0.69")

# %% [markdown]
# ## One epoch on everything, and what the filters became

# %%
np.random.seed(0)
net = ThreeLayerConvNet(weight_scale=1e-3, hidden_dim=500, reg=1e-3)
solver = train(net, "one_epoch", num_epochs=1, batch_size=50, print_every=100)
print(f"val acc {solver.best_val_acc:.3f}, published 0.472 on CIFAR-10")
run.figure(plots.filters(net.params["W1"], run.out / "filters.png"))

# %% [markdown]
# ## 64 filters of 3x3, 15 epochs

# %%
np.random.seed(0)
net = ThreeLayerConvNet(num_filters=8 if run.small else 64, filter_size=3, hidden_dim=500, reg=1e-3, weight_scale=1e-3)
batch = 100 if run.small else 1000
solver = train(net, "fifteen_epochs", num_epochs=2 if run.small else 15, batch_size=batch, print_every=20)
print(f"val acc {solver.best_val_acc:.3f}, published 0.668 on CIFAR-10")
predicted = net.loss(data["X_val"]).argmax(axis=1)
run.figure(plots.confusion(data["y_val"], predicted, run.out / "confusion.png", common.CLASSES))
