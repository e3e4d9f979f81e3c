"""`dilkit augment`."""

from __future__ import annotations

import os
import re
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._build import BuildProgress, report, say, show_estimate
from .app import app

if TYPE_CHECKING:
    from dilkit.confounders.plan import Plan

_EPILOG = """
Examples:

`dilkit augment photos/ --distort "awgn[5, 10, 15, 20]" --out train.h5`

`dilkit augment "scans/*.tif" a.png --distort "gaussian_blur(2) >> awgn(25) | jpeg(30)" --out mixed.h5`

`dilkit augment samples:train deadleaves:100 -d "awgn[5:20:5] >> clip" --tile 128 -o demo.h5 --exclude Set5`

`dilkit augment photos/ -d "poisson(2) >> clip >> quantize" --storage virtual --out small.h5 --dry-run`

`dilkit augment photos/ -d "awgn[5, 25] | jpeg(30)" --preview look.png`

`dilkit augment photos/ -d "awgn[5, 25]" --out train.h5 --shard 3/8`, on 8 machines, then
`dilkit augment --merge --out train.h5`

`dilkit augment train.h5 --add "jpeg[10, 30]"`, `dilkit augment train.h5 --drop "awgn(5)"`
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


_OTHER = "Instead of making a dataset"


@app.command("augment", epilog=_EPILOG)
def augment_command(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Clean images: folders, globs, files, samples:train, samples:test, deadleaves:N[@SIZE].",
            show_default=False,
        ),
    ] = None,
    distort: Annotated[
        list[str] | None,
        typer.Option("--distort", "-d", help="The confounder set; given again, their union."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HDF5 file to make.")] = None,
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
    exclude: Annotated[
        list[str] | None, typer.Option(help="A test set that no image may look like; may be given again.")
    ] = None,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Accept images that look like each other.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", "-j", help="Processes; 0 takes every core.")] = 0,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Make only part K of N, as OUT.K-of-N.h5.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget an unfinished run.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say how many tiles, bytes and minutes.", rich_help_panel=_OTHER),
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Draw a contact sheet of what would be made.", rich_help_panel=_OTHER)
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join the shards SOURCE... (or OUT.*).", rich_help_panel=_OTHER)
    ] = False,
    add: Annotated[
        str | None, typer.Option(help="Add confounders to the dataset SOURCE.", rich_help_panel=_OTHER)
    ] = None,
    drop: Annotated[
        str | None, typer.Option(help="Drop confounders from the dataset SOURCE.", rich_help_panel=_OTHER)
    ] = None,
) -> None:
    """Make a confounder dataset: every clean tile under every distortion, in one HDF5 file.

    An interrupted run goes on where it was when the command is repeated. Pixels are stored as float32, or
    as 8-bit where the expression ends on 8 bits (... >> clip >> quantize); nothing is clipped or rounded
    but by the expression.
    """
    from dilkit.errors import UsageError

    if workers < 0:
        raise UsageError("negative number of workers", where="--workers", found=workers, expected="0 or more")
    workers = workers or available_cores()
    if add is not None or drop is not None:
        _alone(ctx, "--add and --drop change a dataset at once", _EDITING)
        return _edit(sources or [], add, drop, workers)
    if merge:
        _alone(ctx, "--merge joins what is there", _MERGING)
        return _merge(sources or [], _needed(out, "--out"), allow_duplicates, overwrite)
    settings: dict[str, Any] = {
        "tile": tile, "stride": stride if stride is not None else tile, "small": small.value,
        "alpha": alpha.value, "seed": seed, "storage": storage.value, "coupling": coupling.value,
        "validation": validation, "licence": licence, "limit": limit,
    }  # fmt: skip
    part = _part(shard)
    if preview is not None or dry_run:
        from dilkit.confounders.build import part_of, plan_for, require_images

        plan, failures = plan_for(sources or [], _needed(distort, "--distort"), **settings)
        require_images(plan, failures, plan.skipped)
        plan = part_of(plan, *part) if part else plan
        return _look(plan, len(failures), preview, dry_run, out or Path("out.h5"), workers)
    out = _needed(out, "--out")
    if part is not None:
        from dilkit.confounders.combine import shard_path

        out = shard_path(out, *part)
    return _make(
        sources or [], _needed(distort, "--distort"), out, **settings, shard=part, exclude=exclude or [],
        allow_duplicates=allow_duplicates, workers=workers, overwrite=overwrite, restart=restart,
    )  # fmt: skip


_EDITING = frozenset(("sources", "add", "drop", "workers"))
_MERGING = frozenset(("sources", "merge", "out", "allow_duplicates", "overwrite"))


def _alone(ctx: typer.Context, what: str, heeded: frozenset[str]) -> None:
    """No option is taken without heed."""
    from dilkit.errors import UsageError

    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in heeded and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"{what}; this option does not go with it",
                found="--" + name.replace("_", "-"),
                expected=", ".join("--" + name.replace("_", "-") for name in sorted(heeded - {"sources"})),
            )


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make(sources: list[str], distort: list[str], out: Path, **settings: Any) -> None:
    from dilkit.confounders.build import augment
    from dilkit.distortions._memory import keep_freed_memory

    keep_freed_memory()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # job schedulers end a run with it
    try:
        with BuildProgress() as progress:
            built = augment(sources, distort, out, progress=progress, **settings)
    except KeyboardInterrupt:
        if Path(f"{os.path.realpath(out)}.journal").exists():
            print("dilkit: what is written is kept; repeat the command to go on", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    report(built)


def _look(plan: Plan, failed: int, preview: Path | None, dry_run: bool, out: Path, workers: int) -> None:
    if preview is not None:
        from dilkit.confounders.inspect import draw, rows_of_plan, spare_sources

        spare_sources(plan, preview)
        draw(rows_of_plan(plan), preview)
        say(f"{preview}: drawn")
    if dry_run:
        from dilkit.confounders.inspect import estimate

        show_estimate(estimate(plan, out, workers), failed, len(plan.skipped), workers)


def _merge(sources: list[str], out: Path, allow_duplicates: bool, overwrite: bool) -> None:
    from dilkit.confounders.combine import merge, shards_of
    from dilkit.confounders.store import Store

    made = merge(sources or shards_of(out), out, allow_duplicates=allow_duplicates, overwrite=overwrite)
    store = Store(made)
    say(f"{made}: {len(store)} items in {len(store.head.shards)} shards joined")


def _edit(sources: list[str], add: str | None, drop: str | None, workers: int) -> None:
    from dilkit.confounders import combine as edit
    from dilkit.errors import UsageError

    if len(sources) != 1:
        raise UsageError(
            "--add and --drop change one dataset", found=f"{len(sources)} sources",
            remedy='for example: dilkit augment train.h5 --add "jpeg(30)"',
        )  # fmt: skip
    if add is not None and drop is not None:
        edit.check_drop(sources[0], drop, add)
    if add is not None:
        with BuildProgress() as progress:
            labels = edit.add(sources[0], add, workers=workers, progress=progress)
        for label in labels:
            say(f"added {label}")
    if drop is not None:
        for label in edit.drop(sources[0], drop):
            say(f"dropped {label}")


def _needed(value: Any, option: str) -> Any:
    from dilkit.errors import UsageError

    if not value:
        raise UsageError(
            f"{option} is missing",
            remedy='for example: dilkit augment photos/ --distort "awgn[5, 10, 15, 20]" --out train.h5',
        )
    return value


def _part(shard: str | None) -> tuple[int, int] | None:
    from dilkit.errors import UsageError

    if shard is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match:
        raise UsageError("no such shard", where="--shard", found=shard, expected="K/N, such as 3/8")
    return int(match[1]), int(match[2])
