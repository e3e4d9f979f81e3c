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
