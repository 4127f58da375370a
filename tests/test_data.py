"""The data that come with nbnn: right sizes, right numbers, repeatable, and as hard as they say."""

import hashlib
import math
import pathlib
import time

import numpy as np
import pytest

import nbnn
from nbnn.data import digits, synthetic

PARTS = ("train", "val", "test")
KEYS = {f"{letter}_{part}" for letter in "Xy" for part in PARTS}


def whole(data, letter):
    """The three parts as one array."""
    return np.concatenate([data[f"{letter}_{part}"] for part in PARTS])


def test_digits_file_holds_the_uci_numbers_and_no_pickle():
    folder = pathlib.Path(nbnn.__file__).parent
    with np.load(folder / "digits.npz", allow_pickle=False) as file:
        assert set(file.files) == {"images", "labels"}
        images, labels = file["images"], file["labels"]
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((1797, 8, 8), np.uint8, (1797,), np.uint8)
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # as UCI lists its test part
    # taken from scikit-learn 1.9.1's load_digits when the file was made
    expected = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() == expected
    licence = (folder / "digits-LICENSE.txt").read_text(encoding="utf-8")
    for due in (
        "E. Alpaydin",
        "C. Kaynak",
        "UCI",
        "CC BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "Changes:",
    ):
        assert due in licence


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_sizes_dtypes_and_range(dtype):
    data = digits(dtype=dtype)
    assert set(data) == KEYS
    for part, count in zip(PARTS, (1300, 200, 297), strict=True):
        x, y = data[f"X_{part}"], data[f"y_{part}"]
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((count, 1, 8, 8), np.dtype(dtype), (count,), np.int64)
        assert x.flags.c_contiguous
        assert set(np.unique(y)) == set(range(10))
        assert (x.min(), x.max()) == (0, 1)
        assert np.array_equal(x * 16, np.round(x * 16))


def test_digits_parts_share_no_picture_and_lose_none():
    data = digits(num_validation=301, num_test=77, seed=5)
    assert [len(data[f"y_{part}"]) for part in PARTS] == [1419, 301, 77]
    with np.load(pathlib.Path(nbnn.__file__).with_name("digits.npz"), allow_pickle=False) as file:
        source = np.column_stack([file["images"].reshape(1797, 64), file["labels"]])
    ours = np.column_stack([whole(data, "X").reshape(1797, 64) * 16, whole(data, "y")]).astype(np.uint8)
    assert len(np.unique(source, axis=0)) == 1797  # no picture comes twice, so equal rows mean equal pictures
    assert np.array_equal(np.unique(ours, axis=0), np.unique(source, axis=0))


def test_digits_seed_decides_the_split():
    first, again, other = digits(seed=1), digits(seed=1), digits(seed=2)
    assert all(np.array_equal(first[key], again[key]) for key in KEYS)
    assert all(not np.array_equal(first[key], other[key]) for key in KEYS)
    assert not np.array_equal(whole(digits(seed=0), "y"), whole(first, "y"))


def test_digits_test_part_does_not_depend_on_the_validation_part():
    some, more = digits(num_validation=10), digits(num_validation=900)
    assert np.array_equal(some["X_test"], more["X_test"])
    assert np.array_equal(some["y_test"], more["y_test"])


def test_digits_can_be_split_without_validation_or_test():
    data = digits(num_validation=0, num_test=0)
    assert [data[f"X_{part}"].shape for part in PARTS] == [(1797, 1, 8, 8), (0, 1, 8, 8), (0, 1, 8, 8)]
    assert len(digits(num_validation=1000, num_test=796)["y_train"]) == 1


DIGITS_ERRORS = [
    (
        {"num_validation": 1500},
        "digits: 1500 validation and 297 test pictures leave none of the 1797 to train on; ask for at most 1796 "
        "together",
    ),
    ({"num_validation": -1}, "digits: num_validation must be a whole number from 0 up, got -1"),
    ({"num_test": 2.5}, "digits: num_test must be a whole number from 0 up, got 2.5"),
    ({"dtype": "int8"}, 'digits: dtype must be "float32" or "float64", got \'int8\''),
]


@pytest.mark.parametrize(("options", "sentence"), DIGITS_ERRORS)
def test_digits_errors(options, sentence):
    with pytest.raises(ValueError) as error:
        digits(**options)
    assert str(error.value) == sentence


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_synthetic_sizes_dtypes_and_range(dtype):
    data = synthetic(num_train=300, num_val=70, num_test=130, shape=(2, 9, 12), classes=4, dtype=dtype)
    assert set(data) == KEYS | {"best_accuracy"}
    for part, count in zip(PARTS, (300, 70, 130), strict=True):
        x, y = data[f"X_{part}"], data[f"y_{part}"]
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((count, 2, 9, 12), np.dtype(dtype), (count,), np.int64)
        assert x.flags.c_contiguous
        assert np.isfinite(x).all()
        assert set(np.unique(y)) == set(range(4))


