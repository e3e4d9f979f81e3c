"""Filters whose every output pixel has the same bits whatever window it was computed in.

OpenCV's vector loops and their scalar tails round differently (fused multiply-add), so the right edge of an
image is extended until no wanted pixel falls into a tail. OpenCV's own threads are switched off: processes
are what we scale by, and its pool does not survive a fork.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

cv2.setNumThreads(0)

BORDER = cv2.BORDER_REFLECT_101
_TAIL = 8
"""Pixels of three channels that no vector loop leaves to its tail (24 elements; the widest has 16)."""


def separable(image: Array, across: Array, down: Array) -> Array:
    """Correlate (h, w, c) with the odd kernel `down` (rows) x `across` (columns), reflected at the border."""
    width = image.shape[1]
    wide = extend_right(image, len(across) // 2 + _TAIL)
    out = cv2.sepFilter2D(wide, -1, across, down, borderType=BORDER)
    return np.asarray(out[:, :width], np.float32).reshape(image.shape)


def extend_right(image: Array, pixels: int) -> Array:
    """Reflect the image beyond its right edge."""
    out = cv2.copyMakeBorder(image, 0, 0, 0, pixels, BORDER)
    return np.asarray(out, np.float32)


@functools.lru_cache(maxsize=256)
def gaussian(sigma: float) -> Array:
    """A sampled Gaussian of standard deviation `sigma` pixels, cut at 4 sigma, sum 1.

    Below 0.8 pixels the samples alone would be too narrow (by 1 % at 0.6), so a wider law is sampled whose
    samples have that standard deviation.
    """
    weights = _samples(sigma, gaussian_radius(sigma))
    if sigma < 0.8:
        low, high = sigma, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            weights = _samples(middle, gaussian_radius(sigma))
            variance = 2 * math.fsum(k * k * w for k, w in enumerate(weights))
            low, high = (middle, high) if variance < sigma * sigma else (low, middle)
    kernel = np.array([*weights[:0:-1], *weights], np.float32)
    kernel.flags.writeable = False
    return kernel


def _samples(sigma: float, radius: int) -> list[float]:
    """The right half of a sampled Gaussian: weights at 0 .. radius, which with the left half sum to 1."""
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = 2 * math.fsum(weights) - 1
    return [weight / total for weight in weights]


def gaussian_radius(sigma: float) -> int:
    """Pixels that a Gaussian of `sigma` looks to each side."""
    return max(1, math.ceil(4 * sigma))
