"""The bundled model in 16 and 8 bits on a CPU: near float32, near itself in a batch, and never mixed with float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tte_runtime import Embedder
from tte_runtime.evaluation.scenes import make_tests

# Elementwise. A batch adds torch's products up in another order (1e-7), which may turn a rounding of the format.
FORMATS = {
    "bfloat16": ({"dtype": "bfloat16"}, 0.999, 1e-2),
    "w8a8": ({"weights": "w8a8"}, 0.999, 0.0),
    "w8a8 in torch": ({"weights": "w8a8", "kernels": "torch"}, 0.999, 5e-3),
}


@pytest.mark.parametrize("name", FORMATS)
def test_near_float32_and_near_itself_in_a_batch(name: str, tiny: Embedder) -> None:
    options, least_cosine, largest_error = FORMATS[name]
    if name == "w8a8 in torch" and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs torch with fbgemm (x86)")
    items: list[Any] = [test.item for test in make_tests(1)]
    exact = tiny.embed(items, role="query", think=False)
    with Embedder.from_pretrained("tte-tiny", prefix_cache=False, **options) as embedder:  # type: ignore[arg-type]
        together = embedder.embed(items, role="query", think=False)
        alone = [embedder.embed(item, role="query", think=False) for item in items]
        assert embedder.fingerprint != tiny.fingerprint
    for ours, single, theirs in zip(together, alone, exact, strict=True):
        assert ours.vector @ theirs.vector > least_cosine
        assert np.abs(ours.vector - single.vector).max() <= largest_error
