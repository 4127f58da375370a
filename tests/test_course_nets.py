"""The nets of the course: published figures, gradients, and what course code does to them; the Solver on them."""

import copy
import pickle

import numpy as np
import pytest

import nbnn
import nbnn.files
from nbnn.course.cnn import ThreeLayerConvNet
from nbnn.course.fc_net import FullyConnectedNet, TwoLayerNet
from nbnn.course.gradient_check import eval_numerical_gradient, rel_error
from nbnn.course.layer_utils import affine_relu_backward, affine_relu_forward
from nbnn.course.layers import affine_backward, affine_forward, softmax_loss
from nbnn.course.solver import Solver

RNG = np.random.default_rng(231)


def two_layers():
    """The net of the notebook, with its figures for weights."""
    net = TwoLayerNet(input_dim=5, hidden_dim=50, num_classes=7, weight_scale=1e-3)
    net.params["W1"] = np.linspace(-0.7, 0.3, num=250).reshape(5, 50)
    net.params["b1"] = np.linspace(-0.1, 0.9, num=50)
    net.params["W2"] = np.linspace(-0.3, 0.4, num=350).reshape(50, 7)
    net.params["b2"] = np.linspace(-0.9, 0.1, num=7)
    return net, np.linspace(-5.5, 4.5, num=15).reshape(5, 3).T, np.array([0, 5, 1])


def test_two_layers_have_the_published_scores_and_losses():
    net, x, y = two_layers()
    wanted = [
        [11.53165108, 12.2917344, 13.05181771, 13.81190102, 14.57198434, 15.33206765, 16.09215096],
        [12.05769098, 12.74614105, 13.43459113, 14.1230412, 14.81149128, 15.49994135, 16.18839143],
        [12.58373087, 13.20054771, 13.81736455, 14.43418138, 15.05099822, 15.66781506, 16.2846319],
    ]
    assert np.abs(net.loss(x) - wanted).sum() < 1e-6
    assert abs(net.loss(x, y)[0] - 3.4702243556) < 1e-10
    net.reg = 1.0
    assert abs(net.loss(x, y)[0] - 26.5948426952) < 1e-10


NETS = {
    "two layers": lambda: TwoLayerNet(7, 11, 4, weight_scale=0.3),
    "fully connected": lambda: FullyConnectedNet([9, 8], 7, 4, weight_scale=0.5, dtype=np.float64),
    "batchnorm": lambda: FullyConnectedNet([9, 8], 7, 4, normalization="batchnorm", weight_scale=0.5, dtype=np.float64),
    "layernorm": lambda: FullyConnectedNet([9, 8], 7, 4, 1, "layernorm", weight_scale=0.5, dtype=np.float64),
    "dropout": lambda: FullyConnectedNet([20, 20], 7, 4, 0.5, weight_scale=0.5, dtype=np.float64, seed=123),
    "older names": lambda: FullyConnectedNet(
        [9, 8], 7, 4, dropout=0.7, use_batchnorm=True, weight_scale=0.5, dtype=np.float64, seed=1
    ),
    "convolution": lambda: ThreeLayerConvNet((3, 8, 6), 4, 3, 7, 4, weight_scale=0.5, dtype=np.float64),
    "convolution, batchnorm": lambda: ThreeLayerConvNet(
        (3, 6, 6), 4, 5, 7, 4, weight_scale=0.5, dtype=np.float64, use_batchnorm=True
    ),
}
PARAMS = {
    "batchnorm": "W1 b1 gamma1 beta1 W2 b2 gamma2 beta2 W3 b3",
    "layernorm": "W1 b1 gamma1 beta1 W2 b2 gamma2 beta2 W3 b3",
    "convolution": "W1 b1 W2 b2 W3 b3",
    "convolution, batchnorm": "W1 b1 gamma1 beta1 W2 b2 gamma2 beta2 W3 b3",
    "two layers": "W1 b1 W2 b2",
}


