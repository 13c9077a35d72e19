"""TTE (arXiv 2510.05014) in its three forms: who writes the trace, and what reads it.

TTE_s and TTE_t: a reasoner writes, and another model embeds prompt + trace at its last token. TTE_u: one backbone does
both, a head reads its states. The paper publishes neither prompts nor weights, so the layout is ours: the chat prompt
of Qwen2-VL with the trace as the assistant's turn, and `<|endoftext|>` as the terminal token. All share the prompt, so
where tokenizers are equal a trace passes as ids. A checkpoint's `tte.json` may change everything.
"""

from __future__ import annotations

from tte_runtime.recipes.base import Recipe, RolePrompt
from tte_runtime.recipes.chat import TERMINAL, TURN_END, chat

ROLE = RolePrompt(chat("{media}{instruction| }{text}"), think=True)
ROLES = {"query": ROLE, "document": ROLE}
MAX_TRACE_TOKENS = 1024


def embedder(name: str) -> Recipe:
    """The embedding side of TTE_s and TTE_t: it writes no trace, and reads the terminal token after a given one."""
    return Recipe(
        name=name,
        roles=ROLES,
        readout="last",
        stop=(TURN_END,),
        close=(TURN_END,),
        suffix=(TERMINAL,),
        max_trace_tokens=MAX_TRACE_TOKENS,
        trace_from="reasoner",
    )


def reasoner() -> Recipe:
    """The thinking side of TTE_s and TTE_t. Asked for a vector all the same, it gives the state of its last token."""
    return Recipe(
        name="reasoner",
        roles=ROLES,
        readout="last",
        stop=(TURN_END, TERMINAL),
        max_trace_tokens=MAX_TRACE_TOKENS,
    )


def unified() -> Recipe:
    """TTE_u, read by a head at the terminal token. The head is described in the checkpoint's `tte.json`."""
    return Recipe(
        name="tte_u",
        roles=ROLES,
        readout="head",
        stop=(TURN_END,),
        close=(TURN_END,),
        suffix=(TERMINAL,),
        max_trace_tokens=MAX_TRACE_TOKENS,
    )
