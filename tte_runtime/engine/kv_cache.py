"""Pages of keys, values and taps: who holds them, and which can be found again by content.

Pure bookkeeping over page numbers; the tensors live in the runner. A page holds 16 tokens. Page 0 is scratch.
A full page of a prompt can be *published* under a key that chains everything which decides its content; a
published page that nobody holds stays until its room is needed, the least recently used first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tte_runtime.config import PAGE_SIZE


class OutOfPages(Exception):
    """No page is free and no published one is idle; the scheduler then preempts a request."""


class PagePool:
    """Page numbers with reference counts and an index by content.

    Args:
        num_pages: pages of the pool, scratch page 0 included.
        prefix_cache: keep published pages after their last holder has left.
    """

    def __init__(self, num_pages: int, *, prefix_cache: bool = True) -> None:
        assert num_pages >= 2, "a pool needs the scratch page and one more"
        self.num_pages = num_pages
        self._prefix_cache = prefix_cache
        self._free = list(range(num_pages - 1, 0, -1))
        self._holders = [0] * num_pages
        self._key_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, held by nobody, oldest first

    @property
    def num_available(self) -> int:
        """Pages that `allocate` could give out now."""
        return len(self._free) + len(self._idle)

    def allocate(self, count: int) -> list[int]:
        """`count` fresh pages, each with one holder; all or none.

        Raises:
            OutOfPages: fewer are available.
        """
        if count > self.num_available:
            raise OutOfPages
        pages = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        del self._page_of[self._key_of.pop(page)]
        return page

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The longest run of published pages for `keys` from the first on; each gains a holder."""
        found: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            self._idle.pop(page, None)
            self._holders[page] += 1
            found.append(page)
        return found

    def hold(self, pages: Iterable[int]) -> None:
        """One more holder for pages that are held already, as a fork does."""
        for page in pages:
            assert self._holders[page] > 0, f"page {page} is shared by nobody"
            self._holders[page] += 1

    def publish(self, page: int, key: bytes) -> None:
        """Let others find a page; its content must be final. A key that is known keeps its first page."""
        if self._prefix_cache and key not in self._page_of and page not in self._key_of:
            assert self._holders[page] > 0, "only a held page can be published"
            self._page_of[key] = page
            self._key_of[page] = key

    def release(self, pages: Iterable[int]) -> None:
        """Give up one hold on every page; the last holder's pages become idle or free."""
        for page in pages:
            assert self._holders[page] > 0, f"page {page} is released more often than held"
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._key_of:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def forget(self) -> None:
        """Drop every idle published page, as a cold start would."""
        while self._idle:
            self._free.append(self._evict())


def page_keys(token_ids: Sequence[int], media: Iterable[tuple[int, int, bytes]], *, salt: bytes = b"") -> list[bytes]:
    """Content keys of the full pages of a prompt, each chained to the one before.

    Args:
        token_ids: the prompt.
        media: (start, length, key) of every picture; positions and features follow from the keys before and here.
        salt: what else decides content: weights, adapter, weight format, the path that writes (prefill).

    Returns:
        one digest for every full page of 16 tokens.
    """
    spans = list(media)
    keys, parent = [], hashlib.sha256(b"prefill" + salt).digest()
    for start in range(0, len(token_ids) - PAGE_SIZE + 1, PAGE_SIZE):
        digest = hashlib.sha256(parent)
        digest.update(b",".join(b"%d" % token for token in token_ids[start : start + PAGE_SIZE]))
        for first, length, key in spans:
            if first < start + PAGE_SIZE and first + length > start:
                digest.update(b"|%d|%d|" % (first - start, length) + key)
        parent = digest.digest()
        keys.append(parent)
    return keys
