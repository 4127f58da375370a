"""The classifiers of CS231n: nearest neighbours, linear ones, and the nets under their older address."""

from nbnn.course.classifiers.k_nearest_neighbor import KNearestNeighbor
from nbnn.course.classifiers.linear_classifier import LinearClassifier, LinearSVM, Softmax

__all__ = ["KNearestNeighbor", "LinearClassifier", "LinearSVM", "Softmax"]
