"""What a captured step is told: memory that is used again and again says the same as memory that is new."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tte_runtime.config import MAX_STOPS, PAGE_SIZE
from tte_runtime.engine.request import EngineRequest, Listener, Readout, Sampling
from tte_runtime.engine.runner import Draws
from tte_runtime.engine.scheduler import Batch, Chunk
from tte_runtime.engine.sequence import Sequence
from tte_runtime.engine.staging import LONGS, Stage

SIZE, WIDTH, DIM, SCRATCH = 8, 12, 64, 5
IGNORE = Listener(on_result=lambda result: None, on_error=lambda error: None)


def sequence(number: int) -> Sequence:
    """A request whose numbers are all its own."""
    request = EngineRequest(
        prompt_ids=tuple(range(100 * number, 100 * number + 20)),
        positions=torch.zeros(3, 20, dtype=torch.int64),
        position_delta=-number,
        max_trace_tokens=100,
        stop_ids=frozenset(range(number % 4)),
        sampling=Sampling(temperature=0.1 * number, seed=1000 + number, trace_index=number % 3),
        readout=Readout("last", dim=8 * number or None, normalize=number % 2 == 0),
    )
    made = Sequence(request, IGNORE, number, [])
    made.lane = number % SCRATCH
    return made


def told(stage: Stage, row: int) -> dict[str, Any]:
    """One row of a stage."""
    columns = ("temperature", "stops", "kv_lens", "dims", "normalize", "table")
    longs = {name: int(stage._longs[name][row]) for name in LONGS}
    return longs | {name: np.asarray(getattr(stage, f"_{name}")[row]).tolist() for name in columns}


@pytest.mark.parametrize("seed", range(4))
def test_memory_that_was_used_before_says_what_new_memory_says(seed: int) -> None:
    """Rows change hands, sequences grow, and one that was preempted comes back with other pages."""
    chance = random.Random(seed)
    used = Stage(SIZE, WIDTH, DIM, SCRATCH, pinned=False)
    sequences = [sequence(number) for number in range(6)]
    for _ in range(60):
        chosen = chance.sample(sequences, chance.randint(1, 4))
        for one in chosen:
            if chance.random() < 0.2:
                one.restart()
            one.fed = chance.randint(18, PAGE_SIZE * WIDTH - 2)
            one.pages += chance.sample(range(1, 500), one.fed // PAGE_SIZE + 1 - len(one.pages)) if grows(one) else []
            one.ids = list(one.request.prompt_ids) + [-1] * (one.fed + 1 - 20)
        chunks = tuple(Chunk(one, one.fed - chance.randint(0, 1), one.fed + 1) for one in chosen)
        batch, draws, row = Batch(True, chunks), [], -1
        for chunk in chunks:
            row += len(chunk)
            if chance.random() < 0.7:
                draws.append((chunk.sequence, row))
        check(used, batch, draws)


def grows(one: Sequence) -> bool:
    return one.fed // PAGE_SIZE + 1 > len(one.pages)


def check(used: Stage, batch: Batch, draws: Draws) -> None:
    fresh = Stage(SIZE, WIDTH, DIM, SCRATCH, pinned=False)
    for stage in (used, fresh):
        stage.fill(batch, draws)
    drawing = dict((row, one) for one, row in draws)
    fed = [(chunk.sequence, index) for chunk in batch.chunks for index in range(chunk.start, chunk.stop)]
    for row in range(SIZE):
        ours, theirs = told(used, row), told(fresh, row)
        held = fed[row][0].pages if row < len(fed) else [0]
        assert ours.pop("table")[: len(held)] == theirs.pop("table")[: len(held)] == held
        if row not in drawing:
            assert ours["write_lane"] == SCRATCH
            for name in ("temperature", "stops", "seed", "draw_position", "trace_index"):  # of whoever drew here last
                del ours[name], theirs[name]
        assert ours == theirs
    for row, (one, index) in enumerate(fed):
        wanted = (one.ids[index], one.slot(index), one.position(index), one.lane, index + 1)
        got = told(used, row)
        assert tuple(got[name] for name in ("ids", "slot", "position", "read_lane", "kv_lens")) == wanted
        if row in drawing:
            assert set(got["stops"]) - {-1} == one.request.stop_ids and len(got["stops"]) == MAX_STOPS
            assert got["temperature"] == pytest.approx(one.request.sampling.temperature)
