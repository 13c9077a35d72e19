"""Decoder layers over paged keys and values: one implementation for all families, flags in `DecoderSpec`.

Weights are merged (q, k, v in one matrix, gate and up in one) and read straight from safetensors. A forward
runs a *step*: either new tokens of several prompts without padding (prefill), or rows of one token (decode).
Knows nothing of words, scheduling or readouts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tte_runtime.models.rope import Rope
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import Tensors
from tte_runtime.ops import Rotation, StepLayout, TorchOps
from tte_runtime.ops.transfer import to_device


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer: C model dim, F intermediate size, O = (H + 2K) * D. Matrices are as `ops.pack` made them."""

    input_norm: torch.Tensor  # [C]
    qkv: Any  # [O, C]
    qkv_bias: torch.Tensor | None  # [O]
    q_norm: torch.Tensor | None  # [D]
    k_norm: torch.Tensor | None  # [D]
    out: Any  # [C, H * D]
    post_norm: torch.Tensor  # [C]
    gate_up: Any  # [2F, C]
    down: Any  # [C, F]


@dataclass(frozen=True)
class Taps:
    """Where to keep the hidden states of one layer: states *after* `layer` layers go to `pages` by slot."""

    layer: int
    pages: torch.Tensor  # [N * 16, C]


@dataclass(frozen=True)
class Ends:
    """The only rows that will be read of the last layer, which spares the others its attention and its MLP.

    Attributes:
        rows: int64 [S], among the step's tokens. layout: the same tokens as rows of a decode step.
    """

    rows: torch.Tensor
    layout: StepLayout

    @classmethod
    def of(cls, layout: StepLayout) -> Ends:
        """The last token of every sequence of a prefill step."""
        rows, device = [end - 1 for end in itertools.accumulate(layout.query_lens_host)], layout.slots.device
        picked = to_device(rows, torch.int64, device)
        as_rows = StepLayout(
            decode=True,
            slots=layout.slots[picked],
            page_table=layout.page_table,
            cu_seqlens=torch.arange(len(rows) + 1, dtype=torch.int32, device=device),
            kv_lens=layout.kv_lens,
            query_lens_host=(1,) * len(rows),
            kv_lens_host=layout.kv_lens_host,
        )
        return cls(picked, as_rows)


def load_layer(
    files: Tensors, prefix: str, spec: DecoderSpec, ops: TorchOps, place: Callable[[torch.Tensor], torch.Tensor]
) -> LayerWeights:
    """The layer whose tensors stand under `prefix`, merged, placed, and packed for the backend."""
    s = spec
    sizes = {"q": s.num_heads * s.head_dim, "k": s.num_kv_heads * s.head_dim, "v": s.num_kv_heads * s.head_dim}

    def get(name: str, *shape: int) -> torch.Tensor:
        return files.get(f"{prefix}{name}", shape)

    def packed(*parts: torch.Tensor) -> torch.Tensor:
        return ops.pack_layer(place(torch.cat(parts)))

    def merged_bias() -> torch.Tensor | None:
        if not s.qkv_bias:
            return None
        return place(torch.cat([get(f"self_attn.{x}_proj.bias", n) for x, n in sizes.items()]))

    def head_norm(name: str) -> torch.Tensor | None:
        return place(get(f"self_attn.{name}_norm.weight", s.head_dim)) if s.qk_norm else None

    return LayerWeights(
        input_norm=place(get("input_layernorm.weight", s.hidden_size)),
        qkv=packed(*(get(f"self_attn.{x}_proj.weight", n, s.hidden_size) for x, n in sizes.items())),
        qkv_bias=merged_bias(),
        q_norm=head_norm("q"),
        k_norm=head_norm("k"),
        out=packed(get("self_attn.o_proj.weight", s.hidden_size, sizes["q"])),
        post_norm=place(get("post_attention_layernorm.weight", s.hidden_size)),
        gate_up=packed(*(get(f"mlp.{x}_proj.weight", s.intermediate_size, s.hidden_size) for x in ("gate", "up"))),
        down=packed(get("mlp.down_proj.weight", s.hidden_size, s.intermediate_size)),
    )


class LayerStack:
    """Decoder layers over paged keys and values; the backbone and the embedding head are both one.

    Args:
        spec: shapes and flags.
        layers: the weights, in order.
        ops: the kernels to run on.
        decodes: whether it will be asked for decode steps, or for prompts only.
    """

    def __init__(self, spec: DecoderSpec, layers: list[LayerWeights], ops: TorchOps, *, decodes: bool = False) -> None:
        self.spec = spec
        self.ops = ops
        self.depth = len(layers)
        self.rope = Rope(spec.rope, layers[0].input_norm.device)
        self.rows = ops.fuse(layers, spec, self.rope, decodes=decodes)  # all layers as one call, where there is one
        self.layers = [] if self.rows is not None and self.rows.prompts else layers  # nobody else will read them

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        layout: StepLayout,
        kv_pages: torch.Tensor,
        taps: Taps | None = None,
        deepstack: torch.Tensor | None = None,
        ends: Ends | None = None,
    ) -> torch.Tensor:
        """Run the layers; keys, values (and tapped states) of the new tokens are written to their slots.

        Args:
            hidden: [T, C], the new tokens' input states.
            positions: int64 [3, T].
            layout: which tokens belong to which sequence, and where its pages are.
            kv_pages: [num layers, 2, N, K, 16, D].
            taps: keep the states after a layer.
            deepstack: [n, T, C], added to the states after each of the first n layers; zero but for picture tokens.
            ends: return these rows only.

        Returns:
            [T, C], or [S, C] of `ends`, before the final norm.
        """
        if self.rows is not None and (layout.decode or self.rows.prompts):
            kept = None if taps is None else (taps.layer, taps.pages)
            picked = None if ends is None else ends.rows
            return self.rows.forward(hidden, positions, layout, kv_pages, kept, deepstack, picked)
        rotation = self.rope(positions)
        for index, weights in enumerate(self.layers):
            if taps is not None and taps.layer == index:
                taps.pages[layout.slots] = hidden
            last = ends if index == self.depth - 1 else None
            hidden = self._layer(weights, hidden, rotation, layout, kv_pages[index], last)
            if deepstack is not None and index < len(deepstack):
                hidden = hidden + deepstack[index]
        if taps is not None and taps.layer == self.depth:
            taps.pages[layout.slots] = hidden
        return hidden

    def _layer(
        self,
        w: LayerWeights,
        hidden: torch.Tensor,
        rotation: Rotation,
        layout: StepLayout,
        pages: torch.Tensor,
        ends: Ends | None,
    ) -> torch.Tensor:
        spec, ops = self.spec, self.ops
        qkv = ops.norm_linear(hidden, w.input_norm, spec.norm_eps, w.qkv, w.qkv_bias, layout)
        q = ops.rope_write_kv(
            qkv,
            rotation,
            pages,
            layout,
            num_heads=spec.num_heads,
            q_norm=w.q_norm,
            k_norm=w.k_norm,
            eps=spec.norm_eps,
        )
        if ends is not None:
            q, hidden, layout = q[ends.rows], hidden[ends.rows], ends.layout
        mixed = ops.attention(q, pages, layout, scale=spec.head_dim**-0.5)
        hidden = ops.linear_residual(mixed.flatten(1), w.out, hidden, layout)
        gated = ops.norm_swiglu(hidden, w.post_norm, spec.norm_eps, w.gate_up, layout)
        return ops.linear_residual(gated, w.down, hidden, layout)
