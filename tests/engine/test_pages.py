"""The page pool against a small model of itself, under random operations, and the content keys of pages."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tte_runtime.engine.kv_cache import OutOfPages, PagePool, page_keys

NUM_PAGES = 9


class PoolMachine(RuleBasedStateMachine):
    """Holders take, share, publish and release pages in any order; the pool must agree with plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(NUM_PAGES)
        self.holders: list[list[int]] = []
        self.published: dict[bytes, int] = {}
        self.serial = 0

    @rule(count=st.integers(0, 5))
    def allocate(self, count: int) -> None:
        held = {page for pages in self.holders for page in pages}
        if count > NUM_PAGES - 1 - len(held):
            with pytest.raises(OutOfPages):
                self.pool.allocate(count)
            return
        pages = self.pool.allocate(count)
        assert len(set(pages)) == count and not set(pages) & held and 0 not in pages
        self.published = {key: page for key, page in self.published.items() if page not in pages}
        self.holders.append(pages)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        pages = data.draw(st.sampled_from(self.holders))
        for page in pages:
            if page not in self.published.values():
                self.serial += 1
                key = b"%d" % self.serial
                self.pool.publish(page, key)
                self.published[key] = page

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.published)), max_size=3, unique=True))
        found = self.pool.find([*keys, b"unknown", *keys])
        assert found == [self.published[key] for key in keys]
        self.holders.append(found)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pages = data.draw(st.sampled_from(self.holders))
        self.holders.remove(pages)
        self.pool.release(pages)

    @rule()
    def forget(self) -> None:
        held = {page for pages in self.holders for page in pages}
        self.pool.forget()
        self.published = {key: page for key, page in self.published.items() if page in held}

    @invariant()
    def nothing_is_lost(self) -> None:
        held = {page for pages in self.holders for page in pages}
        assert self.pool.num_available == NUM_PAGES - 1 - len(held)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPool = PoolMachine.TestCase


def test_least_recently_used_pages_go_first() -> None:
    pool = PagePool(4)
    first, second, third = pool.allocate(3)
    for page, key in ((first, b"a"), (second, b"b"), (third, b"c")):
        pool.publish(page, key)
    pool.release([second, first, third])
    assert pool.allocate(1) == [second]
    assert pool.find([b"b"]) == [] and pool.find([b"a"]) == [first]


def test_without_a_prefix_cache_nothing_is_found() -> None:
    pool = PagePool(3, prefix_cache=False)
    pages = pool.allocate(1)
    pool.publish(pages[0], b"a")
    assert pool.find([b"a"]) == []


def test_keys_hold_everything_that_decides_content() -> None:
    ids = list(range(40))
    picture = [(4, 8, b"picture"), (20, 4, b"other")]
    keys = page_keys(ids, picture)
    assert len(keys) == 2, "only full pages have keys"
    assert keys == page_keys(ids[:32], picture), "what follows a page does not matter"
    assert page_keys([*ids[:5], 99, *ids[6:]], picture)[0] != keys[0]
    assert page_keys([99, *ids[1:]], picture)[1] != keys[1], "a page's key holds all that stands before it"
    assert page_keys(ids, [(4, 8, b"another"), (20, 4, b"other")])[0] != keys[0]
    assert page_keys(ids, [(4, 8, b"picture"), (20, 4, b"changed")])[0] == keys[0]
    assert page_keys(ids, [(5, 8, b"picture"), (20, 4, b"other")])[0] != keys[0]
    assert page_keys(ids, picture, salt=b"adapter")[0] != keys[0]
