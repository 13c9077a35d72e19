"""The world's plain facts: cells and moves, pictures and their licence, drawing as a pure function of the
seed.
"""

from __future__ import annotations

import numpy as np
import pytest

from tte_runtime.scenes import pictures
from tte_runtime.scenes.draw import draw_picture, draw_scene
from tte_runtime.scenes.world import CELLS, DIRECTIONS, Scene, move, sample_scene


def test_there_are_many_pictures_each_with_a_file_a_one_word_name_and_a_category() -> None:
    assert len(pictures.names()) >= 60
    assert {file.stem for file in pictures.FOLDER.glob("*.png")} == set(pictures.names())
    assert all(name.isalpha() and name.islower() for name in pictures.names())
    assert 8 <= len(set(pictures.categories().values())) <= 12
    assert "CC-BY 4.0" in (pictures.FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")


def test_an_unknown_picture_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="quokka"):
        pictures.picture("quokka")


@pytest.mark.parametrize("cell", CELLS)
def test_moves_invert_and_stop_at_the_edge(cell: str) -> None:
    back = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for direction in DIRECTIONS:
        for count in (1, 2, 3):
            there = move(cell, direction, count)
            assert there is None or move(there, back[direction], count) == cell
    assert sum(move(cell, "right", count) is not None for count in (1, 2, 3)) == 4 - int(cell[1])
    assert sum(move(cell, "down", count) is not None for count in (1, 2, 3)) == 3 - "abcd".index(cell[0])


def test_a_scene_survives_its_description() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = sample_scene(rng)
        assert Scene.parse(scene.description) == scene
        assert 5 <= len(scene.items) <= 9
        assert len({name for _, name in scene.items}) == len(scene.items)


def test_drawing_is_a_pure_function_of_the_seed_and_varies_with_it() -> None:
    scene = sample_scene(np.random.default_rng(1))
    first, again, other = (np.asarray(draw_scene(scene, np.random.default_rng(seed))) for seed in (5, 5, 6))
    assert first.shape == (224, 224, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_edit_changes_its_own_cell_only() -> None:
    scene = Scene.parse("a1 cat b3 car d4 pizza")
    before = np.asarray(draw_scene(scene, np.random.default_rng(3)))
    after = np.asarray(draw_scene(scene.replaced("b3", "dog"), np.random.default_rng(3)))
    rows, columns = np.nonzero((before != after).any(axis=2))
    assert len(rows) > 0
    assert set(rows // 56) == {1} and set(columns // 56) == {2}


@pytest.mark.parametrize("side", [56, 57, 112, 223, 224])
def test_a_single_picture_comes_at_the_size_asked_for(side: int) -> None:
    image = draw_picture("owl", side, np.random.default_rng(0))
    assert image.size == (side, side) and image.mode == "RGB"
