"""Every system of the course by its name: that it is there, and that its arguments have the course's names and
defaults."""

import importlib
import inspect
import pathlib
import pkgutil
import re

import numpy as np
import pytest

import nbnn
import nbnn.course

ROOT = pathlib.Path(nbnn.__file__).resolve().parent.parent
DOCUMENT = ROOT.parent / "shared" / "course.md"

PAIRS = {
    "layers": "affine relu batchnorm layernorm dropout spatial_batchnorm spatial_groupnorm",
    "conv_layers": "spatial_batchnorm spatial_groupnorm",
    "layer_utils": "affine_relu affine_batchnorm_relu generic conv_relu conv_bn_relu conv_relu_pool",
    "conv_layer_utils": "conv_relu conv_bn_relu conv_relu_pool",
}
NAMES = {
    "layers": "batchnorm_backward_alt svm_loss softmax_loss conv_forward_naive conv_backward_naive "
    "max_pool_forward_naive max_pool_backward_naive",
    "conv_layers": "conv_forward_naive conv_backward_naive max_pool_forward_naive max_pool_backward_naive",
    "fast_layers": "conv_forward_fast conv_backward_fast conv_forward_im2col conv_forward_strides "
    "max_pool_forward_fast max_pool_backward_fast",
    "fc_net": "TwoLayerNet FullyConnectedNet",
    "cnn": "ThreeLayerConvNet",
    "optim": "sgd sgd_momentum sgd_nesterov_momentum rmsprop adam",
    "solver": "Solver",
    "gradient_check": "eval_numerical_gradient eval_numerical_gradient_array grad_check_sparse rel_error",
    "data_utils": "load_CIFAR10 load_CIFAR_batch get_CIFAR10_data",
    "classifiers": "KNearestNeighbor LinearClassifier LinearSVM Softmax",
    "classifiers.fc_net": "TwoLayerNet FullyConnectedNet",
    "classifiers.cnn": "ThreeLayerConvNet",
    "classifiers.k_nearest_neighbor": "KNearestNeighbor",
    "classifiers.linear_svm": "svm_loss_naive svm_loss_vectorized",
    "classifiers.softmax": "softmax_loss_naive softmax_loss_vectorized",
    "classifiers.linear_classifier": "LinearClassifier LinearSVM Softmax",
    "features": "extract_features hog_feature color_histogram_hsv",
    "preprocess": "subtract_mean standardise scale_to_unit_range pca whiten add_bias",
    "model_selection": "kfold cross_validate random_search",
    "vis_utils": "visualize_grid",
}
SIGNATURES = {
    "layers.affine_forward": "x, w, b",
    "layers.affine_backward": "dout, cache",
    "layers.batchnorm_forward": "x, gamma, beta, bn_param",
    "layers.layernorm_forward": "x, gamma, beta, ln_param",
    "layers.dropout_forward": "x, dropout_param",
    "layers.svm_loss": "x, y",
    "conv_layers.conv_forward_naive": "x, w, b, conv_param",
    "conv_layers.max_pool_forward_naive": "x, pool_param",
    "conv_layers.spatial_groupnorm_forward": "x, gamma, beta, G, gn_param",
    "fast_layers.conv_forward_fast": "x, w, b, conv_param",
    "fast_layers.max_pool_forward_fast": "x, pool_param",
    "layer_utils.generic_forward": "x, w, b, gamma=None, beta=None, bn_param=None, dropout_param=None, last=False",
    "conv_layer_utils.conv_bn_relu_forward": "x, w, b, gamma, beta, conv_param, bn_param",
    "conv_layer_utils.conv_relu_pool_forward": "x, w, b, conv_param, pool_param",
    "fc_net.TwoLayerNet": "input_dim=3072, hidden_dim=100, num_classes=10, weight_scale=0.001, reg=0.0",
    "fc_net.FullyConnectedNet": "hidden_dims, input_dim=3072, num_classes=10, dropout_keep_ratio=1, "
    "normalization=None, reg=0.0, weight_scale=0.01, dtype=float32, seed=None",
    "cnn.ThreeLayerConvNet": "input_dim=(3, 32, 32), num_filters=32, filter_size=7, hidden_dim=100, num_classes=10, "
    "weight_scale=0.001, reg=0.0, dtype=float32, use_batchnorm=False",
    "optim.adam": "w, dw, config=None",
    "gradient_check.eval_numerical_gradient": "f, x, verbose=True, h=1e-05",
    "gradient_check.eval_numerical_gradient_array": "f, x, df, h=1e-05",
    "gradient_check.grad_check_sparse": "f, x, analytic_grad, num_checks=10, h=1e-05",
    "data_utils.get_CIFAR10_data": "cifar10_dir=None, num_training=49000, num_validation=1000, num_test=1000, "
    "subtract_mean=True",
    "classifiers.KNearestNeighbor.predict": "self, X, k=1, num_loops=0",
    "classifiers.LinearClassifier.train": "self, X, y, learning_rate=0.001, reg=1e-05, num_iters=100, batch_size=200, "
    "verbose=False",
    "classifiers.linear_svm.svm_loss_vectorized": "W, X, y, reg",
    "classifiers.softmax.softmax_loss_naive": "W, X, y, reg",
    "features.extract_features": "imgs, feature_fns, verbose=False",
    "vis_utils.visualize_grid": "Xs, ubound=255.0, padding=1",
}
METHODS = {
    "classifiers.KNearestNeighbor": "train predict predict_labels compute_distances_no_loops "
    "compute_distances_one_loop compute_distances_two_loops",
    "classifiers.LinearSVM": "train predict loss",
    "fc_net.TwoLayerNet": "loss",
    "solver.Solver": "train check_accuracy",
}

