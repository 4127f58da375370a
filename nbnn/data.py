"""Data to train on: at once and without a download real digits, and made pictures whose best accuracy is known; and the
public picture sets from a folder of yours (`nbnn.readers`) or downloaded (`nbnn.fetch`):

    data.cifar10("folder")
    data.mnist(data.fetch("mnist"))
"""

import math
import pathlib
from typing import Any

import numpy as np

from nbnn.fetch import fetch
from nbnn.readers import cifar10, cifar100, fashion_mnist, mnist

__all__ = ["cifar10", "cifar100", "digits", "fashion_mnist", "fetch", "mnist", "synthetic"]

_CONTRAST = (0.75, 1.25)  # each made picture's template is multiplied by a number from this range,
_BRIGHTNESS = 0.25  # and a number of at most this size is added to the whole picture
_SMOOTHNESS = 2.0  # waves across a picture at which a template's spectrum has faded to 0.6
_MARGIN = 8.0  # standard deviations of noise from a template to the border of its class: a miss has a chance of 1e-15
_LEAST_GAP = 0.02  # templates closer than this (mean square, each has 1) are the same picture to the eye


def digits(
    *, num_validation: int = 200, num_test: int = 297, seed: int = 0, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """The 1797 handwritten digits of 8x8 pixels that come with nbnn, split at random: real data that train in seconds.

    Returns X_train, y_train, X_val, y_val, X_test and y_test; pictures are (N, 1, 8, 8) from 0 to 1, labels int64. The
    test pictures depend on `seed` and `num_test` alone: a change of `num_validation` never leaks them into training.
    The data are by E. Alpaydin and C. Kaynak, CC BY 4.0: see digits-LICENSE.txt.

    >>> digits()["X_train"].shape
    (1300, 1, 8, 8)
    """
    _check_dtype("digits", dtype)
    _check_count("digits", "num_validation", num_validation, least=0)
    _check_count("digits", "num_test", num_test, least=0)
    with np.load(pathlib.Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    if num_validation + num_test >= len(images):
        raise ValueError(
            f"digits: {num_validation} validation and {num_test} test pictures leave none of the {len(images)} to "
            f"train on; ask for at most {len(images) - 1} together"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    x = images[order, None].astype(dtype) / 16
    return _split(x, labels[order].astype(np.int64), num_validation, num_test)


def synthetic(
    *,
    num_train: int = 2000,
    num_val: int = 500,
    num_test: int = 500,
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    label_noise: float = 0.1,
    noise: float = 0.5,
    seed: int = 0,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Pictures of any size made from a seed, whose best accuracy is known, so that a net's score can be judged.

    A picture is its class's smooth random template of (C, H, W), moved round by up to an eighth of each side, with its
    own contrast and brightness, plus `noise` times a standard normal number in every pixel. A template varies by 1
    (root mean square), or by more where it takes that to stand out from the noise, so the classes never overlap. Then
    each label, in all three parts, is replaced with probability `label_noise` by one of the other classes. Hence no net
    can expect more than "best_accuracy", 1 - label_noise. The pictures do not depend on `label_noise` or on `dtype`.

    Returns the keys of `digits` and "best_accuracy".

    >>> synthetic(num_train=100, label_noise=0.2)["best_accuracy"]
    0.8
    """
    _check_dtype("synthetic", dtype)
    _check_count("synthetic", "num_train", num_train, least=1)
    _check_count("synthetic", "num_val", num_val, least=0)
    _check_count("synthetic", "num_test", num_test, least=0)
    _check_count("synthetic", "classes", classes, least=2)
    if len(shape) != 3:
        raise ValueError(f"synthetic: shape must be (channels, height, width), got {tuple(shape)}")
    for name, side in zip(("channels", "height", "width"), shape, strict=True):
        _check_count("synthetic", f"the {name} of shape", side, least=1)
    if not 0 <= noise < math.inf:
        raise ValueError(f"synthetic: noise must be a number from 0 up, got {noise}")
    if not 0 <= label_noise < (classes - 1) / classes:
        raise ValueError(
            f"synthetic: with {classes} classes label_noise must be from 0 to below {(classes - 1) / classes:.4g}, got "
            f"{label_noise}; from there on a label says nothing about its picture"
        )
    rng = np.random.default_rng(seed)
    templates = _templates(rng, classes, shape, noise)
    num = num_train + num_val + num_test
    clean = rng.integers(classes, size=num)
    wrong = (clean + rng.integers(1, classes, size=num)) % classes
    y = np.where(rng.random(num) < label_noise, wrong, clean)
    x = _moved(rng, templates, clean)
    x *= rng.uniform(*_CONTRAST, size=(num, 1, 1, 1)).astype(x.dtype)
    x += rng.uniform(-_BRIGHTNESS, _BRIGHTNESS, size=(num, 1, 1, 1)).astype(x.dtype)
    pixels = rng.standard_normal(x.shape, dtype=x.dtype)
    pixels *= noise
    x += pixels
    return {**_split(x.astype(dtype, copy=False), y, num_val, num_test), "best_accuracy": 1 - label_noise}


def _templates(rng: np.random.Generator, classes: int, shape: tuple[int, int, int], noise: float) -> np.ndarray:
    """One smooth picture per class with mean 0, in float32, strong enough that noise cannot take one for another.

    White noise is smoothed through its spectrum, so a template has no seam where a move wraps it round.
    """
    height, width = shape[1:]
    waves = np.hypot(np.fft.fftfreq(height, 1 / height)[:, None], np.fft.rfftfreq(width, 1 / width))
    spectrum = np.fft.rfft2(rng.standard_normal((classes, *shape))) * np.exp(-((waves / _SMOOTHNESS) ** 2) / 2)
    templates = np.fft.irfft2(spectrum, s=(height, width))
    templates -= templates.mean(axis=(1, 2, 3), keepdims=True)
    power = np.square(templates).mean(axis=(1, 2, 3), keepdims=True)
    templates /= np.sqrt(np.maximum(power, np.finfo(power.dtype).tiny))
    gap = _smallest_gap(templates)
    if gap < _LEAST_GAP:
        raise ValueError(
            f"synthetic: pictures of {'x'.join(map(str, shape))} are too small for {classes} classes that can be told "
            f"apart; make them larger, ask for fewer classes, or try another seed"
        )
    half_way = min(_CONTRAST) * math.sqrt(gap * templates[0].size) / 2
    strength = max(1.0, _MARGIN * noise / half_way)
    return (strength * templates).astype(np.float32)


def _smallest_gap(templates: np.ndarray) -> float:
    """The least mean square difference between templates of two classes, over all moves of one against the other."""
    spectrum = np.fft.rfft2(templates)
    power = np.square(templates).mean(axis=(1, 2, 3))
    gaps = []
    for k in range(len(templates) - 1):
        product = (spectrum[k].conj() * spectrum[k + 1 :]).sum(axis=1)
        match = np.fft.irfft2(product, s=templates.shape[2:]).max(axis=(1, 2)) / templates[k].size
        gaps.append((power[k] + power[k + 1 :] - 2 * match).min())
    return float(min(gaps))


def _moved(rng: np.random.Generator, templates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The template of every label, each moved round by its own random number of rows and columns."""
    channels, height, width = templates.shape[1:]
    down = rng.integers(-max(1, height // 8), max(1, height // 8) + 1, size=(len(labels), 1))
    right = rng.integers(-max(1, width // 8), max(1, width // 8) + 1, size=(len(labels), 1))
    rows = ((np.arange(height) - down) % height)[:, None, :, None]
    columns = ((np.arange(width) - right) % width)[:, None, None, :]
    moved: np.ndarray = templates[labels[:, None, None, None], np.arange(channels)[:, None, None], rows, columns]
    return moved


def _split(x: np.ndarray, y: np.ndarray, num_val: int, num_test: int) -> dict[str, np.ndarray]:
    """The three parts, as views; the test part is cut off first, so it does not depend on the size of the others."""
    cuts = [num_test, num_test + num_val]
    parts = zip(("test", "val", "train"), np.split(x, cuts), np.split(y, cuts), strict=True)
    return {f"{letter}_{part}": array for part, xs, ys in parts for letter, array in (("X", xs), ("y", ys))}


def _check_count(who: str, name: str, value: int, *, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{who}: {name} must be a whole number from {least} up, got {value!r}")


def _check_dtype(who: str, dtype: str) -> None:
    if dtype not in ("float32", "float64"):
        raise ValueError(f'{who}: dtype must be "float32" or "float64", got {dtype!r}')
