"""TTE (arXiv 2510.05014) in its three forms: who writes the trace, and what reads it.

TTE_s and TTE_t: a reasoner writes, and another model embeds prompt + trace at its last token. TTE_u: one backbone does
both, a head reads its states. The paper publishes neither prompts nor weights, so the layout is ours: the chat prompt
of Qwen2-VL with the trace as the assistant's turn, and `<|endoftext|>` as the terminal token. All share the prompt, so
where tokenizers are equal a trace passes as ids. A checkpoint's `tte.json` may change everything.
"""

from __future__ import annotations

from typing import Any

from tte_runtime.recipes.base import Recipe, RecipeReadout, RolePrompt
from tte_runtime.recipes.chat import TERMINAL, TURN_END, chat


def embedder(name: str) -> Recipe:
    """The embedding side of TTE_s and TTE_t: it writes no trace, and reads the terminal token after a given one."""
    return _tte(name, "last", stop=(TURN_END,), close=(TURN_END,), suffix=(TERMINAL,), trace_from="reasoner")


def reasoner() -> Recipe:
    """The thinking side of TTE_s and TTE_t. Asked for a vector all the same, it gives the state of its last token."""
    return _tte("reasoner", "last", stop=(TURN_END, TERMINAL))


def unified() -> Recipe:
    """TTE_u, read by a head at the terminal token. The head is described in the checkpoint's `tte.json`."""
    return _tte("tte_u", "head", stop=(TURN_END,), close=(TURN_END,), suffix=(TERMINAL,))


def _tte(name: str, readout: RecipeReadout, **fields: Any) -> Recipe:
    """Queries and documents think alike: the paper's traces are made for both."""
    role = RolePrompt(chat("{media}{instruction| }{text}"), think=True)
    return Recipe(name, {"query": role, "document": role}, readout, max_trace_tokens=1024, **fields)
