"""`dilkit restore`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .base import app, panel
from .options import Device, NetSource, TrustCode
from .progress import Progress

EPILOG = """
Examples:

`dilkit restore runs/dil/checkpoints/last.safetensors photos --out restored`

`dilkit restore net.safetensors scan.tif --out restored --tile 1024 --halo 64`

`dilkit restore net.safetensors photos --out restored --existing skip --processes 4`
"""


@app.command("restore", epilog=EPILOG, rich_help_panel=panel("restore"))
def restore(
    net: NetSource,
    inputs: Annotated[list[Path], typer.Argument(metavar="IMG|DIR...", help="Images and folders.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    tile: Annotated[
        int, typer.Option(min=0, help="Pixels of a tile's side; 0 takes every image whole.")
    ] = 512,
    halo: Annotated[
        int, typer.Option(min=0, help="Context around a tile: how far the net looks, or more.")
    ] = 32,
    feather: Annotated[
        int, typer.Option(min=1, help="Width of the zone in which tiles fade into each other.")
    ] = 16,
    existing: Annotated[
        Literal["refuse", "skip", "replace"], typer.Option(help="Outputs that are there already.")
    ] = "refuse",
    device: Device = "auto",
    trust_code: TrustCode = False,
    processes: Annotated[int, typer.Option(min=1, help="Images restored at a time.")] = 1,
) -> None:
    """Restore images with a trained net.

    Depth, grey, alpha, colour profile, EXIF and folders are kept. Inputs are never overwritten.
    """
    from dilkit.errors import DilkitError
    from dilkit.inference.forward import Tiling
    from dilkit.inference.restore import restore as run

    tiling = Tiling(tile, halo, feather) if tile else None
    with Progress("restoring", unit="images") as count:
        outcomes = run(
            net, inputs, out, tiling=tiling, existing=existing, trust_code=trust_code,
            device=device, processes=processes, progress=count,
        )  # fmt: skip
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in outcomes:
        if not outcome.error:
            print(outcome.job.target)
    for outcome in failed:
        print(f"{outcome.job.source}: {outcome.error}", file=sys.stderr)
    if failed:
        raise DilkitError(f"{len(failed)} of {len(outcomes)} images could not be restored; the rest is done")
