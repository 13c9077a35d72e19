"""Plain embedders: no trace, the vector is the state of the prompt's last token (VLM2Vec-V2 without a chat template).

VLM2Vec (arXiv 2410.05160) feeds media, then the text, without any turn markers, and reads the last position.
"""

from __future__ import annotations

from tte_runtime.recipes.base import Recipe, RolePrompt


def last_token() -> Recipe:
    """Media, then the text; the same for queries and documents."""
    prompt = RolePrompt(prompt="{media}{text}", think=False)
    return Recipe(name="last_token", roles={"query": prompt, "document": prompt}, readout="last")
