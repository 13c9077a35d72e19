"""Stage 1: the teacher writes traces down, as JSON lines that a person can read and check against the
pictures.

The teacher is the scenes' own ground truth, not a model. Training itself draws fresh questions from seeds
all the time (mixture.py); this file is the sample that is kept for reading. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tte_runtime.scenes.questions import KINDS, make_question
from tte_runtime.training.bank import scene_at
from tte_runtime.training.loop import say

SAMPLE = 2000


def write_traces(file: Path, *, seed: int, count: int = SAMPLE) -> None:
    """Write `count` training questions with their traces, kinds in turn; a finished file is left as it is."""
    if file.is_file():
        return
    lines: list[str] = []
    index = 0
    while len(lines) < count:
        scene, rng = scene_at(seed, "train", index)
        question = make_question(
            KINDS[len(lines) % len(KINDS)], scene, np.random.default_rng(rng.integers(2**63)), "train"
        )
        index += 1
        if question is None:
            continue
        entry = {
            "kind": question.kind,
            "scene": question.scene.description if question.scene else None,
            "question": question.text,
            "trace": question.trace,
            "answer": {"medium": question.answer.medium, "value": question.answer.value},
        }
        lines.append(json.dumps(entry))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(file)
    say(f"traces: {count} in {file}")
