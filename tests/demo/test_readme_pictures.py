"""The README's pictures as they lie in docs/: there, small, and drawn from the demo's first question."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageChops

from tte_runtime.demo.gallery import image_of, pose_questions

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
MAX_BYTES = 150_000


def test_the_figure_is_small() -> None:
    figure = FOLDER / "answer.png"
    assert figure.stat().st_size < MAX_BYTES
    with Image.open(figure) as picture:
        assert picture.size == (1600, 700)


def test_the_scene_is_the_first_question_of_the_demo() -> None:
    drawn = image_of(pose_questions(6, seed=0)[0].item)
    with Image.open(FOLDER / "scene.png") as picture:
        assert drawn is not None and ImageChops.difference(picture.convert("RGB"), drawn).getbbox() is None
