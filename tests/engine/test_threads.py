"""The option `torch_threads` holds on the engine's thread and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tte_runtime import Embedder, EngineConfig
from tte_runtime.errors import OptionError
from tte_runtime.ops.threads import use_threads


def elsewhere(call: Callable[[], int]) -> int:
    """What `call` gives on a thread of its own."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_only_the_calling_thread_changes() -> None:
    before = torch.get_num_threads()

    def change() -> int:
        use_threads(before + 1)
        return torch.get_num_threads()

    assert elsewhere(change) == before + 1
    assert torch.get_num_threads() == before
    assert elsewhere(torch.get_num_threads) == before, "a thread that starts later keeps the process's number"


def test_the_engine_computes_with_its_own_number(random_folder: Path) -> None:
    before, seen = torch.get_num_threads(), []
    with Embedder.from_pretrained(random_folder, torch_threads=before + 1) as embedder:
        assert f"torch_threads={before + 1} " in embedder.config.describe()
        engine = embedder._pipeline.engine
        step = engine.step

        def watched() -> bool:
            seen.append(torch.get_num_threads())
            return step()

        engine.step = watched  # type: ignore[method-assign]
        embedder.embed("a text", role="document", think=False)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    with pytest.raises(OptionError, match="torch_threads must be a positive integer, got 0"):
        Embedder.from_pretrained(random_folder, torch_threads=0)


def test_auto_is_one_thread_of_torch_for_small_matrices_only() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def resolved(largest_matrix: int | None = None, **options: int) -> tuple[object, object]:
        config = EngineConfig(device="cpu", **options)
        config = config.resolve(model_context=64, bytes_per_token=64, largest_matrix=largest_matrix)
        return config.threads, config.torch_threads

    try:
        assert resolved(2**18) == (2, 1)
        assert resolved(2**18 + 1) == (2, 2) == resolved()
        assert resolved(2**18 + 1, threads=3) == (3, 3)
        assert resolved(1, torch_threads=3) == (2, 3)
    finally:
        torch.set_num_threads(before)
