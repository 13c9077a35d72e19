"""README.md is true: its Python runs, its commands and options exist, its links lead somewhere.

Python blocks run in one process, in order, in a folder with the pictures they name. A block whose info string says
`no-run` is only compiled.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from tte_runtime.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"""["']([\w./-]+\.(?:png|jpg|jpeg|webp))["']""")
MAKE_TARGET = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(info string, body) of every fenced block in one of the languages."""
    found = [(match["info"].strip(), match["body"]) for match in FENCE.finditer(README.read_text(encoding="utf-8"))]
    return [(info, body) for info, body in found if (info.split() or [""])[0] in languages]


def commands() -> list[list[str]]:
    """Every command line of the shell blocks, as words, up to a pipe or a redirection."""
    found = []
    for _, body in blocks("bash", "sh", "shell", "console"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            stop = next((i for i, word in enumerate(words) if word[0] in "|<>&;"), len(words))
            if words[:stop]:
                found.append(words[:stop])
    return found


def test_the_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tte_runtime.scenes.pictures import picture

    monkeypatch.chdir(tmp_path)
    names = {name for _, body in blocks("python") for name in PICTURE.findall(body)}
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path / name)
        else:
            picture("cat").convert("RGB").save(tmp_path / name)
    scope: dict[str, object] = {"__name__": "readme"}
    for info, body in blocks("python"):
        program = compile(body, "README.md", "exec")
        if "no-run" not in info:
            exec(program, scope)  # README.md is ours


def test_the_first_embedding_comes_by_line_40() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert any("encode" in line or "tte embed" in line or "make demo" in line for line in lines[:40])


@pytest.mark.parametrize("words", [c for c in commands() if c[0] == "tte"], ids=" ".join)
def test_every_tte_command_and_option_exists(words: list[str]) -> None:
    command: click.Command = main
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no `{' '.join(words)}`"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"-h", "--help"}
    for word in rest:
        if word.startswith("--") and len(word) > 2:
            assert word.split("=")[0] in known, f"`{' '.join(words)}`: no option {word}"


@pytest.mark.parametrize("words", [c for c in commands() if c[0] == "make"], ids=" ".join)
def test_every_make_target_exists(words: list[str]) -> None:
    targets = MAKE_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8"))
    for word in words[1:]:
        assert "=" in word or word in targets, f"`{' '.join(words)}`: no target {word}"


def test_every_relative_link_leads_somewhere() -> None:
    text = FENCE.sub("", README.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for link in {(a or b).split("#")[0] for a, b in links}:
        if link and "://" not in link and not link.startswith("mailto:"):
            assert (ROOT / link).exists(), f"README.md links to {link}, which is not there"


def test_no_figure_was_left_blank() -> None:
    assert not re.findall(r"@[A-Z]+@", README.read_text(encoding="utf-8"))
