"""The embedding head of TTE_u in plain transformers: a trained copy of the backbone's last decoder layers
over tapped states.

The readable reference: training and the plain baseline run it, and the engine's own head is tested against
it. Think-Then-Embed (arXiv 2510.05014) found this head best (layers initialised from the backbone, fed the
states some layers before the end) and leaves its details open; ours are: all positions of prompt + trace +
one terminal token, the backbone's own M-RoPE positions, causal, an own final norm, read at the terminal
token. Knows nothing of pages, caches or engines.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VLDecoderLayer,
    Qwen2VLRMSNorm,
    Qwen2VLRotaryEmbedding,
    Qwen2VLTextModel,
)

from tte_runtime.errors import CheckpointError

WEIGHTS = "head.safetensors"


class ReferenceHead(nn.Module):
    """`num_layers` decoder layers of the backbone's shape, a final RMSNorm, and the L2-normalised state of
    the last token.
    """

    def __init__(self, config: Qwen2VLConfig, num_layers: int) -> None:
        super().__init__()
        text = config.get_text_config()
        if text._attn_implementation is None:
            text._attn_implementation = "sdpa"
        self.layers = nn.ModuleList([Qwen2VLDecoderLayer(text, index) for index in range(num_layers)])
        self.norm = Qwen2VLRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.rotary = Qwen2VLRotaryEmbedding(config=text)

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
        rotation = self.rotary(hidden, position_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotation)
        rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        return F.normalize(self.norm(rows).float(), dim=-1)

    def initialise_from(self, backbone: Qwen2VLTextModel) -> None:
        """Copy the backbone's last layers and its final norm: the paper's best start."""
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
    def from_checkpoint(cls, folder: str | Path, config: Qwen2VLConfig, weights: str = WEIGHTS) -> ReferenceHead:
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
