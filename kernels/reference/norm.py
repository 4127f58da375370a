"""Normalisation: y = (x - mean) * scale * gamma + beta, scale = 1 / sqrt(variance + eps). The kernels name the ops.

    dx = scale * (g - mean(g) - xhat * mean(g * xhat)),  g = dy * gamma,  xhat = (x - mean) * scale

Figures of examples and channels (n, c) meet pictures (n, i, j, c) through `_over`.
"""

import numpy as np


def _over(figures):
    """(n, c) as (n, 1, 1, c)."""
    return figures[:, None, None, :]


def channel_moments(x, mean, spread):
    """Of each example and channel: the mean over its places, and the sum of (x - mean)**2."""
    mean[...] = x.mean(axis=(1, 2))
    spread[...] = np.square(x - x.mean(axis=(1, 2), keepdims=True)).sum(axis=(1, 2))


def _join(means, spreads, places, axis):
    """Mean and variance of the union of sets of `places` numbers each, in float64.

    The squares around the common mean are those around each set's own mean, plus places * (own - common)**2.
    """
    means, spreads = means.astype(np.float64), spreads.astype(np.float64)
    mean = means.mean(axis=axis, keepdims=True)
    variance = (spreads + places * np.square(means - mean)).sum(axis=axis, keepdims=True) / (places * means.shape[axis])
    return mean.squeeze(axis), variance.squeeze(axis)


def batch_statistics(means, spreads, places, eps, momentum, running_mean, running_var, mean, scale):
    """Per channel over all examples. A channel whose figures are not finite leaves its running figures alone."""
    found, variance = _join(means, spreads, places, axis=0)
    mean[...] = found
    scale[...] = 1 / np.sqrt(variance + eps)
    good = np.isfinite(found) & np.isfinite(variance)
    running_mean[good] = (momentum * running_mean + (1 - momentum) * found)[good]
    running_var[good] = (momentum * running_var + (1 - momentum) * variance)[good]


def running_statistics(running_mean, running_var, eps, mean, scale):
    """What batchnorm uses outside training."""
    mean[...] = running_mean
    scale[...] = 1 / np.sqrt(running_var.astype(np.float64) + eps)


def group_statistics(means, spreads, places, groups, eps, mean, scale):
    """Per example and group of channels, written out for every channel of the group."""
    count, channels = means.shape
    apart = (count, groups, channels // groups)
    found, variance = _join(means.reshape(apart), spreads.reshape(apart), places, axis=2)
    mean[...] = np.repeat(found, channels // groups, axis=1)
    scale[...] = np.repeat(1 / np.sqrt(variance + eps), channels // groups, axis=1)


def norm_forward(x, mean, scale, gamma, beta, rectify, y):
    y[...] = (x - _over(mean)) * (_over(scale) * gamma) + beta
    if rectify:
        np.maximum(y, 0, out=y)


def _behind_relu(x, dy, mean, scale, gamma, beta, rectify):
    """dy, where a relu behind the norm lets it through."""
    return np.where((x - _over(mean)) * (_over(scale) * gamma) + beta <= 0, 0, dy) if rectify else dy


def norm_sums(x, dy, mean, scale, gamma, beta, rectify, sum_dy, sum_dy_xhat):
    """Over the places of each example and channel: the sum of dy, and that of dy * xhat."""
    dy = _behind_relu(x, dy, mean, scale, gamma, beta, rectify)
    sum_dy[...] = dy.sum(axis=(1, 2))
    sum_dy_xhat[...] = (dy * (x - _over(mean)) * _over(scale)).sum(axis=(1, 2))


def affine_gradients(sum_dy, sum_dy_xhat, gamma, dgamma, dbeta):
    dgamma[...] = sum_dy_xhat.sum(axis=0)
    dbeta[...] = sum_dy.sum(axis=0)


def batch_gradients(dgamma, dbeta, gamma, count, mean_g, mean_g_xhat):
    """mean(g) and mean(g * xhat) of each channel over its `count` elements."""
    mean_g[...] = gamma * dbeta / count
    mean_g_xhat[...] = gamma * dgamma / count


def group_gradients(sum_dy, sum_dy_xhat, gamma, places, groups, mean_g, mean_g_xhat):
    """mean(g) and mean(g * xhat) of each group of each example, written out for every channel of the group."""
    count, channels = sum_dy.shape
    size = channels // groups
    for sums, means in ((sum_dy, mean_g), (sum_dy_xhat, mean_g_xhat)):
        of_groups = (gamma * sums).reshape(count, groups, size).sum(axis=2) / (size * places)
        means[...] = np.repeat(of_groups, size, axis=1)


def norm_backward(x, dy, mean, scale, gamma, beta, mean_g, mean_g_xhat, rectify, dx):
    dy = _behind_relu(x, dy, mean, scale, gamma, beta, rectify)
    xhat = (x - _over(mean)) * _over(scale)
    dx[...] = _over(scale) * (dy * gamma - _over(mean_g) - xhat * _over(mean_g_xhat))


def scale_forward(x, gamma, y):
    y[...] = gamma * x


def scale_backward_weights(x, dy, dgamma):
    """dgamma[n, c] = sum over i, j of x * dy; `add_slots` adds the examples."""
    dgamma[...] = (x * dy).sum(axis=(1, 2))
