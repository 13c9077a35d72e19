"""What families of decoders differ in, as data: from a transformers config to one flat `DecoderSpec`.

Adding a family is adding a line to `FAMILIES`, if its decoder differs only in the fields of the spec.
Knows configs; knows no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tte_runtime.errors import CheckpointError, UnsupportedModelError
from tte_runtime.models.rope import RopeSpec, rope_spec


@dataclass(frozen=True)
class DecoderSpec:
    """Shape and flags of one decoder.

    Attributes:
        rope: how positions turn queries and keys.
        qkv_bias: biases on the projections of q, k and v.
        qk_norm: an RMSNorm over each head of q and k before the rotation.
        num_deepstack: after each of so many first layers, features of the tower are added to picture tokens
            (DeepStack, arXiv 2406.04334, as in Qwen3-VL).
        tied: the output embedding is the input embedding.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    rope: RopeSpec
    qkv_bias: bool
    qk_norm: bool
    num_deepstack: int
    tied: bool
    max_context: int

    @property
    def qkv_size(self) -> int:
        """Rows of the merged q, k, v projection: (H + 2K) * D."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def kv_bytes_per_token(self, bytes_per_value: int = 4) -> int:
        """Bytes of keys and values that one token takes in all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * bytes_per_value


@dataclass(frozen=True)
class Family:
    """What is fixed for a family and its config does not say.

    Attributes:
        mrope: which pairs of dimensions each axis of M-RoPE turns: a "chunked" run each, or "interleaved"; `None`
            for plain RoPE.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    mrope: Literal["chunked", "interleaved"] | None = None


FAMILIES = {
    "llama": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen2_5_vl": Family(qkv_bias=True, mrope="chunked"),
    "qwen2_vl": Family(qkv_bias=True, mrope="chunked"),
    "qwen3": Family(qk_norm=True),
    "qwen3_vl": Family(qk_norm=True, mrope="interleaved"),
}


def check_family(family: object) -> None:
    """Raises UnsupportedModelError for a `model_type` that we have no decoder for."""
    if family not in FAMILIES:
        raise UnsupportedModelError(
            f"model family {family!r} is not supported. Supported: {', '.join(sorted(FAMILIES))}."
        )


def decoder_spec(config: Any) -> DecoderSpec:
    """The spec of a loaded transformers config.

    Raises:
        UnsupportedModelError: another family, or an option of this one that the decoder does not have.
        CheckpointError: fields of the config contradict each other.
    """
    check_family(config.model_type)
    family = FAMILIES[config.model_type]
    text = config.get_text_config()  # the config itself where there is no tower
    _refuse_options(text)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if text.num_attention_heads % text.num_key_value_heads:
        raise CheckpointError(
            f"{text.num_attention_heads} attention heads cannot share {text.num_key_value_heads} key/value heads."
        )
    return DecoderSpec(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=text.intermediate_size,
        vocab_size=text.vocab_size,
        norm_eps=text.rms_norm_eps,
        rope=rope_spec(text, head_dim, family.mrope),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        num_deepstack=len(getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", ())),
        tied=bool(config.tie_word_embeddings),
        max_context=text.max_position_embeddings,
    )


def _refuse_options(text: Any) -> None:
    """Options that configs of these families can have and that change the decoder's arithmetic."""
    if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
        raise UnsupportedModelError("sliding-window attention is not supported; set use_sliding_window=false.")
    for option in ("attention_bias", "mlp_bias"):
        if getattr(text, option, False):
            raise UnsupportedModelError(f"{option}=true is not supported; no published model of the family has it.")
    if text.hidden_act != "silu":
        raise UnsupportedModelError(f"hidden_act {text.hidden_act!r} is not supported; only 'silu'.")
