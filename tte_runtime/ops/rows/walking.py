"""Several decode steps as one compiled call, where a step takes so little that Python between steps would be felt.

Layers, scores and the likeliest token are those of single steps, one after another, so tokens and states have the bits
that they would have had. Knows arrays; knows no request and no sampling.
"""

from __future__ import annotations

import numpy as np

from tte_runtime.config import PAGE_SIZE as PAGE
from tte_runtime.ops.rows.compiled import run_layers
from tte_runtime.ops.rows.numbers import entry_point
from tte_runtime.ops.rows.scoring import likeliest, score_tokens
from tte_runtime.ops.rows.sources import SOURCES


def _entry(made_of):
    @entry_point
    def run_steps(
        hidden, positions, axes, inv_freq, factor, slots, starts, table, lengths, pages, taps, tap_layer, depth, ends,
        planes, matrices, vectors, sizes, eps, shared, counters, embed, norm, output, stops, tokens,
    ):  # fmt: skip
        """Up to len(tokens) decode steps of R rows; the walk ends behind a step that draws one of `stops`.

        Args:
            hidden, positions, slots, lengths: of the first step, changed on the way; others as for `run_layers`. The
                rows' pages have room for all steps.
            embed: float32 [V, C]. norm: [C]. output: as for `score_tokens`. stops: int64 [n].
            tokens: int64 [steps, R], gets what was drawn.

        Returns:
            the steps that were made; `hidden` are the states of the last.
        """
        made_of  # noqa: B018
        rows, width = hidden.shape[0], sizes[0]
        # Typed: `run_layers` would be compiled a second time for literals.
        decode, block, me, team = np.bool_(True), np.int64(0), np.int64(0), np.int64(1)
        states, scores = np.empty((rows, width), np.float32), np.empty((rows, embed.shape[0]), np.float32)
        for step in range(tokens.shape[0]):
            run_layers(
                hidden, positions, axes, inv_freq, factor, slots, starts, table, lengths, decode, pages, taps,
                tap_layer, depth, ends, planes, matrices, vectors, sizes, eps, shared, counters, block, me, team,
            )  # fmt: skip
            states[:] = hidden[:, :width]
            score_tokens(states, norm, eps, output, scores, me, team)
            likeliest(scores, tokens[step])
            done = step + 1 == tokens.shape[0]
            for row in range(rows):
                for stop in stops:
                    done = done or tokens[step, row] == stop
            if done:
                return step + 1
            for row in range(rows):
                hidden[row, :width] = embed[tokens[step, row]]
                positions[:, row] += 1
                slots[row] = table[row, lengths[row] // PAGE] * PAGE + lengths[row] % PAGE
                lengths[row] += 1
        return 0

    return run_steps


run_steps = _entry(SOURCES)
