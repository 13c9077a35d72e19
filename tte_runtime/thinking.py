"""What `think=` comes to for a loaded system: limits and sampling, or no trace, or a refusal. Knows no engine."""

from __future__ import annotations

from typing import Any

from tte_runtime.errors import InputError, OptionError
from tte_runtime.inputs.items import Item, parse_item
from tte_runtime.pipeline import Pipeline
from tte_runtime.types import Role, Think

FORKING = ("num_traces", "snapshot_every", "stop_cosine")


def thinking_of(pipeline: Pipeline, role: Role, think: Think | bool | None) -> Think | None:
    """Limits and sampling of a trace, `None` for none.

    Args:
        pipeline: the system.
        role: whose recipe says whether there is a trace, where `think` does not.
        think: as for `Embedder.embed`.

    Raises:
        OptionError: `think` is of another kind, or the system cannot do what it asks.
    """
    writer, recipe = pipeline.writer, pipeline.recipe
    by_itself = recipe.roles[role].think if writer is None else writer.thinks(role)
    if think is False or (think is None and not by_itself):
        return None
    if writer is None and not recipe.stop:
        raise OptionError(
            f"recipe {recipe.name!r} cannot think: it has no stop token. Use think=False, or give a reasoner."
        )
    if think is None or think is True:
        return Think() if writer is None else only_if_possible(pipeline, writer.think)
    if not isinstance(think, Think):
        raise OptionError(f"think must be None, a bool or Think(...), got {think!r}.")
    return None if think.max_tokens == 0 else only_if_possible(pipeline, think)


def only_if_possible(pipeline: Pipeline, think: Think) -> Think:
    """`think`, unless it needs a look at the vector while another model writes; raises OptionError then."""
    asked = [name for name in FORKING if getattr(think, name) != getattr(Think(), name)]
    if asked and not pipeline.thinks_itself:
        raise OptionError(
            f"{' and '.join(asked)} cannot be had here: only a model that writes its own traces forks them. Leave "
            "it out, or load the embedder without a reasoner."
        )
    return think


def parse_request(item: Any, think: Think | bool | None) -> Item:
    """A request's content; raises InputError where it is none, or has a trace that `think` forbids."""
    parsed = parse_item(item)
    if parsed.trace is not None and (think is False or (isinstance(think, Think) and think.max_tokens == 0)):
        raise InputError("the request has a trace, and think=False embeds without one. Drop one of them.")
    return parsed
