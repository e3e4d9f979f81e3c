"""`dilkit data ...`: each command does to a dataset what its library function does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit import Store


def data(*words: object) -> str:
    found = CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def built(out: Path, *words: str) -> Path:
    data("build", "deadleaves:4@32", "-d", "awgn[5, 25]", "--tile", 16, "--stride", 16, "-o", out, *words)
    return out


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return built(tmp_path / "s.h5")


def test_confounders_are_added_and_dropped(store: Path) -> None:
    data("add", store, "jpeg(30)", "-j", 1)
    assert set(Store(store).labels) == {"awgn(5)", "awgn(25)", "jpeg(30)"}
    data("drop", store, "awgn(5)")
    assert set(Store(store).labels) == {"awgn(25)", "jpeg(30)"}
    assert "sound" in data("verify", store)


def test_a_dataset_says_what_it_holds(store: Path, tmp_path: Path) -> None:
    held = json.loads(data("inspect", store, "--json", "--samples", 2))
    assert [each["label"] for each in held["confounders"]] == list(Store(store).labels)
    assert held["confounders"][0]["statistics"]["psnr"] > held["confounders"][1]["statistics"]["psnr"]
    said = data("inspect", store, "--samples", 2)
    assert "PSNR" in said and "cut into 16 items: 16 of 16x16" in said
    assert "PSNR" not in data("inspect", store, "--samples", 0)
    data("preview", store, "--out", tmp_path / "look.png")
    assert (tmp_path / "look.png").stat().st_size > 1000


def test_shards_are_joined_and_exported(store: Path, tmp_path: Path) -> None:
    for k in (1, 2):
        built(tmp_path / "p.h5", "--shard", f"{k}/2")
    data("merge", "--out", tmp_path / "p.h5")
    assert len(Store(tmp_path / "p.h5")) == len(Store(store))
    out = tmp_path / "folders"
    assert data("export", store, "--to", "folders", "--label", "awgn(5)", "--out", out).strip() == str(out)
    assert len(list(out.rglob("*.png"))) == 2 * len(Store(store))
