"""Tables and JSON on stdout: drawn on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from dilkit.errors import printable


def show_json(value: Any) -> None:
    """Print plain values as JSON; NaN and infinity are refused, since JSON has none."""
    print(json.dumps(value, indent=1, allow_nan=False))


def show_table(
    header: Sequence[str], lines: Sequence[Sequence[str]], *, title: str = "", numbers: bool = True
) -> None:
    """Print a table; the first column is a name, the others are numbers, or text if told so."""
    lines = [[printable(cell, keep="") for cell in line] for line in lines]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i and numbers else "left", no_wrap=numbers)
        for line in lines:
            table.add_row(*line)
        Console(markup=False).print(table)
        return
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    if title:
        print(title)
    for line in (header, *lines):
        cells = (
            cell.rjust(w) if i and numbers else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
