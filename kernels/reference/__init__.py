"""What every kernel means, in plain NumPy: the same names and arguments, the outputs filled in place, nothing returned.

Nothing here is fast and nothing is clever: loops run over the cells of a window, sums are NumPy's, arithmetic is that
of the arrays. Tests hold the kernels to these functions, and `compile(graph, backend="numpy")` runs on them, so that a
debugger can walk through a step. They ask for no room behind the channels and touch none.
"""

from nbnn.kernels.reference.activation import (
    gelu_backward,
    gelu_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    silu_backward,
    silu_forward,
    tanh_backward,
    tanh_forward,
)
from nbnn.kernels.reference.affine import affine_backward_data, affine_backward_weights, affine_forward
from nbnn.kernels.reference.arrays import (
    add_forward,
    add_slots,
    clear_frame,
    collect_groups,
    copy,
    copy_channels,
    copy_rows,
    expand_groups,
    flatten_backward,
    flatten_forward,
    lengths,
    turn,
)
from nbnn.kernels.reference.augment import augment
from nbnn.kernels.reference.conv import (
    conv_backward_data,
    conv_backward_data_narrow,
    conv_backward_weights,
    conv_forward,
)
from nbnn.kernels.reference.depthwise import (
    conv_backward_data_depthwise,
    conv_backward_weights_depthwise,
    conv_forward_depthwise,
)
from nbnn.kernels.reference.dropout import dropout
from nbnn.kernels.reference.gather import gather, gather_labels, gather_lengths
from nbnn.kernels.reference.halves import conv_backward_weights_halves, conv_forward_halves, halve_weights
from nbnn.kernels.reference.loss import add_total, mse_loss, softmax_loss, svm_loss
from nbnn.kernels.reference.norm import (
    affine_gradients,
    batch_gradients,
    batch_statistics,
    channel_moments,
    group_gradients,
    group_statistics,
    norm_backward,
    norm_forward,
    norm_sums,
    running_statistics,
    scale_backward_weights,
    scale_forward,
)
from nbnn.kernels.reference.plane import conv_backward_weights_plane, conv_forward_plane
from nbnn.kernels.reference.pool import (
    avg_pool_backward,
    avg_pool_forward,
    global_avg_pool_backward,
    global_avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from nbnn.kernels.reference.update import add_l2, average, clip_norm, square_sums, trust, update
from nbnn.kernels.reference.winograd import (
    conv_backward_weights_winograd,
    conv_forward_winograd,
    conv_winograd_wide,
    winograd_weights,
    winograd_weights_turned,
)

__all__ = [
    "add_forward",
    "add_l2",
    "add_slots",
    "add_total",
    "affine_backward_data",
    "affine_backward_weights",
    "affine_forward",
    "affine_gradients",
    "augment",
    "average",
    "avg_pool_backward",
    "avg_pool_forward",
    "batch_gradients",
    "batch_statistics",
    "channel_moments",
    "clear_frame",
    "clip_norm",
    "collect_groups",
    "conv_backward_data",
    "conv_backward_data_depthwise",
    "conv_backward_data_narrow",
    "conv_backward_weights",
    "conv_backward_weights_depthwise",
    "conv_backward_weights_halves",
    "conv_backward_weights_plane",
    "conv_backward_weights_winograd",
    "conv_forward",
    "conv_forward_depthwise",
    "conv_forward_halves",
    "conv_forward_plane",
    "conv_forward_winograd",
    "conv_winograd_wide",
    "copy",
    "copy_channels",
    "copy_rows",
    "dropout",
    "expand_groups",
    "flatten_backward",
    "flatten_forward",
    "gather",
    "gather_labels",
    "gather_lengths",
    "gelu_backward",
    "gelu_forward",
    "global_avg_pool_backward",
    "global_avg_pool_forward",
    "group_gradients",
    "group_statistics",
    "halve_weights",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "lengths",
    "max_pool_backward",
    "max_pool_forward",
    "mse_loss",
    "norm_backward",
    "norm_forward",
    "norm_sums",
    "relu_backward",
    "relu_forward",
    "running_statistics",
    "scale_backward_weights",
    "scale_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_loss",
    "square_sums",
    "svm_loss",
    "tanh_backward",
    "tanh_forward",
    "trust",
    "turn",
    "update",
    "winograd_weights",
    "winograd_weights_turned",
]
