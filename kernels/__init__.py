"""The loops. Every kernel keeps one contract:

- Arguments are inputs, then settings, then outputs, then the workers' own room where a kernel needs some. A kernel
  fills the outputs that it is given, allocates nothing, returns nothing and checks nothing: shapes, labels and settings
  were checked before.
- `@kernel` says what a plan must know: how many arrays are outputs, which input an output may lie on, and whether
  outputs are filled whole, so that their memory may have been another array's before.
- Work comes in items (`@kernel(each=...)`). Each item has one owner, which alone writes what belongs to the item and
  adds in a fixed order; so the bits of a result depend neither on the number of threads nor on who did what.
- A NaN survives: what goes in as NaN comes out as NaN, and never as a zero or as a maximum that hides it.
- An array of pictures is (example, row, column, channel), one of vectors (example, unit), and only the last axis must
  be dense. Arrays are logical views: a row of channels has room behind it up to a multiple of `simd.lanes_of(dtype)`,
  or more, which may be read and written whole. In forward values the room holds anything finite. In parameters and
  gradients it is zero and stays zero: that is what keeps it out of every sum. A kernel writes nothing else outside of
  its views, so frames of zeros stay zeros.
- Three exceptions. The x of conv and affine may be dense, without room, because a multiply reads it one number at a
  time. `copy_channels` touches logical numbers alone, because its views are pieces of wider pixels. The `places` of a
  max pool are bytes in the memory of numbers: the first bytes of a row, as many as the room for channels has numbers.
- Kernels that run over a row of pixels as one run of memory want the same room in each of their arrays. A frame around
  x or dy that a convolution reads (`pad`, `halo`) belongs to the array and holds zeros. Flat arenas are multiples of 16
  numbers long. Sums in slots have at least one example for each slot.
- `reference` has a plain NumPy function of the same name and arguments, which says what the kernel means.
- A file opens with its equation, its letters and who owns what.

Importing this package loads no Numba; `names` does, and so does every file of kernels.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbnn.kernels.jit import Kernel

if __name__ != "nbnn.kernels":
    raise ImportError(f'import this package as "nbnn.kernels", not as "{__name__}"')

_FILES = (
    "activation",
    "affine",
    "arrays",
    "augment",
    "conv",
    "depthwise",
    "dropout",
    "gather",
    "halves",
    "loss",
    "norm",
    "plane",
    "pool",
    "update",
    "winograd",
)


def names() -> "dict[str, Kernel]":
    """Every kernel by its name."""
    import importlib

    from nbnn.kernels.jit import Kernel

    modules = [importlib.import_module(f"nbnn.kernels.{file}") for file in _FILES]
    return {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Kernel)}
