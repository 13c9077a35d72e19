"""What the device can do at best, measured: bytes a second by reading, and operations a second by one large product.

Both are the best of several repetitions: a ceiling is no average. Knows no model and no op.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tte_runtime.ops.matrices import OneDnn

__all__ = ["flop_rate", "read_bandwidth"]

REPETITIONS = 12
LARGEST = {"cpu": 1 << 28, "cuda": 1 << 31}  # bytes: far beyond any cache, and long beside the start of a kernel
PRODUCT = {"cpu": 1024, "cuda": 8192}  # rows and columns of the square product


def read_bandwidth(device: str, size: int | None = None) -> float:
    """GB/s of reading `size` bytes again and again.

    A model whose weights fit into the last cache is read from there, so its ceiling is that of its own size: give
    that. Sizes below 1 MiB, and above 256 MiB (2 GiB on CUDA), are taken as these, and the latter where none is given.
    """
    most = LARGEST[_kind(device)]
    size = min(max(size or most, 1 << 20), most)
    values = torch.ones(size // 4, device=device)
    return size / _best(values.sum, device) / 1e9


def flop_rate(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a square matrix product in `dtype`, multiply and add counted as two, by the fastest form there is."""
    side = PRODUCT[_kind(device)]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    forms: list[Callable[[], Any]] = [lambda: left @ right]
    if OneDnn.serves(right):  # on some CPUs twice as fast as the product above
        packed = OneDnn(right)
        forms.append(lambda: packed.times(left))
    return 2 * side**3 / min(_best(form, device) for form in forms) / 1e12


def _kind(device: str) -> str:
    return "cuda" if device.startswith("cuda") else "cpu"


def _best(call: Callable[[], Any], device: str) -> float:
    """Least seconds of a call."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds = []
    for _ in range(REPETITIONS):
        wait()
        started = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
