"""`dilkit eval` from checkpoint and folder to table and files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.checkpoint import save_weights
from dilkit.errors import UsageError
from dilkit.models import from_config
from dilkit.recipe import Recipe

RECIPE = {"steps": 1, "model": {"name": "dncnn", "depth": 3, "width": 4, "norm": "none"}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.model_validate(RECIPE)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "tiny" / "checkpoints" / "last.safetensors"
    path.parent.mkdir(parents=True)
    notes = {"confounders": "awgn[5, 10, 15]", "labels": ["awgn(5)", "awgn(10)"], "step": 1}
    save_weights(path, from_config(recipe.model), None, recipe, notes)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("Pictures")
    rng = np.random.default_rng(1)
    for name in ("one", "two"):
        cv2.imwrite(str(path / f"{name}.png"), rng.integers(0, 256, (24, 32, 3), np.uint8))
    return path


def dilkit(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_and_the_files(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    files = {"--csv": tmp_path / "rows.csv", "--json": tmp_path / "rows.json"}
    files |= {"--table": tmp_path / "d" / "table.md", "--plot": tmp_path / "d" / "psnr.png"}
    options = [x for pair in files.items() for x in pair]
    out = dilkit("eval", checkpoint, "--data", folder, "--distort", "awgn[5, 15] | jpeg(20)", *options)
    assert f"{folder.name} (2 images; no manifest)" in out
    assert "tiny" in out.splitlines()[1]
    rows = pd.read_csv(files["--csv"])
    assert len(rows) == 2 * 3
    mean = rows.query("distortion == 'awgn(5)'")["psnr"].mean()
    (line,) = [line for line in out.splitlines() if line.startswith("awgn(5) ")]
    assert f"{mean:.4f}" in line
    assert rows.groupby("distortion")["novelty"].first().to_dict() == {
        "awgn(15)": "degree", "awgn(5)": "seen", "jpeg(20)": "type",
    }  # fmt: skip
    held = json.loads(files["--json"].read_text())
    assert held["settings"]["clip"] is True
    assert f"{mean:.2f} /" in files["--table"].read_text()
    assert cv2.imread(str(files["--plot"])).size
    assert len(held["rows"]) == 6


def test_further_metrics_are_in_the_tables(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    random = np.random.default_rng(1)
    cv2.imwrite(str(tmp_path / "one.png"), random.integers(0, 256, (180, 180, 3), np.uint8))
    files = ["--csv", tmp_path / "rows.csv", "--table", tmp_path / "table.md"]
    out = dilkit(
        "eval", checkpoint, "--data", tmp_path, "--distort", "awgn(5)", "--metric", "ms_ssim", *files
    )
    row = pd.read_csv(tmp_path / "rows.csv").iloc[0]
    assert "PSNR in dB, SSIM, ms_ssim" in out
    assert f"{row['input_psnr']:.4f} {row['input_ssim']:.4f} {row['input_ms_ssim']:.4f}" in out
    assert f"{row['psnr']:.4f} {row['ssim']:.4f} {row['ms_ssim']:.4f}" in out
    assert f"/ {row['ssim']:.4f} / {row['ms_ssim']:.4f}" in (tmp_path / "table.md").read_text()


def test_the_gap_to_the_best_stands_under_the_table(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    nets = [f"a={checkpoint}", "input", "--data", folder, "--distort", "awgn[5, 50]", "--gap-to", "best"]
    out = dilkit("eval", *nets, "--table", tmp_path / "table.md")
    said = f"{folder.name}: gap in dB to the best of a, input under each distortion"
    assert said in out and said in (tmp_path / "table.md").read_text()
    assert "worst gap, unseen degree" in out


def test_json_on_stdout_is_nothing_else(checkpoint: Path, folder: Path) -> None:
    held = json.loads(
        dilkit("eval", f"x={checkpoint}", "--data", folder, "--distort", "awgn(5)", "--json", "-")
    )
    assert {row["net"] for row in held["rows"]} == {"x"}


def test_the_command_reproduces_the_golden_input_values(shared_data: Path, tmp_path: Path) -> None:
    common = ["--data", shared_data / "test" / "Set5", "--distort", "awgn[15, 25, 50]", "--no-clip",
              "--noise", "legacy-numpy"]  # fmt: skip
    out = dilkit("eval", *common)
    for expected in ("25.0536 0.5500", "20.8233 0.3708", "15.3301 0.1877"):
        assert expected in out
    out = dilkit("eval", *common, "--measure", "float")
    assert "24.6237" in out and "20.1867" in out and "14.1661" in out
    out = dilkit("eval", *common, "--channel", "y")
    assert "29.7503 0.7216" in out and "25.4523 0.5362" in out and "19.8841 0.3018" in out


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    from dilkit.inference.nets import labels_of

    runs = [tmp_path / f"{x}/checkpoints/last.safetensors" for x in ("a", "b")]
    assert labels_of(runs) == ["a", "b"]
    steps = [tmp_path / f"{x}/checkpoints/step-1.safetensors" for x in ("a", "b")]
    assert labels_of(steps) == ["a/step-1", "b/step-1"]
    assert labels_of([Path("x.safetensors")]) == ["x"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--distort", "awgn(5)"], "--data is missing"),
        (["--data", "."], "--distort is missing"),
        (["--data", "{folder}", "--distort", "awgm(5)"], "did you mean: awgn"),
        (["--data", "{folder}", "--distort", "awgn(-5)"], "-5"),
        (["--data", "{folder}/none", "--distort", "awgn(5)"], "no such"),
        (["{folder}/x.safetensors", "--data", "{folder}", "--distort", "awgn(5)"], "no such checkpoint"),
        (["{folder}/one.png", "--data", "{folder}", "--distort", "awgn(5)"], "an image, not a net"),
        (["{checkpoint}", "{checkpoint}", "--data", "{folder}", "--distort", "awgn(5)"], "same label"),
        (["--data", "{folder}", "--distort", "awgn(5)", "--csv", "rows.txt"], "ending"),
        (["--data", "{folder}", "--distort", "awgn(5)", "--baseline", "inptu"], "did you mean: input"),
        (["--data", "{folder}", "--distort", "awgn(5)", "--gap-to", "inptu"], "did you mean: input"),
        (["--data", "{folder}", "--distort", "awgn(5)", "--plot", "psnr.gif"], "not a format for figures"),
        (["--data", "{folder}", "--distort", "awgn(5)", "--crops", "crops.jpg"], "not a format for figures"),
    ],
)
def test_mistakes_are_answered(folder: Path, checkpoint: Path, args: list[str], message: str) -> None:
    filled = [a.format(folder=folder, checkpoint=checkpoint) for a in args]
    with pytest.raises(UsageError) as error:
        CliRunner().invoke(app, ["eval", *filled], catch_exceptions=False)
    assert message in str(error.value)
