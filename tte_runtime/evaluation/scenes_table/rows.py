"""The table as data: rows, one a seed and row of the table, for files and pictures; and figures over seeds, for JSON.

`benchmarks/scenes.py` draws from the rows. Knows figures; computes nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from tte_runtime.evaluation.scenes_table.bootstrap import Interval
from tte_runtime.evaluation.scenes_table.report import MEANS, title
from tte_runtime.evaluation.scenes_table.run import SeedResult
from tte_runtime.evaluation.scenes_table.summary import GROUPS, Summary
from tte_runtime.evaluation.scenes_table.systems import Probe
from tte_runtime.scenes.questions import UNTRAINED


def rows_of(summary: Summary) -> list[dict[str, Any]]:
    """The results file: with what it takes to draw a row and to check it."""
    return [_row(summary, one, probe) for one in summary.seeds for probe in summary.probes if probe.key in one.answers]


def json_of(summary: Summary) -> dict[str, Any]:
    """What `--json` prints: figures over seeds by row, [value, low, high] each; what is missing; the rows."""
    figures: dict[str, Any] = {}
    for probe in (probe for probe in summary.probes if probe.whole and summary.seeds_of(probe.key)):
        figures[probe.key] = {
            "title": title(probe),
            "seeds": summary.seeds_of(probe.key),
            "hit_at_1": _lists(summary.figure(probe.key)),
            "answer_in_trace": _lists(summary.figure(probe.key, "told")),
            "finds_what_the_trace_ends_with": _lists(summary.figure(probe.key, "followed")),
        }
        for other in ("direct", "tte_s"):
            more = summary.difference(probe.key, other)
            figures[probe.key][f"more_than_{other}"] = None if more is None else _lists(more)
    missing = [{"seed": seed, "system": system, "why": why} for (seed, system), why in summary.missing.items()]
    return {"figures": figures, "missing": missing, "rows": rows_of(summary)}


def _row(summary: Summary, one: SeedResult, probe: Probe) -> dict[str, Any]:
    scenes, cost = summary.scenes, one.costs.get(probe.key)
    groups = [name for name in GROUPS if probe.whole or name not in UNTRAINED]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": one.seed,
        "row": probe.key,
        "title": title(probe),
        "system": probe.system.name,
        "budget": probe.budget,
        "control": probe.control,
        "questions": len(one.answers[probe.key].best),
        "hit_at_1": {name: summary.of_seed(one.seed, probe.key, name) for name in groups},
        "curve_hit_at_1": {name: summary.of_seed(one.seed, probe.key, name, curve=True) for name in MEANS},
        "cost": None if cost is None else asdict(cost),
        "parameters": one.parameters[probe.system.name],
        "fingerprint": one.fingerprints[probe.system.name],
        "data": {"seed": scenes.seed, "digest": scenes.digest, "pool": len(scenes.pool), "curve": summary.part},
        "machine": str(one.machine),
    }


def _lists(figures: dict[str, Interval]) -> dict[str, list[float]]:
    return {name: [one.value, one.low, one.high] for name, one in figures.items()}
