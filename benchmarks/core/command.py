"""A command whose errors are all said in one line, as `tte`'s are. Knows click and the errors; knows no benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from benchmarks.core.results import ResultsError
from tte_runtime.commands.group import Refusal, plain_errors

__all__ = ["PlainCommand"]


class PlainCommand(click.Command):
    """A command of click for `@click.command(cls=PlainCommand)`: what goes wrong is one line on stderr, exit code 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click's."""
        with plain_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's."""
        with plain_errors(), _results_errors():
            return super().invoke(ctx)


@contextmanager
def _results_errors() -> Iterator[None]:
    """A file that is none of results is the caller's mistake, too."""
    try:
        yield
    except ResultsError as error:
        raise Refusal(str(error)) from error
