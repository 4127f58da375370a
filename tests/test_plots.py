"""The PNG files: well formed, of the right size, and showing the numbers that they were given."""

import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from nbnn import plots
from nbnn.plots import curves, filters

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def history(steps=400, epochs=5, **changes):
    losses = 0.3 + 2 * np.exp(-np.arange(steps) / 100) + np.random.default_rng(0).normal(0, 0.1, steps)
    train = [0.1, 0.4, 0.6, 0.7, 0.75, 0.78][: epochs + 1]
    lists = {"loss_history": losses.tolist(), "train_acc_history": train, "val_acc_history": [0.9 * a for a in train]}
    return SimpleNamespace(**{**lists, **changes})


def pixels(path):
    """The picture as whole numbers (height, width, 3), after a look at the file's first bytes."""
    start = path.read_bytes()[:24]
    assert start[:8] == SIGNATURE
    shown = np.round(image.imread(path)[..., :3] * 255).astype(int)
    assert shown.shape[:2] == (int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big"))
    return shown


def count(shown, colour):
    """How many pixels have this colour, to within the rounding of one."""
    return int((np.abs(shown - np.array(colour)).max(axis=-1) <= 1).sum())


def rgb(text):
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is saved, as an object: its words are easier to read there than in pixels."""
    figures = []
    save = Figure.savefig

    def spy(self, *args, **options):
        figures.append(self)
        return save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_curves_writes_a_png_and_returns_its_path(tmp_path, kind):
    path = curves(history(), kind(tmp_path / "curves.png"))
    assert path == tmp_path / "curves.png"
    assert isinstance(path, pathlib.Path)
    shown = pixels(path)
    assert shown.shape == (570, 1440, 3)
    assert 0.02 < (shown.min(axis=-1) < 250).mean() < 0.3  # ink, and mostly paper


def test_curves_labels_say_what_is_drawn(tmp_path, drawn):
    curves(history(steps=400), tmp_path / "curves.png")
    left, right = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["Loss", "Accuracy"]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in (left, right)] == [
        ("iteration", "loss"),
        ("epoch", "accuracy"),
    ]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["each iteration", "running mean of 41"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["train", "validation"]


def test_curves_lines_hold_the_history(tmp_path, drawn):
    given = history(steps=400)
    curves(given, tmp_path / "curves.png")
    (dots, mean), (train, validation) = (axes.lines for axes in drawn[0].axes)
    assert dots.get_xdata().tolist() == list(range(1, 401))
    assert dots.get_ydata().tolist() == given.loss_history
    assert np.std(np.diff(mean.get_ydata())) < 0.1 * np.std(np.diff(given.loss_history))
    assert list(train.get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert list(train.get_ydata()) == given.train_acc_history
    assert list(validation.get_ydata()) == given.val_acc_history


def test_curves_change_only_where_the_history_changes(tmp_path):
    base = history()
    shown = pixels(curves(base, tmp_path / "base.png"))
    middle = shown.shape[1] // 2
    losses = [*base.loss_history[:200], *base.loss_history[:199:-1]]
    other = pixels(curves(history(loss_history=losses), tmp_path / "loss.png"))
    assert (other[:, :middle] != shown[:, :middle]).any()
    assert np.array_equal(other[:, middle:], shown[:, middle:])
    accuracies = [*base.val_acc_history[:2], 0.3, *base.val_acc_history[3:]]
    other = pixels(curves(history(val_acc_history=accuracies), tmp_path / "accuracy.png"))
    assert np.array_equal(other[:, :middle], shown[:, :middle])
    assert (other[:, middle:] != shown[:, middle:]).any()


def test_curves_show_every_line_in_its_colour(tmp_path):
    shown = pixels(curves(history(), tmp_path / "all.png"))
    middle = shown.shape[1] // 2
    assert count(shown[:, :middle], rgb(plots._LOSS)) > 500
    assert count(shown[:, middle:], rgb(plots._TRAIN)) > 500
    assert count(shown[:, middle:], rgb(plots._VALIDATION)) > 500
    without = pixels(curves(history(val_acc_history=[]), tmp_path / "without.png"))
    assert count(without, rgb(plots._VALIDATION)) == 0
    assert count(without, rgb(plots._TRAIN)) > 500


@pytest.mark.parametrize(
    "given",
    [
        history(steps=1, epochs=0),
        history(train_acc_history=[], val_acc_history=[]),
        history(loss_history=[np.nan, np.inf, -np.inf]),
        history(loss_history=[2.0] * 50 + [np.nan] * 50),
    ],
    ids=["one step", "no accuracies", "nothing finite", "diverged half-way"],
)
@pytest.mark.filterwarnings("error")
def test_curves_draws_odd_histories_without_a_warning(tmp_path, drawn, given):
    pixels(curves(given, tmp_path / "odd.png"))
    low, high = drawn[0].axes[0].get_xlim()
    assert low < 1
    assert high > len(given.loss_history)


def test_running_mean_equals_its_definition():
    losses = np.random.default_rng(1).normal(size=57)
    losses[[3, 20, 21]] = np.nan, np.inf, np.nan
    expected = np.full(57, np.nan)
    for i in np.flatnonzero(np.isfinite(losses)):
        near = losses[max(i - 4, 0) : i + 5]
        expected[i] = near[np.isfinite(near)].mean()
    np.testing.assert_allclose(plots._running_mean(losses, 4), expected, rtol=1e-12, atol=1e-14)


def test_curves_refuses_an_empty_history(tmp_path):
    with pytest.raises(ValueError) as error:
        curves(history(loss_history=[]), tmp_path / "none.png")
    assert str(error.value) == "curves: loss_history is empty, so there is nothing to draw; train first"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_filters_writes_a_png_and_returns_its_path(tmp_path, kind):
    w = np.random.default_rng(0).normal(size=(32, 3, 5, 5)).astype(np.float32)
    path = filters(w, kind(tmp_path / "filters.png"))
    assert path == tmp_path / "filters.png"
    assert isinstance(path, pathlib.Path)
    shown = pixels(path)
    assert shown.shape == (6 * 106 + 44, 642, 3)  # 6 x 6 places of 100 and 6 between, and 44 for the title
    assert (shown.min(axis=-1) < 250).mean() > 0.5
    assert (shown[:40].min(axis=-1) < 128).sum() > 200  # the title


def test_filters_title_names_the_sizes(tmp_path, drawn):
    filters(np.ones((7, 4, 3, 5)), tmp_path / "filters.png")
    assert [text.get_text() for text in drawn[0].texts] == [
        "First-layer filters: 7 of 4x3x5, each scaled to its own range"
    ]


def test_filters_in_colour_show_each_weight_at_its_place_and_scale(tmp_path):
    w = np.arange(12.0).reshape(1, 3, 2, 2)
    shown = pixels(filters(np.concatenate([w, -5 + 1000 * w, -w]), tmp_path / "filters.png"))
    scaled = np.round(w[0].transpose(1, 2, 0) / 11 * 255)
    for colour in scaled.reshape(4, 3):
        assert count(shown, colour) == 2 * 48 * 48  # the first two filters differ by a scale alone
        assert count(shown, 255 - colour) == 48 * 48  # the third is their negative
    top, left = 44, (640 - (2 * 96 + 6)) // 2
    corners = shown[top + 24 : top + 96 : 48, left + 24 : left + 96 : 48]
    assert np.abs(corners - scaled).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_filters_of_other_depths_are_the_grey_mean_of_three_channels(tmp_path, channels):
    w = np.random.default_rng(channels).normal(size=(1, channels, 2, 3))
    shown = pixels(filters(w, tmp_path / "filters.png"))
    mean = w[0, :3].mean(axis=0)
    grey = np.round((mean - mean.min()) / (mean.max() - mean.min()) * 255)
    top, left = 44, (640 - 96) // 2
    assert np.abs(shown[top + 16 : top + 64 : 32, left + 16 : left + 96 : 32] - grey[..., None]).max() <= 1


@pytest.mark.filterwarnings("error")
def test_a_filter_of_one_value_is_mid_grey(tmp_path):
    shown = pixels(filters(np.full((1, 3, 4, 4), 7.0), tmp_path / "filters.png"))
    assert count(shown, (127, 127, 127)) >= 96 * 96


@pytest.mark.parametrize(
    ("w", "sentence"),
    [
        (
            np.ones((3, 5, 5)),
            "filters: w must be (filters, channels, height, width), none of them 0, got shape (3, 5, 5)",
        ),
        (
            np.ones((0, 3, 5, 5)),
            "filters: w must be (filters, channels, height, width), none of them 0, got shape (0, 3, 5, 5)",
        ),
        (
            np.full((1, 1, 2, 2), np.nan),
            "filters: w holds NaN or infinity, so it has no range to scale to; the training has diverged",
        ),
    ],
    ids=["three axes", "no filters", "nan"],
)
def test_filters_errors(tmp_path, w, sentence):
    with pytest.raises(ValueError) as error:
        filters(w, tmp_path / "none.png")
    assert str(error.value) == sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "draw", [lambda path: curves(history(), path), lambda path: filters(np.eye(2)[None, None], path)]
)
def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch, draw):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as error:
        draw(tmp_path / "none.png")
    assert str(error.value) == 'plots need matplotlib: pip install "nbnn[plots]"'


def test_matplotlib_comes_late_and_pyplot_never(tmp_path):
    program = (
        "import sys\n"
        "from nbnn import plots\n"
        "assert 'matplotlib' not in sys.modules, 'too early'\n"
        f"plots.filters([[[[1.0, 2.0]]]], {str(tmp_path / 'filters.png')!r})\n"
        "assert 'matplotlib' in sys.modules, 'not at all'\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    pixels(tmp_path / "filters.png")


# ---- confusion and lines


def test_confusion_counts_every_pair(tmp_path, drawn):
    path = plots.confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2], tmp_path / "confusion.png", ["a", "b", "c"])
    assert (pixels(path).min(axis=-1) < 250).mean() > 0.02
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["1", "1", "0", "0", "1", "0", "1", "0", "2"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.5, 0.5, 0], [0, 1, 0], [1 / 3, 0, 2 / 3]])
    assert axes.get_title(loc="left") == "Right: 66.7%"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]


def test_lines_draw_each_series_under_its_name(tmp_path, drawn):
    series = {"one": ([1, 10, 100], [0.1, 0.2, 0.3]), "two": ([1, 100], [0.3, 0.2])}
    path = plots.lines(series, tmp_path / "lines.png", title="T", x="rate", y="accuracy", log="x")
    assert pixels(path).shape == (600, 960, 3)
    (axes,) = drawn[0].axes
    for line, (name, (places, values)) in zip(axes.lines, series.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([places, values]))
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "linear", "rate")


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda path: plots.lines({}, path, title="", x="", y=""), "lines: there is no line to draw"),
        (
            lambda path: plots.confusion([0, 1], [0], path),
            "confusion: it wants two lists of classes of one length, got shapes (2,) and (1,)",
        ),
        (lambda path: plots.confusion([0, 2], [0, 1], path, ["a", "b"]), "confusion: there are 3 classes, but 2 names"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, draw, sentence):
    with pytest.raises(ValueError) as caught:
        draw(tmp_path / "x.png")
    assert str(caught.value) == sentence
