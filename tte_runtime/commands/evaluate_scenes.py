"""`tte eval scenes`: the table of the held-out scenes. Knows options and files; `evaluation/scenes_table` does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tte_runtime.commands.options import engine_options
from tte_runtime.errors import OptionError

ARMS = Path(__file__).parents[2] / "benchmarks" / "arms"  # of a clone; an installed package has none
RESULTS = "scenes.jsonl"


@click.command()
@click.option(
    "--arms", type=click.Path(path_type=Path), help="Weights of the systems.  [default: the clone's benchmarks/arms]"
)
@click.option(
    "--out", default="runs/scenes", show_default=True, type=click.Path(path_type=Path), help="Where answers are kept."
)
@click.option("--seeds", multiple=True, type=int, metavar="N", help="Only this seed of training (repeatable).")
@click.option("--systems", multiple=True, metavar="NAME", help="Only this system, or controls (repeatable).")
@click.option(
    "--per-kind",
    default=450,
    show_default=True,
    type=click.IntRange(min=2),
    metavar="N",
    help="Questions of each kind.",
)
@click.option(
    "--limit", type=click.IntRange(min=2), metavar="N", help="Ask only the first N of each kind, in the same pool."
)
@click.option(
    "--curve-per-kind",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="The same for limits on the trace.",
)
@click.option(
    "--timed-per-kind",
    default=12,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Of each kind, timed alone; 0 for no costs.",
)
@click.option(
    "--data-seed", default=0, show_default=True, type=click.IntRange(min=0), metavar="N", help="Of questions and pool."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@engine_options
@click.pass_context
def scenes(
    context: click.Context,
    /,
    arms: Path | None,
    out: Path,
    seeds: tuple[int, ...],
    systems: tuple[str, ...],
    per_kind: int,
    limit: int | None,
    curve_per_kind: int,
    timed_per_kind: int,
    data_seed: int,
    as_json: bool,
    **engine: Any,
) -> None:
    """Is thinking worth it? Hit@1 on held-out scenes, with intervals, controls and costs.

    Direct embedders, TTE_t, TTE_s and TTE_u with four heads, of every seed whose weights are there, answer the same
    questions from one pool (docs/evaluation.md). A run that was stopped goes on where it was, with the same --out;
    several may fill one --out at once, a seed each. The table goes to stdout, its rows to OUT/scenes.jsonl. A system
    whose weights are missing is named, and makes the exit code 1.
    """
    from tte_runtime.evaluation import arms as shipped
    from tte_runtime.evaluation.scenes_table.asking import Scenes
    from tte_runtime.evaluation.scenes_table.report import report
    from tte_runtime.evaluation.scenes_table.rows import json_of, rows_of
    from tte_runtime.evaluation.scenes_table.run import Plan, run_seed
    from tte_runtime.evaluation.scenes_table.summary import Summary
    from tte_runtime.evaluation.scenes_table.systems import choose_probes

    folder = ARMS if arms is None else arms.expanduser()
    probes, known = choose_probes(systems), shipped.seeds(folder)
    if strange := sorted(set(seeds) - set(known)):
        raise OptionError(f"no arms of seed {strange[0]} in {folder}. Seeds there: {', '.join(map(str, known))}.")

    def tell(line: str) -> None:
        click.echo(line, err=True)

    tell("drawing questions and pool")
    asked = Scenes.make(per_kind, data_seed, limit)
    part = min(curve_per_kind, per_kind if limit is None else limit)
    plan = Plan(folder, shipped.assemble, out.expanduser(), probes, asked, part, timed_per_kind, engine)
    results = [run_seed(plan, seed, tell) for seed in seeds or known]
    summary = Summary(asked, part, results, probes)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(summary)]
    (plan.out / RESULTS).write_text("".join(lines), encoding="utf-8")
    tell(f"{plan.out / RESULTS} written")
    click.echo(json.dumps(json_of(summary), ensure_ascii=False, indent=2) if as_json else report(summary))
    if summary.missing:
        context.exit(1)
