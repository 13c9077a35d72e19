"""The picture of the scenes table: what its points are, and that it is drawn from rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.scenes import Point, curves, main


def row(system: str, seed: int, hit: float, ms: list[float] | None, **more: Any) -> dict[str, Any]:
    """As `tte eval scenes` writes them."""
    made = {"system": system, "title": system, "seed": seed, "budget": None, "control": None, "machine": "a machine"}
    made["date"] = "2026-01-01"
    hits = {"compositional": hit, "simple": 1.0}
    return {**made, "curve_hit_at_1": hits, "cost": ms and {"ms": ms}, "data": {"pool": 1000}, **more}


ROWS = [
    row("direct", 0, 0.25, [1.0, 2.0, 9.0]),
    row("direct", 1, 0.75, [4.0, 4.0, 4.0]),
    row("decoder_layers", 0, 1.0, [8.0]),
    row("decoder_layers", 0, 0.5, [5.0], budget=4, title="at most 4"),
    row("decoder_layers", 0, 0.0, [3.0], budget=0, title="off"),
    row("decoder_layers", 0, 0.1, None, control="filler"),
    row("qformer", 0, 0.5, None),
]


def test_points_are_means_over_seeds_with_their_range_in_the_order_of_limits() -> None:
    found = curves(ROWS, "compositional")
    assert found["direct"] == [Point(None, (50.0, 25.0, 75.0), (3.0, 2.0, 4.0))]
    assert [(one.limit, one.hits[0], one.ms[0]) for one in found["decoder_layers"]] == [
        (0, 0.0, 3.0),
        (4, 50.0, 5.0),
        (None, 100.0, 8.0),
    ]
    assert set(found) == {"direct", "decoder_layers"}  # controls and what was not timed are no points
    latest = curves([*ROWS, row("direct", 1, 0.25, [2.0])], "compositional")["direct"]
    assert latest == [Point(None, (25.0, 25.0, 25.0), (2.0, 2.0, 2.0))]


def test_rows_of_another_day_stand_by_the_time_of_tte_s_beside_them() -> None:
    first = [row("tte_s", 0, 0.5, [10.0]), row("direct", 0, 0.5, [4.0]), row("qformer", 0, 0.25, [8.0])]
    later = [row("tte_s", 0, 0.5, [20.0], date="2026-01-02"), row("qformer", 0, 0.75, None, date="2026-01-02")]
    found = curves([*first, *later], "compositional")
    assert [found[name][0].ms[0] for name in ("tte_s", "direct", "qformer")] == [20.0, 8.0, 16.0]
    assert found["qformer"][0].hits[0] == 75.0, "asked anew, and not timed again"


def test_the_picture_is_drawn_where_there_are_rows(tmp_path: Path) -> None:
    results, picture = tmp_path / "scenes.jsonl", tmp_path / "scenes.png"
    words = ["--results", str(results), "--picture", str(picture)]
    assert "is not drawn" in CliRunner().invoke(main, words).stderr
    results.write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout.strip()) == (0, str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
