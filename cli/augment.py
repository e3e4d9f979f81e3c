"""`dilkit augment`."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dilkit.errors import DilkitError, UsageError

from .base import app, examples, panel, terminate
from .options import complete_distortion, grouped
from .progress import Progress, clock, count, quiet, say

if TYPE_CHECKING:
    from dilkit.confounders.build import Built
    from dilkit.confounders.plan import Plan

EPILOG = examples("""
dilkit augment photos/ --distort "awgn[5, 10, 15, 20]" --out train.h5
dilkit augment "scans/*.tif" a.png --distort "gaussian_blur(2) >> awgn(25) | jpeg(30)" --out mixed.h5
dilkit augment samples:train deadleaves:100 -d "awgn[5:20:5] >> clip" --tile 128 -o demo.h5 --exclude Set5
dilkit augment photos/ -d "poisson(2) >> clip >> quantize" --storage virtual --out small.h5 --dry-run
dilkit augment photos/ -d "awgn[5, 25] | jpeg(30)" --preview look.png
dilkit augment photos/ -d "awgn[5, 25]" --out train.h5 --shard 3/8
dilkit augment --merge --out train.h5
dilkit augment photos/ -d "awgn[5, 25]" --out train.h5 --on dask://scheduler:8786
dilkit augment --pairs rain=Rain100L/clean:Rain100L/rain photos/ -d "rain(0.5)" --out rain.h5
dilkit augment train.h5 --add "jpeg[10, 30]"
dilkit augment train.h5 --drop "awgn(5)"
""")


_images, _distortions, _file, _instead = map(
    grouped, ("Images", "Distortions", "The file and the run", "Instead of making a dataset")
)


@app.command("augment", epilog=EPILOG, rich_help_panel=panel("augment"))
def augment_command(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Clean images: folders, globs, files, samples:train|test|free, deadleaves:N[@SIZE], "
            "scenes:N[@SIZE].",
            show_default=False,
        ),
    ] = None,
    distort: Annotated[
        list[str] | None,
        _distortions(
            "--distort",
            "-d",
            help="The confounder set; given again, their union.",
            autocompletion=complete_distortion,
        ),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        _distortions(
            metavar="NAME=CLEAN:DEGRADED",
            help="Real pairs as a confounder: folders, patterns, NAME=LIST.csv, LMDB, HDF5; repeatable.",
        ),
    ] = None,
    draws: Annotated[int, _distortions(help="Draws stored of each random distortion.")] = 1,
    seed: Annotated[int, _distortions(help="Root of all randomness.")] = 0,
    coupling: Annotated[
        Literal["independent", "common"],
        _distortions(help="common gives all degrees of a distortion one random field."),
    ] = "independent",
    tile: Annotated[int, _images(help="Side of the square tiles in pixels; 0 keeps images whole.")] = 256,
    stride: Annotated[
        int | None, _images(help="Pixels from tile to tile; by default the tile.", show_default=False)
    ] = None,
    small: Annotated[Literal["keep", "skip"], _images(help="Images smaller than a tile.")] = "keep",
    crop_multiple: Annotated[int, _images(help="Cut the sides of images to multiples of it.")] = 1,
    alpha: Annotated[
        Literal["refuse", "black", "grey", "white"],
        _images(help="Transparent images: refuse, or a background."),
    ] = "refuse",
    validation: Annotated[float, _images(help="Share of images marked validation.")] = 0.0,
    licence: Annotated[str, _images(help="Licence of the files, recorded with each.")] = "",
    limit: Annotated[int | None, _images(help="Take only so many images.")] = None,
    exclude: Annotated[
        list[str] | None, _images(help="A test set that no image may look like; may be given again.")
    ] = None,
    allow_duplicates: Annotated[
        bool, _images("--allow-duplicates", help="Accept images that look like each other.")
    ] = False,
    allow_misaligned: Annotated[
        bool, _images("--allow-misaligned", help="Accept pairs that are shifted or show different things.")
    ] = False,
    allow_missing: Annotated[
        bool, _images("--allow-missing", help="Exit with 0 although images were left out.")
    ] = False,
    out: Annotated[Path | None, _file("--out", "-o", help="The HDF5 file to make.")] = None,
    storage: Annotated[
        Literal["stored", "virtual"],
        _file(help="virtual keeps clean images and recipe; distorted ones are made when read."),
    ] = "stored",
    workers: Annotated[int, _file("--workers", "-j", help="Processes; 0 takes every core.")] = 0,
    on: Annotated[
        str | None,
        _file("--on", metavar="PLACE", help="local:N, dask://HOST:PORT or slurm instead of --workers."),
    ] = None,
    shard: Annotated[
        str | None, _file(metavar="K/N", help="Make only part K of N, as OUT.K-of-N.h5.")
    ] = None,
    overwrite: Annotated[bool, _file("--overwrite", help="Replace an existing file.")] = False,
    restart: Annotated[bool, _file("--restart", help="Forget an unfinished run.")] = False,
    dry_run: Annotated[bool, _instead("--dry-run", help="Say how many tiles, bytes and minutes.")] = False,
    preview: Annotated[Path | None, _instead(help="Draw a contact sheet of what would be made.")] = None,
    merge: Annotated[bool, _instead("--merge", help="Join the shards SOURCE... (or OUT.*).")] = False,
    add: Annotated[str | None, _instead(help="Add confounders to the dataset SOURCE.")] = None,
    drop: Annotated[str | None, _instead(help="Drop confounders from the dataset SOURCE.")] = None,
) -> None:
    """Make a confounder dataset: every clean tile under every distortion, in one HDF5 file.

    An interrupted run goes on where it was when the command is repeated. Pixels are stored as float32, or
    as 8-bit where the expression ends on 8 bits (... >> clip >> quantize); nothing is clipped or rounded
    but by the expression.
    """
    if workers < 0:
        raise UsageError("negative number of workers", where="--workers", found=workers, expected="0 or more")
    workers = workers or available_cores()
    if add is not None or drop is not None:
        _alone(ctx, "--add and --drop change a dataset at once", _EDITING)
        return edit(sources or [], add, drop, workers)
    if merge:
        _alone(ctx, "--merge joins what is there", _MERGING)
        return join_shards(sources or [], _needed(out, "--out"), allow_duplicates, overwrite)
    settings: dict[str, Any] = {
        "tile": tile, "stride": stride if stride is not None else tile, "small": small,
        "alpha": alpha, "seed": seed, "storage": storage, "coupling": coupling,
        "validation": validation, "licence": licence, "limit": limit, "pairs": pairs or [],
        "draws": draws, "crop_multiple": crop_multiple, "allow_misaligned": allow_misaligned,
    }  # fmt: skip
    part, words = _part(shard), distort or []
    if not pairs:
        _needed(words, "--distort")
    if preview is not None or dry_run:
        from dilkit.confounders.build import part_of, plan_for, require_images

        plan, failures = plan_for(sources or [], words, **settings)
        require_images(plan, failures, plan.skipped)
        plan = part_of(plan, *part) if part else plan
        return _look(plan, len(failures), preview, dry_run, out or Path("out.h5"), workers)
    out = _needed(out, "--out")
    if part is not None:
        from dilkit.confounders.combine import shard_path

        out = shard_path(out, *part)
    return _make(
        sources or [], words, out, **settings, shard=part, exclude=exclude or [],
        allow_missing=allow_missing, allow_duplicates=allow_duplicates, workers=workers, on=on,
        overwrite=overwrite, restart=restart,
    )  # fmt: skip


def _progress() -> Progress:
    return Progress(names={"read": "reading", "distort": "distorting"})


_EDITING = frozenset(("sources", "add", "drop", "workers"))
_MERGING = frozenset(("sources", "merge", "out", "allow_duplicates", "overwrite"))


def _alone(ctx: typer.Context, what: str, heeded: frozenset[str]) -> None:
    """No option is taken without heed."""
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


def _make(
    sources: list[str],
    distort: list[str],
    out: Path,
    *,
    on: str | None = None,
    allow_missing: bool = False,
    **settings: Any,
) -> None:
    from dilkit.confounders.build import augment
    from dilkit.distortions.render import keep_freed_memory

    keep_freed_memory()
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with _progress() as progress, _place(on) as executor, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
            built = augment(sources, distort, out, progress=progress.phase, executor=executor, **settings)
    except KeyboardInterrupt:
        if Path(f"{os.path.realpath(out)}.journal").exists():
            print("dilkit: what is written is kept; repeat the command to go on", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    _report(built)
    if built.failures and not allow_missing:
        raise DilkitError(
            f"{count(len(built.failures), 'image')} left out",
            where=out,
            remedy="the dataset is whole without them; --allow-missing says that this is as it should be",
        )


def _place(on: str | None) -> AbstractContextManager[Any]:
    """The executor that --on names."""
    if on is None:
        return nullcontext()
    from dilkit.experiments.executors import opened

    return opened(on)


def _look(plan: Plan, failed: int, preview: Path | None, dry_run: bool, out: Path, workers: int) -> None:
    """Draw or estimate what would be made; the estimate is the answer, on stdout."""
    from dilkit.confounders.inspect import draw, estimate, rows_of_plan, spare_sources

    if preview is not None:
        spare_sources(plan, preview)
        draw(rows_of_plan(plan), preview)
        say(f"{preview}: drawn")
    if not dry_run:
        return
    found, small = estimate(plan, out, workers), len(plan.skipped)
    print(f"images     {found.images}" + (f", {failed} unreadable" if failed else ""))
    print(f"items      {found.items}" + (f", {count(small, 'image')} too small" if small else ""))
    for name, nbytes in found.nbytes.items():
        print(f"  {name}  {nbytes / 1e9:.3f} GB")
    lacking = "" if found.total <= found.free else ": too little"
    print(f"on disk    {found.total / 1e9:.3f} GB of {found.free / 1e9:.1f} GB free{lacking}")
    print(f"time       about {clock(found.seconds)} with {count(workers, 'worker')}")


def join_shards(sources: list[str], out: Path, allow_duplicates: bool, overwrite: bool) -> None:
    from dilkit.confounders import combine
    from dilkit.confounders.store import Store

    made = combine.merge(
        sources or combine.shards_of(out), out, allow_duplicates=allow_duplicates, overwrite=overwrite
    )
    store = Store(made)
    say(f"{made}: {len(store)} items in {len(store.header.shards)} shards joined")


def edit(sources: list[str], add: str | None, drop: str | None, workers: int) -> None:
    from dilkit.confounders import combine

    if len(sources) != 1:
        raise UsageError(
            "--add and --drop change one dataset", found=f"{len(sources)} sources",
            remedy='for example: dilkit augment train.h5 --add "jpeg(30)"',
        )  # fmt: skip
    if add is not None and drop is not None:
        combine.check_drop(sources[0], drop, add)
    if add is not None:
        with _progress() as progress:
            labels = combine.add(sources[0], add, workers=workers, progress=progress.phase)
        for label in labels:
            say(f"added {label}")
    if drop is not None:
        for label in combine.drop(sources[0], drop):
            say(f"dropped {label}")


def _needed(value: Any, option: str) -> Any:
    if not value:
        raise UsageError(
            f"{option} is missing",
            remedy='for example: dilkit augment photos/ --distort "awgn[5, 10, 15, 20]" --out train.h5',
        )
    return value


def _part(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match:
        raise UsageError("no such shard", where="--shard", found=shard, expected="K/N, such as 3/8")
    return int(match[1]), int(match[2])


def _report(built: Built) -> None:
    """What was made; images left out are named even when quiet."""
    for failure in built.failures:
        print(f"left out: {failure.name}: {failure.reason}", file=sys.stderr)
    if quiet():
        return
    if built.resumed:
        say("went on from an interrupted run")
    if built.skipped:
        say(f"skipped: {count(len(built.skipped), 'image')} smaller than a tile")
    if built.sizes > 1:
        say(f"items of {built.sizes} sizes: /clean and the others have the size of the greatest, with zeros "
            "beside smaller items (/index/h, /index/w)")  # fmt: skip
    failed = f", {count(len(built.failures), 'image')} left out" if built.failures else ""
    made = f"{count(built.items, 'item')} from {count(built.images, 'image')}"
    say(
        f"{built.path}: {made}, {count(len(built.labels), 'confounder')}, "
        f"{built.nbytes / 1e6:.1f} MB, {built.seconds:.1f} s{failed}"
    )
