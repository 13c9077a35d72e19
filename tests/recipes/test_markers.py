"""Markers that a model really writes: UME-R1's `<gen_emb>` and RGE's `<emb>` against the authors' code.

Random weights never write a marker, so rows of lm_head are exchanged until the tokens wanted come at the steps wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_authors import CHAT, IMAGE, UME, Plain
from recipe_checkpoints import build, load
from safetensors.torch import load_file, save_file

from tte_runtime import Embedder, Think
from tte_runtime.errors import IndexFileError
from tte_runtime.index import Index, build_index

CLOSE = 1e-5  # fp32 against fp32; elementwise, of unit vectors
GEN, END = "<gen_emb>", "<|im_end|>"


def make_it_write(folder: Path, plain: Plain, inputs: Mapping[str, torch.Tensor], plan: list[tuple[str, int]]) -> int:
    """Let greedy decoding write each token of `plan` at its step, or at the next where something new comes.

    Of two exchanged rows of lm_head, one is the wanted token's, the other that of the id that came there for the first
    time, so nothing changes before. The checkpoint's file is changed alike. Returns the step of the last token.
    """
    wanted = [plain.tokenizer.convert_tokens_to_ids(token) for token, _ in plan]
    weight, at = plain.model.lm_head.weight.data, -1
    for (_, step), token in zip(plan, wanted, strict=True):
        ids = plain.generate(dict(inputs), step + 12).sequences[0, inputs["input_ids"].shape[1] :].tolist()
        at = next(j for j in range(step, len(ids)) if ids[j] not in ids[:j] and ids[j] not in wanted)
        swap = torch.tensor([token, ids[at]])
        weight[swap] = weight[swap.flip(0)]
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": weight.clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    return at


SCENARIOS: dict[str, tuple[list[tuple[str, int]], int | None]] = {
    # how the vector comes about: what is written and when, and the budget (None: it ends with the last token planned)
    "at one marker": ([(GEN, 4), (END, 9)], 24),
    "at the last of several": ([(GEN, 4)], 24),
    "forced": ([], 7),
    "at the budget": ([(GEN, 5)], None),
    "after the stop": ([(END, 3), (GEN, 6)], 24),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ume_r1(tmp_path: Path, pictures: list[Image.Image], scenario: str) -> None:
    blank = Image.new("RGB", (56, 56), (255, 255, 255))
    cases = [
        ({"image": pictures[0], "text": "what is it?"}, f"{IMAGE}what is it?", [pictures[0]]),
        ("some caption", f"{IMAGE}some caption", [blank]),
        ({"images": pictures}, IMAGE * 2, pictures),
    ]
    prompts = [CHAT % f"{shown}\n<disc_emb>\n{UME}" for _, shown, _ in cases]
    plan, budget = SCENARIOS[scenario]
    for seed in (4, *range(12)):  # what random weights write besides the plan is luck; with 4, several markers
        folder = build(tmp_path / str(seed), "qwen2_vl", (GEN, "<disc_emb>"), seed=seed)
        plain = Plain(load(folder), folder)
        step = make_it_write(folder, plain, plain.inputs(prompts[0], cases[0][2]), plan)
        limit = step + 1 if budget is None else budget
        if plain.gen_emb(prompts[0], cases[0][2], limit)[2] == scenario:
            break
    else:
        pytest.fail("no seed does what is planned")
    # The 7B's own defaults; greedy decoding must not hear of them.
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 5.0}))
    with Embedder.from_pretrained(folder, max_prefill_tokens=200) as embedder:
        assert embedder.recipe.name == "ume_r1"
        for _ in range(2):  # the second time, prompts come out of the cache
            results = embedder.embed([item for item, _, _ in cases], role="query", think=Think(max_tokens=limit))
            for result, prompt, (_, _, images) in zip(results, prompts, cases, strict=True):
                vector, ids, how = plain.gen_emb(prompt, images, limit)
                assert list(result.trace_ids) == ids
                assert np.abs(result.vector - vector).max() < CLOSE
                assert (result.finish_reason, result.forced_by, result.counts.suffix) == ending(how, ids, plain)


def ending(how: str, ids: list[int], plain: Plain) -> tuple[str, str | None, int]:
    """How a trace ended: (finish_reason, forced_by, tokens that were forced)."""
    stopped = ids[-1] == plain.tokenizer.convert_tokens_to_ids(END)
    if how == "after the stop":
        return "forced", "no_marker", 1
    if how == "forced":
        return "forced", "max_tokens", 1
    return ("stop", None, 0) if stopped else ("forced", "max_tokens", 0)


def test_ume_r1_without_thinking(checkpoints: Callable[..., Path], pictures: list[Image.Image]) -> None:
    """At once, the marker is fed after the assistant's header: a vector of the generative space all the same."""
    folder = checkpoints("ume", "qwen2_vl", GEN, "<disc_emb>")
    plain = Plain(load(folder), folder)
    prompt = CHAT % f"{IMAGE}who?\n<disc_emb>\n{UME}"
    with Embedder.from_pretrained(folder) as embedder:
        result = embedder.embed({"image": pictures[1], "text": "who?"}, role="document", think=False)
    assert (result.finish_reason, result.trace_ids) == ("no_trace", ())
    assert np.abs(result.vector - plain.last_token(prompt + GEN, [pictures[1]])).max() < CLOSE


