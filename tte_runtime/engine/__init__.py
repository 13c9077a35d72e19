"""The engine: requests of token ids in, vectors out, in one pass over a paged cache.

It never sees a picture, a string or a recipe's name: only token ids, handles of vision features, positions,
and a readout. Life of a step: schedule, forward, sample, read out (`engine.py`).
"""
