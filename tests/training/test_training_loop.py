"""A stage that was stopped goes on from its last checkpoint, with the items it had not yet seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tte_runtime.training.loop import fit, keep


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": ((self.slope - 2) * x).square().mean()}


def run(folder: Path, model: Line, seen: list[int], stop_at: int | None) -> None:
    def make(index: int) -> Tensor:
        if index == stop_at:
            raise KeyboardInterrupt
        seen.append(index)
        return torch.tensor([1.0 + index % 3])

    fit(
        "line",
        model,
        make,
        lambda items: {"x": torch.stack(items)},
        folder,
        steps=8,
        batch_size=2,
        learning_rate=0.1,
        seed=0,
        warmup_steps=0,
        save_every=2,
    )


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, stopped, resumed = Line(), Line(), Line()
    seen: list[int] = []
    run(tmp_path / "whole", whole, seen, None)
    assert seen == list(range(16))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stopped, [], 11)
    seen.clear()
    run(tmp_path / "parts", resumed, seen, None)
    assert seen[-1] == 15 and len(seen) < 16
    assert whole.slope.item() != 0.0
    torch.testing.assert_close(resumed.slope, whole.slope, rtol=0, atol=1e-6)


def test_kept_weights_appear_whole(tmp_path: Path) -> None:
    keep({"a": torch.arange(6).view(2, 3).T}, tmp_path / "stage" / "weights.safetensors")
    assert [file.name for file in (tmp_path / "stage").iterdir()] == ["weights.safetensors"]
