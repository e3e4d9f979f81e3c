"""How the making of a dataset is shown on stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from dilkit.confounders.build import Built
    from dilkit.confounders.inspect import Estimate

_PHASES = {"read": "reading", "distort": "distorting"}


class BuildProgress:
    """Items per second and time left on stderr: a bar on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        self._quiet = bool(os.environ.get("DILKIT_QUIET"))
        self._bar: Progress | None = None
        self._phase = ""

    def __enter__(self) -> BuildProgress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._quiet:
            return
        now = time.monotonic()
        if phase != self._phase and done == total:  # an earlier run did it all
            return
        if phase != self._phase:
            self._phase, self._began, self._first, self._said = phase, now, done, now
            if self._bar is not None:
                self._task = self._bar.add_task(_PHASES[phase], total=total, rate="")
        rate = (done - self._first) / max(now - self._began, 1e-6)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.0f} items/s")
        elif done == total or now - self._said >= 5:
            self._said = now
            left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate else ""
            print(
                f"{_PHASES[phase]}: {done}/{total} items, {rate:.0f} items/s{left}",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def say(text: str) -> None:
    """A line on stderr, unless asked to be quiet."""
    if not os.environ.get("DILKIT_QUIET"):
        print(text, file=sys.stderr)


def report(built: Built) -> None:
    """What was made; images left out are named even when quiet."""
    for failure in built.failures:
        print(f"left out: {failure.name}: {failure.reason}", file=sys.stderr)
    if built.resumed:
        say("went on from an interrupted run")
    if built.skipped:
        say(f"skipped: {count(len(built.skipped), 'image')} smaller than a tile")
    failed = f", {count(len(built.failures), 'image')} left out" if built.failures else ""
    made = f"{count(built.items, 'item')} from {count(built.images, 'image')}"
    say(
        f"{built.path}: {made}, {count(len(built.labels), 'confounder')}, "
        f"{built.nbytes / 1e6:.1f} MB, {built.seconds:.1f} s{failed}"
    )


def show_estimate(found: Estimate, failures: int, skipped: int, workers: int) -> None:
    """The answer of --dry-run, on stdout."""
    print(f"images     {found.images}" + (f", {failures} unreadable" if failures else ""))
    print(f"items      {found.items}" + (f", {count(skipped, 'image')} too small" if skipped else ""))
    for name, size in found.nbytes.items():
        print(f"  {name}  {size / 1e9:.3f} GB")
    lacking = "" if found.total <= found.free else ": too little"
    print(f"on disk    {found.total / 1e9:.3f} GB of {found.free / 1e9:.1f} GB free{lacking}")
    print(f"time       about {clock(found.seconds)} with {count(workers, 'worker')}")


def clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s} s" if minutes else f"{s} s"
