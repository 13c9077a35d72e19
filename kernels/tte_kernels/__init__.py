"""tte_kernels: Triton kernels for think-then-embed inference, with their specifications.

Every op is a folder: `__init__.py` is the contract and the door, `reference.py` the specification in torch,
`kernel.py` the Triton code with its launcher, `cases.py` the shapes it is proven on. Importing this package
needs torch only; Triton is imported at the first launch. It does not know engines, models or requests.
"""

from __future__ import annotations

from tte_kernels._check import HEAD_DIMS, MAX_GROUP
from tte_kernels._launch import set_pdl
from tte_kernels.decode_attention import decode_attention
from tte_kernels.decode_linear import PackedWeight, decode_linear, pack, unpack
from tte_kernels.errors import KernelBackendError, KernelError, KernelInputError, KernelTypeError
from tte_kernels.extend_attention import extend_attention
from tte_kernels.linear import linear
from tte_kernels.pool_normalize import pool_normalize
from tte_kernels.rms_norm import rms_norm
from tte_kernels.rope_write_kv import rope_write_kv
from tte_kernels.sample import sample, sample_logits

__all__ = [
    "HEAD_DIMS",
    "MAX_GROUP",
    "KernelBackendError",
    "KernelError",
    "KernelInputError",
    "KernelTypeError",
    "PackedWeight",
    "decode_attention",
    "decode_linear",
    "extend_attention",
    "linear",
    "pack",
    "pool_normalize",
    "rms_norm",
    "rope_write_kv",
    "sample",
    "sample_logits",
    "set_pdl",
    "unpack",
]
