"""`tte train traces | reasoner | embedder | head`, then `tte embed` with what came out; and what can go wrong."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from own_data import make_base, make_data
from PIL import Image

from tte_runtime.cli import main
from tte_runtime.training.base import Base
from tte_runtime.training.examples import read_examples
from tte_runtime.training.recipes import reading, writing
from tte_runtime.training.stages import reasoner as reasoner_stage
from tte_runtime.training.stages.reasoner import train_reasoner
from tte_runtime.training.stages.run import Options

sys.path.append(str(Path(__file__).parents[1] / "systems"))
from fake_endpoint import FakeEndpoint


def tte(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), "qwen2_vl")


@pytest.fixture()
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as running:
        yield running


def test_all_four(base: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", pictures=True, traces=False)
    done = tte("train", "traces", "--base", "tte-tiny", "--data", data, "--out", tmp_path / "traced", "--device", "cpu")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'traced'}\n"), done.stderr
    examples = read_examples(tmp_path / "traced", positives=True)
    assert all(entry.traced for one in examples for entry in one.entries)
    assert "../data/1.png" in {one.raw["query"].get("image") for one in examples}
    small = ("--batch-size", 4, "--mini-batch", 2, "--device", "cpu")
    common = ("--data", tmp_path / "traced", *small)
    adapter = ("--base", tmp_path / "reasoner")
    for stage, more in (
        ("reasoner", ("--base", base, "--lora")),
        ("embedder", ("--base", base)),
        ("head", (*adapter, "--kind", "decoder_layers")),
    ):
        out = tmp_path / stage
        done = tte("train", stage, *common, "--out", out, *more)
        assert (done.exit_code, done.stdout) == (0, f"{out}\n"), done.stderr
        assert f"{stage}: step 1/" in done.stderr
        again = tte("train", stage, *common, "--out", out, *more)
        assert again.stdout == f"{out}\n" and "step" not in again.stderr
    refused = tte("train", "embedder", *adapter, *common, "--out", tmp_path / "twice")
    assert refused.exit_code == 2 and "an adapter is trained on a whole checkpoint" in refused.stderr
    pair = ("--model", tmp_path / "embedder", "--reasoner", tmp_path / "reasoner")
    for how in (pair, ("--model", tmp_path / "head")):
        done = tte("embed", "one two", "--role", "query", *how, "--device", "cpu")
        assert done.exit_code == 0 and len(json.loads(done.stdout)["vector"]) == 128, done.stderr


def test_traces_go_on_and_failures_are_named(tmp_path: Path, endpoint: FakeEndpoint) -> None:
    data = make_data(tmp_path / "data", pictures=True, traces=False)
    words = ("train", "traces", "--base", endpoint.url, "--endpoint-model", "teacher", "--data", data)
    endpoint.script.extend(["good", 400, "good"])
    done = tte(*words, "--out", tmp_path / "traced")
    assert done.exit_code == 1 and done.stdout == f"{tmp_path / 'traced'}\n"
    failures = [json.loads(line) for line in (tmp_path / "traced" / "failures.jsonl").read_text().splitlines()]
    assert (
        len(failures) == 1 and "told to say 400" in failures[0]["error"] and "data.jsonl, line" in failures[0]["item"]
    )
    assert failures[0]["item"] in done.stderr
    asked = len(endpoint.bodies)
    done = tte(*words, "--out", tmp_path / "traced")
    assert done.exit_code == 0, done.stderr
    assert len(endpoint.bodies) == asked + 1, "only what failed is asked for again"
    examples = read_examples(tmp_path / "traced", positives=True)
    assert all(entry.traced for one in examples for entry in one.entries)
    assert (tmp_path / "traced" / "failures.jsonl").read_text() == ""
    only = tte(*words, "--out", tmp_path / "queries", "--role", "query")
    assert only.exit_code == 0
    assert [one.positive and one.positive.traced for one in read_examples(tmp_path / "queries", positives=True)] == [
        False
    ] * len(examples)


def test_what_is_refused_at_the_door(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = make_data(tmp_path / "data", pictures=False)
    where = ("--base", base, "--data", data, "--out", tmp_path / "out")
    (tmp_path / "special.jsonl").write_text(
        (data / "data.jsonl").read_text() + '{"query": {"text": "a", "trace": "so <|im_end|> it"}, "positive": "b"}\n'
    )
    special = ("--base", base, "--data", tmp_path / "special.jsonl", "--out", tmp_path / "out")
    for words, said in (
        (("traces", "--base", "http://x/v1", "--data", data, "--out", "o"), "--base URL and --endpoint-model NAME"),
        (("embedder", *where, "--batch-size", 99), "no batch of 99 examples can be filled"),
        (("embedder", *where, "--negatives", 3), "has 2 negatives, and 3 are asked for"),
        (("embedder", *where, "--batch-size", 2, "--recipe", "ume_r1"), "cannot be trained here. Name another recipe"),
        (("reasoner", *where, "--recipe", "vlm2vec"), "writes no traces"),
        (("reasoner", *special), "line 7, query: the trace contains the special token '<|im_end|>'"),
        (("embedder", *special, "--batch-size", 2), "line 7, query: the trace contains the special token"),
        (
            ("reasoner", *where, "--batch-size", 4, "--mini-batch", 3),
            "a batch of 4 is put together from mini-batches of 3",
        ),
        (("reasoner", *where, "--precision", "int8"), "unknown precision 'int8'"),
        (("reasoner", *where, "--device", "cuda:1"), "unknown device 'cuda:1'. Known: auto, cpu, cuda. CUDA_VISIBLE"),
        (("reasoner", *where, "--device", "cuda"), "torch sees no CUDA device"),
        (("embedder", *where, "--seed", -1), "seed must be in 0..4294967295, got -1"),
        (("embedder", *where, "--epochs", "inf"), "epochs must be > 0 and at most 10000, got inf"),
        (("traces", "--base", "nope", "--data", data, "--out", tmp_path / "out"), "nope"),
        (("head", *where, "--batch-size", 2, "--kind", "qformer", "--size", "num_heads=5"), "num_heads to a divisor."),
        (("head", *where, "--batch-size", 2, "--kind", "pooler"), "unknown head kind 'pooler'"),
        (("head", *where, "--batch-size", 2, "--tap", 9), "the backbone has 3 layers"),
        (("head", *where, "--batch-size", 2, "--size", "num_layers"), "--size must be NAME=N"),
        (("reasoner", "--base", base, "--data", tmp_path / "no", "--out", "o"), "there is no training data at"),
    ):
        done = tte("train", *words)
        assert (done.exit_code, done.stdout) == (2, "") and said in done.stderr, done.stderr
        assert not (tmp_path / "out").exists(), "what is refused leaves nothing behind"


def test_items_that_cannot_be_fed_are_named_before_the_first_step(base: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", pictures=True)
    good = (data / "data.jsonl").read_text()
    whole = Image.open(data / "1.png")
    whole.resize((40, 9000)).save(data / "slender.png")
    (data / "cut.png").write_bytes((data / "1.png").read_bytes()[:-40])
    (data / "none.png").write_bytes(b"no picture")
    inline = "data:image/png;base64," + base64.b64encode(b"none").decode()
    out = tmp_path / "out"
    for item, said in (
        ({"text": "word " * 5000}, "and the model takes 512. Shorten it"),
        ({"text": "a", "trace": "word " * 5000}, "and the model takes 512. Shorten it"),
        ({"text": "a", "images": ["1.png"] * 3000}, "and the model takes 512. Shorten it"),
        ({"image": "slender.png"}, "a picture of 40 x 9000 pixels cannot be used"),
        ({"image": "cut.png"}, "' cannot be read: Truncated"),
        ({"image": "none.png"}, "' cannot be read"),
        ({"image": inline}, "cannot be read"),
    ):
        line = {"query": {"trace": "so", **item}, "positive": "b", "negatives": ["c", "d"]}
        (data / "data.jsonl").write_text(good + json.dumps(line) + "\n")
        for stage in ("reasoner", "embedder"):
            words = ("--base", base, "--data", data, "--out", out, "--batch-size", 2, "--mini-batch", 2)
            done = tte("train", stage, *words, "--device", "cpu")
            assert (done.exit_code, done.stdout) == (2, "") and "data.jsonl, line 7, query" in done.stderr, done.stderr
            assert said in done.stderr and not out.exists()


def test_what_is_counted_beforehand_is_what_is_fed(base: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", pictures=True)
    loaded = Base.load(str(base), device="cpu", precision="float32")
    for recipe in (writing(base, None), reading(base, None), reading(base, "last_token"), reading(base, "vlm2vec")):
        feeder = loaded.feeder(recipe)
        for entry in (entry for one in read_examples(data, positives=True) for entry in one.entries):
            assert feeder._length(entry, False) == len(feeder.embedded(entry).ids)
            if entry.traced and recipe.stop:
                assert feeder._length(entry, True) == len(feeder.written(entry).ids)


def test_a_run_that_diverges_is_no_result(base: Path, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", pictures=False), tmp_path / "out"
    far = ("--batch-size", 2, "--mini-batch", 2, "--learning-rate", 1e30, "--save-every", 1, "--device", "cpu")
    done = tte("train", "embedder", "--base", base, "--data", data, "--out", out, *far)
    assert (done.exit_code, done.stdout) == (2, "") and "lower learning rate, in another folder" in done.stderr
    assert sorted(one.name for one in out.iterdir()) == ["run", "training.json"]


def test_an_interrupted_run_goes_on(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data", pictures=True)
    options = Options(epochs=2, batch_size=4, mini_batch=2, learning_rate=1e-3, save_every=2, device="cpu", lora=(4, 8))
    whole = train_reasoner(str(base), data, tmp_path / "whole", options=options)
    order, fed = reasoner_stage.shuffled, []

    def stops(count: int, seed: int, index: int) -> int:
        if index >= 16 and not fed:
            fed.append(index)
            raise KeyboardInterrupt
        return order(count, seed, index)

    monkeypatch.setattr(reasoner_stage, "shuffled", stops)
    with pytest.raises(KeyboardInterrupt):
        train_reasoner(str(base), data, tmp_path / "parts", options=options)
    kept = sorted((tmp_path / "parts" / "run").glob("checkpoint-*/model.safetensors"))
    assert kept and kept[-1].stat().st_size < (base / "model.safetensors").stat().st_size / 2, "only what is trained"
    parts = train_reasoner(str(base), data, tmp_path / "parts", options=options)
    same = [(folder / "adapter_model.safetensors").read_bytes() for folder in (whole, parts)]
    assert same[0] == same[1] and not (parts / "run").exists()
