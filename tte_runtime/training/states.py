"""What a decoder in training makes of a batch: states and logits, whatever its family and wherever features come from.

Features are given, never pixels: the preset has them from a bank, the stages from the frozen tower, batch by batch.
Knows tensors and transformers' decoders; knows nothing of prompts, nor of losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tte_runtime.engine.request import MediaSpan
from tte_runtime.models.vision import planes_of

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded on the right.

    Attributes:
        ids, labels: int64 [S, T].
        positions: int64 [3, S, T].
        mask: additive fp32 [S, 1, T, T], or int64 [S, T] with 1 where there is a token, or None for plain causal.
        features: of all placeholders in row order, [N, C], or [N, 1 + n, C] with n planes of DeepStack; or None.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor | None
    features: Tensor | None


def decode(model: Any, batch: Batch) -> Tensor:
    """States of all tokens after the final norm, [S, T, C]."""
    decoder, table = model.get_decoder(), model.get_input_embeddings()
    device = table.weight.device
    ids = batch.ids.to(device)
    embeds = table(ids)
    options: dict[str, Any] = {}
    if batch.features is not None:
        planes = batch.features.to(device, embeds.dtype)
        planes = planes.reshape(len(planes), -1, planes.shape[-1])
        slots = (ids == model.config.image_token_id) | (ids == model.config.video_token_id)
        embeds = embeds.masked_scatter(slots.unsqueeze(-1), planes[:, 0])
        if planes.shape[1] > 1:
            options = {"visual_pos_masks": slots, "deepstack_visual_embeds": list(planes[:, 1:].unbind(1))}
    positions = batch.positions.to(device)
    mask: Any = None if batch.mask is None else batch.mask.to(device)
    output = decoder(
        inputs_embeds=embeds,
        position_ids=positions if hasattr(model.config, "vision_config") else positions[0],
        attention_mask={"full_attention": mask} if mask is not None and mask.ndim == 4 else mask,
        use_cache=False,
        **options,
    )
    return output.last_hidden_state


def forward(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [N, V] and labels [N] of the supervised positions of a batch."""
    labels = batch.labels[:, 1:].to(model.lm_head.weight.device)
    asked = labels != IGNORED
    return model.lm_head(decode(model, batch)[:, :-1][asked]), labels[asked]


@contextmanager
def tapped(decoder: Any, layer: int) -> Iterator[None]:
    """Within it `decoder` ends after its first `layer` layers, without its norm: only those are computed."""
    layers, norm = decoder.layers, decoder.norm
    decoder.layers, decoder.norm = layers[:layer], nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = layers, norm


@torch.no_grad()
def see(model: Any, media: Sequence[MediaSpan]) -> Tensor | None:
    """Features of media by the model's own tower, which stays as it is: [N, 1 + n, C]; `None` where there are none."""
    if not media:
        return None
    tower = model.model.visual
    patches = torch.cat([span.handle.pixels for span in media]).to(tower.device, tower.dtype)
    return planes_of(tower(patches, grid_thw=torch.tensor([span.handle.grid for span in media], device=tower.device)))
