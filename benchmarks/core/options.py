"""Options that the commands share, so that they are spelt and explained alike. Knows no benchmark."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from benchmarks.core.machine import ROOT

__all__ = ["MODELS", "ROWS", "Amount", "Rates", "Whole", "budget_option", "out_option", "place_options"]

MODELS = Path(tempfile.gettempdir()) / "tte-benchmark-models"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
ROWS = click.Path(dir_okay=False, path_type=Path)  # a file of rows


class Amount(click.FloatRange):
    """A finite number above 0, or from 0 on with `zero`."""

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__(min=0, min_open=not zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails like every option of click, for nan and inf too, which pass a range."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return found


budget_option = click.option(
    "--budget",
    default=600.0,
    show_default=True,
    type=Amount(zero=True),
    help="Seconds after which no new work begins; run again to go on.",
)


def out_option(name: str) -> Callable[[Decorated], Decorated]:
    """--out, by default a file of that name among the committed results."""
    default = ROOT / "benchmarks" / "results" / name
    return click.option("--out", type=ROWS, default=default, help=f"Rows; default: benchmarks/results/{name}.")


def place_options(command: Decorated) -> Decorated:
    """--device, --dtype and --models: where a model runs, and where checkpoints with random weights are kept."""
    for option in (
        click.option("--models", type=click.Path(path_type=Path), default=MODELS, help="Folder of random checkpoints."),
        click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."),
    ):
        command = option(command)
    return command


class Rates(click.ParamType):
    """Positive numbers separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """The list; fails like every option of click."""
        if isinstance(value, list):
            return value
        try:
            found = [float(word) for word in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers", param, ctx)
        if not all(0 < rate < math.inf for rate in found):
            self.fail(f"{value!r} must be positive numbers", param, ctx)
        return found


class Whole(click.ParamType):
    """Whole numbers separated by commas, at least `least`; with `own` the word "own" stands for None."""

    name = "numbers"

    def __init__(self, least: int = 0, own: bool = False) -> None:
        self.least, self.own = least, own

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int | None]:
        """The list; fails like every option of click."""
        if isinstance(value, list):
            return value
        found: list[int | None] = []
        for word in str(value).split(","):
            if word == "own" and self.own:
                found.append(None)
            elif word.isdecimal() and int(word) >= self.least:
                found.append(int(word))
            else:
                self.fail(f"{word!r} is no whole number of at least {self.least}", param, ctx)
        return found
