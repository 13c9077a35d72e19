"""Plain embedders: no trace, the vector is the state of the prompt's last token.

VLM2Vec-V2 (arXiv 2507.04590), GME (arXiv 2412.16855) and Qwen3-VL-Embedding (arXiv 2601.04720).
"""

from __future__ import annotations

from typing import Any

from tte_runtime.recipes.base import MediaRules, Recipe, RolePrompt
from tte_runtime.recipes.chat import DEFAULT_SYSTEM, TERMINAL, chat


def last_token() -> Recipe:
    """Pictures, then the text, with nothing around them: for a checkpoint that no other recipe is for."""
    return _both("last_token", "{media}{text}")


def vlm2vec() -> Recipe:
    """VLM2Vec-V2: no chat template and no vision turn markers, only `<|image_pad|>`, instruction and text.

    Its training code counts a picture only after `<|vision_start|>`, which its prompts do not have, so the model has
    seen placeholders at the positions of words (`get_rope_index` in TIGER-AI-Lab/VLM2Vec, src/model/vlm_backbone;
    transformers before 5 does the same, later ones give a grid). Prompts: `process_input_text` in its processor.py.
    """
    media = MediaRules(before="", after="", between=" ", positions="text")
    return _both("vlm2vec", "{media| }{instruction| }{text}", media=media)


def gme() -> Recipe:
    """GME-Qwen2-VL: the instruction is the system turn, `<|endoftext|>` after the assistant's header is read.

    Prompt and sizes of pictures (4 to 1,280 tokens) as in gme_inference.py beside the checkpoint.
    """
    prompt = chat("{media}{text}", system="{instruction}") + TERMINAL
    media = MediaRules(pixels=(4 * 28 * 28, 1280 * 28 * 28))
    return _both("gme", prompt, instruction=DEFAULT_SYSTEM, media=media)


def qwen3_vl_embedding() -> Recipe:
    """Qwen3-VL-Embedding: the instruction is the system turn, the opened assistant turn is read.

    Prompt, default instruction, its full stop and the sizes of pictures (4 to 1,800 tokens) as in
    scripts/qwen3_vl_embedding.py beside the checkpoint. Vectors may be cut (`truncate_dim`).
    """
    return _both(
        "qwen3_vl_embedding",
        chat("{media}{text}", system="{instruction}"),
        instruction="Represent the user's input.",
        tidy_instruction="sentence",
        media=MediaRules(pixels=(4 * 32 * 32, 1800 * 32 * 32)),
    )


def _both(name: str, prompt: str, **fields: Any) -> Recipe:
    """The same prompt for queries and documents, read at its last token."""
    role = RolePrompt(prompt)
    return Recipe(name=name, roles={"query": role, "document": role}, readout="last", **fields)