def examples(net, count=5):
    """Examples of a fitting shape."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *net._input)), rng.integers(0, 4, count)


@pytest.mark.parametrize("reg", [0.0, 0.7])
@pytest.mark.parametrize("name", NETS)
def test_gradients_pass_the_course_s_check(name, reg):
    np.random.seed(231)
    net = NETS[name]()
    net.reg = reg
    x, y = examples(net)
    loss, grads = net.loss(x, y)
    assert list(grads) == list(net.params) and np.isfinite(loss)
    if name in PARAMS:
        assert list(grads) == PARAMS[name].split()
    for key in grads:
        numerical = eval_numerical_gradient(lambda _: net.loss(x, y)[0], net.params[key], verbose=False)
        assert grads[key].shape == net.params[key].shape
        # a bias before batchnorm has no gradient: what differences show there is rounding
        nothing = key.startswith("b") and "norm" in str(net._nodes()) and np.abs(numerical - grads[key]).max() < 1e-8
        assert rel_error(numerical, grads[key]) < 1e-5 or nothing, key


def test_weights_are_numpy_s_legacy_numbers_and_the_first_loss_is_log_c():
    np.random.seed(3)
    net = ThreeLayerConvNet(weight_scale=1e-3)
    np.random.seed(3)
    w1 = 1e-3 * np.random.randn(32, 3, 7, 7)
    w2 = 1e-3 * np.random.randn(32 * 16 * 16, 100)
    np.testing.assert_array_equal(net.params["W1"], w1.astype(np.float32))
    np.testing.assert_array_equal(net.params["W2"], w2.astype(np.float32))
    x, y = RNG.standard_normal((20, 3, 32, 32)), RNG.integers(0, 10, 20)
    loss, grads = net.loss(x, y)
    assert abs(loss - np.log(10)) < 0.01
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)} == {v.dtype for v in net.params.values()}
    net.reg = 0.5
    weights = sum((net.params[k].astype(float) ** 2).sum() for k in ("W1", "W2", "W3"))
    assert net.loss(x, y)[0] - loss == pytest.approx(0.25 * weights, rel=1e-4)


# ---- what course code does to a net


def test_parameters_may_be_replaced_edited_and_kept():
    np.random.seed(0)
    net = FullyConnectedNet([6], 5, 3, dtype=np.float64, weight_scale=1.0)
    x, _ = examples(net)
    old = net.params["W1"]
    before = net.loss(x)
    net.params["W1"] = 2 * old
    assert not np.allclose(net.loss(x), before)
    net.params["W1"] /= 2
    np.testing.assert_allclose(net.loss(x), before)
    net.params["b2"] += 1.0
    np.testing.assert_allclose(net.loss(x), before + 1)
    net.params["W1"] = old.tolist()  # lists are arrays
    np.testing.assert_allclose(net.loss(x.tolist()), before + 1)
    net.params = {**net.params, "b2": np.zeros(3)}
    np.testing.assert_allclose(net.loss(x), before)
    net.params["W1"] = np.zeros((5, 5))
    with pytest.raises(ValueError, match=r"^params\['W1'\] must keep its shape \(5, 6\), got \(5, 5\)"):
        net.loss(x)
    del net.params["W1"]
    with pytest.raises(KeyError, match="params has no 'W1'"):
        net.loss(x)


def test_batches_of_every_size_and_pictures_for_fully_connected_nets():
    net = FullyConnectedNet([6], input_dim=27, num_classes=3, weight_scale=0.1)
    for count in (1, 7, 3, 200, 2):
        x = RNG.standard_normal((count, 3, 3, 3))
        assert net.loss(x).shape == (count, 3)
        np.testing.assert_array_equal(net.loss(x), net.loss(x.reshape(count, -1)))
        assert np.isfinite(net.loss(x, np.zeros(count, int))[0])
    with pytest.raises(ValueError, match=r"X must have shape \(N, 27\), got \(2, 5\)"):
        net.loss(np.zeros((2, 5)))


def test_running_figures_are_in_bn_params_and_are_read_from_there():
    np.random.seed(0)
    net = FullyConnectedNet([6, 5], 4, 4, normalization="batchnorm", dtype=np.float64, weight_scale=1.0)
    x, y = examples(net, 50)
    assert [p["mode"] for p in net.bn_params] == ["train", "train"] and "running_mean" not in net.bn_params[0]
    net.loss(x, y)
    affine = x @ net.params["W1"] + net.params["b1"]
    np.testing.assert_allclose(net.bn_params[0]["running_mean"], 0.1 * affine.mean(axis=0))
    np.testing.assert_allclose(net.bn_params[0]["running_var"], 0.1 * affine.var(axis=0))
    scores = net.loss(x)
    assert net.bn_params[0]["mode"] == "test"
    np.testing.assert_array_equal(net.loss(x), scores)
    net.bn_params[0]["running_mean"] = net.bn_params[0]["running_mean"] + 1
    assert not np.allclose(net.loss(x), scores)
    net.bn_params[0]["momentum"] = 0.0
    net.loss(x, y)
    np.testing.assert_allclose(net.bn_params[0]["running_mean"], affine.mean(axis=0))


def test_dropout_drops_other_numbers_each_time_unless_it_has_a_seed():
    x, y = RNG.standard_normal((20, 15)), RNG.integers(0, 4, 20)
    losses = {}
    for seed in (None, 5):
        net = FullyConnectedNet([40], 15, 4, 0.5, weight_scale=0.5, seed=seed)
        losses[seed] = {net.loss(x, y)[0] for _ in range(3)}
        np.testing.assert_array_equal(net.loss(x), net.loss(x))
    assert len(losses[None]) == 3 and len(losses[5]) == 1
    assert not FullyConnectedNet([4], 15, 4, 1).use_dropout and not FullyConnectedNet([4], 15, 4, dropout=0).use_dropout
    with pytest.raises(ValueError, match="keeping must be from 0 to 1"):
        FullyConnectedNet([4], 15, 4, 1.5)
    with pytest.raises(ValueError, match="normalization must be None, 'batchnorm' or 'layernorm', got 'instance'"):
        FullyConnectedNet([4], 15, 4, normalization="instance")


def test_what_is_not_finite_is_returned_as_in_the_course():
    net, x, y = two_layers()
    net.params["W1"] = net.params["W1"] * 1e200
    net.params["W2"] = net.params["W2"] * 1e200
    assert not np.isfinite(net.loss(x)).all()
    loss, grads = net.loss(x, y)
    assert np.isnan(loss) and set(grads) == set(net.params)


# ---- the Solver


def blobs(shape=(6,), count=300):
    """Three classes that can be told apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    centres = rng.standard_normal((3, *shape))
    x = centres[y] + 0.3 * rng.standard_normal((count, *shape))
    cut = count * 2 // 3
    return {"X_train": x[:cut], "y_train": y[:cut], "X_val": x[cut:], "y_val": y[cut:]}


