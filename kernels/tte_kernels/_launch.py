"""What all launchers share: may these tensors be launched here, and with which options.

Knows the three ways a kernel can run (a GPU; the interpreter on CPU tensors; not at all) and Programmatic
Dependent Launch (PDL). Imports Triton only inside functions, so that importing tte_kernels needs none. Does
not know any op but by its name.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from tte_kernels._check import check_bool
from tte_kernels._interpreter import mend_interpreter
from tte_kernels.errors import KernelBackendError, KernelInputError

__all__ = ["AMD_STAGES", "interpreted", "launch_options", "launcher", "pdl_enabled", "require_backend", "set_pdl"]

_pdl = False

AMD_STAGES = 2
"""Most stages of a pipeline on an AMD GPU. gfx942 has 64 KiB of shared memory a program, where the tables count on
Hopper's 227: with two stages every shipped tile fits. Stages change no bits."""


def interpreted() -> bool:
    """True where TRITON_INTERPRET was set before Triton was imported: kernels then run on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def launcher(op: str) -> Callable[..., Any]:
    """The function `launch` of an op's kernel.py, without the door's checks; imports Triton.

    Raises:
        KernelBackendError: Triton is not installed.
    """
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise KernelBackendError(f"{op}: Triton is not installed. Run: pip install triton") from error
    launch: Callable[..., Any] = importlib.import_module(f"tte_kernels.{op}.kernel").launch
    return launch


def require_backend(op: str, tensor: torch.Tensor) -> None:
    """Raises KernelBackendError where tensors like `tensor` cannot be launched, and says what would help."""
    if interpreted():
        if tensor.dtype == torch.bfloat16:
            raise KernelBackendError(
                f"{op}: the Triton interpreter is silently wrong in bfloat16. Use float32 or float16 with it."
            )
    elif not tensor.is_cuda:
        raise KernelBackendError(
            f"{op}: Triton kernels need tensors on a GPU, got {tensor.device}. Move them, set"
            " TRITON_INTERPRET=1 before the first import for a (slow) run in the interpreter, or call"
            f" tte_kernels.{op}.reference."
        )
    if interpreted():
        mend_interpreter()


def set_pdl(enabled: bool) -> None:
    """Turns Programmatic Dependent Launch on or off for all later launches of this process (off at start).

    Raises:
        KernelTypeError: no bool.
        KernelInputError: switched on where the current GPU is older than sm_90 or not NVIDIA's, or there is none.
    """
    global _pdl
    check_bool("set_pdl", "enabled", enabled)
    nvidia = torch.cuda.is_available() and not torch.version.hip  # gfx942 calls itself 9.4
    if enabled and (interpreted() or not nvidia or torch.cuda.get_device_capability()[0] < 9):
        raise KernelInputError(
            "set_pdl: enabled must be False without an NVIDIA GPU of compute capability 9.0, got True."
        )
    _pdl = enabled


def pdl_enabled() -> bool:
    """The value for the kernels' PDL constexpr."""
    return _pdl


def launch_options(
    num_warps: int, num_stages: int, *, fp_fusion: bool = False, maxnreg: int | None = None
) -> dict[str, Any]:
    """Keyword arguments of a launch. `maxnreg` is Triton's bound of a thread's registers, on NVIDIA's GPUs only.

    `enable_fp_fusion` is always given: Triton's default is on up to 3.9 and off from 3.10, and a multiply-add
    that is fused in one and not in the other changes bits. Off here, so that elementwise kernels round as
    their contract says; matrix products on tensor cores do not see it.
    """
    options: dict[str, Any] = {
        "num_warps": num_warps,
        "num_stages": min(num_stages, AMD_STAGES) if torch.version.hip else num_stages,
        "enable_fp_fusion": fp_fusion,
    }
    if maxnreg is not None and not torch.version.hip:
        options["maxnreg"] = maxnreg
    if _pdl:
        options["launch_pdl"] = True
    return options
