"""The paper's best unified head: trained copies of the backbone's last decoder layers, over tapped states.

Think-Then-Embed, arXiv 2510.05014, ablation of TTE_u heads. The head reads the states after layer `tap_layer` of
prompt, trace and terminal token at once, causally, at the backbone's own positions, has its own final norm, and
is read at the last token or at the mean of all. Knows no cache of the engine and no request.
"""

from __future__ import annotations

import itertools

import torch

from tte_runtime.config import PAGE_SIZE
from tte_runtime.heads.blocks import Place
from tte_runtime.heads.spec import DecoderLayers
from tte_runtime.models.layers import Ends, LayerStack, load_layer
from tte_runtime.models.spec import DecoderSpec
from tte_runtime.models.weights import Tensors
from tte_runtime.ops import Pooling, StepLayout, TorchOps
from tte_runtime.ops.transfer import to_device, upload


class DecoderHead:
    """Decoder layers and a final norm over tapped states.

    Args:
        stack: the layers.
        norm: [C].
        tap_layer: where in the backbone the states are tapped.
        mean: read the mean of all tokens' states; else the last token's.
    """

    def __init__(self, stack: LayerStack, norm: torch.Tensor, tap_layer: int, *, mean: bool = False) -> None:
        self.stack = stack
        self.norm = norm
        self.tap_layer = tap_layer
        self.mean = mean

    def forward(
        self, states: torch.Tensor, positions: torch.Tensor, lengths: list[int], pooling: Pooling
    ) -> torch.Tensor:
        """As `Head.forward`."""
        layout, num_pages = _own_layout(lengths, states.device)
        spec = self.stack.spec
        pages = states.new_zeros(self.stack.depth, 2, num_pages, spec.num_kv_heads, PAGE_SIZE, spec.head_dim)
        ends = None if self.mean else Ends.of(layout)
        hidden = self.stack.forward(states, upload(positions, states.device), layout, pages, ends=ends)
        if self.mean:
            hidden = torch.stack([own.float().mean(0) for own in hidden.split(lengths)]).to(hidden.dtype)
        return self.stack.ops.pool_normalize(hidden, self.norm, spec.norm_eps, pooling)


def load_decoder_head(
    files: Tensors, sizes: DecoderLayers, backbone: DecoderSpec, ops: TorchOps, place: Place, tap_layer: int
) -> DecoderHead:
    """A `decoder_layers` head; raises CheckpointError where a tensor is missing or of another shape."""
    layers = [load_layer(files, f"layers.{i}.", backbone, ops, place) for i in range(sizes.num_layers)]
    norm = place(files.get("norm.weight", (backbone.hidden_size,)))
    return DecoderHead(LayerStack(backbone, layers, ops), norm, tap_layer, mean=sizes.readout == "mean")


def _own_layout(lengths: list[int], device: torch.device) -> tuple[StepLayout, int]:
    """A prefill layout over pages of the head's own, page 0 left out; and how many pages that takes."""
    counts = [-(-length // PAGE_SIZE) for length in lengths]
    firsts = list(itertools.accumulate(counts[:-1], initial=1))
    width = max(counts)
    table = [[first + i if i < count else 0 for i in range(width)] for first, count in zip(firsts, counts, strict=True)]
    slots = [first * PAGE_SIZE + i for first, length in zip(firsts, lengths, strict=True) for i in range(length)]
    layout = StepLayout(
        decode=False,
        slots=to_device(slots, torch.int64, device),
        page_table=upload(torch.tensor(table, dtype=torch.int32), device),
        cu_seqlens=to_device([0, *itertools.accumulate(lengths)], torch.int32, device),
        kv_lens=to_device(lengths, torch.int32, device),
        query_lens_host=tuple(lengths),
        kv_lens_host=tuple(lengths),
    )
    return layout, 1 + sum(counts)
