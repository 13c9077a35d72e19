"""Options that several commands share, so that they are spelt and explained alike. Knows no command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tte_runtime.errors import OptionError

if TYPE_CHECKING:
    from tte_runtime.reasoners.base import Reasoner
    from tte_runtime.types import Think

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def engine_options(command: Decorated) -> Decorated:
    """--device, --dtype, --weights and --kernels, handed to `Embedder.from_pretrained` as they are."""
    for option in (
        click.option("--kernels", default="auto", show_default=True, help="auto, triton, numba, torch."),
        click.option("--weights", default="auto", show_default=True, help="auto, w16, w8a8 (CPU), w8a16, w4a16."),
        click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."),
    ):
        command = option(command)
    return command


def system_options(command: Decorated) -> Decorated:
    """--reasoner, --reasoner-model and --traces; see `system`."""
    for option in (
        click.option(
            "--traces",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="Keep traces in this file, and take those that are there instead of thinking again.",
        ),
        click.option("--reasoner-model", metavar="NAME", help="What the endpoint of --reasoner calls its model."),
        click.option(
            "--reasoner",
            metavar="PATH|URL",
            help="Who writes the traces in the model's stead: a checkpoint, or a chat endpoint such as "
            "http://localhost:8000/v1 (its key: OPENAI_API_KEY).",
        ),
    ):
        command = option(command)
    return command


def system(reasoner: str | None, reasoner_model: str | None, traces: str | None) -> dict[str, Any]:
    """What the options add to `Embedder.from_pretrained`; raises OptionError as `reasoner_of`."""
    found: dict[str, Any] = {} if traces is None else {"traces": traces}
    if reasoner is None and reasoner_model is None:
        return found
    return found | {"reasoner": reasoner_of(reasoner, reasoner_model, ("--reasoner", "--reasoner-model"))}


def reasoner_of(place: str | None, model: str | None, names: tuple[str, str]) -> Reasoner:
    """Who writes traces: a checkpoint, or an endpoint and what it calls its model. `names` are the two options'.

    Raises:
        OptionError: an endpoint without its model's name, or a name without an endpoint.
    """
    remote = place is not None and place.startswith(("http://", "https://"))
    if place is None or remote != (model is not None):
        raise OptionError(f"{names[0]} URL and {names[1]} NAME belong together. Give both, or a PATH.")
    if model is not None:
        from tte_runtime.reasoners.remote import RemoteReasoner

        return RemoteReasoner(place, model=model)
    from tte_runtime.reasoners.local import LocalReasoner

    return LocalReasoner(place)


def think_options(command: Decorated) -> Decorated:
    """--no-think, --max-trace-tokens, --deadline-ms and --hide-traces; see `thinking`."""
    for option in (
        click.option("--hide-traces", is_flag=True, help="Do not print traces on stderr."),
        click.option(
            "--deadline-ms",
            type=float,
            metavar="MS",
            help="Close a trace this long after its request came; the vector is still valid.",
        ),
        click.option(
            "--max-trace-tokens", type=int, metavar="N", help="Close a trace after N tokens; 0 embeds at once."
        ),
        click.option("--no-think", is_flag=True, help="Embed at once, without a trace."),
    ):
        command = option(command)
    return command


def thinking(no_think: bool, max_trace_tokens: int | None, deadline_ms: float | None = None) -> Think | bool | None:
    """What `think=` the options ask for; `None` leaves it to the recipe.

    Raises:
        OptionError: they contradict each other, or a value is out of its range.
    """
    if no_think:
        if max_trace_tokens is not None or deadline_ms is not None:
            raise OptionError(
                "--no-think leaves nothing to limit. Drop it, or drop --max-trace-tokens and --deadline-ms."
            )
        return False
    if max_trace_tokens is None and deadline_ms is None:
        return None
    from tte_runtime.types import Think

    return Think(max_tokens=max_trace_tokens, deadline_ms=deadline_ms)
