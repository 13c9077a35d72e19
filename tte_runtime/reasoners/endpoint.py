"""Calls to a chat endpoint: streamed, limited in number, cut at their deadline, and cancelled when it is time to go.

Retries before the first piece, backing off, and timeouts are the official client's. Knows messages and pieces of text;
knows no request and no store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tte_runtime.errors import ReasonerError
from tte_runtime.reasoners.background import Background, Slots
from tte_runtime.reasoners.base import WriteListener, Written
from tte_runtime.traces.trace import Trace
from tte_runtime.types import Counts, FinishReason, ForcedBy, Think, Timings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CHARS_A_TOKEN = 16  # more than any text has on average: an endpoint that goes on beyond does not keep its limit


@dataclass(frozen=True)
class Call:
    """One trace to ask for.

    Attributes:
        messages: of the chat.
        think: how tokens are drawn. limit: most of them.
        extra: more fields of the body.
        rank: waiting calls of lower rank go first.
        deadline: `time.perf_counter()` value at which the trace is taken as far as it has come; `None` for none.
        began: when preparing it began.
    """

    messages: list[dict[str, Any]]
    think: Think
    limit: int
    extra: Mapping[str, Any]
    rank: int
    deadline: float | None
    began: float


@dataclass
class Answer:
    """What has come of an answer so far; times are of `time.perf_counter()`."""

    sent: float
    text: str = ""
    num_pieces: int = 0
    thinking: bool = False
    finish: str | None = None
    first: float | None = None
    counts: Counts = field(default_factory=Counts)


class Endpoint:
    """A chat endpoint.

    Args:
        client: its client, with its retries and timeouts.
        url, model: as errors name them.
        max_concurrency: most calls at once.
    """

    def __init__(self, client: AsyncOpenAI, url: str, model: str, max_concurrency: int) -> None:
        self._client = client
        self._url, self._model = url, model
        self._slots = Slots(max_concurrency)
        self._background = Background()

    def start(self, call: Call, listener: WriteListener) -> Callable[[], object]:
        """Ask for a trace; returns a function that gives it up, after which the listener hears nothing more."""
        return self._background.spawn(lambda: self._answer(call, listener))

    def close(self) -> None:
        """Give up all calls. May be called twice."""
        self._background.close(self._client.close)

    async def _answer(self, call: Call, listener: WriteListener) -> None:
        started = time.perf_counter()
        answer = Answer(sent=started)
        forced: ForcedBy | None = None
        try:
            async with asyncio.timeout(None if call.deadline is None else max(0.0, call.deadline - started)) as clock:
                async with self._slots.taken(call.rank):
                    answer.sent = time.perf_counter()
                    await self._listen(call, answer, listener)
        except TimeoutError as error:
            if not clock.expired():
                return listener.on_error(self._failure(error))
            forced = "deadline"
        except Exception as error:  # the client's own kinds, its transport's, and whatever a malformed answer breaks
            return listener.on_error(error if isinstance(error, ReasonerError) else self._failure(error))
        listener.on_written(_written(call, answer, started, forced))

    async def _listen(self, call: Call, answer: Answer, listener: WriteListener) -> None:
        """Take the answer in piece by piece; raises ReasonerError where it is no trace."""
        async with await self._client.chat.completions.create(**self._body(call)) as chunks:
            async for chunk in chunks:
                _take(answer, chunk, listener)
                if len(answer.text) > CHARS_A_TOKEN * call.limit:
                    answer.finish = "length"
                    return
        if answer.finish not in ("stop", "length"):
            what = f"ended with {answer.finish!r}" if answer.finish else "broke off"
            raise ReasonerError(
                f"the answer of {self._model!r} at {self._url} {what} after {answer.num_pieces} pieces. Check that it "
                "is a chat endpoint that can stream, and its log."
            )
        if not answer.text.strip():
            raise ReasonerError(
                f"{self._model!r} at {self._url} answered with an empty trace (finish_reason {answer.finish!r}). Raise "
                "max_tokens, or change the prompt."
            )

    def _body(self, call: Call) -> dict[str, Any]:
        think = call.think
        extra = dict(call.extra) | ({"top_k": think.top_k} if think.top_k else {})
        return {
            "model": self._model,
            "messages": call.messages,
            "max_tokens": call.limit,
            "temperature": think.temperature,
            "top_p": think.top_p,
            "seed": think.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": extra,
        }

    def _failure(self, error: Exception) -> ReasonerError:
        failure = ReasonerError(
            f"the reasoner {self._model!r} at {self._url} failed: {type(error).__name__}: {error} Check that it runs, "
            "the url, the model's name and the key. Requests whose traces are stored do not need it."
        )
        failure.__cause__ = error
        return failure


def _take(answer: Answer, chunk: Any, listener: WriteListener) -> None:
    """One chunk of the stream: a piece of text, the reason of the end, or the usage."""
    if chunk.usage:
        answer.counts = Counts(prompt=chunk.usage.prompt_tokens, trace=chunk.usage.completion_tokens)
    for choice in chunk.choices[:1]:
        delta = choice.delta
        # Not in the official protocol: servers that part thoughts from the answer use one of these two names.
        thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
        piece = ("" if answer.thinking or not thought else "<think>") + thought
        if delta.content:
            piece += ("</think>" if answer.thinking or thought else "") + delta.content
        if thought or delta.content:
            answer.thinking = not delta.content
        if piece:
            answer.first = answer.first or time.perf_counter()
            answer.text += piece
            listener.on_piece(answer.num_pieces, piece)
            answer.num_pieces += 1
        answer.finish = choice.finish_reason or answer.finish


def _written(call: Call, answer: Answer, started: float, forced: ForcedBy | None) -> Written:
    now = time.perf_counter()
    if forced is None and answer.finish == "length":
        forced = "max_tokens"
    reason: FinishReason = "forced" if forced else "stop"
    first = answer.first or now
    timings = Timings(
        preprocess=1000 * (started - call.began),
        queue=1000 * (answer.sent - started),
        prefill=1000 * (first - answer.sent),
        decode=1000 * (now - first),
        total=1000 * (now - call.began),
    )
    return Written(Trace(answer.text, (), reason, forced), answer.counts, timings)
