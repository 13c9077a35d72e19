"""Training data: what a line may say, what is wrong with it in words, and batches without false negatives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_data import make_data

from tte_runtime.errors import DatasetError, OptionError
from tte_runtime.scenes.training_data import export_training
from tte_runtime.training.examples import Entry, Example, read_examples
from tte_runtime.training.stages.reasoner import traced_entries
from tte_runtime.training.stages.run import Folder, Options, columns_of, distinct_batches, num_negatives, shuffled

OPTIONS = Options(epochs=1, batch_size=2, mini_batch=2, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"line 2 is no JSON: .*Write one object a line"),
        ("[1]", r"line 2 must be an object .*got list"),
        ('{"positive": "a"}', r'line 2 has no "query"\. Add it'),
        ('{"query": "a"}', r'line 2 has no "positive"\. Add it'),
        ('{"query": "a", "postive": "b"}', r"line 2: unknown key 'postive'\. Known: query, positive, negatives, id\."),
        ('{"query": 3, "positive": "b"}', r"line 2, query must be a text, a path or an object, got int"),
        ('{"query": {"txt": "a"}, "positive": "b"}', r"line 2, query: unknown key of a request 'txt'\. Known: text"),
        ('{"query": "a", "positive": {"text": " "}}', r"line 2, positive: the request is empty"),
        ('{"query": "a", "positive": "b", "negatives": "c"}', r'line 2: "negatives" must be a list of items, got str'),
        ('{"query": "a", "positive": "b", "negatives": ["c", ""]}', r"line 2, negative 2: the request is empty"),
        (
            '{"query": {"image": "no.png"}, "positive": "b"}',
            r"line 2, query: there is no file .*no\.png.*are relative to",
        ),
        ('{"query": {"text": "a", "trace": ""}, "positive": "b"}', r'line 2, query: "trace" is empty'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"query": "fine", "positive": "fine"}\n' + line + "\n")
    with pytest.raises(DatasetError, match=r"pairs\.jsonl, " + said):
        read_examples(file, positives=True)


def test_no_data_at_all(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no training data at .*data\.jsonl"):
        read_examples(tmp_path, positives=True)
    (tmp_path / "data.jsonl").write_text("\n\n")
    with pytest.raises(DatasetError, match="has no lines"):
        read_examples(tmp_path, positives=True)
    with pytest.raises(DatasetError, match=r'no item of .* has a "trace"\. Have them written: tte train traces'):
        traced_entries(make_data(tmp_path / "bare", pictures=False, traces=False))


def test_paths_are_those_of_the_file(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", pictures=True)
    (one, *_) = [e for e in read_examples(data, positives=True) if "image" in e.query.item]
    assert one.query.item["image"] == str(data / "1.png") and one.query.traced
    assert one.query.parse() is not one.query.parse()


def example(query: str, positive: str, *negatives: str) -> Example:
    def entry(text: str, role: str) -> Entry:
        return Entry({"text": text}, role, f"pairs.jsonl, line 1, {role}")  # type: ignore[arg-type]

    return Example(
        entry(query, "query"), entry(positive, "document"), tuple(entry(n, "document") for n in negatives), {}
    )


def test_no_batch_holds_a_false_negative() -> None:
    examples = [example(f"q{i}", f"d{i % 5}", f"d{(i + 1) % 5}") for i in range(20)]
    batches = distinct_batches(examples, 1, 2, 1, seed=0)
    assert len(batches) >= 8 and len({id(one) for batch in batches for one in batch}) == 2 * len(batches)
    for batch in batches:
        documents = [entry.item["text"] for one in batch for entry in one.entries[1:]]
        assert len(set(documents)) == len(documents)
    assert [len(column) for column in columns_of(batches[0], 1)] == [2, 2, 2]
    again = distinct_batches(examples, 1, 2, 1, seed=0)
    assert [[one.query.item for one in batch] for batch in again] == [[one.query.item for one in b] for b in batches]
    assert len(distinct_batches(examples, 1, 2, 2.5, seed=0)) == round(2.5 * len(batches))
    with pytest.raises(DatasetError, match="no batch of 4 examples can be filled"):
        distinct_batches(examples, 1, 4, 1, seed=0)


def test_negatives_are_as_many_as_every_line_has() -> None:
    examples = [example("q", "d", "a", "b"), example("r", "e", "c")]
    assert num_negatives(examples, None) == 1 and num_negatives(examples, 0) == 0
    with pytest.raises(DatasetError, match=r"pairs\.jsonl, line 1 has 1 negatives, and 2 are asked for"):
        num_negatives(examples, 2)


def test_every_pass_has_an_order_of_its_own() -> None:
    first, second = ([shuffled(7, 3, index) for index in range(start, start + 7)] for start in (0, 7))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_a_folder_remembers_its_run(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", pictures=False)
    out = tmp_path / "out"
    folder = Folder.of(out, "head", "base", data, OPTIONS, recipe=None)
    assert not folder.finished and not out.exists()
    folder.begin().mkdir()
    again = Folder.of(out, "head", "base", data, Options(**{**vars(OPTIONS), "mini_batch": 1}), recipe=None)
    assert not again.finished
    with pytest.raises(
        OptionError, match=r"is of another run: learning_rate was 0\.001 and is 0\.1\. Give a new folder"
    ):
        Folder.of(out, "head", "base", data, Options(**{**vars(OPTIONS), "learning_rate": 0.1}), recipe=None)
    (out / "tte.json").write_text("{}")
    assert again.finished and again.finish() == out and not again.work.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(OptionError, match="is no folder of a training run"):
        Folder.of(tmp_path / "other", "head", "base", data, OPTIONS)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 0, "epochs must be > 0"),
        ("epochs", float("inf"), "at most 10000, got inf"),
        ("epochs", float("nan"), "at most 10000, got nan"),
        ("epochs", 1e12, "at most 10000, got 1000000000000"),
        ("learning_rate", float("inf"), "learning_rate must be > 0 and finite, got inf"),
        ("warmup", 1.5, "warmup must be a share"),
        ("seed", -1, r"seed must be in 0\.\.4294967295, got -1"),
        ("seed", 2**32, "got 4294967296"),
        ("mini_batch", 0, "mini_batch must be at least 1"),
        ("lora", (0, 64), "rank and alpha of LoRA must be at least 1"),
    ],
)
def test_options_out_of_range(field: str, value: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Options(**{**vars(OPTIONS), field: value})  # type: ignore[arg-type]


def test_the_exported_scenes_are_training_data(tmp_path: Path) -> None:
    file = export_training(tmp_path / "scenes", count=18, traces=True)
    examples = read_examples(tmp_path / "scenes", positives=True)
    assert len(examples) == 18 and num_negatives(examples, None) == 2
    assert all(entry.traced for one in examples for entry in one.entries)
    assert len(distinct_batches(examples, 2, 4, 1, seed=0)) >= 2
    again = export_training(tmp_path / "again", count=18, traces=True)
    assert file.read_bytes() == again.read_bytes()
    picture = next((tmp_path / "scenes" / "pictures").iterdir())
    assert picture.read_bytes() == (tmp_path / "again" / "pictures" / picture.name).read_bytes()
    assert "trace" not in json.loads(export_training(tmp_path / "bare", count=1).read_text())["query"]
    with pytest.raises(OptionError, match="not empty"):
        export_training(tmp_path / "scenes", count=1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"query": {"text": "a\\ud83d"}, "positive": "b"}',
            r"query: \"text\" has half a surrogate pair, '\\ud83d', as",
        ),
        ('{"query": "a", "positive": "\\udc00"}', r"positive: \"text\" has half .* as character 1"),
        ('{"query": {"text": "a", "trace": "\\ud83d"}, "positive": "b"}', r"query: \"trace\" has half"),
        ('{"query": {"text": "a", "instruction": "\\ud83d"}, "positive": "b"}', r"query: \"instruction\" has half"),
        ('{"query": "a", "positive": "b", "id": ["\\ud83d"]}', r"id: .* has half a surrogate pair"),
        (
            '{"query": "a", "positive": "b", "negatives": ["c", {"text": "b", "trace": "d"}]}',
            r"negative 2 is the line's positive too, and would be right and wrong\. Remove it",
        ),
    ],
)
def test_what_would_fail_later_is_named_when_it_is_read(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "data.jsonl").write_text('{"query": "\\ud83d\\ude00", "positive": "a whole pair"}\n' + line + "\n")
    for positives in (True, False):
        with pytest.raises(DatasetError, match=r"data\.jsonl, line 2, " + said):
            read_examples(tmp_path, positives=positives)


def test_a_line_with_fewer_negatives_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    examples = [example("q", "d", "a", "b"), example("r", "e")]
    assert num_negatives(examples, None) == 0
    assert "line 1 has 0 negatives, so every query is held against 0; others have up to 2" in (capsys.readouterr().err)
    assert num_negatives(examples, 0) == 0 and num_negatives(examples[:1], None) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("record", ["{", "[1]", "null", "\xff"])
def test_a_broken_record_is_named(tmp_path: Path, record: str) -> None:
    (tmp_path / "training.json").write_bytes(record.encode("latin-1"))
    with pytest.raises(OptionError, match=r"training\.json (is no JSON|must be an object, got).* Give a new folder"):
        Folder(tmp_path, {"stage": "head"})


def test_a_run_without_end_is_refused() -> None:
    assert OPTIONS.steps(6) == 3 and OPTIONS.steps(0) == 1
    with pytest.raises(OptionError, match=r"10000 epochs of 1000000 examples in batches of 2 are 5000000000 steps"):
        Options(**{**vars(OPTIONS), "epochs": 10_000}).steps(10**6)
