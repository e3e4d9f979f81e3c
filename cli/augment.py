"""`dilkit augment`."""

from __future__ import annotations

import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app

if TYPE_CHECKING:
    from dilkit.confounders.builder import Built

_EPILOG = """
Examples:

`dilkit augment photos/ --distort "awgn[5, 10, 15, 20]" --out train.h5`

`dilkit augment "scans/*.tif" a.png --distort "gaussian_blur(2) >> awgn(25) | jpeg(30)" --out mixed.h5`

`dilkit augment samples:train deadleaves:100 --distort "awgn[5:20:5] >> clip" --tile 128 --out demo.h5`

`dilkit augment photos/ --distort "poisson(2) >> clip >> quantize" --storage virtual --out small.h5`
"""


class Storage(StrEnum):
    stored = "stored"
    virtual = "virtual"


class Coupling(StrEnum):
    independent = "independent"
    common = "common"


class Small(StrEnum):
    keep = "keep"
    skip = "skip"


class Alpha(StrEnum):
    refuse = "refuse"
    black = "black"
    grey = "grey"
    white = "white"


@app.command("augment", epilog=_EPILOG)
def augment_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Clean images: folders, globs, files, samples:train, samples:test, deadleaves:N[@SIZE].",
        ),
    ],
    distort: Annotated[
        list[str], typer.Option("--distort", "-d", help="The confounder set; given again, their union.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HDF5 file to make.")],
    tile: Annotated[
        int, typer.Option(help="Side of the square tiles in pixels; 0 keeps images whole.")
    ] = 256,
    stride: Annotated[
        int | None, typer.Option(help="Pixels from tile to tile; by default the tile.", show_default=False)
    ] = None,
    small: Annotated[Small, typer.Option(help="Images smaller than a tile.")] = Small.keep,
    alpha: Annotated[Alpha, typer.Option(help="Transparent images: refuse, or a background.")] = Alpha.refuse,
    seed: Annotated[int, typer.Option(help="Root of all randomness.")] = 0,
    storage: Annotated[
        Storage, typer.Option(help="virtual keeps clean images and recipe; views are made when read.")
    ] = Storage.stored,
    coupling: Annotated[
        Coupling, typer.Option(help="common gives all degrees of a distortion one random field.")
    ] = Coupling.independent,
    validation: Annotated[float, typer.Option(help="Share of images marked validation.")] = 0.0,
    licence: Annotated[str, typer.Option(help="Licence of the files, recorded with each.")] = "",
    limit: Annotated[int | None, typer.Option(help="Take only so many images.")] = None,
    workers: Annotated[int, typer.Option("--workers", "-j", help="Processes; 0 takes every core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget an unfinished run.")] = False,
) -> None:
    """Make a confounder dataset: every clean tile under every distortion, in one HDF5 file.

    An interrupted run goes on where it was when the command is repeated. Pixels are stored as float32, or
    as 8-bit where the expression ends on 8 bits (... >> clip >> quantize); nothing is clipped or rounded
    but by the expression.
    """
    from dilkit.confounders.builder import augment
    from dilkit.errors import UsageError

    if workers < 0:
        raise UsageError("negative number of workers", where="--workers", found=workers, expected="0 or more")
    with BuildProgress() as progress:
        built = augment(
            sources, distort, out,
            tile=tile, stride=stride if stride is not None else tile, small=small.value, alpha=alpha.value,
            seed=seed, storage=storage.value, coupling=coupling.value, validation=validation, licence=licence,
            limit=limit, workers=workers or len(os.sched_getaffinity(0)), overwrite=overwrite,
            restart=restart, progress=progress,
        )  # fmt: skip
    _report(built)


def _report(built: Built) -> None:
    def say(text: str) -> None:
        print(text, file=sys.stderr)

    for failure in built.failures:
        say(f"left out: {failure.name}: {failure.reason}")
    if os.environ.get("DILKIT_QUIET"):
        return
    if built.skipped:
        say(f"skipped: {len(built.skipped)} images smaller than a tile")
    failed = f", {len(built.failures)} images left out" if built.failures else ""
    say(
        f"{built.path}: {built.items} items from {built.images} images, {len(built.labels)} confounders, "
        f"{built.nbytes / 1e6:.1f} MB, {built.seconds:.1f} s{failed}"
    )


_PHASES = {"read": "reading", "distort": "distorting"}


class BuildProgress:
    """Items per second and time left on stderr: a bar on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        self._quiet = bool(os.environ.get("DILKIT_QUIET"))
        self._bar = None
        self._phase = ""

    def __enter__(self) -> BuildProgress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._quiet:
            return
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._first, self._said = phase, now, done, now
            if self._bar is not None:
                self._task = self._bar.add_task(_PHASES[phase], total=total, rate="")
        rate = (done - self._first) / max(now - self._began, 1e-6)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.0f} images/s")
        elif done == total or now - self._said >= 5:
            self._said = now
            left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate else ""
            print(
                f"{_PHASES[phase]}: {done}/{total} images, {rate:.0f} images/s{left}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