@pytest.mark.parametrize(
    "make",
    [
        lambda: TwoLayerNet(6, 20, 3, weight_scale=0.1),
        lambda: FullyConnectedNet([20], 6, 3, 0.8, "batchnorm", weight_scale=0.1),
    ],
)
def test_a_solver_trains_the_compiled_step_and_leaves_the_course_s_arrays(make, capsys):
    np.random.seed(0)
    net = make()
    old = net.params["W1"]
    first = old.copy()
    solver = Solver(net, blobs(), update_rule="adam", optim_config={"learning_rate": 1e-2}, num_epochs=5, batch_size=20)
    solver.train()
    assert solver.best_val_acc > 0.95 and len(solver.loss_history) == 50
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("(Iteration 1 / 50) loss: 1.") and lines[1].startswith("(Epoch 0 / 5) train acc: 0.")
    np.testing.assert_array_equal(old, first)  # whoever kept an array sees it unchanged
    assert set(solver.best_params) == set(net.params) and not np.array_equal(net.params["W1"], old)
    data = blobs()
    assert np.mean(net.loss(data["X_val"]).argmax(axis=1) == data["y_val"]) == solver.best_val_acc
    assert solver.check_accuracy(data["X_val"], data["y_val"]) == solver.best_val_acc


def test_a_compiled_solver_takes_the_steps_of_the_course_s_rules():
    """The same minibatches through loss and optim, in Python, give the same losses and weights."""
    from nbnn.course import optim

    np.random.seed(0)
    net = FullyConnectedNet([10, 8], 6, 3, reg=0.1, weight_scale=0.3, dtype=np.float64)
    twin = FullyConnectedNet([10, 8], 6, 3, reg=0.1, dtype=np.float64)
    twin.params = {name: value.copy() for name, value in net.params.items()}
    data = blobs()
    options = {"optim_config": {"learning_rate": 1e-2}, "num_epochs": 1, "batch_size": 50, "verbose": False}
    solver = Solver(net, data, update_rule="rmsprop", **options)
    rows = solver._epoch_rows()
    solver.train()
    configs, losses = {}, []
    for row in rows:
        loss, grads = twin.loss(data["X_train"][row], data["y_train"][row])
        losses.append(loss)
        for name in twin.params:
            config = configs.get(name, {"learning_rate": 1e-2})
            twin.params[name], configs[name] = optim.rmsprop(twin.params[name], grads[name], config)
    np.testing.assert_allclose(solver.loss_history, losses, rtol=1e-10)


