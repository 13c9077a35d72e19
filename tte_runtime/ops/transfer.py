"""Between host and device without waiting: small tensors going up, results coming down. Knows no op and no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_device(
    values: Sequence[int] | Sequence[float] | Sequence[Sequence[int]] | Sequence[Sequence[float]],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """A tensor of `values`, or of rows of them, on `device`.

    The host does not wait for the copy, nor for anything queued before it.
    """
    tensor = torch.tensor(values, dtype=dtype)
    return upload(tensor, device)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on `device`; pinned on the way to a GPU, because a copy from pageable memory waits."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host.

    Args:
        tensor: on any device; what is written into it later does not change the copy.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._tensor = tensor.clone()

    def get(self) -> torch.Tensor:
        """The tensor on the host; waits until it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor
