"""`dilkit data verify`: whether a dataset is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import app
from .progress import Progress, count

EPILOG = """
Examples:

`dilkit data verify train.h5`

`dilkit data verify train.h5 --samples 1000`
"""


@app.command("verify", epilog=EPILOG, hidden=True)
def verify_command(
    file: Annotated[Path, typer.Argument(help="A dataset made by `dilkit augment`.")],
    samples: Annotated[int, typer.Option(min=0, help="Random views to make again and compare.")] = 32,
    seed: Annotated[int, typer.Option(help="Of their choice.")] = 0,
) -> None:
    """Check every digest of a dataset, and make random views again.

    Exit code 1 if anything is wrong, 2 if the file is no dataset that can be opened.
    """
    from dilkit.confounders.inspect import verify
    from dilkit.errors import DilkitError

    with Progress("verifying") as counted:
        verdict = verify(file, samples=samples, seed=seed, progress=counted)
    for fault in verdict.faults:
        print(fault)
    if not verdict.sound:
        raise DilkitError(
            count(len(verdict.faults), "fault"), where=file, remedy="copy the file again, or make it again"
        )
    made = f"{count(verdict.items, 'item')} checked, {count(verdict.remade, 'view')} made again"
    print(f"{file}: sound, {made}")
