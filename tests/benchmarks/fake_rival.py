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
        prompts = torch.tensor(question.prompts)
        with torch.inference_mode():
            whole = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=question.trace,
                do_sample=False,
                eos_token_id=[],
                pad_token_id=0,
            )
        return Answer(whole[:, prompts.shape[1] :].tolist())

    return run


if __name__ == "__main__":
    serve(load, ["torch"])
