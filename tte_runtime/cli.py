"""The command line `tte`: its commands in one group. stdout is data, stderr is talk.

Imports neither torch nor a model, so that `--help` answers at once; every command imports what it needs when it
runs. Knows nothing of what the commands do.
"""

from __future__ import annotations

import click

from tte_runtime import __version__
from tte_runtime.commands.embed import embed
from tte_runtime.commands.evaluate import evaluate
from tte_runtime.commands.export import export
from tte_runtime.commands.group import PlainGroup
from tte_runtime.commands.index import index
from tte_runtime.commands.info import env
from tte_runtime.commands.recipes import recipes
from tte_runtime.commands.traces import traces
from tte_runtime.commands.train import train
from tte_runtime.demo.command import demo


@click.group(cls=PlainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tte-runtime %(version)s")
def main() -> None:
    """Think, then embed: one pass from pictures and text to a trace and a vector.

    Data goes to stdout; talk (traces, progress, errors) to stderr. Exit codes: 0 all is well, 1 some requests failed,
    2 refused at the door.
    """


for command in (demo, embed, index, recipes, traces, evaluate, export, train, env):
    main.add_command(command)
