"""The rival's side of a conversation in lines of JSON: an engine in its own environment, asked by `benchmarks.rivals`.

A rival's file loads its engine and gives `serve` a function; it runs there with the repository's root on PYTHONPATH and
nothing of ours installed, so this file imports the standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

__all__ = ["Answer", "Question", "serve"]


@dataclass(frozen=True)
class Question:
    """A batch: token ids or text with a picture's path, and how many tokens every trace has.

    Attributes:
        prompts: token ids of each prompt, a picture being one placeholder. texts: the same as text.
        images: a path for each prompt, or none for any.
        close: ids that are fed after a trace before its vector is read.
    """

    prompts: Sequence[list[int]]
    texts: Sequence[str]
    images: Sequence[str]
    trace: int
    close: Sequence[int]


@dataclass(frozen=True)
class Answer:
    """Traces by prompt, and vectors where the engine can give them."""

    traces: Sequence[Sequence[int]]
    vectors: Sequence[Sequence[float]] | None = None


def serve(load: Callable[[str], Callable[[Question], Answer]], packages: Sequence[str]) -> None:
    """Load the model named on the command line, then answer until the input ends. What engines print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run = load(sys.argv[1])
    out.write(json.dumps({"versions": {name: version(name) for name in packages}}) + "\n")
    for line in sys.stdin:
        question = Question(**json.loads(line))
        started = time.perf_counter()
        try:
            answer = run(question)
        except Exception as error:
            out.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
            continue
        seconds = time.perf_counter() - started
        traces = [[int(token) for token in trace] for trace in answer.traces]
        vectors = None if answer.vectors is None else [[float(x) for x in vector] for vector in answer.vectors]
        out.write(json.dumps({"seconds": seconds, "traces": traces, "vectors": vectors}) + "\n")
