"""The compiled product: right for every number of rows, inputs and outputs, and the same bits for a row among any."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from tte_runtime.models.vision import PackedLinear
from tte_runtime.ops.numba_ops import NumbaOps
from tte_runtime.ops.rows import sources
from tte_runtime.ops.rows.product import PanelMatrix
from tte_runtime.ops.rows.team import Team

SHAPES = {"tiny": (320, 192), "narrow": (5, 7), "odd": (97, 513), "deep": (64, 1600), "one": (1, 1)}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_product_of_any_number_of_rows(
    shape: tuple[int, int], exact: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("WORTH_DIVIDING", "WORTH_SHARING"):
        monkeypatch.setattr(f"tte_runtime.ops.rows.team.{limit}", 0)
    torch.manual_seed(0)
    weight = torch.randn(shape) * shape[1] ** -0.5
    weight = weight.bfloat16().float() if exact else weight
    matrix = PanelMatrix(weight, Team(threads))
    assert torch.equal(matrix.weight, weight)
    x, bias, residual = torch.randn(101, shape[1]), torch.randn(shape[0]), torch.randn(101, shape[0])
    wanted = x.double() @ weight.double().T
    whole = matrix.times(x)
    torch.testing.assert_close(whole.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(matrix.times(x, bias).double(), wanted + bias, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(matrix.times_plus(x, residual).double(), wanted + residual, rtol=1e-5, atol=1e-5)
    for rows in (*range(1, 26), 60):
        assert torch.equal(matrix.times(x[7 : 7 + rows]), whole[7 : 7 + rows]), f"{rows} rows"


def test_what_is_added_to_stays_the_callers_and_nothing_is_a_product_too() -> None:
    matrix, residual = PanelMatrix(torch.randn(64, 8), Team(1)), torch.randn(3, 64)
    before = residual.clone()
    matrix.times_plus(torch.randn(3, 8), residual)
    assert torch.equal(residual, before)
    assert matrix.times(torch.empty(0, 8)).shape == (0, 64)


def test_nobody_waits_for_a_helper_that_sleeps() -> None:
    """Pieces are taken by whoever is there; a share of the columns is its thread's own."""
    begun, wake = threading.Event(), threading.Event()
    team = Team(2)
    team.helpers().submit(lambda: (begun.set(), wake.wait(60)))
    assert begun.wait(60)
    weight, x = torch.randn(96, 2000), torch.randn(10_000, 2000)
    matrix = PanelMatrix(weight, team)
    size, block = team.plan(weight.numel(), 10_000)
    assert (size, block) == (2, 128) and team.plan(weight.numel(), 60)[0] == 1
    torch.testing.assert_close(matrix.times(x), x @ weight.T, rtol=1e-4, atol=1e-3)
    assert not wake.is_set(), "it has slept through all of it"
    wake.set()


def test_a_nan_stays_in_its_row() -> None:
    matrix, x = PanelMatrix(torch.randn(40, 8), Team(1)), torch.randn(13, 8)
    clean = matrix.times(x)
    x[5, 3] = float("nan")
    got = matrix.times(x)
    assert got[5].isnan().all()
    assert torch.equal(got[torch.arange(13) != 5], clean[torch.arange(13) != 5])


@torch.inference_mode()
def test_a_towers_layers_take_the_same_product() -> None:
    layer = torch.nn.Linear(12, 40)
    patches = torch.nn.Conv3d(3, 40, kernel_size=(2, 4, 4), stride=(2, 4, 4))
    ops = NumbaOps(1)
    for one, x in ((layer, torch.randn(9, 12)), (patches, torch.randn(9, 3, 2, 4, 4))):
        matrix = ops.pack_tower(one.weight.detach().flatten(1))
        assert isinstance(matrix, PanelMatrix)
        torch.testing.assert_close(PackedLinear(one, matrix)(x), one(x).flatten(1), rtol=1e-5, atol=1e-5)


def test_what_is_compiled_is_known_by_all_the_files_it_is_made_of() -> None:
    """Numba's cache knows a function by its own file and by what it closes over."""
    from tte_runtime.ops.rows.compiled import run_layers, run_product
    from tte_runtime.ops.rows.scoring import score_tokens

    made_of = {path.name for path in sources._FILES}
    assert {"tiles.py", "attention.py", "values.py", "barrier.py", "compiled.py", "scoring.py"} <= made_of
    assert made_of == {path.name for path in Path(sources.__file__).parent.glob("*.py")}
    for entry in (run_layers, run_product, score_tokens):
        assert [cell.cell_contents for cell in entry.py_func.__closure__] == [sources.SOURCES]
