"""Recipes: how a checkpoint embeds. One file a family of recipes, a registry of them, and detection from a checkpoint.

A recipe knows prompts, tokens and readouts; it knows nothing of the cache, the engine or pictures.
"""
