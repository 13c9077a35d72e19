"""Evaluation: the plain transformers baseline, and measures of traces and retrieval."""
