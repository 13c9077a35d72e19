"""The files of an index under any order of adding, removing and being killed: what was finished is there, exactly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tte_runtime.index import Index
from tte_runtime.index.store import IndexWriter, Settings

DIM = 3
OWN = Settings(fingerprint="f", model="m", dim=DIM)
NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NAMES),
        st.tuples(st.just("remove"), NAMES),
        st.tuples(st.just("kill"), st.binary(max_size=4 * DIM + 3)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_nothing_finished_is_lost_and_nothing_torn_is_read(steps: list[tuple[str, list[str] | bytes]]) -> None:
    wanted: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        writer = IndexWriter(path, OWN)
        for count, (step, what) in enumerate(steps):
            if step == "add":
                vectors = np.full((len(what), DIM), count, np.float32)
                writer.add([(str(name), f"hash {count}", "a trace\nof two lines") for name in what], vectors)
                wanted |= {str(name): vector for name, vector in zip(what, vectors, strict=True)}
            elif step == "remove":
                there = [str(name) for name in what if name in wanted]
                writer.remove(there)
                for name in there:
                    del wanted[name]
            else:
                assert isinstance(what, bytes)
                writer.__exit__()
                for name in ("vectors.f32", "entries.jsonl"):
                    with (path / name).open("ab") as file:
                        file.write(what.replace(b"\n", b""))
                writer = IndexWriter(path, OWN)
        writer.finish()
        writer.__exit__()
        index = Index.open(path)
        found = {entry.path: index.vectors[i] for i, entry in enumerate(index.entries)}
        assert list(found) == list(dict.fromkeys(found))
        assert found.keys() == wanted.keys()
        for name, vector in wanted.items():
            np.testing.assert_array_equal(found[name], vector)
