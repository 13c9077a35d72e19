"""What is asked about a scene, what the teacher thinks, and what the answer is.

The teacher is the scene's own ground truth: it knows the board and writes down, in the few words a person
would check against the picture, the steps that lead to the answer. Every step of a trace is a copy or a
small look-up, never counting. Four kinds need steps (COMPOSITIONAL), five do not. Knows nothing of tokens,
prompts or pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from tte_runtime.scenes import pictures
from tte_runtime.scenes.split import Split, belongs
from tte_runtime.scenes.world import CELLS, COUNTS, DIRECTIONS, OPPOSITE, Scene, move

COMPOSITIONAL = ("one_step", "two_step", "nested", "replace")
SIMPLE = ("name", "category", "ground", "describe", "find")
KINDS = (*COMPOSITIONAL, *SIMPLE)  # what is trained on
UNTRAINED = ("three_step",)  # a step more than any of these, to ask only: no training mixture may have it
MAX_TRIES = 400
Thing = TypeVar("Thing")

_OF = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "up": ("above", "over"),
    "down": ("below", "under"),
}
_AWAY = {"left": "to the left", "right": "to the right", "up": "above", "down": "below"}
_FAR = {"left": "to the left of", "right": "to the right of", "up": "above", "down": "below"}


@dataclass(frozen=True)
class Answer:
    """What should be found: a single picture (by name), a text (itself), or a scene (by its description)."""

    medium: Literal["picture", "text", "scene"]
    value: str

    @property
    def document_trace(self) -> str:
        """The teacher's trace of this thing as a document."""
        return f"<think> {self.medium} </think> {self.value}"


@dataclass(frozen=True)
class Question:
    """One question: its words, the scene that is shown with it (None: words only), the teacher's trace, the
    answer.

    `pairs` are the combinations that the split keeps apart, such as the picture asked from and the picture
    that is the answer.
    """

    kind: str
    text: str
    scene: Scene | None
    trace: str
    answer: Answer
    pairs: tuple[tuple[str, str], ...]


def trace_words(trace: str) -> list[str]:
    """The words of a trace whatever the blanks around its markers, stop token left out; two traces are
    equal when these are.
    """
    for marker in ("<think>", "</think>"):
        trace = trace.replace(marker, f" {marker} ")
    return trace.replace("<|im_end|>", " ").split()


def answer_words(trace: str) -> list[str]:
    """The words behind the trace's last `</think>`; empty when it never came there."""
    words = trace_words(trace)
    return words[len(words) - words[::-1].index("</think>") :] if "</think>" in words else []


def _choose(rng: np.random.Generator, things: Sequence[Thing]) -> Thing:
    return things[int(rng.integers(len(things)))]


def _step(rng: np.random.Generator, scene: Scene, name: str, count: int) -> tuple[str, str, str] | None:
    """A random direction and where `count` steps from `name` lead: (direction, cell, picture there), None
    when nothing is there.
    """
    direction = _choose(rng, tuple(DIRECTIONS))
    cell = move(scene.cell_of(name), direction, count)
    there = scene.content.get(cell) if cell else None
    return None if cell is None or there is None else (direction, cell, there)


def _one_step(scene: Scene, rng: np.random.Generator) -> Question | None:
    name = _choose(rng, scene.items)[1]
    count = int(_choose(rng, (1, 1, 1, 2, 3)))
    found = _step(rng, scene, name, count)
    if found is None:
        return None
    direction, cell, there = found
    if count == 1:
        near = (
            "what is {} the {}?",
            "what stands {} the {}?",
            "which picture is directly {} the {}?",
            "show the thing {} the {}",
        )
        text = _choose(rng, near).format(_choose(rng, _OF[direction]), name)
    else:
        far = ("what is {} cells {} the {}?", "which picture stands {} cells {} the {}?")
        text = _choose(rng, far).format(COUNTS[count], _FAR[direction], name)
    trace = f"<think> {name} {scene.cell_of(name)} ; {COUNTS[count]} {direction} {cell} </think> {there}"
    return Question("one_step", text, scene, trace, Answer("picture", there), ((name, there),))


def _two_step(scene: Scene, rng: np.random.Generator) -> Question | None:
    return _walk("two_step", 2, scene, rng)


def _three_step(scene: Scene, rng: np.random.Generator) -> Question | None:
    return _walk("three_step", 3, scene, rng)


def _walk(kind: str, num_steps: int, scene: Scene, rng: np.random.Generator) -> Question | None:
    """A walk whose steps go along the rows and along the columns in turn, so that none undoes the one before."""
    name = _choose(rng, scene.items)[1]
    axes = [("left", "right"), ("up", "down")]
    steps = [(_choose(rng, axis), int(rng.integers(1, 4))) for axis in axes]
    if rng.integers(2):
        steps.reverse()
        axes.reverse()
    steps += [(_choose(rng, axes[index % 2]), int(rng.integers(1, 4))) for index in range(2, num_steps)]
    cells: list[str | None] = [scene.cell_of(name)]
    for direction, count in steps:
        cells.append(move(cells[-1], direction, count) if cells[-1] else None)
    there = scene.content.get(cells[-1]) if cells[-1] else None
    if there is None:
        return None
    counts = [COUNTS[count] for _, count in steps]
    if rng.integers(4) == 0:
        ways = " and ".join(f"{count} {direction}" for count, (direction, _) in zip(counts, steps, strict=True))
        text = f"from the {name} go {ways}: what is there?"
    else:
        form = _choose(rng, ("what stands {} the {}?", "what is {} the {}?", "which picture is {} the {}?"))
        words = [*(_AWAY[direction] for direction, _ in steps[:-1]), _FAR[steps[-1][0]]]
        text = form.format(" and ".join(f"{one} {way}" for one, way in zip(counts, words, strict=True)), name)
    moves = "".join(
        f" ; {count} {direction} {cell}" for count, (direction, _), cell in zip(counts, steps, cells[1:], strict=True)
    )
    trace = f"<think> {name} {cells[0]}{moves} </think> {there}"
    return Question(kind, text, scene, trace, Answer("picture", there), ((name, there),))


