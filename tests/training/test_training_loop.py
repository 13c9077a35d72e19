"""A stage that was stopped goes on from its last checkpoint, with the items it had not yet seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tte_runtime.errors import TrainingError
from tte_runtime.training.loop import fit, keep
from tte_runtime.training.written import write_model


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": ((self.slope - 2) * x).square().mean()}


class Steep(Line):
    """Its loss is a number, its gradient is none."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (0 * self.slope).sqrt().sum()}


def run(
    folder: Path, model: Line, seen: list[int], stop_at: int | None, learning_rate: float = 0.1, save_every: int = 2
) -> None:
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
        learning_rate=learning_rate,
        seed=0,
        warmup_steps=0,
        save_every=save_every,
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


def test_a_run_that_diverges_stops_and_keeps_its_last_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingError, match=r"line: the loss of step 2 is inf: .* kept in .*lower learning rate"):
        run(tmp_path / "far", Line(), [], None, learning_rate=1e30, save_every=1)
    assert [one.name for one in (tmp_path / "far").iterdir()] == ["checkpoint-1"]
    broken = r"line, step 1: 1 of 1 tensors are NaN or infinite \(slope is the first\)"
    for every, said in ((1, broken), (9, "the loss of step 2 is nan")):
        with pytest.raises(TrainingError, match=said):
            run(tmp_path / str(every), Steep(), [], None, save_every=every)
        assert not list((tmp_path / str(every)).glob("checkpoint-*"))


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 of 1 tensors"):
        keep({"a": torch.tensor([1.0, float("nan")])}, tmp_path / "weights.safetensors")
    line = Line()
    line.slope.data.fill_(1e6)
    with pytest.raises(TrainingError, match="in float16: 1 of 1 tensors"):  # too large for what is written
        write_model(tmp_path, line, torch.float16)
    assert not list(tmp_path.iterdir())