def test_synthetic_default_is_ready_for_a_net():
    data = synthetic()
    assert [data[f"X_{part}"].shape for part in PARTS] == [(2000, 3, 32, 32), (500, 3, 32, 32), (500, 3, 32, 32)]
    assert abs(data["X_train"].mean()) < 0.05
    assert 0.9 < data["X_train"].std() < 1.3


def test_synthetic_is_repeatable_and_the_seed_matters():
    options = {"num_train": 50, "num_val": 20, "num_test": 30, "shape": (1, 8, 8)}
    first, again, other = (synthetic(seed=seed, **options) for seed in (3, 3, 4))
    assert all(np.array_equal(first[key], again[key]) for key in KEYS)
    assert all(not np.array_equal(first[key], other[key]) for key in KEYS)
    double = synthetic(seed=3, dtype="float64", **options)
    assert all(np.array_equal(first[key], double[key]) for key in KEYS)


def test_synthetic_parts_share_no_picture():
    pictures = whole(synthetic(num_train=300, num_val=100, num_test=100, shape=(1, 6, 6)), "X")
    assert len(np.unique(pictures.reshape(500, -1), axis=0)) == 500


@pytest.mark.parametrize(("classes", "label_noise"), [(10, 0.1), (10, 0.6), (2, 0.3), (3, 0.0)])
def test_best_accuracy_is_what_the_labels_allow(classes, label_noise):
    options = {"num_train": 12000, "num_val": 4000, "num_test": 4000, "shape": (3, 2, 2), "classes": classes}
    noisy = synthetic(label_noise=label_noise, **options)
    clean = synthetic(label_noise=0, **options)
    assert clean["best_accuracy"] == 1
    assert noisy["best_accuracy"] == 1 - label_noise
    assert np.array_equal(whole(noisy, "X"), whole(clean, "X"))  # so the clean labels are the truth about the noisy set
    for part in PARTS:
        kept = noisy[f"y_{part}"] == clean[f"y_{part}"]
        deviation = math.sqrt(label_noise * (1 - label_noise) / kept.size)
        assert abs(kept.mean() - noisy["best_accuracy"]) <= 4 * deviation
    truth, told = whole(clean, "y"), whole(noisy, "y")
    moves = np.bincount((told - truth) % classes, minlength=classes)[1:] / truth.size
    expected = label_noise / (classes - 1)
    assert np.abs(moves - expected).max() <= 4.5 * math.sqrt(
        expected / truth.size
    )  # the other classes come equally often
    assert np.abs(np.bincount(truth) / truth.size - 1 / classes).max() < 0.02


def nearest_class(pictures, templates):
    """The class whose template fits best after the best move round; brightness and contrast do not count."""
    flat = pictures - pictures.mean(axis=(1, 2, 3), keepdims=True)
    known = templates - templates.mean(axis=(1, 2, 3), keepdims=True)
    known = known / np.sqrt(np.square(known).sum(axis=(1, 2, 3), keepdims=True))
    products = np.einsum("nchw,kchw->nkhw", np.fft.rfft2(flat), np.fft.rfft2(known).conj())
    return np.fft.irfft2(products, s=pictures.shape[2:]).max(axis=(2, 3)).argmax(axis=1)


SEPARABLE = [
    pytest.param({}, id="the default"),
    pytest.param({"shape": (1, 8, 8)}, id="as small as the digits"),
    pytest.param({"shape": (3, 5, 7), "classes": 20}, id="odd sides, more classes"),
    pytest.param({"shape": (1, 28, 28), "noise": 4.0}, id="noise far above the pictures"),
    pytest.param({"shape": (1, 4, 4), "classes": 6, "noise": 3.0}, id="tiny and noisy"),
    pytest.param({"shape": (12, 1, 1), "classes": 4}, id="one pixel of many channels"),
]


def noisy_and_templates(**options):
    """Pictures, their clean labels, and one noise-free picture of each class: its template, but for a move."""
    shared = {"num_train": 400, "num_val": 0, "num_test": 0, "label_noise": 0.0, **options}
    data, plain = synthetic(**shared), synthetic(**{**shared, "noise": 0.0})
    assert np.array_equal(data["y_train"], plain["y_train"])
    first = np.unique(plain["y_train"], return_index=True)[1]
    return data["X_train"], data["y_train"], plain["X_train"][first]


