"""Prints docs/cli.md from the commands' own help: `python docs/cli.py > docs/cli.md`. Knows no command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from tte_runtime.cli import main

INTRO = """\
# The command line

Generated from `tte --help` by `make docs`; a test keeps it true. Data goes to stdout, talk to stderr. Exit codes: 0 all
is well, 1 some requests failed, 2 refused at the door. `python -m tte_runtime` is the same as `tte`.
"""
WIDTH = 100


def render() -> str:
    """The page."""
    parts = [INTRO]
    for path, command in walk("tte", main):
        context = click.Context(
            command, info_name=path, max_content_width=WIDTH, terminal_width=WIDTH, **main.context_settings
        )
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Every command under one, by the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from walk(f"{path} {name}", command.commands[name])


if __name__ == "__main__":
    print(render(), end="")
