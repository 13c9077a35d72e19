"""The weight matrices of the torch backend, packed once when they are loaded: one class a form, the same two products.

Which form is fastest where was measured on two cores with AVX-512; the figures stand in docs/log.md, 2026-11-25. Knows
matrices; knows no norm, layer or model.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import torch
import torch.nn.functional as F

from tte_runtime.config import SMALL_MATRIX
from tte_runtime.errors import OptionError

INT8_MAX, UINT8_ZERO = 127, 128
FEW_ROWS = 8


class Matrix(Protocol):
    """A matrix [O, I] that rows are multiplied with."""

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x times the matrix, plus a bias [O]: [T, I] -> [T, O], in x's dtype."""
        ...

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x times the matrix: [T, I], [T, O] -> [T, O]."""
        ...


class Kept(Matrix, Protocol):
    """A matrix whose weight can be had again."""

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], as it is or a copy."""
        ...


class Dense:
    """The weight as it is, for whatever the other forms do not serve."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x times the matrix, plus a bias."""
        return F.linear(x, self.weight, bias)

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x times the matrix."""
        return torch.addmm(residual, x, self.weight.T)


class OneDnn:
    """A weight in oneDNN's own blocks, for one row and for many alike."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)

    @staticmethod
    def serves(weight: torch.Tensor) -> bool:
        """Whether this machine has fast products for this weight; the same answer for all weights of a dtype."""
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return False
        has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported
        return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bfloat16())

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], a copy out of the blocks."""
        return self._packed.to_dense()

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x times the matrix, plus a bias."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x times the matrix, rounded once."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._packed, None, "add")


class Small:
    """A small float32 weight in two forms: transposed for a few rows, where BLAS starts sooner, else oneDNN's."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._across = weight.T.contiguous()
        self._many = OneDnn(weight)

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], a copy out of the blocks."""
        return self._many.weight

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x times the matrix, plus a bias."""
        if x.shape[0] > FEW_ROWS:
            return self._many.times(x, bias)
        return torch.mm(x, self._across) if bias is None else torch.addmm(bias, x, self._across)

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x times the matrix."""
        if x.shape[0] > FEW_ROWS:
            return self._many.times_plus(x, residual)
        return torch.addmm(residual, x, self._across)


class Int8:
    """Weights of 8 bits with a scale an output, activations of 8 bits with a scale a *row* (`w8a8`), through fbgemm.

    torch's own dynamic product has one activation scale for the whole tensor, so that neighbours would change a row.
    Here every row is divided by its largest element before, and the sums are whole numbers: a row's bits depend on
    nothing but the row.

    Raises:
        OptionError: this build of torch has no fbgemm.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            raise OptionError('weights="w8a8" needs fbgemm (x86 with AVX2), which this torch lacks. Use weights="w16".')
        self._packed = _fbgemm_pack(*to_codes(weight))

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], float32: what the codes stand for."""
        whole, _ = torch.ops.quantized.linear_unpack(self._packed)
        return whole.dequantize()

    def times(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x times the matrix, plus a bias."""
        out = self._product(x)
        return out if bias is None else out.add_(bias)

    def times_plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x times the matrix."""
        return self._product(x).add_(residual)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        largest = wide.abs().amax(-1, keepdim=True).clamp_min_(1e-30)  # a row of zeros
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            wide / largest, 1 / INT8_MAX, UINT8_ZERO, self._packed
        )
        return out.mul_(largest).to(x.dtype)


def to_codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix [O, I] as int8 codes of -127 to 127 and a float32 scale an output, [O]."""
    wide = weight.detach().float()
    scale = (wide.abs().amax(1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.round(wide / scale[:, None]).to(torch.int8), scale


def _fbgemm_pack(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """int8 [O, I] and float32 [O] in fbgemm's blocks. The engine that packs is a setting of the process: put back."""
    before = torch.backends.quantized.engine
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    try:
        torch.backends.quantized.engine = "fbgemm"
        with warnings.catch_warnings():  # quantised tensors are deprecated; fbgemm packs nothing else
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(whole.cpu(), scale.double().cpu(), zeros, 0)
            return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = before


def pack_matrix(weight: torch.Tensor, weights: str) -> Matrix:
    """A matrix [O, I] in the form of the resolved option `weights`."""
    if weights == "w8a8":
        return Int8(weight)
    if not OneDnn.serves(weight):
        return Dense(weight)
    # Two forms of larger ones would take memory that matters.
    small = weight.dtype == torch.float32 and weight.numel() <= SMALL_MATRIX
    return Small(weight) if small else OneDnn(weight)
