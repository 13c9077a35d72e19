"""The embedding head of TTE_u in plain transformers: a trained copy of the backbone's last decoder layers
over tapped states.

The readable reference: training and the plain baseline run it, and the engine's own head is tested against
it. Think-Then-Embed (arXiv 2510.05014) found this head best (layers initialised from the backbone, fed the
states some layers before the end) and leaves its details open; ours are: all positions of prompt + trace +
one terminal token, the backbone's own M-RoPE positions, causal, an own final norm, read at the terminal
token. Of every family: the layers are those of transformers' decoder for the config. Knows nothing of pages, caches
or engines.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from tte_runtime.errors import CheckpointError

WEIGHTS = "head.safetensors"


class ReferenceHead(nn.Module):
    """`num_layers` decoder layers of the backbone's shape, a final RMSNorm, and the L2-normalised state of
    the last token.
    """

    def __init__(self, config: Any, num_layers: int) -> None:
        super().__init__()
        text = copy.deepcopy(config.get_text_config())
        text.num_hidden_layers, text.vocab_size, text.pad_token_id = num_layers, 1, None  # its words are never asked
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[-num_layers:]
        decoder = AutoModel.from_config(text, attn_implementation=text._attn_implementation or "sdpa").float()
        self.layers, self.norm, self.rotary = decoder.layers, decoder.norm, decoder.rotary_emb
        self.axes = 3 if hasattr(config, "vision_config") else 1

    def forward(self, tapped: Tensor, position_ids: Tensor, last: Tensor) -> Tensor:
        """Embed.

        Args:
            tapped: states after the tap layer, not normed, right-padded, [S, T, C].
            position_ids: the backbone's M-RoPE positions, int64 [3, S, T].
            last: index of the terminal token of each row, int64 [S].

        Returns:
            L2-normalised vectors, fp32 [S, E] with E = C.
        """
        # Right padding lies behind every token that is read, so the causal mask alone keeps it out.
        length = tapped.shape[1]
        mask = torch.full(
            (length, length), torch.finfo(tapped.dtype).min, dtype=tapped.dtype, device=tapped.device
        ).triu(1)
        hidden = tapped
        rotation = self.rotary(hidden, position_ids if self.axes == 3 else position_ids[0])
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotation)
        rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        return F.normalize(self.norm(rows).float(), dim=-1)

    def initialise_from(self, backbone: Any) -> None:
        """Copy the last layers and the final norm of the backbone's decoder: the paper's best start."""
        own = len(self.layers)
        for mine, theirs in zip(self.layers, backbone.layers[-own:], strict=True):
            mine.load_state_dict(theirs.state_dict())
        self.norm.load_state_dict(backbone.norm.state_dict())

    def save(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write head.safetensors: `layers.{i}.<the decoder layer's own names>` and `norm.weight`, in
        `dtype`.
        """
        state = {key: value.detach().to(dtype).contiguous().cpu() for key, value in self.state_dict().items()}
        save_file(state, Path(folder) / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_checkpoint(cls, folder: str | Path, config: Any, weights: str = WEIGHTS) -> ReferenceHead:
        """Load a head as fp32. Its depth is what the file holds. Raises CheckpointError when the file is
        missing or does not fit.
        """
        path = Path(folder) / weights
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing; a tte_u checkpoint needs its head. Copy the whole checkpoint folder."
            )
        state = load_file(path)
        depths = {int(key.split(".")[1]) for key in state if key.startswith("layers.")}
        head = cls(config, len(depths)).float()
        try:
            head.load_state_dict({key: value.float() for key, value in state.items()})
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not fit the backbone's config: {error}. Take both from one checkpoint."
            ) from error
        return head.eval()
