"""Specification of sample in torch, its noise in integer arithmetic, and the unfused form with top-k and
top-p.

The noise is Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with
key = (seed low, seed high) and counter = (token id, position, trace index, 0); its first word is made uniform
and then Gumbel. Words are the same bits everywhere; the two logarithms may differ by a unit in the last place
between devices. Knows nothing of Triton, tiles or devices.
"""

from __future__ import annotations

import torch

__all__ = ["gumbel", "mark_stops", "philox", "sample", "sample_logits", "scores"]

_MASK = 0xFFFFFFFF


def philox(seed: torch.Tensor, counter: tuple[torch.Tensor, ...], rounds: int = 10) -> tuple[torch.Tensor, ...]:
    """Four words in 0..2^32-1 (int64) of Philox-4x32: `seed` is the key, `counter` four words, broadcast."""
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    c0, c1, c2, c3 = (word & _MASK for word in counter)
    for _ in range(rounds):
        # Products of 32-bit words wrap in int64, which keeps their 64 bits; the mask removes the sign's
        # copies.
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((product1 >> 32) & _MASK) ^ c1 ^ k0, ((product0 >> 32) & _MASK) ^ c3 ^ k1
        c1, c3 = product1 & _MASK, product0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def gumbel(seed: torch.Tensor, position: torch.Tensor, trace_index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Noise [S, num_tokens] fp32 of per-row int64 [S] arguments."""
    tokens = torch.arange(num_tokens, device=seed.device)
    counter = (tokens[None], position[:, None], trace_index[:, None], torch.zeros_like(tokens)[None])
    word = philox(seed[:, None], counter)[0]
    # -log(uniform) is taken from the small side: a logarithm near 1 has an absolute error of 2^-22 on NVIDIA
    # GPUs, which is as large as the exponential variates that win among 150,000 tokens. The polynomial is
    # -log1p(-v) to 2^-26.
    v = (word.float() + 0.5) * 2.0**-32
    exponential = v * (1 + v * (0.5 + v * (1 / 3 + v * 0.25)))
    exponential = torch.where(v < 2.0**-6, exponential, -torch.log((1 - v).clamp(min=2.0**-25)))
    return -torch.log(exponential)


def scores(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
) -> torch.Tensor:
    """What the argmax is taken of, [S, V] fp32: logits of greedy rows, scaled logits plus noise of others."""
    logits = torch.where(logits.isnan(), -torch.inf, logits.float())
    greedy = (temperature == 0)[:, None]
    scaled = logits / torch.where(greedy, 1.0, temperature[:, None])
    return torch.where(greedy, logits, scaled + gumbel(seed, position, trace_index, logits.shape[1]))


def _argmax(values: torch.Tensor) -> torch.Tensor:
    """Lowest index of the maximum of each row (torch.argmax promises no order among ties)."""
    ids = torch.arange(values.shape[1], device=values.device)
    return torch.where(values == values.amax(-1, keepdim=True), ids, values.shape[1]).amin(-1)


def mark_stops(ids: torch.Tensor, stop_ids: torch.Tensor) -> torch.Tensor:
    """[S, 2] int64 of ids [S] and stop_ids [S, N]: the id, and 1 if it is one of its row's stop ids, else 0."""
    return torch.stack((ids, (ids[:, None] == stop_ids).any(1).long()), dim=1)


def sample(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
) -> torch.Tensor:
    """Ids and stops [S, 2] int64 of hidden [S, C] and weight [V, C], through logits in fp32."""
    logits = hidden.float() @ weight.float().T
    return mark_stops(_argmax(scores(logits, temperature, seed, position, trace_index)), stop_ids)


def sample_logits(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    trace_index: torch.Tensor,
    stop_ids: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> torch.Tensor:
    """Ids and stops [S, 2] int64 of logits [S, V] after top-k, then top-p; the noise is that of `sample`."""
    values = scores(logits, temperature, seed, position, trace_index)
    scaled = torch.where(logits.isnan(), -torch.inf, logits.float())
    scaled = scaled / torch.where(temperature == 0, 1.0, temperature)[:, None]
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)  # stable: ties keep the lowest id in front
    rank = torch.arange(logits.shape[1], device=logits.device)[None]
    dropped = (top_k[:, None] > 0) & (rank >= top_k[:, None])
    probability = ordered.masked_fill(dropped, -torch.inf).softmax(-1)
    # A token is kept while what stands before it sums to less than top_p; the first one always is.
    dropped |= (probability.cumsum(-1) - probability >= top_p[:, None]) & (top_p[:, None] < 1) & (rank > 0)
    kept = values.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), -torch.inf)
    return mark_stops(_argmax(kept), stop_ids)
