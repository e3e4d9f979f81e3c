"""Symmetry by construction, around any net: what it does to an image, it does to the image at another
contrast, offset or size. And what may be told to a net besides: where the image was clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.models import noise_scale

ClipMaps = Literal["none", "two", "signed"]
NoiseScale = Literal["mean", "median", "quantile", "channel", "multiscale", "wide", "intensity"]
ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": noise_scale.mean_scale,
    "median": noise_scale.median_scale,
    "quantile": noise_scale.quantile_scale,
    "channel": noise_scale.channel_scale,
    "multiscale": noise_scale.multiscale_scale,
    "wide": noise_scale.wide_scale,
    "intensity": lambda y: noise_scale.mapped_scale(y, noise_scale.wide_scale(y)),
}
"""How `Contrast` estimates the noise scale, by the name a recipe gives it."""
_TRAINING = {**ESTIMATORS, "intensity": noise_scale.multiscale_scale}
"""The same while a net is trained: white noise needs no map, and small crops give a poor one."""


def clip_channels(maps: ClipMaps) -> int:
    """How many channels `clip_maps` adds to an image of three."""
    return {"none": 0, "two": 2, "signed": 3}[maps]


def clip_maps(y: Tensor, maps: ClipMaps) -> Tensor:
    """Where an image in [0, 1] was clipped, (B, 3, H, W) -> (B, clip_channels, H, W).

    `signed`: per channel, 1 at white and -1 at black; `two`: the share of channels at white, and at black.
    """
    white, black = (y >= 1).to(y.dtype), (y <= 0).to(y.dtype)
    if maps == "signed":
        return white - black
    return torch.cat([white.mean(1, keepdim=True), black.mean(1, keepdim=True)], 1)


class WithClipMaps(nn.Module):
    """`g(y, clip maps of y)`, for a net that takes more channels than it gives."""

    def __init__(self, net: nn.Module, maps: ClipMaps) -> None:
        super().__init__()
        self.net, self.maps = net, maps

    def forward(self, y: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([y, clip_maps(y, self.maps)], 1))
        return out


class Contrast(nn.Module):
    """`f(y) = m + c s g((y - m) / (c s), clip maps of y)`: m the mean and s the noise scale of each image.

    Without clip maps `f(a y + b) == a f(y) + b` for every a > 0 and b, whatever g is, as far as s follows
    (`noise_scale` has a floor); g always sees the same noise level, about 1 / c. Statistics are per sample,
    so an image's output does not depend on its batch.

    Args:
        scale: the estimator of s, one of `ESTIMATORS`.
        maps: what g is told of clipping, which black and white do not follow.
    """

    def __init__(
        self, net: nn.Module, scale: NoiseScale = "mean", maps: ClipMaps = "none", c: float = 10.0
    ) -> None:
        super().__init__()
        self.net, self.scale, self.maps, self.c = net, scale, maps, c

    def forward(self, y: Tensor) -> Tensor:
        m = y.mean(dim=(1, 2, 3), keepdim=True)
        s = self.c * (_TRAINING if self.training else ESTIMATORS)[self.scale](y)
        u = (y - m) / s
        if self.maps != "none":
            u = torch.cat([u, clip_maps(y, self.maps)], 1)
        return torch.addcmul(m, s, self.net(u).to(y.dtype))


def blur_scale(y: Tensor, gain: float = 1.1) -> Tensor:
    """How blurred each image is, (B,): the standard deviation of its blur in pixels.

    A scene whose power falls as 1 / f^2, blurred by sigma, has a mean squared Laplacian of 1 / sigma^2 times
    its mean squared gradient. Both are taken after a Gaussian of one pixel, which is subtracted again, so
    that rounding to 8 bits does not count. `gain` is the mean of the estimate over the truth on photographs
    (at sigma 4, 5 and 8 the estimate is 4.0 +- .3, 5.0 +- .4 and 7.8 +- .8; a sharp one gives .4 +- .3).
    Like every such estimate it takes a scene that is soft in itself for a blurred one.
    """
    kernel = torch.exp(-torch.arange(-3.0, 4, device=y.device, dtype=y.dtype).square() / 2)
    kernel = kernel / kernel.sum()
    grey = F.pad(y.mean(1, keepdim=True), (3, 3, 3, 3), mode="reflect")
    grey = F.conv2d(F.conv2d(grey, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    middle, left, right = grey[..., 1:-1, 1:-1], grey[..., 1:-1, :-2], grey[..., 1:-1, 2:]
    above, below = grey[..., :-2, 1:-1], grey[..., 2:, 1:-1]
    slope = ((right - left).square() + (below - above).square()).mean((1, 2, 3)) / 4
    bend = (left + right + above + below - 4 * middle).square().mean((1, 2, 3))
    return (slope / bend.clamp_min(1e-12) - 1).clamp_min(0).sqrt() / gain


class Scale(nn.Module):
    """`f(y) = y + E(g(S y) - S y)` for an image that is blurred by more than `limit` pixels, `g(y)` for the
    others: S shrinks it until its blur is `limit`, E enlarges back to its size.

    Only what g changes is enlarged. So a net that changes nothing leaves every image as it is, and what the
    input has of detail is not lost in resampling. Above the limit f commutes with enlargements, as far as
    resampling and the estimate of the blur follow them.

    Only in eval mode: the net is trained on blur that it is to be given, at its own size. An image is
    estimated as a whole, so its output does not depend on its batch, but a tile's does on the tile.

    Args:
        limit: of the blur, in pixels, by `blur_scale`: the strongest in training.
        most: times an image is shrunk at most; and never below 16 pixels.
    """

    def __init__(self, net: nn.Module, limit: float = 4.0, most: float = 8.0) -> None:
        super().__init__()
        self.net, self.limit, self.most = net, limit, most

    def forward(self, y: Tensor) -> Tensor:
        most = 1.0 if self.training else min(self.most, min(y.shape[-2:]) / 16)
        ratios = (blur_scale(y) / self.limit).clamp(1, most).tolist() if most > 1 else [1.0]
        if max(ratios) == 1:
            out: Tensor = self.net(y)
            return out
        return torch.cat([self._shrunk(image, r) for image, r in zip(y.split(1), ratios, strict=True)])

    def _shrunk(self, y: Tensor, ratio: float) -> Tensor:
        unit = int(getattr(self, "multiple", 1))
        h, w = (max(unit, round(side / ratio / unit) * unit) for side in y.shape[-2:])
        small = F.interpolate(y, (h, w), mode="bicubic", antialias=True, align_corners=False)
        change = self.net(small) - small
        return y + F.interpolate(change, y.shape[-2:], mode="bicubic", align_corners=False)


def impulse_clamp(y: Tensor, k: float = 3.0) -> Tensor:
    """Clamp each value to [second smallest - t, second largest + t] of its 8 neighbours, channel by
    channel, with t = k times the noise scale (median)."""
    t = k * noise_scale.median_scale(y)
    around = F.unfold(F.pad(y, (1, 1, 1, 1), mode="reflect"), 3)
    around = around.view(y.shape[0], y.shape[1], 9, *y.shape[2:])
    around = torch.cat([around[:, :, :4], around[:, :, 5:]], 2).sort(2).values
    return torch.minimum(torch.maximum(y, around[:, :, 1] - t), around[:, :, -2] + t)


def impulse_share(y: Tensor, excess: float = 0.05) -> Tensor:
    """The share of pixels, (B,), of which the clamp moves exactly one channel by more than `excess`: an
    impulse. Detail of a scene moves all channels together (at most 0.4 % of a clean photograph)."""
    moved = (y - impulse_clamp(y)).abs() > excess
    return (moved.sum(1) == 1).to(y.dtype).mean((1, 2))


class ImpulseClamp(nn.Module):
    """`g(impulse_clamp(y))` for the images of which more than 1 % are impulses, `g(y)` for the others.

    Only in eval mode: a net learns from what it is given, and is guarded from what it has not met.
    """

    def __init__(self, net: nn.Module, share: float = 0.01) -> None:
        super().__init__()
        self.net, self.share = net, share

    def forward(self, y: Tensor) -> Tensor:
        if not self.training:
            struck = (impulse_share(y) > self.share).view(-1, 1, 1, 1)
            y = torch.where(struck, impulse_clamp(y), y)
        out: Tensor = self.net(y)
        return out
