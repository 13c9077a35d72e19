"""A script that ends without closing its embedder ends well, whatever was still in work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from tte_runtime import Embedder
from tte_runtime.inputs.items import parse_item

embedder = Embedder.from_pretrained(sys.argv[1], device="cpu")
item = parse_item("a text")
waiting = [
    embedder._pipeline.submit(item, "document", None, priority="interactive", normalize=True) for _ in range(300)
]
print(len(waiting), waiting[0].result() is not None)
"""


def test_a_script_that_ends_while_requests_are_in_work(random_folder: Path) -> None:
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, random_folder], capture_output=True, text=True, timeout=120
        )
        assert (ended.returncode, ended.stdout) == (0, "300 True\n"), ended.stderr
        assert "terminate" not in ended.stderr and "Traceback" not in ended.stderr
