"""Pictures -> patches -> merged tokens, for whole batches of one size: the training-speed twin of processor
and vision tower.

Gives the same patches as transformers' Qwen2-VL image processor and the same features as its tower
(tests/training/test_vision.py holds both); it exists because the stock tower loops over the images of a
batch. Knows nothing of scenes or of losses.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel, rotate_half

from tte_runtime.compat import tower_rotation

PATCH, MERGE, TEMPORAL = 14, 2, 2
MIN_PIXELS, MAX_PIXELS = 28 * 28, 112 * 112


def shrink(image: Image.Image) -> np.ndarray:
    """A square picture at the size the processor would give it, uint8 [side, side, 3]; side is a multiple
    of 28 up to 112.
    """
    assert image.width == image.height, "the training pictures are square"
    side, _ = smart_resize(image.height, image.width, PATCH * MERGE, MIN_PIXELS, MAX_PIXELS)
    return np.asarray(image if image.width == side else image.resize((side, side), Image.Resampling.BICUBIC))


def patches_of(pixels: np.ndarray) -> Tensor:
    """uint8 [B, side, side, 3] -> normalised patches, float32 [B, (side/14)^2, 1176], in merge order."""
    batch, side = pixels.shape[:2]
    grid = side // PATCH
    mean, std = np.asarray(OPENAI_CLIP_MEAN, np.float32), np.asarray(OPENAI_CLIP_STD, np.float32)
    values = (pixels.astype(np.float32) * np.float32(1 / 255) - mean) / std
    blocks = values.reshape(batch, grid // MERGE, MERGE, PATCH, grid // MERGE, MERGE, PATCH, 3)
    # -> batch, row, column, row in merge, column in merge, channel, y, x; then both frames of the temporal
    # patch are equal.
    blocks = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)
    frames = np.broadcast_to(blocks[:, :, :, :, :, :, None], (*blocks.shape[:6], TEMPORAL, PATCH, PATCH))
    return torch.from_numpy(np.ascontiguousarray(frames).reshape(batch, grid * grid, -1))


def _positions(grid: int) -> Tensor:
    """(row, column) of every patch of a square grid in merge order, int64 [N, 2]."""
    index = torch.arange(grid * grid).view(grid // MERGE, MERGE, grid // MERGE, MERGE).transpose(1, 2).flatten()
    return torch.stack((index // grid, index % grid), dim=1)


def tower_features(tower: Qwen2VisionTransformerPretrainedModel, patches: Tensor) -> Tensor:
    """Merged-token features of a batch of equally large square pictures.

    patches: [B, N, 1176] with N a square number. Returns [B, N / 4, C]. The same sums as the stock tower,
    attention batched.
    """
    batch, count, _ = patches.shape
    weight = tower.patch_embed.proj.weight
    hidden = F.linear(patches, weight.view(weight.shape[0], -1))
    cos, sin = tower_rotation(tower.rotary_pos_emb, hidden, _positions(int(count**0.5)).to(hidden.device))
    cos, sin = cos.view(1, 1, count, -1), sin.view(1, 1, count, -1)
    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(batch, count, 3, attention.num_heads, attention.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query = (query * cos + rotate_half(query) * sin).to(value.dtype)
        key = (key * cos + rotate_half(key) * sin).to(value.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden.reshape(batch * count, -1)).view(batch, count // (MERGE * MERGE), -1)
