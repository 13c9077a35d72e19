"""The aims of benchmarks.gpu on an H200, as data: which rows of a run decide each, by which figure, within which limit.

An aim has one number to reach, and a function that makes the figure and its bound from the rows that it names. What was
not measured, or failed its parity, decides nothing. Knows rows; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.core.results import Results, Row
from benchmarks.core.tables import markdown
from benchmarks.gpu_kernels import shown
from tte_kernels.linear.cases import MODELS

__all__ = ["AIMS", "Aim", "Figure", "judge", "table", "write"]

Figure = tuple[float, str]
"""A value in the aim's unit, and in words the floor or ceiling of this run that it stands beside."""

LAYER = 4  # projections: QKV, attention output, gate and up, down
UNITS = {"us": "{:.2f} us", "ms": "{:.3f} ms", "share": "{:.1%}", "times": "{:.3f} times"}


@dataclass(frozen=True)
class Aim:
    """One aim.

    Attributes:
        name: what is to be reached by what. limit: the number, in `unit`, a key of `UNITS`.
        stage, keys: the rows that decide it. figure: (those rows, GB/s of a copy) -> the figure, or `None` where the
            rows lack what it is made of.
        least: the figure must be at least the limit; else at most.
    """

    name: str
    limit: float
    unit: str
    stage: str
    keys: tuple[str, ...]
    figure: Callable[[Sequence[Row], float], Figure | None]
    least: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.least else '<='} {self.say(self.limit)}"

    def say(self, value: float) -> str:
        """The value with its unit."""
        return UNITS[self.unit].format(value)


def slowest(rows: Sequence[Row], copy: float) -> Figure:
    """Microseconds of the slowest row; what its bytes take at the ceiling."""
    row = max(rows, key=lambda row: float(row["us_p50"]))
    return row["us_p50"], f"{row['bytes'] / copy / 1e3:.2f} us at {copy:.0f} GB/s"


def copy_share(rows: Sequence[Row], copy: float) -> Figure:
    """All bytes over all time, so each row weighs what it moves, as a share of the ceiling."""
    rate = sum(row["bytes"] for row in rows) / _us(rows) / 1e3
    return rate / copy, f"{rate:.0f} of {copy:.0f} GB/s"


def growth(rows: Sequence[Row], copy: float) -> Figure:
    """Layer after layer, each with more rows than before: the slowest layer's time over the first one's."""
    layers = [rows[start : start + LAYER] for start in range(0, len(rows), LAYER)]
    bytes_of = [sum(row["bytes"] for row in layer) for layer in layers]
    return max(map(_us, layers)) / _us(layers[0]), f"{max(bytes_of) / bytes_of[0]:.3f} times by bytes"


def of_best(rows: Sequence[Row], copy: float, *, peers: tuple[str, ...]) -> Figure | None:
    """The time of the best of those peers that ran, row by row, over our own."""
    best = [[row["peers"][name]["us_p50"] for name in peers if "us_p50" in row["peers"].get(name, {})] for row in rows]
    if not all(best):
        return None
    theirs, ours = sum(map(min, best)), _us(rows)
    return theirs / ours, f"{theirs:.1f} us, ours {ours:.1f} us"


def step(rows: Sequence[Row], copy: float) -> Figure:
    """Milliseconds of a decode step; the floor that was measured beside it."""
    (row,) = rows
    return row["p50"], f"{row['floor_ms']:.3f} ms, reached to {row['floor_share']:.0%}"


def _us(rows: Sequence[Row]) -> float:
    return float(sum(row["us_p50"] for row in rows))


def _layer(op: str, model: str, suffix: str) -> tuple[str, ...]:
    """The four projections of one layer of `model`."""
    return tuple(f"{op}/{model}-{inner}x{outer}-{suffix}" for inner, outer in MODELS[model])


def _kernel(name: str, limit: float, unit: str, keys: tuple[str, ...], figure: Any) -> Aim:
    return Aim(name, limit, unit, "kernels", keys, figure, least=unit == "share")


CUBLAS = partial(of_best, peers=("F.linear", "F.linear alone"))
ATTENTION = partial(of_best, peers=("flash-attn", "sdpa-flash", "sdpa-cudnn"))
SHORT = {"2B": "qwen2vl_2b", "7B": "qwen2vl_7b"}


