"""How a training run is shown on stderr: live on a terminal, plain lines elsewhere, nothing with -q."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table


def describe(row: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of a row of the metrics, in order."""
    steps, step = row.get("steps"), row["step"]
    shown = {"step": f"{step}/{steps}" if steps else str(step)}
    if "loss" in row:
        shown["loss"] = f"{row['loss']:.5f}"
    for name, label in (("val/seen", "seen"), ("val/held_out", "held out")):
        if name in row:
            shown[label] = f"{row[name]:.2f} dB"
    shown["lr"] = f"{row['lr']:.1e}"
    shown["passes/s"] = f"{row['passes_per_s']:.1f}"
    if steps and step:
        shown["left"] = clock(row["seconds"] * (steps - step) / step)
    if "memory" in row:
        shown["memory"] = size(row["memory"])
    return shown


def clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02d}:{s:02d}" if hours or days else f"{minutes}:{s:02d}"
    return f"{days} d {text}" if days else text


def size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


class TrainProgress:
    """Shows rows as they come. Elsewhere than on a terminal there is a line in five seconds, and the last;
    a validation stays in view until the next."""

    def __init__(self) -> None:
        self._quiet = bool(os.environ.get("DILKIT_QUIET"))
        console = Console(stderr=True)
        live = console.is_terminal and not self._quiet
        self._live = Live(console=console, refresh_per_second=4) if live else None
        self._said = 0.0
        self._measured: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, row: Mapping[str, Any]) -> None:
        if "note" in row:
            print(f"dilkit: {row['note']}", file=sys.stderr)
            return
        if self._quiet:
            return
        measured = {k: v for k, v in row.items() if k.startswith("val/")}
        self._measured = measured or self._measured
        shown = describe({**self._measured, **row})
        if self._live is not None:
            self._live.update(_table(shown))
        elif time.monotonic() - self._said > 5 or measured or row["step"] == row.get("steps"):
            self._said = time.monotonic()
            print("  ".join(f"{name} {value}" for name, value in shown.items()), file=sys.stderr, flush=True)


def _table(shown: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in shown:
        table.add_column(name, justify="right")
    table.add_row(*shown.values())
    return table
