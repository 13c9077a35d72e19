"""The table as text (Markdown). Knows figures and words; computes nothing. The only figures in it are the paper's."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence

from tte_runtime.evaluation.scenes_table.bootstrap import RESAMPLES, Interval
from tte_runtime.evaluation.scenes_table.controls import CONTROLS, TEACHER
from tte_runtime.evaluation.scenes_table.summary import Summary
from tte_runtime.evaluation.scenes_table.systems import BUDGETS, SYSTEMS, UNIFIED, Probe
from tte_runtime.scenes.questions import COMPOSITIONAL, KINDS, SIMPLE, UNTRAINED

MEANS = ("compositional", "simple", "all")
HOPS = ("one_step", "two_step", *UNTRAINED)
NOTHING = "–"
WIDTH = 120


def title(probe: Probe) -> str:
    """What a row is, in words."""
    if probe.control is not None:
        return CONTROLS[probe.control]
    if probe.budget == 0:
        return f"{probe.system.title}, thinking off"
    return probe.system.title if probe.budget is None else f"{probe.system.title}, at most {probe.budget} tokens"


def report(summary: Summary) -> str:
    """The whole table."""
    here = [probe for probe in summary.probes if summary.seeds_of(probe.key)]
    rows = [probe for probe in here if probe.whole and probe.control is None]
    controls = [probe for probe in here if probe.control is not None]
    parts = [_preface(summary), *_missing(summary)]
    if rows:
        parts += [_hits(summary, rows), _by_kind(summary, rows)]
        parts += [part for other in ("direct", "tte_s") for part in _differences(summary, rows, other)]
        parts += [_hops(summary, rows), *_costs(summary, rows), *_curves(summary, here), *_claims(summary)]
    if controls:
        parts.append(_controls(summary, controls))
    return "\n\n".join(parts)


def _preface(summary: Summary) -> str:
    scenes = summary.scenes
    counts = {kind: scenes.kinds.count(kind) for kind in (*KINDS, *UNTRAINED)}
    trained, untrained = (sum(counts[kind] for kind in kinds) for kinds in (KINDS, UNTRAINED))
    machine = next((str(one.machine) for one in summary.seeds if one.machine), "nothing ran")
    each, seeds = _spread(list(counts.values())), ", ".join(str(one.seed) for one in summary.seeds)
    told = (
        f"{trained} held-out questions ({each} of each of {len(KINDS)} kinds) and {untrained} of "
        f"{', '.join(UNTRAINED)}, a step more than anybody was trained on; one pool of {len(scenes.pool)} documents, "
        "exactly one of them right for each question. Every system is asked the same questions and embeds the pool its "
        "own way. No scene, no question that needs steps, no pair of what is asked from and answer was in training. "
        f"Seeds of training: {seeds}; seed of the data: {scenes.seed}.",
        f"Compositional: {', '.join(COMPOSITIONAL)}; simple: {', '.join(SIMPLE)}; means over kinds are unweighted. "
        "[low, high]: 95 % intervals of the bootstrap over questions, within kinds, the same "
        f"{RESAMPLES} draws for every row; a difference is paired question by question. They do not cover seeds of "
        "training, whose range stands beside them.",
        machine,
    )
    return "\n\n".join(["# Thinking on held-out scenes", *(textwrap.fill(one, WIDTH) for one in told)])


def _missing(summary: Summary) -> list[str]:
    if not summary.missing:
        return []
    lines = [f"- seed {seed}, {system}: {why}" for (seed, system), why in summary.missing.items()]
    return ["\n".join(["**Missing**, and in no figure below:", "", *lines])]


def _hits(summary: Summary, rows: Sequence[Probe]) -> str:
    lines = []
    for probe in rows:
        figures = summary.figure(probe.key)
        seeds = [summary.of_seed(seed, probe.key, "all") for seed in summary.seeds_of(probe.key)]
        lines.append([title(probe), *(_percent(figures[name]) for name in MEANS), f"{_range(seeds)} ({len(seeds)})"])
    return _section("Hit@1, %", ["system", *MEANS, "all, by seed"], lines)


def _by_kind(summary: Summary, rows: Sequence[Probe]) -> str:
    kinds = (*KINDS, *UNTRAINED)
    lines = []
    for probe in rows:
        figures = summary.figure(probe.key)
        lines.append([title(probe), *(_percent(figures[kind]) for kind in kinds)])
    return _section("Hit@1 by kind, %", ["system", *kinds], lines)


def _differences(summary: Summary, rows: Sequence[Probe], other: str) -> list[str]:
    """A table, unless there is nothing to hold against the other system."""
    names = (*MEANS, *KINDS, *UNTRAINED)
    lines = []
    for probe in rows:
        found = summary.difference(probe.key, other) if probe.key != other else None
        if found is not None:
            lines.append([title(probe), *(_points(found[name]) for name in names)])
    (system,) = (one for one in SYSTEMS if one.name == other)
    return [_section(f"Hit@1, points more than {system.title}", ["system", *names], lines)] if lines else []


def _hops(summary: Summary, rows: Sequence[Probe]) -> str:
    lines = []
    for probe in rows:
        figures, told = summary.figure(probe.key), summary.figure(probe.key, "told")
        thinks = probe.system.traces != "none" and probe.budget is None
        traces = [f"{100 * told[kind].value:.1f}" if thinks else NOTHING for kind in HOPS]
        fall = 100 * (figures[HOPS[-1]].value - figures[HOPS[-2]].value)
        lines.append([title(probe), *(_percent(figures[kind]) for kind in HOPS), f"{fall:+.1f}", *traces])
    heads = ["system", *HOPS, "from two steps to three", *(f"answer in the trace: {kind}" for kind in HOPS)]
    return _section("One step more than was trained, Hit@1 and answers of traces, %", heads, lines)


def _costs(summary: Summary, rows: Sequence[Probe]) -> list[str]:
    lines = []
    for probe in rows:
        cost, count = summary.cost(probe.key), summary.parameters(probe.system.name)
        if cost is None or count is None:
            continue
        slower = summary.slower(probe.key, "direct")
        tokens = [f"{value:.1f}" for value in (cost.trace, cost.computed, cost.cached, cost.head, cost.vision)]
        times = NOTHING if slower is None else f"{slower.value:.2f} [{slower.low:.2f}, {slower.high:.2f}]"
        ms = f"{statistics.median(cost.ms):.2f}"
        lines.append([title(probe), f"{count / 1e6:.2f} M", ms, times, *tokens, f"{cost.mflop:.0f}"])
    if not lines:
        return []
    heads = ["system", "parameters", "ms", "times direct", "trace", "computed", "cached", "head", "picture", "MFLOP"]
    told = (
        "One question at a time, systems in turns, caches emptied before each; ms is the median. Tokens as the engine "
        "counts them, reasoner and embedder together; of TTE_t the embedder's part alone: its teacher is no model. "
        "Parameters: equal tensors of a system count once. MFLOP is an estimate, without attention between tokens."
    )
    return [_section("What a question costs", heads, lines), textwrap.fill(told, WIDTH)]


def _curves(summary: Summary, here: Sequence[Probe]) -> list[str]:
    keys = {probe.key for probe in here}
    lines = []
    for system in SYSTEMS:
        points = [Probe(system, budget) for budget in (*BUDGETS, None)]
        if system.traces != "written" or any(point.key not in keys for point in points):
            continue
        for group in ("compositional", "simple"):
            shown = [_percent(summary.on_curve(point.key)[group]) for point in points]
            lines.append([f"{system.title}; {group}", *shown])
    if not lines:
        return []
    heads = ["most tokens of a trace", *(str(budget) for budget in BUDGETS), "its own end"]
    return [
        _section(f"Hit@1 over the trace's budget, %, on the first {summary.part} questions of each kind", heads, lines)
    ]


def _claims(summary: Summary) -> list[str]:
    """TTE_u against TTE_s, as the paper compares them."""
    found = summary.difference(UNIFIED, "tte_s")
    ours, theirs = summary.parameters(UNIFIED), summary.parameters("tte_s")
    if found is None or ours is None or theirs is None:
        return []
    lines = [
        f"- Hit@1, all kinds: {_points(found['all'])} points (the paper, on MMEB-V2: 68.7 and 68.8).",
        f"- Parameters: {ours / 1e6:.2f} M against {theirs / 1e6:.2f} M, {100 * (ours / theirs - 1):+.0f} % (the "
        "paper: -50 %, where reasoner and embedder share nothing; here an equal tower counts once).",
    ]
    if (slower := summary.slower(UNIFIED, "tte_s")) is not None:
        low, high = 100 * (slower.low - 1), 100 * (slower.high - 1)
        lines.append(f"- Time: {100 * (slower.value - 1):+.0f} % [{low:+.0f}, {high:+.0f}] (the paper: -20 %).")
    return ["\n".join(["## TTE_u with decoder layers against TTE_s", "", *lines])]


def _controls(summary: Summary, controls: Sequence[Probe]) -> str:
    whole = f"{UNIFIED}+{TEACHER}"
    lines = []
    for probe in controls:
        figures, followed = summary.figure(probe.key), summary.figure(probe.key, "followed")
        less = summary.difference(probe.key, whole) if probe.control != TEACHER else None
        lines.append(
            [
                title(probe),
                *(_percent(figures[name]) for name in MEANS),
                *(NOTHING if less is None else _points(less[name]) for name in MEANS),
                *(_percent(followed[name]) for name in MEANS[:2]),
            ]
        )
    heads = ["trace given to TTE_u, decoder layers", *MEANS, *(f"{name}, change" for name in MEANS)]
    heads += [f"finds what the trace ends with: {name}" for name in MEANS[:2]]
    return _section("Controls: what a vector owes to its trace, Hit@1, %", heads, lines)


def _percent(one: Interval) -> str:
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _points(one: Interval) -> str:
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} – {100 * max(values):.1f}"


def _spread(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _section(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = ["---", *("---:" for _ in heads[1:])]
    lines = ["| " + " | ".join(line) + " |" for line in (heads, marks, *rows)]
    return "\n".join([f"## {name}", "", *lines])
