"""`nbnn.course.fc_net` under the address that CS231n gives it."""

from nbnn.course.fc_net import *  # noqa: F403
from nbnn.course.fc_net import __all__ as __all__
