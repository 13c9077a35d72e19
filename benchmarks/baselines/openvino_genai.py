"""OpenVINO GenAI on a CPU: writes traces and gives no states, so it does half of the job. Text models, also as GGUF.

In its own environment: pip install openvino-genai==2026.4.1. It caches prefixes, so prompts differ from their start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.baselines.rival_loop import Answer, Question, serve


def load(path: str) -> Callable[[Question], Answer]:
    """A folder of OpenVINO's own format, or a .gguf file."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    pipeline = genai.LLMPipeline(path, "CPU")

    def one(prompt: list[int], trace: int) -> Any:
        ids = np.array([prompt], dtype=np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        return pipeline.generate(inputs, max_new_tokens=trace, ignore_eos=True, do_sample=False).tokens[0]

    return lambda question: Answer([one(prompt, question.trace) for prompt in question.prompts])


if __name__ == "__main__":
    serve(load, ["openvino-genai"])
