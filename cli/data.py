"""`dilkit data ...`: what is done to confounder datasets. `dilkit augment` is `dilkit data build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import augment
from .base import app, examples, group
from .options import Json, Workers
from .output import show_json, show_table
from .progress import Progress, count, say

data = group("data", "Build, look into, check, change and export confounder datasets.")
data.command("build", epilog=augment.EPILOG.replace("`dilkit augment ", "`dilkit data build "))(
    augment.augment_command
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A dataset made by `dilkit augment`.")]

_INSPECT = examples("""
dilkit data inspect train.h5
dilkit data inspect train.h5 --json
dilkit data inspect train.h5 --samples 200 --preview look.png
""")


@app.command("inspect", epilog=_INSPECT, hidden=True)
@data.command("inspect", epilog=_INSPECT)
def inspect(
    file: File,
    as_json: Json = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Items measured for the statistics; 0 measures none.")
    ] = 32,
    preview: Annotated[Path | None, typer.Option(help="Draw a contact sheet.")] = None,
) -> None:
    """Say what is inside a dataset: how it was made, its images, how strong its distortions are."""
    from dilkit.confounders.inspect import statistics, summarize
    from dilkit.confounders.store import Store

    summary = summarize(file)
    if samples:
        measured = statistics(Store(file), samples).values()
        for confounder, found in zip(summary["confounders"], measured, strict=True):
            confounder["statistics"] = found
        summary["samples"] = min(samples, summary["items"]["count"])
    if preview is not None:
        _draw(file, preview)
    if as_json:
        show_json(summary)
    else:
        _show_summary(summary)


def _draw(file: Path, out: Path) -> None:
    from dilkit.confounders.inspect import draw, rows_of_store
    from dilkit.confounders.store import Store

    draw(rows_of_store(Store(file)), out)


def _show_summary(summary: dict[str, Any]) -> None:
    items = summary["items"]
    sizes = ", ".join(f"{n} of {size}" for size, n in list(items["sizes"].items())[:5])
    more = f" and {len(items['sizes']) - 5} more sizes" if len(items["sizes"]) > 5 else ""
    lines = {
        "file": f"{summary['file']}, {summary['bytes'] / 1e6:.1f} MB, {summary['storage']}",
        "joins": ", ".join(summary["shards"]),
        "distort": summary["expression"],
        "hash": summary["hash"],
        "seed": f"{summary['seed']}, coupling {summary['coupling']}",
        "images": f"{items['images']}, cut into {items['count']} items: {sizes}{more}",
        "splits": ", ".join(f"{name} {n}" for name, n in items["splits"].items()),
        "settings": ", ".join(f"{name} {value}" for name, value in summary["settings"].items()),
        "policy": summary["policy"],
        "licence": summary["licence"] or "not stated",
        "made with": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    }
    for name, text in lines.items():
        if text or name != "joins":
            print(f"{name:10} {text}")
    print()
    header = ["confounder", "stored as", "MB"]
    rows = [[each["label"], each["dtype"], f"{each['bytes'] / 1e6:.1f}"] for each in summary["confounders"]]
    if "samples" not in summary:
        show_table(header, rows)
        return
    digits = {"psnr": 2, "ssim": 4, "bias": 2, "std": 2, "mean": 1, "low": 0, "high": 0}
    for row, each in zip(rows, summary["confounders"], strict=True):
        found = each["statistics"]
        row += ["-" if found[name] is None else f"{found[name]:.{n}f}" for name, n in digits.items()]
        row.append(f"{100 * found['outside']:.1f} %")
    show_table([*header, "PSNR", "SSIM", "bias", "std", "mean", "low", "high", "outside"], rows)
    print(f"\nMeans over {summary['samples']} items; PSNR in dB and SSIM of the 8-bit comparison with clean;")
    print("bias and std of distorted - clean, mean and extremes of distorted, on the 0..255 scale;")
    print("share of values outside [0, 1].")


_VERIFY = examples("""
dilkit data verify train.h5
dilkit data verify train.h5 --samples 1000
""")


@app.command("verify", epilog=_VERIFY, hidden=True)
@data.command("verify", epilog=_VERIFY)
def verify(
    file: File,
    samples: Annotated[int, typer.Option(min=0, help="Random views to make again and compare.")] = 32,
    seed: Annotated[int, typer.Option(help="Of their choice.")] = 0,
) -> None:
    """Check every digest of a dataset, and make random views again.

    Exit code 1 if anything is wrong, 2 if the file is no dataset that can be opened.
    """
    from dilkit.confounders.inspect import verify as run
    from dilkit.errors import DilkitError

    with Progress("verifying") as counted:
        verdict = run(file, samples=samples, seed=seed, progress=counted)
    for fault in verdict.faults:
        print(fault)
    if not verdict.sound:
        raise DilkitError(
            count(len(verdict.faults), "fault"), where=file, remedy="copy the file again, or make it again"
        )
    made = f"{count(verdict.items, 'item')} checked, {count(verdict.remade, 'view')} made again"
    print(f"{file}: sound, {made}")


@data.command("add", epilog='Example: `dilkit data add train.h5 "jpeg[10, 30]"`')
def add(
    file: File,
    distort: Annotated[str, typer.Argument(metavar="EXPRESSION", help="The confounders to add.")],
    workers: Workers = 0,
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
    _draw(file, out)
    say(f"{out}: drawn")


_EXPORT = examples("""
dilkit data export train.h5 --to folders --out train/
dilkit data export train.h5 --to lmdb --label "awgn(25)" --split train --out train-lmdb/
dilkit data export train.h5 --to deepinv --out deepinv.h5
""")


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
