"""Features of pictures: known pictures, the published rules written out pixel by pixel, and Python's own hues."""

import colorsys
import math

import numpy as np
import pytest

from nbnn.course.features import color_histogram_hsv, extract_features, hog_feature, rgb2gray

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3))


def ramp(degrees, size=32):
    """A plane that becomes brighter by 1 a pixel towards this angle: 0 to the right, 90 downwards."""
    i, j = np.mgrid[:size, :size]
    return j * math.cos(math.radians(degrees)) + i * math.sin(math.radians(degrees))


def hog_by_pixel(grey):
    """The published rules for a square picture, one pixel after the other."""
    cells = len(grey) // 8
    sums = np.zeros((cells, cells, 9))
    for i in range(8 * cells):
        for j in range(8 * cells):
            right = grey[i, j + 1] - grey[i, j] if j + 1 < len(grey) else 0.0
            down = grey[i + 1, j] - grey[i, j] if i + 1 < len(grey) else 0.0
            angle = math.atan2(down, right + 1e-15) * 180 / math.pi + 90
            for k in range(9):
                if 20 * k <= angle < 20 * (k + 1) and angle > 0:
                    sums[j // 8, i // 8, k] += math.sqrt(right**2 + down**2)
    return sums.ravel() / 64


# ---- brightness


def test_brightness_has_the_published_weights():
    np.testing.assert_allclose(rgb2gray(np.eye(3)), [0.299, 0.587, 0.144])
    assert rgb2gray(np.ones((4, 5, 4), np.uint8)).shape == (4, 5)


def test_brightness_needs_three_channels():
    with pytest.raises(ValueError, match=r"rgb2gray wants red, green and blue along the last axis, got shape \(4, 2\)"):
        rgb2gray(np.zeros((4, 2)))


# ---- edges


@pytest.mark.parametrize("degrees", [-85, -60, -20, 0, 15, 45, 85])
def test_a_ramp_has_its_whole_weight_in_its_own_direction(degrees):
    inner = hog_feature(ramp(degrees)).reshape(4, 4, 9)[:3, :3]  # the last row and column of pixels have no neighbour
    expected = np.zeros(9)
    expected[(degrees + 90) // 20] = 1
    np.testing.assert_allclose(inner, np.broadcast_to(expected, inner.shape), atol=1e-12)


def test_a_vertical_edge_lies_in_its_cells_and_direction():
    picture = np.zeros((32, 32))
    picture[:, 13:] = 64
    expected = np.zeros((4, 4, 9))
    expected[1, :, 4] = 64 / 8  # column of cells 1, all rows; one pixel in eight is as steep as 64
    np.testing.assert_allclose(hog_feature(picture).reshape(4, 4, 9), expected)


def test_an_edge_that_darkens_counts_only_both_ways():
    picture = np.zeros((32, 32))
    picture[:, :13] = 64
    assert not hog_feature(picture).any()
    np.testing.assert_allclose(hog_feature(picture, both_ways=True), hog_feature(64 - picture))


@pytest.mark.parametrize("picture", [*PICTURES[:2], np.repeat(ramp(90)[..., None], 3, 2), PICTURES[2, :13, :13]])
def test_edges_by_pixel(picture):
    np.testing.assert_allclose(hog_feature(picture), hog_by_pixel(rgb2gray(picture)), atol=1e-10)


@pytest.mark.parametrize("degrees", range(0, 360, 15))
def test_both_ways_a_picture_and_its_negative_are_equal_and_nothing_is_lost(degrees):
    found = hog_feature(ramp(degrees), both_ways=True).reshape(4, 4, 9)
    np.testing.assert_allclose(found[:3, :3].sum(axis=2), 1)
    if (degrees - 90) % 20:  # else rounding decides between two directions
        np.testing.assert_allclose(found, hog_feature(-ramp(degrees), both_ways=True).reshape(4, 4, 9), atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [1, 200])
def test_level_edges(sign, step):
    """Both ways they are direction 0; as published they are direction 8 or 0 when faint, and lost when steep."""
    picture = np.zeros((16, 16))
    picture[4:] = sign * step
    both, published = (hog_feature(picture, both_ways=b).reshape(4, 9).sum(axis=0) for b in (True, False))
    assert both[0] > 0 and not both[1:].any()
    assert np.flatnonzero(published).tolist() == ([8 if sign > 0 else 0] if step == 1 else [])


def test_whole_numbers_do_not_wrap():
    picture = PICTURES[0, :, :, 0]
    np.testing.assert_array_equal(hog_feature(picture.astype(np.uint8)), hog_feature(picture.astype(np.float64)))


@pytest.mark.parametrize(("shape", "count"), [((32, 32, 3), 144), ((8, 8), 9), ((16, 24), 54), ((15, 23, 3), 18)])
def test_how_many_edges_there_are(shape, count):
    assert hog_feature(np.ones(shape)).shape == (count,)
    assert not hog_feature(np.ones(shape)).any()


@pytest.mark.parametrize("shape", [(7, 32, 3), (32,), (2, 32, 32, 3)])
def test_edges_need_a_picture(shape):
    with pytest.raises(ValueError, match="hog_feature wants a picture .* of at least 8 x 8"):
        hog_feature(np.zeros(shape))


# ---- hues


@pytest.mark.parametrize("nbin", [10, 7])
def test_hues_are_those_of_colorsys(nbin):
    picture = PICTURES[0]
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in pixel))[0] * 255 for pixel in picture.reshape(-1, 3).tolist()]
    expected = np.histogram(hues, np.linspace(0, 255, nbin + 1))[0]
    np.testing.assert_allclose(color_histogram_hsv(picture, nbin), expected / expected.sum())
    np.testing.assert_array_equal(color_histogram_hsv(picture, nbin, normalized=False), expected)


