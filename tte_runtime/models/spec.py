"""What a family of decoders differs in, as data: from a transformers config to one flat `DecoderSpec`.

Adding a family is adding a line to `FAMILIES`, if its decoder differs only in the fields of the spec.
Knows configs; knows no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tte_runtime.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class DecoderSpec:
    """Shape and flags of one decoder.

    Attributes:
        mrope_section: pairs of rotary dimensions for (time, height, width); `None` for plain RoPE.
        qkv_bias: biases on the projections of q, k and v.
        tied: the output embedding is the input embedding.
        prefixes: where the decoder's tensors may stand in a checkpoint; the first that exists is taken.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...] | None
    qkv_bias: bool
    tied: bool
    max_context: int
    prefixes: tuple[str, ...]

    @property
    def qkv_size(self) -> int:
        """Rows of the merged q, k, v projection: (H + 2K) * D."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def kv_bytes_per_token(self, bytes_per_value: int = 4) -> int:
        """Bytes of keys and values that one token takes in all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * bytes_per_value


def _qwen2_vl(config: Any) -> DecoderSpec:
    text = config.text_config
    rope = dict(text.rope_parameters)
    if rope.get("rope_type", "default") != "default":
        raise UnsupportedModelError(f"rope_type {rope['rope_type']!r} is not supported for qwen2_vl; only 'default'.")
    if any(kind != "full_attention" for kind in text.layer_types):
        raise UnsupportedModelError("sliding-window attention is not supported; set use_sliding_window=false.")
    head_dim = text.hidden_size // text.num_attention_heads
    section = tuple(rope["mrope_section"])
    if 2 * sum(section) != head_dim:
        raise CheckpointError(f"mrope_section {section} must sum to head_dim / 2 = {head_dim // 2}.")
    return DecoderSpec(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=text.intermediate_size,
        vocab_size=text.vocab_size,
        norm_eps=text.rms_norm_eps,
        rope_theta=rope["rope_theta"],
        mrope_section=section,
        qkv_bias=True,
        tied=bool(config.tie_word_embeddings),
        max_context=text.max_position_embeddings,
        prefixes=("model.language_model.", "language_model.model.", "model."),
    )


FAMILIES: dict[str, Callable[[Any], DecoderSpec]] = {"qwen2_vl": _qwen2_vl}


def check_family(family: object) -> None:
    """Raises UnsupportedModelError for a `model_type` that we have no decoder for."""
    if family not in FAMILIES:
        raise UnsupportedModelError(
            f"model family {family!r} is not supported. Supported: {', '.join(sorted(FAMILIES))}."
        )


def decoder_spec(config: Any) -> DecoderSpec:
    """The spec of a loaded transformers config; raises UnsupportedModelError for families we do not serve."""
    check_family(config.model_type)
    return FAMILIES[config.model_type](config)
