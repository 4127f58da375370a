"""The course's Solver: it trains the nets of the course as compiled steps, and any student's model in Python."""

from nbnn.solver import Solver

__all__ = ["Solver"]
