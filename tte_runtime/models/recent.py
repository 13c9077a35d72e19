"""What was asked for lately, up to a size: the least recently used leaves first, the latest stays whatever its size.

Does not know what it keeps. Makers are passed in and not held: a cycle would keep a tower's memory from being freed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key.

    Args:
        most: what all sizes may sum to.
        size: of one value.
    """

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        self._most = most
        self._size = size
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def __iter__(self) -> Iterator[Key]:
        """Keys, the least recently used first."""
        return iter(self._kept)

    def get(self, key: Key, make: Callable[[Key], Value]) -> Value:
        """The value of `key`, made unless it is there."""
        if key not in self._kept:
            self._kept[key] = make(key)
            while len(self._kept) > 1 and sum(map(self._size, self._kept.values())) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
