"""Evaluation: the plain transformers baseline, and measures of traces and retrieval."""

from tte_runtime import compat as compat
