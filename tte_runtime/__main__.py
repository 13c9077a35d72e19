"""`python -m tte_runtime` is `tte`."""

from __future__ import annotations

from tte_runtime.cli import main

if __name__ == "__main__":
    main(prog_name="tte")
