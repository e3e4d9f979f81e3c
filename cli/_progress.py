"""How a training run is shown on stderr: live on a terminal, plain lines elsewhere, nothing with -q."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text


def describe(row: Mapping[str, Any]) -> str:
    """One line for a row of the metrics."""
    steps = row.get("steps")
    done = f"{row['step']}/{steps}" if steps else str(row["step"])
    parts = [
        f"step {done}",
        f"loss {row['loss']:.5f}",
        f"lr {row['lr']:.2e}",
        f"{row['passes_per_s']:.1f} passes/s",
    ]
    if steps and row["step"]:
        parts.append(f"{clock(row['seconds'] * (steps - row['step']) / row['step'])} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class TrainProgress:
    """Shows rows as they come; plain lines are at most one in five seconds, and the last."""

    def __init__(self) -> None:
        self._quiet = bool(os.environ.get("DILKIT_QUIET"))
        console = Console(stderr=True)
        self._live = (
            Live(console=console, refresh_per_second=4) if console.is_terminal and not self._quiet else None
        )
        self._said = 0.0

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
        elif self._quiet:
            return
        elif self._live is not None:
            self._live.update(Text(describe(row)))
        elif time.monotonic() - self._said > 5 or row["step"] == row.get("steps"):
            self._said = time.monotonic()
            print(describe(row), file=sys.stderr, flush=True)
