"""Prompt token ids of every recipe, role and medium against the strings that the authors' code makes.

Strings are written out here and in recipe_authors.py, with their sources.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_authors import CHAT, IMAGE, PAD, SYSTEM, UME

from tte_runtime.engine.request import EngineRequest
from tte_runtime.errors import InputError
from tte_runtime.inputs.items import parse_item
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.models.checkpoint import Checkpoint, read_config
from tte_runtime.recipes.registry import RECIPES
from tte_runtime.types import Think

PLACES = {
    "ume_r1": ("ume", "qwen2_vl", "<gen_emb>", "<disc_emb>"),
    "ume_r1_disc": ("ume", "qwen2_vl", "<gen_emb>", "<disc_emb>"),
    "rge": ("rge", "qwen2_5_vl", "<emb>"),
    "qwen3_vl_embedding": ("Qwen3-VL-Embedding-2B", "qwen3_vl"),
}
PLAIN = ("plain", "qwen2_vl")


@pytest.fixture(scope="module")
def render(checkpoints: Callable[..., Path]) -> Callable[..., tuple[EngineRequest, PromptRenderer]]:
    """(recipe, item, role, think) to the request, and the renderer that made it."""
    made: dict[str, PromptRenderer] = {}

    def run(name: str, item: Any, role: Any = "query", think: Think | None = None) -> Any:
        if name not in made:
            folder = checkpoints(*PLACES.get(name, PLAIN))
            made[name] = PromptRenderer(folder, RECIPES[name].make(), read_config(Checkpoint.of(folder)))
        request = made[name].render(
            parse_item(item), role, think, priority="interactive", normalize=True, arrival=time.perf_counter()
        )
        return request, made[name]

    return run


PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 100, 3), dtype=np.uint8))
ONE, TWO = {"image": PICTURE}, {"images": [PICTURE, PICTURE.rotate(90)]}
ASKED = "Represent the given image with the following question:"
CASES: list[tuple[str, Any, str]] = [
    # VLM2Vec: process_input_text in src/model/processor.py, and experiments/examples/qwen2vl/demo_v2_image.py.
    ("vlm2vec", "A cat and a dog", "A cat and a dog"),
    ("vlm2vec", {"text": "a cat", "instruction": "Find it:"}, "Find it: a cat"),
    ("vlm2vec", ONE | {"text": "What is in the image", "instruction": ASKED}, f"{PAD} {ASKED} What is in the image"),
    ("vlm2vec", ONE | {"text": f"{ASKED} what"}, f"{PAD} {ASKED} what"),
    ("vlm2vec", ONE | {"instruction": "Understand it."}, f"{PAD} Understand it."),
    ("vlm2vec", ONE, PAD),
    ("vlm2vec", TWO | {"text": "both"}, f"{PAD} {PAD} both"),
    # GME: `msg` in gme_inference.py.
    ("gme", "a cat", SYSTEM % ("You are a helpful assistant.", "a cat") + "<|endoftext|>"),
    ("gme", {"text": "a", "instruction": "Find it"}, SYSTEM % ("Find it", "a") + "<|endoftext|>"),
    ("gme", ONE | {"text": " a"}, SYSTEM % ("You are a helpful assistant.", IMAGE + " a") + "<|endoftext|>"),
    ("gme", ONE, SYSTEM % ("You are a helpful assistant.", IMAGE) + "<|endoftext|>"),
    # Qwen3-VL-Embedding: format_model_input in scripts/qwen3_vl_embedding.py.
    ("qwen3_vl_embedding", "a cat", SYSTEM % ("Represent the user's input.", "a cat")),
    ("qwen3_vl_embedding", ONE, SYSTEM % ("Represent the user's input.", IMAGE)),
    ("qwen3_vl_embedding", TWO | {"text": "x"}, SYSTEM % ("Represent the user's input.", IMAGE * 2 + "x")),
    ("qwen3_vl_embedding", {"text": "x", "instruction": " Find it "}, SYSTEM % ("Find it.", "x")),
    ("qwen3_vl_embedding", {"text": "x", "instruction": "Find it?"}, SYSTEM % ("Find it?", "x")),
    (
        "qwen3_vl_embedding",
        {"text": "x", "instruction": "\u627e\u5230\u5b83\u3002"},
        SYSTEM % ("\u627e\u5230\u5b83\u3002", "x"),
    ),
    ("qwen3_vl_embedding", {"text": "x", "instruction": ""}, SYSTEM % ("Represent the user's input.", "x")),
    # UME-R1: MultimodalEvalDataCollator; beside a picture the text is stripped, without one it gets a blank picture.
    ("ume_r1", ONE | {"text": " What is it?\n"}, CHAT % f"{IMAGE}What is it?\n<disc_emb>\n{UME}"),
    ("ume_r1", "a caption\n", CHAT % f"{IMAGE}a caption\n\n<disc_emb>\n{UME}"),
    ("ume_r1", {"text": "who", "instruction": ASKED}, CHAT % f"{IMAGE}{ASKED} who\n<disc_emb>\n{UME}"),
    ("ume_r1", TWO, CHAT % f"{IMAGE}{IMAGE}\n<disc_emb>\n{UME}"),
    # Its README, "Example of obtaining discriminative embeddings".
    ("ume_r1_disc", ONE | {"text": "What?"}, CHAT % f"{IMAGE}What?\n<disc_emb>\n"),
    ("ume_r1_disc", "a caption", CHAT % f"{IMAGE}a caption\n<disc_emb>\n"),
    # TTE (arXiv 2510.05014) publishes no prompt; this one is pinned in recipes/tte.py.
    ("tte_s", ONE | {"text": "which?", "instruction": "Answer."}, CHAT % f"{IMAGE}Answer. which?"),
    ("tte_t", "a", CHAT % "a"),
    ("reasoner", "a", CHAT % "a"),
    ("tte_u", ONE, CHAT % IMAGE),
    ("last_token", ONE | {"text": "a"}, IMAGE + "a"),
]


def expanded(text: str, request: EngineRequest) -> str:
    """`text` with every placeholder repeated as the processor would."""
    parts = text.split(PAD)
    assert len(parts) == len(request.media) + 1
    runs = [PAD * span.length for span in request.media]
    return "".join(part + run for part, run in zip(parts, [*runs, ""], strict=True))


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize(("name", "item", "expected"), CASES)
def test_prompts(render: Any, name: str, item: Any, expected: str, role: str) -> None:
    think = Think(max_tokens=5) if RECIPES[name].make().stop else None
    request, renderer = render(name, item, role, think)
    assert renderer.tokenizer.decode(request.prompt_ids) == expanded(expected, request)
    assert list(request.prompt_ids) == renderer.tokenizer.encode(expanded(expected, request))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        # VLM_VIDEO_TOKENS in VLM2Vec's src/model/processor.py; the chat template of Qwen2-VL for UME-R1.
        ("vlm2vec", "", " what is done?"),
        ("ume_r1_disc", CHAT.split("%s")[0] + "<|vision_start|>", "<|vision_end|>what is done?"),
    ],
)
def test_videos(render: Any, name: str, before: str, after: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 56, 56, 3), dtype=np.uint8)
    request, renderer = render(name, {"video": frames, "fps": 2.0, "text": "what is done?"})
    text = renderer.tokenizer.decode(request.prompt_ids)
    (span,) = request.media
    assert span.length == 8  # two temporal patches of four tokens
    assert text.startswith(before + "<|video_pad|>" * 8 + after)
    if name == "vlm2vec":
        assert torch.equal(request.positions, torch.arange(len(request.prompt_ids)).expand(3, -1))


@pytest.mark.parametrize("text", ["A cat.", "A cat.\n"])
@pytest.mark.parametrize("with_picture", [False, True])
def test_rge_thinks_on_queries_and_not_on_documents(render: Any, text: str, with_picture: bool) -> None:
    """inference.py (media, a space, text), src/dataset.py (ensure_trailing_newline), src/collator.py (+ "<emb>")."""
    item = ONE | {"text": text} if with_picture else text
    prompt = CHAT % ((IMAGE + " " if with_picture else "") + "A cat.\n")
    query, renderer = render("rge", item, "query", Think())
    document, _ = render("rge", item, "document", None)
    encode = renderer.tokenizer.encode
    emb = renderer.tokenizer.convert_tokens_to_ids("<emb>")
    assert list(query.prompt_ids) == encode(expanded(prompt, query))
    assert list(document.prompt_ids) == encode(expanded(prompt + "<emb>", document))
    assert (query.max_trace_tokens, query.stop_ids, query.close_ids) == (128, {emb}, (emb,))
    assert (document.max_trace_tokens, document.suffix_ids, document.readout.kind) == (0, (), "last")
    at_once, _ = render("rge", item, "query", None)
    assert at_once.prompt_ids == document.prompt_ids


def test_ume_r1_is_read_at_its_markers(render: Any) -> None:
    item = ONE | {"text": "What?"}
    request, renderer = render("ume_r1", item, "document", Think())
    token = renderer.tokenizer.convert_tokens_to_ids
    gen, disc = token("<gen_emb>"), token("<disc_emb>")
    assert (request.readout.kind, request.readout.marker_id) == ("generated_marker", gen)
    assert request.stop_ids == {token("<|im_end|>"), token("<|endoftext|>")} and request.close_ids == (gen,)
    assert request.max_trace_tokens == 8192  # max_new_tokens of the README
    assert gen in request.prompt_ids  # the task names it, and that one is not read
    at_once, _ = render("ume_r1", item, "query", None)
    assert at_once.prompt_ids == (*request.prompt_ids, gen) and at_once.readout.kind == "last"
    plain, _ = render("ume_r1_disc", item, "query", None)
    assert plain.readout.kind == "marker" and plain.prompt_ids[plain.readout.position] == disc
    assert plain.prompt_ids.count(disc) == 1 and gen not in plain.prompt_ids


def test_a_blank_picture_is_white_and_of_four_tokens(render: Any) -> None:
    request, renderer = render("ume_r1", "only words", "query", Think())
    (span,) = request.media
    assert span.length == 4  # 56 x 56 pixels
    one = renderer.media.pictures.read(Image.new("RGB", (28, 28), (255, 255, 255)).resize((56, 56)))
    assert torch.equal(span.handle.pixels, one.pixels)


def test_positions_of_pictures(render: Any) -> None:
    """VLM2Vec's own get_rope_index finds no picture without <|vision_start|>, so its placeholders count like words."""
    request, _ = render("vlm2vec", ONE | {"text": "a"})
    assert torch.equal(request.positions, torch.arange(len(request.prompt_ids)).expand(3, -1))
    assert request.position_delta == 0
    request, _ = render("gme", ONE | {"text": "a"})
    assert request.position_delta < 0


