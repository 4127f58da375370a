"""What comes before and around a training: preprocessing, the choice of settings, and pictures in a grid."""

import math

import numpy as np
import pytest

from nbnn.course import preprocess
from nbnn.course.model_selection import (
    Trial,
    Validation,
    best,
    cross_validate,
    kfold,
    log_uniform,
    random_search,
    uniform,
    whole,
)
from nbnn.course.vis_utils import visualize_grid

R = np.random.default_rng(0)
MIXED = R.standard_normal((200, 4)) @ R.standard_normal((4, 4)) * [1, 5, 0.1, 30] + [3, -2, 0, 100]
OTHER = R.standard_normal((50, 4)) * 7

PREPARE = {
    "subtract_mean": preprocess.subtract_mean,
    "standardise": preprocess.standardise,
    "scale_to_unit_range": preprocess.scale_to_unit_range,
    "pca": lambda *arrays: preprocess.pca(*arrays, components=2),
    "whiten": preprocess.whiten,
    "add_bias": preprocess.add_bias,
}
each = pytest.mark.parametrize("name", PREPARE)


# ---- preprocessing: what holds for all


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_are_kept_and_nothing_given_changes(name, dtype):
    arrays = [MIXED.astype(dtype), OTHER.astype(dtype), OTHER[:0].astype(dtype)]
    given = [a.copy() for a in arrays]
    found = PREPARE[name](*arrays)
    assert isinstance(found, tuple) and len(found) == 3
    for a, before, after in zip(arrays, given, found, strict=True):
        np.testing.assert_array_equal(a, before)
        assert after.dtype == dtype and len(after) == len(a) and not np.shares_memory(a, after)


@each
def test_one_array_comes_back_as_one_and_learns_nothing_from_others(name):
    alone = PREPARE[name](MIXED)
    assert isinstance(alone, np.ndarray)
    np.testing.assert_array_equal(alone, PREPARE[name](MIXED, OTHER)[0])


@each
def test_others_get_the_numbers_of_the_first(name):
    """A row has the same result wherever it stands."""
    train, again = PREPARE[name](MIXED, MIXED[[7, 3]])
    np.testing.assert_allclose(again, train[[7, 3]], rtol=1e-9, atol=1e-9)


@each
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_whole_numbers_become_float64(name, dtype):
    whole_numbers = R.integers(0, 256, (20, 3)).astype(dtype)
    found = PREPARE[name](whole_numbers)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, PREPARE[name](whole_numbers.astype(np.float64)))


@each
def test_wrong_arrays_get_a_sentence(name):
    with pytest.raises(ValueError, match=rf"{name}: X_train must have one row for each example, got shape \(4,\)"):
        PREPARE[name](MIXED[0])
    with pytest.raises(
        ValueError, match=rf"{name}: array 2 has examples of shape \(3,\), those of X_train have \(4,\)"
    ):
        PREPARE[name](MIXED, OTHER[:, :3])
    with pytest.raises(ValueError, match=rf"{name}: X_train is empty, of shape \(0, 4\)"):
        PREPARE[name](MIXED[:0])
    with pytest.raises(ValueError, match=rf"{name}: X_train holds NaN or infinity"):
        PREPARE[name](np.where(MIXED > 100, np.nan, MIXED))
    with pytest.raises(TypeError, match=rf"{name}: array 2 must hold real numbers, got <U1"):
        PREPARE[name](MIXED, [["a", "b", "c", "d"]])


@pytest.mark.parametrize("name", ["pca", "whiten", "add_bias"])
def test_pictures_must_be_rows_first(name):
    with pytest.raises(ValueError, match=r"got shape \(5, 3, 8, 8\); reshape it with X.reshape\(len\(X\), -1\)"):
        PREPARE[name](np.zeros((5, 3, 8, 8)))


# ---- preprocessing: each


def test_the_mean_of_pictures_is_a_picture():
    train, other = R.integers(0, 256, (2, 30, 3, 4, 4)).astype(np.float32)
    centred, moved = preprocess.subtract_mean(train, other)
    np.testing.assert_allclose(centred.mean(axis=0), np.zeros((3, 4, 4)), atol=1e-4)
    np.testing.assert_allclose(moved, other - train.mean(axis=0), atol=1e-4)


def test_the_mean_of_many_float32_is_right():
    """Added up in float32, a hundred thousand numbers near 255 would be wrong in the third digit."""
    many = np.full((100_000, 2), 255.1, np.float32)
    assert np.abs(preprocess.subtract_mean(many)).max() == 0


