"""Nearest neighbours and linear classifiers: cross-validation, features, what the weights look like."""

# %% [markdown]
# # Nearest neighbours and linear classifiers

# %%
import time

import common
import numpy as np

from nbnn import plots
from nbnn.course.classifiers import KNearestNeighbor, LinearSVM, Softmax
from nbnn.course.features import color_histogram_hsv, extract_features, hog_feature
from nbnn.course.model_selection import best, cross_validate
from nbnn.course.preprocess import add_bias, standardise, subtract_mean

run = common.Run("neighbours_and_linear", __doc__)
data = run.pictures(train=10000, centred=False)

# %% [markdown]
# ## How many neighbours? Five folds

# %%
rows = {part: data[part].reshape(len(data[part]), -1) for part in ("X_train", "X_val")}
few = 300 if run.small else 5000


class Neighbours(KNearestNeighbor):
    """With its k, as cross-validation wants it."""

    def __init__(self, X, y, k):
        super().__init__()
        self.train(X, y)
        self.k = k

    def predict(self, X):
        return super().predict(X, self.k)


begun = time.perf_counter()
choices = [{"k": k} for k in (1, 3, 5, 8, 10, 12, 15, 20, 50, 100)]
found = cross_validate(Neighbours, rows["X_train"][:few], data["y_train"][:few], choices, verbose=False)
for result in found:
    print(f"k = {result.settings['k']:3}: {result.mean:.3f} +- {np.std(result.accuracies):.3f}")
print(f"{len(choices) * 5} classifiers in {time.perf_counter() - begun:.1f} s")
series = {"mean of 5 folds": ([r.settings["k"] for r in found], [r.mean for r in found])}
run.figure(plots.lines(series, run.out / "neighbours.png", title="Nearest neighbours", x="k", y="accuracy", log="x"))
k = best(found).settings["k"]
accuracy = (Neighbours(rows["X_train"], data["y_train"], k).predict(rows["X_val"]) == data["y_val"]).mean()
print(f"k = {k}: validation accuracy {accuracy:.3f}")

# %% [markdown]
# ## Linear classifiers on pixels
#
# Learning rate and penalty are chosen by cross-validation as well; the validation pictures say what came of it.

# %%
X_train, X_val = add_bias(*subtract_mean(rows["X_train"], rows["X_val"]))
iterations, folds = (20, 2) if run.small else (1500, 5)


def chosen(kind, X_train, rates, penalties):
    """Of all pairs the one that does best on held-out folds, trained on all pictures."""

    def trained(X, y, **settings):
        np.random.seed(0)
        classifier = kind()
        classifier.train(X, y, num_iters=iterations, **settings)
        return classifier

    pairs = [{"learning_rate": rate, "reg": reg} for rate in rates for reg in penalties]
    found = cross_validate(trained, X_train, data["y_train"], pairs, folds=folds, verbose=False)
    for result in found:
        rate, reg = result.settings.values()
        print(f"{kind.__name__:10} lr {rate:.0e}  reg {reg:.0e}  {result.mean:.3f} +- {np.std(result.accuracies):.3f}")
    return trained(X_train, data["y_train"], **best(found).settings)


for kind in (LinearSVM, Softmax):
    classifier = chosen(kind, X_train, [5e-8, 1e-7, 5e-7], [1e3, 2.5e4])
    print(f"{kind.__name__} on pixels: validation accuracy {(classifier.predict(X_val) == data['y_val']).mean():.3f}")
    templates = classifier.W[:-1].T.reshape(-1, 3, 32, 32)
    run.figure(plots.filters(templates, run.out / f"{kind.__name__}.png"))

# %% [markdown]
# ## On features: directions of edges, and hues

# %%
features = [hog_feature, color_histogram_hsv]
seen = [extract_features(data[part].transpose(0, 2, 3, 1), features) for part in ("X_train", "X_val")]
X_train, X_val = add_bias(*standardise(*seen))
predicted = chosen(LinearSVM, X_train, [1e-3, 1e-2], [1e-3, 1e-1]).predict(X_val)
print(f"LinearSVM on features: validation accuracy {(predicted == data['y_val']).mean():.3f}")
run.figure(plots.confusion(data["y_val"], predicted, run.out / "confusion.png", common.CLASSES))
