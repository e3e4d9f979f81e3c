"""How strong the noise of an image is, from the image alone: pure functions of a batch.

All rest on the response L to the kernel `[1, -2, 1] outer [1, -2, 1]` (Immerkaer, "Fast Noise Variance
Estimation", CVIU 1996), which is blind to planes: white Gaussian noise of standard deviation s gives a
response of standard deviation 6 s, so that E|L| = 6 s sqrt(2 / pi). They differ in how they keep texture
out of it.

Images are (B, C, H, W) with values in [0, 1]; a scale is in the same unit, (B, 1, 1, 1) unless said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_UNIT = math.sqrt(math.pi / 2) / 6
"""From E|L| to s."""
_MEDIAN = 1 / (6 * 0.6745)
"""From the median of |L| to s: 0.6745 is that of a standard normal's magnitude."""
FLOOR = 1e-3
"""Least scale, a quarter of a level of 255: below it there is nothing to restore."""


def response(y: Tensor) -> Tensor:
    """|L|, (B, C, H - 2, W - 2): second differences along both axes."""
    d = y[..., 2:, :] - 2 * y[..., 1:-1, :] + y[..., :-2, :]
    return (d[..., 2:] - 2 * d[..., 1:-1] + d[..., :-2]).abs()


def mean_scale(y: Tensor, floor: float = 1e-6) -> Tensor:
    """From the mean of all |L|: what texture inflates most (1.46 +- .41 times the truth at sigma 5)."""
    return response(y).mean(dim=(1, 2, 3), keepdim=True).mul(_UNIT).clamp_min(floor)


def median_scale(y: Tensor, floor: float = FLOOR) -> Tensor:
    """From the median of all |L| (1.31 +- .28 times the truth at sigma 5)."""
    flat = response(y).flatten(1)
    median = flat.sort(1).values[:, (flat.shape[1] - 1) // 2] if _recorded() else flat.median(1).values
    return median.mul(_MEDIAN).clamp_min(floor).view(-1, 1, 1, 1)


def quantile_scale(y: Tensor, q: float = 0.25, floor: float = FLOOR) -> Tensor:
    """From the `q` quantile, over 7x7 windows at stride 3, of the mean |L|: the flatter parts of the image
    (1.07 +- .19 times the truth at sigma 5)."""
    flat = _windows(response(y).mean(1, keepdim=True)).flatten(1)
    if _recorded():
        values = _ranked(flat, q)
    else:
        values = flat.kthvalue(max(1, round(q * flat.shape[1])), dim=1).values
    return values.mul(_UNIT).clamp_min(floor).view(-1, 1, 1, 1)


def _recorded() -> bool:
    """Whether the net is being written for other programs, which know no rank that depends on a shape."""
    return torch.compiler.is_exporting() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def _ranked(flat: Tensor, q: float) -> Tensor:
    """The element of rank max(1, round(q n)) of each line of (B, n), by operations that follow n: (B,)."""
    rank = (q * torch.ones_like(flat[0], dtype=torch.float64).sum()).round().clamp_min(1).long()
    return flat.sort(dim=1).values.index_select(1, rank.view(1) - 1).flatten()


def channel_scale(y: Tensor, q: float = 0.25, floor: float = FLOOR) -> Tensor:
    """`quantile_scale` of each channel by itself: (B, C, 1, 1)."""
    return quantile_scale(y.flatten(0, 1)[:, None], q, floor).view(*y.shape[:2], 1, 1)


def multiscale_scale(y: Tensor, boxes: Sequence[int] = (2,), flat: float = 0.05, gain: float = 1.2) -> Tensor:
    """The strongest of the scales seen after averaging boxes of r x r pixels, times r.

    White noise of scale s becomes s / r in such boxes, so that every r gives s. Noise correlated over
    pixels, as a camera's is, falls more slowly, so its larger r say how strong it is where it matters.

    Args:
        boxes: the r besides 1; one is left out where the image has fewer than 10 r pixels along a side.
        flat: quantile of the windows that counts at these r, which texture inflates.
        gain: makes that quantile unbiased for white noise (measured for r = 2 on held-out training images).
    """
    best = quantile_scale(y)
    for r in boxes:
        if min(y.shape[-2:]) >= 10 * r:
            best = torch.maximum(best, quantile_scale(F.avg_pool2d(y, r), flat) * (r * gain))
    return best


def wide_scale(y: Tensor) -> Tensor:
    """`multiscale_scale` over r = 1, 2 and 4: for noise correlated over several pixels."""
    return torch.maximum(multiscale_scale(y), multiscale_scale(y, (4,), flat=0.02, gain=1.15))


def scale_by_intensity(
    y: Tensor, bins: int = 8, q: float = 0.1, gain: float = 1.12, floor: float = FLOOR
) -> Tensor:
    """The scale as a function of the local grey value, laid out over the image: (B, 1, H, W).

    The windows of `quantile_scale` are sorted by their mean grey value into `bins` groups of equal count; the
    `q` quantile of each, times `gain`, gives a curve, smoothed by [1, 2, 1] / 4 and read at the grey value
    averaged over 7x7 pixels (no less than 7 along a side).
    """
    grey = y.mean(1, keepdim=True)
    levels = _windows(response(y).mean(1, keepdim=True)).flatten(1) * (_UNIT * gain)
    greys = _windows(grey[..., 1:-1, 1:-1]).flatten(1)
    local = F.avg_pool2d(F.pad(grey, (3, 3, 3, 3), mode="reflect"), 7, 1).flatten(1)
    bins = min(bins, greys.shape[1])
    made = []
    for level, at, where in zip(levels, greys, local, strict=True):
        groups = at.argsort().tensor_split(bins)
        x = torch.stack([at[group].mean() for group in groups])
        curve = torch.stack([level[g].kthvalue(max(1, round(q * len(g)))).values for g in groups])
        ends = torch.cat([curve[:1], curve, curve[-1:]])
        curve = (ends[:-2] + 2 * ends[1:-1] + ends[2:]) / 4
        right = torch.searchsorted(x, where).clamp(min(1, bins - 1), bins - 1)
        left = (right - 1).clamp_min(0)
        share = ((where - x[left]) / (x[right] - x[left]).clamp_min(1e-6)).clamp(0, 1)
        made.append(torch.lerp(curve[left], curve[right], share))
    return torch.stack(made).view_as(grey).clamp_min(floor)


def mapped_scale(y: Tensor, whole: Tensor, least: float = 8 / 255) -> Tensor:
    """A scale of the whole image, spread over it by grey value as `scale_by_intensity` finds: (B, 1, H, W).

    Images quieter than `least` keep the one scale, because texture moves their curve more than noise does.
    """
    once = quantile_scale(y)
    return torch.where(once > least, scale_by_intensity(y) * (whole / once), whole)


def _windows(x: Tensor) -> Tensor:
    """Means over 7x7 windows at stride 3, or over the whole of what is smaller."""
    h, w = x.shape[-2:]
    return F.avg_pool2d(x, (min(7, h), min(7, w)), 3)
