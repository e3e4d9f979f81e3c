"""Counted work on stderr: a bar on a terminal, a line every five seconds elsewhere, nothing with -q."""

from __future__ import annotations

import os
import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Count:
    """`with Count("evaluating") as count: work(progress=count)`; called with (done, total)."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._quiet = bool(os.environ.get("DILKIT_QUIET"))
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            columns = (TextColumn(self.what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif not self._quiet:
            self._line(done, total)

    def _line(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._said < 5:
            return
        self._said, spent = now, now - self._started
        left = f", {spent / done * (total - done):.0f} s left" if 0 < done < total else f" in {spent:.1f} s"
        print(f"{self.what}: {done}/{total}{left}", file=sys.stderr, flush=True)
