"""Which backend runs, decided once when a checkpoint is loaded."""

from __future__ import annotations

import importlib.util

from tte_runtime.config import EngineConfig
from tte_runtime.env import INTERPRET
from tte_runtime.errors import MissingExtraError, OptionError
from tte_runtime.ops.torch_ops import TorchOps


def select_ops(config: EngineConfig) -> TorchOps:
    """The backend of a resolved config. Triton is imported only if it is chosen.

    Raises:
        MissingExtraError: Triton is chosen and not installed. OptionError: it cannot run on the device.
    """
    if config.kernels == "torch":
        return TorchOps(config.weights)
    if importlib.util.find_spec("triton") is None:
        raise MissingExtraError('kernels="triton" needs Triton. Run: pip install triton, or use kernels="torch".')
    if config.device == "cpu" and not INTERPRET.is_on():
        raise OptionError(
            'kernels="triton" needs a GPU, got device="cpu". Use kernels="torch", or set TRITON_INTERPRET=1 before '
            "Python starts to run them, slowly, in the interpreter."
        )
    from tte_runtime.ops.triton_ops import TritonOps

    return TritonOps(config.weights)
