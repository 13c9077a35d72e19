"""What a run is reported as: the leaderboard's JSON, and a table. Knows scores; knows no vectors and no files.

The JSON is that of VLM2Vec's experiments/report_score_v2.py: "metadata", and "metrics" by modality and dataset, with
its words where there is no score and its "-fixed" behind two names. What it has no place for stands in metadata under
"tte_runtime". Means are unweighted, over datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tte_runtime.evaluation.mmeb.catalogue import DATASETS, Dataset
from tte_runtime.evaluation.mmeb.metrics import MAIN
from tte_runtime.evaluation.mmeb.run import Outcome
from tte_runtime.evaluation.mmeb.scoring import Score

MODALITIES = ("image", "video", "visdoc")
FIXED = ("ViDoSeek-page", "MMLongBench-page")  # whose data changed in November 2025; old and new do not compare
UNKNOWN = ("model_backbone", "model_size", "max_length_tokens", "model_release_date", "url")  # for the owner to fill in


def leaderboard_json(
    outcomes: Mapping[Dataset, Outcome], name: str, embedding_dim: int, run: Mapping[str, Any]
) -> dict[str, Any]:
    """The file that the leaderboard takes.

    Args:
        outcomes: of a run.
        name: of the model.
        embedding_dim: E.
        run: how it was made: version, recipe, fingerprint, options, limit.
    """
    scores = {dataset: outcome for dataset, outcome in outcomes.items() if isinstance(outcome, Score)}
    metrics: dict[str, dict[str, Any]] = {modality: {} for modality in MODALITIES}
    for dataset in (*DATASETS.values(), *(dataset for dataset in scores if dataset.modality == "own")):
        shown = f"{dataset.name}-fixed" if dataset.name in FIXED else dataset.name
        score = scores.get(dataset)
        entry = {**score.metrics, "num_pred": score.num_queries, "num_data": score.num_queries} if score else "FILE_N/A"
        metrics.setdefault(dataset.modality, {})[shown] = entry
    num_failed = {dataset.name: len(score.failed) for dataset, score in scores.items() if score.failed}
    metadata = {"model_name": name, **dict.fromkeys(UNKNOWN), "embedding_dimension": embedding_dim}
    metadata |= {
        "data_source": "Self-Reported",
        "report_generated_date": datetime.now().isoformat(),
        "tte_runtime": {**run, "failed_items": num_failed},
    }
    return {"metadata": metadata, "metrics": metrics}


def table(outcomes: Mapping[Dataset, Outcome], limit: int | None) -> list[str]:
    """Lines: every dataset, then the mean of every group and modality and of all, each over how many of how many."""
    lines = [f"{'dataset':<48}{'metric':<16}{'score':>7}  queries"]
    for dataset, outcome in outcomes.items():
        if isinstance(outcome, Score):
            main = MAIN[dataset.modality]
            told = [f"{len(outcome.failed)} items failed"] if outcome.failed else []
            told += [f"{outcome.num_tied} ties for the first place"] if outcome.num_tied else []
            after = "  (" + ", ".join(told) + ")" if told else ""
            value = 100 * outcome.metrics[main]
            lines.append(f"{dataset.name:<48}{main:<16}{value:>7.1f}  {outcome.num_queries}{after}")
        else:
            lines.append(f"{dataset.name:<48}{'could not be read':<16}")
    lines += ["", f"{'mean over datasets':<64}{'score':>7}  datasets"]
    every = [*DATASETS.values(), *(dataset for dataset in outcomes if dataset.modality == "own")]
    for modality in (*MODALITIES, "own"):
        datasets = [dataset for dataset in every if dataset.modality == modality]
        groups = dict.fromkeys(dataset.group for dataset in datasets)
        if len(groups) > 1:
            lines += [
                line
                for group in groups
                for line in _mean(f"{modality} {group}", [d for d in datasets if d.group == group], outcomes)
            ]
        lines += _mean(modality, datasets, outcomes)
    lines += _mean("MMEB-V2", list(DATASETS.values()), outcomes)
    if limit is not None:
        lines += ["", f"Only the first {limit} queries of each dataset: no score of MMEB-V2."]
    return lines


def _mean(title: str, datasets: Sequence[Dataset], outcomes: Mapping[Dataset, Outcome]) -> list[str]:
    """The line of one mean; none where there is no score in it."""
    found = [(dataset, outcomes.get(dataset)) for dataset in datasets]
    values = [100 * score.metrics[MAIN[dataset.modality]] for dataset, score in found if isinstance(score, Score)]
    if not values:
        return []
    return [f"{title:<64}{sum(values) / len(values):>7.1f}  {len(values)} of {len(datasets)}"]
