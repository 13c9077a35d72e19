"""vLLM on a GPU: one engine writes, a second one in pooling mode reads prompt and trace from the start. UNMEASURED.

Written from vLLM 0.33's sources and documentation and not run yet: no GPU was at hand. In its own environment:
pip install vllm==0.33.0. Two copies of the weights; a runner of one engine either generates or pools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.baselines.rival_loop import Answer, Question, serve

SHARE = 0.4  # of the GPU's memory, for each of the two


def load(folder: str) -> Callable[[Question], Answer]:
    """A Hugging Face folder."""
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"dtype": "bfloat16", "gpu_memory_utilization": SHARE, "enable_prefix_caching": False}
    writer = LLM(folder, **options)
    reader = LLM(folder, runner="pooling", convert="embed", **options)

    def prompts(ids: list[list[int]], images: Any) -> list[dict[str, Any]]:
        media = [{"multi_modal_data": {"image": image}} for image in images] if images else [{}] * len(ids)
        return [{"prompt_token_ids": own, **more} for own, more in zip(ids, media, strict=True)]

    def run(question: Question) -> Answer:
        from PIL import Image

        images = [Image.open(path).convert("RGB") for path in question.images]
        sampling = SamplingParams(temperature=0.0, max_tokens=question.trace, ignore_eos=True)
        outputs = writer.generate(prompts(list(question.prompts), images), sampling, use_tqdm=False)
        traces = [list(one.outputs[0].token_ids) for one in outputs]
        whole = [[*prompt, *trace, *question.close] for prompt, trace in zip(question.prompts, traces, strict=True)]
        vectors = [one.outputs.embedding for one in reader.embed(prompts(whole, images), use_tqdm=False)]
        return Answer(traces, vectors)

    return run


if __name__ == "__main__":
    serve(load, ["vllm"])
