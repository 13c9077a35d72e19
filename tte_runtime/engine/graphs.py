"""Decode steps as CUDA graphs: one replay runs the layers, draws the next tokens and reads every row out.

A graph is captured for a few numbers of rows; a step takes the smallest that holds it and pads with rows that write
to scratch. What a step is told goes up in one copy from pinned memory. Knows no requests beyond their rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from tte_runtime.config import DECODE_ROWS, PAGE_SIZE, EngineConfig
from tte_runtime.engine.runner import Draws, Runner, StepOutput, is_filtered
from tte_runtime.engine.scheduler import Batch
from tte_runtime.engine.staging import Stage, Told
from tte_runtime.errors import OptionError
from tte_runtime.ops import Pooling, StepLayout
from tte_runtime.ops.transfer import to_device

# Rows; all are captured, however small the batch, because suffixes and replays fill steps up to the last one. That is
# also the most that one launch of decode_linear takes.
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, DECODE_ROWS)
STAGES = 3  # pinned buffers in turn: the host writes one while the copy of the one before may still be under way

Body = Callable[[], StepOutput]
Capture = Callable[[Body], tuple[Callable[[], None], StepOutput]]


def cuda_capture() -> Capture:
    """A way to capture bodies in CUDA graphs that share one pool of memory.

    They may: only one runs at a time, and what it leaves is copied before the next one starts. Other threads may go on
    meanwhile, as those of an embedder that serves while this one loads: only what this thread does is held to the rules
    of a capture.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(body: Body) -> tuple[Callable[[], None], StepOutput]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles kernels and lets libraries allocate, which a capture must not
            body()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = body()
        return graph.replay, output

    return capture


class _Step:
    """The decode step for `size` rows: memory that stays where it is, and the replay over it."""

    def __init__(self, runner: Runner, size: int, width: int, capture: Capture) -> None:
        device = runner.device
        self.size = size
        self.inputs = Told.make(size, width, device)
        self._draw = self.inputs.draw
        self._starts = torch.arange(size + 1, dtype=torch.int32, device=device)
        dim, scratch = runner.decoder.spec.hidden_size, len(runner.latest) - 1
        stages = [Stage(size, width, dim, scratch, pinned=device.type == "cuda") for _ in range(STAGES)]
        self._stages: Iterator[Stage] = itertools.cycle(stages)
        self.replay, self.output = capture(lambda: self._body(runner))

    def tell(self, batch: Batch, draws: Draws) -> None:
        """Write down what the step is told, and queue the copy."""
        stage = next(self._stages)
        stage.fill(batch, draws)
        self.inputs.block.copy_(stage.block, non_blocking=True)

    def _body(self, runner: Runner) -> StepOutput:
        told, decoder = self.inputs, runner.decoder
        ids = torch.where(told["ids"] < 0, runner.latest[told["read_lane"]], told["ids"])
        layout = StepLayout(
            decode=True,
            slots=told["slot"],
            page_table=told.table,
            cu_seqlens=self._starts,
            kv_lens=told.kv_lens,
            query_lens_host=(1,) * self.size,
            kv_lens_host=(told.table.shape[1] * PAGE_SIZE,) * self.size,  # the most it can be
        )
        positions = told["position"].expand(3, -1)
        hidden = decoder.forward(F.embedding(ids, decoder.embed), positions, layout, runner.kv_pages, runner.taps)
        tokens = None
        if decoder.lm_head is not None:
            tokens = decoder.next_tokens(hidden, self._draw)
            runner.latest[told["write_lane"]] = tokens[:, 0]
        pooling = Pooling(self._starts, told.dims, told.normalize)
        vectors = decoder.ops.pool_normalize(hidden, decoder.norm, decoder.spec.norm_eps, pooling)
        return StepOutput(hidden, tokens, vectors)


class DecodeGraphs:
    """Captured decode steps over a runner's memory.

    Args:
        runner: whose pages, taps and lanes the steps work on.
        config: resolved; `max_context` gives the width of page tables.
        capture: makes a body replayable; `cuda_capture()`, or in tests a plain call.
        sizes: numbers of rows, in ascending order.

    Raises:
        OptionError: the steps do not fit the device's memory.
    """

    def __init__(self, runner: Runner, config: EngineConfig, capture: Capture, sizes: Sequence[int] = SIZES) -> None:
        self._runner = runner
        width = -(-int(config.max_context) // PAGE_SIZE)
        before = _allocated(runner.device)
        bar = tqdm(reversed(sizes), total=len(sizes), desc="capturing decode graphs", unit="graph", leave=False)
        try:
            # The largest first: the others find room in its memory.
            steps = {size: _Step(runner, size, width, capture) for size in bar}
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise OptionError(
                f"decode graphs of {sizes[-1]} rows and fewer do not fit the memory of {runner.device} ({error}). "
                "Lower kv_cache_tokens or max_context, or use cuda_graphs=False."
            ) from error
        self._steps = dict(sorted(steps.items()))
        self.num_bytes = _allocated(runner.device) - before

    @property
    def max_rows(self) -> int:
        """Most rows of a captured step."""
        return max(self._steps)

    def forward(self, batch: Batch, draws: Draws) -> StepOutput:
        """Feed a decode batch of at most `max_rows` rows, and draw; as `Runner.forward`."""
        rows = sum(len(chunk) for chunk in batch.chunks)
        step = next(step for size, step in self._steps.items() if size >= rows)
        step.tell(batch, draws)
        step.replay()
        out = step.output
        assert out.vectors is not None, "captured steps read out every row"
        keep = any(chunk.sequence.needs_states for chunk in batch.chunks)
        hidden = out.hidden[:rows].clone() if keep else out.hidden[:rows]
        return StepOutput(hidden, self._drawn(out.tokens, hidden, draws), out.vectors[:rows].clone())

    def _drawn(self, tokens: torch.Tensor | None, hidden: torch.Tensor, draws: Draws) -> torch.Tensor | None:
        """One token a draw, from those of all rows; top-k and top-p are no part of the graph."""
        if not draws:
            return None
        assert tokens is not None, "recipes that think are refused where there is no output embedding"
        device, rows = self._runner.device, [row for _, row in draws]
        in_order = rows == list(range(len(rows)))
        drawn = tokens[: len(rows)] if in_order else tokens[to_device(rows, torch.int64, device)]
        filtered = [i for i, (sequence, _) in enumerate(draws) if is_filtered(sequence)]
        if filtered:
            drawn = drawn.clone()
            again = self._runner.draw(hidden, [draws[i] for i in filtered])
            drawn[to_device(filtered, torch.int64, device)] = again
        return drawn


def _out_of_memory(error: BaseException | None) -> bool:
    """Memory ran out: an error of torch's allocator, of CUDA, or what a capture that it broke off raised after it."""
    return error is not None and ("out of memory" in str(error).lower() or _out_of_memory(error.__context__))


def _allocated(device: torch.device) -> int:
    """Bytes in use on a GPU, by anybody."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free
