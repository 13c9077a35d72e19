"""How the bundled checkpoint `tte-tiny` is made: `python -m tte_runtime.training.tiny --out FOLDER`.

Rooms, one a stage: `tower` (0), `traces` (1), `reasoner` (2), `head` (3); `tiny` is the preset that runs
them. Needs transformers' Trainer (and accelerate); nothing of the engine. Serving never imports this
package.
"""

from tte_runtime import compat as compat
