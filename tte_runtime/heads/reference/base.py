"""What the heads in plain torch share: one way to be called, to be saved and to be loaded. Knows no kind of head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tte_runtime.errors import CheckpointError
from tte_runtime.heads.spec import WEIGHTS


class HeadModule(nn.Module, ABC):
    """A head over tapped states. Its constructor takes the backbone's config and the sizes of its kind by name."""

    @abstractmethod
    def forward(self, tapped: Tensor, position_ids: Tensor, last: Tensor) -> Tensor:
        """Embed.

        Args:
            tapped: states after the tap layer, not normed, right-padded, [S, T, C].
            position_ids: the backbone's M-RoPE positions, int64 [3, S, T].
            last: index of the terminal token of each row, int64 [S]; what stands behind it is padding.

        Returns:
            L2-normalised vectors, fp32 [S, E] with E = C.
        """

    def initialise_from(self, backbone: Any) -> None:
        """Begin as a copy of parts of the backbone, where a kind can; the others keep their random start."""

    def save(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16, weights: str = WEIGHTS) -> None:
        """Write the parameters under their own names, in `dtype`, to the file `weights` of `folder`."""
        state = {key: value.detach().to(dtype).contiguous().cpu() for key, value in self.state_dict().items()}
        save_file(state, Path(folder) / weights, metadata={"format": "pt"})

    @classmethod
    def from_checkpoint(cls, folder: str | Path, config: Any, weights: str = WEIGHTS, **sizes: Any) -> Self:
        """Load a head as fp32, in eval mode.

        Raises:
            CheckpointError: the file is missing, or does not fit config and sizes.
        """
        return cls._filled(Path(folder) / weights, read_weights(folder, weights), config, **sizes)

    @classmethod
    def _filled(cls, path: Path, state: dict[str, Tensor], config: Any, **sizes: Any) -> Self:
        head = cls(config, **sizes).float()
        try:
            head.load_state_dict({key: value.float() for key, value in state.items()})
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not fit the backbone's config and the sizes {sizes}: {error}. "
                "Take all three from one checkpoint."
            ) from error
        return head.eval()


def read_weights(folder: str | Path, weights: str) -> dict[str, Tensor]:
    """The tensors of a head's file; raises CheckpointError where it is missing."""
    path = Path(folder) / weights
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; a tte_u checkpoint needs its head. Copy the whole checkpoint folder."
        )
    return load_file(path)
