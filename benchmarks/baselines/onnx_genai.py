"""onnxruntime-genai on a CPU: writes traces and gives no states, so it does half of the job. Text models.

In its own environment: pip install onnxruntime-genai==0.18.0, and a model made by
`python -m onnxruntime_genai.models.builder -m NAME -i HF_FOLDER -o OUT -p fp32 -e cpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.baselines.rival_loop import Answer, Question, serve


def load(folder: str) -> Callable[[Question], Answer]:
    """A model folder of the builder."""
    import onnxruntime_genai as og

    model = og.Model(folder)

    def one(prompt: list[int], trace: int) -> Any:
        params = og.GeneratorParams(model)
        length = len(prompt) + trace
        params.set_search_options(min_length=length, max_length=length, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        return generator.get_sequence(0)[len(prompt) :]

    return lambda question: Answer([one(prompt, question.trace) for prompt in question.prompts])


if __name__ == "__main__":
    serve(load, ["onnxruntime-genai"])
