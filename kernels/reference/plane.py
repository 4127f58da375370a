"""Convolution of one channel, as of any number of them; what stands behind the outputs is room for the kernels."""

from nbnn.kernels.reference.conv import conv_backward_weights, conv_forward


def conv_forward_plane(x, w, b, dilation, y, plane):
    conv_forward(x, w, b, 1, dilation, y)


def conv_backward_weights_plane(x, dy, dilation, dw, db, plane, turned, sums):
    conv_backward_weights(x, dy, 1, dilation, dw, db)
