"""The command `tte demo`: options, the order of events, what goes to stdout and what to stderr.

Imports only click at the top, so that `tte --help` stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tte_runtime.demo.report import Report


@click.command()
@click.option("--model", default="tte-tiny", show_default=True, help="A bundled checkpoint or a folder.")
@click.option(
    "--out",
    default="demo.html",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The page to write.",
)
@click.option(
    "--gallery",
    default=160,
    show_default=True,
    type=click.IntRange(min=1),
    help="Documents at least; every picture, category and cell is always among them.",
)
@click.option("--questions", default=6, show_default=True, type=click.IntRange(1, 90), help="How many are asked.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of gallery and questions.")
@click.option(
    "--repetitions",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Timed rounds of the comparison.",
)
@click.pass_context
def demo(
    context: click.Context, model: str, out: Path, gallery: int, questions: int, seed: int, repetitions: int
) -> None:
    """Think, then embed, shown on held-out pictures.

    Embeds a gallery, asks questions with and without thinking, prints traces, rankings, times, and the ratio
    to plain transformers measured there and then, and writes one self-contained HTML page. Exit code 1 when
    the runtime and plain transformers disagree.
    """
    check_out(out)
    from tte_runtime.demo.page import write_page

    report = run_demo(
        model,
        gallery_size=gallery,
        questions=questions,
        seed=seed,
        repetitions=repetitions,
        command=_command(context),
    )
    write_page(report, out)
    click.echo(f"the page: {out}", err=True)
    if not report.comparison.parity_holds:
        context.exit(1)


def check_out(out: Path) -> None:
    """Refuse a page that could not be written, before any work is spent; raises OptionError."""
    from tte_runtime.errors import OptionError

    if out.is_dir() or not out.absolute().parent.is_dir():
        raise OptionError(
            f"--out {str(out)!r} must be a file in a folder that exists. Make the folder, or name another."
        )


def run_demo(
    model: str, *, gallery_size: int, questions: int, seed: int, repetitions: int, command: str = "tte demo"
) -> Report:
    """The demo without its page: answers on stdout, progress on stderr.

    Args:
        model: a bundled checkpoint or a folder.
        gallery_size: documents at least. questions: how many are asked. seed: of both.
        repetitions: timed rounds of the comparison. command: how to get the same again; for the page.

    Raises:
        CheckpointError, OptionError: as `Embedder.from_pretrained`; or the model cannot think.
    """
    from tte_runtime.demo import console
    from tte_runtime.demo.asking import ask, embed_gallery
    from tte_runtime.demo.gallery import make_gallery, pose_questions
    from tte_runtime.demo.measuring import compare_with_plain
    from tte_runtime.demo.report import Report
    from tte_runtime.embedder import Embedder
    from tte_runtime.errors import OptionError
    from tte_runtime.evaluation.machine import describe_machine

    click.echo(f"loading {model}", err=True)
    # float32 on every device: the comparison demands the same traces and vectors, which 16 bits do not give.
    with Embedder.from_pretrained(model, dtype="float32") as embedder:
        click.echo(embedder.config.describe(), err=True)
        if not embedder.recipe.stop:
            raise OptionError(f"the demo compares thinking with not thinking, and {model!r} writes no traces.")
        tests = pose_questions(questions, seed)
        documents = make_gallery(tests, gallery_size, seed)
        gallery = embed_gallery(embedder, documents, progress=True)
        click.echo(console.opening(model, len(documents), gallery.seconds, len(tests)))
        asked = []
        for number, test in enumerate(tests, start=1):
            asked.append(ask(embedder, test, gallery))
            click.echo(console.question(number, asked[-1]))
        comparison = compare_with_plain(
            embedder, model, [test.item for test in tests], repetitions=repetitions, progress=True
        )
        report = Report(
            model=model,
            command=command,
            engine=embedder.config.describe(),
            dtype=embedder.config.dtype,
            seed=seed,
            gallery=gallery,
            asked=tuple(asked),
            comparison=comparison,
            repetitions=repetitions,
            machine=describe_machine(embedder.config.device),
        )
    click.echo(console.summary(report))
    return report


def _command(context: click.Context) -> str:
    """The command line that repeats this run: options that differ from their defaults."""
    words = ["tte demo"]
    for parameter in context.command.params:
        if parameter.name != "out" and context.params[parameter.name or ""] != parameter.default:
            words.append(f"{parameter.opts[0]} {context.params[parameter.name or '']}")
    return " ".join(words)
