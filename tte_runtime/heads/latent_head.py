"""NV-Embed's head, `latent_attention`, on the ops: every tapped state attends to learned latents, then the mean.

Its reference, and what the paper says of it, is `heads/reference/poolers.py`. Keys and values of the latents are the
same for all requests, so they are computed when the head is loaded. Knows no cache of the engine and no request.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from tte_runtime.heads.blocks import Attention, Mlp, Place
from tte_runtime.heads.spec import LatentAttention
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import Tensors
from tte_runtime.ops import Pooling, TorchOps
from tte_runtime.ops.transfer import to_device


class LatentHead:
    """Attention of the states to latents, an MLP, a final norm, and the mean over each request's tokens.

    Args:
        input_norm: [C], of the tapped states. cross, mlp: the blocks. latents: [L, C]. norm: [C].
        tap_layer: where in the backbone the states are tapped.
    """

    def __init__(
        self,
        input_norm: torch.Tensor,
        cross: Attention,
        mlp: Mlp,
        latents: torch.Tensor,
        norm: torch.Tensor,
        tap_layer: int,
    ) -> None:
        self.input_norm = input_norm
        self.cross = cross
        self.mlp = mlp
        self.norm = norm
        self.tap_layer = tap_layer
        with torch.inference_mode():
            self.latents = cross.keys_values(latents)

    def forward(
        self, states: torch.Tensor, positions: torch.Tensor, lengths: list[int], pooling: Pooling
    ) -> torch.Tensor:
        """As `Head.forward`; positions are not used."""
        ops, eps = self.cross.ops, self.cross.eps
        normed = ops.rms_norm(states, self.input_norm, eps)
        x = self.mlp.forward(self.cross.forward(normed, lengths, [self.latents] * len(lengths)))
        bounds = to_device([0, *itertools.accumulate(lengths)], torch.int32, x.device)
        return ops.pool_normalize(x, self.norm, eps, replace(pooling, cu_seqlens=bounds, mean=True))


def load_latent_head(
    files: Tensors, sizes: LatentAttention, backbone: DecoderSpec, ops: TorchOps, place: Place, tap_layer: int
) -> LatentHead:
    """A `latent_attention` head; raises CheckpointError where a tensor is missing or of another shape."""
    width = backbone.hidden_size
    return LatentHead(
        input_norm=place(files.get("input_norm.weight", (width,))),
        cross=Attention.load(files, "cross.", sizes.num_heads, backbone, ops, place),
        mlp=Mlp.load(files, "mlp.", sizes.intermediate_size, backbone, ops, place),
        latents=place(files.get("latents", (sizes.num_latents, width))),
        norm=place(files.get("norm.weight", (width,))),
        tap_layer=tap_layer,
    )
