"""How many CPU threads torch uses on one thread, without a say in what the rest of the process does."""

from __future__ import annotations

import threading

import torch

_ONE_AT_A_TIME = threading.Lock()  # two at once would take one another's number for the default


def use_threads(count: int) -> None:
    """Let torch use `count` threads for what the calling thread computes, from here on.

    OpenMP keeps the number by calling thread, but torch also remembers the last one set as the default of threads that
    have computed nothing yet. A short-lived thread puts that back.
    """
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        if count == before:
            return
        torch.set_num_threads(count)
        keeper = threading.Thread(target=torch.set_num_threads, args=(before,), name="tte-keep-threads")
        keeper.start()
        keeper.join()
