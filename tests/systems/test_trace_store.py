"""The store by itself: what it keeps, many writers at once, a crash in the middle, and files that are not ours."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import pytest

from tte_runtime import TraceStore
from tte_runtime.errors import TraceError, TraceStoreError
from tte_runtime.traces.exchange import export_lines, import_lines
from tte_runtime.traces.trace import Trace, TraceKey

KEY = TraceKey("c", "p", "v", "r", "s")
TRACE = Trace("ünï “code” \n two lines", (1, 2, 3), "forced", "max_tokens")
WRITER = """
import sys
from tte_runtime import TraceStore
from tte_runtime.traces.trace import Trace, TraceKey
with TraceStore(sys.argv[1]) as store:
    for i in range(int(sys.argv[3])):
        store.put(TraceKey(sys.argv[2], str(i), "", "", ""), Trace(f"trace {i}"))
        print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A process that stores traces one after another and says each number once it is stored."""
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_what_was_put_is_got_also_by_another_opening(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.sqlite") as store:
        assert store.get(KEY) is None and len(store) == 0
        store.put(KEY, TRACE)
        store.put(replace(KEY, content="d"), Trace("other"))
        assert store.get(KEY) == TRACE
        store.put(KEY, Trace("newer"))
        assert len(store) == 2
    with TraceStore(str(tmp_path / "t.sqlite")) as store:
        assert store.get(KEY) == Trace("newer")


@pytest.mark.parametrize("part", [field.name for field in fields(TraceKey)])
def test_every_part_of_the_key_counts(tmp_path: Path, part: str) -> None:
    with TraceStore(tmp_path / "t.sqlite") as store:
        store.put(KEY, TRACE)
        assert store.get(replace(KEY, **{part: "another"})) is None


def test_all_entries_in_the_order_of_keys_block_by_block(tmp_path: Path) -> None:
    keys = [TraceKey(str(i % 3), str(i), "", "", str(i % 2)) for i in range(20)]
    with TraceStore(tmp_path / "t.sqlite") as store:
        store.put_all((key, Trace(astuple(key)[1])) for key in keys)
        for block in (1, 7, 20, 256):
            assert [key for key, _ in store.items(block)] == sorted(keys, key=astuple)


def test_threads_share_one_store(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.sqlite") as store:

        def work(name: int) -> None:
            for i in range(25):
                key = TraceKey(str(name), str(i), "", "", "")
                store.put(key, TRACE)
                assert store.get(key) == TRACE

        threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 150


def test_processes_write_at_once_and_one_is_killed(tmp_path: Path) -> None:
    """Three processes open a new file and write; one dies in the middle of it. Nothing that was stored is lost."""
    path = tmp_path / "t.sqlite"
    others = [writer(path, "a", 60), writer(path, "b", 60)]
    victim = writer(path, "victim", 10**6)
    assert victim.stdout is not None
    said = [int(victim.stdout.readline()) for _ in range(20)]
    os.kill(victim.pid, signal.SIGKILL)
    said += [int(line) for line in victim.stdout if line.endswith("\n")]
    victim.wait()
    for other in others:
        other.communicate()
        assert other.returncode == 0
    with TraceStore(path) as store:
        kept = {(key.content, int(key.prompt)) for key, _ in store.items()}
        assert {("a", i) for i in range(60)} | {("b", i) for i in range(60)} <= kept
        assert {("victim", i) for i in said} <= kept
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def broken_text(path: Path) -> None:
    path.write_text("this is no database, but a text of some length. " * 40)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes (text TEXT)")


def newer(path: Path) -> None:
    TraceStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")


def torn(path: Path) -> None:
    with TraceStore(path) as store:
        store.put_all((TraceKey(str(i), "", "", "", ""), Trace("x" * 200)) for i in range(200))
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken_text, "broken or no database"),
        (foreign, "another program"),
        (newer, "has format 9"),
        (torn, "broken or no database"),
        (Path.mkdir, "cannot be used"),
    ],
)
def test_what_is_no_store_of_ours_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "t.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(TraceStoreError, match=said), TraceStore(path) as store:
        list(store.items())
    assert before is None or path.read_bytes() == before, "a file that is refused is left as it was"


def test_no_folder_and_a_closed_store(tmp_path: Path) -> None:
    with pytest.raises(TraceStoreError, match="there is no folder"):
        TraceStore(tmp_path / "no" / "t.sqlite")
    store = TraceStore(tmp_path / "t.sqlite")
    store.close()
    store.close()
    with pytest.raises(TraceStoreError, match="closed"):
        store.get(KEY)


def test_an_export_comes_back_whole(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "a.sqlite") as store, TraceStore(tmp_path / "b.sqlite") as other:
        store.put_all((TraceKey(str(i), "p", "v", "r", "s"), replace(TRACE, ids=(i, i + 1))) for i in range(1200))
        lines = [line.encode() for line in export_lines(store)]
        assert list(import_lines(other, lines)) == [1000, 200]
        assert list(other.items()) == list(store.items())
        assert [line.encode() for line in export_lines(other)] == lines


LINE = json.dumps({"content": "c", "prompt": "p", "processor": "v", "reasoner": "r", "sampling": "s"} | {
    "text": "t", "ids": [1], "finish_reason": "stop", "forced_by": None,
})  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{no json", "line 3 is no JSON"),
        ("[1]", "line 3 must be an object with exactly content, prompt"),
        (LINE.replace('"content": "c", ', ""), "line 3 must be an object"),
        (LINE.replace('"c"', "7", 1), "content must be a string"),
        (LINE.replace("[1]", '["x"]'), "ids must be a list of token ids"),
        (LINE.replace('"stop"', '"bored"'), "finish_reason must be stop or forced"),
        (LINE.replace("null", '"fate"'), "forced_by must be null"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, said: str) -> None:
    with TraceStore(tmp_path / "t.sqlite") as store:
        with pytest.raises(TraceError, match=said):
            list(import_lines(store, [LINE.encode(), b"\n", line.encode()]))
        assert len(store) == 0, "a block is taken whole or not at all"
