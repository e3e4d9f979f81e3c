"""What a run writes down beside its checkpoints: metrics as CSV and JSONL and wherever else they are sent,
pictures of its validations, its recipe, command and versions."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dilkit.checkpoint import versions, write_atomically, write_text
from dilkit.distortions import Image
from dilkit.errors import UsageError, reason
from dilkit.recipe import Composed, resolved, to_yaml
from dilkit.training.sinks import Sink

_UNSAFE = re.compile(r"[^\w.,=()-]+")
"""What the names of files had better not hold."""
Row = dict[str, float | int | str | None]


def write_header(out: Path, composed: Composed, command: Sequence[str]) -> None:
    """`run.json`, `recipe.yaml` (resolved: it starts the same run again), `recipe.raw.yaml` (as composed).

    `run.json` comes first: it is what marks a folder as a run's, wherever the run is killed.
    """
    header = {"command": list(command), "words": list(composed.words), "versions": versions()}
    write_text(out / "run.json", json.dumps(header, indent=2) + "\n")
    write_text(out / "recipe.yaml", to_yaml(resolved(composed.recipe)))
    write_text(out / "recipe.raw.yaml", to_yaml(composed.layer.tree))


def read_run_header(out: Path) -> dict[str, Any]:
    """What `run.json` holds; empty where there is none.

    Raises:
        UsageError: it holds something else.
    """
    path = out / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UsageError("not the header of a run", where=path, found=reason(error)) from None
    if not isinstance(found, dict):
        raise UsageError("not the header of a run", where=path, found=type(found).__name__)
    return found


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

    def picture(self, step: int, label: str, image: Image) -> Path:
        """Keep an (H, W, 3) uint8 picture of a validation: the newest of each label, in RUN/pictures."""
        from PIL import Image as Pictures

        path = self.jsonl.parent / "pictures" / f"{_UNSAFE.sub('-', label)}.png"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda p: Pictures.fromarray(image).save(p, "PNG"))
        for sink in self._sinks:
            if hasattr(sink, "picture"):
                sink.picture(step, label, path)
        return path

    def close(self) -> None:
        """The run has ended."""
        for sink in self._sinks:
            if hasattr(sink, "close"):
                sink.close()


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