def _of_norm(op: str, letter: str) -> list[Aim]:
    few = tuple(f"{op}/{model}-{letter}{rows}" for model in SHORT.values() for rows in (1, 64))
    return [
        _kernel(f"{op}, 1 and 64 rows", 3.0, "us", few, slowest),
        _kernel(f"{op}, 8,192 x 3,584", 0.85, "share", (f"{op}/qwen2vl_7b-{letter}8192",), copy_share),
    ]


def _of_model(name: str, layer_share: float) -> list[Aim]:
    model = SHORT[name]
    few = tuple(key for rows in (1, 4, 16) for key in _layer("decode_linear", model, f"w16-S{rows}"))
    tokens = {"4,096": _layer("linear", model, "T4096"), "300": _layer("linear", model, "T300")}
    head, decode = (f"sample/{model}-S1-greedy",), (f"decode_attention/{model}-S32-L8192",)
    extend, best = (
        (f"extend_attention/{model}-T4096",),
        f"extend_attention against the best library, {name}, 4,096 tokens",
    )
    return [
        _kernel(f"decode_linear, a layer of {name}, one row", layer_share, "share", few[:LAYER], copy_share),
        _kernel(f"decode_linear, a layer of {name}, 1 to 16 rows", 1.05, "times", few, growth),
        _kernel(f"lm_head of {name}, one row", 0.93, "share", head, copy_share),
        _kernel(f"decode_attention of {name}, 32 x 8k", 0.85, "share", decode, copy_share),
        *(
            _kernel(f"linear against cuBLAS, a layer of {name}, {count} tokens", 0.80, "share", keys, CUBLAS)
            for count, keys in tokens.items()
        ),
        _kernel(best, 0.60, "share", extend, ATTENTION),
    ]


def _of_step(shape: str, *limits: float) -> list[Aim]:
    key = (f"{shape}/bfloat16/batch=1",)
    return [Aim(f"decode step of {shape}, batch 1", limit, "ms", "decode", key, step) for limit in limits]


AIMS: tuple[Aim, ...] = (
    *_of_norm("pool_normalize", "S"),
    *_of_norm("rms_norm", "T"),
    *_of_model("2B", 0.65),
    *_of_model("7B", 0.80),
    *_of_step("qwen2vl-2b", 1.15, 0.95),
    *_of_step("qwen2vl-7b", 3.9),
)
"""All of them. What "flat from 1 to 16 rows" means is ours: at most 5 % more time, where bytes grow by 1 to 2 %."""


def judge(aim: Aim, results: Results) -> dict[str, Any]:
    """A row: the aim, its figure and bound, and the verdict in words; `met` is `None` where nothing was measured."""
    stage, ceiling = (
        shown(results) if aim.stage == "kernels" else results.stage(aim.stage),
        results.get("ceiling", "copy"),
    )
    rows = [stage[key] for key in aim.keys if key in stage]
    row: dict[str, Any] = {"ok": True, "aim": str(aim), "value": None, "bound": "", "met": None}
    if failed := [row["error"] for row in rows if not row["ok"]]:
        return row | {"verdict": failed[0]}
    if len(rows) < len(aim.keys):
        return row | {"verdict": "not measured yet"}
    found = aim.figure(rows, ceiling["gb_per_s"] if ceiling and ceiling["ok"] else float("nan"))
    if found is None:
        return row | {"verdict": "not measured: no library served the shape"}
    value, bound = found
    short = aim.limit - value if aim.least else value - aim.limit
    verdict = "met" if short <= 0 else f"missed by {aim.say(short)}"
    return row | {"value": value, "bound": bound, "met": short <= 0, "verdict": verdict}


def write(results: Results) -> list[Row]:
    """The judgement of every aim, appended to the results where it is another than before."""
    rows = []
    for aim in AIMS:
        judged, before = judge(aim, results), results.get("aims", str(aim))
        same = before is not None and judged.items() <= before.items()
        rows.append(before if before is not None and same else results.add("aims", str(aim), judged))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The aims in Markdown, as `write` returns them."""
    says = {str(aim): aim.say for aim in AIMS}
    lines = [
        [row["aim"], "" if row["value"] is None else says[row["aim"]](row["value"]), row["bound"], row["verdict"]]
        for row in rows
    ]
    return markdown(["aim", "figure", "floor or ceiling", "verdict"], lines)