def test_ume_r1_disc(checkpoints: Callable[..., Path], pictures: list[Image.Image]) -> None:
    folder = checkpoints("ume", "qwen2_vl", GEN, "<disc_emb>")
    plain = Plain(load(folder), folder)
    with Embedder.from_pretrained(folder, recipe="ume_r1_disc", max_prefill_tokens=64) as embedder:
        for _ in range(2):
            vectors = embedder.encode([{"image": pictures[0], "text": "what?"}, {"images": pictures}])
            for vector, text, images in zip(vectors, ("what?", ""), (pictures[:1], pictures), strict=True):
                prompt = CHAT % f"{IMAGE * len(images)}{text}\n<disc_emb>\n"
                assert np.abs(vector - plain.at(prompt, images, "<disc_emb>")).max() < CLOSE


@pytest.mark.parametrize("spare", [12, 1, 0])
def test_rge(tmp_path: Path, pictures: list[Image.Image], spare: int) -> None:
    """`<emb>` is written within the budget, as its last token, and not in time."""
    folder = build(tmp_path / "rge", "qwen2_5_vl", ["<emb>"])
    plain = Plain(load(folder), folder)
    item, prompt = {"image": pictures[0], "text": "What is it?"}, CHAT % f"{IMAGE} What is it?\n"
    budget = make_it_write(folder, plain, plain.inputs(prompt, pictures[:1]), [("<emb>", 6)]) + spare
    with Embedder.from_pretrained(folder, max_prefill_tokens=64) as embedder:
        assert embedder.recipe.name == "rge"
        query = embedder.embed(item, role="query", think=Think(max_tokens=budget))
        vector, ids = plain.emb(prompt, pictures[:1], budget)
        assert list(query.trace_ids) == ids
        assert np.abs(query.vector - vector).max() < CLOSE
        assert query.finish_reason == ("stop" if spare else "forced")
        document = embedder.embed(item, role="document")
        assert (document.finish_reason, document.counts.trace) == ("no_trace", 0)
        assert np.abs(document.vector - plain.at(prompt + "<emb>", pictures[:1], "<emb>")).max() < CLOSE


@pytest.fixture(scope="module")
def folder_of_texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(f"the text {name}")
    yield folder


def test_generative_and_discriminative_vectors_never_meet(
    checkpoints: Callable[..., Path], folder_of_texts: Path, tmp_path: Path
) -> None:
    folder = checkpoints("ume", "qwen2_vl", GEN, "<disc_emb>")
    with Embedder.from_pretrained(folder) as gen, Embedder.from_pretrained(folder, recipe="ume_r1_disc") as disc:
        assert gen.fingerprint != disc.fingerprint
        build_index(gen, folder_of_texts, tmp_path / "index", model="ume", max_trace_tokens=4)
        with pytest.raises(IndexFileError, match="weights, recipe"):
            Index.open(tmp_path / "index").check_fingerprint(disc.fingerprint, "ume")
        with pytest.raises(IndexFileError, match="weights, recipe"):
            build_index(disc, folder_of_texts, tmp_path / "index", model="ume")


def test_a_given_trace_is_read_at_its_marker(checkpoints: Callable[..., Path], pictures: list[Image.Image]) -> None:
    """Ids that were written before, or by hand: the last marker of the trace, or the one that is forced."""
    folder = checkpoints("ume", "qwen2_vl", GEN, "<disc_emb>")
    plain = Plain(load(folder), folder)
    gen, end = plain.tokenizer.convert_tokens_to_ids([GEN, END])
    thought = plain.tokenizer.encode("so it is a cat")
    item, prompt = {"image": pictures[0], "text": "what?"}, CHAT % f"{IMAGE}what?\n<disc_emb>\n{UME}"
    with Embedder.from_pretrained(folder) as embedder:
        for trace, read in (
            ([gen, *thought, gen, end], [gen, *thought, gen]),
            ([*thought, gen, *thought], [*thought, gen]),
            ([*thought, end], [*thought, end, gen]),
            (thought, [*thought, gen]),
        ):
            result = embedder.embed(item | {"trace": trace}, role="query")
            with torch.inference_mode():
                state = plain.encode(plain.inputs(prompt, pictures[:1]), read)[0, -1]
            expected = torch.nn.functional.normalize(state, dim=-1).numpy()
            assert np.abs(result.vector - expected).max() < CLOSE
            assert result.counts.suffix == (read[-1] == gen and trace.count(gen) == 0)
