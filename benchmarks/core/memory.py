"""How much memory a call needs beyond what was held before it. Knows devices; knows no benchmark."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["peak_bytes"]

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"  # proc(5): writing 5 sets the high-water mark of resident memory to its present value


def peak_bytes(call: Callable[[], Any], device: str) -> int | None:
    """The rise of memory at its highest point during `call`; `None` where the system does not tell.

    On CUDA what torch allocates, on Linux resident memory, after the C library has given back what it held free.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - held)
    _give_back()
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        call()
        return None
    held = _kib("VmRSS")
    call()
    return max(0, 1024 * (_kib("VmHWM") - held))


def _give_back() -> None:
    """Let glibc return freed memory to the system, or a call that reuses it would seem to need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        gc.collect()
        trim(0)


def _kib(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])
