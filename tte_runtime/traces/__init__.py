"""Traces as things that are kept: what one is, what decides it, and where it is stored. Knows no model."""
