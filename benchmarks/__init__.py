"""Benchmarks, run from the repository's root as `python -m benchmarks.<name>`; not installed.

From a clone that was not installed, as on a machine lent for an hour, the kernels are found beside us; an installed
copy comes first.
"""

import sys
from pathlib import Path

KERNELS = str(Path(__file__).resolve().parents[1] / "kernels")
if KERNELS not in sys.path:
    sys.path.append(KERNELS)
