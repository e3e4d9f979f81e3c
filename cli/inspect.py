"""`dilkit inspect`: what is inside a confounder dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app

_EPILOG = """
Examples:

`dilkit inspect train.h5`

`dilkit inspect train.h5 --json`
"""


@app.command("inspect", epilog=_EPILOG)
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A dataset made by `dilkit augment`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what is inside a confounder dataset: how it was made, its images, its confounders."""
    from dilkit.confounders.summary import summarize

    summary = summarize(file)
    if as_json:
        print(json.dumps(summary, indent=1, allow_nan=False))
    else:
        _show(summary)


def _show(summary: dict[str, Any]) -> None:
    from ._table import show_table

    items = summary["items"]
    sizes = ", ".join(f"{n} of {size}" for size, n in items["sizes"].items())
    lines = [
        ("file", f"{summary['file']}, {summary['bytes'] / 1e6:.1f} MB, {summary['storage']}"),
        ("distort", summary["expression"]),
        ("hash", summary["hash"]),
        ("seed", f"{summary['seed']}, coupling {summary['coupling']}"),
        ("images", f"{items['images']}, cut into {items['count']} items: {sizes}"),
        ("splits", ", ".join(f"{name} {n}" for name, n in items["splits"].items())),
        ("settings", ", ".join(f"{name} {value}" for name, value in summary["settings"].items())),
        ("policy", summary["policy"]),
        ("licence", summary["licence"] or "not stated"),
        ("made with", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
    ]
    for name, text in lines:
        print(f"{name:10} {text}")
    print()
    head = ["confounder", "stored as", "scale", "MB"]
    rows = [
        [view["label"], view["dtype"], str(view["scale"]), f"{view['bytes'] / 1e6:.1f}"]
        for view in summary["confounders"]
    ]
    show_table(head, rows)
