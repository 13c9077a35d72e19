"""What tests of the engine share: stepping one by hand, a capture without a GPU, and pages full of rubbish.

Knows the engine's insides; knows no checkpoint and no test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tte_runtime import Embedder, Think
from tte_runtime.engine.engine import Engine
from tte_runtime.engine.graphs import SIZES, Body, DecodeGraphs
from tte_runtime.engine.request import EngineRequest, EngineResult, Listener
from tte_runtime.engine.runner import StepOutput
from tte_runtime.inputs.items import parse_item

Outcome = EngineResult | Exception


def call_again(body: Body) -> tuple[Callable[[], None], StepOutput]:
    """As a capture does: the first call's output is written anew by every replay."""
    output = body()

    def replay() -> None:
        again = body()
        for name in ("hidden", "tokens", "vectors"):
            if (kept := getattr(output, name)) is not None:
                kept.copy_(getattr(again, name))

    return replay, output


def capture_decode(engine: Engine, sizes: Sequence[int] = SIZES) -> None:
    """Let an engine's decode steps of up to so many rows run over fixed memory."""
    with torch.inference_mode():
        engine.graphs = DecodeGraphs(engine.runner, engine.config, call_again, sizes)


def render(embedder: Embedder, item: Any, role: Any = "query", max_tokens: int = 8) -> EngineRequest:
    """A thinking request as the embedder would hand it over."""
    think = Think(max_tokens=max_tokens)
    return embedder._pipeline.renderer.render(
        parse_item(item), role, think, priority="interactive", normalize=True, arrival=0.0
    )


def drive(engine: Engine, requests: Sequence[EngineRequest], before: Callable[[], None] | None = None) -> list[Outcome]:
    """Take in all requests, then step until they are done; `before` is called before every step.

    No thread and no clock has a say, so two drives of the same requests run the same steps.
    """
    outcomes: dict[int, Outcome] = {}
    for index, request in enumerate(requests):
        take = lambda outcome, index=index: outcomes.__setitem__(index, outcome)  # noqa: E731
        engine.add(request, Listener(on_result=take, on_error=take))
    while not engine.idle:
        if before is not None:
            before()
        engine.step()
    assert engine.pool.num_available == engine.pool.num_pages - 1, "a page was lost"
    assert len(engine.scheduler._lanes) == engine.config.max_batch_size, "a lane was lost"
    return [outcomes[index] for index in range(len(requests))]


def spoil(engine: Engine) -> None:
    """Write NaN and both infinities to every slot whose content nobody may count on: keys, values and taps.

    What counts are the tokens fed by those that run, and pages that can be found again.
    """
    runner, pool = engine.runner, engine.pool
    counts = torch.zeros(pool.num_pages, 16, dtype=torch.bool)
    counts[list(pool._key_of)] = True
    for sequence in engine.scheduler.running:
        for index in range(sequence.fed):
            counts.view(-1)[sequence.slot(index)] = True
    rubbish = torch.tensor([float("nan"), float("inf"), -float("inf")]).repeat(pool.num_pages * 16)
    rubbish = rubbish[: pool.num_pages * 16].view(pool.num_pages, 16).to(runner.kv_pages.dtype)
    slots = runner.kv_pages.transpose(3, 4)  # [L, 2, N, 16, K, D]
    slots[:, :, ~counts] = rubbish[~counts][:, None, None]
    if runner.taps is not None:
        runner.taps.pages[~counts.flatten()] = rubbish[~counts][:, None]
