"""`dilkit report`."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .base import app, examples, panel
from .options import Baseline, Clip, Device, Distort, TrustCode, complete_run, union
from .progress import Progress

EPILOG = examples("""
dilkit report runs/erm runs/dil --data CBSD68 --distort "awgn[5, 10, 15, 20, 30, 40, 50]" --out report.html
dilkit report runs/compare --data CBSD68 --out report.html
dilkit report runs/erm runs/dil --rows rows.json --out report.html
""")


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
    baseline: Baseline = None,
    reference: Annotated[
        str | None, typer.Option(help="Printed numbers to show beside: paper, idf, classic or all.")
    ] = None,
    trust_code: TrustCode = False,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "dilkit report",
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    device: Device = "auto",
) -> None:
    """Write one self-contained HTML file: runs, tables, curves, crops, and the commands to make it again."""
    from dilkit.errors import DilkitError, UsageError

    if out.suffix not in (".html", ".htm"):
        raise UsageError("the report is an HTML file", where=out, expected=".html")
    from dilkit.evaluation.rows import read_rows
    from dilkit.report.page import build_report

    how, sources = None, list(data) if data else None
    if distort or protocol:
        from .eval import plan_protocol

        changes = {"clip": clip, "distort": union(distort)}
        how, found = plan_protocol(protocol, changes, data, None)
        sources = found
    with Progress("measuring") as count:
        made = build_report(
            runs, out, data=sources, protocol=how, rows=None if rows is None else read_rows(rows),
            baseline=baseline, reference=reference, title=title, trust_code=trust_code, device=device,
            progress=count,
        )  # fmt: skip
    print(made.path)
    for line in made.missing:
        print(f"dilkit: not in the report: {line}", file=sys.stderr)
    if open_page:
        webbrowser.open(made.path.resolve().as_uri())
    if not made.measured:
        raise DilkitError(
            "the report holds no measurement",
            where=made.path,
            remedy="give --data and --distort (or --protocol) to measure now, or --rows FILE",
        )
