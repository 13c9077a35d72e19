"""A language model: embeddings, layers (layers.py), final norm, output embeddings; and its walks.

A walk is several decode steps in one call, where a backend has that and a step is small. Knows nothing of scheduling or
readouts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from tte_runtime.config import PAGE_SIZE
from tte_runtime.models.layers import LayerStack, LayerWeights, Taps, load_layer
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import Tensors
from tte_runtime.ops import Draw, StepLayout, TorchOps
from tte_runtime.ops.rows.output import compiling
from tte_runtime.ops.rows.stack import Words

# Where a decoder's tensors may stand: as transformers 5 saves models with a tower, as it saves their base models, as
# the hub's older checkpoints and text models have them, and text models saved without their output embedding.
PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")


class Decoder(LayerStack):
    """A language model: embeddings, layers, final norm, output embeddings.

    Args:
        spec: shapes and flags.
        layers: the weights, in order.
        embed: [V, C]. norm: [C].
        lm_head: [V, C], as `ops.pack_output` made it; `None` for a checkpoint that was saved without one, which embeds
            and cannot think.
        ops: the kernels to run on.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        layers: list[LayerWeights],
        embed: torch.Tensor,
        norm: torch.Tensor,
        lm_head: Any,
        ops: TorchOps,
    ) -> None:
        super().__init__(spec, layers, ops, decodes=True)
        self.embed = embed
        self.norm = norm
        self.lm_head = lm_head
        if self.longest_walk(1) > 1:
            with compiling("walks"):  # so that no request waits for it
                self._walk_nowhere()

    def _walk_nowhere(self) -> None:
        at = torch.ones(3, 1, dtype=torch.int64)
        with torch.inference_mode():
            self.walk(self.embed[:1], at, StepLayout.one_token(), self.new_pages(2), None, (), 1)

    @classmethod
    def load(cls, files: Tensors, spec: DecoderSpec, ops: TorchOps, *, device: str, dtype: torch.dtype) -> Decoder:
        """Read a checkpoint's decoder; raises CheckpointError where a tensor is absent or of another shape."""

        def place(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype).contiguous()

        prefix = files.prefix(PREFIXES, "embed_tokens.weight")
        vocab = (spec.vocab_size, spec.hidden_size)
        embed = place(files.get(prefix + "embed_tokens.weight", vocab))
        lm_head = None
        if spec.tied or "lm_head.weight" in files:
            lm_head = ops.pack_output(embed if spec.tied else place(files.get("lm_head.weight", vocab)))
        return cls(
            spec=spec,
            layers=[load_layer(files, f"{prefix}layers.{i}.", spec, ops, place) for i in range(spec.num_layers)],
            embed=embed,
            norm=place(files.get(prefix + "norm.weight", (spec.hidden_size,))),
            lm_head=lm_head,
            ops=ops,
        )

    def new_pages(self, num_pages: int) -> torch.Tensor:
        """An empty page pool: [L, 2, num_pages, K, 16, D]."""
        s = self.spec
        return self.embed.new_zeros(s.num_layers, 2, num_pages, s.num_kv_heads, PAGE_SIZE, s.head_dim)

    def next_tokens(self, hidden: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Tokens drawn from the states of S last ones before the final norm, [S, C]: int64 [S, 2], see `sample`."""
        assert self.lm_head is not None, "recipes that think are refused where there is no output embedding"
        return self.ops.next_tokens(hidden, self.norm, self.spec.norm_eps, self.lm_head, draw)

    def longest_walk(self, rows: int) -> int:
        """Decode steps of so many rows that `walk` makes at once; 1 where the backend makes each by itself."""
        return 1 if self.rows is None or self.lm_head is None else self.rows.longest_walk(rows)

    def walk(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        layout: StepLayout,
        kv_pages: torch.Tensor,
        taps: Taps | None,
        stops: Collection[int],
        steps: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to `steps` decode steps, each of which draws the likeliest tokens and the next of which feeds them.

        Args:
            hidden, positions, layout, kv_pages, taps: of the first step, as for `forward`; there is room for all.
            stops: the walk ends behind a step that draws one of these.
            steps: at most `longest_walk`.

        Returns:
            the states of the last step, [S, C], and the tokens drawn, int64 [steps made, S].
        """
        assert self.rows is not None, "only a backend that makes a step in one call walks"
        kept = None if taps is None else (taps.layer, taps.pages)
        words = Words(self.embed, self.norm, np.array(sorted(stops), np.int64))
        return self.rows.walk(hidden, positions, layout, kv_pages, kept, self.lm_head, words, steps)
