"""The paper's best head in plain transformers: trained copies of the backbone's last decoder layers over tapped states.

Think-Then-Embed (arXiv 2510.05014) found this head best (layers initialised from the backbone, fed the states some
layers before the end) and leaves its details open; ours are: all positions of prompt + trace + one terminal token, the
backbone's own M-RoPE positions, causal, an own final norm, read at the terminal token or at the mean of all tokens. Of
every family: the layers are those of transformers' decoder for the config. Knows nothing of pages, caches or engines.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from tte_runtime.heads.reference.base import HeadModule, read_weights
from tte_runtime.heads.spec import WEIGHTS


class ReferenceHead(HeadModule):
    """`num_layers` decoder layers of the backbone's shape, a final RMSNorm, and the L2-normalised state of
    the last token, or the mean of all tokens' states where `readout` is "mean".
    """

    def __init__(self, config: Any, num_layers: int, readout: str = "last") -> None:
        super().__init__()
        self.readout = readout
        text = copy.deepcopy(config.get_text_config())
        text.num_hidden_layers, text.vocab_size, text.pad_token_id = num_layers, 1, None  # its words are never asked
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[-num_layers:]
        decoder = AutoModel.from_config(text, attn_implementation=text._attn_implementation or "sdpa").float()
        self.layers, self.norm, self.rotary = decoder.layers, decoder.norm, decoder.rotary_emb
        self.axes = 3 if hasattr(config, "vision_config") else 1

    def forward(self, tapped: Tensor, position_ids: Tensor, last: Tensor) -> Tensor:
        """As `HeadModule.forward`."""
        # Right padding lies behind every token that is read, so the causal mask alone keeps it out.
        length = tapped.shape[1]
        mask = torch.full(
            (length, length), torch.finfo(tapped.dtype).min, dtype=tapped.dtype, device=tapped.device
        ).triu(1)
        hidden = tapped
        rotation = self.rotary(hidden, position_ids if self.axes == 3 else position_ids[0])
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotation)
        if self.readout == "mean":
            padding = torch.arange(length, device=hidden.device) > last[:, None]
            rows = hidden.float().masked_fill(padding[..., None], 0).sum(1) / (last + 1)[:, None]
        else:
            rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        return F.normalize(self.norm(rows).float(), dim=-1)

    def initialise_from(self, backbone: Any) -> None:
        """Copy the last layers and the final norm of the backbone's decoder: the paper's best start."""
        own = len(self.layers)
        for mine, theirs in zip(self.layers, backbone.layers[-own:], strict=True):
            mine.load_state_dict(theirs.state_dict())
        self.norm.load_state_dict(backbone.norm.state_dict())

    @classmethod
    def from_checkpoint(cls, folder: str | Path, config: Any, weights: str = WEIGHTS, **sizes: Any) -> Self:
        """As `HeadModule.from_checkpoint`. Its depth is what the file holds, unless it is given."""
        state = read_weights(folder, weights)
        depth = len({key.split(".")[1] for key in state if key.startswith("layers.")})
        return cls._filled(Path(folder) / weights, state, config, **(sizes or {"num_layers": depth}))
