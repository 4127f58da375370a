"""`nbnn.course.cnn` under the address that CS231n gives it."""

from nbnn.course.cnn import *  # noqa: F403
from nbnn.course.cnn import __all__ as __all__
