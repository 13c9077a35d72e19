"""What `tte demo` prints on stdout: a paragraph a question, then the comparison. Strings in, strings out;
nothing runs here.
"""

from __future__ import annotations

import textwrap

from tte_runtime.demo.asking import Asked, Hit, Ranking
from tte_runtime.demo.measuring import CONDITIONS
from tte_runtime.demo.report import Report, spent
from tte_runtime.evaluation.compare import Measured, Parity, Spread
from tte_runtime.types import Counts, Result, Timings

MARKS = {True: "+", False: "-"}
INDENT = "   "
LINE_CHARS = 110
MAX_VALUE_CHARS = 80
MAX_TRACE_CHARS = 240


def opening(model: str, documents: int, seconds: float, questions: int) -> str:
    """What was embedded, and how to read what follows."""
    return (
        f"{model}: {documents} held-out documents embedded with traces of their own in {seconds:.1f} s "
        f"({documents / seconds:.0f} a second, batched).\n"
        f"{questions} held-out questions, with thinking and without; + marks what is right, - what is not.\n"
    )


def question(number: int, asked: Asked) -> str:
    """One question: its trace, both rankings, time and tokens."""
    test, result = asked.test.question, asked.thinking.result
    trace = shortened(result.trace.strip(), MAX_TRACE_CHARS) + _forced(result)
    rows = [
        ("board", test.scene.description if test.scene else "none: asked in words alone"),
        ("answer", f"{test.answer.medium} {shortened(test.answer.value)}"),
        ("trace", f"{MARKS[asked.trace_right]} {trace}"),
        *_ranking("thinking", asked.thinking),
        *_ranking("at once", asked.direct),
        ("time", _time(result.timings)),
        ("tokens", _tokens(result.counts)),
        ("", f"at once: {_tokens(asked.direct.result.counts)}"),
    ]
    return "\n".join([f"{number}. {test.text}", *(f"{INDENT}{name:<9} {text}" for name, text in rows)]) + "\n"


def summary(report: Report) -> str:
    """How many were right, and the comparison with plain transformers."""
    count = len(report.asked)
    rounds = f"{report.repetitions} round{'' if report.repetitions == 1 else 's'}"
    lines = [
        f"Right in the first place: {report.right_thinking} of {count} with thinking, "
        f"{report.right_direct} without. Right in the trace: {report.right_traces}.",
        "",
        f"Against plain transformers, {rounds}, interleaved; median (least - most)",
    ]
    ours, *others = report.comparison.arms
    if ours.seconds:
        lines.append(f"{INDENT}{ours.name:<26}{_figures(ours)}")
    for arm in others:
        lines += [f"{INDENT}{arm.name:<26}{_against(report, arm)}", f"{INDENT}{'':<26}{_parity(arm.parity)}"]
    conditions = CONDITIONS.format(dtype=report.dtype, threads=report.machine.threads_in_words)
    for text in (conditions[0].upper() + conditions[1:] + ".", str(report.machine)):
        lines += textwrap.wrap(text, LINE_CHARS, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


def shortened(value: str, max_chars: int = MAX_VALUE_CHARS) -> str:
    """A value on one line, cut where it is longer than that."""
    return value if len(value) <= max_chars else value[: max_chars - 3].rstrip() + "..."


def spread(values: Spread, digits: int, dash: str = " - ") -> str:
    """Median (least - most)."""
    return f"{values.median:.{digits}f} ({values.least:.{digits}f}{dash}{values.most:.{digits}f})"


def _ranking(name: str, ranking: Ranking) -> list[tuple[str, str]]:
    rows = [_hit(hit) for hit in ranking.hits]
    if ranking.rank > len(rows):
        rows.append(f"  the right one is on place {ranking.rank} of {ranking.size}")
    return list(zip([name] + [""] * len(rows), rows, strict=False))


def _hit(hit: Hit) -> str:
    answer = hit.document.answer
    return f"{MARKS[hit.right]} {hit.score:.3f} {answer.medium:<7} {shortened(answer.value)}"


def _forced(result: Result) -> str:
    return f"  (cut by {result.forced_by})" if result.forced_by else ""


def _time(timings: Timings) -> str:
    stages = " | ".join(f"{stage} {value:.1f}" for stage, value in spent(timings))
    return f"{timings.total:.1f} ms = {stages}"


def _tokens(counts: Counts) -> str:
    return (
        f"prompt {counts.prompt} + trace {counts.trace} + suffix {counts.suffix}: "
        f"computed {counts.computed}, cached {counts.cached}"
    )


def _figures(arm: Measured) -> str:
    return f"{spread(arm.ms_per_item, 1)} ms a query, {spread(arm.tokens_per_second, 0)} trace tokens/s"


def _against(report: Report, arm: Measured) -> str:
    if not arm.seconds:
        return "NOT COMPARED, no time is given"
    return f"{_figures(arm)}, {spread(report.comparison.times_slower(arm), 2)} times as long"


def _parity(parity: Parity) -> str:
    text = f"same traces {parity.same_traces}/{parity.items}, largest vector error {parity.max_error:.1e}"
    return f"parity: {text}" if parity.holds else f"PARITY FAILED: {text}, tolerance {parity.tolerance:.0e}"
