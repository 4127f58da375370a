"""How Numba is made to give a kernel its entry.

This reaches into Numba 0.68 (`lower_normal_function`, `NativeLowering`) and is imported only when something is
compiled.
"""

from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering, NativeLowering

from nbnn.kernels.entry import add_entry


class _Lower(Lower):
    """Writes the entry behind the kernel itself."""

    def lower_normal_function(self, fndesc):
        super().lower_normal_function(fndesc)
        add_entry(self.context, self.function, fndesc)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(BaseNativeLowering):
    _name = "native_lowering"

    @property
    def lowering_class(self):
        return _Lower


def with_entry(pipeline):
    """A pipeline of Numba's that also writes the entry."""
    pipeline.passes = [(_Lowering if one is NativeLowering else one, why) for one, why in pipeline.passes]
    pipeline.finalize()
    return pipeline
