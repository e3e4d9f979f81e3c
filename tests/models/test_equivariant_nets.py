"""Noise and blur scales, clip maps, the impulse clamp, and the wrappers for contrast and scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dilkit.confounders.images import dead_leaves
from dilkit.errors import UsageError
from dilkit.models import MODELS, build
from dilkit.models.equivariant import (
    ESTIMATORS,
    Contrast,
    Scale,
    blur_scale,
    clip_maps,
    impulse_clamp,
    impulse_share,
)
from dilkit.models.noise_scale import quantile_scale, response, scale_by_intensity


@pytest.fixture(scope="module")
def flat() -> torch.Tensor:
    """Two smooth images of 96x96."""
    ramp = torch.linspace(0.3, 0.6, 96, dtype=torch.float64)
    return torch.stack([ramp.expand(3, 96, 96), ramp[:, None].expand(3, 96, 96)])


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_finds_white_noise_on_smooth_images(name: str, flat: torch.Tensor) -> None:
    for sigma in (5 / 255, 25 / 255):
        found = ESTIMATORS[name](flat + sigma * noise(flat.shape))
        assert found.shape[0] == 2
        assert float(found.mean()) == pytest.approx(sigma, rel=0.25)


def test_texture_misleads_the_quantile_least(flat: torch.Tensor) -> None:
    texture = torch.where(torch.arange(96) < 48, 0.2, 0.0) * noise((96, 96), 3)
    y = flat + texture + 0.02 * noise(flat.shape)
    errors = {name: float((ESTIMATORS[name](y) - 0.02).abs().mean()) for name in ("mean", "quantile")}
    assert errors["quantile"] < 0.2 * errors["mean"]


def test_correlated_noise_is_seen_at_coarser_scales(flat: torch.Tensor) -> None:
    white = noise((2, 3, 192, 192))
    blurred = torch.nn.functional.avg_pool2d(white, 3, 1, padding=1)[..., ::2, ::2]
    blurred = torch.nn.functional.avg_pool2d(blurred, 3, 1, padding=1)
    y = flat + 0.05 * blurred / blurred.std()
    found = [float(ESTIMATORS[name](y).mean()) for name in ("quantile", "multiscale", "wide")]
    assert found[0] < 0.7 * found[1] <= found[2]


def test_a_map_follows_noise_that_depends_on_the_grey_value(flat: torch.Tensor) -> None:
    level = (flat.mean(1, keepdim=True) - 0.25) * 0.2
    found = scale_by_intensity(flat + level * noise(flat.shape))
    ratio = (found / level)[..., 10:-10, 10:-10]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.2)
    assert float(torch.corrcoef(torch.stack([found.flatten(), level.flatten()]))[0, 1]) > 0.9


@pytest.mark.parametrize("side", [3, 5, 8, 16])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_take_small_images(name: str, side: int) -> None:
    side = max(side, 7) if name == "intensity" else side
    assert torch.isfinite(ESTIMATORS[name](torch.rand(1, 3, side, side))).all()


def test_the_response_is_the_kernels() -> None:
    from scipy.signal import convolve2d

    image = np.random.default_rng(0).random((9, 11))
    kernel = np.outer([1, -2, 1], [1, -2, 1])
    found = response(torch.from_numpy(image)[None, None])
    assert np.allclose(found[0, 0].numpy(), np.abs(convolve2d(image, kernel, mode="valid")))


def test_clip_maps_say_where_black_and_white_were_reached() -> None:
    y = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert clip_maps(y, "signed")[0, :, 0, 0].tolist() == [-1, 0, 1]
    assert clip_maps(y, "two")[0, :, 0, 0].tolist() == pytest.approx([1 / 3, 1 / 3])


TINY = {
    "dncnn": {"depth": 3, "width": 4, "norm": "none"},
    "rrdb": {"width": 4, "blocks": 1, "growth": 2},
    "swinir": {"width": 4, "depths": (2,), "heads": (2,), "window": 4, "drop_path": 0.0},
    "nafnet": {"width": 4, "encoder": (1,), "middle": 1, "decoder": (1,)},
    "unet": {"width": 4, "depth": 2},
    "resunet": {"widths": (4, 6), "down": (1, 1), "up": (1,)},
    "idf": {"width": 4, "iterations": 2},
}


@pytest.mark.parametrize("equivariant", [False, "contrast"])
@pytest.mark.parametrize("maps", ["two", "signed"])
@pytest.mark.parametrize("name", list(MODELS))
def test_any_net_may_be_told_of_clipping(name: str, maps: str, equivariant: str | bool) -> None:
    torch.manual_seed(0)
    net = build(name, **TINY[name], clip_maps=maps, equivariant=equivariant).eval()
    y = torch.rand(1, 3, 12, 9)
    assert net(y).shape == y.shape
    y[..., 4:8] = 1.0
    assert torch.isfinite(net(y)).all()


@pytest.mark.parametrize("scale", ["mean", "median", "quantile", "channel", "multiscale", "wide"])
def test_the_wrapper_commutes_with_contrast_and_offset(scale: str) -> None:
    torch.manual_seed(0)
    net = build("resunet", **TINY["resunet"], equivariant=True, noise_scale=scale).double().eval()
    y = 0.5 + 0.1 * noise((2, 3, 24, 24))
    assert torch.allclose(net(0.4 * y + 0.2), 0.4 * net(y) + 0.2, atol=1e-9)


def test_impulses_are_moved_into_their_neighbourhood_and_detail_is_not(flat: torch.Tensor) -> None:
    y = flat + 0.02 * noise(flat.shape)
    struck = y.clone()
    where = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.02
    struck[where] = 1.0
    assert (impulse_clamp(struck) - y)[where].abs().mean() < 0.25 * (struck - y)[where].abs().mean()
    assert float(impulse_share(struck).min()) > 0.01 > float(impulse_share(y).max())
    edges = (flat > 0.45).double()
    assert torch.equal(impulse_clamp(edges)[..., 1:-1, 1:-1], edges[..., 1:-1, 1:-1])


def test_the_front_end_guards_only_in_eval_mode(flat: torch.Tensor) -> None:
    net = build("resunet", **TINY["resunet"], front_end="impulse_clamp").double()
    y = (flat + 0.02 * noise(flat.shape)).clone()
    y[..., ::7, ::7][:, 0] = 1.0
    assert torch.equal(net.train()(y), net.net(y))
    assert torch.equal(net.eval()(y), net.net(impulse_clamp(y)))
    assert torch.equal(net(flat), net.net(flat))


def test_the_published_size_of_the_small_net() -> None:
    net = build("resunet", clip_maps="signed", equivariant=True)
    assert sum(p.numel() for p in net.parameters()) == 197_023
    deep = build(
        "resunet", widths=(16, 32, 48), down=(2, 2, 2), up=(2, 2), clip_maps="signed", equivariant=True
    )
    assert sum(p.numel() for p in deep.parameters()) == 193_507


def test_the_map_by_grey_value_is_for_unknown_noise_and_not_drawn_in_training(flat: torch.Tensor) -> None:
    net = Contrast(torch.nn.Identity(), "intensity").double()
    y = flat + (flat.mean(1, keepdim=True) - 0.25) * 0.5 * noise(flat.shape)
    seen: list[torch.Tensor] = []
    net.net.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    net.train()(y), net.eval()(y)
    m = y.mean(dim=(1, 2, 3), keepdim=True)
    scales = [(y - m) / (10 * u) for u in seen]
    assert [float(s[0].std()) > 1e-3 for s in scales] == [False, True]


def test_the_scale_has_a_floor() -> None:
    assert float(quantile_scale(torch.full((1, 3, 16, 16), 0.5))) == pytest.approx(1e-3)


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = int(4 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = torch.nn.functional.pad(image, (radius,) * 4, mode="reflect")
    once = torch.nn.functional.conv2d(padded, kernel, groups=3)
    return torch.nn.functional.conv2d(once, kernel.transpose(2, 3), groups=3)


def enlarged(image: torch.Tensor, ratio: float) -> torch.Tensor:
    return torch.nn.functional.interpolate(image, scale_factor=ratio, mode="bicubic", align_corners=False)


class Sharpen(torch.nn.Module):
    """Adds what means over 5x5 pixels take away: a linear net, so that what a wrapper does is seen."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return 2 * y - torch.nn.functional.avg_pool2d(
            torch.nn.functional.pad(y, (2,) * 4, mode="reflect"), 5, 1
        )


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    """Edges of objects of all sizes: the spectrum of a photograph."""
    return torch.from_numpy(dead_leaves(0, 0, 256)).permute(2, 0, 1)[None].double() / 255


