"""`dilkit data ...`: what is done to confounder datasets. `dilkit augment` is `dilkit data build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import augment, inspect, verify
from .base import group
from .progress import Progress, count, say

data = group("data", "Build, look into, check, change and export confounder datasets.")

data.command("build", epilog=augment.EPILOG.replace("`dilkit augment ", "`dilkit data build "))(
    augment.augment_command
)
data.command("inspect", epilog=inspect.EPILOG)(inspect.inspect_command)
data.command("verify", epilog=verify.EPILOG)(verify.verify_command)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A dataset made by `dilkit augment`.")]


@data.command("add", epilog='Example: `dilkit data add train.h5 "jpeg[10, 30]"`')
def add(
    file: File,
    distort: Annotated[str, typer.Argument(metavar="EXPRESSION", help="The confounders to add.")],
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=0, help="Processes; 0 takes every core.")
    ] = 0,
) -> None:
    """Add confounders to a dataset; an interruption leaves it as it was."""
    augment.edit([str(file)], distort, None, workers or augment.available_cores())


@data.command("drop", epilog='Example: `dilkit data drop train.h5 "awgn(5)"`')
def drop(
    file: File,
    distort: Annotated[str, typer.Argument(metavar="EXPRESSION", help="The confounders to drop.")],
) -> None:
    """Drop confounders from a dataset; an interruption leaves it as it was."""
    augment.edit([str(file)], None, distort, 1)


@data.command("merge", epilog="Example: `dilkit data merge train.1-of-2.h5 train.2-of-2.h5 --out train.h5`")
def merge(
    shards: Annotated[
        list[str] | None, typer.Argument(metavar="[SHARD...]", help="By default those beside --out.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The joined dataset.")] = Path("train.h5"),
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Accept images that look like each other.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Join the shards of a dataset into one file that refers to them."""
    augment.join_shards(shards or [], out, allow_duplicates, overwrite)


@data.command("preview", epilog="Example: `dilkit data preview train.h5 --out look.png`")
def preview(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to draw.")],
) -> None:
    """Draw a contact sheet of a dataset: some images under every distortion."""
    from dilkit.confounders.inspect import draw, rows_of_store
    from dilkit.confounders.store import Store

    draw(rows_of_store(Store(file)), out)
    say(f"{out}: drawn")


_EXPORT = """
Examples:

`dilkit data export train.h5 --to folders --out train/`

`dilkit data export train.h5 --to lmdb --label "awgn(25)" --split train --out train-lmdb/`

`dilkit data export train.h5 --to deepinv --out deepinv.h5`
"""


@data.command("export", epilog=_EXPORT)
def export(
    file: File,
    to: Annotated[
        Literal["folders", "lmdb", "deepinv", "webdataset"],
        typer.Option(help="PNG folders or LMDB as BasicSR and KAIR read them, deepinv's HDF5, or tar files."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder; for deepinv a new file.")],
    label: Annotated[list[str] | None, typer.Option(help="A confounder; again for more [all].")] = None,
    split: Annotated[str | None, typer.Option(help="Only the items of this split.")] = None,
) -> None:
    """Write a dataset in the form of another project."""
    from dilkit.confounders.interchange import export_store

    with Progress("exporting") as progress:
        made = export_store(file, out, to, labels=label or None, split=split, progress=progress)
    if made.rounded:
        say(f"clipped and rounded to 8 bits: {', '.join(made.rounded)}")
    say(f"{made.path}: {count(made.items, 'item')}, {count(len(made.names), 'confounder')}")
    print(made.path)