SYSTEMS = [f"{module}.{name}" for module, names in NAMES.items() for name in names.split()]
SYSTEMS += [
    f"{m}.{name}_{way}" for m, names in PAIRS.items() for name in names.split() for way in ("forward", "backward")
]
SYSTEMS += [f"{owner}.{name}" for owner, names in METHODS.items() for name in names.split()]


def found(path):
    """What a dotted path below nbnn.course leads to."""
    thing = nbnn.course
    for word in path.split("."):
        if not hasattr(thing, word):
            importlib.import_module(f"{thing.__name__}.{word}")
        thing = getattr(thing, word)
    return thing


@pytest.mark.parametrize("path", SYSTEMS)
def test_it_is_there_under_its_name(path):
    module, _, name = path.rpartition(".")
    assert callable(found(path)), path
    if inspect.ismodule(owner := found(module)):
        assert name in owner.__all__, f"import * leaves out {name}"


@pytest.mark.parametrize("path", SIGNATURES)
def test_its_arguments_are_the_course_s(path):
    words = []
    for p in inspect.signature(found(path)).parameters.values():
        if p.kind is p.KEYWORD_ONLY:  # beyond the course
            break
        default = "float32" if p.default is np.float32 else repr(p.default)
        words.append(p.name if p.default is p.empty else f"{p.name}={default}")
    assert ", ".join(words) == SIGNATURES[path]


def test_no_module_of_the_course_is_forgotten():
    modules = {m.name.removeprefix("nbnn.course.") for m in pkgutil.walk_packages(nbnn.course.__path__, "nbnn.course.")}
    helpers = {"nets", "row_layers", "classifiers.scores"}
    assert modules - helpers == {*NAMES, *PAIRS}


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("nndl.fc_net", "TwoLayerNet affine_forward svm_loss softmax_loss batchnorm_forward dropout_backward"),
        ("cs231n.classifiers.fc_net", "FullyConnectedNet affine_relu_forward batchnorm_backward_alt layernorm_forward"),
        (
            "nndl.cnn",
            "ThreeLayerConvNet conv_relu_pool_forward conv_forward_fast max_pool_forward_naive affine_forward",
        ),
        ("cs231n.classifiers.cnn", "ThreeLayerConvNet spatial_batchnorm_forward conv_forward_naive"),
    ],
)
def test_a_star_import_brings_what_notebooks_count_on(module, words):
    """The course's nets import all layers by a star, and its notebooks use them from there."""
    own = importlib.import_module(f"nbnn.course.{module.partition('.')[2]}")
    assert set(words.split()) <= set(own.__all__)
    assert all(hasattr(own, name) for name in own.__all__)


# words of the document that are no systems: settings, arrays, figures, other files
PLAIN = """
    Epoch False G Invalid Iteration N None True W X a acc analytic_grad array as_modules b batch_size batchnorm beta
    bn_param bn_params cache checkpoint_name cifar10_dir config conv_param course cs231n design df dout dropout
    dropout_keep_ratio dropout_param dtype dw dx e epoch f filter_size float32 forward from gamma gn_param grads h
    hidden_dim hidden_dims import input_dim k last layernorm learning_rate ln_param loss lr_decay m max md mode next_w
    nndl normalization num_checks num_classes num_filters num_iters num_test num_training num_validation or out p pad
    params pool_height pool_param pool_width rand reg replacement root rule running_mean running_var sampling seed
    shape stride sum t targets test train use_batchnorm v val_acc velocity verbose w weight_scale x y
    subtract_mean f_forward f_backward nbnn
"""
# what it abbreviates
SHORT = {
    "_backward": "layers.affine_backward",
    "_backward_naive": "layers.conv_backward_naive",
    "_fast": "fast_layers.conv_forward_fast",
    "_naive": "layers.conv_forward_naive",
    "vectorized": "classifiers.softmax.softmax_loss_vectorized",
    "one_loop": "classifiers.KNearestNeighbor.compute_distances_one_loop",
    "no_loops": "classifiers.KNearestNeighbor.compute_distances_no_loops",
}


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="the document that lists the course's systems is not here")
def test_every_word_of_the_document_is_known():
    from nbnn.rules import DEFAULTS

    text = DOCUMENT.read_text(encoding="utf-8")
    words = {w for span in re.findall(r"`([^`]+)`", text) for w in re.findall(r"[A-Za-z_]\w*\*?", span)}
    names = {path.rpartition(".")[2] for path in SYSTEMS} | {*NAMES, *PAIRS, *DEFAULTS}
    unknown = []
    for word in sorted(words - set(PLAIN.split())):
        if word in SHORT:
            assert callable(found(SHORT[word]))
        elif word.endswith("*"):
            unknown += [word] * (not {f"{word[:-1]}forward", f"{word[:-1]}backward"} <= names)
        elif word not in names:
            unknown.append(word)
    assert unknown == [] and set(PLAIN.split()) <= words, "words that the document does not have"
