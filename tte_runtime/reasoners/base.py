"""What a reasoner must offer: a draft of a trace, with the key of what it would say, and the writing. A contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tte_runtime.engine.loop import EngineLoop
from tte_runtime.inputs.items import Item
from tte_runtime.loading import Model
from tte_runtime.traces.trace import Trace, TraceKey
from tte_runtime.types import Counts, Priority, Role, Think, Timings


@dataclass(frozen=True, eq=False)
class Ask:
    """One trace that is wanted.

    Attributes:
        item, role, priority: the request's.
        think: limits and sampling.
        arrival: `time.perf_counter()` of the caller's asking; the deadline counts from there.
    """

    item: Item
    role: Role
    think: Think
    priority: Priority
    arrival: float


@dataclass(frozen=True)
class Written:
    """A trace, and what writing it took."""

    trace: Trace
    counts: Counts
    timings: Timings


@dataclass(frozen=True)
class WriteListener:
    """Where a trace's news go, on a thread of the writer's: the callables must be quick.

    Attributes:
        on_written: the trace is there.
        on_error: it will not come.
        on_piece: (index, token id), or (index, text) from a writer that sends no ids.
    """

    on_written: Callable[[Written], None]
    on_error: Callable[[Exception], None]
    on_piece: Callable[[int, int | str], None]


class Draft(ABC):
    """A trace that can be written now.

    Attributes:
        key: everything that decides it.
    """

    key: TraceKey

    @abstractmethod
    def write(self, listener: WriteListener) -> Callable[[], object]:
        """Start writing and return at once, with a function that gives it up.

        Raises:
            ContextError: it can never fit. EngineError: the embedder is closed.
        """


class Writer(ABC):
    """A reasoner, loaded. Safe to use from several threads.

    Attributes:
        think: limits and sampling where a request gives none.
        identity: everything that decides its traces, as JSON can hold it.
        shares_ids: its token ids mean the same in the embedder.
    """

    think: Think
    identity: list[Any]
    shares_ids: bool

    @abstractmethod
    def thinks(self, role: Role) -> bool:
        """Whether the role has a trace unless told otherwise."""

    @abstractmethod
    def limit(self, think: Think) -> int:
        """Most tokens of a trace."""

    @abstractmethod
    def prepare(self, ask: Ask) -> Draft:
        """Everything before the writing: pictures opened, the prompt made.

        Raises:
            InputError: the content cannot be used.
        """

    def body(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A trace of this writer without the token that stopped it."""
        return tuple(ids)

    def text(self, ids: Sequence[int]) -> str:
        """Token ids that came through `on_piece`, as text."""
        raise AssertionError("this writer sends text")

    @abstractmethod
    def clear_caches(self) -> None:
        """Forget what was cached, as after loading."""

    @abstractmethod
    def close(self) -> None:
        """Give up what is in work. May be called twice."""


class Reasoner(ABC):
    """Names a reasoner for `Embedder.from_pretrained(..., reasoner=...)`: a `LocalReasoner` or a `RemoteReasoner`."""

    @abstractmethod
    def load(self, embedder: Model | None, options: dict[str, Any], loop: EngineLoop) -> Writer:
        """Make it ready to write.

        Args:
            embedder: the model that reads its traces; `None` where they are written to be kept.
            options: of the engine, as the embedder was given them.
            loop: drives the engines of both models.
        """
