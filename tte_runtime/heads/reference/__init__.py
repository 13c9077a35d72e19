"""The embedding heads of TTE_u in plain torch and transformers, one interface for all kinds.

Training and the plain baseline run them, and the engine's own heads are tested against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tte_runtime.heads.reference.base import HeadModule
from tte_runtime.heads.reference.decoder_layers import ReferenceHead
from tte_runtime.heads.reference.poolers import AttentionPooler, LatentAttention, QFormer
from tte_runtime.heads.spec import WEIGHTS, sizes_of

__all__ = [
    "WEIGHTS",
    "AttentionPooler",
    "HeadModule",
    "LatentAttention",
    "QFormer",
    "ReferenceHead",
    "load_reference_head",
    "make_reference_head",
]

MODULES: dict[str, type[HeadModule]] = {
    "decoder_layers": ReferenceHead,
    "attention_pooler": AttentionPooler,
    "latent_attention": LatentAttention,
    "qformer": QFormer,
}


def make_reference_head(kind: str, config: Any, **sizes: Any) -> HeadModule:
    """A head of `kind` with random weights.

    Args:
        kind: "decoder_layers", "attention_pooler", "latent_attention" or "qformer".
        config: the backbone's, of transformers.
        sizes: fields of the kind's entry in `heads/spec.py`; those not given are at their defaults.

    Raises:
        CheckpointError: unknown kind or size, or sizes that do not fit the backbone.
    """
    checked = sizes_of(kind, sizes, config.get_text_config().hidden_size)
    return MODULES[kind](config, **asdict(checked))


def load_reference_head(folder: str | Path, config: Any, entry: Mapping[str, Any]) -> HeadModule:
    """The head of a checkpoint, as the "head" of its `tte.json` describes it; fp32, in eval mode.

    Raises:
        CheckpointError: as `make_reference_head`; or the weights are missing or of another shape.
    """
    given = {key: value for key, value in entry.items() if key not in ("kind", "tap_layer", "weights")}
    sizes = sizes_of(entry.get("kind"), given, config.get_text_config().hidden_size)
    return MODULES[entry["kind"]].from_checkpoint(folder, config, entry.get("weights", WEIGHTS), **asdict(sizes))
