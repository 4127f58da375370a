"""`nbnn.course.cnn` under the address that CS231n gives it."""

from nbnn.course.cnn import ThreeLayerConvNet

__all__ = ["ThreeLayerConvNet"]
