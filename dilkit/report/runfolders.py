"""What a report is about: runs with their recipes and training curves, and the rows they were measured by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dilkit.checkpoint import load
from dilkit.errors import UsageError
from dilkit.evaluation.rows import SETTINGS, read_rows
from dilkit.inference.nets import labels_of, past_of
from dilkit.recipe import resolved
from dilkit.training.records import read_metrics, read_run_header

_ROWS = ("rows.parquet", "rows.json", "rows.csv")


@dataclass(frozen=True)
class RunRecord:
    """One training run, from its folder.

    Attributes:
        recipe: resolved, nested plain values.
        command: the words of its command line.
        metrics: rows of its metrics, each with at least `step` and `loss`.
        trained: the confounder set, as text.
    """

    label: str
    folder: Path
    checkpoint: Path
    recipe: Mapping[str, Any]
    trained: str
    command: Sequence[str]
    versions: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    parameters: int
    passes: int
    past: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        return float(self.metrics[-1].get("seconds", math.nan)) if self.metrics else math.nan


@dataclass(frozen=True)
class Material:
    """All that goes into a report.

    Attributes:
        by, seeds: the columns of the rows that tell arms and training seeds.
        scores: of a comparison, as it computed them.
    """

    runs: Sequence[RunRecord]
    rows: pd.DataFrame | None
    by: str = "net"
    seeds: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: pd.DataFrame | None = None


def collect(
    paths: Sequence[str | Path], rows: pd.DataFrame | None = None, *, trust_code: bool = False
) -> Material:
    """Runs by their folders, or a folder that `dilkit compare` made.

    Args:
        paths: run folders, checkpoints, or comparison folders.
        rows: their measurement; by default what lies beside them (`rows.csv` and the like in a comparison's
            folder, in a run's, or in the folder that all runs share).

    Raises:
        UsageError: a path that is neither, or nothing at all.
    """
    runs: list[Path] = []
    found: list[pd.DataFrame] = []
    compared: list[Path] = []
    scored: pd.DataFrame | None = None
    for path in map(Path, paths):
        if _is_run(path):
            runs.append(path)
        elif path.is_file() and path.suffix == ".safetensors" and _is_run(path.parent.parent):
            runs.append(path.parent.parent)
        elif inside := sorted({p.parent for p in path.rglob("recipe.yaml") if _is_run(p.parent)}):
            runs += inside
            found += _rows_in(path)
            compared += inside
            if (path / "scores.csv").is_file():
                scored = pd.read_csv(path / "scores.csv")
        else:
            raise UsageError(
                "neither a run nor a comparison",
                where=path,
                expected="a folder with recipe.yaml and checkpoints/",
            )
    if not runs:
        raise UsageError("there is no run to report")
    if len(set(runs)) < len(runs):
        raise UsageError("a run is given twice", found=", ".join(map(str, runs)))
    if rows is None and not found:
        found = [frame for run in runs for frame in _rows_in(run)]
        shared = {run.parent for run in runs}
        if not found and len(shared) == 1:
            found = _rows_in(shared.pop())
    measured = rows
    if rows is None and found:
        measured = pd.concat(found, ignore_index=True)
        measured.attrs = dict(found[0].attrs)
    by, seeds = ("arm", "train_seed") if measured is not None and "arm" in measured else ("net", None)
    settings = {} if measured is None else dict(measured.attrs.get(SETTINGS, {}))
    if rows is None:
        settings = {**_settings_of(compared), **settings}
    records = [
        read_run(run, name, trust_code=trust_code) for run, name in zip(runs, labels_of(runs), strict=True)
    ]
    return Material(records, measured, by, seeds, settings, scored if rows is None else None)


def read_run(folder: Path, label: str, *, trust_code: bool = False) -> RunRecord:
    """The record of a run folder."""
    checkpoint = folder / "checkpoints" / "last.safetensors"
    loaded = load(checkpoint, trust_code=trust_code)
    parameters = sum(p.numel() for p in loaded.net.parameters())
    about = read_run_header(folder)
    metrics = [dict(row) for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    notes = loaded.metadata
    return RunRecord(
        label, folder, checkpoint, resolved(loaded.recipe), notes.get("confounders", ""),
        about.get("command", []), notes.get("versions", {}), metrics, parameters, int(notes.get("passes", 0)),
        past_of(notes)[0],
    )  # fmt: skip


def _settings_of(runs: Sequence[Path]) -> dict[str, Any]:
    """How the runs of a comparison were measured, from the rows beside each; of an arm's seeds, the first."""
    settings: dict[str, Any] = {}
    for path in (run / "rows.json" for run in runs if (run / "rows.json").is_file()):
        own = json.loads(path.read_text(encoding="utf-8"))[SETTINGS]
        nets = dict(settings.get("nets", {}))
        for arm, about in own["nets"].items():
            source = path.parent / "checkpoints" / Path(about["source"]).name  # wherever the folder lies now
            nets.setdefault(arm, {**about, "source": str(source)})
        settings = {**own, "nets": nets}
    return settings


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file() and (path / "checkpoints" / "last.safetensors").is_file()


def _rows_in(folder: Path) -> list[pd.DataFrame]:
    for name in _ROWS:
        if (folder / name).is_file():
            return [read_rows(folder / name)]
    return []
