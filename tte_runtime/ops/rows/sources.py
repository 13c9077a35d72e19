"""What the compiled calls are made of: Numba's cache on disk knows a function by its own file and by what it closes
over, so each closes over this, and none outlives a change of the files whose functions are compiled into it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tte_runtime.config import PAGE_SIZE

_FILES = sorted(Path(__file__).parent.glob("*.py"))
SOURCES = hashlib.sha256(b"".join(file.read_bytes() for file in _FILES) + bytes([PAGE_SIZE])).hexdigest()
