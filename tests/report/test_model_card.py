"""The card of a net says what it is, what it saw, how it restores and where it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit import evaluate
from dilkit.checkpoint import save_weights
from dilkit.evaluation.rows import write_rows
from dilkit.inference.nets import Net
from dilkit.models import from_config
from dilkit.recipe import Recipe
from dilkit.report.model_card import model_card


def test_the_card_of_a_checkpoint(tmp_path: Path) -> None:
    model = {"name": "dncnn", "depth": 3, "width": 4, "norm": "none"}
    recipe = Recipe.model_validate({"steps": 1, "model": model})
    torch.manual_seed(0)
    path = tmp_path / "tiny" / "checkpoints" / "last.safetensors"
    path.parent.mkdir(parents=True)
    notes = {
        "confounders": "awgn(5)",
        "labels": ["awgn(5)"],
        "parents": ["older.safetensors 0a"],
        "passes": 7,
    }
    save_weights(path, from_config(recipe.model), None, recipe, notes)
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    rows = evaluate(str(path), {"a": image}, "awgn[5, 50]", clip=True, quantize=False, device="cpu")
    write_rows(rows, tmp_path / "rows.json")
    args = ["card", str(tmp_path / "tiny"), "--rows", str(tmp_path / "rows.json")]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    text = result.stdout
    assert text.startswith("# tiny\n") and "| trained on | `awgn(5)` |" in text
    assert "initialised from older.safetensors 0a" in text
    assert "not known: the images it was trained on" in text
    assert "`awgn(50)`" in text and "## Where it fails" in text
    assert "name: dncnn" in text


def test_where_a_net_fails_is_what_it_makes_worse() -> None:
    images = {"a": np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)}
    net = Net("darker", torch.nn.Threshold(0.5, 0.0))
    rows = evaluate([net], images, "awgn[5, 50] | brightness(-0.3)", clip=True, quantize=False, device="cpu")
    text = model_card(net, rows)
    assert "- `awgn(5)` on memory: -" in text and "- from awgn(5) on, on memory" in text
    better = model_card(net, rows.assign(psnr=rows["input_psnr"] + 1))
    assert "nowhere among what was measured; its smallest gain is +1.00 dB" in better
