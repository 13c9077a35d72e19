"""A rival for tests: plain transformers in a process of its own, or one that breaks. No test; started by one."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.baselines.rival_loop import Answer, Question, serve


def load(folder: str) -> Callable[[Question], Answer]:
    if folder == "nowhere":
        sys.exit(7)
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    print("talk of an engine")

    def run(question: Question) -> Answer:
        if question.trace == 13:
            raise ValueError("thirteen")
        return Answer([one(prompt, question.trace) for prompt in question.prompts])

    def one(prompt: list[int], trace: int) -> list[int]:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": trace, "do_sample": False, "eos_token_id": [], "pad_token_id": 0}
        with torch.inference_mode():
            return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()

    return run


if __name__ == "__main__":
    serve(load, ["torch"])
