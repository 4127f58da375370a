"""The classic classifiers of the course: against definitions written out here, and against each other."""

import numpy as np
import pytest

from nbnn.course.classifiers import KNearestNeighbor, LinearClassifier, LinearSVM, Softmax
from nbnn.course.classifiers import k_nearest_neighbor as module
from nbnn.course.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
from nbnn.course.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized
from nbnn.course.gradient_check import eval_numerical_gradient, rel_error

RNG = np.random.default_rng(0)
LOSSES = [(svm_loss_naive, svm_loss_vectorized), (softmax_loss_naive, softmax_loss_vectorized)]


# ---- nearest neighbours


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_distances_are_those_of_the_definition(norm, dtype, monkeypatch):
    train, test = (RNG.integers(0, 256, (count, 2, 3, 4)).astype(dtype) for count in (30, 7))
    knn = KNearestNeighbor(norm)
    knn.train(train, np.zeros(30, int))
    differences = np.abs(test.reshape(7, 1, 24).astype(float) - train.reshape(1, 30, 24))
    wanted = differences.sum(axis=2) if norm == "L1" else np.sqrt((differences**2).sum(axis=2))
    for block in (module.BLOCK, 24 * 8 * 7):  # the second makes blocks of 7 rows
        monkeypatch.setattr(module, "BLOCK", block)
        for way in (
            knn.compute_distances_two_loops,
            knn.compute_distances_one_loop,
            knn.compute_distances_no_loops,
        ):
            np.testing.assert_allclose(way(test), wanted, rtol=1e-12)
    assert np.abs(knn.compute_distances_no_loops(train).diagonal()).max() < 1e-3


def test_labels_are_voted_for_and_ties_go_to_the_smaller_label_and_the_earlier_row():
    knn = KNearestNeighbor()
    knn.train(np.arange(6.0)[:, None], np.array([7, 3, 3, 7, -1, -1]))
    np.testing.assert_array_equal(knn.predict([[0.1], [2.9], [4.6]], k=1), [7, 7, -1])
    np.testing.assert_array_equal(knn.predict([[0.1]], k=2), [3])  # one vote each
    np.testing.assert_array_equal(knn.predict([[0.9]], k=3), [3])
    np.testing.assert_array_equal(knn.predict_labels(np.zeros((1, 6)), k=1), [7])  # all as near: the first row
    np.testing.assert_array_equal(knn.predict_labels(np.zeros((1, 6)), k=6), [-1])
    knn.train(np.zeros((4, 2)), np.array(["cat", "ship", "ship", "cat"]))
    assert knn.predict(np.zeros((1, 2)), k=4) == ["cat"]


@pytest.mark.parametrize("loops", [0, 1, 2])
def test_predictions_are_the_same_in_pieces(loops, monkeypatch):
    x, y, test = RNG.standard_normal((40, 5)), RNG.integers(0, 3, 40), RNG.standard_normal((25, 5))
    knn = KNearestNeighbor()
    knn.train(x, y)
    wanted = knn.predict(test, k=5)
    monkeypatch.setattr(module, "DISTANCES", 8 * 40 * 4)
    np.testing.assert_array_equal(knn.predict(test, k=5, num_loops=loops), wanted)
    nearest = np.argsort(((test[:, None] - x) ** 2).sum(axis=2), axis=1)[:, :5]
    np.testing.assert_array_equal(wanted, [np.bincount(y[row], minlength=3).argmax() for row in nearest])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda knn: KNearestNeighbor("L3"), "norm must be 'L2' or 'L1', got 'L3'"),
        (lambda knn: knn.predict(np.zeros((1, 2)), num_loops=3), "Invalid value 3 for num_loops; it is 0, 1 or 2"),
        (lambda knn: knn.predict(np.zeros((1, 2)), k=9), "k must be from 1 to the 4 training rows, got 9"),
        (lambda knn: knn.predict(np.zeros((1, 3))), "X must have rows of 2 numbers as in training, got 3"),
        (lambda knn: knn.predict(np.zeros(2)), "X must have one row for each example, got shape (2,)"),
        (lambda knn: knn.train(np.zeros((3, 2)), [1, 2]), "y must have one label for each of the 3 rows, got (2,)"),
        (
            lambda knn: KNearestNeighbor().predict(np.zeros((1, 2))),
            "KNearestNeighbor has no training rows yet; call train(X, y) first",
        ),
    ],
)
def test_wrong_words_get_a_sentence(call, sentence):
    knn = KNearestNeighbor()
    knn.train(np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(ValueError) as caught:
        call(knn)
    assert str(caught.value) == sentence


# ---- linear classifiers


@pytest.mark.parametrize(("naive", "vectorized"), LOSSES)
def test_losses_one_by_one_and_at_once_agree_with_differences(naive, vectorized):
    w, x, y = 0.5 * RNG.standard_normal((6, 4)), RNG.standard_normal((9, 6)), RNG.integers(0, 4, 9)
    value, gradient = vectorized(w, x, y, 0.3)
    other, same = naive(w, x, y, 0.3)
    assert value == pytest.approx(other, rel=1e-12)
    np.testing.assert_allclose(gradient, same, rtol=1e-10, atol=1e-14)
    numerical = eval_numerical_gradient(lambda w: vectorized(w, x, y, 0.3)[0], w.copy(), verbose=False)
    assert rel_error(numerical, gradient) < 1e-6
    assert value - vectorized(w, x, y, 0.0)[0] == pytest.approx(0.3 * (w**2).sum())  # without the half


def test_the_hinge_loss_is_that_of_the_definition():
    w, x, y = RNG.standard_normal((6, 4)), RNG.standard_normal((9, 6)), RNG.integers(0, 4, 9)
    scores = x @ w
    margins = [max(0, scores[n, k] - scores[n, y[n]] + 1) for n in range(9) for k in range(4) if k != y[n]]
    assert svm_loss_vectorized(w, x, y, 0.0)[0] == pytest.approx(sum(margins) / 9)


@pytest.mark.parametrize("kind", [LinearSVM, Softmax])
def test_linear_classifiers_learn_and_print_as_in_the_course(kind, capsys):
    np.random.seed(0)
    centres = 3 * RNG.standard_normal((3, 5))
    y = RNG.integers(0, 3, 200)
    x = np.hstack([centres[y] + RNG.standard_normal((200, 5)), np.ones((200, 1))])
    classifier = kind()
    with pytest.raises(ValueError, match="has no weights yet; train it first"):
        classifier.predict(x)
    losses = classifier.train(x, y, learning_rate=1e-2, reg=1e-3, num_iters=201, batch_size=50, verbose=True)
    assert len(losses) == 201 and losses[-1] < losses[0] / 2 and classifier.W.shape == (6, 3)
    assert (classifier.predict(x) == y).mean() > 0.9
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"iteration 0 / 201: loss {losses[0]:f}" and len(lines) == 3
    kept = classifier.W
    classifier.train(x, y, num_iters=1)
    assert kept is not classifier.W and np.abs(classifier.W - kept).max() < 0.1  # it goes on where it was


def test_a_classifier_without_a_loss_says_so():
    with pytest.raises(NotImplementedError, match="use LinearSVM or Softmax"):
        LinearClassifier().train(np.zeros((2, 2)), np.array([0, 1]))
