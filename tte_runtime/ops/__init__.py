"""The seam: what the decoder, the heads and the sampler ask of the hardware, and the only folder to import tte_kernels.

`TorchOps` runs anywhere; `TritonOps` has the same methods on our kernels. One of them is chosen once, by
`select_ops`, and reported. Importing this imports no Triton.
"""

from tte_runtime.ops.layout import Draw, Pooling, Rotation, StepLayout
from tte_runtime.ops.rows.stack import RowStack
from tte_runtime.ops.select import select_ops
from tte_runtime.ops.torch_ops import TorchOps, mark_stops

__all__ = ["Draw", "Pooling", "Rotation", "RowStack", "StepLayout", "TorchOps", "mark_stops", "select_ops"]
