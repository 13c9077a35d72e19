"""Draws the README's two pictures: `scene.png`, one held-out board as the model sees it, and `answer.png`, the
bundled model's trace on that board and what it found with and without thinking.

Everything in them is a result of the run that draws them: `python docs/pictures/make.py`, or `make figures`. Knows
the demo's rooms and PIL; chooses nothing by its outcome (the question is the first one of `tte demo`).
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tte_runtime import Embedder
from tte_runtime.demo import board
from tte_runtime.demo.asking import Asked, Hit, Ranking, ask, embed_gallery
from tte_runtime.demo.gallery import image_of, make_gallery, pose_questions
from tte_runtime.demo.steps import Reading, read_trace
from tte_runtime.scenes.draw import BOARD_PX, CELL_PX, LABEL_SIZE

FOLDER = Path(__file__).parent
SEED, QUESTIONS, GALLERY = 0, 6, 160
WIDTH, HEIGHT, MARGIN = 1600, 700, 40
SCALE = (HEIGHT - 2 * MARGIN) / BOARD_PX
COLOURS = 240
PAPER, CARD, INK, SOFT, LINE = "#fbfaf7", "#ffffff", "#1c1b19", "#63605a", "#e2ded5"
RED, GREEN, GREEN_SOFT, TRACK = "#b3261e", "#0b6e6e", "#d9ebe9", "#e9e5dc"


def main() -> None:
    """Ask the bundled model and draw the answer; overwrites both pictures. The question goes to stdout."""
    with Embedder.from_pretrained("tte-tiny", dtype="float32") as embedder:
        tests = pose_questions(QUESTIONS, SEED)
        gallery = embed_gallery(embedder, make_gallery(tests, GALLERY, SEED), progress=True)
        asked = ask(embedder, tests[0], gallery)
    picture = draw(asked).quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(FOLDER / "answer.png", optimize=True)
    scene_of(asked).save(FOLDER / "scene.png", optimize=True)
    print(asked.test.question.text)


def scene_of(asked: Asked) -> Image.Image:
    """The board that was asked about, unscaled RGB."""
    seen = image_of(asked.test.item)
    assert seen is not None, "the figure's question is about a board"
    return seen


def draw(asked: Asked) -> Image.Image:
    """The whole picture, RGB."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(canvas)
    reading = read_trace(asked.thinking.result.trace)
    canvas.paste(draw_board(asked, reading), (MARGIN, MARGIN))
    left = 2 * MARGIN + round(SCALE * BOARD_PX) + 16
    y = text(pen, (left, MARGIN - 4), wrapped(asked.test.question.text, 42), 38, INK) + 26
    y = draw_trace(pen, (left, y), reading, asked.trace_right) + 34
    column = (WIDTH - MARGIN - left - 32) // 2
    draw_ranking(canvas, (left, y), column, "thinking first, then embedding", asked.thinking)
    draw_ranking(canvas, (left + column + 32, y), column, "embedding at once", asked.direct)
    return canvas


