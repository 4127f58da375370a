"""The minibatch and its labels."""

from nbnn.kernels.reference.arrays import lengths


def gather(data, code, rows, x):
    """x[n, i, j, c] = data[rows[n], c, i, j].

    The kernel takes the address of the data and the code of its dtype; here data is the array, (N, C, H, W) or (N, D).
    """
    count, height, width, channels = x.shape
    x[...] = data[rows].reshape(count, channels, height, width).transpose(0, 2, 3, 1)


def gather_lengths(data, code, rows, x, y):
    """The minibatch, and y[n] = the length of x[n] as a vector."""
    gather(data, code, rows, x)
    lengths(x, y)


def gather_labels(all_labels, rows, labels):
    """labels[n] = all_labels[rows[n]]."""
    labels[...] = all_labels[rows]
