"""How the command line says that something is wrong: one line on stderr, `error: ...`, exit code 2.

Knows click's errors and ours; knows no command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from tte_runtime.env import TRACEBACK
from tte_runtime.errors import TteError, one_of


class Refusal(click.ClickException):
    """An error as a user sees it."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What goes wrong becomes a `Refusal`; with TTE_TRACEBACK=1 errors of our own keep their traceback."""
    try:
        yield
    except click.NoSuchOption as error:
        assert error.ctx is not None, "click names the command whose option is unknown"
        options = [p for p in error.ctx.command.get_params(error.ctx) if p.param_type_name == "option"]
        known = sorted(max(option.opts, key=len) for option in options)
        raise Refusal(one_of("option", error.option_name, known)) from error
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "tte"
        raise Refusal(f"{error.format_message().rstrip('.')}. See: {path} --help") from error
    except TteError as error:
        if TRACEBACK.is_on():
            raise
        raise Refusal(str(error)) from error
    except OSError as error:  # a disk that is full, a file that may not be written; not a pipe that was closed
        if error.filename is None or TRACEBACK.is_on():
            raise
        raise Refusal(f"{error.strerror}: {error.filename}.") from error


class PlainGroup(click.Group):
    """A group of commands whose errors are all said in one line; alone, it prints its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, but a group without a command prints its help."""
        return super().parse_args(ctx, args or ["--help"])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click's."""
        with plain_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's."""
        with plain_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's, but an unknown command is refused with the known ones."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise Refusal(one_of("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)
