"""The loops."""
if __name__ != "nbnn.kernels":
    raise ImportError(f'import this package as "nbnn.kernels", not as "{__name__}"')


def names():
    """All kernels by name. Imports Numba."""
    import importlib

    from nbnn.kernels.jit import Kernel

    files = ("conv", "affine", "arrays", "activation", "pool", "norm", "dropout", "loss", "update", "gather")
    found = {}
    for file in files:
        found |= {k: v for k, v in vars(importlib.import_module(f"nbnn.kernels.{file}")).items() if isinstance(v, Kernel)}
    return found
