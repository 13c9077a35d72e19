"""What a trace is apart from the request that it was written for, and everything that decided it. Data only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tte_runtime.types import FinishReason, ForcedBy, Think


@dataclass(frozen=True)
class Trace:
    """A trace that has been written.

    Attributes:
        text: without its stop token.
        ids: in the writer's tokenizer, the stop token included; empty where they are not known.
        finish_reason: "stop" or "forced". forced_by: which limit, where it was forced.
    """

    text: str
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    forced_by: ForcedBy | None = None


@dataclass(frozen=True)
class TraceKey:
    """Everything that decides a trace, in five hashes (hex). Traces of equal keys can stand for each other.

    Attributes:
        content: what the writer sees: text, instruction, media.
        prompt: the recipe's prompt for the role, and where a trace ends.
        processor: how media become what the writer sees.
        reasoner: the writer's weights and precision, or the name that an endpoint knows it by.
        sampling: the limit in tokens, and how tokens are drawn.
    """

    content: str
    prompt: str
    processor: str
    reasoner: str
    sampling: str


def hash_of(*parts: Any) -> str:
    """A hash of JSON values and bytes, hex."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        digest.update(b"%d|" % len(data) + data)
    return digest.hexdigest()


def sampling_hash(think: Think, limit: int) -> str:
    """Of a limit in tokens and of how tokens are drawn; greedy traces do not depend on seeds.

    Deadlines are no part of it: a trace that one has cut is not kept, and one that is kept meets any.
    """
    drawn = [] if think.temperature == 0 else [think.temperature, think.top_k, think.top_p, think.seed]
    return hash_of(limit, drawn)
