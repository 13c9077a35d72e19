"""RGE (arXiv 2511.16150, MCG-NJU/RGE): a query's rationale ends in `<emb>`, documents are embedded at once.

`<emb>` is the stop token, and the state at it is the vector. Prompts as in inference.py and src/dataset.py there: a
space after the pictures, a line break after the text.
"""

from __future__ import annotations

from tte_runtime.recipes.base import Recipe, RolePrompt
from tte_runtime.recipes.chat import chat

EMB = "<emb>"
PROMPT = chat("{media| }{text}")


def rge() -> Recipe:
    """Queries think for at most 128 tokens; a trace that is cut, or none, is given the `<emb>` it lacks."""
    return Recipe(
        name="rge",
        roles={"query": RolePrompt(PROMPT, think=True), "document": RolePrompt(PROMPT)},
        readout="last",
        stop=(EMB,),
        close=(EMB,),
        at_once=(EMB,),
        max_trace_tokens=128,
        tidy_text="line",
    )
