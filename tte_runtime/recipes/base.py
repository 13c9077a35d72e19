"""What a recipe is: prompts per role, where a trace ends, what is forced after it, which state becomes the vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tte_runtime.errors import RecipeError

PROMPT_FIELDS = ("{media}", "{text}")


@dataclass(frozen=True)
class RolePrompt:
    """How one role is prompted.

    Attributes:
        prompt: a template with `{media}` (all pictures, in order) and `{text}`.
        think: whether the role writes a trace unless told otherwise.
    """

    prompt: str
    think: bool


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint embeds.

    Attributes:
        name: the recipe's name in the registry.
        roles: the prompt of "query" and of "document".
        readout: "last" (state of the last token fed), "mean", or "head" (a head over tapped states).
        stop: tokens that end a trace; the one sampled is fed like any other.
        close: tokens fed in the stop token's stead when a limit ends the trace.
        suffix: tokens always fed last.
        max_trace_tokens: limit of a trace where the request gives none.
    """

    name: str
    roles: Mapping[str, RolePrompt]
    readout: Literal["last", "mean", "head"]
    stop: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    max_trace_tokens: int = 0

    def __post_init__(self) -> None:
        missing = {"query", "document"} - set(self.roles)
        if missing:
            raise RecipeError(f"recipe {self.name!r} has no prompt for {', '.join(sorted(missing))}.")
        for role, entry in self.roles.items():
            for field in PROMPT_FIELDS:
                if entry.prompt.count(field) != 1:
                    raise RecipeError(f"the {role} prompt of recipe {self.name!r} must contain {field} exactly once.")
            if entry.think and not (self.stop and self.max_trace_tokens > 0):
                raise RecipeError(f"recipe {self.name!r} thinks on {role}s but has no stop token or no trace limit.")

    @property
    def same_for_both_roles(self) -> bool:
        """Queries and documents are embedded alike, so `encode` needs no role."""
        return self.roles["query"] == self.roles["document"]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for fingerprints and for files."""
        return asdict(self)
