"""The course's layers: published figures, its own gradient checks and their tolerances, its errors and habits."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import nbnn
from nbnn.course import as_modules, optim
from nbnn.course.conv_layers import (
    conv_backward_naive,
    conv_forward_naive,
    max_pool_backward_naive,
    max_pool_forward_naive,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
    spatial_groupnorm_backward,
    spatial_groupnorm_forward,
)
from nbnn.course.fast_layers import (
    conv_backward_fast,
    conv_forward_fast,
    conv_forward_im2col,
    conv_forward_strides,
    max_pool_backward_fast,
    max_pool_forward_fast,
)
from nbnn.course.gradient_check import (
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    grad_check_sparse,
    rel_error,
)
from nbnn.course.layer_utils import (
    affine_batchnorm_relu_backward,
    affine_batchnorm_relu_forward,
    affine_relu_backward,
    affine_relu_forward,
    conv_bn_relu_backward,
    conv_bn_relu_forward,
    conv_relu_backward,
    conv_relu_forward,
    conv_relu_pool_backward,
    conv_relu_pool_forward,
    generic_backward,
    generic_forward,
)
from nbnn.course.layers import (
    affine_backward,
    affine_forward,
    batchnorm_backward,
    batchnorm_backward_alt,
    batchnorm_forward,
    dropout_backward,
    dropout_forward,
    layernorm_backward,
    layernorm_forward,
    relu_backward,
    relu_forward,
    softmax_loss,
    svm_loss,
)

ROOT = pathlib.Path(nbnn.__file__).resolve().parent.parent
RNG = np.random.default_rng(231)


def drawn(*shape):
    return RNG.standard_normal(shape)


def away_from_zero(*shape):
    """For relu, which has a kink at 0."""
    x = drawn(*shape)
    return x + np.sign(x) * 0.1


# ---- published figures


def test_convolution_has_the_published_figures():
    x = np.linspace(-0.1, 0.5, num=96).reshape(2, 3, 4, 4)
    w = np.linspace(-0.2, 0.3, num=144).reshape(3, 3, 4, 4)
    out, _ = conv_forward_naive(x, w, np.linspace(-0.1, 0.2, num=3), {"stride": 2, "pad": 1})
    assert out.shape == (2, 3, 2, 2) and out.flags.c_contiguous
    first, last = (
        [[-0.08759809, -0.10987781], [-0.18387192, -0.2109216]],
        [[2.36270298, 2.36904306], [2.38090835, 2.38247847]],
    )
    np.testing.assert_allclose(out[0, 0], first, atol=5e-9)
    np.testing.assert_allclose(out[1, 2], last, atol=5e-9)


@pytest.mark.parametrize("forward", [max_pool_forward_naive, max_pool_forward_fast])
def test_max_pool_has_the_published_figures(forward):
    x = np.linspace(-0.3, 0.4, num=96).reshape(2, 3, 4, 4)
    out, _ = forward(x, {"pool_width": 2, "pool_height": 2, "stride": 2})
    assert out.shape == (2, 3, 2, 2) and out.flags.c_contiguous
    np.testing.assert_allclose(out[0, 0], [[-0.26315789, -0.24842105], [-0.20421053, -0.18947368]], atol=5e-9)
    np.testing.assert_allclose(out[1, 2, 1, 1], 0.4)


# ---- fast and naive

CONVOLUTIONS = [
    # x, w, stride, pad
    ((4, 3, 31, 31), (25, 3, 3, 3), 2, 1),
    ((3, 16, 16, 16), (20, 16, 3, 3), 1, 1),  # Winograd's
    ((2, 2, 6, 9), (3, 2, 2, 5), 3, 2.0),
    ((1, 9, 5, 5), (1, 9, 5, 5), 1, 0),
    ((5, 1, 8, 7), (17, 1, 1, 1), 1, 0),
]
POOLS = [
    ((3, 5, 8, 8), 2, 2, 2),
    ((2, 17, 7, 9), 3, 2, 2),
    ((2, 3, 6, 5), 2, 3, 1),
    ((2, 1, 7, 7), 2.0, 2.0, 3.0),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x", "w", "stride", "pad"), CONVOLUTIONS)
def test_fast_convolution_is_the_naive_one(x, w, stride, pad, dtype):
    given = [drawn(*shape).astype(dtype) for shape in (x, w, w[:1])]
    param = {"stride": stride, "pad": pad}
    (out, cache), (wanted, naive_cache) = conv_forward_fast(*given, param), conv_forward_naive(*given, param)
    tolerance = {np.float32: 1e-5, np.float64: 1e-13}[dtype]
    assert out.dtype == dtype and out.flags.c_contiguous
    np.testing.assert_allclose(out, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
    dout = drawn(*out.shape).astype(dtype)
    for found, wanted in zip(conv_backward_fast(dout, cache), conv_backward_naive(dout, naive_cache), strict=True):
        assert found.dtype == dtype and found.flags.c_contiguous
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_fast_layers_take_what_the_naive_ones_take():
    """Mixed dtypes, half precision, the other byte order, transposed arrays: the same dtypes and numbers come back."""
    param = {"stride": 1, "pad": 1}
    for kinds in ((np.float32, np.float64, np.float64), (np.float64, np.float32, np.float32), (">f8", "<f4", ">f4")):
        shapes = (2, 3, 5, 6), (4, 3, 3, 3), (4,)
        given = [drawn(*shape).astype(kind) for shape, kind in zip(shapes, kinds, strict=True)]
        given[0] = given[0].transpose(0, 1, 3, 2)
        (out, cache), (wanted, other) = conv_forward_fast(*given, param), conv_forward_naive(*given, param)
        np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
        for found, naive in zip(conv_backward_fast(out, cache), conv_backward_naive(wanted, other), strict=True):
            assert found.dtype.newbyteorder("=") == naive.dtype.newbyteorder("=")
            np.testing.assert_allclose(found, naive, rtol=1e-4, atol=1e-3)
    out, _ = conv_forward_fast(
        drawn(1, 2, 4, 4).astype(np.float16), drawn(3, 2, 3, 3).astype(np.float16), [0, 0, 0], param
    )
    assert np.isfinite(out).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "tall", "wide", "stride"), POOLS)
def test_fast_pool_is_the_naive_one_ties_and_all(shape, tall, wide, stride, dtype):
    x = np.round(2 * drawn(*shape)).astype(dtype)
    param = {"pool_height": tall, "pool_width": wide, "stride": stride}
    (out, cache), (wanted, naive_cache) = max_pool_forward_fast(x, param), max_pool_forward_naive(x, param)
    np.testing.assert_array_equal(out, wanted)
    dout = np.round(10 * drawn(*out.shape)).astype(dtype)
    found, wanted = max_pool_backward_fast(dout, cache), max_pool_backward_naive(dout, naive_cache)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == dtype


def test_fast_layers_compile_nothing_for_a_new_shape(monkeypatch):
    conv_backward_fast(*conv_forward_fast(drawn(1, 9, 4, 4), drawn(2, 9, 3, 3), drawn(2), {"stride": 1, "pad": 1}))
    from nbnn import compiling, step

    def refuse(*args, **kwargs):
        raise AssertionError("something is compiled")

    monkeypatch.setattr(compiling, "numba_folder", refuse)
    monkeypatch.setattr(step.Step, "kinds", refuse)
    for side in range(5, 15):
        x, w = drawn(2, 9 + side, side, side), drawn(side, 9 + side, 3, 3)
        out, kept = conv_forward_fast(x, w, drawn(side), {"stride": 1, "pad": 1})
        assert conv_backward_fast(out, kept)[0].shape == x.shape


def test_other_ways_to_a_convolution_give_the_same():
    given = drawn(2, 3, 5, 5), drawn(4, 3, 3, 3), drawn(4), {"stride": 1, "pad": 1}
    wanted = conv_forward_fast(*given)[0]
    for forward in (conv_forward_im2col, conv_forward_strides):
        np.testing.assert_array_equal(forward(*given)[0], wanted)


# ---- gradients, each by differences at every place


def batch(mode="train", **more):
    return {"mode": mode, **more}


def pool_2x2():
    return {"pool_height": 2, "pool_width": 2, "stride": 2}


LAYERS = {
    # name: forward, backward, its array arguments, its settings, the largest relative error (the course's own)
    "affine": (affine_forward, affine_backward, (drawn(10, 2, 3), drawn(6, 5), drawn(5)), (), 1e-8),
    "relu": (relu_forward, relu_backward, (away_from_zero(10, 10),), (), 1e-10),
    "batchnorm": (batchnorm_forward, batchnorm_backward, (5 * drawn(4, 5) + 12, drawn(5), drawn(5)), (batch,), 1e-7),
    "batchnorm, alternative": (
        batchnorm_forward,
        batchnorm_backward_alt,
        (5 * drawn(4, 5) + 12, drawn(5), drawn(5)),
        (batch,),
        1e-7,
    ),
    "layernorm": (layernorm_forward, layernorm_backward, (5 * drawn(4, 5) + 12, drawn(5), drawn(5)), (dict,), 1e-7),
    "dropout": (
        dropout_forward,
        dropout_backward,
        (drawn(10, 10) + 10,),
        (lambda: {"mode": "train", "p": 0.2, "seed": 123},),
        1e-9,
    ),
    "convolution": (
        conv_forward_naive,
        conv_backward_naive,
        (drawn(4, 3, 5, 5), drawn(2, 3, 3, 3), drawn(2)),
        (lambda: {"stride": 1, "pad": 1},),
        1e-7,
    ),
    "convolution, stride 2, oblong": (
        conv_forward_naive,
        conv_backward_naive,
        (drawn(2, 2, 6, 7), drawn(3, 2, 2, 3), drawn(3)),
        (lambda: {"stride": 2, "pad": 1.0},),
        1e-7,
    ),
    "fast convolution": (
        conv_forward_fast,
        conv_backward_fast,
        (drawn(4, 3, 5, 5), drawn(2, 3, 3, 3), drawn(2)),
        (lambda: {"stride": 1, "pad": 1},),
        1e-7,
    ),
    "max pool": (max_pool_forward_naive, max_pool_backward_naive, (drawn(3, 2, 8, 8),), (pool_2x2,), 1e-9),
    "fast max pool": (max_pool_forward_fast, max_pool_backward_fast, (drawn(3, 2, 8, 8),), (pool_2x2,), 1e-9),
    "convolution, relu": (
        conv_relu_forward,
        conv_relu_backward,
        (drawn(2, 3, 8, 8), drawn(3, 3, 3, 3), drawn(3)),
        (lambda: {"stride": 1, "pad": 1},),
        1e-6,
    ),
    "convolution, relu, pool": (
        conv_relu_pool_forward,
        conv_relu_pool_backward,
        (drawn(2, 3, 8, 8), drawn(3, 3, 3, 3), drawn(3)),
        (lambda: {"stride": 1, "pad": 1}, pool_2x2),
        1e-6,
    ),
    "convolution, batchnorm, relu": (
        conv_bn_relu_forward,
        conv_bn_relu_backward,
        (drawn(2, 3, 8, 8), drawn(3, 3, 3, 3), drawn(3), drawn(3), drawn(3)),
        (lambda: {"stride": 1, "pad": 1}, batch),
        1e-6,
    ),
    "spatial batchnorm": (
        spatial_batchnorm_forward,
        spatial_batchnorm_backward,
        (5 * drawn(2, 3, 4, 5) + 12, drawn(3), drawn(3)),
        (batch,),
        1e-6,
    ),
    "affine relu": (affine_relu_forward, affine_relu_backward, (drawn(2, 3, 4), drawn(12, 10), drawn(10)), (), 1e-7),
    "affine batchnorm relu": (
        affine_batchnorm_relu_forward,
        affine_batchnorm_relu_backward,
        (drawn(5, 4), drawn(4, 3), drawn(3), drawn(3), drawn(3)),
        (batch,),
        1e-6,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_differences(name):
    forward, backward, arrays, settings, tolerance = LAYERS[name]

    def out(*given):
        return forward(*given, *(make() for make in settings))[0]

    y, cache = forward(*arrays, *(make() for make in settings))
    dout = np.random.default_rng(0).standard_normal(y.shape)
    found = backward(dout, cache)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(arrays)
    for place, (gradient, array) in enumerate(zip(found, arrays, strict=True)):
        assert gradient.shape == array.shape and gradient.dtype == array.dtype

        def moved(changed, place=place):
            return out(*arrays[:place], changed, *arrays[place + 1 :])

        wanted = eval_numerical_gradient_array(moved, array.copy(), dout)
        # a bias before batchnorm has no gradient: what differences show there is rounding
        nothing = "batchnorm" in name and place == 2 and np.abs(wanted - gradient).max() < 1e-9
        assert rel_error(wanted, gradient) < tolerance or nothing, place


def test_groupnorm_s_gradients_have_the_shape_of_its_parameters():
    x, gamma, beta = 5 * drawn(2, 6, 4, 5) + 12, drawn(1, 6, 1, 1), drawn(1, 6, 1, 1)
    out, cache = spatial_groupnorm_forward(x, gamma, beta, 2, {})
    groups = out.copy()
    plain = spatial_groupnorm_forward(x, np.ones_like(gamma), np.zeros_like(beta), 2, {})[0].reshape(2, 2, -1)
    np.testing.assert_allclose(plain.mean(axis=2), 0, atol=1e-12)
    np.testing.assert_allclose(plain.std(axis=2), 1, atol=1e-5)
    dout = np.random.default_rng(0).standard_normal(out.shape)
    found = spatial_groupnorm_backward(dout, cache)
    for place, array in enumerate((x, gamma, beta)):

        def moved(changed, place=place):
            given = [x, gamma, beta]
            given[place] = changed
            return spatial_groupnorm_forward(*given, 2, {})[0]

        assert found[place].shape == array.shape
        assert rel_error(eval_numerical_gradient_array(moved, array.copy(), dout), found[place]) < 1e-6
    np.testing.assert_array_equal(out, groups)
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        spatial_groupnorm_forward(x, gamma, beta, 4, {})


@pytest.mark.parametrize("loss", [svm_loss, softmax_loss])
def test_losses_and_their_gradients(loss):
    x, y = 0.001 * drawn(50, 10), RNG.integers(0, 10, 50)
    value, dx = loss(x, y)
    assert abs(value - {svm_loss: 9, softmax_loss: np.log(10)}[loss]) < 0.02  # as the course says of the first loss
    assert rel_error(eval_numerical_gradient(lambda x: loss(x, y)[0], x, verbose=False), dx) < 1e-6
    far = np.array([[0.0, 2000.0], [-3000.0, 0.0]])
    assert np.isfinite(loss(far, [0, 0])[0])
    for wrong, said in (
        ([0], "y must be 2 whole numbers"),
        ([0.0, 1.0], "whole numbers"),
        ([0, 2], "0 ... 1, got 0 ... 2"),
    ):
        with pytest.raises(ValueError, match=said.replace(".", r"\.")):
            loss(far, wrong)


# ---- what batchnorm and dropout leave behind


def test_batchnorm_s_running_figures_start_at_zero_and_are_left_in_its_settings():
    x, param = drawn(200, 3) * 2 + 5, batch(momentum=0.5)
    batchnorm_forward(x, np.ones(3), np.zeros(3), param)
    np.testing.assert_allclose(param["running_mean"], x.mean(axis=0) / 2)
    np.testing.assert_allclose(param["running_var"], x.var(axis=0) / 2)
    for _ in range(50):
        batchnorm_forward(x, np.ones(3), np.zeros(3), param)
    param["mode"] = "test"
    out, _ = batchnorm_forward(x, np.full(3, 2.0), np.full(3, 7.0), param)
    np.testing.assert_allclose(out.mean(axis=0), 7, atol=1e-10)
    np.testing.assert_allclose(out.std(axis=0), 2, atol=1e-4)
    kept = np.zeros(3)
    batchnorm_forward(x, np.ones(3), np.zeros(3), batch(running_mean=kept))
    assert not kept.any()  # somebody else's array


def test_spatial_batchnorm_is_batchnorm_over_all_places():
    x, gamma, beta = drawn(3, 4, 5, 6), drawn(4), drawn(4)
    one, other = batch(), batch()
    out, _ = spatial_batchnorm_forward(x, gamma, beta, one)
    flat, _ = batchnorm_forward(x.transpose(0, 2, 3, 1).reshape(-1, 4), gamma, beta, other)
    np.testing.assert_allclose(out, flat.reshape(3, 5, 6, 4).transpose(0, 3, 1, 2), atol=1e-12)
    for key in ("running_mean", "running_var"):
        np.testing.assert_allclose(one[key], other[key])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: batchnorm_forward(drawn(2, 3), np.ones(3), np.zeros(3), batch("x")),
            'Invalid forward batchnorm mode "x"',
        ),
        (lambda: dropout_forward(drawn(2), {"mode": "x", "p": 1}), 'Invalid forward dropout mode "x"'),
        (
            lambda: dropout_forward(drawn(2), {"mode": "train", "p": 1, "p_means": "lose"}),
            'dropout_param["p_means"] must be "keep" or "drop", got \'lose\'',
        ),
        (
            lambda: conv_forward_naive(drawn(1, 2, 5, 5), drawn(1, 2, 3, 3), drawn(1), {"stride": 1, "pad": 0.5}),
            "Conv: pad must be a whole number of at least 0, got 0.5",
        ),
        (
            lambda: conv_forward_naive(drawn(1, 2, 5, 5), drawn(1, 3, 3, 3), drawn(1), {"stride": 1, "pad": 0}),
            "convolution wants x (N, C, H, W) and w (F, C, HH, WW) with the same C, got (1, 2, 5, 5) and (1, 3, 3, 3)",
        ),
        (
            lambda: conv_forward_naive(drawn(1, 2, 5, 5), drawn(1, 2, 7, 7), drawn(1), {"stride": 1, "pad": 0}),
            "Conv: a 7x7 window does not fit its 5x5 input; pad it by at least 1 or make the window smaller",
        ),
        (
            lambda: conv_backward_fast(
                drawn(1, 3, 5, 5),
                conv_forward_fast(drawn(2, 2, 5, 5), drawn(3, 2, 3, 3), drawn(3), {"stride": 1, "pad": 1})[1],
            ),
            "Conv: dy must have the shape of y, (2, 3, 5, 5), got (1, 3, 5, 5)",
        ),
        (
            lambda: conv_forward_fast(drawn(2, 2, 5, 5), drawn(3, 2, 3, 3), drawn(1), {"stride": 1, "pad": 1}),
            "Conv: b must have shape (3,), got (1,)",
        ),
        (
            lambda: conv_backward_naive(
                drawn(1, 3, 5, 5),
                conv_forward_naive(drawn(2, 2, 5, 5), drawn(3, 2, 3, 3), drawn(3), {"stride": 1, "pad": 1})[1],
            ),
            "conv_backward_naive: dout must have shape (2, 3, 5, 5), got (1, 3, 5, 5)",
        ),
        (
            lambda: conv_forward_naive(drawn(2, 2, 5, 5), drawn(3, 2, 3, 3), drawn(1), {"stride": 1, "pad": 1}),
            "conv_forward_naive: b must have shape (3,), got (1,)",
        ),
        (
            lambda: max_pool_backward_naive(
                drawn(1, 2, 2, 3), max_pool_forward_naive(drawn(1, 2, 4, 4), pool_2x2())[1]
            ),
            "max_pool_backward_naive: dout must have shape (1, 2, 2, 2), got (1, 2, 2, 3)",
        ),
        (
            lambda: affine_forward(drawn(2, 4), drawn(5, 3), drawn(3)),
            "affine_forward: w must have shape (4, M) for rows of x of 4, got (5, 3)",
        ),
        (
            lambda: affine_forward(drawn(2, 4), drawn(4, 3), drawn(1)),
            "affine_forward: b must have shape (3,), got (1,)",
        ),
        (
            lambda: affine_backward(drawn(1, 3), affine_forward(drawn(2, 4), drawn(4, 3), drawn(3))[1]),
            "affine_backward: dout must have shape (2, 3), got (1, 3)",
        ),
        (lambda: relu_backward(drawn(3), drawn(2, 3)), "relu_backward: dout must have shape (2, 3), got (3,)"),
        (
            lambda: batchnorm_forward(drawn(2, 3), np.ones(5), np.zeros(3), batch()),
            "batchnorm: gamma must have shape (3,), got (5,)",
        ),
        (
            lambda: batchnorm_forward(drawn(2, 3), np.ones(3), np.zeros(3), batch(running_var=np.ones(7))),
            "batchnorm: running_var must have shape (3,), got (7,)",
        ),
        (
            lambda: batchnorm_backward(
                drawn(1, 3), batchnorm_forward(drawn(2, 3), np.ones(3), np.zeros(3), batch())[1]
            ),
            "dout must have the shape of x, (2, 3), got (1, 3)",
        ),
        (
            lambda: batchnorm_backward(
                drawn(2, 3), batchnorm_forward(drawn(2, 3), np.ones(3), np.zeros(3), batch("test"))[1]
            ),
            'the cache is of mode "test", which has no gradient; run the forward pass in mode "train"',
        ),
        (
            lambda: layernorm_forward(drawn(2, 3), np.ones(1), np.zeros(3), {}),
            "layernorm: gamma must have shape (3,), got (1,)",
        ),
        (
            lambda: spatial_batchnorm_forward(drawn(2, 3), np.ones(3), np.zeros(3), batch()),
            "pictures must have shape (N, C, H, W), got (2, 3)",
        ),
        (
            lambda: dropout_backward(drawn(2), dropout_forward(drawn(3, 2), {"mode": "train", "p": 0.5})[1]),
            "dropout_backward: dout must have shape (3, 2), got (2,)",
        ),
        (lambda: optim.sgd(drawn(3, 2), drawn(2)), "sgd: dw must have shape (3, 2), got (2,)"),
        (
            lambda: optim.adam(drawn(3), drawn(3), {"m": drawn(2), "v": drawn(3), "t": 1}),
            "adam: m must have shape (3,), got (2,)",
        ),
        (lambda: max_pool_forward_naive(drawn(2, 3), pool_2x2()), "max pooling wants x (N, C, H, W), got (2, 3)"),
        (
            lambda: max_pool_forward_fast(drawn(1, 2, 5, 5), {"pool_height": 6, "pool_width": 2, "stride": 2}),
            "MaxPool: a 6x2 window does not fit its 5x5 input; pad it by at least 1 or make the window smaller",
        ),
    ],
)
def test_wrong_settings_get_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("meaning", "kept"), [("keep", 0.25), ("drop", 0.75)])
def test_dropout_keeps_its_share_and_the_mean(meaning, kept):
    x = np.ones((300, 300), np.float32)
    out, cache = dropout_forward(x, {"mode": "train", "p": 0.25, "p_means": meaning})
    assert abs((out != 0).mean() - kept) < 0.01 and abs(out.mean() - 1) < 0.03 and out.dtype == x.dtype
    np.testing.assert_array_equal(dropout_backward(x, cache), out)
    same, cache = dropout_forward(x, {"mode": "test", "p": 0.25})
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(dropout_backward(x, cache), x)


def test_dropout_with_a_seed_draws_numpy_s_legacy_numbers():
    x = np.ones((4, 5))
    out, _ = dropout_forward(x, {"mode": "train", "p": 0.5, "seed": 123})
    np.testing.assert_array_equal(out != 0, np.random.RandomState(123).rand(4, 5) < 0.5)


# ---- habits


def test_lists_whole_numbers_and_float32_are_taken():
    out, _ = affine_forward([[1, 2]], [[1, 0], [0, 1]], [1, 1])
    np.testing.assert_array_equal(out, [[2, 3]])
    single = [a.astype(np.float32) for a in (drawn(3, 2, 5, 5), drawn(4, 2, 3, 3), drawn(4))]
    out, cache = conv_forward_naive(*single, {"stride": 1, "pad": (3 - 1) / 2})
    assert out.dtype == np.float32 and {g.dtype for g in conv_backward_naive(out, cache)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_cache_serves_twice_and_nothing_given_is_changed(name):
    forward, backward, arrays, settings, _ = LAYERS[name]
    before = [a.copy() for a in arrays]
    out, cache = forward(*arrays, *(make() for make in settings))
    dout = np.ones_like(out)
    one, two = backward(dout, cache), backward(dout, cache)
    for a, b in zip(one if isinstance(one, tuple) else [one], two if isinstance(two, tuple) else [two], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_layer_of_a_net_is_an_affine_alone():
    x, w, b = np.arange(12.0).reshape(3, 4), np.array([[1.0, -2], [3, 1], [-1, 2], [2, 4]]), drawn(2)
    out, cache = generic_forward(x, w, b, last=True)
    np.testing.assert_array_equal(out, affine_forward(x, w, b)[0])
    *_, dgamma, dbeta = generic_backward(out, cache)
    assert dgamma is None and dbeta is None
    normed, cache = generic_forward(x, w, b, np.ones(2), np.zeros(2), {}, {"mode": "train", "p": 0.5, "seed": 1})
    np.testing.assert_allclose(normed[normed > 0], 2, atol=1e-4)  # layernorm of two numbers is 1 and -1
    assert len(generic_backward(normed, cache)) == 5


# ---- gradient checks themselves


def test_numerical_gradients_print_and_can_fail(capsys):
    x = np.array([[1.0, -2.0]])
    gradient = eval_numerical_gradient(lambda x: (x**2).sum(), x)
    np.testing.assert_allclose(gradient, 2 * x, atol=1e-9)
    assert capsys.readouterr().out.startswith("(0, 0) 2.0")
    grad_check_sparse(lambda x: (x**2).sum(), x, 2.1 * x, num_checks=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(float(line.split()[-1]) > 0.02 for line in lines)
    assert lines[0].startswith("numerical: ") and ", relative error: " in lines[0]
    np.testing.assert_array_equal(x, [[1.0, -2.0]])
    assert rel_error([1.0, 1.001], [1.0, 1.0]) > 4e-4 and rel_error(0.0, 0.0) == 0 and np.isnan(rel_error(np.nan, 1.0))


# ---- under the course's own names


def test_course_imports_work_under_the_course_s_names():
    program = (
        "import nbnn.course; nbnn.course.as_modules('cs231n', 'nndl')\n"
        "from cs231n.layers import *\n"
        "from cs231n.fast_layers import *; from nndl.conv_layers import *; from cs231n.layer_utils import *\n"
        "assert conv_forward_fast and max_pool_backward_naive and conv_relu_pool_forward\n"
        "assert spatial_batchnorm_forward\n"
        "from nndl.layers import affine_forward as other\n"
        "import nndl.optim, cs231n.gradient_check\n"
        "from cs231n import layer_utils\n"
        "assert affine_forward is other and layer_utils.affine_relu_forward and callable(nndl.optim.adam)\n"
        "print(softmax_loss([[0.0, 0.0]], [1])[0])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert found.stdout.strip()[:8] == "0.693147", found.stderr


def test_names_that_are_taken_are_not_replaced():
    with pytest.raises(ImportError, match="json is imported already"):
        as_modules("json")
    with pytest.raises(ValueError, match="names of packages"):
        as_modules("cs231n.layers")
