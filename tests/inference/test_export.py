"""`dilkit export`: what is written does what the net does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dilkit.cli.app import app
from torch import Tensor, nn
from typer.testing import CliRunner

from dilkit.checkpoint import load, save_weights
from dilkit.errors import DilkitError, UsageError
from dilkit.inference.export import check_export, export, random_shapes
from dilkit.models import from_config
from dilkit.recipe import Recipe

MODELS = {
    "dncnn": {"name": "dncnn", "depth": 3, "width": 4, "norm": "batch"},
    "equivariant": {"name": "dncnn", "depth": 3, "width": 4, "norm": "none", "equivariant": True},
    "quantile": {
        "name": "resunet",
        "widths": [4, 4],
        "down": [1, 1],
        "up": [1],
        "equivariant": True,
        "noise_scale": "quantile",
    },
}


def checkpoint(folder: Path, name: str) -> Path:
    recipe = Recipe.model_validate({"steps": 1, "model": MODELS[name]})
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_weights(path, from_config(recipe.model), None, recipe, {"confounders": "awgn(5)", "step": 1})
    return path


@pytest.mark.parametrize(
    ("model", "suffix"),
    [("quantile", ".onnx"), ("quantile", ".pt"), ("equivariant", ".pt"), ("dncnn", ".safetensors")],
)
def test_every_format_agrees_with_the_net_and_says_nothing_else(
    tmp_path: Path,
    model: str,
    suffix: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler, logged = logging.Handler(), []
    handler.emit = logged.append  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("torch.onnx"), "handlers", [handler])
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    out = tmp_path / f"out/net{suffix}"
    assert export(checkpoint(tmp_path, model), out) <= 1e-4
    assert out.stat().st_size > 100 and capfd.readouterr() == ("", "") and not logged
    if suffix == ".safetensors":
        assert load(out).metadata["confounders"] == "awgn(5)"


def test_onnx_names_its_axes_and_says_what_it_was_trained_on(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    export(checkpoint(tmp_path, "dncnn"), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
    said = {each.key: each.value for each in model.metadata_props}
    assert said["trained_on"] == "awgn(5)" and json.loads(said["recipe"])["model"]["name"] == "dncnn"
    assert said["input"].startswith("RGB in [0, 1]")


def test_a_wrong_file_is_found_out() -> None:
    net = nn.Conv2d(3, 3, 3, padding=1)
    assert check_export(net, net, random_shapes(0)) == 0
    with pytest.raises(DilkitError, match="does not do what the net does"):
        check_export(net, lambda x: net(x) + 1e-3, random_shapes(0))

    def fixed(x: Tensor) -> Tensor:
        if x.shape[-1] != 64:
            raise RuntimeError("made for 64")
        return net(x)

    with pytest.raises(DilkitError, match="made for 64"):
        check_export(net, fixed, [(1, 64, 64), (1, 64, 65)])


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(DilkitError, match="does not do what the net does"):
        export(Random(), tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()


def test_a_checkpoint_opens_in_two_lines_without_the_trainer(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "dncnn")
    code = f"""
from dilkit.training import load
net = load({str(path)!r}).net
import sys, torch
assert net(torch.rand(1, 3, 20, 20)).shape == (1, 3, 20, 20) and not net.training
loaded = [m for m in sys.modules if m.startswith("dilkit.training.") or "albumentations" in m]
assert "dilkit.training.run" not in loaded and "dilkit.training.loop" not in loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_writes_and_refuses(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "dncnn")
    out = tmp_path / "net.pt"
    result = CliRunner().invoke(app, ["export", str(path), "--torchscript", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "largest difference" in result.stdout
    for args, message in (
        ([str(path)], "nothing to write"),
        ([str(path), "--onnx", str(tmp_path / "x.pt")], "another ending"),
        ([str(path), "--torchscript", str(out)], "output exists"),
        ([str(out), "--torchscript", str(tmp_path / "y.pt")], "not a checkpoint"),
    ):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(app, ["export", *args], catch_exceptions=False)
