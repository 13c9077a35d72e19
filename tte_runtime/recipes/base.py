"""What a recipe is: prompts per role, where a trace ends, what is forced after it, which state becomes the vector.

Data only, checked where it is made. Knows no tokenizer, no engine, and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from tte_runtime.config import MAX_STOPS
from tte_runtime.errors import InputError, RecipeError, one_of
from tte_runtime.recipes.template import TIDY, check_template, fields_of, fill
from tte_runtime.types import Role

RecipeReadout = Literal["last", "mean", "head", "marker", "generated_marker"]


@dataclass(frozen=True)
class RolePrompt:
    """How one role is prompted.

    Attributes:
        prompt: a template with `{media}` (all pictures, in order), `{text}`, and `{instruction}` where there is a place
            for one. `{media| }` puts a space between the pictures and whatever field follows them, if there is any.
        think: whether the role has a trace unless told otherwise.
    """

    prompt: str
    think: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not isinstance(self.think, bool):
            raise RecipeError(f"a role needs a prompt (text) and think (true or false), got {self}.")


@dataclass(frozen=True)
class MediaRules:
    """How pictures stand in a prompt.

    Attributes:
        before, after: tokens around the placeholders of one picture. between: what parts two pictures.
        positions: "grid" counts placeholders in three axes (M-RoPE), "text" one after the other like words.
        pixels: least and most pixels of a picture; `None` for what the checkpoint's processor says.
        blank: side in pixels of the white square that a request without pictures is given; `None` for none.
    """

    before: str = "<|vision_start|>"
    after: str = "<|vision_end|>"
    between: str = ""
    positions: Literal["grid", "text"] = "grid"
    pixels: tuple[int, int] | None = None
    blank: int | None = None

    def __post_init__(self) -> None:
        if self.positions not in ("grid", "text"):
            raise RecipeError(one_of("positions of media", self.positions, ("grid", "text")))
        if self.pixels is not None and not (len(self.pixels) == 2 and 0 < self.pixels[0] <= self.pixels[1]):
            raise RecipeError(f"pixels of media must be [least, most], got {list(self.pixels)}.")
        if self.blank is not None and self.blank < 1:
            raise RecipeError(f"the side of a blank picture must be at least 1 pixel, got {self.blank}.")


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint embeds.

    Attributes:
        name: the recipe's name in the registry, or one of your own.
        roles: the prompt of "query" and of "document".
        readout: which state becomes the vector: "last" (of the last token fed), "mean", "head" (a head over tapped
            states), "marker" (at the last `marker` of the prompt) or "generated_marker" (at the last of the trace).
        marker: the token of the two marker readouts.
        stop: tokens that end a trace; the one sampled is fed like any other.
        close: tokens fed in the stop token's stead when a limit ends the trace, or when a trace has no marker.
        suffix: tokens always fed last.
        at_once: tokens that end the prompt where no trace is written.
        max_trace_tokens: limit of a trace where the request gives none.
        trace_from: who writes traces: the model "itself", or another model, the "reasoner".
        instruction: the default of `{instruction}`.
        tidy_text, tidy_instruction: how they are tidied before they are put in; names in `recipes.template.TIDY`.
        media: how pictures stand in the prompt.

    Raises:
        RecipeError: the parts do not fit together.
    """

    name: str
    roles: Mapping[str, RolePrompt]
    readout: RecipeReadout
    marker: str | None = None
    stop: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    at_once: tuple[str, ...] = ()
    max_trace_tokens: int = 0
    trace_from: Literal["itself", "reasoner"] = "itself"
    instruction: str = ""
    tidy_text: str = "as_given"
    tidy_instruction: str = "as_given"
    media: MediaRules = MediaRules()

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("readout", self.readout, get_args(RecipeReadout)),
            ("trace_from", self.trace_from, ("itself", "reasoner")),
            ("tidy_text", self.tidy_text, tuple(TIDY)),
            ("tidy_instruction", self.tidy_instruction, tuple(TIDY)),
        ):
            if value not in known:
                raise RecipeError(f"recipe {self.name!r}: " + one_of(kind, value, known))
        if not isinstance(self.name, str) or not self.name:
            raise RecipeError(f"a recipe needs a name, got {self.name!r}.")
        if not isinstance(self.max_trace_tokens, int) or self.max_trace_tokens < 0:
            raise RecipeError(
                f"recipe {self.name!r}: max_trace_tokens must be a number from 0, got {self.max_trace_tokens!r}."
            )
        if len(self.stop) > MAX_STOPS:
            raise RecipeError(
                f"recipe {self.name!r} has {len(self.stop)} stop tokens, but at most {MAX_STOPS} may end a trace."
            )
        self._check_roles()
        self._check_marker()

    def _check_roles(self) -> None:
        for role in ("query", "document"):
            if role not in self.roles:
                raise RecipeError(f"recipe {self.name!r} has no prompt for {role}.")
        for role, entry in self.roles.items():
            if role not in ("query", "document"):
                raise RecipeError(f"recipe {self.name!r}: " + one_of("role", role, ("query", "document")))
            check_template(f"the {role} prompt of recipe {self.name!r}", entry.prompt)
            if entry.think and not (self.stop and self.max_trace_tokens > 0):
                raise RecipeError(f"recipe {self.name!r} thinks on {role}s but has no stop token or no trace limit.")
        if self.instruction and not self.takes_instruction:
            raise RecipeError(f"recipe {self.name!r} has a default instruction, but no prompt has {{instruction}}.")

    def _check_marker(self) -> None:
        if (self.marker is not None) != (self.readout in ("marker", "generated_marker")):
            raise RecipeError(f"recipe {self.name!r}: readout {self.readout!r} and marker {self.marker!r} do not fit.")
        if self.readout == "marker" and any(self.marker not in entry.prompt for entry in self.roles.values()):  # type: ignore[operator]
            raise RecipeError(f"every prompt of recipe {self.name!r} must contain its marker {self.marker!r}.")
        # A forced trace is read at the last token fed, so that token has to be the marker.
        if self.readout == "generated_marker" and (self.close[-1:] != (self.marker,) or self.suffix):
            raise RecipeError(f"recipe {self.name!r} must close with its marker {self.marker!r} and have no suffix.")

    @property
    def takes_instruction(self) -> bool:
        """Some prompt has a place for an instruction."""
        return any("instruction" in fields_of(entry.prompt) for entry in self.roles.values())

    @property
    def same_for_both_roles(self) -> bool:
        """Queries and documents are embedded alike, so `encode` needs no role."""
        return self.roles["query"] == self.roles["document"]

    def prompt(
        self, role: Role, placeholders: list[str], instruction: str | None, text: str, *, blank: bool = False
    ) -> str:
        """The prompt of one request as a string.

        Args:
            role: whose prompt.
            placeholders: of every picture, already repeated as often as it has tokens.
            instruction: the request's own, or `None` for the default.
            text: the request's.
            blank: the request has no pictures, and the one that is there is the recipe's.

        Raises:
            InputError: there is an instruction, and the role's prompt has no place for one.
        """
        template = self.roles[role].prompt
        if instruction and "instruction" not in fields_of(template):
            raise InputError(
                f"recipe {self.name!r} has no place for an instruction in its {role} prompt. Write it into the text."
            )
        media = self.media.between.join(self.media.before + pads + self.media.after for pads in placeholders)
        has_media = bool(media) and not blank
        chosen = TIDY[self.tidy_instruction](instruction or "", has_media) or self.instruction
        tidied = TIDY[self.tidy_text](text, has_media)
        return fill(template, {"media": media, "instruction": chosen, "text": tidied})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for fingerprints and for files; fields at their default are left out."""
        entry = asdict(self)
        return {field.name: entry[field.name] for field in fields(self) if getattr(self, field.name) != field.default}
