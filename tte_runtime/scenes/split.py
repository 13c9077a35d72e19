"""What is kept out of training, decided by a hash of the thing itself: never by a list, a file or an order
of drawing.

Three things are split, each into "train", "test" and (for pairs and questions) what falls between: scenes,
question strings, and combinations (for instance the picture asked from and the picture that is the answer).
Knows nothing of how questions are built.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from tte_runtime.scenes.world import Scene, sample_scene

Split = Literal["train", "test"]

TEST_SHARE = {"scene": 0.05, "question": 0.15, "pair": 0.15}


def in_test(what: Literal["scene", "question", "pair"], *parts: str) -> bool:
    """True when this thing belongs to the test half: a pure function of its words (BLAKE2b), the same on
    every machine.
    """
    digest = hashlib.blake2b("\x1f".join((what, *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < TEST_SHARE[what]


def belongs(what: Literal["scene", "question", "pair"], split: Split, *parts: str) -> bool:
    """Whether this thing may be used in `split`."""
    return in_test(what, *parts) == (split == "test")


def split_scene(rng: np.random.Generator, split: Split) -> Scene:
    """A random scene of that split."""
    while True:
        scene = sample_scene(rng)
        if belongs("scene", split, scene.description):
            return scene
