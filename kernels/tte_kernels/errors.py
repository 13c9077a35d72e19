"""The errors of tte_kernels.

    KernelError
    ├── KernelInputError    (ValueError)   an argument breaks the contract: shape, stride, range, device
    │   └── KernelTypeError (TypeError)    the same, for a wrong dtype or a wrong Python type
    └── KernelBackendError  (RuntimeError) the inputs are fine, but nothing here can run them

Every message names the argument, the value it had and the rule. This file does not know which op raises what.
"""

from __future__ import annotations

__all__ = ["KernelBackendError", "KernelError", "KernelInputError", "KernelTypeError"]


class KernelError(Exception):
    """Root of everything that tte_kernels raises on purpose."""


class KernelInputError(KernelError, ValueError):
    """An argument breaks the contract of an op; raised before anything is launched."""


class KernelTypeError(KernelInputError, TypeError):
    """An argument has the wrong dtype or Python type; raised before anything is launched."""


class KernelBackendError(KernelError, RuntimeError):
    """Nothing can run these inputs: Triton is missing, or tensors are on the CPU without the interpreter."""
