"""What tests of several forms of one input share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tte_runtime import Embedder

Vectors = Callable[[list[Any]], list[np.ndarray]]


@pytest.fixture
def vectors_of(tiny: Embedder) -> Vectors:
    """Vectors of forms of one thing, all against a warm cache: on a CPU a cold prompt may be rounded otherwise."""

    def embed(forms: list[Any]) -> list[np.ndarray]:
        tiny.embed(forms[0], role="document", think=False)
        return [tiny.embed(form, role="document", think=False).vector for form in forms]

    return embed
