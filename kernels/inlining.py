"""How helpers become part of kernels without what Numba would do again and again.

For each place that calls a helper Numba works through the helper's text anew, and that of all helpers in it; and with
each block that it copies, it copies one by one all variables of the function. While a function of ours is compiled, a
helper's text is worked through once, and the copy of a table of variables holds the same variables.

This reaches into Numba 0.68 (`run_untyped_passes`, `Scope`) and is imported only when something is compiled. Numba's
compiler lock is held meanwhile, so nobody else compiles by it.
"""

import contextlib

from numba.core import ir
from numba.core.inline_closurecall import InlineWorker

_of_numba = InlineWorker.run_untyped_passes


@contextlib.contextmanager
def quick_inlining(helpers):
    """Inline these functions quickly in this block."""
    texts = {}

    def once(worker, function, enable_ssa=False):
        if function not in helpers:  # what is not inlined as text may be changed by who asks for it
            return _of_numba(worker, function, enable_ssa)
        worker.flags.enable_ssa = enable_ssa  # as is left behind by working it through
        key = function, str(worker.flags)
        if key not in texts:
            texts[key] = _of_numba(worker, function, enable_ssa)
        return texts[key]

    before, within = InlineWorker.run_untyped_passes, "__deepcopy__" in vars(ir.Scope)  # within such a block already
    try:
        InlineWorker.run_untyped_passes, ir.Scope.__deepcopy__ = once, _copied
        yield
    finally:
        InlineWorker.run_untyped_passes = before
        if not within and "__deepcopy__" in vars(ir.Scope):
            del ir.Scope.__deepcopy__


def _copied(scope, memo):
    """A scope with the same variables, to which others can be added."""
    twin = memo[id(scope)] = ir.Scope(scope.parent, scope.loc)
    twin.localvars._con.update(scope.localvars._con)
    twin.redefined.update(scope.redefined)
    twin.var_redefinitions.update({name: set(others) for name, others in scope.var_redefinitions.items()})
    return twin
