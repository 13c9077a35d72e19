"""Weight formats of decode_linear: `pack` a weight [O, I] once, `unpack` it for checks and for the prefill
path.

    w16     the weight itself, in the dtype of the activations; no copy
    w8a16   int8, one fp32 scale a row:            w = q * scale[o],                    q in -127..127
    w4a16   4 bits, groups of 128 along I:         w = (q - zero[g, o]) * scale[g, o],  q and zero in 0..15

Quantisation is round to nearest between the extremes of the row or group. Knows nothing of kernels beyond the
order of the nibbles: byte j of a block of 256 weights holds weight j (low) and weight 128 + j (high), so that
a block's low and high nibbles are two whole groups and no weight has to move between lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tte_kernels._check import FLOAT_DTYPES, check_choice, check_int, check_tensor, describe
from tte_kernels.errors import KernelTypeError

__all__ = ["FORMATS", "GROUP", "PackedWeight", "pack", "unpack"]

FORMATS: tuple[str, ...] = ("w16", "w8a16", "w4a16")
GROUP = 128
# Smaller scales would be subnormal in fp16; weights below it all become zero, as they may.
_MIN_SCALE = 2.0**-14


@dataclass(frozen=True)
class PackedWeight:
    """A weight in one of `FORMATS`. Made by `pack`, read by decode_linear; its fields are no promise to
    anyone else.

    Attributes:
        format: one of `FORMATS`.
        in_features: I, which the padding of w4a16 hides in the shape of `data`.
        data: [O, I] in the activations' dtype (w16); [O, I] int8 (w8a16); [O, ceil(I / 256) * 128] int8
            (w4a16).
        scale: None (w16); [O] float32 (w8a16); [ceil(I / 256) * 2, O] float16 (w4a16).
        zero: None, or [ceil(I / 256) * 2, O] int8 (w4a16).
    """

    format: str
    in_features: int
    data: torch.Tensor
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        """O, gate and up rows counted both."""
        return self.data.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(part.nbytes for part in (self.data, self.scale, self.zero) if part is not None)


def pack(weight: torch.Tensor, format: str = "w16") -> PackedWeight:
    """Packs weight [O, I] (float32, float16 or bfloat16, rows may be strided; I > 0).

    Raises:
        KernelTypeError: a wrong dtype. KernelInputError: not two-dimensional, no columns, or an unknown format.
    """
    check_choice("decode_linear.pack", "format", format, FORMATS)
    check_tensor("decode_linear.pack", "weight", weight, ("O", "I"), FLOAT_DTYPES)
    in_features = check_int("decode_linear.pack", "I of weight", weight.shape[1], 1)
    if format == "w16":
        return PackedWeight(format, in_features, weight)
    if format == "w8a16":
        wide = weight.float()
        scale = (wide.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        data = (wide / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        return PackedWeight(format, in_features, data, scale)
    return _pack_4bit(weight)


def _pack_4bit(weight: torch.Tensor) -> PackedWeight:
    out_features, in_features = weight.shape
    padding = -in_features % (2 * GROUP)
    groups = torch.nn.functional.pad(weight.float(), (0, padding)).unflatten(1, (-1, GROUP))  # [O, G, 128]
    # Zero is always within the range, so that padding and pruned weights stay exactly zero.
    low, high = groups.amin(2).clamp_max(0), groups.amax(2).clamp_min(0)
    scale = ((high - low) / 15).clamp_min(_MIN_SCALE).half()
    zero = (-low / scale.float()).round().clamp(0, 15)
    codes = (groups / scale.float()[..., None] + zero[..., None]).round().clamp(0, 15).to(torch.uint8)
    even, odd = codes.unflatten(1, (-1, 2)).unbind(2)  # [O, blocks, 128] each
    data = (even | (odd << 4)).view(torch.int8).reshape(out_features, -1)
    return PackedWeight("w4a16", in_features, data, scale.T.contiguous(), zero.T.to(torch.int8).contiguous())


def unpack(packed: PackedWeight, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weight [O, I] that the kernels compute with, in `dtype`; for w16 in fp32 or its own dtype this is
    exact.

    Raises:
        KernelTypeError: no PackedWeight. KernelInputError: an unknown format, or a dtype that is no activation's.
    """
    if not isinstance(packed, PackedWeight):
        raise KernelTypeError(f"decode_linear.unpack: packed must be a PackedWeight, got {describe(packed)}.")
    check_choice("decode_linear.unpack", "packed.format", packed.format, FORMATS)
    check_choice("decode_linear.unpack", "dtype", dtype, FLOAT_DTYPES)
    if packed.format == "w16":
        return packed.data.to(dtype)
    assert packed.scale is not None
    if packed.format == "w8a16":
        return (packed.data.float() * packed.scale[:, None]).to(dtype)
    assert packed.zero is not None
    codes = packed.data.view(torch.uint8).unflatten(1, (-1, GROUP))  # [O, blocks, 128]
    groups = torch.stack((codes & 15, codes >> 4), 2).flatten(1, 2).float()  # [O, G, 128]
    weight = (groups - packed.zero.T[..., None].float()) * packed.scale.T[..., None].float()
    return weight.flatten(1)[:, : packed.in_features].to(dtype)
