"""Which backend runs, decided once when a checkpoint is loaded."""

from __future__ import annotations

import importlib.util

from tte_kernels import HEAD_DIMS, MAX_GROUP, set_pdl
from tte_runtime.config import EngineConfig
from tte_runtime.env import INTERPRET
from tte_runtime.errors import MissingExtraError, OptionError
from tte_runtime.ops.numba_ops import NumbaOps
from tte_runtime.ops.prefill import load_prefill
from tte_runtime.ops.torch_ops import TorchOps


def select_ops(config: EngineConfig, *, head_dim: int, group: int) -> TorchOps:
    """The backend of a resolved config. Triton is imported only if it is chosen.

    Args:
        config: resolved.
        head_dim: of the model. group: query heads a kv head.

    Raises:
        MissingExtraError: a chosen package is not installed. OptionError: what is chosen cannot run on the device, in
            the dtype, or with the model's heads.
    """
    prefill = None
    if config.attention != config.own_attention:
        prefill = load_prefill(config.attention, config.device, config.torch_dtype)
    if config.kernels == "torch":
        return TorchOps(config.weights, prefill)
    if config.kernels == "numba":
        return NumbaOps(int(config.threads), config.torch_dtype, prefill, config.weights)
    if importlib.util.find_spec("triton") is None:
        raise MissingExtraError('kernels="triton" needs Triton. Run: pip install triton, or use kernels="torch".')
    if config.device == "cpu" and not INTERPRET.is_on():
        raise OptionError(
            'kernels="triton" needs a GPU, got device="cpu". Use kernels="torch", or set TRITON_INTERPRET=1 before '
            "Python starts to run them, slowly, in the interpreter."
        )
    if head_dim not in HEAD_DIMS or not 1 <= group <= MAX_GROUP:
        known = ", ".join(map(str, HEAD_DIMS))
        raise OptionError(
            f'kernels="triton" needs a head dim of {known} and 1 to {MAX_GROUP} query heads a kv head, got {head_dim} '
            f'and {group}. Use kernels="torch".'
        )
    if config.device.startswith("cuda"):
        set_pdl(config.pdl)
    from tte_runtime.ops.triton_ops import TritonOps

    return TritonOps(config.weights, prefill)