def test_steps_that_are_not_finite_are_counted_and_change_nothing():
    net = TwoLayerNet(6, 20, 3, weight_scale=1e160)
    before = {name: value.copy() for name, value in net.params.items()}
    solver = Solver(net, blobs(), num_epochs=1, batch_size=50, verbose=False)
    solver.train()
    assert len(solver.loss_history) == 4 and not np.isfinite(solver.loss_history).any()
    for name, value in before.items():
        np.testing.assert_array_equal(net.params[name], value)


class Deeper(TwoLayerNet):
    """A student's subclass with a loss of its own and a parameter more."""

    def __init__(self, **options):
        super().__init__(6, 20, 20, **options)
        self.params["W3"], self.params["b3"] = 0.3 * np.random.randn(20, 3), np.zeros(3)

    def loss(self, X, y=None):
        p = self.params
        hidden, first = affine_relu_forward(X, p["W1"], p["b1"])
        hidden, second = affine_relu_forward(hidden, p["W2"], p["b2"])
        scores, third = affine_forward(hidden, p["W3"], p["b3"])
        if y is None:
            return scores
        loss, dout = softmax_loss(scores, y)
        grads = {}
        dout, grads["W3"], grads["b3"] = affine_backward(dout, third)
        dout, grads["W2"], grads["b2"] = affine_relu_backward(dout, second)
        _, grads["W1"], grads["b1"] = affine_relu_backward(dout, first)
        return loss, grads


def test_a_subclass_with_its_own_loss_trains_in_python():
    np.random.seed(0)
    net = Deeper(weight_scale=1.0)
    options = {"optim_config": {"learning_rate": 1e-2}, "num_epochs": 40, "batch_size": 20, "verbose": False}
    solver = Solver(net, blobs(), update_rule="adam", **options)
    first = net.params["W3"].copy()
    solver.train()
    assert solver.best_val_acc > 0.9 and not np.array_equal(net.params["W3"], first)


def test_a_solver_that_is_given_reg_for_a_net_says_whose_it_is():
    with pytest.raises(ValueError, match="net.reg"):
        nbnn.Solver(TwoLayerNet(6, 4, 3), blobs(), reg=0.1)


def test_a_convnet_trains_and_a_checkpoint_is_no_pickle(tmp_path):
    np.random.seed(0)
    net = ThreeLayerConvNet((3, 6, 6), 4, 3, 10, 3, weight_scale=0.1, use_batchnorm=True)
    name = tmp_path / "net"
    data = blobs((3, 6, 6))
    options = {"num_epochs": 3, "batch_size": 20, "verbose": False, "checkpoint_name": str(name)}
    solver = Solver(net, data, update_rule="adam", optim_config={"learning_rate": 1e-2}, **options)
    solver.train()
    assert solver.best_val_acc > 0.9
    from safetensors.numpy import load_file

    kept = load_file(tmp_path / "net_epoch_3.safetensors")
    assert len(kept) == len(net.params) + 4 and kept["conv1.w"].shape == (4, 3, 3, 3)
    x = data["X_val"]
    scores = []
    solver.callbacks.append(lambda s: scores.append(net.loss(x)))
    solver.train()
    for epoch, wanted in enumerate(scores, 4):
        other = ThreeLayerConvNet((3, 6, 6), 4, 3, 10, 3, use_batchnorm=True)
        other.load(tmp_path / f"net_epoch_{epoch}.safetensors")
        assert other.loss(x).tobytes() == wanted.tobytes()


def test_accuracies_are_those_of_the_net_as_it_is_now():
    np.random.seed(0)
    net, data = FullyConnectedNet([10], 6, 3, 0.5, "batchnorm", weight_scale=0.5), blobs()
    solver = Solver(net, data, num_epochs=1, verbose=False)

    def wanted():
        return (net.loss(data["X_val"]).argmax(axis=1) == data["y_val"]).mean()

    assert solver.check_accuracy(data["X_val"], data["y_val"]) == wanted()
    net.params["W2"] = -net.params["W2"]
    net.bn_params[0]["running_var"] = np.full(10, 4.0)
    assert solver.check_accuracy(data["X_val"], data["y_val"]) == wanted()
    net.dropout_param["p"] = 0.9  # another graph
    net.params["W1"] *= -1
    assert solver.check_accuracy(data["X_val"], data["y_val"]) == wanted()
    before = net.params["W1"]
    solver.train()
    assert not np.array_equal(net.params["W1"], before)


