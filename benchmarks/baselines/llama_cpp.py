"""llama.cpp on a CPU through llama-cpp-python: writes traces and gives no states: half of the job.

Run with 0.3.36, which builds from source for ten minutes or more. In its own environment:
pip install llama-cpp-python==0.3.36. Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from benchmarks.baselines.rival_loop import Answer, Question, serve


def load(path: str) -> Callable[[Question], Answer]:
    """A .gguf file."""
    from llama_cpp import Llama

    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or None
    model = Llama(path, n_ctx=4096, n_threads=threads, n_threads_batch=threads, verbose=False)

    def one(prompt: list[int], trace: int) -> list[int]:
        written: list[int] = []
        for token in model.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0, reset=True):
            written.append(token)
            if len(written) == trace:
                break
        return written

    return lambda question: Answer([one(prompt, question.trace) for prompt in question.prompts])


if __name__ == "__main__":
    serve(load, ["llama-cpp-python"])