@pytest.mark.parametrize(
    ("colour", "part"),
    [
        *[((255, 0, 0), 0), ((255, 255, 0), 1), ((0, 255, 0), 3), ((0, 255, 255), 5), ((0, 0, 255), 6)],
        *[((255, 0, 255), 8), ((255, 0, 1), 9), ((0, 0, 0), 0), ((90, 90, 90), 0), ((255, 255, 255), 0)],
    ],
)
def test_a_picture_of_one_colour_has_one_hue(colour, part):
    found = color_histogram_hsv(np.full((4, 6, 3), colour, np.uint8))
    np.testing.assert_array_equal(found, np.eye(10)[part])


def test_hues_of_a_part_of_the_range_and_of_other_units():
    picture = PICTURES[0]
    np.testing.assert_allclose(color_histogram_hsv(picture / 255, xmax=1), color_histogram_hsv(picture), atol=2 / 1024)
    green = np.full((2, 2, 3), (0, 255, 0))
    np.testing.assert_array_equal(color_histogram_hsv(green, 5, xmin=200), np.zeros(5))


@pytest.mark.parametrize(
    ("picture", "match"),
    [
        (np.zeros((4, 4)), r"wants a picture \(H, W, 3\), got shape \(4, 4\)"),
        (np.zeros((0, 4, 3)), r"wants a picture"),
        (np.full((4, 4, 3), -1.0), r"must lie in 0 \.\.\. 255, got -1.0 \.\.\. -1.0; take the picture before"),
        (np.full((4, 4, 3), 256), r"must lie in 0 \.\.\. 255"),
        (np.full((4, 4, 3), np.nan), r"must lie in 0 \.\.\. 255"),
    ],
)
def test_hues_need_a_picture_of_colours(picture, match):
    with pytest.raises(ValueError, match=match):
        color_histogram_hsv(picture)


# ---- all of them


def test_each_image_has_its_row():
    given = PICTURES.copy()
    rows = extract_features(PICTURES, [hog_feature, lambda im: color_histogram_hsv(im, nbin=4)])
    assert rows.shape == (5, 144 + 4) and rows.dtype == np.float64
    np.testing.assert_array_equal(rows[3, :144], hog_feature(PICTURES[3]))
    np.testing.assert_array_equal(rows[4, 144:], color_histogram_hsv(PICTURES[4], nbin=4))
    np.testing.assert_array_equal(PICTURES, given)


def test_a_single_channel_is_grey():
    grey = PICTURES[..., :1]
    np.testing.assert_array_equal(extract_features(grey, [hog_feature])[1], hog_feature(grey[1, ..., 0]))


def test_no_images_have_no_rows():
    assert len(extract_features(PICTURES[:0], [hog_feature])) == 0


def test_the_printed_lines(capsys):
    images = np.zeros((2500, 2, 2, 3))
    extract_features(images, [np.ravel], verbose=True)
    assert capsys.readouterr().out == (
        "Done extracting features for 1000 / 2500 images\nDone extracting features for 2000 / 2500 images\n"
    )
    extract_features(images[:1000], [np.ravel])
    assert capsys.readouterr().out == ""


def test_functions_must_give_rows_of_one_length():
    with pytest.raises(ValueError, match=r"rgb2gray must return one row of numbers, got shape \(32, 32\)"):
        extract_features(PICTURES, [rgb2gray])
    lengths = iter([3, 3, 4])
    with pytest.raises(ValueError, match="image 2 has 4 features and image 0 has 3"):
        extract_features(PICTURES, [lambda im: np.zeros(next(lengths))])
    with pytest.raises(ValueError, match="feature_fns is empty"):
        extract_features(PICTURES, [])
