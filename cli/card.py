"""`dilkit card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import app, panel
from .options import NetSource, TrustCode

EPILOG = """
Examples:

`dilkit card runs/dil`

`dilkit card runs/dil --rows rows.json --out CARD.md`
"""


@app.command("card", epilog=EPILOG, rich_help_panel=panel("card"))
def card(
    net: NetSource,
    rows: Annotated[
        Path | None, typer.Option(help="Rows of `dilkit eval`, for how it restores and where it fails.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the card to this .md file [stdout].")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Write the card of a net in Markdown: what it is, what it saw, how it restores, where it fails."""
    from dilkit.evaluation.rows import read_rows
    from dilkit.report.model_card import model_card

    text = model_card(net, None if rows is None else read_rows(rows), trust_code=trust_code)
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(out)
