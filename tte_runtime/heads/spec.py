"""A head's entry in the checkpoint's `tte.json`: its kind, the layer it reads, and its sizes.

    "head": {"kind": "qformer", "tap_layer": 20, "weights": "head.safetensors", "num_queries": 32, ...}

The kinds are the four that the paper compares (Think-Then-Embed, arXiv 2510.05014, ablation of TTE_u heads). It gives
no sizes but that of the best, 8 layers; the other defaults suit a backbone of 2B parameters, 1536 wide (Qwen2-VL-2B: 12
heads of 128). Knows sizes and their rules; knows no weights and no arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tte_runtime.errors import CheckpointError, one_of
from tte_runtime.models.spec import DecoderSpec

WEIGHTS = "head.safetensors"
READOUTS = ("last", "mean")


@dataclass(frozen=True)
class DecoderLayers:
    """Sizes of `decoder_layers`: a trained copy of the backbone's last layers, 8 in the paper.

    Attributes:
        readout: whose states become the vector, before the final norm: "last", the terminal token's, or "mean", the
            mean of all tokens'. The paper leaves it open.
    """

    num_layers: int = 8
    readout: str = "last"


@dataclass(frozen=True)
class AttentionPooler:
    """Sizes of `attention_pooler`: learned queries that attend to the states once; 1 to 16 of them in the paper."""

    num_queries: int = 1
    num_heads: int = 12
    intermediate_size: int = 4096


@dataclass(frozen=True)
class LatentAttention:
    """Sizes of `latent_attention`: states that attend to learned latents, 512 in NV-Embed (arXiv 2405.17428)."""

    num_latents: int = 512
    num_heads: int = 12
    intermediate_size: int = 4096


@dataclass(frozen=True)
class QFormer:
    """Sizes of `qformer`: blocks of learned queries, 32 in BLIP-2 (arXiv 2301.12597)."""

    num_layers: int = 2
    num_queries: int = 32
    num_heads: int = 12
    intermediate_size: int = 4096


Sizes = DecoderLayers | AttentionPooler | LatentAttention | QFormer
KINDS: dict[str, type[Sizes]] = {
    "decoder_layers": DecoderLayers,
    "attention_pooler": AttentionPooler,
    "latent_attention": LatentAttention,
    "qformer": QFormer,
}


def sizes_of(kind: object, given: Mapping[str, Any], width: int) -> Sizes:
    """The sizes of a head of this kind over states of `width`, those not given at their defaults.

    Raises:
        CheckpointError: unknown kind, field or readout, a size that is no whole number >= 1, or heads that cannot share
            `width`.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(one_of("head kind", kind, tuple(KINDS)))
    made = KINDS[kind]
    known = tuple(field.name for field in fields(made))
    for name, value in given.items():
        if name not in known:
            raise CheckpointError(f"head {kind!r}: " + one_of("field", name, known))
        if name == "readout":
            if value not in READOUTS:
                raise CheckpointError(f"head {kind!r}: " + one_of("readout", value, READOUTS))
        elif type(value) is not int or value < 1:
            raise CheckpointError(f"head {kind!r}: {name} must be a whole number >= 1, got {value!r}.")
    sizes = made(**given)
    if not isinstance(sizes, DecoderLayers) and width % sizes.num_heads:
        raise CheckpointError(
            f"head {kind!r}: {sizes.num_heads} attention heads cannot share states of {width} elements. Set num_heads "
            "to a divisor."
        )
    return sizes


@dataclass(frozen=True)
class HeadSpec:
    """A head's entry, checked.

    Attributes:
        kind: one of `KINDS`.
        tap_layer: the head reads the backbone's states after this many layers.
        weights: file name in the checkpoint's folder.
        sizes: of this kind.
    """

    kind: str
    tap_layer: int
    weights: str
    sizes: Sizes

    @classmethod
    def from_json(cls, entry: object, backbone: DecoderSpec) -> HeadSpec:
        """Checked against the backbone.

        Raises:
            CheckpointError: unknown kind, missing, unknown or impossible fields, or a tap that the backbone lacks.
        """
        if not isinstance(entry, dict):
            raise CheckpointError(f'the "head" of tte.json must be an object with its kind and sizes, got {entry!r}.')
        rest = dict(entry)
        kind, tap_layer, weights = rest.pop("kind", None), rest.pop("tap_layer", None), rest.pop("weights", WEIGHTS)
        sizes = sizes_of(kind, rest, backbone.hidden_size)
        if type(tap_layer) is not int or not 0 <= tap_layer <= backbone.num_layers:
            raise CheckpointError(
                f"head with tap_layer={tap_layer!r} does not fit a backbone of {backbone.num_layers} layers. "
                "Give the number of layers after which the states are read."
            )
        if not isinstance(weights, str):
            raise CheckpointError(f'the "weights" of a head must be a file name, got {weights!r}.')
        return cls(str(kind), tap_layer, weights, sizes)
