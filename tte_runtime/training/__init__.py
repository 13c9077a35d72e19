"""Training: `stages/` are the commands of `tte train` on one's own base and data, `tiny` the preset of tte-tiny.

The stages stand on examples (data), feeding (what serving feeds for an item), base (a model to train), states and
vectors (its forward pass), objectives (losses), loop (Trainer) and written (files). The preset shares the last four of
these; its own are tower, traces, reasoner, head and the scenes behind them. Needs transformers' Trainer, peft and
sentence-transformers. Serving never imports this package.
"""

from tte_runtime import compat as compat