def test_standardised_columns_have_mean_0_and_deviation_1():
    train, other = preprocess.standardise(MIXED, OTHER)
    np.testing.assert_allclose(train.mean(axis=0), np.zeros(4), atol=1e-12)
    np.testing.assert_allclose(train.std(axis=0), np.ones(4))
    np.testing.assert_allclose(other, (OTHER - MIXED.mean(axis=0)) / MIXED.std(axis=0))


def test_standardising_leaves_constant_columns_alone():
    train, other = preprocess.standardise(np.c_[np.full(10, 0.1), np.arange(10.0)], [[7.0, 4.5]])
    np.testing.assert_array_equal(train[:, 0], np.full(10, 0.1))
    np.testing.assert_array_equal(other, [[7.0, 0.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_range_ends_exactly_at_minus_1_and_1(dtype):
    train = (R.standard_normal((500, 40)) * 17 + 0.3).astype(dtype)
    scaled = preprocess.scale_to_unit_range(train)
    np.testing.assert_array_equal(scaled.min(axis=0), np.full(40, -1))
    np.testing.assert_array_equal(scaled.max(axis=0), np.full(40, 1))


def test_the_range_is_the_training_part_s():
    train, other = preprocess.scale_to_unit_range([[0, 5], [10, 5]], [[5, 6], [20, 4]])
    np.testing.assert_array_equal(train, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(other, [[0, 2], [3, -2]])


def test_pca_of_a_line_is_the_way_along_it():
    along = np.array([-3.0, -1, 0, 1, 3])
    line = np.outer(along, [0.6, 0.8]) + [10, 20]
    train, other = preprocess.pca(line, [[10.0, 20], [10.8, 19.4], [13, 24]], components=2)
    np.testing.assert_allclose(train, np.c_[along, np.zeros(5)], atol=1e-12)
    np.testing.assert_allclose(other[:, 0], [0, 0, 5], atol=1e-12)
    np.testing.assert_allclose(np.abs(other[:, 1]), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(preprocess.pca(line, components=1), along[:, None], atol=1e-12)


def test_pca_keeps_distances_and_orders_its_columns():
    turned = preprocess.pca(MIXED, components=4)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(MIXED - MIXED.mean(axis=0), axis=1))
    covariance = turned.T @ turned / len(turned)
    variances = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-9)
    assert (np.diff(variances) < 0).all()


def test_whitened_data_has_identity_covariance():
    white = preprocess.whiten(MIXED, eps=1e-12)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(white.mean(axis=0), np.zeros(4), atol=1e-9)
    few = preprocess.whiten(MIXED, components=2, eps=1e-12)
    np.testing.assert_array_equal(few, white[:, :2])


def test_whitening_does_not_blow_up_what_does_not_vary():
    train, other = preprocess.whiten(np.c_[np.arange(9.0), np.ones(9)], [[4.0, 1.001]])
    np.testing.assert_allclose(train[:, 1], np.zeros(9), atol=1e-9)
    assert abs(other[0, 1]) == pytest.approx(0.001 / math.sqrt(1e-5))


def test_the_bias_is_a_last_column_of_ones():
    np.testing.assert_array_equal(preprocess.add_bias([[1, 2], [3, 4]]), [[1, 2, 1], [3, 4, 1]])


@pytest.mark.parametrize("components", [0, 5, 2.0, True])
def test_components_must_be_there(components):
    for function in (preprocess.pca, preprocess.whiten):
        with pytest.raises(ValueError, match="components must be a whole number from 1 to the 4 columns"):
            function(MIXED, components=components)


@pytest.mark.parametrize("eps", [0, -1, math.nan])
def test_whitening_needs_a_floor(eps):
    with pytest.raises(ValueError, match="eps must be more than 0"):
        preprocess.whiten(MIXED, eps=eps)


# ---- folds


@pytest.mark.parametrize(("num", "folds"), [(10, 5), (11, 3), (4, 4), (2, 2)])
def test_folds_cover_every_row_once(num, folds):
    pairs = kfold(num, folds)
    assert len(pairs) == folds
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in pairs])), np.arange(num))
    for rows, held in pairs:
        np.testing.assert_array_equal(np.sort(np.concatenate([rows, held])), np.arange(num))
        assert len(held) in (num // folds, num // folds + 1)


def test_folds_are_mixed_and_follow_their_seed():
    held = [[h.tolist() for _, h in kfold(100, 5, seed=s)] for s in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    assert held[0][0] != list(range(20))


@pytest.mark.parametrize(
    ("num", "folds", "match"),
    [
        (3, 4, "4 folds want at least 4 rows, got 3; take at most 3 folds"),
        (3, 1, "folds must be a whole number of at least 2, got 1"),
        (10, 2.5, "folds must be a whole number of at least 2, got 2.5"),
        (1, 2, "num must be a whole number of at least 2, got 1"),
    ],
)
def test_impossible_folds(num, folds, match):
    with pytest.raises(ValueError, match=match):
        kfold(num, folds)


# ---- cross-validation


class Above:
    """Says 1 where the first number is above a threshold."""

    def __init__(self, threshold):
        self.threshold = threshold

    def predict(self, X):
        return (X[:, 0] > self.threshold).astype(int)


LINE = np.arange(40.0)[:, None]
HALVES = (np.arange(40) >= 20).astype(int)


def test_cross_validation_finds_the_right_threshold(capsys):
    seen = []

    def build(X, y, threshold):
        seen.append(len(X))
        return Above(threshold)

    results = cross_validate(build, LINE, HALVES, [{"threshold": t} for t in (9.5, 19.5, 39.5)])
    assert [r.settings for r in results] == [{"threshold": 9.5}, {"threshold": 19.5}, {"threshold": 39.5}]
    assert results[1].accuracies == [1.0] * 5 and seen == [32] * 15
    assert results[0].mean == pytest.approx(0.75) and results[2].mean == pytest.approx(0.5)
    assert best(results) is results[1]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15 and lines[5] == "threshold = 19.5, accuracy = 1.000000"


def test_rows_keep_their_labels_and_none_is_seen_before(capsys):
    """A model that remembers its rows knows all of them, and none that it is asked."""

    class Memory:
        def __init__(self, X, y):
            self.known = dict(zip(X[:, 0].tolist(), y.tolist(), strict=True))
            assert all(HALVES[int(x)] == label for x, label in self.known.items())

        def predict(self, X):
            return np.array([self.known.get(x, -1) for x in X[:, 0].tolist()])

    (result,) = cross_validate(Memory, LINE, HALVES, [{}], folds=4, verbose=False)
    assert result.accuracies == [0.0] * 4
    assert capsys.readouterr().out == ""


def test_the_first_of_equals_is_best():
    results = [
        Validation({"k": 1}, [0.5]),
        Validation({"k": 2}, [0.75, 0.5]),
        Validation({"k": 3}, [0.5, 0.75]),
        Validation({"k": 4}, [0.9, 0.0]),
    ]
    assert best(results).settings == {"k": 2}
    with pytest.raises(ValueError, match="no results"):
        best([])


def test_wrong_words_to_cross_validation():
    def build(X, y, **_):
        return Above(0)

    for choices in ([], ["k"], {"k": [1, 3]}):
        with pytest.raises(ValueError, match=r"choices must be settings, such as \[\{\"k\": 1\}"):
            cross_validate(build, LINE, HALVES, choices)
    with pytest.raises(ValueError, match=r"X has 40 rows, so y must be 40 labels, got shape \(39,\)"):
        cross_validate(build, LINE, HALVES[1:], [{}])
    with pytest.raises(ValueError, match="50 folds want at least 50 rows, got 40"):
        cross_validate(build, LINE, HALVES, [{}], folds=50)

    class Wide:
        def predict(self, X):
            return np.zeros((len(X), 2))

    with pytest.raises(ValueError, match=r"one label for each of 8 rows, got shape \(8, 2\)"):
        cross_validate(lambda X, y: Wide(), LINE, HALVES, [{}])


# ---- random search

RANGES = {"lr": log_uniform(1e-6, 1e-1), "reg": uniform(0, 1), "hidden": whole(1, 300), "rule": ["sgd", "adam"]}


def hill(lr, reg, hidden, rule):
    """Its top, 1, is at lr 1e-3, reg 0.3, hidden 100, adam."""
    away = (math.log10(lr) + 3) ** 2 + (4 * (reg - 0.3)) ** 2 + ((hidden - 100) / 75) ** 2
    return 1 - 0.1 * away - 0.2 * (rule == "sgd")


@pytest.mark.parametrize("seed", range(5))
def test_the_search_climbs_a_hill(seed):
    trials = random_search(hill, RANGES, num=40, rounds=4, seed=seed, verbose=False)
    found = trials[0].settings
    assert trials[0].score > 0.96 and found["rule"] == "adam"
    assert abs(math.log10(found["lr"]) + 3) < 0.6
    assert abs(found["reg"] - 0.3) < 0.15 and abs(found["hidden"] - 100) < 45
    assert [t.score for t in trials] == sorted((t.score for t in trials), reverse=True)
    assert sorted(t.round for t in trials) == [r for r in (1, 2, 3, 4) for _ in range(40)]


@pytest.mark.parametrize("seed", range(5))
def test_each_round_is_narrower(seed):
    """Where it matters: a setting that the score does not depend on stays wide."""

    def score(lr, idle):
        return -abs(math.log10(lr) + 3)

    ranges = {"lr": log_uniform(1e-6, 1e-1), "idle": uniform(0, 1)}
    trials = random_search(score, ranges, num=20, rounds=3, seed=seed, verbose=False)
    spread = [np.ptp([math.log10(t.settings["lr"]) for t in trials if t.round == r]) for r in (1, 2, 3)]
    assert spread[0] > 3 and spread[1] < 0.6 * spread[0] and spread[2] < 0.6 * spread[1]
    assert np.ptp([t.settings["idle"] for t in trials if t.round == 2]) > 0.3


def test_a_choice_that_loses_is_dropped():
    trials = random_search(hill, RANGES, num=60, rounds=3, narrow=0.05, verbose=False)
    assert {t.settings["rule"] for t in trials if t.round == 1} == {"sgd", "adam"}
    assert {t.settings["rule"] for t in trials if t.round == 3} == {"adam"}


def test_choices_may_be_anything():
    arrays = [np.zeros(3), np.ones(3), np.full(3, 2.0)]
    trials = random_search(lambda a: a.sum(), {"a": arrays}, num=10, rounds=2, narrow=0.1, verbose=False)
    assert all(t.settings["a"] is arrays[2] for t in trials if t.round == 2)


def test_the_search_stays_in_its_ranges_and_gives_plain_numbers():
    at_the_edge = random_search(
        lambda lr, reg, hidden, rule: lr + reg + hidden, RANGES, num=30, rounds=5, verbose=False
    )
    for trial in at_the_edge:
        s = trial.settings
        assert 1e-6 <= s["lr"] <= 1e-1 and 0 <= s["reg"] <= 1 and 1 <= s["hidden"] <= 300
        assert type(s["lr"]) is float and type(s["reg"]) is float and type(s["hidden"]) is int
        assert type(trial.score) is float
    assert at_the_edge[0].settings["hidden"] >= 295


def test_draws_are_spread_as_the_range_says():
    ranges = {"log": log_uniform(1e-4, 1), "even": uniform(-1, 3), "three": whole(1, 3)}
    trials = random_search(lambda **_: 0, ranges, num=2000, rounds=1, verbose=False)
    log, even, three = (np.array([t.settings[k] for t in trials]) for k in ranges)
    assert abs((log < 1e-2).mean() - 0.5) < 0.05 and abs((even < 1).mean() - 0.5) < 0.05
    assert {int(k): abs((three == k).mean() - 1 / 3) < 0.05 for k in three} == {1: True, 2: True, 3: True}


def test_the_seed_decides_what_is_drawn():
    def restless(**settings):
        np.random.seed(0)
        return hill(**settings)

    runs = [random_search(f, RANGES, seed=s, verbose=False) for f, s in ((hill, 3), (restless, 3), (hill, 4))]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("worst", [math.nan, -math.inf])
def test_what_diverges_is_last_and_leads_nowhere(worst):
    trials = random_search(
        lambda lr: worst if lr > 1e-4 else -lr, {"lr": log_uniform(1e-6, 1)}, num=20, rounds=2, verbose=False
    )
    bad = [t.settings["lr"] > 1e-4 for t in trials]
    assert any(bad) and bad == sorted(bad)
    assert not any(t.settings["lr"] > 1e-3 for t in trials if t.round == 2)
    scores = iter([worst] * 7 + [0.5] + [worst] * 32)
    one = random_search(lambda lr: next(scores), {"lr": log_uniform(1e-6, 1)}, num=20, rounds=2, verbose=False)
    away = [abs(math.log10(t.settings["lr"] / one[0].settings["lr"])) for t in one if t.round == 2]
    assert 0.1 < max(away) < 0.31  # 5% of six decades on either side of the only one that worked
    nothing = random_search(lambda lr: worst, {"lr": log_uniform(1e-6, 1)}, num=20, rounds=2, verbose=False)
    assert np.ptp([math.log10(t.settings["lr"]) for t in nothing if t.round == 2]) > 3


def test_the_printed_lines_of_a_search(capsys):
    trials = random_search(
        lambda lr, hidden, rule: 0.412,
        {"lr": log_uniform(1e-3, 1e-2), "hidden": whole(50, 60), "rule": ["adam"]},
        num=3,
        rounds=2,
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    first = next(t for t in trials if t.round == 1)
    assert first == Trial(0.412, first.settings, 1)
    lr, hidden = first.settings["lr"], first.settings["hidden"]
    assert lines[0] == f"(round 1, 1 / 3) val_acc: 0.412000  lr {lr:.1e}  hidden {hidden}  rule adam"
    assert lines[5].startswith("(round 2, 3 / 3) val_acc: 0.412000  lr ")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: log_uniform(0, 1), r"log_uniform\(low, high\) wants low > 0, got 0; take uniform"),
        (lambda: log_uniform(-2, -1), "wants low > 0"),
        (lambda: log_uniform(1, 1e-3), r"wants low < high, got 1 and 0.001"),
        (lambda: uniform(1, 1), "wants low < high"),
        (lambda: uniform(0, math.inf), r"uniform\(low, high\) wants finite numbers, got inf"),
        (lambda: uniform(math.nan, 1), "wants finite numbers, got nan"),
        (lambda: uniform("0", 1), "wants finite numbers, got '0'"),
        (lambda: whole(1.0, 5), r"whole\(low, high\) wants whole numbers, got 1.0"),
        (lambda: whole(7, 5), "wants low < high, got 7 and 5"),
        (lambda: random_search(hill, {}), "ranges is empty"),
        (lambda: random_search(hill, {"lr": []}), "lr has no choices; give at least one"),
        (lambda: random_search(hill, RANGES, num=0), "num must be a whole number of at least 1, got 0"),
        (lambda: random_search(hill, RANGES, rounds=1.5), "rounds must be a whole number of at least 1, got 1.5"),
        (lambda: random_search(hill, RANGES, narrow=0), "narrow must be more than 0 and at most 1, got 0"),
    ],
)
def test_impossible_ranges(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_what_is_no_range_and_what_is_no_score():
    with pytest.raises(TypeError, match=r"the range of lr must be log_uniform\(low, high\), .* got 0.1"):
        random_search(hill, {"lr": 0.1})
    with pytest.raises(TypeError, match="evaluate must return a number, higher is better, got None"):
        random_search(lambda lr: None, {"lr": [1]})


# ---- pictures in a grid


def test_where_the_pictures_of_a_grid_lie():
    pictures = R.uniform(-5, 9, (5, 2, 3, 3))
    given = pictures.copy()
    grid = visualize_grid(pictures)
    assert grid.shape == (3 * 2 + 2, 3 * 3 + 2, 3) and grid.dtype == np.float64
    expected = np.zeros(grid.shape)
    for k, picture in enumerate(pictures):
        top, left = k // 3 * 3, k % 3 * 4
        low, high = picture.min(), picture.max()
        expected[top : top + 2, left : left + 3] = 255 * (picture - low) / (high - low)
    np.testing.assert_allclose(grid, expected)
    np.testing.assert_array_equal(pictures, given)


def test_a_grid_of_grey_pictures_and_of_one():
    ramp = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    np.testing.assert_allclose(visualize_grid(ramp, ubound=1), ramp[0] / 5)
    np.testing.assert_allclose(visualize_grid(ramp[..., None])[..., 0], ramp[0] * 51.0)


def test_a_constant_picture_is_black_and_gaps_are_as_wide_as_asked():
    pictures = np.stack([np.full((2, 2), 7.0), np.array([[0.0, 1], [2, 4]])])
    np.testing.assert_array_equal(
        visualize_grid(pictures, ubound=4, padding=2)[:2], [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 2, 4]]
    )
    assert visualize_grid(pictures, padding=0).shape == (4, 4)
    assert visualize_grid(np.repeat(pictures, 8, 0), padding=3).shape == (4 * 2 + 9, 4 * 2 + 9)


@pytest.mark.parametrize("shape", [(3, 3), (0, 2, 2, 3), (2, 2, 2, 2, 2)])
def test_a_grid_needs_pictures(shape):
    with pytest.raises(ValueError, match=r"visualize_grid wants pictures \(N, H, W, C\) or \(N, H, W\)"):
        visualize_grid(np.zeros(shape))


@pytest.mark.parametrize("padding", [-1, 0.5])
def test_a_gap_is_whole(padding):
    with pytest.raises(ValueError, match="padding must be a whole number of at least 0"):
        visualize_grid(np.zeros((1, 2, 2)), padding=padding)
