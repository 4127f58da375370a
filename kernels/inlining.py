"""How helpers become part of kernels in half of Numba's time.

For each place that calls a helper Numba works through the helper's text anew, and that of all helpers in it; and with
each block that it copies, it copies one by one all variables of the function. While our own code is compiled, a text is
worked through once, and a copy of a table of variables shares what is in it: nothing in there is ever changed.
"""

import contextlib

from numba.core import ir
from numba.core.inline_closurecall import InlineWorker

_texts: dict = {}  # of helpers, worked through with some settings


@contextlib.contextmanager
def quick_inlining():
    """Inline quickly in this block. Whoever inlines a text copies it before it changes it."""
    worked_through = InlineWorker.run_untyped_passes

    def once(worker, function, enable_ssa=False):
        worker.flags.enable_ssa = enable_ssa  # as is left behind by working it through
        key = function, str(worker.flags)
        if key not in _texts:
            _texts[key] = worked_through(worker, function, enable_ssa)
        return _texts[key]

    InlineWorker.run_untyped_passes, ir.Scope.__deepcopy__ = once, _copied
    try:
        yield
    finally:
        InlineWorker.run_untyped_passes = worked_through
        del ir.Scope.__deepcopy__


def _copied(scope, memo):
    """A scope with the same variables, to which others can be added."""
    twin = memo[id(scope)] = ir.Scope(scope.parent, scope.loc)
    twin.localvars._con.update(scope.localvars._con)
    twin.redefined.update(scope.redefined)
    twin.var_redefinitions.update({name: set(others) for name, others in scope.var_redefinitions.items()})
    return twin
