"""Between the door and the engines: a pool that prepares requests, and the loop that runs them.

Pictures are decoded and resized and prompts tokenised in threads beside the engines' loop, never in it; corpus
jobs have a pool of their own, so that they cannot hold up an interactive request. Knows no vectors' meaning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tte_runtime.engine.loop import EngineLoop
from tte_runtime.errors import EngineError
from tte_runtime.flow import Flow
from tte_runtime.inputs.items import Item
from tte_runtime.inputs.trace_tokens import TraceTokens
from tte_runtime.loading import Model
from tte_runtime.pending import Pending
from tte_runtime.reasoners.base import Ask, Writer
from tte_runtime.streaming import Piece
from tte_runtime.traces.store import TraceStore
from tte_runtime.types import Priority, Role, Think


class Pipeline:
    """A loaded system, ready to take requests from any thread.

    Args:
        model: embeds, and thinks where no reasoner does.
        loop: drives the engines of all models.
        writer: the reasoner, or `None` where there is none.
        store: where traces are kept, or `None`.
        owns_store: it is closed with the pipeline.
    """

    def __init__(
        self,
        model: Model,
        loop: EngineLoop,
        writer: Writer | None = None,
        store: TraceStore | None = None,
        *,
        owns_store: bool = False,
    ) -> None:
        self.model = model
        self.loop = loop
        self.writer = writer
        self.store = store
        self._owns_store = owns_store
        self.engine = model.engine
        self.renderer = model.renderer
        self.recipe = model.renderer.recipe
        self.tokens = TraceTokens(model.renderer)
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[Pending] = set()
        self._pools = {
            priority: ThreadPoolExecutor(model.config.preprocess_workers, thread_name_prefix=f"tte-prepare-{priority}")
            for priority in ("interactive", "corpus")
        }

    @property
    def thinks_itself(self) -> bool:
        """The embedder writes its traces on the way to its vectors."""
        return self.writer is None and bool(self.recipe.stop) and self.recipe.trace_from == "itself"

    @property
    def identity(self) -> list[Any]:
        """Everything that decides a vector, as JSON can hold it: both models', where there are two."""
        return self.model.identity if self.writer is None else [self.model.identity, self.writer.identity]

    def trace_text(self, ids: Sequence[int]) -> str:
        """Token ids of a trace as text, in the tokenizer of the model that thinks."""
        return self.tokens.text(ids) if self.writer is None else self.writer.text(ids)

    def submit(
        self,
        item: Item,
        role: Role,
        think: Think | None,
        *,
        priority: Priority,
        normalize: bool,
        dim: int | None = None,
        on_piece: Callable[[int, Piece], None] = lambda index, piece: None,
    ) -> Pending:
        """Take a request in and return at once; errors of its preparation come with its result.

        Raises:
            EngineError: the pipeline is closed, or this process was forked from the one that loaded it.
        """
        self.loop.check_process()  # here already: the preparing threads did not come along either
        pending = Pending()
        ask = Ask(item, role, think or Think(), priority, time.perf_counter())
        thinking = think is not None or item.trace is not None
        flow = Flow(self, ask, thinking=thinking, normalize=normalize, dim=dim, pending=pending, on_piece=on_piece)

        def prepare() -> None:
            if pending.done:
                return
            try:
                flow.start()
            except Exception as error:
                pending.fail(error)

        with self._lock:
            if self._closed:
                raise EngineError("the embedder is closed. Make a new one.")
            self._open.add(pending)
            self._pools[priority].submit(prepare)
        pending.add_done_callback(lambda: self._open.discard(pending))
        return pending

    def run(self, priority: Priority, work: Callable[[], object]) -> None:
        """Do something for a request beside the loop; raises RuntimeError once the pipeline is closed."""
        self._pools[priority].submit(work)

    def clear_caches(self) -> None:
        """Forget cached prefixes and picture features; to be called while nothing is in work."""
        self.model.clear_caches()
        if self.writer is not None:
            self.writer.clear_caches()

    def close(self) -> None:
        """Stop all threads; requests still in work fail with EngineError. May be called twice."""
        with self._lock:
            self._closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        if self.writer is not None:
            self.writer.close()
        self.loop.close()
        if self.store is not None and self._owns_store:
            self.store.close()
        for pending in list(self._open):
            pending.fail(EngineError("the embedder was closed while the request was in work."))
