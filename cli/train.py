"""`dilkit train`."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Self

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

    with TrainProgress() as progress, Signals() as signals:
        result = run(
            composed,
            out,
            resume=resume,
            command=["dilkit", *sys.argv[1:]],
            tell=progress.tell,
            stop=lambda: signals.seen is not None,
        )
    if result.stopped and signals.seen is not None:
        again = [*words, "--out", str(out), "--resume"]
        print(
            f"dilkit: saved at step {result.step}; go on with\n  dilkit train {shlex.join(again)}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + signals.seen)
    print(result.checkpoint)


class Signals:
    """SIGTERM and Ctrl-C ask for a stop after the step in hand; a second one ends the program at once."""

    def __init__(self) -> None:
        self.seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.seen = number
        signal.signal(number, signal.SIG_DFL)
