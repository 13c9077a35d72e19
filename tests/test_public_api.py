"""The public surface: what `tte_runtime` exports, and that all of it is documented."""

from __future__ import annotations

import inspect

import pytest

import tte_runtime


def test_all_is_sorted_and_is_what_dir_says() -> None:
    assert tte_runtime.__all__ == sorted(tte_runtime.__all__)
    assert dir(tte_runtime) == tte_runtime.__all__


@pytest.mark.parametrize("name", tte_runtime.__all__)
def test_every_name_can_be_had_and_is_documented(name: str) -> None:
    value = getattr(tte_runtime, name)
    if inspect.isclass(value):
        assert inspect.getdoc(value), f"{name} has no docstring"
        assert not (inspect.getdoc(value) or "").startswith(f"{name}("), f"{name} has only dataclass's own docstring"


def public_methods() -> list[tuple[str, str]]:
    found = []
    for name in tte_runtime.__all__:
        value = getattr(tte_runtime, name)
        if inspect.isclass(value):
            found += [(name, member) for member in vars(value) if not member.startswith("_")]
    return found


@pytest.mark.parametrize(("name", "member"), public_methods())
def test_every_public_method_is_documented(name: str, member: str) -> None:
    value = inspect.getattr_static(getattr(tte_runtime, name), member)
    if isinstance(value, (property, classmethod, staticmethod)) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{name}.{member} has no docstring"


def test_every_error_is_documented_and_in_the_tree_of_errors() -> None:
    errors = tte_runtime.errors
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert value.__doc__, f"{name} has no docstring"
            assert issubclass(value, errors.TteError)
            assert name in (errors.__doc__ or ""), f"{name} is missing in the tree that errors.py draws"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"'Embeder'.*It has: .*Embedder"):
        _ = tte_runtime.Embeder


def test_star_import_brings_exactly_all() -> None:
    scope: dict[str, object] = {}
    exec("from tte_runtime import *", scope)
    assert sorted(scope.keys() - {"__builtins__"}) == tte_runtime.__all__
