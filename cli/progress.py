"""Progress on stderr: live on a terminal or in a notebook, plain lines elsewhere, nothing with -q.

The one place that draws a bar or turns seconds and bytes into text. `rich` is loaded when something is drawn.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dilkit.experiments.executors import Status

LINE_EVERY = 5.0
"""Seconds between plain lines."""


def quiet() -> bool:
    """Whether only errors are wanted."""
    return bool(os.environ.get("DILKIT_QUIET"))


def say(text: str) -> None:
    """A line on stderr, unless asked to be quiet."""
    if not quiet():
        print(text, file=sys.stderr, flush=True)


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def clock(seconds: float) -> str:
    """`0:05`, `1:02:03`, `3 d 1:02:03`."""
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02d}:{s:02d}" if hours or days else f"{minutes}:{s:02d}"
    return f"{days} d {text}" if days else text


def size(nbytes: float) -> str:
    """`12 B`, `3 kB`, `7.8 GB`; powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def _console() -> Console | None:
    """Where a live view can be drawn, if anywhere."""
    if quiet():
        return None
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    return console if console.is_terminal or console.is_jupyter else None


class Progress:
    """Counted work, in one phase or several.

    `with Progress("evaluating") as progress: work(progress=progress)`, called with (done, total); or, where
    the work has phases, `work(progress=progress.phase)`, called with (phase, done, total).

    Args:
        what: what is done, as the line begins.
        unit: what is counted, in the plural.
        names: phase -> what is done in it.
    """

    def __init__(self, what: str = "", unit: str = "items", names: Mapping[str, str] | None = None) -> None:
        self._what, self._unit, self._names = what, unit, names or {}
        self._bar: Any = None
        self._current: str | None = None

    def __enter__(self) -> Self:
        self._began = self._said = time.monotonic()
        if console := _console():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bar = Bars(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So much of the whole is done."""
        self.phase(self._what, done, total)

    def phase(self, name: str, done: int, total: int) -> None:
        """So much of a phase is done; a phase that an earlier run finished is passed over."""
        if quiet():
            return
        now = time.monotonic()
        what = self._names.get(name, name)
        if name != self._current:
            if self._names and done == total:
                return
            self._current, self._first = name, 0
            if self._names:  # what is done already when a phase begins was done before
                self._began, self._first, self._said = now, done, now
            if self._bar is not None:
                self._task = self._bar.add_task(what, total=total, rate="")
        rate = (done - self._first) / max(now - self._began, 1e-6)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f} {self._unit}/s")
        elif done == total or now - self._said >= LINE_EVERY:
            self._said = now
            left = f", {clock((total - done) / rate)} left" if 0 < done < total and rate else ""
            say(
                f"{what}: {done}/{total} {self._unit}, {rate:.{0 if rate >= 10 else 2}f} {self._unit}/s{left}"
            )


def describe(row: Mapping[str, Any]) -> dict[str, str]:
    """What a plain line shows of a row of the metrics, in order."""
    steps, step = row.get("steps"), row["step"]
    shown = {"step": f"{step}/{steps}" if steps else str(step)}
    if "loss" in row:
        shown["loss"] = f"{row['loss']:.5f}"
    for name, label in (("val/seen", "seen"), ("val/held_out", "held out")):
        if name in row:
            shown[label] = f"{row[name]:.2f} dB"
    if "lr" in row:
        shown["lr"] = f"{row['lr']:.1e}"
    if "passes_per_s" in row:
        shown["passes/s"] = f"{row['passes_per_s']:.1f}"
    if "left" in row:
        shown["left"] = clock(row["left"])
    if "memory" in row:
        shown["memory"] = size(row["memory"])
    return shown


def sparkline(values: list[float], width: int = 32) -> str:
    """The course of some values in one line of text, the oldest thinned out to fit `width` characters."""
    finite = [v for v in values if v == v and abs(v) != float("inf")]
    if not finite:
        return ""
    picked = [finite[i * len(finite) // min(width, len(finite))] for i in range(min(width, len(finite)))]
    low, high = min(picked), max(picked)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (v - low) / (high - low))] if high > low else "▄" for v in picked)


class _Notebook:
    """A view in a cell's output that is drawn anew, as `rich.live.Live` is on a terminal (which would need
    ipywidgets in a notebook)."""

    def __init__(self) -> None:
        from IPython.display import display

        self._view, self._pictures = (
            display({"text/plain": ""}, raw=True, display_id=True) for _ in range(2)
        )

    def update(self, drawn: RenderableType) -> None:
        from rich.console import Console

        console = Console(
            record=True, width=100, file=io.StringIO(), force_terminal=True, force_jupyter=False
        )
        console.print(drawn)
        text = console.export_text(clear=False)
        page = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
        self._view.update({"text/html": page, "text/plain": text}, raw=True)

    def show(self, pictures: Mapping[str, str]) -> None:
        """Input, output and clean image of every distortion."""
        parts = [
            f"<figure><img src='data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}'>"
            f"<figcaption>{html.escape(label)}: input, output, clean</figcaption></figure>"
            for label, path in pictures.items()
        ]
        self._pictures.update({"text/html": "".join(parts), "text/plain": ""}, raw=True)

    def stop(self) -> None:
        """The last view stays."""


class TrainProgress:
    """A training run as it goes: `with TrainProgress() as progress: dilkit.train(words, out, log=progress)`.

    On a terminal and in a notebook: a bar, the time left, the course of the loss, rate, passes a second and
    memory, and the PSNR of every confounder at the last validation with its change since the one before; in
    a notebook also the pictures of that validation. Elsewhere a line for the first row, then one in
    `LINE_EVERY` seconds, and one for every validation and the last row.
    """

    def __init__(self) -> None:
        self._live: Any = None
        self._said = float("-inf")
        self._measured: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._losses: list[float] = []
        self._row: Mapping[str, Any] = {}

    def __enter__(self) -> Self:
        console = _console()
        if console is not None and console.is_jupyter:
            self._live = _Notebook()
        elif console is not None:
            from rich.live import Live

            self._live = Live(console=console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, row: Mapping[str, Any]) -> None:
        if "note" in row:
            print(f"dilkit: {row['note']}", file=sys.stderr, flush=True)
            return
        if quiet():
            return
        if "validated" in row:
            self._validating(row["step"], *row["validated"])
            return
        if "pictures" in row:
            if isinstance(self._live, _Notebook):
                self._live.show(row["pictures"])
            return
        measured = {k: v for k, v in row.items() if k.startswith("val/")}
        if measured:
            self._before, self._measured = self._measured, measured
        if "loss" in row and (not self._row or row["step"] > self._row["step"]):
            self._losses.append(float(row["loss"]))
        self._row = {**self._measured, **row}
        if self._live is not None:
            self._live.update(self._drawn())
        elif self._due() or measured or row["step"] == row.get("steps"):
            self._line("  ".join(f"{name} {value}" for name, value in describe(self._row).items()))

    def _due(self) -> bool:
        return time.monotonic() - self._said > LINE_EVERY

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        say(text)

    def _validating(self, step: int, done: int, total: int) -> None:
        if self._live is not None:
            self._live.update(self._drawn(f"validating {done}/{total}"))
        elif self._due():
            self._line(f"step {step}  validating {done}/{total}")

    def _drawn(self, doing: str = "") -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = self._row
        if not row:
            return Text(doing)
        shown = describe(row)
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        spent = row.get("seconds", 0.0)
        total, done = (row["steps"], row["step"]) if row.get("steps") else (spent + row.get("left", 0), spent)
        where = doing or f"{100 * done / max(total, 1e-9):.0f} %  step {shown['step']}"
        top.add_row(ProgressBar(total=total, completed=done), where, f"{shown.get('left', '?')} left")
        parts: list[RenderableType] = [top]
        positive = all(loss > 0 for loss in self._losses)
        course = [math.log(loss) for loss in self._losses] if positive else self._losses
        loss = f"loss {shown['loss']} {sparkline(course, 24)}" if "loss" in shown else ""
        rates = [f"{name} {shown[name]}" for name in ("lr", "passes/s", "memory") if name in shown]
        parts.append(Text("  ".join(filter(None, [loss, *rates])), overflow="ellipsis", no_wrap=True))
        if self._measured:
            parts.append(self._decibels())
        return Group(*parts)

    def _decibels(self) -> RenderableType:
        """PSNR by confounder, in as many columns as the width has room for."""
        from rich.columns import Columns
        from rich.text import Text

        cells: list[Text] = []
        values: list[float] = []
        for key, value in self._measured.items():
            if key == "val/select" or (key == "val/held_out" and value in values):
                continue
            values.append(value)
            cell = Text.assemble(f"{key[4:].replace('held_out', 'held out')} ", (f"{value:.2f} dB", "bold"))
            if key in self._before:
                gain = value - self._before[key]
                cell.append(f" {gain:+.2f}", "green" if gain >= 0 else "red")
            cells.append(cell)
        return Columns(cells, padding=(0, 3), column_first=False)


class UnitsProgress:
    """Units of work as they stand: a table of those under way, with how many are done.

    Elsewhere than on a terminal there is a line whenever one more is done; a unit of this process alone is
    shown as a training run.
    """

    def __init__(self) -> None:
        self._train: TrainProgress | None = None
        self._done = -1
        self._live: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._train is not None:
            self._train.__exit__()

    def __call__(self, table: Sequence[Status]) -> None:
        if len(table) == 1 and table[0].worker == "here":
            row = table[0].row
            if "step" in row:
                self._train = self._train or TrainProgress().__enter__()
                self._train(row)
            return
        if quiet():
            return
        done = sum(status.state == "done" for status in table)
        console = _console()
        if console is None:
            if done != self._done:
                say(f"{done} of {len(table)} done")
            self._done = done
            return
        if self._live is None:
            from rich.live import Live

            self._live = Live(console=console, refresh_per_second=4)
            self._live.start()
        self._live.update(_units_table(table, done))


def _units_table(table: Sequence[Status], done: int) -> RenderableType:
    from rich.table import Table

    shown = Table(title=f"{done} of {len(table)} done", title_justify="left", box=None)
    for column in ("unit", "worker", "step", "loss"):
        shown.add_column(column)
    for status in table:
        if status.state == "running":
            row = status.row
            step = f"{row['step']}/{row['steps']}" if "steps" in row else str(row.get("step", ""))
            loss = f"{row['loss']:.5f}" if "loss" in row else str(row.get("note", ""))
            shown.add_row(status.unit, status.worker, step, loss)
    return shown
