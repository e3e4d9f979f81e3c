from __future__ import annotations

import pytest
import torch
from torch import nn

from dilkit.errors import UsageError
from dilkit.models import build
from dilkit.models.equivariant import Contrast
from dilkit.models.noise_scale import mean_scale

SMALL = {
    "dncnn": {"depth": 4, "width": 8, "norm": "none"},
    "rrdb": {"width": 8, "blocks": 1, "growth": 4},
}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def scramble(net: nn.Module) -> nn.Module:
    """Biases and all: away from an initialisation that hides what the constants do."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return net


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        assert count(build("rrdb")) == 16_624_131
        assert count(build("rrdb", scale=4)) == 16_697_987
        # 17 convolutions of width 64, colour, with batch normalisation
        assert count(build("dncnn")) == 3 * 9 * 64 + 64 + 15 * (64 * 64 * 9 + 2 * 64) + 64 * 9 * 3 + 3
    assert count(build("dncnn", depth=8, width=32, norm="none")) == 57_251


def test_rrdb_equals_its_published_definition_written_plainly() -> None:
    """Weights by their released names, the forward pass of the paper's figure 4 in plain operations."""
    torch.manual_seed(0)
    net = scramble(build("rrdb", **SMALL["rrdb"], scale=2)).double()
    w = net.state_dict()
    conv = lambda name, x: nn.functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)  # noqa: E731
    act = lambda x: torch.where(x > 0, x, 0.2 * x)  # noqa: E731

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        x1 = act(conv(f"{name}.conv1", x))
        x2 = act(conv(f"{name}.conv2", torch.cat((x, x1), 1)))
        x3 = act(conv(f"{name}.conv3", torch.cat((x, x1, x2), 1)))
        x4 = act(conv(f"{name}.conv4", torch.cat((x, x1, x2, x3), 1)))
        return conv(f"{name}.conv5", torch.cat((x, x1, x2, x3, x4), 1)) * 0.2 + x

    y = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    first = conv("conv_first", y)
    block = first
    for k in (1, 2, 3):
        block = dense(f"RRDB_trunk.0.RDB{k}", block)
    features = first + conv("trunk_conv", block * 0.2 + first)
    up = features.repeat_interleave(2, -1).repeat_interleave(2, -2)
    expected = conv("conv_last", act(conv("HRconv", act(conv("upconv1", up)))))
    assert torch.allclose(net(y), expected, rtol=0, atol=1e-13)


def test_dncnn_equals_its_published_definition_written_plainly() -> None:
    torch.manual_seed(0)
    net = scramble(build("dncnn", depth=4, width=8)).double().eval()
    layers = list(net.body)
    kinds = [type(m).__name__ for m in layers]
    assert kinds == ["Conv2d", "ReLU", *["Conv2d", "BatchNorm2d", "ReLU"] * 2, "Conv2d"]
    y = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    x = y
    for m in layers:
        x = m(x)
    assert torch.equal(net(y), y - x)


@pytest.mark.parametrize("name", SMALL)
def test_without_biases_a_net_is_homogeneous(name: str) -> None:
    torch.manual_seed(0)
    y = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    free = scramble(build(name, **SMALL[name], bias=False)).double()
    assert torch.allclose(free(3 * y), 3 * free(y), rtol=1e-12, atol=0)
    biased = scramble(build(name, **SMALL[name])).double()
    assert not torch.allclose(biased(3 * y), 3 * biased(y), rtol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_skip_adds_the_input(name: str) -> None:
    y = torch.rand(1, 3, 12, 12)
    net = build(name, **SMALL[name], skip=True)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert torch.equal(net(y), y)
    net.skip = False
    assert not net(y).any()


@pytest.mark.parametrize("name", SMALL)
def test_the_wrapper_makes_any_net_equivariant_to_gain_and_offset(name: str) -> None:
    torch.manual_seed(0)
    y = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    wrapped = scramble(build(name, **SMALL[name], equivariant=True)).double()
    plain = wrapped.net
    gain = torch.tensor([0.1, 7.0]).view(2, 1, 1, 1).double()
    assert torch.allclose(wrapped(gain * y + 0.3), gain * wrapped(y) + 0.3, rtol=0, atol=1e-12)
    assert (plain(gain * y + 0.3) - gain * plain(y) - 0.3).abs().max() > 1e-2
    assert torch.allclose(wrapped(y)[:1], wrapped(y[:1]), rtol=0, atol=1e-13), "statistics are per sample"


def test_the_wrapper_is_its_formula() -> None:
    class Probe(nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            self.seen = y
            return torch.ones_like(y)

    probe = Probe()
    y = torch.randn(3, 3, 400, 400, dtype=torch.float64) * 0.1 + 0.5
    out = Contrast(probe)(y)
    s, m = mean_scale(y), y.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(s, torch.full_like(s, 0.1), rtol=0.02), "unbiased for white Gaussian noise"
    assert torch.allclose(probe.seen, (y - m) / (10 * s), rtol=1e-12, atol=0)
    assert torch.allclose(out, (m + 10 * s).expand_as(y), rtol=1e-12, atol=0)


def test_the_noise_scale_ignores_planes_and_survives_flat_images() -> None:
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(1, 3, 32, 32)
    assert mean_scale(ramp, floor=0).item() < 1e-12
    out = Contrast(nn.Identity())(torch.full((1, 3, 8, 8), 0.25))
    assert torch.equal(out, torch.full((1, 3, 8, 8), 0.25))


def test_a_custom_class_with_its_arguments() -> None:
    net = build(
        "torch.nn:Conv2d", args={"in_channels": 3, "out_channels": 3, "kernel_size": 1}, equivariant=True
    )
    assert isinstance(net, Contrast)
    assert isinstance(net.net, nn.Conv2d)


@pytest.mark.parametrize(
    ("name", "args", "nearest"),
    [
        ("dncn", {}, "dncnn"),
        ("dncnn", {"dept": 3}, "depth"),
        ("torch.nn:Conv2dd", {}, "Conv2d"),
        ("no_such_package:Net", {}, None),
        ("dncnn", {"bias": False}, None),
        ("rrdb", {"scale": 3}, None),
    ],
)
def test_wrong_models_are_refused(name: str, args: dict, nearest: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        build(name, **args)
    assert caught.value.nearest == nearest
