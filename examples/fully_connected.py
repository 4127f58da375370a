"""Fully connected nets: overfitting, update rules, batch normalisation, dropout."""

# %% [markdown]
# # Fully connected nets
#
# The nets of the course are compiled graphs behind its classes: a Solver trains them in whole compiled steps.

# %%
import common
import numpy as np

from nbnn import plots
from nbnn.course.fc_net import FullyConnectedNet, TwoLayerNet
from nbnn.course.solver import Solver

run = common.Run("fully_connected", __doc__)
data = run.pictures(train=4000)
epochs = 2 if run.small else 10
deep = [100] * (2 if run.small else 4)


def train(net, rule="adam", rate=1e-3, pictures=None, **options):
    """A Solver after its training."""
    chosen = {"num_epochs": epochs, "batch_size": 100, "verbose": False, **options}
    solver = Solver(net, pictures or data, update_rule=rule, optim_config={"learning_rate": rate}, **chosen)
    solver.train()
    return solver


# %% [markdown]
# ## Before anything else: the first loss, and 50 pictures by heart

# %%
np.random.seed(0)
net = TwoLayerNet(hidden_dim=100)
loss, _ = net.loss(data["X_train"][:100], data["y_train"][:100])
print(f"first loss {loss:.3f}, the logarithm of 10 is {np.log(10):.3f}")
few = {**data, "X_train": data["X_train"][:50], "y_train": data["y_train"][:50]}
solver = train(FullyConnectedNet([100, 100], weight_scale=3e-2), pictures=few, batch_size=25, num_epochs=40)
print(f"50 pictures by heart: train acc {max(solver.train_acc_history):.3f}")

# %% [markdown]
# How far does a step move the weights? About a thousandth of their size is healthy.

# %%
net = FullyConnectedNet([100, 100], weight_scale=3e-2)
before = {name: value.copy() for name, value in net.params.items()}
train(net, "sgd", 1e-3, few, num_epochs=1, batch_size=50)
for name in ("W1", "W2", "W3"):
    step = np.linalg.norm(net.params[name] - before[name])
    print(f"{name}: a step is {step / np.linalg.norm(before[name]):.1e} of the weights")

# %% [markdown]
# ## Update rules

# %%
rules = {"sgd": 1e-3, "sgd_momentum": 1e-3, "rmsprop": 1e-4, "adam": 1e-3}
histories = {}
for rule, rate in rules.items():
    np.random.seed(0)
    solver = train(FullyConnectedNet(deep, weight_scale=5e-2), rule, rate)
    histories[rule] = np.arange(len(solver.val_acc_history)), solver.val_acc_history
    print(f"{rule:14} best val acc {solver.best_val_acc:.3f}")
run.figure(plots.lines(histories, run.out / "rules.png", title="Update rules", x="epoch", y="validation accuracy"))

# %% [markdown]
# ## Batch normalisation: weights of any size will do

# %%
scales = np.logspace(-4, 0, 3 if run.small else 7)
found = {"plain": [], "batchnorm": [], "layernorm": []}
for name in found:
    for scale in scales:
        np.random.seed(0)
        norm = None if name == "plain" else name
        solver = train(FullyConnectedNet(deep, normalization=norm, weight_scale=scale), num_epochs=max(2, epochs // 2))
        found[name].append(solver.best_val_acc)
    print(f"{name:14} " + "  ".join(f"{scale:.0e}: {acc:.3f}" for scale, acc in zip(scales, found[name], strict=True)))
run.figure(
    plots.lines(
        {name: (scales, values) for name, values in found.items()},
        run.out / "batchnorm.png",
        title="Accuracy against the size of the first weights",
        x="weight_scale",
        y="best validation accuracy",
        log="x",
    )
)

# %% [markdown]
# ## Dropout: less is learnt by heart

# %%
few = {**data, "X_train": data["X_train"][:500], "y_train": data["y_train"][:500]}
histories = {}
for keep in (1, 0.25):
    np.random.seed(0)
    solver = train(FullyConnectedNet([500], dropout_keep_ratio=keep), rate=5e-4, pictures=few, num_epochs=2 * epochs)
    places = np.arange(len(solver.train_acc_history))
    histories[f"keep {keep}, train"] = places, solver.train_acc_history
    histories[f"keep {keep}, validation"] = places, solver.val_acc_history
    print(f"keep {keep:<4}  train acc {solver.train_acc_history[-1]:.3f}  best val acc {solver.best_val_acc:.3f}")
run.figure(plots.lines(histories, run.out / "dropout.png", title="Dropout", x="epoch", y="accuracy"))

# %% [markdown]
# ## A good one

# %%
np.random.seed(0)
net = FullyConnectedNet([200, 100], dropout_keep_ratio=0.8, normalization="batchnorm", reg=1e-4, weight_scale=2e-2)
solver = train(net, verbose=True, print_every=100, lr_decay=0.9)
run.figure(plots.curves(solver, run.out / "curves.png"))
predicted = net.loss(data["X_val"]).argmax(axis=1)
print(f"validation accuracy {(predicted == data['y_val']).mean():.3f}")
run.figure(plots.confusion(data["y_val"], predicted, run.out / "confusion.png", common.CLASSES))
