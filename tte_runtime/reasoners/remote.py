"""A reasoner behind a chat endpoint: any server that speaks OpenAI's protocol, through the official client.

Names the endpoint and what it is asked; the calls themselves are `endpoint.py`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tte_runtime.engine.loop import EngineLoop
from tte_runtime.env import OPENAI_KEY
from tte_runtime.errors import MissingExtraError, OptionError
from tte_runtime.loading import Model
from tte_runtime.reasoners.base import Ask, Draft, Reasoner, WriteListener, Writer
from tte_runtime.reasoners.chat import chat_messages
from tte_runtime.reasoners.endpoint import Call, Endpoint
from tte_runtime.traces.trace import TraceKey, hash_of, sampling_hash
from tte_runtime.types import Role, Think, check_role

# The paper's form, a chain of thought and then the final reasoning (arXiv 2510.05014, section 3); the words are ours.
PROMPT = (
    "{text}\n\nThe above is to be represented by an embedding, for retrieval. Think about what matters step by step "
    "within <think> and </think>, then say in one or two sentences what it is, or what would answer it."
)


class RemoteReasoner(Reasoner):
    """A chat endpoint that writes the traces (TTE_t: a large teacher).

    Pictures are sent as data URLs, videos as frames, a PDF's page as a picture. Where the server of a reasoning model
    parts the thoughts from the answer, the trace has them together again, as `<think>thoughts</think>answer`.

    Args:
        url: of the API, such as "http://localhost:8000/v1".
        model: as the endpoint calls it.
        api_key: by default what the environment says (OPENAI_API_KEY), or none.
        prompt: the user's turn, with `{text}` for the request's text. system: the system's turn.
        roles: which roles have a trace unless told otherwise.
        think: limits and sampling where a request gives none; greedy, up to `max_trace_tokens`, by default.
        max_trace_tokens: limit of a trace where neither the request nor `think` gives one.
        max_concurrency: most calls at once; the others wait, interactive ones in front.
        timeout: seconds without a sign of life after which a call is given up.
        max_retries: how often a call that failed before its first piece is tried again, waiting longer each time.
        max_pixels: of a picture; larger ones are shrunk before they are sent.
        extra: more fields of the request's body, such as {"chat_template_kwargs": {...}}.

    Raises:
        OptionError: a value is out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key: str | None = None,
        prompt: str = PROMPT,
        system: str | None = None,
        roles: Sequence[Role] = ("query", "document"),
        think: Think | None = None,
        max_trace_tokens: int = 1024,
        max_concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 2,
        max_pixels: int = 2**22,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise OptionError(
                f"url must be of http or https, got {url!r}. Give the API's, such as http://host:8000/v1."
            )
        if prompt.count("{text}") != 1:
            raise OptionError("prompt must contain {text} exactly once.")
        for name, value in (
            ("max_trace_tokens", max_trace_tokens),
            ("max_concurrency", max_concurrency),
            ("max_pixels", max_pixels),
        ):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        if max_retries < 0 or not timeout > 0:
            raise OptionError(f"max_retries must be >= 0 and timeout > 0, got {max_retries} and {timeout}.")
        self.url, self.model, self.api_key = url, model, api_key
        self.prompt, self.system = prompt, system
        self.roles = tuple(check_role(role) for role in roles)
        self.think = think or Think()
        self.max_trace_tokens, self.max_concurrency, self.max_pixels = max_trace_tokens, max_concurrency, max_pixels
        self.timeout, self.max_retries = timeout, max_retries
        self.extra = dict(extra or {})

    def load(self, embedder: Model | None, options: dict[str, Any], loop: EngineLoop) -> Writer:
        """Make the client; nothing is sent yet. Raises MissingExtraError where `openai` is not installed."""
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise MissingExtraError(
                "a remote reasoner needs openai. Run: pip install 'tte-runtime[remote]' (or: pip install openai)."
            ) from error
        client = AsyncOpenAI(
            base_url=self.url,
            api_key=self.api_key or os.environ.get(OPENAI_KEY.name) or "none",  # servers of one's own ask for none
            timeout=self.timeout,
            max_retries=self.max_retries,
        )
        return RemoteWriter(self, Endpoint(client, self.url, self.model, self.max_concurrency))


class RemoteWriter(Writer):
    """An endpoint that writes traces.

    Args:
        reasoner: what it is asked.
        endpoint: where.
    """

    shares_ids = False  # it sends text

    def __init__(self, reasoner: RemoteReasoner, endpoint: Endpoint) -> None:
        self._reasoner = reasoner
        self._endpoint = endpoint
        self.think = reasoner.think
        sampling = {name: value for name, value in asdict(reasoner.think).items() if name != "deadline_ms"}
        limits = [reasoner.max_trace_tokens, reasoner.max_pixels]
        # Not the url: the same model may be served from elsewhere tomorrow.
        self.identity = ["remote", reasoner.model, reasoner.system, reasoner.prompt, sampling, limits, reasoner.extra]

    def thinks(self, role: Role) -> bool:
        """As it was told."""
        return role in self._reasoner.roles

    def limit(self, think: Think) -> int:
        """The request's, or its own."""
        for given in (think.max_tokens, self._reasoner.think.max_tokens):
            if given is not None:
                return given
        return self._reasoner.max_trace_tokens

    def prepare(self, ask: Ask) -> Draft:
        """Encode the pictures and make the messages."""
        began, asked = time.perf_counter(), self._reasoner
        messages, shown = chat_messages(ask.item, asked.prompt, asked.system, asked.max_pixels)
        limit = self.limit(ask.think)
        key = TraceKey(
            content=shown,
            prompt=hash_of(asked.prompt, asked.system),
            processor=hash_of("data urls", asked.max_pixels),
            reasoner=hash_of("remote", asked.model, asked.extra),
            sampling=sampling_hash(ask.think, limit),
        )
        deadline = None if ask.think.deadline_ms is None else ask.arrival + ask.think.deadline_ms / 1000
        call = Call(messages, ask.think, limit, asked.extra, int(ask.priority == "corpus"), deadline, began)
        return RemoteDraft(self._endpoint, call, key)

    def clear_caches(self) -> None:
        """There are none here."""

    def close(self) -> None:
        """Give up what is in work."""
        self._endpoint.close()


@dataclass(frozen=True, eq=False)
class RemoteDraft(Draft):
    """Messages, ready to be sent."""

    endpoint: Endpoint
    call: Call
    key: TraceKey

    def write(self, listener: WriteListener) -> Callable[[], object]:
        """Send them as soon as a slot is free."""
        return self.endpoint.start(self.call, listener)
