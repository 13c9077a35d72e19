"""The demo as one self-contained HTML file: pictures as data URIs, no script, nothing fetched from anywhere.

Turns a report into the words and numbers that the template places; how it looks is `templates/`. Runs no
model.
"""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tte_runtime.demo import board
from tte_runtime.demo.asking import SHOWN, Asked, Ranking
from tte_runtime.demo.console import MAX_TRACE_CHARS, shortened, spread
from tte_runtime.demo.gallery import image_of
from tte_runtime.demo.measuring import CONDITIONS
from tte_runtime.demo.report import Report, spent
from tte_runtime.demo.steps import read_trace
from tte_runtime.evaluation.compare import Measured
from tte_runtime.evaluation.scenes import Document
from tte_runtime.scenes.draw import BOARD_PX, CELL_PX

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL_PX = 112
DASH = "\u2013"
JPEG_QUALITY = 88


def write_page(report: Report, out: Path) -> None:
    """Write the page; an older one is replaced only once the new one is whole."""
    text = render_page(report)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out)


def render_page(report: Report) -> str:
    """The page as a string."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    documents = [_document(document) for document in report.gallery.documents]
    return environment.get_template("page.html").render(
        report=report,
        shown=SHOWN,
        board={"side": BOARD_PX, "cell": CELL_PX},
        questions=[_question(number, asked) for number, asked in enumerate(report.asked, start=1)],
        documents=documents,
        comparison=_comparison(report),
        conditions=CONDITIONS.format(dtype=report.dtype, threads=report.machine.threads_in_words),
    )


def _question(number: int, asked: Asked) -> dict[str, Any]:
    test, result = asked.test.question, asked.thinking.result
    image = image_of(asked.test.item)
    reading = read_trace(shortened(result.trace, MAX_TRACE_CHARS))
    return {
        "number": number,
        "text": test.text,
        "kind": test.kind.replace("_", " "),
        "image": _data_uri(image) if image else None,
        "alt": f"The board: {_in_words(test.scene.description)}." if test.scene else "",
        "answer": test.answer,
        "steps": reading.steps,
        "trace_answer": reading.answer,
        "trace_right": asked.trace_right,
        "forced_by": result.forced_by,
        "marks": board.marks(reading) if image else [],
        "arrows": board.arrows(reading) if image else [],
        "rankings": [
            ("Thinking first", _ranking(asked.thinking)),
            ("Embedded at once", _ranking(asked.direct)),
        ],
        "stages": _stages(asked.thinking),
        "total": result.timings.total,
        "counts": result.counts,
        "direct_counts": asked.direct.result.counts,
        "direct_total": asked.direct.result.timings.total,
    }


def _ranking(ranking: Ranking) -> dict[str, Any]:
    hits = [
        {
            **_document(hit.document),
            "score": hit.score,
            "share": max(0.0, min(1.0, hit.score)),
            "right": hit.right,
        }
        for hit in ranking.hits
    ]
    return {"hits": hits, "right": ranking.right, "rank": ranking.rank, "size": ranking.size}


def _stages(ranking: Ranking) -> list[dict[str, Any]]:
    """Stages with their share of the whole, those that took no time left out."""
    stages = spent(ranking.result.timings)
    whole = sum(value for _, value in stages)
    return [{"name": name, "ms": value, "share": value / whole} for name, value in stages if value > 0]


def _document(document: Document) -> dict[str, Any]:
    answer, image = document.answer, image_of(document.item)
    alt = f"a board with {_in_words(answer.value)}" if answer.medium == "scene" else f"a picture of: {answer.value}"
    return {
        "medium": answer.medium,
        "value": answer.value,
        "image": _data_uri(image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)) if image else None,
        "alt": alt,
    }


def _in_words(description: str) -> str:
    """ "a1 cat b3 car" as "cat at a1, car at b3"."""
    words = description.split()
    return ", ".join(f"{name} at {cell}" for cell, name in zip(words[::2], words[1::2], strict=True))


def _comparison(report: Report) -> dict[str, Any]:
    arms = report.comparison.arms
    slowest = max((arm.ms_per_item.median for arm in arms if arm.seconds), default=1.0)
    rows = [_arm(report, arm, slowest) for arm in arms]
    two_passes = arms[1]
    headline = f"{report.comparison.times_slower(two_passes).median:.1f}\u00d7" if two_passes.seconds else None
    return {"rows": rows, "headline": headline, "holds": report.comparison.parity_holds}


def _arm(report: Report, arm: Measured, slowest: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": arm.name,
        "parity": arm.parity,
        "reference": arm is report.comparison.arms[0],
    }
    if not arm.seconds:
        return {**row, "timed": False}
    return {
        **row,
        "timed": True,
        "ms": spread(arm.ms_per_item, 1, DASH),
        "tokens": spread(arm.tokens_per_second, 0, DASH),
        "ratio": spread(report.comparison.times_slower(arm), 2, DASH),
        "share": arm.ms_per_item.median / slowest,
    }


def _data_uri(image: Image.Image) -> str:
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
