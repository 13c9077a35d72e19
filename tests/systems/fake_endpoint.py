"""A chat endpoint on a thread: streams what it saw as a trace, or misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEndpoint:
    """Use as a context manager. `script` holds what the next requests get; after it, all get a trace.

    A behaviour is a status (with an error as body), or the name of a method of `Handler` that answers.
    """

    def __init__(self) -> None:
        self.script: deque[int | str] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.open = threading.Event()  # "held" answers wait for it
        self.lock = threading.Lock()
        self.inside = self.most_inside = self.broken_pipes = 0
        self.entered = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.endpoint = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


def trace_for(body: dict[str, Any]) -> str:
    """What the endpoint writes about a request: depends on the text, the pictures and the sampling."""
    content = body["messages"][-1]["content"]
    pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    text = next(part["text"] for part in content if part["type"] == "text")
    return f"<think>{len(pictures)} pictures, seed {body['seed']}</think> {text.split()[0]}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    @property
    def endpoint(self) -> FakeEndpoint:
        return self.server.endpoint  # type: ignore[attr-defined,no-any-return]

    def do_POST(self) -> None:
        """Look up the behaviour and follow it."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        endpoint = self.endpoint
        with endpoint.lock:
            endpoint.bodies.append(body)
            endpoint.keys.append(self.headers.get("Authorization"))
            behaviour = endpoint.script.popleft() if endpoint.script else "good"
            endpoint.inside += 1
            endpoint.most_inside = max(endpoint.most_inside, endpoint.inside)
        endpoint.entered.release()
        try:
            self.status(behaviour) if isinstance(behaviour, int) else getattr(self, behaviour)(body)
        except OSError:
            endpoint.broken_pipes += 1
        finally:
            with endpoint.lock:
                endpoint.inside -= 1

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def status(self, code: int) -> None:
        data = json.dumps({"error": {"message": f"told to say {code}"}}).encode()
        self.send_response(code)
        self.send_header("retry-after-ms", "1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, lines: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"data: {line}\n\n".encode())
            self.wfile.flush()

    def good(self, body: dict[str, Any], text: str | None = None, finish: str = "stop") -> None:
        text = trace_for(body) if text is None else text
        pieces = [chunk({"content": text[i : i + 5]}) for i in range(0, len(text), 5)]
        self.stream(iter([*pieces, chunk({}, finish), usage(), "[DONE]"]))

    def empty(self, body: dict[str, Any]) -> None:
        self.good(body, text="")

    def special(self, body: dict[str, Any]) -> None:
        self.good(body, text="words <|image_pad|> words")

    def too_long(self, body: dict[str, Any]) -> None:
        self.good(body, text="x1 " * 2000)

    def cut(self, body: dict[str, Any]) -> None:
        self.good(body, finish="length")

    def filtered(self, body: dict[str, Any]) -> None:
        self.good(body, finish="content_filter")

    def broken(self, body: dict[str, Any]) -> None:
        self.stream(iter([chunk({"content": "half of a"})]))

    def garbage(self, body: dict[str, Any]) -> None:
        self.stream(iter(["{no json", "[DONE]"]))

    def no_stream(self, body: dict[str, Any]) -> None:
        data = json.dumps({"choices": [{"message": {"content": "whole"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def parted(self, body: dict[str, Any]) -> None:
        deltas = [{"reasoning_content": "a "}, {"reasoning_content": "b"}, {"content": " c"}, {"content": " d"}]
        self.stream(iter([*map(chunk, deltas), chunk({}, "stop"), "[DONE]"]))

    def held(self, body: dict[str, Any]) -> None:
        """Half of the trace, then nothing until it is let go."""

        def lines() -> Iterator[str]:
            yield chunk({"content": "half "})
            self.endpoint.open.wait(60)
            yield chunk({"content": "done"})
            yield chunk({}, "stop")

        self.stream(lines())


def chunk(delta: dict[str, str], finish: str | None = None) -> str:
    return json.dumps({"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def usage() -> str:
    return json.dumps({"id": "1", "choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 7}})
