"""Triton's interpreter, mended where one of its releases fails beside a newer numpy. Knows no op.

Runs once, before the first launch in the interpreter; the compiler never sees it.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["mend_interpreter"]

MENDED_IN = (3, 7)


@functools.cache
def mend_interpreter() -> None:
    """Let an array of one element bound a loop, as Triton does from 3.7 on.

    All scalars of the interpreter are such arrays. Triton 3.6 turns them into Python integers with `int(array)`, which
    numpy 2.5 refuses unless the array has no dimension; `range(lo, hi)` in a kernel then raises TypeError.
    """
    import triton
    from triton.runtime import interpreter

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) >= MENDED_IN:
        return
    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_lang_tensor
