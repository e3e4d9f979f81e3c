"""PSNR and SSIM as the field trusts them, in float64, exact to the last printed digit.

Conventions: an image is (H, W, 3) RGB, float in [0, 1] or uint8. It is measured on the 0..255 scale:
clamped and rounded to whole levels (`measure="uint8"`), clamped only (`"clipped"`), or as it is (`"float"`).
`channel="y"` takes the unrounded ITU-R BT.601 luma, 16..235. `border` pixels are cut from every side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from dilkit.errors import UsageError, nearest
from dilkit.libraries import cv2, np, npt

Channel = Literal["rgb", "y"]
Measure = Literal["uint8", "clipped", "float"]
Levels: TypeAlias = "npt.NDArray[np.float64]"
"""(H, W, 3) or (H, W) on the 0..255 scale."""

_LUMA = 65.481, 128.553, 24.966
_TAPS, _SIGMA = 11, 1.5
_STRIP_BYTES = 600_000
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def measured_levels(
    image: npt.ArrayLike, *, channel: Channel = "rgb", border: int = 0, measure: Measure = "uint8"
) -> Levels:
    """The values that are compared: float64 on the 0..255 scale, (H, W, 3) or, for `channel="y"`, (H, W)."""
    _known("channel", channel, get_args(Channel))
    _known("measure", measure, get_args(Measure))
    x = np.asarray(image)
    if x.ndim != 3 or x.shape[2] != 3:
        raise UsageError("an image to measure must be RGB", found=f"shape {x.shape}", expected="(H, W, 3)")
    if border < 0 or 2 * border >= min(x.shape[:2]):
        raise UsageError(f"a border of {border} leaves nothing of the image", found=f"shape {x.shape}")
    if border:
        x = x[border:-border, border:-border]
    y = x.astype(np.float64)
    if x.dtype != np.uint8:
        if not np.issubdtype(x.dtype, np.floating):
            raise UsageError("an image to measure must be uint8 or float", found=str(x.dtype))
        if measure != "float":
            np.clip(y, 0, 1, out=y)
        y *= 255
        if measure == "uint8":
            np.rint(y, out=y)
    return y @ (np.array(_LUMA) / 255) + 16 if channel == "y" else y


@dataclass(frozen=True)
class Reference:
    """A clean image made ready to be compared with many others: what depends on it alone is computed once."""

    image: npt.NDArray[np.generic]
    channel: Channel = "rgb"
    border: int = 0
    measure: Measure = "uint8"

    @cached_property
    def levels(self) -> Levels:
        return self._levels(self.image)

    def psnr(self, other: npt.ArrayLike) -> float:
        return _psnr(self.levels, self._levels(other))

    def ssim(self, other: npt.ArrayLike) -> float:
        return _ssim(self.levels, self._levels(other))

    def both(self, other: npt.ArrayLike) -> tuple[float, float]:
        """(PSNR in dB, SSIM)."""
        values = self._levels(other)
        return _psnr(self.levels, values), _ssim(self.levels, values)

    def _levels(self, image: npt.ArrayLike) -> Levels:
        return measured_levels(image, channel=self.channel, border=self.border, measure=self.measure)


def psnr(
    restored: npt.ArrayLike,
    clean: npt.ArrayLike,
    *,
    channel: Channel = "rgb",
    border: int = 0,
    measure: Measure = "uint8",
) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for identical images.

    Raises:
        UsageError: the shapes differ, or are not (H, W, 3).
    """
    return Reference(np.asarray(clean), channel, border, measure).psnr(restored)


def ssim(
    restored: npt.ArrayLike,
    clean: npt.ArrayLike,
    *,
    channel: Channel = "rgb",
    border: int = 0,
    measure: Measure = "uint8",
) -> float:
    """Structural similarity (Wang et al., 2004): 11x11 Gaussian window of sigma 1.5, its valid region only,
    population moments, the mean over pixels and channels.

    Raises:
        UsageError: the shapes differ, are not (H, W, 3), or are smaller than 11x11.
    """
    return Reference(np.asarray(clean), channel, border, measure).ssim(restored)


def _psnr(a: Levels, b: Levels) -> float:
    _same_shape(a, b)
    d = (a - b).ravel()
    error = float(d @ d) / d.size
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _ssim(a: Levels, b: Levels) -> float:
    """In strips of rows that stay in the processor's cache: three times as fast as whole maps."""
    _same_shape(a, b)
    if min(a.shape[:2]) < _TAPS:
        raise UsageError(f"SSIM needs at least {_TAPS}x{_TAPS} pixels", found=f"shape {a.shape}")
    rows = max(16, _STRIP_BYTES // a[0].nbytes)
    height = a.shape[0] - _TAPS + 1
    strips = (slice(y, min(y + rows, height) + _TAPS - 1) for y in range(0, height, rows))
    total = math.fsum(_ssim_sum(a[strip], b[strip]) for strip in strips)
    return total / (height * (a.shape[1] - _TAPS + 1) * (a.size // (a.shape[0] * a.shape[1])))


def _ssim_sum(a: Levels, b: Levels) -> float:
    """sum of (2 m_a m_b + C1) (2 cov + C2) / ((m_a^2 + m_b^2 + C1) (var_a + var_b + C2))."""
    mean_a, mean_b = _blur(a), _blur(b)
    products = mean_a * mean_b
    squares = mean_a * mean_a
    squares += mean_b * mean_b
    covariance = _blur(a * b) - products
    variances = _blur(a * a + b * b) - squares
    for x in (products, covariance):
        x *= 2
    for x, constant in ((products, _C1), (covariance, _C2), (squares, _C1), (variances, _C2)):
        x += constant
    products *= covariance
    squares *= variances
    products /= squares
    return float(products.sum())


def _blur(x: Levels) -> Levels:
    """The Gaussian window over the valid region."""
    half = _TAPS // 2
    taps = cv2.getGaussianKernel(_TAPS, _SIGMA, cv2.CV_64F)
    whole: Levels = cv2.sepFilter2D(x, cv2.CV_64F, taps, taps)  # type: ignore[assignment]
    return whole[half:-half, half:-half]


def _known(what: str, found: str, names: tuple[str, ...]) -> None:
    if found not in names:
        raise UsageError(
            f"unknown {what} {found!r}", expected=", ".join(names), nearest=nearest(found, names)
        )


def _same_shape(a: Levels, b: Levels) -> None:
    if a.shape != b.shape:
        raise UsageError("only images of one shape can be compared", found=f"{b.shape} against {a.shape}")
