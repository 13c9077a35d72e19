"""The least time a request can take: every weight read once a step, every product at the device's best rate.

Counts parameters of the loaded model and multiplies; both ceilings are measured in the same run. It leaves out what a
perfect engine could hide (norms, softmax, copies) and therefore never flatters. Knows no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.core.ceiling import flop_rate, read_bandwidth

__all__ = ["Ceilings", "Sizes", "floor_ms", "measure_ceilings", "sizes_of"]


@dataclass(frozen=True)
class Sizes:
    """Parameters of the parts of a model, and what attention adds.

    Attributes:
        layers, vocabulary, tower, head: parameters read by a step, a sampled token, a picture, a readout.
        num_layers, attention_width: of the decoder (H * D). tower_layers, tower_width: of the tower.
        kv_values: values of keys and values a token keeps. merge: patches a merged token stands for.
        value_bytes: bytes of a weight or a cached value.
    """

    layers: int
    vocabulary: int
    tower: int
    head: int
    num_layers: int
    attention_width: int
    tower_layers: int
    tower_width: int
    kv_values: int
    merge: int
    value_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Of everything."""
        return self.value_bytes * (self.layers + self.vocabulary + self.tower + self.head)

    @property
    def bytes_of_two(self) -> int:
        """Of a reasoner and an embedder of this shape: no head, and one tower between them."""
        return self.value_bytes * (2 * (self.layers + self.vocabulary) + self.tower)


@dataclass(frozen=True)
class Ceilings:
    """Measured: GB/s at the size of the decoder's weights, TFLOP/s in the run's dtype."""

    gb_per_s: float
    tflop_per_s: float

    def ms(self, values: float, flops: float, value_bytes: int) -> float:
        """Milliseconds of reading so many values and doing so many operations, whichever takes longer."""
        return max(values * value_bytes / self.gb_per_s / 1e6, flops / self.tflop_per_s / 1e9)


def sizes_of(model: Any, head: torch.nn.Module | None) -> Sizes:
    """Of a loaded transformers model and the embedding head beside it."""
    text = model.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tower = getattr(model.config, "vision_config", None)
    return Sizes(
        layers=_count(model.get_decoder().layers),
        vocabulary=model.get_output_embeddings().weight.numel(),
        tower=_count(model.model.visual) if tower else 0,
        head=_count(head) if head is not None else 0,
        num_layers=text.num_hidden_layers,
        attention_width=text.num_attention_heads * width,
        tower_layers=tower.depth if tower else 0,
        tower_width=(getattr(tower, "embed_dim", None) or tower.hidden_size) if tower else 0,
        kv_values=2 * text.num_hidden_layers * text.num_key_value_heads * width,
        merge=tower.spatial_merge_size**2 if tower else 0,
        value_bytes=model.dtype.itemsize,
    )


def measure_ceilings(sizes: Sizes, device: str, dtype: torch.dtype) -> Ceilings:
    """Now, on this device."""
    return Ceilings(read_bandwidth(device, sizes.layers * sizes.value_bytes), flop_rate(device, dtype))


def floor_ms(sizes: Sizes, ceilings: Ceilings, *, batch: int, prompt: int, image: int, trace: int) -> dict[str, float]:
    """Milliseconds by stage of one pass over `batch` requests of so many tokens each (`image` of the prompt's).

    Each of the trace's tokens is fed once, and tokens of a prompt once; the head reads all of them.
    """
    patches, after = image * sizes.merge, prompt + trace

    def attention(queries: float, keys: float, layers: int, width: int) -> float:
        return 4 * queries * keys * layers * width  # two products, multiply and add counted as two

    def ms(values: float, flops: float) -> float:
        return ceilings.ms(values, batch * flops, sizes.value_bytes)

    seen = attention(patches, patches, sizes.tower_layers, sizes.tower_width)
    read = attention(prompt, prompt / 2, sizes.num_layers, sizes.attention_width)
    looked = attention(1, prompt + trace / 2, sizes.num_layers, sizes.attention_width)
    step = 2 * (sizes.layers + sizes.vocabulary) + looked
    kept = batch * (prompt + trace / 2) * sizes.kv_values
    return {
        "vision": ms(sizes.tower, 2 * sizes.tower * patches + seen) if image else 0.0,
        "prefill": ms(sizes.layers, 2 * sizes.layers * prompt + read),
        "decode": trace * ms(sizes.layers + sizes.vocabulary + kept, step),
        "readout": ms(sizes.head, 2 * sizes.head * after) if sizes.head else 0.0,
    }


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
