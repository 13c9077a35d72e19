"""Inputs: from what a user gives to token ids, positions and patches. Runs in a pool beside the engine's loop."""

from tte_runtime import compat as compat
