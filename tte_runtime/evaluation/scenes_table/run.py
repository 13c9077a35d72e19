"""The whole table, seed by seed: systems are put together, ask the pool and the questions, and are timed.

OUT/seed-N/documents_<system>.npz   the pool's vectors
OUT/seed-N/<row>.npz                which document came first for each question, and the traces
OUT/seed-N/traces.sqlite            what the reasoners wrote; heads on one backbone share its traces
OUT/seed-N/cost_<hash>.json         costs of systems that were timed together

Knows where arms come from only as a function, `Assemble`; knows nothing of means and intervals.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from tte_runtime.errors import TteError
from tte_runtime.evaluation.machine import Machine, describe_machine
from tte_runtime.evaluation.scenes_table.asking import Answers, Scenes, ask, document_vectors, first_of_each
from tte_runtime.evaluation.scenes_table.cost import WARM_UP, Cost, Sizes, measure, parameters
from tte_runtime.evaluation.scenes_table.systems import Probe, System
from tte_runtime.scenes.questions import KINDS

MANY: dict[str, Any] = {"max_batch_size": 64, "max_prefill_tokens": 2048}
ALONE: dict[str, Any] = {"kv_cache_tokens": 8192}  # many embedders at once, and one question at a time


class Assemble(Protocol):
    """Writes the checkpoint of an arm into `out` and returns its folder; a TteError where that arm is not there."""

    def __call__(self, folder: Path, seed: int, arm: str, out: Path, /) -> Path: ...


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        arms: the folder that `assemble` takes arms from. out: where everything is kept.
        probes: the rows. scenes: what they are asked.
        part: questions a kind for points of curves. timed: questions a kind for costs; 0 leaves costs out.
        options: of every `Embedder.from_pretrained`.
    """

    arms: Path
    assemble: Assemble
    out: Path
    probes: Sequence[Probe]
    scenes: Scenes
    part: int
    timed: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class SeedResult:
    """What came of one seed of training.

    Attributes:
        answers, costs: by the row's key. parameters, fingerprints, missing (why): by system.
        machine: where it ran; `None` where every system is missing.
    """

    seed: int
    answers: dict[str, Answers] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    machine: Machine | None = None


def run_seed(plan: Plan, seed: int, tell: Callable[[str], None] = lambda line: None) -> SeedResult:
    """All rows of one seed. A system of which an arm is missing is left out and named in the result.

    Args:
        tell: called with what is being done.
    """
    done = SeedResult(seed)
    folder = plan.out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        arms = _Arms(plan, seed, Path(place))
        found: dict[System, dict[str, Path]] = {}
        for system in dict.fromkeys(probe.system for probe in plan.probes):
            try:
                found[system] = {arm: arms[arm] for arm in system.arms}
            except TteError as error:
                done.missing[system.name] = str(error)
                tell(f"seed {seed}, {system.name}: left out. {error}")
                continue
            done.parameters[system.name] = parameters(list(found[system].values()))
            _ask_all(plan, system, found[system], folder, done, tell)
        if plan.timed and found:
            _time_all(plan, found, folder, done, tell)
    return done


class _Arms:
    """Checkpoints of one seed, each written when it is first asked for."""

    def __init__(self, plan: Plan, seed: int, place: Path) -> None:
        self._plan, self._seed, self._place = plan, seed, place
        self._folders: dict[str, Path] = {}

    def __getitem__(self, arm: str) -> Path:
        if arm not in self._folders:
            self._folders[arm] = self._plan.assemble(self._plan.arms, self._seed, arm, self._place / arm)
        return self._folders[arm]


def _ask_all(
    plan: Plan,
    system: System,
    folders: Mapping[str, Path],
    folder: Path,
    done: SeedResult,
    tell: Callable[[str], None],
) -> None:
    store = folder / "traces.sqlite" if system.traces == "written" else None
    with system.load(folders, traces=store, **MANY, **plan.options) as embedder:
        done.fingerprints[system.name] = embedder.fingerprint
        done.machine = describe_machine(embedder.config.device)
        tell(f"seed {done.seed}, {system.name}: {len(plan.scenes.pool)} documents")
        documents = document_vectors(embedder, system, plan.scenes, folder)
        for probe in (probe for probe in plan.probes if probe.system == system):
            tell(f"seed {done.seed}, {probe.key}: {len(plan.scenes.places(probe, plan.part))} questions")
            done.answers[probe.key] = ask(embedder, probe, plan.scenes, documents, folder, plan.part)


def _time_all(
    plan: Plan,
    found: Mapping[System, Mapping[str, Path]],
    folder: Path,
    done: SeedResult,
    tell: Callable[[str], None],
) -> None:
    """Costs of all rows but the controls, whose traces are given: kept as one, for they were measured in turns."""
    probes = [probe for probe in plan.probes if probe.system in found and probe.control is None]
    if not probes:
        return
    assert done.machine is not None, "a system that was found was asked"
    machine = replace(done.machine, date="")
    key = json.dumps([done.fingerprints, [probe.key for probe in probes], plan.scenes.digest, plan.timed, str(machine)])
    path = folder / f"cost_{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        tests = [plan.scenes.tests[place] for place in first_of_each(plan.scenes.tests, plan.timed, KINDS)]
        sizes = {arm: Sizes.of(place) for places in found.values() for arm, place in places.items()}
        tell(f"seed {done.seed}: {len(tests)} questions alone, {len(probes)} rows in turns")
        total = (len(tests) + min(WARM_UP, len(tests))) * len(probes)
        with ExitStack() as stack, tqdm(total=total, unit="question", desc="timing") as bar:
            embedders = {
                system.name: stack.enter_context(system.load(places, **ALONE, **plan.options))
                for system, places in found.items()
            }
            costs = measure(embedders, sizes, probes, tests, plan.scenes.seed, bar.update)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}), encoding="utf-8")
        os.replace(part, path)
    done.costs.update({name: Cost(**values) for name, values in json.loads(path.read_text("utf-8")).items()})
