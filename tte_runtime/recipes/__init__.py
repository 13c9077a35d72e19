"""Recipes: how a checkpoint embeds. One file a family of recipes, and a registry that detects them.

A recipe knows prompts, tokens and readouts; it knows nothing of the cache, the engine or pictures.
"""
