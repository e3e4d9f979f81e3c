"""`dilkit runs`: what is said of run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.errors import UsageError

RECIPE = "passes: 4\ndata: {store: x.h5}\nmodel: {name: dncnn, width: WIDTH}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, loss in (("erm", 0.25), ("dil", 0.125)):
        run = tmp_path / "runs" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"command": ["dilkit", "train", name]}))
        (run / "recipe.yaml").write_text(RECIPE.replace("WIDTH", "8" if name == "erm" else "16"))
        rows = [{"step": k, "loss": loss * (4 - k), "lr": 1e-3, "seconds": 60.0 * k} for k in (1, 2, 3)]
        (run / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo'
        )
    return tmp_path / "runs"


def said(*words: object) -> str:
    found = CliRunner().invoke(app, ["runs", *map(str, words)])
    if found.exception is not None:
        raise found.exception
    return found.stdout


def test_runs_are_listed_with_their_last_numbers(folder: Path) -> None:
    head, dil, erm = said("ls", folder).splitlines()
    assert head.split() == ["run", "step", "loss", "seen", "held", "out", "time"]
    assert dil.split()[1:] == ["3", "0.12500", "3:00"] and erm.split()[1:3] == ["3", "0.25000"]
    assert [run["last"]["step"] for run in json.loads(said("ls", folder, "--json"))] == [3, 3]


def test_one_run_is_shown_with_its_command(folder: Path) -> None:
    assert "command    dilkit train erm" in said("show", folder / "erm")


def test_the_last_rows_are_printed(folder: Path) -> None:
    assert [line.split()[1] for line in said("tail", folder / "erm", "-n", 2).splitlines()] == ["2", "3"]


def test_recipes_are_compared(folder: Path) -> None:
    assert "model.width: 8 -> 16" in said("compare", folder / "erm", folder / "dil")


def test_a_run_of_somebody_else_runs_nothing(folder: Path) -> None:
    (folder / "dil" / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    recipe = folder / "dil" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "plugins: [theirs.py]\n")
    assert "theirs.py" in said("compare", folder / "erm", folder / "dil")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("held", ["{", "[]"])
def test_a_damaged_header_is_named(folder: Path, held: str) -> None:
    (folder / "erm" / "run.json").write_text(held)
    with pytest.raises(UsageError, match="not the header of a run"):
        said("show", folder / "erm")


def test_what_is_no_run_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no runs here"):
        said("ls", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no run"):
        said("show", tmp_path)
