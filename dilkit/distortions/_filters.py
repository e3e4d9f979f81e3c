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
    return np.asarray(out[:, :width]).reshape(image.shape)


def extend_right(image: Array, pixels: int) -> Array:
    """Reflect the image beyond its right edge."""
    out = cv2.copyMakeBorder(image, 0, 0, 0, pixels, BORDER)
    return np.asarray(out)


@functools.lru_cache(maxsize=256)
def gaussian(sigma: float) -> Array:
    """A sampled Gaussian of standard deviation `sigma` pixels, cut at 4 sigma, sum 1."""
    radius = gaussian_radius(sigma)
    weights = [math.exp(-0.5 * (k / sigma) ** 2) if k else 1.0 for k in range(-radius, radius + 1)]
    total = math.fsum(weights)
    kernel = np.array([weight / total for weight in weights], np.float32)
    kernel.flags.writeable = False
    return kernel


def gaussian_radius(sigma: float) -> int:
    """Pixels that a Gaussian of `sigma` looks to each side."""
    return max(1, math.ceil(4 * sigma))