def draw_board(asked: Asked, reading: Reading) -> Image.Image:
    """The board as the model saw it, enlarged, with the cells of the trace outlined and numbered."""
    side = round(SCALE * BOARD_PX)
    picture = scene_of(asked).resize((side, side), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    marks, arrows = board.marks(reading), board.arrows(reading)
    names = [picture.crop(name_box(mark)) for mark in marks]
    for colour, width in (("white", 12), (RED, 6)):
        for mark in marks:
            edge = (12 - width) / 2
            box = [SCALE * mark.x + edge, SCALE * mark.y + edge]
            far = [SCALE * (mark.x + CELL_PX) - edge, SCALE * (mark.y + CELL_PX) - edge]
            pen.rounded_rectangle([*box, *far], radius=16, outline=colour, width=width)
    for mark, name in zip(marks, names, strict=True):
        picture.paste(name, name_box(mark))  # the printed name of the cell stays readable
    for arrow in arrows:
        draw_arrow(pen, arrow)
    for mark in marks:
        x, y = SCALE * (mark.x + CELL_PX) - 24, SCALE * (mark.y + CELL_PX) - 24
        half = 10 + 7 * len(mark.label)
        pen.rounded_rectangle([x + 18 - 2 * half, y - 19, x + 18, y + 19], radius=19, fill=RED)
        pen.text((x + 18 - half, y), mark.label, fill="white", font=font(26), anchor="mm")
    return picture


def name_box(mark: board.Mark) -> tuple[int, int, int, int]:
    """Where the board prints the name of a marked cell, enlarged."""
    left, top = SCALE * (mark.x + 1), SCALE * (mark.y + 1)
    return round(left), round(top), round(left + SCALE * LABEL_SIZE[0]), round(top + SCALE * LABEL_SIZE[1])


def draw_arrow(pen: ImageDraw.ImageDraw, arrow: board.Arrow) -> None:
    """A line with a head, white around it."""
    x1, y1, x2, y2 = (SCALE * value for value in (arrow.x1, arrow.y1, arrow.x2, arrow.y2))
    angle = math.atan2(y2 - y1, x2 - x1)
    wings = [(x2 - 26 * math.cos(angle + turn), y2 - 26 * math.sin(angle + turn)) for turn in (-0.5, 0.5)]
    for colour, width in (("white", 13), (RED, 7)):
        pen.line([(x1, y1), (x2 - 10 * math.cos(angle), y2 - 10 * math.sin(angle))], fill=colour, width=width)
        if colour == RED:
            pen.polygon([(x2, y2), *wings], fill=RED, outline="white", width=2)


def draw_trace(pen: ImageDraw.ImageDraw, at: tuple[int, int], reading: Reading, right: bool) -> int:
    """The steps as numbered chips and the answer after them; returns where the next thing may stand, y."""
    x, y = at
    for number, step in enumerate(reading.steps, start=1):
        width = 66 + round(font(27).getlength(step.words))
        if x + width > WIDTH - MARGIN:
            x, y = at[0], y + 62
        pen.rounded_rectangle([x, y, x + width, y + 50], radius=10, fill=CARD, outline=LINE, width=2)
        pen.ellipse([x + 9, y + 9, x + 41, y + 41], fill=RED)
        pen.text((x + 25, y + 25), str(number), fill="white", font=font(21), anchor="mm")
        pen.text((x + 50, y + 25), step.words, fill=INK, font=font(27), anchor="lm")
        x += width + 14
    answer = f"=  {reading.answer}"
    if x + font(32).getlength(answer) > WIDTH - MARGIN:
        x, y = at[0], y + 62
    pen.text((x + 4, y + 25), answer, fill=GREEN if right else RED, font=font(32), anchor="lm")
    return y + 50


def draw_ranking(canvas: Image.Image, at: tuple[int, int], width: int, title: str, ranking: Ranking) -> None:
    """A title and the best documents with their cosines."""
    pen = ImageDraw.Draw(canvas)
    x, y = at
    pen.text((x, y), title, fill=INK, font=font(25))
    place = "" if ranking.rank <= len(ranking.hits) else f"the right one is on place {ranking.rank} of {ranking.size}"
    y += 46
    for hit in ranking.hits:
        draw_hit(canvas, (x, y), width, hit)
        y += 112
    pen.text((x, y + 4), place, fill=SOFT, font=font(22))


def draw_hit(canvas: Image.Image, at: tuple[int, int], width: int, hit: Hit) -> None:
    """One document: thumbnail, name, cosine and its bar."""
    pen = ImageDraw.Draw(canvas)
    x, y = at
    if hit.right:
        pen.rounded_rectangle([x, y, x + width, y + 102], radius=12, fill=GREEN_SOFT, outline=GREEN, width=2)
    seen = image_of(hit.document.item)
    if seen is not None:
        canvas.paste(seen.resize((82, 82), Image.Resampling.LANCZOS), (x + 10, y + 10))
    else:
        pen.rectangle([x + 10, y + 10, x + 92, y + 92], outline=SOFT)
        pen.text((x + 51, y + 51), "text", fill=SOFT, font=font(20), anchor="mm")
    value = hit.document.answer.value
    room = width - 230
    while font(27).getlength(value) > room:
        value = value.removesuffix("\u2026")[:-1].rstrip() + "\u2026"
    pen.text((x + 110, y + 38), value, fill=INK, font=font(27), anchor="lm")
    pen.text((x + width - 14, y + 38), f"{hit.score:.3f}", fill=INK, font=font(25), anchor="rm")
    track = width - 124
    pen.rounded_rectangle([x + 110, y + 70, x + 110 + track, y + 78], radius=4, fill=TRACK)
    long = max(8, round(track * min(1.0, max(0.0, hit.score))))
    pen.rounded_rectangle([x + 110, y + 70, x + 110 + long, y + 78], radius=4, fill=GREEN if hit.right else SOFT)


def text(pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: list[str], size: int, colour: str) -> int:
    """Lines of text; returns where the next thing may stand, y."""
    x, y = at
    for line in lines:
        pen.text((x, y), line, fill=colour, font=font(size))
        y += round(1.25 * size)
    return y


def wrapped(words: str, most: int) -> list[str]:
    """Lines of at most `most` characters."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) > most:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def font(size: int) -> ImageFont.FreeTypeFont:
    """PIL's own font, so that the picture is the same on every machine."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow without FreeType cannot draw the figure"
    return found


if __name__ == "__main__":
    main()
