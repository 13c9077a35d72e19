"""Models: one decoder for all families, weights straight into merged tensors, and the vision towers.

Knows nothing of scheduling, requests or recipes.
"""

from tte_runtime import compat as compat
