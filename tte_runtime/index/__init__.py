"""An index: vectors of a folder's pictures and texts on disk, built resumably and searched exactly.

Rooms: `store` (the files), `search` (one matrix product), `build` (what is new, changed and gone in a folder). There is
no approximate search here on purpose: the product is quick enough for millions of vectors, and the libraries that do
better take ours as they are. Knows nothing of a model but its embedder's fingerprint.
"""

from tte_runtime.index.build import BuildReport, build_index
from tte_runtime.index.search import Hit, Index
from tte_runtime.index.store import Settings

__all__ = ["BuildReport", "Hit", "Index", "Settings", "build_index"]
