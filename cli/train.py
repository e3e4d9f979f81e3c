"""`dilkit train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import app

_EPILOG = """
Examples:

`dilkit train denoise-gaussian-small data.store=bsd400.h5 objective.name=dil_sf seed=1 --out runs/sf-1`

`dilkit train denoise-gaussian data.store=df2k.h5 model.equivariant=true hardware.device=cuda --out runs/eq`

`dilkit train mine.yaml optim.lr=1e-4 --out runs/mine --resume`
"""


@app.command(epilog=_EPILOG)
def train(
    words: Annotated[
        list[str], typer.Argument(metavar="RECIPE [PART...] [KEY.PATH=VALUE...]", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="The run's folder [default: runs/RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
) -> None:
    """Train a net: recipes and parts composed from left to right, then single settings."""
    from dilkit.recipe import compose

    composed = compose(words)
    out = out or Path("runs") / Path(next(w for w in words if "=" not in w)).stem

    from dilkit.training import train as run

    from ._progress import TrainProgress

    with TrainProgress() as progress:
        result = run(composed, out, resume=resume, command=["dilkit", *sys.argv[1:]], tell=progress.tell)
    print(result.checkpoint)