@pytest.mark.parametrize("make", [lambda: TwoLayerNet(6, 20, 3, weight_scale=0.5), lambda: Deeper(weight_scale=1.0)])
def test_training_again_keeps_the_best_weights(make):
    np.random.seed(0)
    net, data = make(), blobs()
    options = {"optim_config": {"learning_rate": 1e-2}, "num_epochs": 10, "batch_size": 20, "verbose": False}
    solver = Solver(net, data, update_rule="adam", **options)
    solver.train()
    best = {name: value.copy() for name, value in solver.best_params.items()}
    data["y_train"][:] = (data["y_train"] + 1) % 3  # from here on it learns what is wrong
    solver.train()
    assert solver.val_acc_history[-1] < 0.1 < solver.best_val_acc
    for name, value in best.items():
        np.testing.assert_array_equal(net.params[name], value)
        np.testing.assert_array_equal(solver.best_params[name], value)


def test_the_seed_and_the_meaning_of_p_may_change():
    x, y = RNG.standard_normal((200, 15)), RNG.integers(0, 4, 200)
    net = FullyConnectedNet([400], 15, 4, 0.9, weight_scale=0.5, seed=5)
    first = net.loss(x, y)[0]
    net.dropout_param["seed"] = 6
    assert net.loss(x, y)[0] != first
    net.dropout_param["seed"] = 5
    assert net.loss(x, y)[0] == first
    net.dropout_param["p_means"] = "drop"
    assert net.loss(x, y)[0] != pytest.approx(first, rel=0.1)  # nine in ten are dropped now


def test_a_loss_of_its_own_may_be_put_on_one_net():
    net = TwoLayerNet(6, 4, 3)
    asked = []

    def loss(X, y=None):
        asked.append(len(X))
        return TwoLayerNet.loss(net, X, y)

    net.loss = loss
    Solver(net, blobs(), num_epochs=1, batch_size=50, verbose=False).train()
    assert asked.count(50) >= 4


def test_a_subclass_may_add_to_the_loss():
    class Shifted(TwoLayerNet):
        def loss(self, X, y=None):
            found = super().loss(X, y)
            return found if y is None else (found[0] + 1, found[1])

    np.random.seed(0)
    net = Shifted(6, 4, 3)
    solver = Solver(net, blobs(), num_epochs=1, batch_size=50, verbose=False)
    solver.train()
    assert solver.loss_history[0] > 2


def test_pictures_with_channels_last_are_refused_not_scrambled():
    with pytest.raises(ValueError, match=r"channels come first: X.transpose\(0, 3, 1, 2\)"):
        ThreeLayerConvNet((3, 8, 8)).loss(np.zeros((2, 8, 8, 3)))


def test_layernorm_nets_have_settings_for_each_norm():
    net = FullyConnectedNet([6, 5], 4, 3, normalization="layernorm")
    net.loss(np.zeros((2, 4)), [0, 1])
    assert net.bn_params == [{}, {}]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_float32_net_trains_on_any_float(dtype):
    histories = []
    for kind in (np.float32, dtype):
        np.random.seed(0)
        data = {k: v.astype(kind) if k.startswith("X") else v for k, v in blobs().items()}
        solver = Solver(FullyConnectedNet([8], 6, 3), data, num_epochs=1, batch_size=20, verbose=False)
        solver.train()
        histories.append(solver.loss_history)
    assert histories[0] == histories[1]


# ---- kept in a file, and copied


def normed(**options):
    return FullyConnectedNet([5], 4, 3, use_batchnorm=True, **options)


def test_a_net_comes_back_from_a_file_with_its_running_figures(tmp_path):
    x, y = RNG.standard_normal((20, 4)), RNG.integers(0, 3, 20)
    net, other = normed(weight_scale=0.5), normed(dtype=np.float64)
    before, _ = net.loss(x), net.loss(x, y)
    assert not np.array_equal(net.loss(x), before)
    net.params["b1"] = list(net.params["b1"])
    net.save(tmp_path / "best_net.npy")
    other.load(tmp_path / "best_net.npy")
    assert other.params["W1"].dtype == np.float64
    np.testing.assert_allclose(other.loss(x), net.loss(x), rtol=1e-5)
    for key in ("running_mean", "running_var"):
        np.testing.assert_array_equal(other.bn_params[0][key], net.bn_params[0][key])
    assert nbnn.load(tmp_path / "best_net.npy").loss(np.float32(x)).tobytes() == net.loss(x).tobytes()


