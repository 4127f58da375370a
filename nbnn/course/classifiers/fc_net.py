"""`nbnn.course.fc_net` under the address that CS231n gives it."""

from nbnn.course.fc_net import FullyConnectedNet, TwoLayerNet

__all__ = ["FullyConnectedNet", "TwoLayerNet"]
