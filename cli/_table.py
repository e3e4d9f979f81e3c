"""Tables on stdout: drawn on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show_table(head: Sequence[str], lines: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table; the first column is a name, the others are numbers."""
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        Console().print(table)
        return
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    if title:
        print(title)
    for line in (head, *lines):
        cells = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