@pytest.mark.parametrize("options", SEPARABLE)
@pytest.mark.parametrize("seed", [0, 1])
def test_nearest_template_recovers_every_clean_label(options, seed):
    pictures, labels, templates = noisy_and_templates(seed=seed, **options)
    assert np.array_equal(nearest_class(pictures, templates), labels)


def test_nearest_template_misses_when_the_noise_is_more_than_promised():
    pictures, labels, templates = noisy_and_templates(shape=(1, 8, 8))
    drowned = pictures + np.random.default_rng(0).normal(0, 8, pictures.shape)
    assert 0.1 < (nearest_class(drowned, templates) == labels).mean() < 0.9


def test_pictures_of_a_class_differ_by_a_move_contrast_and_brightness():
    data = synthetic(num_train=400, label_noise=0, noise=0, shape=(1, 16, 16), classes=2)
    pictures = data["X_train"][data["y_train"] == 0]
    brightness, contrast = pictures.mean(axis=(1, 2, 3)), pictures.std(axis=(1, 2, 3))
    assert -0.25 <= brightness.min() < -0.2
    assert 0.2 < brightness.max() <= 0.25
    assert 0.749 <= contrast.min() < 0.8
    assert 1.2 < contrast.max() <= 1.251
    plain = (pictures - brightness[:, None, None, None]) / contrast[:, None, None, None]
    moves = [(down, right) for down in range(-4, 5) for right in range(-4, 5)]
    shifted = np.stack([np.roll(plain[0], move, axis=(1, 2)) for move in moves])
    misfit = np.abs(plain[:, None] - shifted).max(axis=(2, 3, 4))
    assert misfit.min(axis=1).max() < 1e-4  # every picture is the first one, moved
    assert len(np.unique(misfit.argmin(axis=1))) == 25  # by up to 2 of 16 each way


def test_templates_are_smooth():
    picture = synthetic(num_train=1, num_val=0, num_test=0, noise=0)["X_train"][0]
    assert np.square(picture - np.roll(picture, 1, axis=2)).mean() < 0.25 * picture.var()


def seconds(work):
    """The best of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def test_making_pictures_costs_little_more_than_their_noise():
    """It takes about twice as long; a loop in Python over rows or pixels takes fifty times as long."""
    noise = seconds(lambda: np.random.default_rng(0).standard_normal((2000, 3, 32, 32), dtype=np.float32))
    assert seconds(lambda: synthetic(num_train=1000)) < 8 * noise


SYNTHETIC_ERRORS = [
    ({"num_train": 0}, "synthetic: num_train must be a whole number from 1 up, got 0"),
    ({"num_val": -3}, "synthetic: num_val must be a whole number from 0 up, got -3"),
    ({"num_test": "5"}, "synthetic: num_test must be a whole number from 0 up, got '5'"),
    ({"classes": 1}, "synthetic: classes must be a whole number from 2 up, got 1"),
    ({"shape": (32, 32)}, "synthetic: shape must be (channels, height, width), got (32, 32)"),
    ({"shape": (3, 0, 32)}, "synthetic: the height of shape must be a whole number from 1 up, got 0"),
    ({"noise": -0.5}, "synthetic: noise must be a number from 0 up, got -0.5"),
    ({"noise": math.nan}, "synthetic: noise must be a number from 0 up, got nan"),
    ({"noise": math.inf}, "synthetic: noise must be a number from 0 up, got inf"),
    (
        {"label_noise": 0.9},
        "synthetic: with 10 classes label_noise must be from 0 to below 0.9, got 0.9; from there on a label says "
        "nothing about its picture",
    ),
    (
        {"label_noise": -0.1, "classes": 3},
        "synthetic: with 3 classes label_noise must be from 0 to below 0.6667, got -0.1; from there on a label says "
        "nothing about its picture",
    ),
    (
        {"shape": (1, 1, 1)},
        "synthetic: pictures of 1x1x1 are too small for 10 classes that can be told apart; make them larger, ask for "
        "fewer classes, or try another seed",
    ),
    ({"dtype": "float16"}, 'synthetic: dtype must be "float32" or "float64", got \'float16\''),
]


@pytest.mark.parametrize(("options", "sentence"), SYNTHETIC_ERRORS)
def test_synthetic_errors(options, sentence):
    with pytest.raises(ValueError) as error:
        synthetic(**options)
    assert str(error.value) == sentence
