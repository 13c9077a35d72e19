"""What the engine asks of an embedding head, and how a checkpoint's head is loaded whatever its kind.

Knows kinds and files; knows no arithmetic, no cache of the engine and no request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from tte_runtime.errors import CheckpointError
from tte_runtime.heads.decoder_head import load_decoder_head
from tte_runtime.heads.latent_head import load_latent_head
from tte_runtime.heads.query_head import load_pooler, load_qformer
from tte_runtime.heads.spec import AttentionPooler, DecoderLayers, HeadSpec, LatentAttention
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import TensorFiles
from tte_runtime.ops import Pooling, TorchOps


class Head(Protocol):
    """A head over the states after `tap_layer` layers of the backbone."""

    tap_layer: int

    def forward(
        self, states: torch.Tensor, positions: torch.Tensor, lengths: list[int], pooling: Pooling
    ) -> torch.Tensor:
        """Vectors of several requests in one pass; what one gets does not depend on the others.

        Args:
            states: [T, C], tapped, one request after another.
            positions: int64 [3, T], on the host.
            lengths: tokens of every request.
            pooling: how each vector is finished (`dims`, `normalize`); which rows it is made of is the head's affair.

        Returns:
            float32 [S, C], zeros behind each vector's own dims.
        """
        ...


class _HeadFile(TensorFiles):
    """A head's file that knows what was read of it."""

    def __init__(self, folder: Path, file: str) -> None:
        super().__init__(folder, file)
        self.unread = set(self.names())

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """As `Tensors.get`."""
        self.unread.discard(name)
        return super().get(name, shape)


def load_head(
    folder: Path, spec: HeadSpec, backbone: DecoderSpec, ops: TorchOps, *, device: str, dtype: torch.dtype
) -> Head:
    """The head of a checkpoint.

    Raises:
        CheckpointError: its file is missing, or holds other tensors than a head of these sizes has.
    """

    def place(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=device, dtype=dtype).contiguous()

    files, sizes = _HeadFile(folder, spec.weights), spec.sizes
    head: Head
    if isinstance(sizes, DecoderLayers):
        head = load_decoder_head(files, sizes, backbone, ops, place, spec.tap_layer)
    elif isinstance(sizes, AttentionPooler):
        head = load_pooler(files, sizes, backbone, ops, place, spec.tap_layer)
    elif isinstance(sizes, LatentAttention):
        head = load_latent_head(files, sizes, backbone, ops, place, spec.tap_layer)
    else:
        head = load_qformer(files, sizes, backbone, ops, place, spec.tap_layer)
    if files.unread:
        raise CheckpointError(
            f"{folder / spec.weights} holds tensors that a head {spec.kind!r} of {sizes} does not have, "
            f"{min(files.unread)!r} among {len(files.unread)}. Set the sizes in tte.json to those it was trained with."
        )
    return head
