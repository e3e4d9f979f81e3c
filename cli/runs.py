"""`dilkit runs ...`: a folder of training runs at a glance."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dilkit.errors import UsageError, printable

from .base import group
from .options import Json, complete_run
from .output import show_json, show_table
from .progress import clock, describe, sparkline

runs = group("runs", "List training runs, look into one, follow one, or set some side by side.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with runs, at any depth.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", autocompletion=complete_run)]


@runs.command("ls", epilog="Examples: `dilkit runs ls`, `dilkit runs ls runs/compared --json`")
def ls(folder: Folder = Path("runs"), as_json: Json = False) -> None:
    """The runs below a folder: how far each is, and its last numbers."""
    found = [_facts(path) for path in _below(folder)]
    if as_json:
        show_json(found)
    else:
        _show(found)


@runs.command("show", epilog="Example: `dilkit runs show runs/erm`")
def show(run: Run, as_json: Json = False) -> None:
    """One run: the command that started it, its last row, and the course of its loss."""
    facts = _facts(run)
    if as_json:
        show_json(facts)
        return
    for key, value in {**_shown(facts), "command": " ".join(facts["command"])}.items():
        print(printable(f"{key:10} {value}"))
    print(f"{'loss':10} {sparkline([row['loss'] for row in _rows(run) if 'loss' in row], 60)}")


@runs.command("tail", epilog="Example: `dilkit runs tail runs/erm --follow`")
def tail(
    run: Run,
    lines: Annotated[int, typer.Option("-n", min=1, help="Rows shown.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until Ctrl-C.")] = False,
) -> None:
    """The last rows of a run's metrics."""
    shown = max(0, len(_rows(run)) - lines)
    while True:
        rows = _rows(run)
        for row in rows[shown:]:
            print("  ".join(f"{name} {value}" for name, value in describe(row).items()), flush=True)
        shown = len(rows)
        if not follow:
            return
        time.sleep(1)


@runs.command("compare", epilog="Example: `dilkit runs compare runs/erm runs/dil`")
def compare(folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs' folders.")]) -> None:
    """Where the recipes of runs differ, and their last numbers side by side."""
    from dilkit.recipe import differences
    from dilkit.recipe.layers import read_layer_file

    found = [_facts(folder) for folder in folders]
    # as they are written, with every default; composing one would run the plug-ins it names
    recipes = [read_layer_file(folder / "recipe.yaml").tree for folder in folders]
    for folder, recipe in zip(folders[1:], recipes[1:], strict=True):
        for line in differences(recipes[0], recipe):
            print(printable(f"{folders[0]} -> {folder}: {line}"))
    _show(found)


def _below(folder: Path) -> list[Path]:
    found = sorted(path.parent for path in folder.rglob("run.json")) if folder.is_dir() else []
    if not found:
        raise UsageError("there are no runs here", where=folder, remedy="dilkit train RECIPE --out runs/NAME")
    return found


def _rows(run: Path) -> list[dict[str, Any]]:
    from dilkit.training.records import read_metrics

    if not (run / "run.json").is_file():
        raise UsageError("this is no run", where=run, expected="a folder that `dilkit train --out` made")
    return [dict(row) for row in read_metrics(run / "metrics.jsonl")]


def _facts(run: Path) -> dict[str, Any]:
    from dilkit.training.records import read_run_header

    rows = _rows(run)
    last: dict[str, Any] = {}
    for row in rows:
        last |= row
    done = (run / "checkpoints" / "last.safetensors").is_file()
    command = read_run_header(run).get("command", [])
    return {"run": str(run), "command": command, "checkpoint": done, "last": last}


def _show(found: list[dict[str, Any]]) -> None:
    keys = ("run", "step", "loss", "seen", "held out", "time")
    show_table(keys, [[_shown(facts).get(key, "") for key in keys] for facts in found])


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    last = facts["last"]
    shown = {"run": facts["run"], **(describe(last) if last else {"step": "0"})}
    if "seconds" in last:
        shown["time"] = clock(last["seconds"])
    return shown
