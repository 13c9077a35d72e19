"""What must be set before any test is collected, and what tests of several folders share.

transformers imports Triton, and Triton decides at its import whether it compiles or interprets. So the choice is made
here, before the first test module is read, and not beside the kernel tests, which are collected late.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tte_runtime import Embedder

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny() -> Iterator[Embedder]:
    """The bundled checkpoint, loaded once a session; tests must not close it."""
    from tte_runtime import Embedder

    with Embedder.from_pretrained("tte-tiny") as embedder:
        yield embedder