def test_a_file_of_another_net_or_a_damaged_one_changes_nothing(tmp_path):
    net, path = normed(weight_scale=0.5), tmp_path / "net.safetensors"
    net.save(path)
    good = path.read_bytes()

    def refused(text, target):
        before = {name: value.tobytes() for name, value in target.params.items()}
        with pytest.raises(nbnn.files.FileError, match=text):
            target.load(path)
        assert {name: value.tobytes() for name, value in target.params.items()} == before

    refused("holds another net", FullyConnectedNet([6], 4, 3, use_batchnorm=True))
    refused("holds another net", FullyConnectedNet([5], 4, 3, normalization="layernorm"))
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused("its checksum is not that of what it holds", normed())
    path.write_bytes(good)
    net.params["b1"][0] = np.nan
    with pytest.raises(nbnn.files.FileError, match="holds a NaN or an infinity, so the model is not saved"):
        net.save(path)
    assert path.read_bytes() == good
    with pytest.raises(FileNotFoundError, match="^there is no file"):
        net.load(tmp_path / "nowhere")


def test_a_save_of_its_own_does_not_take_over_the_solver_s_files(tmp_path):
    class Own(TwoLayerNet):
        def save(self, name):
            raise AssertionError("asked")

    np.random.seed(0)
    options = {"num_epochs": 1, "verbose": False, "checkpoint_name": str(tmp_path / "net")}
    Solver(Own(6, 4, 3), blobs(), checkpoint=tmp_path / "run", **options).train()
    assert (tmp_path / "net_epoch_1.safetensors").exists() and (tmp_path / "run" / "best.safetensors").exists()


class Noted(TwoLayerNet):
    __slots__ = ("note",)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_net_may_be_copied_also_after_it_was_compiled(copied):
    x, y = RNG.standard_normal((20, 4)), RNG.integers(0, 3, 20)
    net = normed(weight_scale=0.5, dropout=0.5)
    net.loss(x, y)
    other = copied(net)
    assert other.loss(x).tobytes() == net.loss(x).tobytes()
    for _ in range(2):  # what is dropped next is the same, too
        assert other.loss(x, y)[0] == net.loss(x, y)[0]
    other.params["W1"][...] = 0
    assert net.params["W1"].any()
    noted = Noted(4, 5, 3)
    noted.note = "kept"
    assert copied(noted).note == "kept"


# ---- what does not fit gets a sentence


def spoilt(make=normed, **changes):
    net = make()
    for name, value in changes.items():
        setattr(net, name, value)
    net.loss(np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (lambda: FullyConnectedNet(5), "hidden_dims must be a list of sizes, such as [100, 50], got 5"),
        (lambda: FullyConnectedNet([5, 0]), "hidden_dims[1] must be a whole number of at least 1, got 0"),
        (lambda: TwoLayerNet(15, 5.5, 10), "hidden_dim must be a whole number of at least 1, got 5.5"),
        (lambda: ThreeLayerConvNet(num_filters=0), "num_filters must be a whole number of at least 1, got 0"),
        (lambda: spoilt(bn_params=[]), "bn_params must be a list of a dict for each of the 1 batchnorms"),
        (
            lambda: spoilt(bn_params=[{"running_mean": np.zeros(7)}]),
            'bn_params[0]["running_mean"] must keep its shape (5,), got (7,)',
        ),
        (
            lambda: spoilt(lambda: FullyConnectedNet([5], 4, 3, 0.5), dropout_param={"mode": "train"}),
            'dropout_param has no "p", the probability of keeping a number',
        ),
        (
            lambda: spoilt(lambda: FullyConnectedNet([5], 4, 3, 0.5), dropout_param={"p": 0.5, "p_means": "dorp"}),
            'dropout_param["p_means"] must be "keep" or "drop", got \'dorp\'',
        ),
        (lambda: spoilt(params={}), "\"params has no 'W1'; this net has W1, b1, gamma1, beta1, W2, b2\""),
        (
            lambda: TwoLayerNet(12, 5, 3).loss(np.zeros((0, 3, 2, 2))),
            "X holds no example: its shape is (0, 12); an empty batch cannot be computed on",
        ),
    ],
)
def test_wrong_use_gets_a_sentence(what, sentence):
    with pytest.raises((ValueError, TypeError, KeyError)) as found:
        what()
    assert str(found.value) == sentence


def test_whole_floats_are_sizes():
    assert TwoLayerNet(4.0, 5.0, 3.0).params["W1"].shape == (4, 5)
