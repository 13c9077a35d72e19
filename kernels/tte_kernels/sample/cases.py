"""Shapes on which sample is proven and measured. Knows the op's cost, not its kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tte_kernels._case import BadInput, Case, Inputs, Op, Tolerance
from tte_kernels._inputs import index_device, random_tensor, strided_rows
from tte_kernels.errors import KernelInputError, KernelTypeError
from tte_kernels.sample import sample
from tte_kernels.sample.reference import sample as reference
from tte_kernels.sample.reference import scores

__all__ = ["OP"]


def _case(
    name: str,
    rows: int,
    dim: int,
    vocabulary: int,
    greedy: str = "some",
    stops: int = 8,
    strided: bool = False,
    tag: str = "ci",
) -> Case:
    """`greedy`: which rows have temperature 0: "all", "none" or "some" (every second). `stops`: stop ids a row."""

    def make_inputs(seed: int, device: str, dtype: torch.dtype) -> Inputs:
        make = strided_rows if strided else random_tensor
        draw = torch.Generator().manual_seed(seed + 2)
        temperature = 0.2 + torch.rand(rows, generator=draw)
        if greedy != "none":
            temperature[:: 1 if greedy == "all" else 2] = 0.0
        return {
            "hidden": make((rows, dim), seed, device, dtype),
            "weight": random_tensor((vocabulary, dim), seed + 1, device, dtype, scale=4 * dim**-0.5),
            "temperature": temperature.to(index_device(device)),
            "seed": torch.randint(-(2**62), 2**62, (rows,), generator=draw).to(index_device(device)),
            "position": torch.randint(0, 2**32, (rows,), generator=draw).to(index_device(device)),
            "trace_index": torch.arange(rows, device=index_device(device)),
            "stop_ids": torch.randint(-1, vocabulary, (rows, stops), generator=draw).to(index_device(device)),
        }

    return Case(
        name=name,
        dims={"S": rows, "C": dim, "V": vocabulary, "N": stops},
        make_inputs=make_inputs,
        bytes_of=lambda dtype: (rows + vocabulary) * dim * dtype.itemsize + rows * (4 + 8 * (3 + stops + 2)),
        flops=2 * rows * dim * vocabulary,
        tag="model" if tag == "model" else "ci",
    )


_DRAW = ("temperature", "seed", "position", "trace_index")


def _traffic(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    hidden, weight = inputs["hidden"], inputs["weight"]
    per_row = sum(inputs[name].nbytes for name in (*_DRAW, "stop_ids"))
    # The product only; noise and comparisons are a few operations a logit beside 2 C.
    return hidden.nbytes + weight.nbytes + per_row + outputs[0].nbytes, 2 * hidden.numel() * weight.shape[0]


def _shortfall(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    ids, stops = outputs[0].unbind(1)
    logits = inputs["hidden"].float() @ inputs["weight"].float().T
    all_scores = scores(logits, *(inputs[name] for name in _DRAW))
    short = all_scores.amax(-1) - all_scores.gather(1, ids[:, None])[:, 0]
    return torch.where(stops == (ids[:, None] == inputs["stop_ids"]).any(1), short, torch.inf)  # no near miss of a stop


def _take_rows(inputs: Inputs, keep: Sequence[int]) -> Inputs:
    index = torch.tensor(keep, device=inputs["hidden"].device)
    return {name: tensor if name == "weight" else tensor[index] for name, tensor in inputs.items()}


CASES: list[Case] = [
    _case("empty", 0, 32, 50),
    _case("S1-greedy", 1, 192, 1000, greedy="all"),
    _case("S1-drawn", 1, 192, 1000, greedy="none"),
    _case("S63-mixed", 63, 64, 129),
    _case("S129-mixed-strided", 129, 100, 127, stops=40, strided=True),
    _case("S127-V65-mixed", 127, 16, 65, stops=1),
    _case("S5-V1", 5, 8, 1),
    _case("S9-no-stops", 9, 32, 70, stops=0),
    _case("S17-V63", 17, 33, 63, greedy="none"),
    *(
        _case(f"{model}-S{rows}-{kind}", rows, dim, vocabulary, greedy=greedy, tag="model")
        for model, dim, vocabulary in (
            ("tte_tiny", 192, 832),
            ("qwen2vl_2b", 1536, 151936),
            ("qwen25vl_3b_qwen3vl_2b", 2048, 151936),
            ("qwen3vl_4b", 2560, 151936),
            ("qwen2vl_7b", 3584, 152064),
            ("qwen3vl_8b", 4096, 151936),
        )
        for rows, kind, greedy in ((1, "greedy", "all"), (16, "drawn", "none"), (64, "mixed", "some"))
    ),
]

OP = Op(
    name="sample",
    fn=sample,
    reference=reference,
    cases=CASES,
    # Of the score (logit / t + noise, up to 40 at t = 0.2): the order of the fp32 sum over C, divided by t.
    # The products of 16-bit inputs are exact in fp32, so the dtype makes no difference.
    tolerance={
        torch.float32: Tolerance(atol=2e-4, rtol=0.0),
        torch.float16: Tolerance(atol=2e-4, rtol=0.0),
        torch.bfloat16: Tolerance(atol=2e-4, rtol=0.0),
    },
    formula="id = argmax(hidden @ weight.T / t + gumbel(seed, trace, position, token)), id in stop_ids",
    used_by="every decode step",
    traffic=_traffic,
    shortfall=_shortfall,
    num_rows=lambda inputs: int(inputs["hidden"].shape[0]),
    take_rows=_take_rows,
    opcheck=lambda inputs: [(torch.ops.tte.sample.default, tuple(inputs.values()))],
    bad_inputs=(
        BadInput(
            "dtype-hidden",
            lambda i: i | {"hidden": i["hidden"].double()},
            KernelTypeError,
            "hidden must have dtype",
        ),
        BadInput(
            "dtype-weight",
            lambda i: i | {"weight": i["weight"].double()},
            KernelTypeError,
            "weight must have dtype",
        ),
        BadInput(
            "dtype-seed",
            lambda i: i | {"seed": i["seed"].int()},
            KernelTypeError,
            "seed must have dtype torch.int64",
        ),
        BadInput(
            "dtype-temperature",
            lambda i: i | {"temperature": i["temperature"].double()},
            KernelTypeError,
            "temperature must have dtype torch.float32",
        ),
        BadInput(
            "shape-weight",
            lambda i: i | {"weight": i["weight"][:, 1:]},
            KernelInputError,
            "weight must have shape",
        ),
        BadInput(
            "shape-position",
            lambda i: i | {"position": i["position"][None]},
            KernelInputError,
            "position must have",
        ),
        BadInput(
            "no-vocabulary",
            lambda i: i | {"weight": i["weight"][:0]},
            KernelInputError,
            "V of weight must be in 1",
        ),
        BadInput(
            "stride-hidden",
            lambda i: i | {"hidden": i["hidden"].T.contiguous().T},
            KernelInputError,
            "contiguous in its last",
        ),
        BadInput(
            "stride-weight",
            lambda i: i | {"weight": i["weight"].repeat(1, 2)[:, : i["weight"].shape[1]]},
            KernelInputError,
            "weight must be contiguous, got strides",
        ),
        BadInput(
            "dtype-stop-ids",
            lambda i: i | {"stop_ids": i["stop_ids"].int()},
            KernelTypeError,
            "stop_ids must have dtype torch.int64",
        ),
        BadInput(
            "shape-stop-ids",
            lambda i: i | {"stop_ids": i["stop_ids"][0]},
            KernelInputError,
            "stop_ids must have",
        ),
        BadInput(
            "stride-stop-ids",
            lambda i: i | {"stop_ids": i["stop_ids"].repeat(1, 2)[:, ::2]},
            KernelInputError,
            "stop_ids must be contiguous",
        ),
        BadInput("device", lambda i: i | {"seed": i["seed"].to("meta")}, KernelInputError, "seed must be on cpu"),
    ),
)
