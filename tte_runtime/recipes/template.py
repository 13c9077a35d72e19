"""Prompt templates: `{media}`, `{instruction}` and `{text}`, each with what parts it from the next, and tidy rules.

Knows strings; knows no recipe by name and no token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from tte_runtime.errors import RecipeError, one_of

FIELDS = ("media", "instruction", "text")
_FIELD = re.compile(r"\{(\w+)(?:\|([^{}]*))?\}")


def fields_of(template: str) -> list[str]:
    """The names of a template's fields, in order."""
    return [match[1] for match in _FIELD.finditer(template)]


def check_template(owner: str, template: str) -> None:
    """Raises RecipeError unless `{media}` and `{text}` stand in it once, `{instruction}` at most once, and no other."""
    names = fields_of(template)
    for name in names:
        if name not in FIELDS:
            raise RecipeError(f"{owner}: " + one_of("field", name, FIELDS))
    for name in FIELDS:
        if names.count(name) > 1 or (name != "instruction" and name not in names):
            raise RecipeError(f"{owner} must contain {{{name}}} exactly once.")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its fields filled in.

    `{name|x}` is the value, then x if the value is not empty and neither are all fields after it. Values are not
    scanned again, so braces in a text mean nothing.
    """
    matches = list(_FIELD.finditer(template))

    def put(match: re.Match[str]) -> str:
        value = values[match[1]]
        more = any(values[later[1]] for later in matches if later.start() > match.start())
        return value + (match[2] or "") if value and more else value

    return _FIELD.sub(put, template)


def _stripped_beside_media(text: str, has_media: bool) -> str:
    return text.strip() if has_media else text


def _line(text: str, has_media: bool) -> str:
    return text if text.endswith("\n") else text + "\n"


def _sentence(text: str, has_media: bool) -> str:
    text = text.strip()
    return text + "." if text and not unicodedata.category(text[-1]).startswith("P") else text


TIDY: dict[str, Callable[[str, bool], str]] = {
    "as_given": lambda text, has_media: text,
    "stripped_beside_media": _stripped_beside_media,  # white space around it goes, where there are pictures
    "line": _line,  # ends with a line break
    "sentence": _sentence,  # ends with punctuation, white space around it goes
}
