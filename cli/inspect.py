"""`dilkit data inspect`: what is inside a confounder dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .base import app
from .options import Json
from .output import show_json, show_table

EPILOG = """
Examples:

`dilkit data inspect train.h5`

`dilkit data inspect train.h5 --json`

`dilkit data inspect train.h5 --samples 200 --preview look.png`
"""


@app.command("inspect", epilog=EPILOG, hidden=True)
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A dataset made by `dilkit augment`.")],
    as_json: Json = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Items measured for the statistics; 0 measures none.")
    ] = 32,
    preview: Annotated[Path | None, typer.Option(help="Draw a contact sheet.")] = None,
) -> None:
    """Say what is inside a dataset: how it was made, its images, how strong its distortions are."""
    from dilkit.confounders.inspect import summarize
    from dilkit.confounders.store import Store

    summary = summarize(file)
    if samples:
        from dilkit.confounders.inspect import statistics

        for view, found in zip(
            summary["confounders"], statistics(Store(file), samples).values(), strict=True
        ):
            view["statistics"] = found
        summary["samples"] = min(samples, summary["items"]["count"])
    if preview is not None:
        from dilkit.confounders.inspect import draw, rows_of_store

        draw(rows_of_store(Store(file)), preview)
    if as_json:
        show_json(summary)
    else:
        _show(summary)


def _show(summary: dict[str, Any]) -> None:
    items = summary["items"]
    sizes = ", ".join(f"{n} of {size}" for size, n in list(items["sizes"].items())[:5])
    more = f" and {len(items['sizes']) - 5} more sizes" if len(items["sizes"]) > 5 else ""
    lines = [
        ("file", f"{summary['file']}, {summary['bytes'] / 1e6:.1f} MB, {summary['storage']}"),
        *([("joins", ", ".join(summary["shards"]))] if summary["shards"] else []),
        ("distort", summary["expression"]),
        ("hash", summary["hash"]),
        ("seed", f"{summary['seed']}, coupling {summary['coupling']}"),
        ("images", f"{items['images']}, cut into {items['count']} items: {sizes}{more}"),
        ("splits", ", ".join(f"{name} {n}" for name, n in items["splits"].items())),
        ("settings", ", ".join(f"{name} {value}" for name, value in summary["settings"].items())),
        ("policy", summary["policy"]),
        ("licence", summary["licence"] or "not stated"),
        ("made with", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
    ]
    for name, text in lines:
        print(f"{name:10} {text}")
    print()
    header = ["confounder", "stored as", "MB"]
    measured = "samples" in summary
    if measured:
        header += ["PSNR", "SSIM", "bias", "std", "mean", "low", "high", "outside"]
    rows = []
    for view in summary["confounders"]:
        row = [view["label"], view["dtype"], f"{view['bytes'] / 1e6:.1f}"]
        if measured:
            found = view["statistics"]
            row += [_number(found[name], digits) for name, digits in _DIGITS.items()]
            row.append(f"{100 * found['outside']:.1f} %")
        rows.append(row)
    show_table(header, rows)
    if measured:
        count = summary["samples"]
        print(f"\nMeans over {count} items; PSNR in dB and SSIM of the 8-bit comparison with clean;")
        print("bias and std of distorted - clean, mean and extremes of distorted, on the 0..255 scale;")
        print("share of values outside [0, 1].")


_DIGITS = {"psnr": 2, "ssim": 4, "bias": 2, "std": 2, "mean": 1, "low": 0, "high": 0}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