def test_limits_of_pixels_are_the_recipes(render: Any) -> None:
    """GME: min_image_tokens=4, max_image_tokens=1280. Qwen3-VL-Embedding: 4 and 1,800. The others: the checkpoint's."""
    large = {"image": Image.new("RGB", (1400, 1120))}
    tokens = {name: render(name, large)[0].media[0].length for name in ("gme", "qwen3_vl_embedding", "vlm2vec")}
    assert 1200 < tokens["gme"] <= 1280
    assert 1500 < tokens["qwen3_vl_embedding"] <= 1800
    assert tokens["vlm2vec"] <= 112 * 112 // 28**2
    small = {"image": Image.new("RGB", (9, 9))}
    assert render("gme", small)[0].media[0].length == 4


@pytest.mark.parametrize("name", ["rge", "last_token"])
def test_an_instruction_without_a_place(render: Any, name: str) -> None:
    with pytest.raises(InputError, match="no place for an instruction"):
        render(name, {"text": "a", "instruction": "Find it."})
    render(name, {"text": "a", "instruction": ""})


@pytest.mark.parametrize("name", ["gme", "ume_r1"])
def test_special_tokens_in_an_instruction(render: Any, name: str) -> None:
    with pytest.raises(InputError, match="the instruction contains the special token"):
        render(name, {"text": "a", "instruction": "Find it.<|im_end|>"})
