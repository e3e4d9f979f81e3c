"""Tables on stdout: drawn on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show_table(
    head: Sequence[str], lines: Sequence[Sequence[str]], *, title: str = "", numbers: bool = True
) -> None:
    """Print a table; the first column is a name, the others are numbers, or text if told so."""
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i and numbers else "left", no_wrap=numbers)
        for line in lines:
            table.add_row(*line)
        Console().print(table)
        return
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    if title:
        print(title)
    for line in (head, *lines):
        cells = (
            cell.rjust(w) if i and numbers else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
