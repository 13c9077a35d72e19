"""What training refuses to write: weights that are NaN or infinite. Knows tensors; knows no files and no loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tte_runtime.errors import TrainingError

REMEDY = "Start anew with a lower learning rate, in another folder."


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Let only weights pass that are all numbers; `what` they are begins the sentence.

    Raises:
        TrainingError: some are NaN or infinite.
    """
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            f"{what}: {len(broken)} of {len(weights)} tensors are NaN or infinite ({broken[0]} is the first), and are "
            f"not written. {REMEDY}"
        )
