"""What must be set before any test is collected; knows nothing of what is tested.

transformers imports Triton, and Triton decides at its import whether it compiles or interprets. So the choice is made
here, before the first test module is read, and not beside the kernel tests, which are collected late.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
