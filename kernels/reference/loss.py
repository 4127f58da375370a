"""Losses of one example each, losses[n], and the gradient of their mean, dx[n, k] = d(mean of losses) / d x[n, k]."""

import numpy as np


def softmax_loss(x, labels, smoothing, losses, dx):
    """losses[n] = log(sum over k of exp(x)) - sum over k of t * x,  t = (1 - s) * [k is the label] + s / K.

    dx = (p - t) / N, p the probabilities exp(x) / sum of exp(x).
    """
    count, classes = x.shape
    shifted = x - x.max(axis=1, keepdims=True)  # the loss does not change, and exp cannot overflow
    target = (1 - smoothing) * (np.arange(classes) == labels[:, None]) + smoothing / classes
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    parts = np.multiply(target, shifted, out=np.zeros_like(target), where=target > 0)  # no 0 * infinity
    losses[...] = np.log(sums[:, 0]) - parts.sum(axis=1)
    dx[...] = (powers / sums - target) / count


def svm_loss(x, labels, losses, dx):
    """losses[n] = sum over k, k not the label, of max(0, x[n, k] - x[n, label] + 1)."""
    count = len(x)
    rows = np.arange(count)
    margins = x - x[rows, labels][:, None] + 1
    margins[rows, labels] = 0
    losses[...] = np.maximum(margins, 0).sum(axis=1)
    above = margins > 0
    dx[...] = above / count
    dx[rows, labels] = -above.sum(axis=1) / count


def mse_loss(x, target, losses, dx):
    """losses[n] = mean over k of (x[n, k] - target[n, k])**2."""
    losses[...] = np.square(x - target).mean(axis=1)
    dx[...] = 2 * (x - target) / x.size


def add_total(values, factor, out):
    """out[0] += factor * sum of values."""
    out += factor * values.sum()
