"""Nets we wrote after a published definition: parameter names, count and output are that definition's.

tests/golden/models.json was made by the released implementations (as collected in spandrel 0.4.2) from the
weights and the image below.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dilkit.models import MODELS, build

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/models.json").read_text())
SMALL_SWIN = {"width": 12, "depths": (2, 2), "heads": (2, 3), "window": 4}
NETS = {
    "nafnet": ("nafnet", {"width": 4, "encoder": (1, 2), "middle": 1, "decoder": (1, 1)}),
    "swinir": ("swinir", SMALL_SWIN),
    "swinir-x4": ("swinir", {**SMALL_SWIN, "scale": 4}),
}
TINY = {
    "dncnn": {"depth": 3, "width": 4},
    "rrdb": {"width": 4, "blocks": 1, "growth": 2},
    "swinir": {"width": 4, "depths": (2,), "heads": (2,), "window": 4, "drop_path": 0.0},
    "nafnet": {"width": 4, "encoder": (1,), "middle": 1, "decoder": (1,)},
    "unet": {"width": 4, "depth": 2},
    "resunet": {"widths": (4, 6, 8)},
    "idf": {"width": 4, "iterations": 2},
}


def filled(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(net.named_parameters())):
            wave = 0.2 * torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.float64) + k)
            p.copy_((wave + ("norm" in name and name.endswith("weight"))).view(p.shape))
    return net.double().eval()


def image() -> torch.Tensor:
    return (0.5 + 0.5 * torch.sin(torch.arange(3 * 13 * 18, dtype=torch.float64) * 0.37)).view(1, 3, 13, 18)


@pytest.mark.parametrize("name", NETS)
def test_output_on_fixed_weights_is_the_published_one(name: str) -> None:
    kind, args = NETS[name]
    net, golden = filled(build(kind, **args).double()), GOLDEN[name]
    assert sum(p.numel() for p in net.parameters()) == golden["parameters"]
    assert len(list(net.named_parameters())) == golden["names"]
    with torch.no_grad():
        out = net(image())
    assert out.mean().item() == pytest.approx(golden["mean"], rel=1e-11)
    assert out.square().mean().item() == pytest.approx(golden["square"], rel=1e-11)
    assert out[0, :, -3:, -2:].flatten().tolist() == pytest.approx(golden["corner"], rel=1e-10)


@pytest.mark.parametrize(
    ("name", "args", "count"),
    [
        ("swinir", {}, 11_504_163),
        ("swinir", {"scale": 4}, 11_900_199),
        ("nafnet", {}, 29_159_715),
        ("nafnet", {"encoder": (1, 1, 1, 28), "middle": 1, "decoder": (1, 1, 1, 1)}, 17_111_907),
        ("unet", {}, 31_031_875),
    ],
)
def test_parameter_counts_of_the_published_sizes(name: str, args: dict, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name, **args).parameters()) == count


def test_unet_is_its_figure() -> None:
    net = filled(build("unet", width=2, depth=2, skip=False).double())
    w = dict(net.named_parameters())

    def double(prefix: str, x: torch.Tensor) -> torch.Tensor:
        for k in (0, 2):
            x = nn.functional.conv2d(x, w[f"{prefix}.{k}.weight"], w[f"{prefix}.{k}.bias"], padding=1).relu()
        return x

    y = image()[..., :12, :16]
    a = double("down.0", y)
    b = double("down.1", nn.functional.max_pool2d(a, 2))
    c = double("down.2", nn.functional.max_pool2d(b, 2))
    for k, across in ((0, b), (1, a)):
        up = nn.functional.conv_transpose2d(c, w[f"up.{k}.weight"], w[f"up.{k}.bias"], stride=2)
        c = double(f"join.{k}", torch.cat([across, up], 1))
    assert torch.allclose(net(y), nn.functional.conv2d(c, w["last.weight"], w["last.bias"]), rtol=1e-12)


def test_every_model_is_tested_here() -> None:
    assert set(TINY) == set(MODELS), "a new model needs a tiny size here"


@pytest.mark.parametrize("name", TINY)
def test_every_model_takes_any_size_and_differentiates_twice(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, **TINY[name]).double()
    y = torch.rand(2, 3, 14, 17, dtype=torch.float64)
    out = net(y)
    assert out.shape == y.shape
    params = list(net.parameters())
    grads = torch.autograd.grad(out.square().mean(), params, create_graph=True)
    again = torch.autograd.grad(sum(g.square().sum() for g in grads), params, allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in again)
    assert any(g is not None and g.abs().max() > 0 for g in again)


@pytest.mark.parametrize("name", [n for n in MODELS if "scale" in MODELS.get(n).model_fields])
def test_nets_that_upscale(name: str) -> None:
    assert build(name, **TINY[name], scale=4)(torch.rand(1, 3, 9, 12)).shape == (1, 3, 36, 48)
    assert build(name, **TINY[name], scale=4, equivariant=True)(torch.rand(1, 3, 9, 12)).shape[-1] == 48


def test_stochastic_depth_keeps_the_mean() -> None:
    from dilkit.models.swinir import SwinLayer

    layer = SwinLayer(4, 2, 4, 0, 2.0, drop_path=0.5).train()
    torch.manual_seed(0)
    kept = layer._drop(torch.ones(4000, 1, 1, 1))
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1, abs=0.06)
