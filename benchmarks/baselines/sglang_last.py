"""SGLang on a GPU: one pass, `return_hidden_states="last"`, the vector normalised by the client. UNMEASURED.

Written from SGLang 0.5.23's sources and documentation and not run yet: no GPU was at hand. In its own environment:
pip install sglang==0.5.23. The state is that of the step which wrote the trace's last token (that token itself is not
fed), so vectors are another definition than ours and are not compared; traces are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.baselines.rival_loop import Answer, Question, serve


def load(folder: str) -> Callable[[Question], Answer]:
    """A Hugging Face folder."""
    import numpy as np
    import sglang

    engine = sglang.Engine(
        model_path=folder,
        dtype="bfloat16",
        enable_return_hidden_states=True,
        return_hidden_states_mode="last",
        disable_radix_cache=True,
        skip_tokenizer_init=False,
    )

    def run(question: Question) -> Answer:
        sampling: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": question.trace, "ignore_eos": True}
        inputs: dict[str, Any] = {"prompt": list(question.texts), "sampling_params": sampling}
        if question.images:
            inputs["image_data"] = list(question.images)
        outputs = engine.generate(**inputs, return_hidden_states="last")
        states = [np.asarray(one["meta_info"]["hidden_states"], np.float32).reshape(-1) for one in outputs]
        vectors = [(state / np.linalg.norm(state)).tolist() for state in states]
        return Answer([one["output_ids"] for one in outputs], vectors)

    return run


if __name__ == "__main__":
    serve(load, ["sglang"])
