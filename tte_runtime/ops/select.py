"""Which backend runs, decided once when a checkpoint is loaded."""

from __future__ import annotations

from tte_runtime.ops.torch_ops import TorchOps


def select_ops(device: str) -> TorchOps:
    """The backend for a device."""
    return TorchOps()
