"""UME-R1 (arXiv 2511.00405): a trace that ends in `<gen_emb>`, or no trace and `<disc_emb>` in the prompt.

The two give vectors of two spaces (XMUDeepLIT/UME-R1, issue 1), so they are two recipes with two fingerprints. The task
is worded as in the official evaluation collator and the training data, on one line; the quick start in the README
breaks the same sentences into three. Requests without pictures get a blank one, as in that collator.
"""

from __future__ import annotations

from typing import Any

from tte_runtime.recipes.base import MediaRules, Recipe, RolePrompt
from tte_runtime.recipes.chat import TERMINAL, TURN_END, chat

GEN, DISC = "<gen_emb>", "<disc_emb>"
QUESTION = "{media}{instruction| }{text}\n<disc_emb>\n"
TASK = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. "
    "First output the thinking process in <think> </think> tags and then summarize the entire input in a word or "
    "sentence. Finally, use the <gen_emb> tag to represent the entire input."
)


def ume_r1() -> Recipe:
    """The vector is the state at the last `<gen_emb>` of the trace, which goes on until the end of the turn."""
    return _both(
        "ume_r1",
        RolePrompt(chat(QUESTION + TASK), think=True),
        readout="generated_marker",
        marker=GEN,
        stop=(TURN_END, TERMINAL),
        close=(GEN,),
        at_once=(GEN,),
        max_trace_tokens=8192,
    )


def ume_r1_disc() -> Recipe:
    """No trace: the vector is the state at the prompt's `<disc_emb>`."""
    return _both("ume_r1_disc", RolePrompt(chat(QUESTION)), readout="marker", marker=DISC)


def _both(name: str, role: RolePrompt, **fields: Any) -> Recipe:
    """Queries and documents alike, with a blank picture where there is none and no white space beside one."""
    return Recipe(
        name=name,
        roles={"query": role, "document": role},
        tidy_text="stripped_beside_media",
        media=MediaRules(blank=56),
        **fields,
    )
