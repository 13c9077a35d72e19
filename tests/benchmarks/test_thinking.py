"""The benchmark of thinking: it measures, goes on where it was stopped, and draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import thinking
from tte_runtime import Think


def test_it_measures_goes_on_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {
        "limit": {"0": False, "none": True},
        "settled": {"0.5": Think(snapshot_every=2, stop_cosine=0.5)},
        "traces": {"2": Think(num_traces=2, temperature=0.7)},
    }
    monkeypatch.setattr(thinking, "WAYS", ways)
    out, picture = tmp_path / "thinking.jsonl", tmp_path / "thinking.png"
    arguments = ["--out", str(out), "--picture", str(picture), "--per-kind", "1", "--pool", "120"]
    stopped = CliRunner().invoke(thinking.main, [*arguments, "--budget", "0"])
    assert stopped.exit_code == 3 and not out.exists()
    done = CliRunner().invoke(thinking.main, arguments)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.startswith(("| limit", "| settled", "| traces"))]
    assert len(lines) == 4
    spent = {line.split("|")[1].strip(): float(line.split("|")[2]) for line in lines}
    assert spent["limit 0"] == 0 and spent["traces 2"] > spent["limit none"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    size = out.stat().st_size
    assert CliRunner().invoke(thinking.main, arguments).exit_code == 0
    assert out.stat().st_size == size, "what is done is not done again"
