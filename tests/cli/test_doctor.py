"""`dilkit doctor`: what is missing, and what adds it."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit import __version__


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if some packages were not installed, and all others were."""

    def version(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return __version__ if name == "dilkit" else "1.0"

    needs = ["h5py>=3", "lmdb>=1; extra == 'lmdb'", "pytest; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)


def doctor(*words: str, code: int = 0) -> Any:
    found = CliRunner().invoke(app, ["doctor", *words])
    assert found.exit_code == code, found.output
    return found


def test_what_is_missing_is_told_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "lmdb")
    said = doctor().stdout
    assert 'pip install "dilkit[lmdb]"' in said and "datasets in LMDB" in said
    assert "torchvision" not in said and "torchvision" in doctor("--all").stdout
    packages = {row["package"]: row for row in json.loads(doctor("--json").stdout)["packages"]}
    assert packages["lmdb"]["version"] == "" and packages["h5py"]["for"] == "required"
    assert "pytest" not in packages


def test_what_dilkit_cannot_do_without_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "h5py")
    assert "cannot work without h5py" in doctor(code=1).stderr
    doctor("--json", code=1)