def test_the_blur_of_an_image_is_estimated_and_follows_its_size(scene: torch.Tensor) -> None:
    for sigma in (2.0, 4.0, 8.0):
        y = blurred(scene, sigma)
        found = float(blur_scale(y))
        assert found == pytest.approx(sigma, rel=0.25)
        assert float(blur_scale(enlarged(y, 1.5))) == pytest.approx(1.5 * found, rel=0.05)
        assert float(blur_scale(0.2 + 0.5 * y)) == pytest.approx(found, rel=1e-6)
        assert float(blur_scale((255 * y).round() / 255)) == pytest.approx(found, rel=0.1)
    assert float(blur_scale(scene)) < 1


def test_a_net_that_changes_nothing_changes_nothing_in_the_wrapper_of_scale(scene: torch.Tensor) -> None:
    y = torch.cat([blurred(scene, 2.0), blurred(scene, 6.0)])
    assert torch.equal(Scale(torch.nn.Identity()).eval()(y), y)


def test_what_is_blurred_as_in_training_goes_to_the_net_as_it_is(scene: torch.Tensor) -> None:
    net, (less, more) = Sharpen(), (blurred(scene, 2.0), blurred(scene, 8.0))
    wrapped = Scale(net, 4.0)
    assert torch.equal(wrapped.eval()(less), net(less))
    assert torch.equal(wrapped.train()(more), net(more))
    assert not torch.allclose(wrapped.eval()(more), net(more), atol=1e-3)
    each = torch.cat([wrapped(less), wrapped(more)])
    assert torch.allclose(wrapped(torch.cat([less, more])), each, atol=1e-12)
    assert wrapped(more[..., :9, :9]).shape == (1, 3, 9, 9)  # too small to be shrunk


def test_above_the_limit_the_wrapper_commutes_with_enlargements(scene: torch.Tensor) -> None:
    y = blurred(scene, 5.0)
    inside = np.s_[..., 40:-40, 40:-40]

    def defect(net: torch.nn.Module) -> float:
        acted_on, carried = enlarged(net(y), 1.5)[inside], net(enlarged(y, 1.5))[inside]
        effect = (acted_on - enlarged(y, 1.5)[inside]).abs().mean()
        return float((carried - acted_on).abs().mean() / effect)

    assert defect(Scale(Sharpen(), 3.0).eval()) < 0.1 < 0.3 < defect(Sharpen())


def test_both_wrappers_and_the_refusal_of_super_resolution() -> None:
    net = build("resunet", **TINY["resunet"], equivariant="both", blur_limit=3.0)
    assert isinstance(net, Scale) and net.limit == 3.0 and isinstance(net.net, Contrast)
    assert isinstance(build("resunet", **TINY["resunet"], equivariant="scale", clip_maps="two"), Scale)
    with pytest.raises(UsageError, match="keep the size"):
        build("rrdb", **TINY["rrdb"], scale=2, equivariant="scale")
