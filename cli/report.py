"""`dilkit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import app, panel
from .options import Clip, Device, Distort, complete_run, union
from .progress import Progress

EPILOG = """
Examples:

`dilkit report runs/erm runs/dil --data CBSD68 --distort "awgn[5, 10, 15, 20, 30, 40, 50]" --out report.html`

`dilkit report runs/compare --data CBSD68 --out report.html`

`dilkit report runs/erm runs/dil --rows rows.json --out report.html`
"""


@app.command("report", epilog=EPILOG, rich_help_panel=panel("report"))
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of runs or of a comparison.", autocompletion=complete_run
        ),
    ],
    out: Annotated[Path, typer.Option(help="The HTML file.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Test images: for crops, and to measure on with --distort.")
    ] = None,
    distort: Distort = None,
    protocol: Annotated[str | None, typer.Option(help="Or measure now by this protocol.")] = None,
    clip: Clip = None,
    rows: Annotated[
        Path | None, typer.Option(help="Rows of `dilkit eval` [default: what lies beside the runs].")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Differences are to this net [the first].")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "dilkit report",
    device: Device = "auto",
) -> None:
    """Write one self-contained HTML file: runs, tables, curves, crops, and the commands to make it again."""
    from dilkit.errors import UsageError

    if out.suffix not in (".html", ".htm"):
        raise UsageError("the report is an HTML file", where=out, expected=".html")
    from dilkit.evaluation.rows import read_rows
    from dilkit.report.page import build_report

    how = None
    if distort or protocol:
        from .eval import plan_protocol

        changes = {"clip": clip, "distort": union(distort)}
        how, found = plan_protocol(protocol, changes, data, None)
        data = [str(source) for source in found]
    with Progress("measuring") as count:
        made = build_report(
            runs, out, data=data, protocol=how, rows=None if rows is None else read_rows(rows),
            baseline=baseline, title=title, device=device, progress=count,
        )  # fmt: skip
    print(made)
