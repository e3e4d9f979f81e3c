"""What a run writes down beside its checkpoints: metrics as CSV and JSONL and wherever else they are sent,
its recipe, command and versions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dilkit.checkpoint import versions, write_text
from dilkit.errors import UsageError
from dilkit.recipe import Composed, resolved, to_yaml
from dilkit.registry import Registry, import_named


class Sink(Protocol):
    """The plug-in point: `log.to: [package.module:Class]` calls `Class(run_folder)`, then `add` for each row.

    A row is one of metrics.jsonl: `step`, `loss`, `val/<label>` ..., all numbers.
    """

    def add(self, row: Mapping[str, Any]) -> None: ...


class TensorBoard:
    """Scalars under RUN/tensorboard (`pip install dilkit[tensorboard]`)."""

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "TensorBoard is not installed", where="log.to", remedy="pip install dilkit[tensorboard]"
            ) from None
        self._writer: Any = SummaryWriter(str(out / "tensorboard"))

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


def require_sink(name: str, kind: object) -> None:
    """Raises UsageError where it is no class with a method `add`."""
    if not (isinstance(kind, type) and callable(getattr(kind, "add", None))):
        raise UsageError(
            f"{name} is no sink, and has not been called",
            where="log.to",
            found=f"a {type(kind).__name__}",
            expected="a class with a method add(row), made as Class(run_folder)",
            remedy="--trust-code (trust_code=True) also calls functions that make a sink",
        )


SINKS: Registry[Any] = Registry(
    "sink",
    own={"tensorboard": "dilkit.training.records:TensorBoard"},
    check=require_sink,
    is_one=lambda value: isinstance(value, type) and callable(getattr(value, "add", None)),
)
"""Where the rows of a run may go besides its own files, by name."""


def find_sinks(names: Sequence[str], *, trust_code: bool = False) -> list[Callable[[Path], Sink]]:
    """What makes each sink: one of `SINKS`, or any `package.module:Class`. Nothing is called yet.

    Raises:
        UsageError: an unknown name; or what is named is no class with a method `add`, and `trust_code` is not
            given.
    """
    found = []
    for name in names:
        make = import_named(name, "log.to") if ":" in name else SINKS.get(name)
        if not trust_code:
            require_sink(name, make)
        found.append(make)
    return found


Row = dict[str, float | int | str | None]


def write_header(out: Path, composed: Composed, command: Sequence[str]) -> None:
    """`run.json`, `recipe.yaml` (resolved: it starts the same run again), `recipe.raw.yaml` (as composed).

    `run.json` comes first: it is what marks a folder as a run's, wherever the run is killed.
    """
    header = {"command": list(command), "words": list(composed.words), "versions": versions()}
    write_text(out / "run.json", json.dumps(header, indent=2) + "\n")
    write_text(out / "recipe.yaml", to_yaml(resolved(composed.recipe)))
    write_text(out / "recipe.raw.yaml", to_yaml(composed.layer.tree))


class Metrics:
    """metrics.jsonl (every row as it is), metrics.csv (one column for each name met; rewritten when a new one
    comes), and any further sinks."""

    def __init__(self, out: Path, sinks: Sequence[Sink] = (), *, resume_at: int = 0) -> None:
        self.jsonl = out / "metrics.jsonl"
        self.csv = out / "metrics.csv"
        self._columns: list[str] = []
        kept = [row for row in read_metrics(self.jsonl) if int(row["step"] or 0) <= resume_at]
        self.jsonl.unlink(missing_ok=True)
        self.csv.unlink(missing_ok=True)
        self._sinks: Sequence[Sink] = ()
        for row in kept:
            self.add(row)
        self._sinks = sinks

    def add(self, row: Mapping[str, Any]) -> None:
        with self.jsonl.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        new = [name for name in row if name not in self._columns]
        self._columns += new
        rows = read_metrics(self.jsonl) if new else [row]
        with self.csv.open("w" if new else "a", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, self._columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)
        for sink in self._sinks:
            sink.add(row)


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line cut short by a kill is dropped."""
    rows: list[Row] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