def _nested(scene: Scene, rng: np.random.Generator) -> Question | None:
    name = _choose(rng, scene.items)[1]
    inner = _step(rng, scene, name, 1)
    outer = _step(rng, scene, inner[2], 1) if inner else None
    if inner is None or outer is None or outer[0] == OPPOSITE[inner[0]]:
        return None
    forms = (
        "what is {} what is {} the {}?",
        "which picture stands {} the one {} the {}?",
        "what stands {} the thing {} the {}?",
    )
    text = _choose(rng, forms).format(_choose(rng, _OF[outer[0]]), _choose(rng, _OF[inner[0]]), name)
    steps = f"{name} {scene.cell_of(name)} ; one {inner[0]} {inner[1]} {inner[2]} ; one {outer[0]} {outer[1]}"
    return Question(
        "nested",
        text,
        scene,
        f"<think> {steps} </think> {outer[2]}",
        Answer("picture", outer[2]),
        ((name, outer[2]),),
    )


def _replace(scene: Scene, rng: np.random.Generator) -> Question | None:
    name = _choose(rng, scene.items)[1]
    found = _step(rng, scene, name, 1)
    victim = _choose(rng, scene.items)[1]
    if found is None or victim in (name, found[2]):
        return None
    direction, cell, there = found
    forms = (
        "this scene with the {victim} replaced by what is {of} the {name}",
        "the same scene but with what is {of} the {name} in place of the {victim}",
        "replace the {victim} with what stands {of} the {name}",
    )
    text = _choose(rng, forms).format(victim=victim, of=_choose(rng, _OF[direction]), name=name)
    place = scene.cell_of(victim)
    edited = scene.replaced(place, there)
    steps = f"{name} {scene.cell_of(name)} ; one {direction} {cell} {there} ; {victim} {place}"
    answer = Answer("scene", edited.description)
    return Question(
        "replace",
        text,
        scene,
        f"<think> {steps} </think> {edited.description}",
        answer,
        ((name, there), (victim, there)),
    )


def _name(scene: Scene, rng: np.random.Generator) -> Question | None:
    cell, name = _choose(rng, scene.items)
    forms = ("what is at {}?", "which picture is at {}?", "name the thing at {}", "what can you see at {}?")
    text = _choose(rng, forms).format(cell)
    return Question("name", text, scene, f"<think> {cell} </think> {name}", Answer("picture", name), ((cell, name),))


def _category(scene: Scene, rng: np.random.Generator) -> Question | None:
    cell, name = _choose(rng, scene.items)
    forms = (
        "what kind of thing is at {}?",
        "which category does the picture at {} belong to?",
        "what sort of thing is at {}?",
    )
    text = _choose(rng, forms).format(cell)
    category = pictures.categories()[name]
    return Question(
        "category",
        text,
        scene,
        f"<think> {cell} {name} </think> {category}",
        Answer("text", category),
        ((cell, name),),
    )


def _ground(scene: Scene, rng: np.random.Generator) -> Question | None:
    cell, name = _choose(rng, scene.items)
    forms = ("where is the {}?", "at which cell is the {}?", "which cell has the {}?")
    text = _choose(rng, forms).format(name)
    return Question("ground", text, scene, f"<think> {name} </think> {cell}", Answer("text", cell), ((cell, name),))


def _describe(scene: Scene, rng: np.random.Generator) -> Question | None:
    text = _choose(rng, ("describe this scene", "what is on the board?", "list everything that you can see"))
    trace = f"<think> scene </think> {scene.description}"
    return Question("describe", text, scene, trace, Answer("text", scene.description), ())


def _find(scene: Scene, rng: np.random.Generator) -> Question | None:
    form = int(rng.integers(3))
    if form == 0:
        text = scene.description
    else:
        items = [f"a {name} at {cell}" if form == 1 else f"{name} at {cell}" for cell, name in scene.items]
        text = ("a scene with " if form == 1 else "the board with ") + ", ".join(items)
    return Question(
        "find",
        text,
        None,
        f"<think> scene </think> {scene.description}",
        Answer("scene", scene.description),
        (),
    )


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "one_step": _one_step,
    "two_step": _two_step,
    "nested": _nested,
    "replace": _replace,
    "name": _name,
    "category": _category,
    "ground": _ground,
    "describe": _describe,
    "find": _find,
    "three_step": _three_step,
}
assert tuple(_MAKERS) == (*KINDS, *UNTRAINED) and len(CELLS) == 16


def allowed(question: Question, split: Split) -> bool:
    """Whether a question may be used in `split`: its pairs and, where it needs steps, its very words.
    Scenes are split by who draws them.
    """
    words = question.kind in SIMPLE or belongs("question", split, question.text)
    return words and all(belongs("pair", split, *pair) for pair in question.pairs)


def make_question(kind: str, scene: Scene, rng: np.random.Generator, split: Split) -> Question | None:
    """A random question of that kind about the scene, or None when the scene has none of that split.

    Raises KeyError for an unknown kind. A question of "test" has a test string (where it needs steps) and
    test pairs; one of "train" has neither; what is half of each is used nowhere.
    """
    for _ in range(MAX_TRIES):
        question = _MAKERS[kind](scene, rng)
        if question is not None and allowed(question, split):
            return question
    return None
