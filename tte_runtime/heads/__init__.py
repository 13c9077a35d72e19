"""Embedding heads (the paper's unified model, TTE_u): what reads a vector from tapped hidden states."""

from tte_runtime import compat as compat
