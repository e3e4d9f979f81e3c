"""Losses are their formulas, and weighted sums of them are read as they are written."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dilkit.errors import UsageError
from dilkit.losses import LOSSES, _vgg, loss_of, parse_loss


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, 24, 20, generator=generator, dtype=torch.float64) for _ in range(2))


FORMULAS = {
    "l1": lambda e: e.abs().mean(),
    "l2": lambda e: (e * e).mean(),
    "charbonnier": lambda e: (e * e + 1e-6).sqrt().mean(),
    "log_l1": lambda e: sum(math.log(float(x.abs().mean()) + 2e-4) for x in e) / len(e),
    "log_mse": lambda e: sum(0.5 * math.log(float((x * x).mean()) + 1e-7) for x in e) / len(e),
    "fft": lambda e: torch.fft.rfft2(e, norm="ortho").abs().mean(),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_is_its_formula(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    output, target = pair
    assert float(loss_of(name)(output, target)) == pytest.approx(float(FORMULAS[name](output - target)))


def test_ssim_is_that_of_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    from skimage.metrics import structural_similarity

    output, target = pair
    values = []
    for a, b in zip(output.numpy(), target.numpy(), strict=True):
        whole = structural_similarity(
            a,
            b,
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1]
        values.append(whole[:, 5:-5, 5:-5].mean())
    assert float(loss_of("ssim")(output, target)) == pytest.approx(1 - sum(values) / 2, abs=1e-6)


def test_ms_ssim_is_that_of_torchmetrics() -> None:
    measure = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 12, 12, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
    output = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    expected = measure.multiscale_structural_similarity_index_measure(output, target, data_range=1.0)
    assert float(loss_of("ms_ssim")(output, target)) == pytest.approx(1 - float(expected), abs=2e-3)


def test_the_perceptual_loss_compares_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small stand-in for VGG19, whose weights are not to be downloaded."""
    asked = []

    def vgg19(weights: str) -> SimpleNamespace:
        asked.append(weights)
        return SimpleNamespace(features=torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(37))))

    module = ModuleType("torchvision.models")
    module.vgg19 = vgg19  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", module)
    _vgg.cache_clear()
    output, target = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)
    loss = loss_of("l1 + 0.1*perceptual")
    assert float(loss(target, target)) == 0 < float(loss(output.detach(), target))
    loss(output, target).backward()
    assert output.grad is not None and asked == ["DEFAULT"]
    _vgg.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UsageError, match="torchvision is not installed"):
        loss(output, target)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "perceptual"])
def test_every_loss_is_least_for_the_target_itself_and_has_gradients(
    name: str, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    output, target = pair[0].requires_grad_(), pair[1]
    loss = loss_of(name)
    loss(output, target).backward()
    assert torch.isfinite(output.grad).all() and output.grad.abs().sum() > 0
    assert loss(target, target) < loss(output, target)


def test_a_weighted_sum_is_the_sum(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert parse_loss("l1 + 0.1*fft+2e-1 ssim") == [(1, "l1"), (0.1, "fft"), (0.2, "ssim")]
    parts = [weight * loss_of(name)(*pair) for weight, name in parse_loss("l1 + 0.1*fft")]
    assert torch.equal(loss_of("l1 + 0.1*fft")(*pair), parts[0] + parts[1])


@pytest.mark.parametrize("text", ["", "l1 +", "l1 - l2", "2", "0*l1", "l1*2", "__import__('os')", "l1; l2"])
def test_what_is_no_sum_of_losses_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_loss(text)


def test_another_shape_is_refused(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(UsageError, match="differs"):
        loss_of("l1")(pair[0], pair[1][..., :-1])
